"""The family tree as a figure, and as files for other programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import networkx as nx
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path as Path2D

from megasim.errors import UsageError, printable
from megasim.lineage.layout import TreeLayout, lay_out
from megasim.lineage.result import Edge, Lineage
from megasim.output_files import write_file
from megasim.plots.figure_files import figure_bytes
from megasim.plots.heatmap import short_label
from megasim.resources import render_template
from megasim.words import EdgeKind

LINEAGE_ENDINGS = (".html", ".png", ".svg", ".pdf", ".dot", ".graphml", ".json")
# The colours of Okabe and Ito, told apart without colour vision; each kind has its own dashes.
STYLES: dict[EdgeKind, tuple[str, Literal["-", "--", ":"]]] = {
    EdgeKind.FINE_TUNE: ("#0072b2", "-"),
    EdgeKind.EPOCH_STEP: ("#56b4e9", "-"),
    EdgeKind.MERGE: ("#d55e00", "-"),
    EdgeKind.PRUNED: ("#009e73", "--"),
    EdgeKind.CAST: ("#009e73", ":"),
    EdgeKind.COMPONENT_SWAP: ("#cc79a7", "--"),
    EdgeKind.COPY: ("#777777", ":"),
}
BASE = "#1d1f23"
# Lengths are written on the edges up to this many models, where they can still be read.
LABELLED = 24
QUIET = "#686c74"
# What a page gives its own colours, light and dark: ink, paper, and the kinds that are dark.
_THEMED = {
    BASE: "ink", "#ffffff": "paper", QUIET: "quiet", "#777777": "quiet",
    "#0072b2": "fine-tune", "#d55e00": "merge", "#009e73": "cast",
}  # fmt: skip
_CHARACTER = 0.068  # inches of a label's width
_ROW = 0.2  # inches
_INDENT = 0.34  # inches
_DEEPEST = 5.0  # inches that all indents together may take
_BEND = 0.12
_LANE = 0.09  # inches between edges beside the labels of an outline


def lineage_figure(lineage: Lineage) -> Figure:
    """Return the family tree: bases at the left, each model right of what it was made from.

    Of more than `LABELLED` models it is an outline, narrow enough for a page: each model in a row
    of its own, below what it was made from, and its other parents come in from the right.

    An edge whose direction is undecided has no arrow head. A base is a filled square, a merge
    a diamond. Line widths do not mean anything.
    """
    few = sum(len(f.models) for f in lineage.families) <= LABELLED
    layout = lay_out(lineage, outline=not few)
    row = 0.5 if few else _ROW
    starts = _column_starts(layout, few)
    ends = {m: starts[c] + 0.2 + _CHARACTER * _letters(m) for m, (c, _) in layout.places.items()}
    others = [e for e in lineage.edges if e is not layout.trunk.get(e.child)]
    lanes = {} if few else _lanes(others, layout, ends)
    width = max(*(end + 0.2 for end in ends.values()), *(x + 0.1 for x in lanes.values()), 7.0)
    handles = _legend_handles(lineage)
    in_a_line = int((width - 0.2) / 1.3)
    top = 0.55 + 0.2 * -(-len(handles) // in_a_line)
    height = max(row * layout.rows + top + 0.1, 2.4)
    figure = Figure(figsize=(width, height))
    axes: Axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    spots = {m: (starts[c], top + row * (r + 0.5)) for m, (c, r) in layout.places.items()}
    for edge in lineage.edges:
        lane = lanes.get((edge.parent, edge.child))
        if lane is None:
            _draw_edge(axes, spots, edge, few, edge is layout.trunk.get(edge.child))
        else:
            (start, end), (y, to_y) = zip(
                *((ends[m], spots[m][1]) for m in (edge.parent, edge.child)), strict=True
            )
            _draw_aside(axes, edge, [(start, y), (lane, y), (lane, to_y), (end, to_y)])
    bases = {f.root for f in lineage.families}
    merges = {e.child for e in lineage.edges if e.kind == EdgeKind.MERGE}
    for model, (x, y) in spots.items():
        marker = "s" if model in bases else "D" if model in merges else "o"
        colour = (
            BASE if model in bases else STYLES[EdgeKind.MERGE][0] if model in merges else "white"
        )
        axes.plot(
            [x], [y], marker, markersize=8 if model in bases else 5.5,
            markerfacecolor=colour, markeredgecolor=BASE, markeredgewidth=0.9, zorder=3,
        )  # fmt: skip
        axes.text(
            x + 0.11, y, short_label(model), fontsize=8.5, va="center", ha="left", zorder=4,
            fontweight="bold" if model in bases else "normal", color=BASE,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
        )  # fmt: skip
    for title, at in layout.headings:
        if len(lineage.families) > 1:
            axes.text(0.18, top + row * (at + 0.5), title, fontsize=8.5, color=QUIET,
                      va="center")  # fmt: skip
    axes.text(0.18, 0.22, f"Lineage over {short_label(lineage.component)}", fontsize=12,
              fontweight="bold", color=BASE, va="center")  # fmt: skip
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.08, 0.36),
        bbox_transform=axes.transData, ncols=min(len(handles), in_a_line), frameon=False,
        fontsize=8, handlelength=1.6, columnspacing=1.2, borderpad=0, labelcolor=BASE,
    )  # fmt: skip
    return figure


def _column_starts(layout: TreeLayout, few: bool) -> list[float]:
    """Return the x of each column in inches; it fits its labels, or is a step of an outline."""
    if not few:
        indent = min(_INDENT, _DEEPEST / layout.columns)
        return [0.3 + indent * column for column in range(layout.columns)]
    widest = [0] * layout.columns
    for model, (column, _) in layout.places.items():
        widest[column] = max(widest[column], _letters(model))
    starts = [0.3]
    for characters in widest[:-1]:
        starts.append(starts[-1] + _CHARACTER * characters + 1.1)
    return starts


def _lanes(
    edges: Sequence[Edge], layout: TreeLayout, ends: dict[str, float]
) -> dict[tuple[str, str], float]:
    """Return for each edge of an outline the x at which it runs past the labels, in inches.

    The shorter edges run further in, each beside the labels and edges of all rows it passes.
    """
    row = {m: round(r) for m, (_, r) in layout.places.items()}
    reach = dict.fromkeys(range(math.ceil(layout.rows) + 1), 0.0)
    for model, end in ends.items():
        reach[row[model]] = max(reach[row[model]], end)
    lanes = {}
    spans = [(sorted((row[e.parent], row[e.child])), e.parent, e.child) for e in edges]
    for (top, bottom), parent, child in sorted(spans, key=lambda s: (s[0][1] - s[0][0], s)):
        lane = max(reach[r] for r in range(top, bottom + 1)) + _LANE
        reach.update(dict.fromkeys(range(top, bottom + 1), lane))
        lanes[parent, child] = lane
    return lanes


def _draw_aside(axes: Axes, edge: Edge, corners: list[tuple[float, float]]) -> None:
    """Draw an edge of an outline along its corners, out of one label and into another."""
    colour, dashes = STYLES[edge.kind]
    axes.add_patch(
        FancyArrowPatch(
            path=Path2D(corners), arrowstyle="-|>" if edge.decided else "-", mutation_scale=7,
            color=colour, linestyle=dashes, linewidth=1.0, alpha=0.8, zorder=1,
            fill=False, joinstyle="round",
        )
    )  # fmt: skip


def _letters(model: str) -> int:
    return len(short_label(model))


def _draw_edge(
    axes: Axes, spots: dict[str, tuple[float, float]], edge: Edge, few: bool, trunk: bool
) -> None:
    colour, dashes = STYLES[edge.kind]
    (x, y), (to_x, to_y) = spots[edge.parent], spots[edge.child]
    bend = 0.0 if abs(to_y - y) < 1e-9 else min(0.5, (to_x - x) / 2)
    style = "-|>" if edge.decided else "-"
    # Out of the parent's place straight down or up, then along the row of the child.
    path = f"angle,angleA=90,angleB=0,rad={4 if bend else 0}" if bend else "arc3"
    axes.add_patch(
        FancyArrowPatch(
            (x, y), (to_x, to_y), connectionstyle=path if trunk else f"arc3,rad={_BEND}",
            arrowstyle=style, mutation_scale=9, shrinkA=3, shrinkB=5, color=colour,
            linestyle=dashes, linewidth=1.3, alpha=0.95 if trunk else 0.7, zorder=1 if trunk else 2,
        )
    )  # fmt: skip
    if few and edge.length == edge.length:
        share = "" if edge.weight != edge.weight else f"{edge.weight:.2g} × · "
        if trunk:
            axes.text(to_x - 0.12, to_y - 0.04, f"{share}{edge.length:.3g}", fontsize=7,
                      color=colour, va="bottom", ha="right", zorder=4)  # fmt: skip
        else:
            # The middle of the bent line: half as far off the straight one as it is bent.
            middle_x = (x + to_x - _BEND * (to_y - y)) / 2
            middle_y = (y + to_y + _BEND * (to_x - x)) / 2
            axes.text(middle_x, middle_y, f"{share}{edge.length:.3g}", fontsize=7, color=colour,
                      va="center", ha="center", zorder=4,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4})  # fmt: skip


def _legend_handles(lineage: Lineage) -> list[Line2D]:
    kinds = [k for k in STYLES if any(e.kind == k for e in lineage.edges)]
    handles = [
        Line2D([], [], color=STYLES[k][0], linestyle=STYLES[k][1], linewidth=1.6, label=k)
        for k in kinds
    ]
    handles.append(
        Line2D([], [], color="white", marker="s", markerfacecolor=BASE, markersize=7, label="base")
    )
    if any(not e.decided for e in lineage.edges):
        handles.append(Line2D([], [], color="#777777", linewidth=1.3, label="no head: undecided"))
    return handles


def lineage_dot(lineage: Lineage) -> str:
    """Return the tree in Graphviz' language, names quoted."""

    def quoted(text: str) -> str:
        return json.dumps(printable(text, 400), ensure_ascii=False)

    lines = ["digraph lineage {", "  rankdir=LR;", "  node [shape=box];"]
    for number, family in enumerate(lineage.families):
        lines.append(f"  subgraph cluster_{number} {{")
        lines += [
            f"    {quoted(m)}{' [style=bold]' if m == family.root else ''};" for m in family.models
        ]
        lines.append("  }")
    for edge in lineage.edges:
        colour, dashes = STYLES[edge.kind]
        label = edge.kind if edge.weight != edge.weight else f"{edge.kind} {edge.weight:.3g}"
        head = "" if edge.decided else ", dir=none"
        dash = {"-": "solid", "--": "dashed", ":": "dotted"}[dashes]
        lines.append(
            f'  {quoted(edge.parent)} -> {quoted(edge.child)} [label="{label}", '
            f'color="{colour}", style={dash}{head}];'
        )
    return "\n".join([*lines, "}", ""])


def lineage_html(lineage: Lineage) -> str:
    """Return one self-contained page: the drawing, and every edge with its evidence."""
    svg = figure_bytes(lineage_figure(lineage), "svg").decode("utf-8")
    for colour, name in _THEMED.items():
        svg = svg.replace(colour, f"var(--{name})")
    return render_template(
        "plots/lineage.html.j2",
        component=printable(lineage.component),
        models=sum(len(f.models) for f in lineage.families),
        families=len(lineage.families),
        drawing=Markup(svg[svg.index("<svg") :]),
        edges=lineage.edges,
        recipes=[r.sentence() for r in lineage.recipes],
        notes=[*lineage.notes],
        printable=printable,
    )


def save_lineage(lineage: Lineage, path: Path) -> None:
    """Write the lineage in the form that the ending of `path` names.

    Raises:
        UsageError: an ending that is none of `LINEAGE_ENDINGS`.
    """
    ending = path.suffix.lower()
    if ending == ".html":
        write_file(path, lineage_html(lineage))
    elif ending == ".dot":
        write_file(path, lineage_dot(lineage))
    elif ending == ".json":
        text = json.dumps(lineage.to_json(), indent=2, allow_nan=False, ensure_ascii=False)
        write_file(path, text + "\n")
    elif ending == ".graphml":
        named: nx.DiGraph[str] = nx.relabel_nodes(lineage.to_graph(), lambda n: printable(n, 400))
        write_file(path, "\n".join(nx.generate_graphml(named)) + "\n")
    elif ending in LINEAGE_ENDINGS:
        write_file(path, figure_bytes(lineage_figure(lineage), ending.removeprefix(".")))
    else:
        raise UsageError(
            f"cannot write a lineage as {printable(path.name)}",
            f"the file name must end in one of {' '.join(LINEAGE_ENDINGS)}",
        )
