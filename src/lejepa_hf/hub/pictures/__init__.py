"""The pictures of a run; matplotlib is imported when the first one is drawn."""
