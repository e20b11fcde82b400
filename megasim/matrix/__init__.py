"""A labelled, validated distance matrix, and its files; no store inside."""
