"""SQL over the views of a store, as tables."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING

import duckdb

from megasim.errors import UsageError, printable
from megasim.store.rows import Store
from megasim.store.statements import named_statements

if TYPE_CHECKING:
    import pandas as pd


_READS = re.compile(r"\s*(--[^\n]*\n\s*)*(select|with|from)\b", re.IGNORECASE)
_NOTHING = ("0", "0.0", "nan", "[]")
_SIDES = re.compile(r"\b(model_a|model_b)\b", re.IGNORECASE)


class QueryNote(UserWarning):
    """What the result of a query does not say by itself."""


def query_table(store: Store, query: str) -> pd.DataFrame:
    """Return the result of a query over the views.

    Warns:
        QueryNote: nothing was found, but it would be with model_a and model_b exchanged: a pair
            stands once, and in the other order.

    Raises:
        UsageError: DuckDB does not accept the query; its message says why.
    """
    try:
        result = store.query(query)
    except duckdb.Error as error:
        # what points at a column points at nothing once the lines are one
        lines = [line.strip() for line in str(error).splitlines()]
        message = " · ".join(line for line in lines if line.strip("^~ "))
        raise UsageError(printable(message, 600)) from None
    if result is None:
        raise UsageError("the query is empty", 'write "select …"')
    swapped = _SIDES.sub(_other_side, query)
    if swapped != query and _READS.match(query) and _found_nothing(result):
        try:
            turned = store.query(swapped)
        except duckdb.Error:
            turned = None
        if turned is not None and not _found_nothing(turned):
            note = (
                "nothing was found, but with model_a and model_b exchanged there is something: a "
                "pair stands once, the model that came to the store first as model_a"
            )
            warnings.warn(note, QueryNote, stacklevel=3)
    return result


def _found_nothing(result: pd.DataFrame) -> bool:
    """Whether a result has no row, or only sums and counts over none."""
    if len(result) > 1:
        return False
    return all(
        value is None or type(value).__name__ in ("NAType", "NaTType") or str(value) in _NOTHING
        for value in result.to_numpy(dtype=object).flat
    )


def _other_side(side: re.Match[str]) -> str:
    return "model_b" if side[0].lower() == "model_a" else "model_a"


def sql_examples() -> dict[str, str]:
    """Return the queries of `sql/examples.sql` by name."""
    return named_statements("examples.sql")


def example_table(store: Store, name: str) -> pd.DataFrame:
    """Return the result of a query of `sql/examples.sql`.

    Raises:
        UsageError: there is no query of that name.
    """
    examples = sql_examples()
    if name not in examples:
        raise UsageError(
            f"no such example: {printable(name)!r}", "there are: " + ", ".join(examples)
        )
    return query_table(store, examples[name])
