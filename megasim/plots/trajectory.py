"""The figure of a chain of models: how far each step goes, and whether it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator

from megasim.errors import NoAnswerError
from megasim.geometry.trajectory import Trajectory
from megasim.matrix.distance_matrix import Floats
from megasim.plots.heatmap import colour_map
from megasim.plots.labels import (
    METRIC_TITLES,
    drawable,
    figure_names,
    minus_signs,
    short_label,
    text_extent,
    widest,
)
from megasim.plots.sheet import Sheet, heading_height, write
from megasim.plots.style import SMALLEST, Style, ink_on

LINES = 6  # parts drawn as lines; more become rows of a heatmap
_MARKERS = "osD^vP"
_DECADE = 8.0  # ratio of lengths from which their axis is logarithmic
_WRITTEN = 120  # cells up to which a heatmap has its numbers written
_WIDE = 10  # columns up to which they have room
_LEAST_FONT = 5.0  # typographic points of a number in a cell; smaller, it is left out
_WIDTH = 9.15  # inches of what a page shows beside its contents
_TALL, _ROW = 2.5, 0.21
_COLOURS = ("#0173b2", "#de8f05", "#029e73", "#d55e01", "#cc78bc", "#ca9161")


def trajectory_figure(
    trajectories: Sequence[Trajectory], *, title: str = "", style: Style | None = None
) -> Figure:
    """Return distance from the start, step lengths, turns and coherence along one chain.

    Up to 6 parts are lines, more are rows of heatmaps. What was not compared is left out of a
    line, and grey in a heatmap.

    Args:
        trajectories: all of one chain and one metric.
        title: by default the number of models and parts.

    Raises:
        NoAnswerError: no trajectories.
        ValueError: trajectories of different chains or metrics.
    """
    if not trajectories:
        raise NoAnswerError("there is no trajectory to draw", "name a chain of models")
    first = trajectories[0]
    if any((t.models, t.metric) != (first.models, first.metric) for t in trajectories):
        raise ValueError("a figure shows one chain and one metric")
    title = drawable(title) or f"{len(first.models)} models, step by step"
    style = style or Style()
    with style.applied():
        draw = _as_lines if len(trajectories) <= LINES else _as_heatmaps
        return draw(trajectories, title, style)


def _as_lines(trajectories: Sequence[Trajectory], title: str, style: Style) -> Figure:
    models = figure_names(trajectories[0].models, 20)
    n = len(models)
    note = _note(trajectories)
    k = style.scale(_WIDTH, 4.2)
    width, _ = style.size or (_WIDTH, 0.0)
    head = heading_height(style, width, title, note, k) + 0.3 * k
    bars = 0.95 * k
    wide = (width - bars - (0.6 + 0.62 * 2 + 0.35 + 0.15) * k) / 3
    angled = widest(models, SMALLEST * k) * n > 0.9 * wide
    foot = 0.2 * k + (0.68 * widest(models, SMALLEST * k) if angled else 0.1)
    tall = _TALL if style.size is None else max(style.size[1] - head - foot - 0.1, 0.5)
    sheet = Sheet(width, head + tall + foot + 0.1, style, k)
    sheet.heading(title, note)
    metric = METRIC_TITLES[trajectories[0].metric]
    panels = {
        f"from {short_label(models[0], 16)} ({metric})": _from_start,
        f"step into the model ({metric})": _steps,
        "turn cosine at the model": _turns,
    }
    for i, (name, values) in enumerate(panels.items()):
        axes = sheet.axes(0.6 * k + i * (wide + 0.62 * k), head, wide, tall)
        for t, colour, marker in zip(trajectories, _COLOURS, _MARKERS, strict=False):
            label = short_label(t.label, 18)
            look: dict[str, Any] = {"color": colour, "marker": marker, "ms": 4.5 * k, "lw": 1.3 * k}
            axes.plot(range(n), values(t), label=label, clip_on=False, **look)
        axes.set_title(name, fontsize=SMALLEST * k, loc="left")
        # more models than lines of text fit beside each other: some are named
        every = max(1, int(np.ceil(n * 1.15 * SMALLEST * k / 72 / wide))) if angled else 1
        _name_columns(axes, np.arange(0, n, every), models[::every], k, angled=angled)
        axes.set_xlim(-0.3, n - 0.7)
        axes.tick_params(axis="y", labelsize=SMALLEST * k, length=2)
        if i < 2:
            _scale(axes, np.concatenate([values(t) for t in trajectories]))
        else:
            axes.axhline(0.0, color=style.theme.edge, lw=0.7)
            axes.set_ylim(*_turn_limits(trajectories))
            if not np.isfinite(np.concatenate([t.turn_cosines for t in trajectories])).any():
                _say(axes, "not known: no pair two steps\napart was compared", sheet)
        axes.spines[["top", "right"]].set_visible(False)
        if i == 0 and len(trajectories) > 1:
            axes.legend(fontsize=SMALLEST * k)
    left = width - bars - 0.15 * k
    _coherence_bars(sheet.axes(left, head, bars, tall), trajectories, sheet, coloured=True)
    return sheet.done()


def _as_heatmaps(trajectories: Sequence[Trajectory], title: str, style: Style) -> Figure:
    models = figure_names(trajectories[0].models, 20)
    parts = len(trajectories)
    note = _note(trajectories)
    k = style.scale(_WIDTH, 2.2 + parts * _ROW)
    width, _ = style.size or (_WIDTH, 0.0)
    head = heading_height(style, width, title, note, k) + 0.3 * k
    foot = 0.2 * k + 0.68 * widest(models, SMALLEST * k)
    rows = parts * _ROW if style.size is None else max(style.size[1] - head - foot - 0.1, 0.5)
    sheet = Sheet(width, head + rows + foot + 0.1, style, k)
    sheet.heading(title, note)
    labels = [short_label(t.label, 20) for t in trajectories]
    steps = np.array([t.steps for t in trajectories])
    totals = np.array([t.root_of_squares for t in trajectories])[:, None]
    relative = np.divide(steps, totals, out=np.full_like(steps, np.nan), where=totals > 0)
    turns = np.array([t.turn_cosines for t in trajectories]).reshape(parts, -1)
    distances = colour_map(style.theme)
    shown: list[tuple[str, Floats, Sequence[str], ScalarMappable]] = [
        (
            "step ÷ root of the squared steps",
            relative,
            models[1:],
            ScalarMappable(Normalize(0, np.nanmax(relative, initial=1e-9)), distances),
        )
    ]
    if np.isfinite(turns).any():
        reach = max(0.2, float(np.nanmax(np.abs(turns))))
        colours = ScalarMappable(
            Normalize(-reach, reach), distances if style.theme.grey else "PuOr_r"
        )
        shown.append(("turn cosine", turns, models[1:-1], colours))
    left, bars = 0.2 * k + widest(labels, SMALLEST * k), 0.95 * k
    room = width - left - bars - (0.2 + 0.75 * len(shown)) * k
    total = sum(values.shape[1] for _, values, _, _ in shown)
    size = min(SMALLEST * k, 72 * 0.8 * rows / parts)
    for i, (name, values, columns, colours) in enumerate(shown):
        wide = room * values.shape[1] / total
        axes = sheet.axes(left, head, wide, rows)
        _draw_matrix(axes, values, colours, sheet, (wide / values.shape[1], rows / parts))
        _name_columns(axes, np.arange(len(columns)) + 0.5, columns, k, angled=True)
        axes.set_yticks(np.arange(parts) + 0.5, labels if i == 0 else [""] * parts, fontsize=size)
        axes.tick_params(axis="y", length=0)
        axes.set_title(name, fontsize=SMALLEST * k, loc="left")
        place = sheet.axes(left + wide + 0.06 * k, head, 0.09 * k, rows)
        sheet.figure.colorbar(colours, cax=place).outline.set_visible(False)
        place.tick_params(labelsize=SMALLEST * k, length=2)
        left += wide + 0.75 * k
    _coherence_bars(
        sheet.axes(width - bars - 0.15 * k, head, bars, rows), trajectories, sheet, coloured=False
    )
    return sheet.done()


def _draw_matrix(
    axes: Axes, values: Floats, colours: ScalarMappable, sheet: Sheet, cell: tuple[float, float]
) -> None:
    """Paint the cells, missing ones grey, and write their numbers where there is room.

    Args:
        cell: inches of its width and height.
    """
    theme, k = sheet.style.theme, sheet.scale
    rows, columns = values.shape
    axes.add_patch(Rectangle((0, 0), columns, rows, facecolor=theme.missing, lw=0, zorder=0))
    painted = colours.to_rgba(np.ma.masked_invalid(values))
    painted[np.isnan(values)] = 0.0
    axes.imshow(painted, aspect="auto", interpolation="none", extent=(0, columns, rows, 0))
    axes.spines[:].set_visible(False)
    if values.size > _WRITTEN or columns > _WIDE:
        return
    texts = _written(values)
    longest = max((text_extent(t, 1.0)[0] for t in texts.flat), default=1.0)
    size = min(SMALLEST * k, 0.94 * 72 * cell[0] / longest, 0.8 * 72 * cell[1])
    for (row, column), text in np.ndenumerate(texts):
        if size >= _LEAST_FONT and not np.isnan(values[row, column]):
            ink = ink_on(painted[row, column, :3])
            write(axes, (column + 0.5, row + 0.5), text, size, color=ink)


def _name_columns(
    axes: Axes, places: npt.NDArray[Any], names: Sequence[str], scale: float, *, angled: bool
) -> None:
    axes.set_xticks(places, names, fontsize=SMALLEST * scale, rotation=40 if angled else 0)
    axes.tick_params(axis="x", length=2, pad=2)
    for tick in axes.get_xticklabels() if angled else []:
        tick.set_horizontalalignment("right")
        tick.set_rotation_mode("anchor")


def _written(values: Floats) -> npt.NDArray[Any]:
    return np.array([[minus_signs(f"{v:z.2f}") for v in row] for row in values.tolist()])


def _coherence_bars(
    axes: Axes, trajectories: Sequence[Trajectory], sheet: Sheet, *, coloured: bool
) -> None:
    theme, k = sheet.style.theme, sheet.scale
    values = np.array([t.coherence for t in trajectories])
    rows = np.arange(len(values))
    colours: Any = _COLOURS[: len(values)] if coloured else theme.edge
    axes.barh(rows, np.nan_to_num(values), color=colours, height=0.6, lw=0)
    known = values[np.isfinite(values)]
    low, high = float(known.min(initial=0.0)), float(known.max(initial=0.0))
    room = max(high - low, 0.05)
    axes.set_xlim(low - 0.1 * room, high + 0.95 * room)
    for row, value in zip(rows.tolist(), values.tolist(), strict=True):
        text = "n. a." if np.isnan(value) else minus_signs(f"{value:z.3f}")
        at = 0.0 if np.isnan(value) else max(value, 0.0)
        axes.text(at + 0.04 * room, row, text, fontsize=SMALLEST * k, va="center")
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_yticks([])
    axes.axvline(0.0, color=theme.edge, lw=0.7)
    axes.set_title("coherence", fontsize=SMALLEST * k, loc="left")
    axes.tick_params(axis="x", labelsize=SMALLEST * k, length=2)
    axes.locator_params(axis="x", nbins=2)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _from_start(t: Trajectory) -> Floats:
    return t.from_start


def _steps(t: Trajectory) -> Floats:
    return np.concatenate([[np.nan], t.steps])


def _turns(t: Trajectory) -> Floats:
    return np.concatenate([[np.nan], t.turn_cosines, [np.nan]])


def _turn_limits(trajectories: Sequence[Trajectory]) -> tuple[float, float]:
    turns = np.concatenate([[0.0], *(t.turn_cosines for t in trajectories)])
    low, high = float(np.nanmin(turns)), float(np.nanmax(turns))
    return min(low * 1.15, -0.05), max(high * 1.15, 0.25)


def _scale(axes: Axes, values: Floats) -> None:
    known = values[np.isfinite(values)]
    if known.size and 0 < known.min() * _DECADE < known.max():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.tick_params(axis="y", which="minor", labelleft=False)
    else:
        axes.set_ylim(bottom=0.0)


def _say(axes: Axes, text: str, sheet: Sheet) -> None:
    size = SMALLEST * sheet.scale
    write(axes, (0.5, 0.75), text, size, transform=axes.transAxes, color=sheet.quiet)


def _note(trajectories: Sequence[Trajectory]) -> str:
    keys = [t.keys for t in trajectories]
    missing = sum(t.keys_left_out for t in trajectories)
    parts = [METRIC_TITLES[trajectories[0].metric]]
    if any(keys):
        named = [f"{short_label(t.label, 18)} {t.keys}" for t in trajectories]
        # the first part may be all of them together
        total = max(keys[0], sum(keys[1:]))
        listed = ", ".join(named) if len(named) <= LINES else f"{total} in {len(keys)} parts"
        parts.append(f"layers: {listed}")
    if missing:
        layers = "layer" if missing == 1 else "layers"
        parts.append(f"{missing} {layers} left out, not compared at every step")
    if any(np.isnan(t.from_start).any() for t in trajectories):
        parts.append("pairs that were not compared are missing")
    return drawable("; ".join(parts))
