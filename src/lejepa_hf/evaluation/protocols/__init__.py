"""Evaluation protocols, one file each; `registry` lists them by name."""
