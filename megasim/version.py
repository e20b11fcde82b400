"""The version of megasim."""

__version__ = "0.1.0"
