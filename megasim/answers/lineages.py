"""A family tree that draws itself, for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from megasim.errors import missing_modules, require_extra
from megasim.lineage.result import Lineage
from megasim.wording.html import html_lines, html_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from megasim.plots.interactive import InteractivePicture
    from megasim.plots.style import Style


class LineageView(Lineage):
    """A family tree that draws itself; a notebook shows a picture to ask, and the notes.

    Without the extra `interactive`, it shows the figure.
    """

    def plot(self, style: Style | None = None) -> Figure:
        """Return the figure. See `lineage_figure`."""
        from megasim.plots.lineage import lineage_figure

        return lineage_figure(self, style)

    def interactive(self) -> InteractivePicture:
        """Return the picture that tells the evidence of each step. See `lineage_picture`.

        Raises:
            MissingExtraError: the extra `interactive` is not installed.
        """
        require_extra("interactive", "an interactive picture")
        from megasim.plots.interactive_lineage import lineage_picture

        return lineage_picture(self)

    def _repr_html_(self) -> str:
        if missing_modules("interactive"):
            from megasim.plots.figure_files import figure_bytes

            drawn = html_picture(figure_bytes(self.plot(), "png", 90), repr(self)[1:-1])
        else:
            drawn = self.interactive()._repr_html_()
        return drawn + html_lines(self.notes)
