"""megasim: what changed between these checkpoints, and where did each come from?

>>> import megasim
>>> store = megasim.open_store("models.duckdb")  # doctest: +SKIP
>>> store.ingest("models/")  # doctest: +SKIP
>>> store.compare()  # doctest: +SKIP
>>> store.matrix("unet", metric="l2").heatmap()  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

from megasim.resources import __version__

__all__ = ["MegasimError", "Workspace", "__version__", "connect", "open_store"]


def __getattr__(name: str) -> Any:
    # Looked up on first use: `megasim --help` must not wait for DuckDB.
    if name in ("open_store", "Workspace"):
        from megasim import workspace

        return getattr(workspace, name)
    if name == "connect":
        from megasim.serve.client import connect

        return connect
    if name == "MegasimError":
        from megasim.errors import MegasimError

        return MegasimError
    raise AttributeError(name)
