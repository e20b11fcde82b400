"""Tables that a statement takes for one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

# Column → its values, or a frame. Pandas is imported only by who asks for a frame.
Table: TypeAlias = "Mapping[str, Any] | pd.DataFrame"


def pair_table(pairs: Iterable[tuple[int, int]]) -> dict[str, npt.NDArray[np.int32]]:
    """Return pairs as the table that statements call `batch`."""
    array = np.array(sorted(pairs), dtype=np.int32).reshape(-1, 2)
    return {"model_a": array[:, 0].copy(), "model_b": array[:, 1].copy()}


def table_of(columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> Table:
    """Return rows as a table.

    >>> table_of(["key", "numel"], [("a", 1), ("b", 2)])
    {'key': ['a', 'b'], 'numel': [1, 2]}
    """
    return {name: [row[i] for row in rows] for i, name in enumerate(columns)}


def duckdb_columns(table: Table) -> Table:
    """Return a table as DuckDB takes it: a list as an array of its objects, where None is NULL."""
    if not isinstance(table, dict):
        return table
    return {
        name: values
        if isinstance(values, np.ndarray)
        else np.fromiter(values, dtype=object, count=len(values))
        for name, values in table.items()
    }


def empty_columns(table: Table, columns: Table) -> None:
    """Let go of the objects of `duckdb_columns(table)`, which no statement will read any more.

    DuckDB keeps what was registered within a transaction until that ends.
    """
    if isinstance(columns, dict):
        for name, values in columns.items():
            if values is not table[name]:
                values.fill(None)
