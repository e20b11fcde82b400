"""Where the package keeps its SQL and its tables of facts."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def resource_path(folder: str, name: str) -> Path:
    """Return the path of a file of `sql`, `data` or `templates`, installed or in a checkout.

    >>> resource_path("sql", "schema.sql").name
    'schema.sql'
    """
    inside = _PACKAGE / folder / name
    return inside if inside.exists() else _PACKAGE.parent / folder / name
