"""A key → family, component, block, role and canonical key."""
