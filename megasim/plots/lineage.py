"""The family tree as a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path as Path2D

from megasim.anatomy.classification import component_title
from megasim.errors import printable
from megasim.lineage.layout import TreeLayout, lay_out
from megasim.lineage.result import Edge, Lineage
from megasim.plots.figure_files import set_hover
from megasim.plots.labels import fitting, short_label, text_extent, widest
from megasim.plots.sheet import Sheet, heading_height, write
from megasim.plots.style import SMALLEST, Style
from megasim.words import EdgeKind

# What a theme calls the colour of a kind of step, and its dashes, so that colour tells nothing
# that dashes and words do not.
KINDS: dict[EdgeKind, tuple[str, Literal["-", "--", ":"]]] = {
    EdgeKind.FINE_TUNE: ("fine_tune", "-"),
    EdgeKind.EPOCH_STEP: ("epoch", "-"),
    EdgeKind.MERGE: ("merge", "-"),
    EdgeKind.PRUNED: ("derived", "--"),
    EdgeKind.CAST: ("derived", ":"),
    EdgeKind.QUANTISED: ("derived", ":"),
    EdgeKind.QUANTISED_AND_CHANGED: ("fine_tune", ":"),
    EdgeKind.COMPONENT_SWAP: ("swap", "--"),
    EdgeKind.COPY: ("trunk", ":"),
    EdgeKind.SAME_IN_SAMPLE: ("trunk", ":"),
    EdgeKind.PERMUTED: ("trunk", ":"),
}
# Up to this many models the tree grows to the right, and its edges are written on; more are an
# outline with a column of lengths beside it.
LABELLED = 24
_WIDTH = 9.15  # inches of what a page shows beside its contents
_FONT = 9.2
_LEAST_FONT = 6.0
_ROW = 0.2  # inches
_FEW_ROW = 0.52
_BRANCH = 1.25  # inches of an edge that is written on
_INDENT = 0.3
_DEEPEST = 3.4  # inches that all indents together may take
_BEND = 0.12
_LANE = 0.09  # inches between edges beside the labels of an outline
_MOST_STEP, _LENGTH, _SURE = 2.6, 0.75, 1.35  # inches of the columns beside an outline


def lineage_figure(lineage: Lineage, style: Style | None = None) -> Figure:
    """Return the family tree: bases at the left, each model right of what it was made from.

    Each edge has its length, a merge the share of each parent, and how sure it is: the
    probability of its direction, or how much of the merge is explained. Of more than `LABELLED`
    models it is an outline: each model in a row of its own, below what it was made from, with
    these beside it; its other parents come in from the right. In an SVG models and edges say
    more where the pointer rests on them.

    An edge whose direction is undecided has no arrow head. A base is a filled square, a merge
    a diamond. Line widths do not mean anything.
    """
    style = style or Style()
    with style.applied():
        return _Drawing(lineage, style).drawn()


class _Drawing:
    """A tree in the making; places are inches from the upper left corner.

    Attributes:
        few: whether the edges are written on; else they are written beside the outline.
        starts: x of each column. ends: x where the label of each model ends.
        lanes: x of the edges that run past the labels of an outline.
        named: the models that have a label; of rows too low for text only some.
        into: the edges into each model. step: inches that their words take beside an outline.
        k: of text, against its natural size. row: height of a row.
    """

    def __init__(self, lineage: Lineage, style: Style) -> None:
        self.lineage, self.style = lineage, style
        self.few = sum(len(f.models) for f in lineage.families) <= LABELLED
        self.layout = lay_out(lineage, outline=not self.few)
        self.title = f"Descent over the {component_title(lineage.component)}"
        self.note = (
            "lengths are L2; per cent tell how sure a direction is, of a merge how much of it is "
            "explained"
        )
        self.handles = _legend_handles(lineage, style)
        self.named: set[str] = set()
        self.into: dict[str, list[Edge]] = {}
        for edge in lineage.edges:
            self.into.setdefault(edge.child, []).append(edge)
        said = widest([_made_of(edges) for edges in self.into.values()], SMALLEST)
        self.step = min(max(said, 0.9) + 0.15, _MOST_STEP)
        self.k, self.row = 1.0, _FEW_ROW if self.few else _ROW
        self._measure(_WIDTH)
        height = self.top + self.row * self.layout.rows + 0.12
        self.size, self.every = (self.width, max(height, 1.6)), 1
        if style.size is not None:
            self.size = style.size
            self.k = style.scale(self.width, 4.0 if self.few else 5.5)
            self._measure(style.size[0])
            self.row = (style.size[1] - self.top - 0.12 * self.k) / max(self.layout.rows, 1.0)
            self.row = min(self.row, self.k * (2.6 * _FEW_ROW if self.few else 1.6 * _ROW))
        # rows that are lower than a line of text have smaller names, or only some have one
        self.font = max(min(_FONT * self.k, 72 * 0.85 * self.row), _LEAST_FONT)
        self.every = max(1, math.ceil(self.font / (72 * 0.85 * self.row) - 1e-9))
        if self.every > 1:
            self.note += f"; one name of {self.every} has room"
        self.sheet = Sheet(*self.size, style, self.k)

    def _measure(self, width: float) -> None:
        """Find the columns and what stands beside them, at least as wide as asked for."""
        lineage, k = self.lineage, self.k
        self.starts = _column_starts(self.layout, self.few, k)
        used = max(self._label_ends().values(), default=2.0) + 0.2
        if self.few and len(self.starts) > 1:  # a wide page has long edges
            more = min((width - used) / (len(self.starts) - 1), 1.8 * k)
            if more > 0:
                self.starts = [x + i * more for i, x in enumerate(self.starts)]
        self.ends = self._label_ends()
        trunk = self.layout.trunk
        others = [e for e in lineage.edges if e is not trunk.get(e.child)]
        self.lanes = {} if self.few else _lanes(others, self.layout, self.ends)
        reach = max([*self.ends.values(), *self.lanes.values()], default=2.0) + 0.15
        beside = 0.0 if self.few else (self.step + _LENGTH + _SURE) * k + 0.3
        self.width = max(reach + beside, width)
        self.in_a_line = max(int((self.width - 0.2) / (1.45 * k)), 1)
        self.head = heading_height(self.style, self.width, self.title, self.note, k)
        lines = -(-len(self.handles) // self.in_a_line)
        self.top = self.head + (0.1 + 0.2 * lines + (0.0 if self.few else 0.2)) * k

    def _label_ends(self) -> dict[str, float]:
        font = _FONT * self.k
        return {
            m: self.starts[c] + 0.2 * self.k + text_extent(short_label(m), font)[0] / 72
            for m, (c, _) in self.layout.places.items()
        }

    def drawn(self) -> Figure:
        width, height = self.size
        k, sheet, layout = self.k, self.sheet, self.layout
        sheet.heading(self.title, self.note)
        axes = sheet.axes(0, 0, width, height)
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        spots = {
            m: (self.starts[c], self.top + self.row * (r + 0.5))
            for m, (c, r) in layout.places.items()
        }
        for edge in self.lineage.edges:
            lane = self.lanes.get((edge.parent, edge.child))
            if lane is None:
                self._draw_edge(axes, spots, edge, edge is layout.trunk.get(edge.child))
            else:
                (start, y), (end, to_y) = (
                    (self.ends[m], spots[m][1]) for m in (edge.parent, edge.child)
                )
                self._draw_aside(axes, edge, [(start, y), (lane, y), (lane, to_y), (end, to_y)])
        self._draw_models(axes, spots)
        if not self.few:
            self._write_beside(axes, spots)
        for title, at in layout.headings:
            if len(self.lineage.families) > 1:
                y = self.top + self.row * (at + 0.5)
                write(axes, (0.18, y), title, self.font, color=sheet.quiet, ha="left")
        axes.legend(
            handles=self.handles,
            loc="upper left",
            bbox_to_anchor=(0.1 * k, self.head),
            bbox_transform=axes.transData,
            ncols=min(len(self.handles), self.in_a_line),
            fontsize=SMALLEST * k,
            handlelength=1.6,
            columnspacing=1.2,
            borderpad=0,
        )
        return sheet.done()

    def _draw_models(self, axes: Axes, spots: dict[str, tuple[float, float]]) -> None:
        theme, k = self.style.theme, self.k
        bases = {f.root for f in self.lineage.families}
        for number, (model, (x, y)) in enumerate(sorted(spots.items(), key=lambda s: s[1][1])):
            base = model in bases
            merge = any(e.kind == EdgeKind.MERGE for e in self.into.get(model, ()))
            (mark,) = axes.plot(
                [x],
                [y],
                "s" if base else "D" if merge else "o",
                markersize=min((8 if base else 5.5) * k, 50 * self.row),
                markerfacecolor=theme.ink if base else theme.merge if merge else theme.paper,
                markeredgecolor=theme.ink,
                markeredgewidth=0.9 * k,
                zorder=3,
            )
            told = "\n".join(
                [printable(model, 200), *(e.sentence() for e in self.into.get(model, ()))]
            )
            set_hover(mark, told)
            if number % self.every:
                continue
            self.named.add(model)
            label = write(
                axes,
                (x + 0.11 * k, y),
                short_label(model),
                self.font,
                ha="left",
                va="center_baseline",
                fontweight="bold" if base else "normal",
                bbox={"facecolor": theme.paper, "edgecolor": "none", "pad": 0.4},
                zorder=4,
            )
            set_hover(label, told)

    def _draw_aside(self, axes: Axes, edge: Edge, corners: list[tuple[float, float]]) -> None:
        """Draw an edge of an outline along its corners, out of one label and into another."""
        name, dashes = KINDS[edge.kind]
        arrow = FancyArrowPatch(
            path=Path2D(corners),
            arrowstyle="-|>" if edge.decided else "-",
            mutation_scale=min(7 * self.k, 40 * self.row),
            color=getattr(self.style.theme, name),
            linestyle=dashes,
            linewidth=1.0 * self.k,
            zorder=1,
            fill=False,
            joinstyle="round",
        )
        set_hover(arrow, edge.sentence())
        axes.add_patch(arrow)

    def _draw_edge(
        self, axes: Axes, spots: dict[str, tuple[float, float]], edge: Edge, trunk: bool
    ) -> None:
        name, dashes = KINDS[edge.kind]
        k = self.k
        (x, y), (to_x, to_y) = spots[edge.parent], spots[edge.child]
        bend = 0.0 if abs(to_y - y) < 1e-9 else min(0.5, (to_x - x) / 2)
        # Out of the parent's place straight down or up, then along the row of the child.
        # In a deep outline that row is short: what does not fit would turn the head the other way.
        along = 72 * (to_x - x) if trunk and bend else math.inf
        rad = min(4.0, 0.2 * along)
        path = f"angle,angleA=90,angleB=0,rad={rad:.3g}" if bend else "arc3"
        arrow = FancyArrowPatch(
            (x, y),
            (to_x, to_y),
            connectionstyle=path if trunk else f"arc3,rad={_BEND}",
            arrowstyle="-|>" if edge.decided else "-",
            mutation_scale=min(9 * k, 45 * self.row, 0.8 * along),
            shrinkA=min(3 * k, 0.3 * along),
            shrinkB=min(5 * k, 0.35 * along),
            color=getattr(self.style.theme, name),
            linestyle=dashes,
            linewidth=1.4 * k,
            zorder=1 if trunk else 2,
        )
        set_hover(arrow, edge.sentence())
        axes.add_patch(arrow)
        if not self.few or math.isnan(edge.length):
            return
        share = "" if math.isnan(edge.weight) else f"{edge.weight:.2g} × · "
        text = f"{share}{edge.length:.3g}"
        small, quiet = min(SMALLEST * k, 72 * 0.36 * self.row), self.style.theme.quiet
        if trunk:
            at = to_x - 0.13 * k
            for place, said in (("bottom", text), ("top", _sure(edge))):
                off = (-0.02 if place == "bottom" else 0.03) * k
                look = {"color": quiet, "va": place, "ha": "right", "zorder": 4}
                write(axes, (at, to_y + off), said, small, **look)
            return
        # The middle of the bent line: half as far off the straight one as it is bent.
        middle_x = (x + to_x - _BEND * (to_y - y)) / 2
        middle_y = (y + to_y + _BEND * (to_x - x)) / 2
        write(
            axes,
            (middle_x, middle_y),
            text,
            small,
            color=quiet,
            zorder=4,
            bbox={"facecolor": self.style.theme.paper, "edgecolor": "none", "pad": 0.4},
        )

    def _write_beside(self, axes: Axes, spots: dict[str, tuple[float, float]]) -> None:
        """Write kind or recipe, length and certainty of each model's step beside the outline."""
        k, theme = self.k, self.style.theme
        right = self.size[0] - 0.15
        length, step = right - _SURE * k, right - (_SURE + _LENGTH + self.step) * k
        small = min(SMALLEST * k, self.font)
        rows = [(self.top - 0.02 * k, ("step", "length", "how sure"), "bold", small)]
        for model, edges in self.into.items():
            if model not in self.named:
                continue
            y = spots[model][1]
            trunk = self.layout.trunk[model]
            said = (_made_of(edges), f"{trunk.length:.3g}", _sure(trunk))
            rows.append((y, said, "normal", small))
            start = max([self.ends[model], *(self.lanes.get((e.parent, model), 0) for e in edges)])
            axes.plot([start + 0.08, step - 0.08], [y, y], ":", color=theme.rule, lw=0.8, zorder=0)
        for y, (what, long, sure), weight, font in rows:
            look = {"va": "center_baseline", "fontweight": weight}
            what = fitting(what, font, self.step * k - 0.1)
            write(axes, (step, y), what, font, ha="left", **look)
            write(axes, (length, y), long, font, ha="right", **look)
            write(axes, (right, y), sure, font, ha="right", color=theme.quiet, **look)


def _made_of(edges: Sequence[Edge]) -> str:
    """Return the kind of a step, or the shares of the parents of a merge."""
    shares = [e for e in edges if not math.isnan(e.weight)]
    if not shares:
        return str(edges[0].kind)
    terms = [f"{e.weight:.2g} × {short_label(e.parent, 14)}" for e in shares]
    return " + ".join(terms).replace("+ -", "− ")


def _sure(edge: Edge) -> str:
    percent = 100 * edge.confidence
    text = ">99 %" if percent > 99 else f"{percent:.0f} %"
    return text if edge.decided else f"undecided, {text}"


def _column_starts(layout: TreeLayout, few: bool, scale: float) -> list[float]:
    """Return the x of each column in inches; it fits its labels, or is a step of an outline."""
    first = 0.3 * scale
    if not few:
        indent = min(_INDENT, _DEEPEST / layout.columns) * scale
        return [first + indent * column for column in range(layout.columns)]
    names: list[list[str]] = [[] for _ in range(layout.columns)]
    for model, (column, _) in layout.places.items():
        names[column].append(short_label(model))
    starts = [first]
    for of_column in names[:-1]:
        label = widest(of_column, _FONT * scale, bold=True)
        starts.append(starts[-1] + label + _BRANCH * scale)
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


def _legend_handles(lineage: Lineage, style: Style) -> list[Line2D]:
    theme = style.theme
    kinds = [k for k in KINDS if any(e.kind == k for e in lineage.edges)]
    handles = [
        Line2D([], [], color=getattr(theme, KINDS[k][0]), ls=KINDS[k][1], lw=1.6, label=k)
        for k in kinds
    ]
    handles.append(Line2D([], [], ls="", marker="s", ms=7, color=theme.ink, label="base"))
    if any(not e.decided for e in lineage.edges):
        handles.append(Line2D([], [], color=theme.trunk, lw=1.3, label="no head: undecided"))
    return handles
