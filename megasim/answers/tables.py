"""SQL over the views of a store, as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb

from megasim.errors import UsageError, printable
from megasim.store.rows import Store
from megasim.store.statements import named_statements

if TYPE_CHECKING:
    import pandas as pd


def query_table(store: Store, query: str) -> pd.DataFrame:
    """Return the result of a query over the views.

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
    return result


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
