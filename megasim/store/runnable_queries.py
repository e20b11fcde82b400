"""Queries over the public views with their values written out, so that a reader can run them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import dropwhile
from typing import TYPE_CHECKING

from megasim.store.rows import Store
from megasim.store.statements import purpose_of, statement

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class QueryResult:
    """A query with nothing left to fill in, and its result."""

    sql: str
    purpose: str
    frame: pd.DataFrame


def run_query(
    store: Store,
    name: str,
    *,
    models: Sequence[str] | None = None,
    model: str = "",
    components: Sequence[str] = (),
    path: Sequence[str] = (),
) -> QueryResult:
    """Run a query of `sql/report.sql` or `sql/pages.sql` and return it with its values written out.

    Args:
        models: names; all of the store when None.
        model, components, path: the other values a query may ask for.
    """
    sql = filled_query(name, models=models, model=model, components=components, path=path)
    found = store.query(sql)
    assert found is not None
    return QueryResult(sql, purpose_of(statement(name)), found)


def filled_query(
    name: str,
    *,
    models: Sequence[str] | None = None,
    model: str = "",
    components: Sequence[str] = (),
    path: Sequence[str] = (),
) -> str:
    """Return a query with its values written out and its comment left out. See `run_query`."""
    lines = statement(name).splitlines()
    body = dropwhile(lambda line: line.startswith("--"), lines)
    return _filled("\n".join(body), models, model, components, path)


_VALUE = re.compile(r"\$(models|model|components|path)\b")


def _filled(
    sql: str,
    models: Sequence[str] | None,
    model: str,
    components: Sequence[str],
    path: Sequence[str],
) -> str:
    """Return a statement with its values written out; None stands for all models.

    >>> _filled("a in ($models) and $model = b", None, "it's", (), ())
    "a in (select name from models) and 'it''s' = b;"
    """
    values = {
        "models": "select name from models" if models is None else _literals(models),
        "model": literal(model),
        "components": _literals(components),
        "path": _literals(path),
    }
    # a function, since a name may hold what a replacement text gives a meaning to
    return _VALUE.sub(lambda found: values[found.group(1)], sql).rstrip().removesuffix(";") + ";"


def _literals(names: Sequence[str]) -> str:
    return ", ".join(map(literal, names)) or "null"


def literal(text: str) -> str:
    r"""Return a text as SQL writes it, without a character that cannot be seen or copied.

    >>> print(literal("it's"), literal("a\nb"))
    'it''s' 'a' || chr(10) || 'b'
    """
    pieces = re.split(r"([^\x20-\x7e])", text)
    parts = [
        f"chr({ord(piece)})"
        if len(piece) == 1 and not piece.isprintable()
        else "'" + piece.replace("'", "''") + "'"
        for piece in pieces
        if piece
    ]
    joined: list[str] = []
    for part in parts:  # printable letters that are not ASCII stay within their text
        if joined and part[0] == "'" and joined[-1][0] == "'":
            joined[-1] = joined[-1][:-1] + part[1:]
        else:
            joined.append(part)
    return " || ".join(joined) or "''"
