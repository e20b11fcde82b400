"""Who came from whom, and by which recipe."""
