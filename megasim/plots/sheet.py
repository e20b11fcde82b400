"""A figure whose parts are placed in inches, from its upper left corner down."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from megasim.plots.labels import fitting, wrapped
from megasim.plots.style import Style

_TITLE, _NOTE = 12.5, 9.0  # typographic points
_EDGE = 0.14  # inches


class ShownFigure(Figure):
    """A figure that shows itself in a notebook, whatever its backend."""

    def _repr_png_(self) -> bytes:
        out = BytesIO()
        self.savefig(out, format="png", dpi=90, metadata={"Software": None})
        return out.getvalue()


class Sheet:
    """A figure in the making; see `heading` for what all have in common.

    Attributes:
        scale: of text and of all that is not data, against a figure of its natural size.
    """

    def __init__(self, width: float, height: float, style: Style, scale: float = 1.0) -> None:
        self.width, self.height, self.style, self.scale = width, height, style, scale
        self.figure: Figure = ShownFigure(figsize=(width, height), facecolor=style.theme.paper)
        FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Return axes of a place in inches."""
        return self.figure.add_axes(
            (
                left / self.width,
                1 - (top + height) / self.height,
                width / self.width,
                height / self.height,
            )
        )

    def text(self, left: float, top: float, text: str, size: float, **style: Any) -> Text:
        """Write a text; `size` is in typographic points before scaling."""
        style = {"va": "top", "color": self.style.theme.ink} | style
        return self.figure.text(
            left / self.width, 1 - top / self.height, text, fontsize=size * self.scale, **style
        )

    def heading(self, title: str, note: str) -> None:
        """Write the title, or the one that the reader chose, and the note below it."""
        k = self.scale
        lines = heading_lines(self.style, self.width, title, note, k)
        top = _EDGE * k
        self.text(_EDGE * k, top, lines[0], _TITLE, weight="bold")
        for i, line in enumerate(lines[1:]):
            self.text(_EDGE * k, top + (0.27 + 0.17 * i) * k, line, _NOTE, color=self.quiet)

    @property
    def quiet(self) -> str:
        """The colour of text that is secondary."""
        return self.style.theme.quiet

    def done(self) -> Figure:
        """Return the figure; what is drawn later has its colours and font too."""
        theme = self.style.theme
        for axes in self.figure.axes:
            axes.tick_params(labelcolor=theme.ink, color=theme.quiet)
            if self.style.font:
                axes.tick_params(labelfontfamily=self.style.font)
        return self.figure


def write(axes: Axes, place: tuple[float, float], text: str, size: float, **style: Any) -> Text:
    """Write a text at a place of the data, its middle there unless `style` says otherwise."""
    return axes.text(*place, text, fontsize=size, **({"ha": "center", "va": "center"} | style))


def heading_lines(style: Style, width: float, title: str, note: str, scale: float) -> list[str]:
    """Return the title, cut to the width, and the lines of the note."""
    room = width - 2 * _EDGE * scale
    shown = style.title or title
    return [
        fitting(shown, _TITLE * scale, room, bold=True),
        *(wrapped(note, _NOTE * scale, room) if note else []),
    ]


def heading_height(style: Style, width: float, title: str, note: str, scale: float = 1.0) -> float:
    """Return how many inches a heading takes from the top."""
    lines = heading_lines(style, width, title, note, scale)
    return (_EDGE + 0.29 + 0.17 * (len(lines) - 1)) * scale
