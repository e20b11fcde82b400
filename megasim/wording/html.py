"""How answers are displayed in a notebook: tables, lines and pictures as HTML, all escaped."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from megasim.errors import printable

if TYPE_CHECKING:
    import pandas as pd

_MOST_ROWS = 60


def html_table(frame: pd.DataFrame, caption: str = "", *, index: bool = False) -> str:
    """Return a frame as a table: four digits, a dash where missing, the first rows of many.

    >>> import pandas as pd
    >>> "<td>&lt;b&gt;</td>" in html_table(pd.DataFrame({"model": ["<b>"]}))
    True
    """
    shown = frame.head(_MOST_ROWS).copy(deep=False)
    for i, dtype in enumerate(frame.dtypes):
        if dtype.kind != "f":  # those have a format of their own
            shown.isetitem(i, shown.iloc[:, i].astype(object).map(_cell).array)
    if index:
        shown.index = shown.index.map(lambda name: printable(name, 80))
        shown.columns = shown.columns.map(lambda name: printable(name, 80))
    table = str(shown.to_html(index=index, na_rep="–", float_format=lambda x: f"{x:.4g}", border=0))
    more = len(frame) - len(shown)
    below = [f"… {more:,} more rows"] if more > 0 else []
    return html_lines([caption] if caption else []) + table + html_lines(below)


def _cell(value: object) -> object:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return "–"
    return printable(value, 200) if isinstance(value, str) else value


def html_lines(lines: Sequence[str], title: str = "") -> str:
    """Return sentences as paragraphs, or below a title as a list.

    >>> html_lines(["a < b"]), html_lines(["c"], "d")
    ('<p>a &lt; b</p>', '<h4>d</h4><ul><li>c</li></ul>')
    """
    if not title:
        return "".join(f"<p>{escape(line)}</p>" for line in lines)
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h4>{escape(title)}</h4><ul>{items}</ul>"


def html_picture(png: bytes, text: str) -> str:
    """Return a picture with what it shows in words, for those who do not see it."""
    data = b64encode(png).decode("ascii")
    return f'<img alt="{escape(text)}" style="max-width:100%" src="data:image/png;base64,{data}">'
