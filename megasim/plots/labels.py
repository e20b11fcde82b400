"""Text in figures: what can be drawn, how long it is, and what things are called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.textpath import TextToPath

from megasim.anatomy.classification import component_title
from megasim.errors import printable

_HYPHEN = re.compile(r"(?<![^\s(:=±])-(?=[\d.])|(?<=\de)-(?=\d)")
_LABEL = 34  # characters of a model name that a figure shows
_WIDER = 1.08  # hinting and other fonts make text wider than measured

METRIC_TITLES = {
    "l0": "elements that differ",
    "l1": "L1 distance",
    "l2": "L2 distance",
    "linf": "largest difference",
    "cossim": "cosine similarity",
}


def drawable(text: str) -> str:
    """Return the text with □ for what the figure's font has no sign for.

    >>> drawable("mix 東京 v2")
    'mix □□ v2'
    """
    return "".join(c if ord(c) in _signs() else "□" for c in text)


def minus_signs(text: str) -> str:
    """Return the text with a minus sign, not a hyphen, before each negative number.

    >>> minus_signs("run-2: -0.5, 3e-6")
    'run-2: −0.5, 3e−6'
    """
    return _HYPHEN.sub("−", text)


@cache
def _signs() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def short_label(name: str, limit: int = _LABEL) -> str:
    """Return a model name as a figure shows it: safe, drawable, its middle left out when long.

    >>> short_label("a" * 20 + "b" * 30, limit=11)
    'aaaaa…bbbbb'
    """
    text = drawable(printable(name))
    if len(text) > limit:
        half = (limit - 1) // 2
        text = text[: limit - 1 - half] + "…" + text[-half:]
    # a dollar sign would switch matplotlib to formula setting
    return text.replace("$", r"\$")


def component_label(component: str) -> str:
    """Return what people call a component, as a figure shows it."""
    return short_label(component_title(component))


def figure_names(models: Sequence[str], limit: int = _LABEL) -> tuple[str, ...]:
    """Return a short and drawable name for each model, no two alike.

    What the font cannot draw becomes □; names that are alike once shortened get their number.

    >>> figure_names(["東京", "大阪", "plain"])
    ('□□ #1', '□□ #2', 'plain')
    """
    names = [short_label(name, limit) for name in models]
    count = {name: names.count(name) for name in names}
    return tuple(
        f"{name} #{i}" if count[name] > 1 or not name.strip("□ ") else name
        for i, name in enumerate(names, start=1)
    )


@cache
def text_extent(text: str, font: float, bold: bool = False) -> tuple[float, float]:
    """Return width and height of a line of text in typographic points."""
    width, height, descent = TextToPath().get_text_width_height_descent(
        text, FontProperties(size=font, weight="bold" if bold else "normal"), ismath=False
    )
    return _WIDER * width, max(height + descent, font)


def widest(texts: Iterable[str], font: float, *, bold: bool = False) -> float:
    """Return the width of the widest of some texts, in inches; 0 of none."""
    return max((text_extent(text, font, bold)[0] for text in texts), default=0.0) / 72


def wrapped(text: str, font: float, width: float, *, most: int = 3) -> list[str]:
    """Return the text in lines of a width in inches; what `most` lines do not hold is cut off.

    >>> wrapped("one two three", 10.0, 0.8)
    ['one two', 'three']
    """
    lines: list[str] = []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_extent(longer, font)[0] <= 72 * width:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1] + " …"]
    return lines


def fitting(text: str, font: float, width: float, *, bold: bool = False) -> str:
    """Return the text, its end left out where it is wider than some inches.

    >>> fitting("a long title", 10.0, 0.5)
    'a lo…'
    """
    if text_extent(text, font, bold)[0] <= 72 * width:
        return text
    lengths = np.arange(1, len(text))
    fits = [n for n in lengths if text_extent(text[:n] + "…", font, bold)[0] <= 72 * width]
    return text[: max(fits, default=1)].rstrip() + "…"
