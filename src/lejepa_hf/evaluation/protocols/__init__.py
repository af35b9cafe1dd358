"""The protocols of `lejepa evaluate`: one file each, and `registry`."""
