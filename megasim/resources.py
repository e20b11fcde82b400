"""Where the package keeps its SQL and its tables of facts."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

_PACKAGE = Path(__file__).parent


def resource_path(folder: str, name: str) -> Path:
    """Return the path of a file of `sql`, `data` or `templates`, installed or in a checkout.

    >>> resource_path("sql", "schema.sql").name
    'schema.sql'
    """
    inside = _PACKAGE / folder / name
    return inside if inside.exists() else _PACKAGE.parent / folder / name


def code_digest() -> str:
    """Return a text that changes with any file of the package: its code, SQL, tables, templates.

    >>> len(code_digest())
    32
    """
    folders = [_PACKAGE, *(resource_path(name, ".") for name in ("sql", "data"))]
    endings = (".py", ".sql", ".csv", ".j2")
    files = {path for folder in folders for path in folder.rglob("*") if path.suffix in endings}
    digest = blake2b(digest_size=16)
    for path in sorted(files):
        digest.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return digest.hexdigest()
