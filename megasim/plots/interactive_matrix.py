"""A distance matrix to zoom into, each cell with its numbers and what they cover."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize

from megasim.errors import UsageError, printable
from megasim.matrix.distance_matrix import DistanceMatrix, Floats, coverage_note
from megasim.plots.heatmap import WRITTEN, cell_texts, cluster_order, colour_norm
from megasim.plots.interactive import (
    InteractivePicture,
    colours_of,
    interactive_picture,
    plane,
    themed,
)
from megasim.plots.interactive_points import square_plot
from megasim.plots.labels import METRIC_TITLES, component_label
from megasim.plots.style import LIGHT, ink_on

Order = Literal["cluster", "name", "date"]
ORDERS: tuple[Order, ...] = ("cluster", "name", "date")
MOST = 2_000  # models drawn at once
_SOURCES = ("", "exact", "estimated", "imported", "unproven")
_NAME = 28  # characters of a name at an axis
_TURNED = np.pi / 2


def matrix_picture(
    matrix: DistanceMatrix, *, order: Order = "cluster", dates: Mapping[str, float] | None = None
) -> InteractivePicture:
    """Return models × models as one image that is zoomed, near ones dark.

    The colours are those of `heatmap_figure`; a pair that was not compared is grey. Where the
    pointer rests, the pair is told with its number, its error, its source and what it covers. A
    frame drawn around cells selects their models.

    Args:
        order: "cluster": similar models side by side; "name"; or "date": as they came to the store.
        dates: model → when it came, for that order; the matrix' own order when None.

    Raises:
        UsageError: an unknown order, or more models than `MOST`.
    """
    from bokeh.models import (
        BasicTickFormatter,
        BoxSelectTool,
        ColorBar,
        ColumnDataSource,
        FixedTicker,
        LinearColorMapper,
        LogColorMapper,
        NoOverlap,
        Range1d,
    )

    n = len(matrix.models)
    if n > MOST:
        raise UsageError(
            f"{n:,} models are more than one picture shows", f"choose {MOST:,} of them at most"
        )
    shown = matrix.subset([matrix.models[i] for i in _ordered(matrix, order, dates)])
    values = shown.values.copy()
    if matrix.metric != "cossim":
        np.fill_diagonal(values, np.nan)
    norm, zeros = colour_norm(values, matrix.metric)
    np.fill_diagonal(values, norm.vmax if matrix.metric == "cossim" else 0.0)
    mapper_class = LogColorMapper if isinstance(norm, LogNorm) else LinearColorMapper
    mapper = mapper_class(palette=colours_of(LIGHT.colours), low=norm.vmin, high=norm.vmax)
    themed(mapper, nan_color="missing")
    plot = square_plot(640)
    plot.x_range = Range1d(0, max(n, 1), bounds=(0, max(n, 1)), min_interval=min(2, max(n, 1)))
    plot.y_range = Range1d(max(n, 1), 0, bounds=(0, max(n, 1)), min_interval=min(2, max(n, 1)))
    source = ColumnDataSource({"image": [values.astype(np.float32)]})
    drawn = plot.image("image", x=0, y=0, dw=n, dh=n, source=source, color_mapper=mapper)
    drawn.nonselection_glyph = None
    if n <= WRITTEN:
        _write_values(plot, shown, values, norm)
    names = [printable(name, _NAME) for name in shown.models]
    places = [i + 0.5 for i in range(n)]
    for axis in (plot.xaxis[0], plot.yaxis[0]):
        axis.ticker = FixedTicker(ticks=places)
        axis.major_label_overrides = dict(zip(places, names, strict=True))
        axis.major_label_policy = NoOverlap(min_distance=1)
        axis.major_tick_line_color = None
        axis.minor_tick_line_color = None
        axis.axis_line_color = None
    plot.xaxis[0].major_label_orientation = _TURNED
    plot.grid.visible = False
    bar = ColorBar(
        color_mapper=mapper,
        title=METRIC_TITLES[matrix.metric],
        height=10,
        padding=4,
        major_label_text_font_size="11px",
        title_text_font_size="11px",
        title_text_font_style="normal",
        formatter=BasicTickFormatter(precision=4),
        background_fill_color=None,
    )
    themed(bar, title_text_color="ink", major_label_text_color="ink", major_tick_line_color="ink")
    plot.add_layout(bar, "above")
    plot.add_tools(BoxSelectTool(name="select"))
    title = f"{component_label(matrix.component)}: {METRIC_TITLES[matrix.metric]}, {n} models"
    caption = f"{coverage_note(matrix)}. Dark is near; grey was not compared."
    if zeros:
        caption += " 0 is drawn as the darkest."
    return interactive_picture(
        plot,
        kind="matrix",
        title=title,
        caption=(caption,),
        asked={
            "models": list(shown.models),
            "names": [printable(name, 80) for name in shown.models],
            "metric": METRIC_TITLES[matrix.metric],
            "sources": list(_SOURCES),
            **_planes(shown),
        },
        height=640,
    )


def _ordered(matrix: DistanceMatrix, order: Order, dates: Mapping[str, float] | None) -> list[int]:
    n = len(matrix.models)
    if order == "cluster":
        return cluster_order(matrix)
    if order == "name":
        return sorted(range(n), key=lambda i: (matrix.models[i].casefold(), matrix.models[i]))
    if order == "date":
        came = dates or {}
        return sorted(range(n), key=lambda i: (came.get(matrix.models[i], float("inf")), i))
    raise UsageError(f"unknown order {printable(order)!r}", "use " + ", ".join(ORDERS))


def _write_values(plot: Any, matrix: DistanceMatrix, values: Floats, norm: Normalize) -> None:
    """Write the numbers into the cells, in the ink that reads on each."""
    from bokeh.models import ColumnDataSource

    n = len(matrix.models)
    drawn = np.where(values == 0, norm.vmin or 0.0, values)
    colours = ScalarMappable(norm, LIGHT.colours).to_rgba(np.ma.masked_invalid(drawn))
    rows, columns = np.divmod(np.arange(n * n), n)
    texts = cell_texts(matrix).ravel().tolist()
    inks = [ink_on(colour[:3]) for colour in colours.reshape(-1, 4)]
    source = ColumnDataSource({"x": columns + 0.5, "y": rows + 0.5, "text": texts, "ink": inks})
    written = plot.text(
        "x",
        "y",
        text="text",
        text_color="ink",
        source=source,
        text_align="center",
        text_baseline="middle",
        text_font_size="12px",
        name="values",
    )
    written.tags = [max(map(len, texts))]  # the script hides what does not fit the cells


def _planes(matrix: DistanceMatrix) -> dict[str, Any]:
    """Return what is told of each cell beside its value."""
    off = ~np.eye(len(matrix.models), dtype=bool)
    source = np.zeros(off.shape, dtype=np.uint8)
    for number, name in enumerate(_SOURCES):
        source[matrix.sources == name] = number

    def of_pairs(values: Any) -> Any:
        # one number where all pairs have it: what a model has with itself is not asked for
        held = np.asarray(values, dtype=np.float64).copy()
        pairs = held[off]
        np.fill_diagonal(held, pairs[0] if len(pairs) else np.nan)
        return plane(held)

    return {
        "source": plane(source),
        "error": of_pairs(np.where(np.isnan(matrix.errors), 0.0, matrix.errors)),
        "keys": of_pairs(matrix.keys_compared),
        "coverage": of_pairs(matrix.coverage),
    }
