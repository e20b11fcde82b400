"""Which components are unchanged between models, what changed, and what is odd."""
