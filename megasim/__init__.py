"""megasim: what changed between these checkpoints, and where did each come from?"""

__version__ = "0.1.0"
