"""What the package brings beside its code: its version, SQL, tables of facts and templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_PACKAGE = Path(__file__).parent


def resource_path(folder: str, name: str) -> Path:
    """Return the path of a file of `sql` or `data`, installed or in a checkout.

    >>> resource_path("sql", "schema.sql").name
    'schema.sql'
    """
    inside = _PACKAGE / folder / name
    return inside if inside.exists() else _PACKAGE.parent / folder / name


def package_path(*parts: str) -> Path:
    """Return the path of a file or folder that lies beside the code that uses it.

    >>> package_path("report", "report.html.j2").exists()
    True
    """
    return _PACKAGE.joinpath(*parts)


def code_digest() -> str:
    """Return a text that changes with any file of the package: its code, SQL, tables, templates.

    >>> len(code_digest())
    32
    """
    folders = [_PACKAGE, *(resource_path(name, ".") for name in ("sql", "data"))]
    endings = (".py", ".sql", ".csv", ".j2", ".js", ".css")
    files = {path for folder in folders for path in folder.rglob("*") if path.suffix in endings}
    digest = blake2b(digest_size=16)
    for path in sorted(files):
        digest.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return digest.hexdigest()


def render_template(
    name: str, /, *, filters: Mapping[str, Callable[[str], Any]] | None = None, **values: Any
) -> str:
    """Return a page of HTML out of a template; what a model says is escaped in it.

    Args:
        name: of its file, with the room that it is in, e.g. "plots/lineage.html.j2".
        filters: what the template calls to form its texts, by name.
        values: by the names that the template has for them; one that is missing is an error.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= filters or {}
    text = (_PACKAGE / name).read_text(encoding="utf-8")
    return environment.from_string(text).render(values)
