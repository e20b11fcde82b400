"""SQL statements of `sql/`, by name."""

from __future__ import annotations

import re
from functools import cache

from megasim.resources import resource_path

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


@cache
def named_statements(file: str) -> dict[str, str]:
    """Return the statements of a file of `sql/` by their `-- name:` line, in the file's order.

    >>> "models" in named_statements("queries.sql")
    True
    """
    text = resource_path("sql", file).read_text(encoding="utf-8")
    pieces = _NAME.split(text)[1:]
    return {name: body.strip() for name, body in zip(pieces[::2], pieces[1::2], strict=True)}


@cache
def statement(name: str) -> str:
    """Return a statement that megasim runs, from whichever file of `sql/` holds it.

    >>> statement("schema_version").startswith("-- The newest migration")
    True
    """
    folder = resource_path("sql", "queries.sql").parent
    for path in sorted(folder.glob("*.sql")):
        if path.name not in ("schema.sql", "views.sql", "examples.sql"):
            found = named_statements(path.name).get(name)
            if found is not None:
                return found
    raise KeyError(name)


def purpose_of(sql: str) -> str:
    """Return the comment that opens a named statement.

    >>> purpose_of("-- All of it.\\nselect 1;")
    'All of it.'
    """
    lines = []
    for line in sql.splitlines():
        if not line.startswith("--"):
            break
        lines.append(line.removeprefix("--").strip())
    return " ".join(lines)
