"""A family tree that tells the evidence of each step, and the rivals of each recipe."""

from __future__ import annotations

from typing import Any

import numpy as np

from megasim.anatomy.classification import component_title
from megasim.errors import printable
from megasim.lineage.layout import TreeLayout, lay_out
from megasim.lineage.recipe_result import Recipe, percent, weighted_sum
from megasim.lineage.result import Edge, Lineage
from megasim.plots.interactive import InteractivePicture, interactive_picture, themed
from megasim.plots.interactive_points import draw_points, point_source, square_plot
from megasim.plots.lineage import KINDS
from megasim.wording.sentences import counted

_ROW, _LEAST, _MOST = 22, 260, 2_600  # CSS pixels: of a model, of the plot
_NAME = 40
_MOST_RIVALS = 4
_DASHES = {"-": "solid", "--": "dashed", ":": "dotted"}
_ASIDE_LEFT, _ASIDE_BELOW = 0.12, 0.24  # columns and rows: of the line of a further parent


def lineage_picture(lineage: Lineage) -> InteractivePicture:
    """Return the family tree as an outline: a row each model, its steps hang below their parent.

    Colours and dashes of the steps are those of `lineage_figure`; an undecided one has no head.
    Where the pointer rests on a step, its evidence is told, and of a merge what else would explain
    it nearly as well.
    """
    from bokeh.models import BoxSelectTool, ColumnDataSource, Range1d

    layout = lay_out(lineage, outline=True)
    models = sorted(layout.places, key=lambda m: (layout.places[m][1], m))
    height = int(np.clip(_ROW * (layout.rows + 2) + 60, _LEAST, _MOST))
    plot = square_plot(height)
    plot.axis.visible = False
    plot.grid.visible = False
    columns, rows = layout.columns, max(layout.rows, 1.0)
    plot.x_range = Range1d(-0.6, 1.35 * columns + 4)
    plot.y_range = Range1d(rows + 0.6, -1.2, bounds=(-1.2, rows + 0.6), min_interval=4)
    lines = [_line(layout, edge) for edge in lineage.edges]
    _draw_edges(plot, lineage, layout, lines)
    into: dict[str, list[Edge]] = {}
    for edge in lineage.edges:
        into.setdefault(edge.child, []).append(edge)
    recipes = {recipe.model: recipe for recipe in lineage.recipes}
    roots = {family.root for family in lineage.families if len(family.models) > 1}
    x, y = (np.array([layout.places[m][i] for m in models], dtype=float) for i in (0, 1))
    labels = [printable(m, _NAME) for m in models]
    points = point_source(x, y, labels)
    draw_points(plot, points, size=8, outline="ink", fill="paper")
    at = [i for i, m in enumerate(models) if m in roots]
    bases = plot.scatter(
        "x", "y", marker="square", size=9, source=ColumnDataSource({"x": x[at], "y": y[at]})
    )
    themed(bases.glyph, line_color="ink", fill_color="ink")
    heads = ColumnDataSource(
        {
            "x": [-0.4 for _ in layout.headings],
            "y": [row for _, row in layout.headings],
            "text": [text for text, _ in layout.headings],
        }
    )
    headings = plot.text(
        "x", "y", text="text", source=heads, text_baseline="middle", text_font_size="12px"
    )
    themed(headings.glyph, text_color="quiet")
    plot.add_tools(BoxSelectTool(name="select"))
    place = {model: i for i, model in enumerate(models)}
    count = sum(len(family.models) for family in lineage.families)
    title = f"{printable(component_title(lineage.component))}: descent of {counted(count, 'model')}"
    return interactive_picture(
        plot,
        kind="lineage",
        title=title,
        caption=(
            "A model hangs below the one it came from; a filled square is the likeliest base, a "
            "line without a head has no decided direction. Confidence is the probability of the "
            "direction; of a merge, the share of it that is explained.",
            _legend(lineage),
        ),
        asked={
            "models": models,
            "names": [printable(m, 80) for m in models],
            "x": x.tolist(),
            "y": y.tolist(),
            "told": [
                [printable(m, 200), *_of_steps(into.get(m, []), recipes.get(m))] for m in models
            ],
            "edges": [
                {
                    "from": place[edge.parent],
                    "to": place[edge.child],
                    "line": line,
                    "told": _of_steps([edge], recipes.get(edge.child)),
                }
                for edge, line in zip(lineage.edges, lines, strict=True)
            ],
        },
        height=min(height, 900),
    )


def _line(layout: TreeLayout, edge: Edge) -> list[list[float]]:
    """Return the corners of an edge: down from its parent and along the row of its child.

    That of a further parent runs beside it, left of the names and below the line of the first.
    """
    (x, y), (to_x, to_y) = layout.places[edge.parent], layout.places[edge.child]
    if layout.trunk.get(edge.child) is edge:
        return [[x, x, to_x], [y, to_y, to_y]]
    lane, row = x - _ASIDE_LEFT, to_y + _ASIDE_BELOW
    return [[x, lane, lane, to_x - _ASIDE_LEFT, to_x], [y, y, row, row, to_y]]


def _draw_edges(
    plot: Any, lineage: Lineage, layout: TreeLayout, lines: list[list[list[float]]]
) -> None:
    from bokeh.models import ColumnDataSource

    for kind, (colour, dash) in KINDS.items():
        for trunk in (True, False):
            some = [
                (edge, line)
                for edge, line in zip(lineage.edges, lines, strict=True)
                if edge.kind == kind and (layout.trunk.get(edge.child) is edge) == trunk
            ]
            if not some:
                continue
            drawn = plot.multi_line(
                "xs",
                "ys",
                source=ColumnDataSource(
                    {"xs": [line[0] for _, line in some], "ys": [line[1] for _, line in some]}
                ),
                line_width=1.6 if trunk else 1.0,
                line_dash=_DASHES[dash],
            )
            themed(drawn.glyph, line_color=colour)
            if not trunk:
                continue
            decided = [line for edge, line in some if edge.decided]
            heads = plot.scatter(
                "x",
                "y",
                marker="triangle",
                size=8,
                angle=-np.pi / 2,
                line_color=None,
                source=ColumnDataSource(
                    {
                        "x": [x + 0.55 * (to_x - x) for (_, x, to_x), _ in decided],
                        "y": [y for _, (_, _, y) in decided],
                    }
                ),
            )
            themed(heads.glyph, fill_color=colour)


def _of_steps(edges: list[Edge], recipe: Recipe | None) -> list[str]:
    told = [edge.sentence() for edge in edges]
    if recipe is None or not recipe.claimed:
        return told
    told.append(recipe.sentence())
    told += [
        f"rival: {weighted_sum(rival.parents)}; {percent(rival.unexplained)} unexplained"
        for rival in recipe.rivals[:_MOST_RIVALS]
    ]
    if not recipe.rivals:
        told.append("no other parents explain it nearly as well")
    return told


def _legend(lineage: Lineage) -> str:
    used = [kind for kind in KINDS if any(edge.kind == kind for edge in lineage.edges)]
    looks = [f"{kind} ({_colour_word(*KINDS[kind])})" for kind in used]
    return f"Steps: {', '.join(looks)}." if looks else "No step is known."


def _colour_word(colour: str, dash: str) -> str:
    words = {
        "fine_tune": "blue",
        "epoch": "light blue",
        "merge": "orange",
        "derived": "green",
        "swap": "pink",
        "trunk": "grey",
    }
    drawn = {"-": "", "--": ", dashed", ":": ", dotted"}[dash]
    return words[colour] + drawn
