"""Quantised representations that are known by their names, and not decoded.

They are the table `data/undecoded_schemes.csv`. What is not decoded is said so: codes read as the
numbers that they are declared to be would be no weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from megasim.anatomy.tables import read_table
from megasim.representation.logical import Represented, StoredTensors
from megasim.resources import resource_path

_COLUMNS = ("key", "dtype", "beside", "value", "what")


@dataclass(frozen=True)
class _Undecoded:
    """A row of the table."""

    key: str
    dtype: str
    beside: tuple[str, ...]
    value: str
    what: str


def undecoded(stored: StoredTensors) -> Iterator[Represented]:
    """Find tensors of schemes that are not decoded, each with what it is as its problem."""
    for row in _rows():
        for prefix, codes in stored.ending_in(row.key):
            if (prefix and prefix[-1] not in "./") or (row.dtype and codes.dtype != row.dtype):
                continue
            beside = tuple(f"{prefix}{name}" for name in row.beside)
            if all(name in stored.tensors for name in beside):
                key, sources = f"{prefix}{row.value}", (f"{prefix}{row.key}", *beside)
                yield Represented(key, codes.shape, sources, None, f"{row.what}: not decoded")


@cache
def _rows() -> tuple[_Undecoded, ...]:
    path = resource_path("data", "undecoded_schemes.csv")
    return tuple(
        _Undecoded(
            row["key"],
            row["dtype"],
            tuple(name for name in row["beside"].split("|") if name),
            row["value"],
            row["what"],
        )
        for row in read_table(path, _COLUMNS, ("key", "value", "what"))
    )
