"""A map of models to move about in: any two of the three axes, the third as colour."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from megasim.errors import UsageError, printable
from megasim.geometry.embedding import share
from megasim.geometry.map import MapResult
from megasim.matrix.distance_matrix import coverage_note
from megasim.plots.interactive import (
    InteractivePicture,
    interactive_picture,
    themed,
)
from megasim.plots.interactive_points import draw_points, point_source, square_plot
from megasim.plots.labels import METRIC_TITLES, component_label
from megasim.plots.map_panel import NAMED, PLAIN, MapArt, step_text
from megasim.plots.style import LIGHT

_NAME = 34
_AXES = {1, 2, 3}


def map_picture(result: MapResult, *, axes: tuple[int, int] = (1, 2)) -> InteractivePicture:
    """Return the points of a map over two of its axes; colour is the third.

    Names keep off each other at every zoom; where the pointer rests, a model or a step is told
    with its length and turn. Only a path that was named has heads of arrows, as in `map_figure`.
    The verdict of the plane test stands above it.

    Args:
        axes: two of 1, 2, 3.

    Raises:
        UsageError: axes that are not two of the three.
    """
    from bokeh.models import BoxSelectTool, LassoSelectTool

    if len(set(axes)) != 2 or not set(axes) <= _AXES:
        raise UsageError("a map shows two of its axes 1, 2 and 3", "write 1,2 or 1,3 or 2,3")
    (third,) = _AXES - set(axes)
    # as the static map colours its third axis, whichever that is here
    art = MapArt(result, tuple(printable(m, _NAME) for m in result.models), LIGHT)
    x, y = (result.coordinates[:, axis - 1] for axis in axes)
    metric = METRIC_TITLES[result.matrix.metric]
    plot = square_plot(560)
    plot.match_aspect = True
    # room for the label and for longer numbers: a label at the edge leaves a shadow when it moves
    plot.min_border_left = 64
    for axis, number in zip((plot.xaxis[0], plot.yaxis[0]), axes, strict=True):
        unit = f" ({metric})" if number == min(axes) else ""
        axis.axis_label = f"axis {number}{unit}, {_held(result, number)}"
        themed(axis, axis_line_color="rule", major_tick_line_color="rule")
        axis.minor_tick_line_color = None
    for grid in plot.grid:
        themed(grid, grid_line_color="rule")
        grid.grid_line_alpha = 0.5
    _draw_walk(plot, result, x, y)
    points = point_source(x, y, art.names, fill=_fill(art, third))
    few = len(result.models) <= NAMED
    draw_points(plot, points, size=10 if few else 7, outline="trunk")
    plot.add_tools(BoxSelectTool(name="select"), LassoSelectTool(name="lasso"))
    verdict = f"Verdict: {result.verdict}."
    if result.direction not in ("none", "not testable"):
        verdict += f" Direction: {result.direction}."
    n = len(result.models)
    walk = "the path" if result.walk.kind == "path" else "the spanning tree"
    colour = "" if art.colours is None else f" Colour is axis {third}, {_held(result, third)}."
    return interactive_picture(
        plot,
        kind="map",
        title=f"{component_label(result.matrix.component)}: where {n} models lie",
        caption=(
            verdict,
            *result.evidence[:1],
            f"Classical MDS, {metric}; {coverage_note(result.matrix)}. Lines are {walk}.{colour}",
        ),
        asked={
            "models": list(result.models),
            "names": [printable(name, 80) for name in result.models],
            "x": x.tolist(),
            "y": y.tolist(),
            "told": _told(result),
            "edges": _edges(result, art),
        },
        height=560,
    )


def _fill(art: MapArt, third: int) -> list[str]:
    from matplotlib.colors import to_hex

    if art.colours is None:
        return [PLAIN] * len(art.names)
    return [to_hex(c) for c in art.colours.to_rgba(art.result.coordinates[:, third - 1])]


def _draw_walk(plot: Any, result: MapResult, x: Any, y: Any) -> None:
    from bokeh.models import ColumnDataSource

    trunk = set(pairwise(result.walk.order))
    edges = [(int(a), int(b)) for a, b in result.walk.edges]
    for on, colour, width in ((False, "edge", 1.0), (True, "trunk", 1.5)):
        some = [(a, b) for a, b in edges if ((a, b) in trunk) == on]
        a, b = ([e[side] for e in some] for side in (0, 1))
        source = ColumnDataSource({"x": x[a], "y": y[a], "to_x": x[b], "to_y": y[b]})
        lines = plot.segment("x", "y", "to_x", "to_y", source=source, line_width=width)
        themed(lines.glyph, line_color=colour)
        if on and result.walk.kind == "path":
            # beyond the middle of a step, so that a point never covers its head
            at = {"x": x[a] + 0.6 * (x[b] - x[a]), "y": y[a] + 0.6 * (y[b] - y[a])}
            angle = np.arctan2(y[b] - y[a], x[b] - x[a]) - np.pi / 2
            heads = plot.scatter(
                "x",
                "y",
                angle="angle",
                marker="triangle",
                size=9,
                source=ColumnDataSource({**at, "angle": angle}),
                line_color=None,
            )
            themed(heads.glyph, fill_color=colour)


def _held(result: MapResult, number: int) -> str:
    eigenvalues = result.eigenvalues
    held = float(share(eigenvalues, number) - share(eigenvalues, number - 1))
    return f"{100 * held:.1f} % of variance"


def _told(result: MapResult) -> list[list[str]]:
    """Return what is told of each model: where it lies, and the step that leads to it."""
    told = []
    for name, place in zip(result.models, result.coordinates.tolist(), strict=True):
        told.append([printable(name, 80), f"axes 1–3: {', '.join(f'{c:.4g}' for c in place)}"])
    for row in result.steps().to_dict("records"):
        step = step_text(row["length"], row["turn"])
        at = result.models.index(row["to"])
        told[at].append(f"step from {printable(row['from'], 80)}: {step}")
    return told


def _edges(result: MapResult, art: MapArt) -> list[dict[str, Any]]:
    between = "→" if result.walk.kind == "path" else "–"
    return [
        {
            "from": int(a),
            "to": int(b),
            "told": [
                f"{printable(result.models[a], 80)} {between} {printable(result.models[b], 80)}",
                f"length {step_text(*step)}",
            ],
        }
        for (a, b), step in zip(result.walk.edges.tolist(), art.steps(), strict=True)
    ]
