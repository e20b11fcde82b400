"""The figure of a map: models as points, the walk over them, and what the test says of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from megasim.anatomy.block_order import block_place
from megasim.geometry.embedding import share
from megasim.geometry.layer_geometry import LayerFigures
from megasim.geometry.map import MapResult
from megasim.matrix.distance_matrix import Floats, coverage_note
from megasim.plots.labels import (
    METRIC_TITLES,
    component_label,
    drawable,
    figure_names,
    minus_signs,
    short_label,
    widest,
    wrapped,
)
from megasim.plots.map_panel import (
    NAMED,
    PLAIN,
    TABLE,
    MapArt,
    crowded_part,
    draw_panel,
    inside,
    outline,
    shown_part,
    turn_text,
)
from megasim.plots.sheet import Sheet, heading_height
from megasim.plots.style import SMALLEST, Style

# inches
_WIDTH = 9.15  # of what a page shows beside its contents
_LEFT, _MAP = 0.78, 7.4
_AXIS, _ZOOM_TITLE, _VERDICT = 0.62, 0.24, 0.24
_LINE, _GROUP_LINE = 0.17, 0.2
_SMALL = 1.35  # height of the small panels
_SIDE = 0.27  # share of a wide figure that the small panels take

_FIGURE_SPACE = "\u2007"  # as wide as a digit
_LINE_OF_FONT = 1.2  # what matplotlib takes for a line, in font sizes
_GROUPS = 30  # blocks or roles of layers shown


def map_figure(result: MapResult, style: Style | None = None) -> Figure:
    """Return the map of classical MDS with its walk, the spectrum, metric MDS and the layers.

    The verdict stands above the map, its evidence below. Up to 40 models carry their names, more
    carry numbers and are listed below; of more than 300 those on the path are numbered. A crowd is
    enlarged in a second panel. The third axis is colour where it holds half a percent of the
    variance or more. Up to 16 steps are listed with length and turn; of more, the caption points
    to `MapResult.to_frame`. Only a path that was named has heads of arrows: the order along a
    spanning tree is not known. Nothing is random: the same result gives the same figure.

    Where a size is asked for, the map takes it, with the spectrum beside it where it is wide;
    evidence, steps and layers are left to the page and the table.
    """
    style = style or Style()
    with style.applied():
        return _whole(result, style) if style.size is None else _sized(result, style, style.size)


def _whole(result: MapResult, style: Style) -> Figure:
    n = len(result.models)
    art = MapArt(result, figure_names(result.models, 24 if 10 < n <= NAMED else 34), style.theme)
    xy = result.coordinates[:, :2]
    spans = np.ptp(xy, axis=0)
    tall = _MAP * float(np.clip(spans[1] / max(float(spans[0]), 1e-300), 0.5, 0.95))
    size = (72 * _MAP, 72 * tall)
    margin = 0.13 if art.named else 0.06
    part = shown_part(xy, size, margin)
    crowd = crowded_part(xy, part, size, margin)
    title, note = _heading(result)
    head = heading_height(style, _WIDTH, title, note)
    top = head + _VERDICT + 0.1
    evidence = _evidence(result)
    steps = _step_rows(art) if len(result.walk.edges) <= TABLE else []
    maps = tall + _AXIS if crowd is None else 2 * (tall + _AXIS) + _ZOOM_TITLE
    # the numbers are told right below the map
    listed = [] if art.named else np.flatnonzero(art.labelled).tolist()
    columns = max(1, int((_WIDTH - 0.4) / (0.55 + widest(art.names, SMALLEST))))
    rows = -(-len(listed) // columns)
    names_top = top + maps
    small_top = names_top + rows * _LINE + 0.3
    text_top = small_top + max(_SMALL + 0.6, _LINE * (len(steps) + 1)) + 0.05
    layers_top = text_top + len(evidence) * _LINE + 0.3
    groups = _layer_groups(result.layers)
    whole = layers_top
    if groups:
        whole += 0.7 + _GROUP_LINE * max(map(len, groups.values()))
    sheet = Sheet(_WIDTH, whole + 0.1, style)
    sheet.heading(title, note)
    sheet.text(0.14, head - 0.02, _verdict(result), 10.5, weight="bold")
    main = sheet.axes(_LEFT, top, _MAP, tall)
    enlarged = np.zeros(len(xy), dtype=bool) if crowd is None else inside(xy, crowd)
    draw_panel(main, art, size, part, ~enlarged)
    _name_axes(main, result, 1.0)
    if crowd is not None:
        outline(main, crowd, style.theme)
        below = sheet.axes(_LEFT, top + tall + _AXIS + _ZOOM_TITLE, _MAP, tall)
        below.set_title("the framed part, enlarged", fontsize=9, loc="left")
        draw_panel(below, art, size, crowd, enlarged)
        _name_axes(below, result, 1.0)
    _draw_third_axis(sheet, art, _LEFT + _MAP + 0.1, top, min(2.4, tall))
    _draw_spectrum(sheet.axes(0.5, small_top, 2.4, _SMALL), result, sheet)
    _draw_metric_mds(sheet.axes(3.3, small_top, 2.4, _SMALL), art, (2.4, _SMALL))
    _write_steps(sheet, steps, 6.0, small_top - 0.2)
    for i, line in enumerate(evidence):
        sheet.text(0.14, text_top + i * _LINE, line, 9)
    for i, (by, names) in enumerate(groups.items()):
        place = sheet.axes(1.35 + i * 4.6, layers_top + 0.25, 3.0, _GROUP_LINE * len(names))
        if result.layers is not None:
            _draw_layers(place, result.layers, by, names, sheet)
    if rows:
        _write_names(sheet, art.names, listed, rows, names_top, (_WIDTH - 0.4) / columns)
    return sheet.done()


def _sized(result: MapResult, style: Style, size: tuple[float, float]) -> Figure:
    """Return the map within a size: the verdict, the panel and, where it is wide, the spectrum."""
    width, height = size
    k = style.scale(8.5, 5.0)
    n = len(result.models)
    art = MapArt(result, figure_names(result.models, 24), style.theme, k, alone=True)
    title, note = _heading(result)
    room = "; {} of {} names have room"
    head = heading_height(style, width, title, note + room, k)
    lines = wrapped(_verdict(result), 10.5 * k, width - 0.3 * k)
    top = head + (0.05 + 0.2 * len(lines)) * k
    # below seven inches in ten, what stands beside the map would take too much from it
    side = _SIDE * width if width / height > 1.4 else 0.0
    bar = 0.0 if art.colours is None else 0.75 * k
    wide = width - 0.8 * k - bar - side - 0.15 * k
    tall = height - top - 0.55 * k
    sheet = Sheet(width, height, style, k)
    for i, line in enumerate(lines):
        sheet.text(0.14 * k, head - 0.02 * k + 0.19 * i * k, line, 10.5, weight="bold")
    main = sheet.axes(0.8 * k, top, wide, tall)
    xy, points = result.coordinates[:, :2], (72 * wide, 72 * tall)
    part = shown_part(xy, points, 0.13 if art.named else 0.06)
    written = draw_panel(main, art, points, part, np.ones(n, dtype=bool))
    sheet.heading(title, note if written == n else note + room.format(written, n))
    _name_axes(main, result, k)
    _draw_third_axis(sheet, art, 0.8 * k + wide + 0.1 * k, top, min(2.4 * k, tall))
    if side:
        left = width - side + 0.1 * k
        small = (side - 0.3 * k, min(_SMALL * k, 0.36 * tall))
        _draw_spectrum(sheet.axes(left, top + 0.2 * k, *small), result, sheet)
        below = top + small[1] + 1.0 * k
        if below + small[1] < height:
            _draw_metric_mds(sheet.axes(left, below, *small), art, small)
    return sheet.done()


def _heading(result: MapResult) -> tuple[str, str]:
    n, out = len(result.models), len(result.left_out)
    metric = METRIC_TITLES[result.matrix.metric]
    note = f"classical MDS, {metric}; {coverage_note(result.matrix)}"
    if out:
        note += f"; {out} of another architecture left out"
    return f"{component_label(result.matrix.component)}: where {n} models lie", note


def _verdict(result: MapResult) -> str:
    text = f"Verdict: {result.verdict}."
    if result.direction not in ("none", "not testable"):
        text += f" Direction: {result.direction}."
    return text


def _name_axes(axes: Axes, result: MapResult, scale: float) -> None:
    metric = METRIC_TITLES[result.matrix.metric]
    axes.set_xlabel(f"axis 1 ({metric}), {_held(result, 0)}", fontsize=9 * scale)
    axes.set_ylabel(f"axis 2, {_held(result, 1)}", fontsize=9 * scale)


def _draw_third_axis(sheet: Sheet, art: MapArt, left: float, top: float, tall: float) -> None:
    if art.colours is None:
        return
    k = sheet.scale
    place = sheet.axes(left, top, 0.13 * k, tall)
    bar = sheet.figure.colorbar(art.colours, cax=place, extend=art.extend)
    bar.set_label(f"axis 3, {_held(art.result, 2)}", fontsize=SMALLEST * k)
    place.tick_params(labelsize=SMALLEST * k, length=2)
    place.locator_params(nbins=5)
    bar.outline.set_visible(False)


def _draw_spectrum(axes: Axes, result: MapResult, sheet: Sheet) -> None:
    """Draw how much the first dimensions hold together, beside unrelated steps."""
    # N points lie in N − 1 dimensions, which hold all
    own = np.append(result.test.explained, 1.0)[:8]
    walk = np.append(result.test.explained_by_walk, 1.0)[:8]
    places, k, theme = np.arange(1, len(own) + 1), sheet.scale, sheet.style.theme
    axes.bar(places, 100 * own, color=PLAIN, width=0.62, lw=0)
    axes.plot(places, 100 * walk, "D", ms=4 * k, mfc=theme.paper, mec=theme.ink, mew=0.9 * k)
    axes.set_title("% of variance in n dimensions", fontsize=9 * k, loc="left")
    axes.set_xlabel("◇ the same steps at right angles", fontsize=SMALLEST * k, loc="left")
    axes.set_xticks(places)
    axes.set_ylim(0, 104)
    axes.tick_params(labelsize=SMALLEST * k, length=2)
    _open_frame(axes)


def _draw_metric_mds(axes: Axes, art: MapArt, size: tuple[float, float]) -> None:
    xy, k = art.result.metric_coordinates, art.scale
    part = shown_part(xy, size, 0.06)
    segments = [xy[[a, b]] for a, b in art.result.walk.edges]
    axes.add_collection(LineCollection(segments, colors=art.theme.edge, linewidths=0.6 * k))
    dots = (12 if len(xy) <= NAMED else 6) * k * k
    axes.scatter(xy[:, 0], xy[:, 1], s=dots, c=art.fill, lw=0, zorder=3)
    axes.set_xlim(part[0], part[2])
    axes.set_ylim(part[1], part[3])
    axes.set_title(f"metric MDS, stress {art.result.stress:.3f}", fontsize=9 * k, loc="left")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(art.theme.rule)


def _open_frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _step_rows(art: MapArt) -> list[tuple[str, str, str]]:
    path = art.result.walk.kind == "path"
    rows = [(f"steps of {'the path' if path else 'the spanning tree'}", "length", "turn")]
    between = "→" if path else "–"
    for (a, b), (length, turn) in zip(art.result.walk.edges.tolist(), art.steps(), strict=True):
        names = [short_label(art.names[i], 12) for i in (a, b)]
        rows.append((f"{names[0]} {between} {names[1]}", f"{length:.4g}", turn_text(turn, 2)))
    return rows


def _write_steps(
    sheet: Sheet, rows: Sequence[tuple[str, str, str]], left: float, top: float
) -> None:
    for i, row in enumerate(rows):
        look: dict[str, Any] = {"weight": "normal" if i else "bold"}
        y = top + i * _LINE
        sheet.text(left, y, row[0], SMALLEST, **look)
        sheet.text(left + 2.5, y, row[1], SMALLEST, ha="right", **look)
        sheet.text(left + 3.0, y, row[2], SMALLEST, ha="right", **look)


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


def _draw_layers(
    axes: Axes, layers: LayerFigures, by: str, groups: Sequence[str], sheet: Sheet
) -> None:
    """Draw the coherence of the layers of each group, and of each group as a whole."""
    theme = sheet.style.theme
    table = layers.summary(by).loc[list(groups)]
    rows = np.arange(len(groups))
    width = table["layer_q3"] - table["layer_q1"]
    axes.barh(rows, width, left=table["layer_q1"], height=0.56, color=theme.soft, lw=0)
    axes.plot(table["layer_median"], rows, "|", ms=8, mew=1.2, color=theme.quiet)
    error = 2 * table["coherence_error"].fillna(0.0)
    axes.errorbar(
        table["coherence"],
        rows,
        xerr=error,
        fmt="D",
        ms=4,
        mfc=theme.paper,
        color=theme.ink,
        lw=0.9,
    )
    axes.axvline(0.0, color=theme.edge, lw=0.6, zorder=0)
    # bars have no margin of their own, and where layers agree a mark stands at their end
    axes.use_sticky_edges = False
    axes.margins(x=0.08)
    counts = table["n"].tolist()
    labels = [short_label(group or "unnamed", 16) for group in groups]
    named = [f"{a} ({n})" for a, n in zip(labels, counts, strict=True)]
    axes.set_yticks(rows, named, fontsize=SMALLEST)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=SMALLEST, length=2)
    axes.locator_params(axis="x", nbins=6)
    title = f"coherence by {by} (layers): quartiles, median; ◇ ± 2 errors"
    axes.set_title(title, fontsize=SMALLEST, loc="left", x=-0.38)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _evidence(result: MapResult) -> list[str]:
    lines = []
    for sentence in result.evidence:
        text = minus_signs(drawable(sentence)).replace("$", r"\$")
        first, *more = wrapped(text, 9, _WIDTH - 0.5, most=9)
        lines += [first, *(f"    {line}" for line in more)]
    count = len(result.walk.edges)
    if count > TABLE:
        lines.append(f"Length and turn of the {count} steps stand in the table of this map (.csv).")
    return lines


def _write_names(
    sheet: Sheet,
    names: Sequence[str],
    listed: Sequence[int],
    rows: int,
    top: float,
    width: float,
) -> None:
    """Write the list of numbers and names, a column at a time."""
    # one text a column: a thousand small ones take seconds to draw
    spacing = _LINE * 72 / SMALLEST / _LINE_OF_FONT
    for column, start in enumerate(range(0, len(listed), rows)):
        lines = [f"{i + 1:{_FIGURE_SPACE}>4}  {names[i]}" for i in listed[start : start + rows]]
        sheet.text(0.2 + column * width, top, "\n".join(lines), SMALLEST, linespacing=spacing)


def _held(result: MapResult, axis: int) -> str:
    """Return what an axis holds of the variance."""
    shares: Floats = np.array([share(result.eigenvalues, k) for k in (axis, axis + 1)])
    return f"{100 * float(shares[1] - shares[0]):.1f} % of variance"
