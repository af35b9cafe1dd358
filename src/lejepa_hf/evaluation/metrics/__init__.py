"""Metrics of the `evaluate` library, one file each, so that `evaluate.load(path)` finds them too."""
