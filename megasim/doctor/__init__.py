"""What is wrong with a store: found, and put right where it can be computed again."""
