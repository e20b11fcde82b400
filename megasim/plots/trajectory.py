"""The figure of a chain of models: how far each step goes, and whether it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from megasim.errors import NoAnswerError
from megasim.geometry.trajectory import Trajectory
from megasim.matrix.distance_matrix import Floats
from megasim.plots.heatmap import METRIC_TITLES, MISSING, drawable, minus_signs, short_label
from megasim.plots.map_panel import DARK, GREY, figure_names

LINES = 6  # parts drawn as lines; more become rows of a heatmap
_MARKERS = "osD^vP"
_DECADE = 8.0  # ratio of lengths from which their axis is logarithmic
_WRITTEN = 120  # cells up to which a heatmap has its numbers written
_WIDE = 10  # columns up to which they have room


def trajectory_figure(trajectories: Sequence[Trajectory], *, title: str = "") -> Figure:
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
    title = title or f"{len(first.models)} models, step by step"
    with sns.axes_style("white"):
        draw = _as_lines if len(trajectories) <= LINES else _as_heatmaps
        figure = draw(trajectories)
    height = figure.get_figheight()
    figure.text(0.02, 1 - 0.1 / height, drawable(title), fontsize=12, weight="bold", va="top")
    figure.text(0.02, 1 - 0.36 / height, _note(trajectories), fontsize=8, color=GREY, va="top")
    return figure


def _as_lines(trajectories: Sequence[Trajectory]) -> Figure:
    models = figure_names(trajectories[0].models, 20)
    n = len(models)
    # a panel is 2.5 inches wide, a letter of its ticks about 0.06
    angled = n > 6 or max(map(len, models)) * n > 36
    bottom = 0.5 + 0.045 * max(map(len, models)) if angled else 0.75
    width, height = 12.5, 3.1 + bottom + 0.95
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    metric = METRIC_TITLES[trajectories[0].metric]
    panels = {
        f"from {short_label(models[0], 22)} ({metric})": _from_start,
        f"step into the model ({metric})": _steps,
        "turn cosine at the model": _turns,
    }
    palette = sns.color_palette("colorblind", len(trajectories))
    for k, (name, values) in enumerate(panels.items()):
        left = 0.075 + k * 0.25
        axes = figure.add_axes((left, bottom / height, 0.2, 3.1 / height))
        for t, colour, marker in zip(trajectories, palette, _MARKERS, strict=False):
            label = short_label(t.label, 18)
            style: dict[str, Any] = {"color": colour, "marker": marker, "ms": 4.5, "lw": 1.3}
            axes.plot(range(n), values(t), label=label, clip_on=False, **style)
        axes.set_title(name, fontsize=8.5, loc="left")
        axes.set_xticks(range(n), models, fontsize=7, rotation=40 if angled else 0)
        if angled:
            for tick in axes.get_xticklabels():
                tick.set_horizontalalignment("right")
                tick.set_rotation_mode("anchor")
        axes.set_xlim(-0.3, n - 0.7)
        axes.tick_params(axis="y", labelsize=7.5, length=2)
        if k < 2:
            _scale(axes, np.concatenate([values(t) for t in trajectories]))
        else:
            axes.axhline(0.0, color=GREY, lw=0.7)
            axes.set_ylim(*_turn_limits(trajectories))
            if not np.isfinite(np.concatenate([t.turn_cosines for t in trajectories])).any():
                _say(axes, "not known: no pair two steps\napart was compared")
        sns.despine(ax=axes)
        if k == 0 and len(trajectories) > 1:
            axes.legend(fontsize=7.5, frameon=False)
    _coherence_bars(figure.add_axes((0.875, bottom / height, 0.11, 3.1 / height)), trajectories)
    return figure


def _as_heatmaps(trajectories: Sequence[Trajectory]) -> Figure:
    models = figure_names(trajectories[0].models, 20)
    parts, n = len(trajectories), len(models)
    rows = parts * 0.2
    width, height = 12.5, rows + 2.0
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    labels = [short_label(t.label, 20) for t in trajectories]
    steps = np.array([t.steps for t in trajectories])
    totals = np.array([t.root_of_squares for t in trajectories])[:, None]
    relative = np.divide(steps, totals, out=np.full_like(steps, np.nan), where=totals > 0)
    turns = np.array([t.turn_cosines for t in trajectories]).reshape(parts, -1)
    shown: list[tuple[str, Floats, Sequence[str], dict[str, Any]]] = [
        ("step ÷ root of the squared steps", relative, models[1:], {"cmap": "cividis", "vmin": 0}),
    ]
    if np.isfinite(turns).any():
        reach = max(0.2, float(np.nanmax(np.abs(turns))))
        style = {"cmap": "PuOr_r", "vmin": -reach, "vmax": reach}
        shown.append(("turn cosine", turns, models[1:-1], style))
    left, bottom, tall = 0.1, 1.0 / height, rows / height
    for k, (name, values, columns, style) in enumerate(shown):
        wide = (0.35 if len(shown) == 2 else 0.7) * max(values.shape[1] / max(n - 1, 1), 0.3)
        axes = figure.add_axes((left, bottom, wide, tall))
        bar = figure.add_axes((left + wide + 0.005, bottom, 0.008, tall))
        axes.set_facecolor(MISSING)
        written = values.size <= _WRITTEN and values.shape[1] <= _WIDE
        sns.heatmap(
            values,
            mask=np.isnan(values),
            ax=axes,
            cbar_ax=bar,
            annot=_written(values) if written else False,
            fmt="",
            annot_kws={"size": 6},
            xticklabels=list(columns),
            yticklabels=labels if k == 0 else False,
            linewidths=0.3,
            **style,
        )
        bar.tick_params(labelsize=6.5, length=2)
        axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=40, fontsize=7)
        for tick in axes.get_xticklabels():
            tick.set_horizontalalignment("right")
            tick.set_rotation_mode("anchor")
        axes.tick_params(axis="y", labelsize=7, length=0)
        axes.set_title(name, fontsize=8.5, loc="left")
        left += wide + 0.06
    place = figure.add_axes((0.9, bottom, 0.09, tall))
    _coherence_bars(place, trajectories, labelled=False)
    return figure


def _written(values: Floats) -> npt.NDArray[Any]:
    return np.array([[minus_signs(f"{v:z.2f}") for v in row] for row in values.tolist()])


def _coherence_bars(axes: Axes, trajectories: Sequence[Trajectory], labelled: bool = True) -> None:
    values = np.array([t.coherence for t in trajectories])
    rows = np.arange(len(values))
    palette: Any = sns.color_palette("colorblind", len(values)) if labelled else "#7a8490"
    axes.barh(rows, np.nan_to_num(values), color=palette, height=0.6, lw=0)
    known = values[np.isfinite(values)]
    low, high = float(known.min(initial=0.0)), float(known.max(initial=0.0))
    room = max(high - low, 0.05)
    axes.set_xlim(low - 0.1 * room, high + (0.75 if labelled else 0.9) * room)
    for row, value in zip(rows.tolist(), values.tolist(), strict=True):
        text = "n. a." if np.isnan(value) else minus_signs(f"{value:z.3f}")
        at = 0.0 if np.isnan(value) else max(value, 0.0)
        axes.text(at + 0.04 * room, row, text, fontsize=7, va="center", color=DARK)
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_yticks([])
    axes.axvline(0.0, color=GREY, lw=0.7)
    axes.set_title("coherence", fontsize=8.5, loc="left")
    axes.tick_params(axis="x", labelsize=6.5, length=2)
    axes.locator_params(axis="x", nbins=3)
    sns.despine(ax=axes, left=True)


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


def _say(axes: Axes, text: str) -> None:
    axes.text(
        0.5, 0.75, text, transform=axes.transAxes, fontsize=8, color=GREY, ha="center", va="center"
    )


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
