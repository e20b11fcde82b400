"""Tables as pages show them: numbers to one place, names as links, the SQL beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from megasim.report.parts import column_texts
from megasim.serve.pages.addresses import query_links

MOST_ROWS = 500


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, and where it leads: nowhere when `href` is ""."""

    text: str
    href: str = ""


@dataclass(frozen=True)
class ShownTable:
    """A table of a page.

    Attributes:
        caption: what it holds. columns: (title, whether it is of numbers).
        rows: the first `MOST_ROWS`. total: how many there are.
        sql: the query whose result it is; "" where it is computed.
        links: (words, address) of the same as data.
    """

    caption: str
    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[Cell, ...], ...]
    total: int
    sql: str = ""
    links: tuple[tuple[str, str], ...] = ()


def shown_table(
    frame: pd.DataFrame,
    caption: str,
    *,
    sql: str = "",
    links: Sequence[tuple[str, str]] | None = None,
    to: Mapping[str, Callable[[Mapping[str, Any]], str]] | None = None,
    titles: Mapping[str, str] | None = None,
) -> ShownTable:
    """Return a frame as a page shows it.

    Args:
        sql: the query whose result it is, with its values written out.
        links: to the same as data; those of the query when None.
        to: column → where its cells lead, out of the row.
        titles: column → what it is called; its name when not there.
    """
    shown = frame.head(MOST_ROWS)
    records: list[Mapping[str, Any]] = shown.to_dict("records")  # type: ignore[assignment]
    columns = []
    for name in shown.columns:
        values = [None if _is_missing(value) else value for value in shown[name].tolist()]
        lead = (to or {}).get(str(name))
        hrefs = [lead(row) for row in records] if lead else [""] * len(records)
        texts = column_texts(values)
        columns.append([Cell(text, href) for text, href in zip(texts, hrefs, strict=True)])
    return ShownTable(
        caption,
        tuple(
            ((titles or {}).get(str(n), str(n).replace("_", " ")), _is_numeric(shown[n]))
            for n in shown.columns
        ),
        tuple(zip(*columns, strict=True)),
        len(frame),
        sql,
        tuple(query_links(sql) if links is None and sql else links or ()),
    )


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)


def _is_numeric(column: pd.Series[Any]) -> bool:
    values = [value for value in column.tolist() if not _is_missing(value)]
    return bool(values) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
