"""The pictures of a run, one file each; matplotlib is imported when the first one is drawn."""
