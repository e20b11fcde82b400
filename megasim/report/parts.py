"""What a page is made of: sections of sentences, pictures and tables, each with its data."""

from __future__ import annotations

import gzip
import math
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from megasim.errors import printable
from megasim.plots.figure_files import figure_bytes, inline_svg
from megasim.plots.labels import minus_signs
from megasim.store.runnable_queries import QueryResult

_PIXELS = 96  # CSS pixels of an inch
_LARGEST_SVG = 2_500_000  # bytes; a larger figure is drawn as PNG
_CELL = 240  # characters of a table cell
_DIGITS = 4  # of the largest number of a column
_ENDS = {"svg": "image/svg+xml", "png": "image/png", "csv": "text/csv"}
_HYPHENATED = re.compile(r"((?:[\w.@+#]+[-/])+[\w.@+#]*\w[,;:.)]*)")
_GZIP = 200_000  # bytes from which a file within a page is compressed


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

    def within(self) -> tuple[str, str]:
        """Return its name and its address where it is kept within the page, large ones as gzip."""
        name, content = self.name, self.content
        kind = _ENDS[name.rsplit(".", 1)[-1]]
        if len(content) > _GZIP and kind != "image/png":
            name, kind = f"{name}.gz", "application/gzip"
            content = gzip.compress(content, mtime=0)
        return name, f"data:{kind};base64,{b64encode(content).decode('ascii')}"


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
        svg: the figure itself, in colours of the page; or "" where `uri` is an image.
        files: the data behind it, the figure itself first.
        item: the same to be zoomed into, see `InteractivePicture.item`; or "".
    """

    alt: str
    caption: str
    width: int
    height: int
    svg: Markup
    uri: str
    files: tuple[DataFile, ...]
    item: str = ""
    kind: str = "picture"

    @property
    def name(self) -> str:
        """What it is called within the page."""
        return self.files[0].name.rpartition(".")[0]


@dataclass(frozen=True)
class DataTable:
    """The rows of a table, as text."""

    caption: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]
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
    item: str = "",
) -> Picture:
    """Return a figure with its data: an SVG in the colours of the page, of a vast one a PNG."""
    content = figure_bytes(figure, "svg")
    svg, uri, ending = Markup(""), "", "svg"
    if len(content) <= _LARGEST_SVG:
        svg = Markup(inline_svg(content, alt))
    else:
        content, ending = figure_bytes(figure, "png"), "png"
    width, height = figure.get_size_inches()
    drawn = DataFile(f"{name}.{ending}", content, "", "the figure")
    if not svg:
        uri = f"data:image/png;base64,{b64encode(content).decode('ascii')}"
    return Picture(
        alt=alt,
        caption=caption,
        width=round(float(width) * _PIXELS),
        height=round(float(height) * _PIXELS),
        svg=svg,
        uri=uri,
        files=(drawn, *files),
        item=item,
    )


def table(
    frame: pd.DataFrame,
    files: Sequence[DataFile] = (),
    *,
    caption: str,
    columns: Sequence[str] | None = None,
) -> DataTable:
    """Return a frame as text, the numbers of a column to the same place.

    Args:
        columns: which ones the page shows; all when None.
    """
    shown = frame if columns is None else frame[list(columns)]
    values = {name: shown[name].tolist() for name in shown.columns}
    return DataTable(
        caption=caption,
        columns=tuple(printable(str(name).replace("_", " "), 40) for name in shown.columns),
        numeric=tuple(all(map(_is_number_or_missing, column)) for column in values.values()),
        rows=tuple(zip(*map(column_texts, values.values()), strict=True)),
        files=tuple(files),
    )


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value != value


def _is_number_or_missing(value: Any) -> bool:
    return _is_missing(value) or (isinstance(value, int | float) and not isinstance(value, bool))


def column_texts(values: Sequence[Any]) -> list[str]:
    """Return the values of a column as a table shows them, to the place that its largest needs.

    What is not 0 is not shown as 0.

    >>> column_texts([1.0, 0.34742, -0.00016, None]), column_texts([1234.5, 0.026])
    (['1.000', '0.347', '−0.0002', '–'], ['1,234', '0.03'])
    """
    floats = [abs(v) for v in values if isinstance(v, float) and np.isfinite(v)]
    largest = max(floats, default=0.0)
    if not largest or all(v.is_integer() for v in floats):
        return [cell_text(v) for v in values]
    decimals = max(_DIGITS - 1 - math.floor(math.log10(largest)), 0)

    def text(value: Any) -> str:
        if not isinstance(value, float) or not np.isfinite(value):
            return cell_text(value)
        shown = f"{value:,.{decimals}f}"
        if value and not any(c in shown for c in "123456789"):
            shown = f"{value:.1g}"
        return minus_signs(shown)

    return [text(value) for value in values]


def cell_text(value: Any) -> str:
    """Return a value as a table or a sentence shows it.

    >>> [cell_text(v) for v in (1234567, 0.123456, 3.0, None, float("nan"), True, "a")]
    ['1,234,567', '0.1235', '3', '–', '–', 'yes', 'a']
    """
    if _is_missing(value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return minus_signs(f"{int(value):,}")
    if isinstance(value, float):
        return minus_signs(f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}")
    return printable(value, _CELL)


def unbroken(text: str) -> Markup:
    """Return a sentence escaped, its words with hyphens kept whole where a line has room for them.

    >>> unbroken("run-e05 <b> is fine-tuned, or not")
    Markup('<span class="whole">run-e05</span> &lt;b&gt; is <span class="whole">fine-tuned,</span> \
or not')
    """
    parts = _HYPHENATED.split(text)
    return Markup("").join(
        Markup('<span class="whole">{}</span>').format(part) if i % 2 else part
        for i, part in enumerate(parts)
    )
