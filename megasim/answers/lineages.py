"""A family tree that draws itself, for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from megasim.lineage.result import Lineage
from megasim.wording.html import html_lines, html_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from megasim.plots.style import Style


class LineageView(Lineage):
    """A family tree that draws itself; a notebook shows the drawing and the notes."""

    def plot(self, style: Style | None = None) -> Figure:
        """Return the figure. See `lineage_figure`."""
        from megasim.plots.lineage import lineage_figure

        return lineage_figure(self, style)

    def _repr_html_(self) -> str:
        from megasim.plots.figure_files import figure_bytes

        return html_picture(figure_bytes(self.plot(), "png", 90), repr(self)[1:-1]) + html_lines(
            self.notes
        )
