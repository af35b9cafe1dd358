"""The page of `lejepa demo`, and the Space that it is pushed to."""
