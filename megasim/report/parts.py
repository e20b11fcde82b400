"""What a page is made of: sections of sentences, pictures and tables, each with its data."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from megasim.errors import printable
from megasim.plots.figure_files import figure_bytes
from megasim.store.runnable_queries import QueryResult

_PIXELS = 96  # CSS pixels of an inch
_LARGEST_SVG = 400_000  # bytes; a larger figure is drawn as PNG
_CELL = 240  # characters of a table cell
MOST_ROWS = 30  # of a table on the page; its file has all


@dataclass(frozen=True)
class DataFile:
    """A file beside the page.

    Attributes:
        name: within the folder `data`.
        content: its bytes.
        sql: the query whose result it is, or "" where it is computed from other files.
        purpose: what it holds, in a line.
    """

    name: str
    content: bytes
    sql: str = ""
    purpose: str = ""


@dataclass(frozen=True)
class Text:
    """Sentences, as a paragraph or a list."""

    sentences: tuple[str, ...]
    kind: str = "paragraph"  # or "list", or "note" for what is missing


@dataclass(frozen=True)
class Picture:
    """A figure within the page.

    Attributes:
        alt: what it shows, for those who cannot see it.
        caption: how to read it.
        width, height: in CSS pixels, as it was designed.
        uri: the figure itself.
        files: the data behind it, the figure itself first.
    """

    alt: str
    caption: str
    width: int
    height: int
    uri: str
    files: tuple[DataFile, ...]
    kind: str = "picture"


@dataclass(frozen=True)
class DataTable:
    """The first rows of a table, as text; `more` rows are in its file alone."""

    caption: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]
    more: int
    files: tuple[DataFile, ...]
    kind: str = "table"


@dataclass(frozen=True)
class Details:
    """Sentences that open on demand, under a heading each."""

    summary: str
    entries: tuple[tuple[str, tuple[str, ...]], ...]
    kind: str = "details"


Block = Text | Picture | DataTable | Details


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading; `lead` is what is said of it at the top."""

    slug: str
    title: str
    blocks: tuple[Block, ...]
    lead: tuple[str, ...] = ()

    def files(self) -> list[DataFile]:
        """Return the files of its figures and tables."""
        found = [b.files for b in self.blocks if isinstance(b, Picture | DataTable)]
        return [file for files in found for file in files]


def say(*sentences: str) -> Text:
    """Return a paragraph."""
    return Text(sentences)


def note(*sentences: str) -> Text:
    """Return a paragraph about what is not there."""
    return Text(sentences, "note")


def bullets(sentences: Iterable[str]) -> Text:
    """Return a list."""
    return Text(tuple(sentences), "list")


def file_name(*words: str) -> str:
    """Return a name for a file out of words that may be a stranger's.

    >>> file_name("heatmap", "../vae.DECODER")
    'heatmap-vae-decoder'
    """
    text = "-".join(re.sub(r"[^a-z0-9_]+", "-", word.lower()).strip("-")[:40] for word in words)
    return text.strip("-") or "data"


def answer_file(name: str, answer: QueryResult) -> DataFile:
    """Return the result of a query as a CSV file."""
    return DataFile(f"{name}.csv", csv_bytes(answer.frame), answer.sql, answer.purpose)


def frame_file(name: str, frame: pd.DataFrame, purpose: str) -> DataFile:
    """Return a computed table as a CSV file."""
    return DataFile(f"{name}.csv", csv_bytes(frame), "", purpose)


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """Return a frame as CSV: the shortest digits that give a number back, empty where missing.

    >>> csv_bytes(pd.DataFrame({"a": [0.1, None]}))
    b'a\\n0.1\\n""\\n'
    """
    return frame.to_csv(index=False, lineterminator="\n").encode("utf-8")


def picture(
    figure: Figure,
    name: str,
    *,
    alt: str,
    caption: str,
    files: Sequence[DataFile],
    vector: bool = True,
) -> Picture:
    """Return a figure with its data; drawn as SVG when asked for and small, else as PNG."""
    content, form = b"", "svg+xml"
    if vector:
        content = figure_bytes(figure, "svg")
    if not vector or len(content) > _LARGEST_SVG:
        content, form = figure_bytes(figure, "png"), "png"
    width, height = figure.get_size_inches()
    ending = form.removesuffix("+xml")
    drawn = DataFile(f"{name}.{ending}", content, "", "the figure")
    return Picture(
        alt=alt,
        caption=caption,
        width=round(float(width) * _PIXELS),
        height=round(float(height) * _PIXELS),
        uri=f"data:image/{form};base64,{b64encode(content).decode('ascii')}",
        files=(drawn, *files),
    )


def table(
    frame: pd.DataFrame,
    files: Sequence[DataFile] = (),
    *,
    caption: str,
    most: int = MOST_ROWS,
    columns: Sequence[str] | None = None,
) -> DataTable:
    """Return the first rows of a frame as text.

    Args:
        columns: which ones the page shows; all when None.
    """
    shown = frame.head(most) if columns is None else frame.head(most)[list(columns)]
    values = {name: shown[name].tolist() for name in shown.columns}
    return DataTable(
        caption=caption,
        columns=tuple(printable(str(name).replace("_", " "), 40) for name in shown.columns),
        numeric=tuple(all(map(_is_number_or_missing, column)) for column in values.values()),
        rows=tuple(
            zip(*([cell_text(v) for v in column] for column in values.values()), strict=True)
        ),
        more=len(frame) - len(shown),
        files=tuple(files),
    )


def _is_number_or_missing(value: Any) -> bool:
    if value is None or value is pd.NA:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool)


def cell_text(value: Any) -> str:
    """Return a value as a table shows it.

    >>> [cell_text(v) for v in (1234567, 0.123456, 3.0, None, float("nan"), True, "a")]
    ['1,234,567', '0.1235', '3', '–', '–', 'yes', 'a']
    """
    if value is None or value is pd.NA or value != value:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return f"{int(value):,}"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
    return printable(value, _CELL)
