"""How a figure looks: its theme, font, size and title; and which ink can be read on a colour."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.font_manager import fontManager

from megasim.errors import UsageError, printable

SMALLEST = 8.3  # typographic points of the smallest text: 11 pixels on a page at its full width
CONTRAST = 4.5  # between a text and what lies behind it, as WCAG 2.1 asks for at level AA
# Pure but for the last bit, so that no theme takes them for paper or ink of its own.
_BLACK, _WHITE = "#000001", "#fffffe"
_LEAST, _MOST = 2.0, 60.0  # inches of a side
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*[x×:]\s*(\d+(?:\.\d+)?)", re.IGNORECASE)


@dataclass(frozen=True)
class Theme:
    """The colours of a figure; no two of the first group are alike, so that a page can swap them.

    Attributes:
        paper: behind everything. ink: of text. quiet: of text that is secondary.
        rule: frames and grids. edge, trunk: lines between models, minor and major. leader: from a
            label to its point. missing, hatch: what was not compared. soft: bars behind marks.
        fine_tune, epoch, merge, derived, swap: kinds of steps.
        colours: name of the colour map of distances, which reads in grey too.
        grey: whether all that colour tells must hold without colours.
    """

    name: str
    paper: str
    ink: str
    quiet: str
    rule: str
    edge: str
    trunk: str
    leader: str
    missing: str
    hatch: str
    soft: str
    fine_tune: str
    epoch: str
    merge: str
    derived: str
    swap: str
    colours: str = "cividis"
    grey: bool = False

    def named_colours(self) -> dict[str, str]:
        """Return colour → name of what it is for, all that depends on the theme."""
        return {
            getattr(self, field.name): field.name.replace("_", "-")
            for field in fields(self)
            if field.name not in ("name", "colours", "grey")
        }


# Kinds of steps have the colours of Okabe and Ito, told apart without colour vision.
LIGHT = Theme(
    "light", paper="#ffffff", ink="#1d1f23", quiet="#5b6169", rule="#d4d7db", edge="#b2b5b9",
    trunk="#55595f", leader="#9db4cc", missing="#e8e8e8", hatch="#b0b0b0", soft="#d3d9e0",
    fine_tune="#0072b2", epoch="#56b4e9", merge="#d55e00", derived="#009e73", swap="#cc79a7",
)  # fmt: skip
DARK = Theme(
    "dark", paper="#16181b", ink="#e7e8ea", quiet="#a5abb3", rule="#3a3f46", edge="#62676e",
    trunk="#b9bec5", leader="#4d6580", missing="#2b2f34", hatch="#555a61", soft="#3b434d",
    fine_tune="#4ba3dd", epoch="#8fd0f7", merge="#f0803c", derived="#2fc39a", swap="#e29cc4",
)  # fmt: skip
PRINT = Theme(
    "print", paper="#ffffff", ink="#000000", quiet="#333333", rule="#bbbbbb", edge="#9a9a9a",
    trunk="#3d3d3d", leader="#aaaaaa", missing="#eeeeee", hatch="#8c8c8c", soft="#d6d6d6",
    fine_tune="#0072b2", epoch="#56b4e9", merge="#d55e00", derived="#009e73", swap="#cc79a7",
    colours="gray", grey=True,
)  # fmt: skip
THEMES = {theme.name: theme for theme in (LIGHT, DARK, PRINT)}


@dataclass(frozen=True)
class Style:
    """What a reader may choose of any figure.

    Attributes:
        theme: its colours.
        font: name of a family; of the default one when "".
        size: (width, height) in inches; what the content needs when None.
        title: in place of the figure's own; its own when "".
    """

    theme: Theme = LIGHT
    font: str = ""
    size: tuple[float, float] | None = None
    title: str = ""

    def scale(self, width: float, height: float) -> float:
        """Return how much larger the text of a figure is than where it is this many inches."""
        if self.size is None:
            return 1.0
        return float(np.clip(min(self.size[0] / width, self.size[1] / height), 0.55, 2.2))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let what is drawn meanwhile have the theme and the font."""
        theme = self.theme
        settings: Any = {
            "text.color": theme.ink,
            "axes.labelcolor": theme.ink,
            "axes.titlecolor": theme.ink,
            "axes.edgecolor": theme.rule,
            "axes.facecolor": "none",
            "figure.facecolor": theme.paper,
            "xtick.color": theme.quiet,
            "ytick.color": theme.quiet,
            "xtick.labelcolor": theme.ink,
            "ytick.labelcolor": theme.ink,
            "grid.color": theme.rule,
            "hatch.color": theme.hatch,
            "legend.labelcolor": theme.ink,
            "legend.frameon": False,
        }
        if self.font:
            settings["font.family"] = [self.font, *matplotlib.rcParams["font.sans-serif"][:1]]
        with matplotlib.rc_context(settings):
            yield


def style_of(*, theme: str = "light", font: str = "", size: str = "", title: str = "") -> Style:
    """Return the style that options name.

    >>> style_of(size="16x9", theme="print").size
    (16.0, 9.0)

    Raises:
        UsageError: an unknown theme or font, or a size that is none.
    """
    if theme not in THEMES:
        raise UsageError(f"unknown theme {printable(theme)!r}", "use " + ", ".join(THEMES))
    if font and not _is_font(font):
        raise UsageError(
            f"there is no font {printable(font)!r} here", "name the family of an installed one"
        )
    return Style(THEMES[theme], font, parse_size(size) if size else None, title)


def parse_size(text: str) -> tuple[float, float]:
    """Return width and height in inches.

    >>> parse_size("16x9"), parse_size("3.5 × 2.6")
    ((16.0, 9.0), (3.5, 2.6))

    Raises:
        UsageError: no size, or a side below 2 or above 60 inches.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            f"{printable(text)!r} is not a size", "write width x height in inches, as 16x9"
        )
    width, height = float(found[1]), float(found[2])
    if min(width, height) < _LEAST or max(width, height) > _MOST:
        raise UsageError(
            f"{printable(text)} inches are not a possible size for a figure",
            f"each side may be {_LEAST:g} to {_MOST:g}",
        )
    return width, height


def _is_font(name: str) -> bool:
    generic = ("sans-serif", "serif", "monospace")
    return name in generic or name in {entry.name for entry in fontManager.ttflist}


def luminance(colour: Any) -> float:
    """Return the relative luminance of a colour as WCAG 2.1 defines it, 0 to 1.

    >>> luminance("#ffffff"), luminance("#000000")
    (1.0, 0.0)
    """
    parts = np.array(to_rgb(colour))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


def ink_on(colour: Any) -> str:
    """Return black or white, whichever reads better on a colour: the contrast is 4.58 or more.

    >>> ink_on("#ffffff"), ink_on("#1f4e8c")
    ('#000001', '#fffffe')
    """
    return _BLACK if luminance(colour) > 0.179 else _WHITE
