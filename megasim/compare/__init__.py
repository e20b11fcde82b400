"""The pairs still missing → exact distances."""
