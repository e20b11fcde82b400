"""The open store: its jobs, its findings, its matrices, maps and trees, in one class."""

from megasim.workspace.opened import Workspace, open_store

__all__ = ["Workspace", "open_store"]
