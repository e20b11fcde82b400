"""Figures out of results. Nothing here saves or queries."""
