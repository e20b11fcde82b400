"""Paths → fingerprints → store, skipping what is known."""
