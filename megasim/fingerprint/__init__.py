"""A tensor → norms, hashes and sketch."""
