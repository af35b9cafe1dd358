"""Formats of images that PIL does not read, one reader each; may import data and system."""
