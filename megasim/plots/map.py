"""The figure of a map: models as points, the walk over them, and what the test says of it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from megasim.anatomy.block_order import block_place
from megasim.geometry.embedding import share
from megasim.geometry.layer_geometry import LayerFigures
from megasim.geometry.map import MapResult
from megasim.matrix.distance_matrix import Floats, coverage_note
from megasim.plots.heatmap import (
    METRIC_TITLES,
    component_label,
    drawable,
    minus_signs,
    short_label,
)
from megasim.plots.map_panel import (
    DARK,
    EDGE,
    GREY,
    NAMED,
    PLAIN,
    TABLE,
    MapArt,
    crowded_part,
    draw_panel,
    figure_names,
    inside,
    outline,
    shown_part,
    turn_text,
)

# inches
_WIDTH = 12.0
_LEFT, _MAP = 0.75, 7.3
_SIDE, _SIDE_WIDTH = 9.25, 2.55
_TOP, _AXIS, _ZOOM_TITLE = 0.85, 0.55, 0.2
_CAPTION_LINE, _NAME_LINE, _GROUP_LINE, _STEP_LINE = 0.165, 0.125, 0.19, 0.13
_SPECTRUM, _SCALED = 1.05, 1.75

_FIGURE_SPACE = "\u2007"  # as wide as a digit
_LINE_OF_FONT = 1.2  # what matplotlib takes for a line, in font sizes
_WRAP = 126  # characters of a caption line
_GROUPS = 30  # blocks or roles of layers shown


class _Sheet:
    """A figure whose parts are placed in inches, from its upper left corner down."""

    def __init__(self, height: float) -> None:
        self.height = height
        self.figure = Figure(figsize=(_WIDTH, height))
        FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, tall: float) -> Axes:
        box = (left / _WIDTH, 1 - (top + tall) / self.height, width / _WIDTH, tall / self.height)
        return self.figure.add_axes(box)

    def text(self, left: float, top: float, text: str, **style: Any) -> None:
        style = {"color": DARK, "va": "top"} | style
        self.figure.text(left / _WIDTH, 1 - top / self.height, text, **style)


def map_figure(result: MapResult) -> Figure:
    """Return the map of classical MDS with its walk, the spectrum, metric MDS and the layers.

    Up to 40 models carry their names, more carry numbers and are listed below; of more than 300
    those on the path are numbered. A crowd is enlarged in a second panel. The third axis is
    colour where it holds half a percent of the variance or more. Up to 16 steps are listed with
    length and turn; of more, the caption points to `MapResult.to_frame`. The verdict and its
    evidence stand below the map. Nothing is random: the same result gives the same figure.
    """
    n = len(result.models)
    art = MapArt(result, figure_names(result.models, 26 if 10 < n <= NAMED else 34))
    xy = result.coordinates[:, :2]
    spans = np.ptp(xy, axis=0)
    tall = _MAP * float(np.clip(spans[1] / max(float(spans[0]), 1e-300), 0.42, 0.95))
    size = (72 * _MAP, 72 * tall)
    margin = 0.13 if art.named else 0.06
    whole = shown_part(xy, size, margin)
    crowd = crowded_part(xy, whole, size, margin)
    caption = _caption(result)
    steps = len(result.walk.edges) if len(result.walk.edges) <= TABLE else 0
    maps = tall + _AXIS if crowd is None else 2 * (tall + _AXIS) + _ZOOM_TITLE
    left_end = _TOP + maps + len(caption) * _CAPTION_LINE + 0.2
    right_end = _TOP + _SPECTRUM + _SCALED + 1.3 + (steps + 2) * _STEP_LINE
    layers_top = max(left_end, right_end)
    groups = _layer_groups(result.layers)
    layers_end = layers_top
    if groups:
        layers_end += 0.75 + _GROUP_LINE * max(map(len, groups.values()))
    columns = max(1, int((_WIDTH - 0.8) / (0.35 + 0.055 * max(map(len, art.names)))))
    listed = [] if art.named else np.flatnonzero(art.labelled).tolist()
    rows = -(-len(listed) // columns)
    sheet = _Sheet(layers_end + (0.3 + rows * _NAME_LINE if rows else 0.0) + 0.1)
    metric = METRIC_TITLES[result.matrix.metric]
    title = f"{component_label(result.matrix.component)}: where {len(art.names)} models lie"
    sheet.text(_LEFT, 0.2, drawable(title), fontsize=13, weight="bold")
    note = f"classical MDS, {metric}; {coverage_note(result.matrix)}"
    sheet.text(_LEFT, 0.47, note, fontsize=8.5, color=GREY)
    with sns.axes_style("white"):
        main = sheet.axes(_LEFT, _TOP, _MAP, tall)
        enlarged = np.zeros(len(xy), dtype=bool) if crowd is None else inside(xy, crowd)
        draw_panel(main, art, size, whole, ~enlarged)
        _name_axes(main, result, metric)
        if crowd is not None:
            outline(main, crowd)
            below = sheet.axes(_LEFT, _TOP + tall + _AXIS + _ZOOM_TITLE, _MAP, tall)
            below.set_title("the framed part, enlarged", fontsize=8.5, loc="left")
            draw_panel(below, art, size, crowd, enlarged)
            _name_axes(below, result, metric)
        if art.colours is not None:
            place = sheet.axes(_LEFT + _MAP + 0.12, _TOP, 0.13, min(2.4, tall))
            bar = sheet.figure.colorbar(art.colours, cax=place, extend=art.extend)
            bar.set_label(f"axis 3, {_held(result, 2)}", fontsize=7.5)
            place.tick_params(labelsize=7, length=2)
            bar.outline.set_visible(False)
        top = _TOP + 0.2
        _draw_spectrum(sheet.axes(_SIDE, top, _SIDE_WIDTH, _SPECTRUM), result)
        top += _SPECTRUM + 0.75
        _draw_metric_mds(sheet.axes(_SIDE, top, _SIDE_WIDTH, _SCALED), art)
        if steps:
            _write_steps(sheet, art, top + _SCALED + 0.2)
        for i, (by, names) in enumerate(groups.items()):
            place = sheet.axes(1.85 + i * 5.7, layers_top + 0.3, 4.0, _GROUP_LINE * len(names))
            if result.layers is not None:
                _draw_layers(place, result.layers, by, names)
    top = left_end - 0.2 - len(caption) * _CAPTION_LINE
    for i, line in enumerate(caption):
        style: dict[str, Any] = {"fontsize": 8.2} if i else {"fontsize": 10, "weight": "bold"}
        sheet.text(_LEFT, top + i * _CAPTION_LINE, line, **style)
    if rows:
        width = (_WIDTH - 0.8) / columns
        _write_names(sheet, art.names, listed, rows, layers_end + 0.2, width)
    return sheet.figure


def _name_axes(axes: Axes, result: MapResult, metric: str) -> None:
    axes.set_xlabel(f"axis 1 ({metric}), {_held(result, 0)}", fontsize=8.5)
    axes.set_ylabel(f"axis 2, {_held(result, 1)}", fontsize=8.5)


def _draw_spectrum(axes: Axes, result: MapResult) -> None:
    """Draw how much the first dimensions hold together, beside unrelated steps."""
    # N points lie in N − 1 dimensions, which hold all
    own = np.append(result.test.held, 1.0)[:8]
    walk = np.append(result.test.held_by_walk, 1.0)[:8]
    places = np.arange(1, len(own) + 1)
    axes.bar(places, 100 * own, color=PLAIN, width=0.62, lw=0)
    axes.plot(places, 100 * walk, "D", ms=3.6, mfc="white", mec=DARK, mew=0.9)
    axes.set_title("% of the variance in n dimensions", fontsize=8, loc="left")
    axes.set_xlabel("◇ the same steps at right angles", fontsize=7, loc="right")
    axes.set_xticks(places)
    axes.set_ylim(0, 104)
    axes.tick_params(labelsize=7, length=2)
    sns.despine(ax=axes)


def _draw_metric_mds(axes: Axes, art: MapArt) -> None:
    xy = art.result.metric_coordinates
    part = shown_part(xy, (_SIDE_WIDTH, _SCALED), 0.06)
    segments = [xy[[a, b]] for a, b in art.result.walk.edges]
    axes.add_collection(LineCollection(segments, colors=EDGE, linewidths=0.6))
    axes.scatter(xy[:, 0], xy[:, 1], s=12 if len(xy) <= NAMED else 6, c=art.fill, lw=0, zorder=3)
    axes.set_xlim(part[0], part[2])
    axes.set_ylim(part[1], part[3])
    axes.set_title(f"metric MDS, stress {art.result.stress:.3f}", fontsize=8, loc="left")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#dddddd")


def _write_steps(sheet: _Sheet, art: MapArt, top: float) -> None:
    walk = "the path" if art.result.walk.kind == "path" else "the spanning tree"
    rows = [(f"steps of {walk}", "length", "turn")]
    for (a, b), (length, turn) in zip(art.result.walk.edges.tolist(), art.steps(), strict=True):
        step = f"{short_label(art.names[a], 15)} → {short_label(art.names[b], 15)}"
        rows.append((step, f"{length:.4g}", turn_text(turn, 3)))
    for i, row in enumerate(rows):
        style: dict[str, Any] = {"fontsize": 6.3, "weight": "normal" if i else "bold"}
        y = top + i * _STEP_LINE
        sheet.text(_SIDE, y, row[0], **style)
        sheet.text(_SIDE + 2.12, y, row[1], ha="right", **style)
        sheet.text(_SIDE + 2.6, y, row[2], ha="right", **style)


def _layer_groups(layers: LayerFigures | None) -> dict[str, list[str]]:
    """Return the roles, largest coherence first, and the blocks, as data flows."""
    groups = {}
    for by in ("role", "block"):
        table = layers.summary(by) if layers is not None else None
        if table is None or table.empty:
            continue
        table = table[table["n"] > 0]
        names = [str(x) for x in table.sort_values("coherence", ascending=False).index]
        if by == "block":
            names = sorted(names, key=block_place)
        if names:
            groups[by] = names[:_GROUPS]
    return groups


def _draw_layers(axes: Axes, layers: LayerFigures, by: str, groups: Sequence[str]) -> None:
    """Draw the coherence of the layers of each group, and of each group as a whole."""
    table = layers.summary(by).loc[list(groups)]
    rows = np.arange(len(groups))
    width = table["layer_q3"] - table["layer_q1"]
    axes.barh(rows, width, left=table["layer_q1"], height=0.56, color="#d3d9e0", lw=0)
    axes.plot(table["layer_median"], rows, "|", ms=8, mew=1.2, color="#7a8490")
    error = 2 * table["coherence_error"].fillna(0.0)
    axes.errorbar(
        table["coherence"], rows, xerr=error, fmt="D", ms=3.6, mfc="white", color=DARK, lw=0.9
    )
    axes.axvline(0.0, color=GREY, lw=0.6, zorder=0)
    # bars have no margin of their own, and where layers agree a mark stands at their end
    axes.use_sticky_edges = False
    axes.margins(x=0.08)
    counts = table["n"].tolist()
    labels = [short_label(group or "unnamed", 18) for group in groups]
    axes.set_yticks(rows, [f"{a} ({n})" for a, n in zip(labels, counts, strict=True)], fontsize=7)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=7, length=2)
    title = f"coherence by {by} (layers): quartiles and median of the layers; ◇ together ± 2 errors"
    axes.set_title(title, fontsize=7.2, loc="left", x=-0.3)
    sns.despine(ax=axes, left=True)


def _caption(result: MapResult) -> list[str]:
    verdict = f"Verdict: {result.verdict}."
    if result.direction not in ("none", "not testable"):
        verdict += f" Direction: {result.direction}."
    lines = [verdict]
    for sentence in result.evidence:
        text = minus_signs(drawable(sentence)).replace("$", r"\$")
        lines += textwrap.wrap(text, _WRAP, subsequent_indent="    ")
    count = len(result.walk.edges)
    if count > TABLE:
        lines.append(f"Length and turn of the {count} steps stand in the table of this map (.csv).")
    return lines


def _write_names(
    sheet: _Sheet,
    names: Sequence[str],
    listed: Sequence[int],
    rows: int,
    top: float,
    width: float,
) -> None:
    """Write the list of numbers and names, a column at a time."""
    # one text a column: a thousand small ones take seconds to draw
    spacing = _NAME_LINE * 72 / 6 / _LINE_OF_FONT
    for column, start in enumerate(range(0, len(listed), rows)):
        lines = [f"{i + 1:{_FIGURE_SPACE}>4}  {names[i]}" for i in listed[start : start + rows]]
        x = 0.4 + column * width
        sheet.text(x, top, "\n".join(lines), fontsize=6, linespacing=spacing)


def _held(result: MapResult, axis: int) -> str:
    """Return what an axis holds of the variance."""
    shares: Floats = np.array([share(result.eigenvalues, k) for k in (axis, axis + 1)])
    return f"{100 * float(shares[1] - shares[0]):.1f} % of variance"
