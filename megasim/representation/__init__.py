"""Codes and scales → the values that they stand for."""
