"""Distances from the sketches in the store, with no file read."""
