"""What interactive pictures begin with: an empty plot, and points whose names keep apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from megasim.plots.interactive import themed

if TYPE_CHECKING:
    from bokeh.models import ColumnDataSource

_OFF = 8  # pixels of a name from its point


def square_plot(height: int) -> Any:
    """Return an empty plot as wide as its place, that is moved and zoomed, in colours of the page.

    The wheel zooms with Ctrl only, so that a page is not held where it is scrolled.
    """
    from bokeh.models import WheelZoomTool
    from bokeh.plotting import figure

    plot = figure(
        height=height,
        sizing_mode="stretch_width",
        tools="pan,box_zoom,reset",
        active_drag="pan",
        toolbar_location="right",
        outline_line_color=None,
        output_backend="canvas",
        min_border=4,
    )
    # filled, as Bokeh clears only what it fills
    themed(plot, background_fill_color="paper", border_fill_color="paper")
    plot.toolbar.logo = None
    plot.add_tools(WheelZoomTool(modifiers={"ctrl": True}))
    plot.toolbar.active_scroll = plot.tools[-1]
    for axis in plot.axis:
        axis.major_label_text_font_size = "11px"
        axis.axis_label_text_font_size = "12px"
        axis.axis_label_text_font_style = "normal"
        themed(axis, major_label_text_color="ink", axis_label_text_color="ink")
    return plot


def point_source(x: Any, y: Any, names: Sequence[str], **columns: Any) -> ColumnDataSource:
    """Return points with their names, beside them at first; the script moves or hides them.

    Args:
        columns: more values for each point, by name.
    """
    from bokeh.models import ColumnDataSource

    n = len(names)
    return ColumnDataSource(
        {
            "x": x,
            "y": y,
            "name": list(names),
            "label": list(names),
            "dx": [_OFF] * n,
            "dy": [0] * n,
            "align": ["left"] * n,
            **columns,
        }
    )


def draw_points(
    plot: Any, source: ColumnDataSource, *, size: int, outline: str, fill: str = ""
) -> None:
    """Draw points and names; chosen ones have a strong outline.

    Args:
        size: of a point, in pixels.
        outline, fill: names of colours of the theme; without `fill`, a column of that name has
            the colour of each.
    """
    dots = plot.scatter(
        "x",
        "y",
        size=size,
        source=source,
        fill_color="fill" if not fill else None,
        line_width=1,
        selection_line_width=3.5,
        name="points",
    )
    dots.nonselection_glyph = None
    for glyph, colour in ((dots.glyph, outline), (dots.selection_glyph, "merge")):
        themed(glyph, line_color=colour, **({"fill_color": fill} if fill else {}))
    words = plot.text(
        "x",
        "y",
        text="label",
        source=source,
        x_offset="dx",
        y_offset="dy",
        text_align="align",
        text_baseline="middle",
        text_font_size="12px",
        background_fill_alpha=0.7,
    )
    words.nonselection_glyph = None
    themed(words.glyph, text_color="ink", background_fill_color="paper")
