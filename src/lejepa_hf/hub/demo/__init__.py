"""The page of `lejepa demo`, and the Space it becomes."""
