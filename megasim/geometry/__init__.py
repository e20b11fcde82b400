"""The map of models, the flat-plane test, and trajectories."""
