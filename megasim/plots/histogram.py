"""Histograms of the layer distances of a pair. Nothing here saves or queries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from megasim.anatomy.rules import load_components
from megasim.errors import NoAnswerError
from megasim.plots.labels import component_label, short_label
from megasim.plots.sheet import Sheet, heading_height, write
from megasim.plots.style import SMALLEST, Style

_BINS = 60
# inches: a panel, the gap with its title above it, the axis below all of them
_WIDTH, _PANEL, _GAP, _FOOT = 8.5, 1.35, 0.55, 0.55
_COLOURS = ("#0173b2", "#de8f05", "#029e73", "#d55e01", "#cc78bc", "#ca9161")
_TITLES = {
    "attn1": "attn1 (self-attention)",
    "attn2": "attn2 (cross-attention)",
    "others": "others (neither attn1 nor attn2)",
}


def role_histogram(
    layers: pd.DataFrame,
    model_a: str,
    model_b: str,
    *,
    component: str = "unet",
    style: Style | None = None,
) -> Figure:
    """Return how the layer distances of a pair spread: attn1, attn2 and others below each other.

    Args:
        layers: a row for each layer of `component`: `role`, and `l2` with NULL where there is no
            distance; such layers are counted, not drawn.
        component: what the layers are of, for the title.
    """
    roles = layers["role"]
    group = roles.where(roles.isin(["attn1", "attn2"]), "others")
    parts = [(_TITLES[name], layers.loc[group == name, "l2"]) for name in _TITLES]
    what = f"{component_label(component)}: how far its layers are apart"
    pair = f"{short_label(model_a)} and {short_label(model_b)}"
    return _panels(parts, pair, what, style or Style())


def component_histogram(
    layers: pd.DataFrame, model_a: str, model_b: str, *, style: Style | None = None
) -> Figure:
    """Return how the layer distances of a pair spread, a panel for each of its components.

    Args:
        layers: a row for each layer: `component`, and `l2` with NULL where there is no distance.

    Raises:
        NoAnswerError: there are no layers.
    """
    present = set(layers["component"])
    if not present:
        raise NoAnswerError(
            f"no layers of {short_label(model_a)} and {short_label(model_b)} are known",
            "compare them with `megasim compare`",
        )
    known = [c.name for c in load_components() if c.name in present]
    names = [*known, *sorted(present - set(known))]
    parts = [
        (component_label(name), layers.loc[layers["component"] == name, "l2"]) for name in names
    ]
    what = "how far the layers of each component are apart"
    pair = f"{short_label(model_a)} and {short_label(model_b)}"
    return _panels(parts, pair, what, style or Style())


def _panels(
    parts: Sequence[tuple[str, pd.Series[float]]], names: str, what: str, style: Style
) -> Figure:
    n = len(parts)
    k = style.scale(_WIDTH, 1.2 + n * 1.2)
    width, _ = style.size or (_WIDTH, 0.0)
    head = heading_height(style, width, names, what, k)
    tall = _PANEL
    if style.size is not None:
        tall = (style.size[1] - head - _FOOT * k) / n - _GAP * k
    height = head + n * (tall + _GAP * k) + _FOOT * k
    sheet = Sheet(width, height, style, k)
    with style.applied():
        sheet.heading(names, what)
        for i, (name, values) in enumerate(parts):
            top = head + (i + 1) * _GAP * k + i * tall
            axes = sheet.axes(0.8 * k, top, width - 1.05 * k, max(tall, 0.1))
            _panel(axes, name, values, _COLOURS[i % len(_COLOURS)], sheet)
        axes.set_xlabel("L2 distance of a layer", fontsize=9.5 * k)
        sheet.figure.align_ylabels()
    return sheet.done()


def _panel(axes: Axes, name: str, column: pd.Series[float], colour: str, sheet: Sheet) -> None:
    k, theme = sheet.scale, sheet.style.theme
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    present = values[~np.isnan(values)]
    missing = len(values) - len(present)
    zeros = int((present == 0).sum())
    counts = f"{len(present)} layer" + ("" if len(present) == 1 else "s")
    counts += f", {zeros} of them at 0" if zeros else ""
    counts += f"; {missing} more without a distance" if missing else ""
    norm = f"L2 = {np.linalg.norm(present):.4f}" if len(present) else "no distance"
    axes.set_title(f"{name}: {norm}", loc="left", fontsize=10 * k)
    axes.set_title(counts, loc="right", fontsize=9 * k, color=theme.quiet)
    axes.set_ylabel("layers", fontsize=9 * k)
    axes.tick_params(labelsize=SMALLEST * k)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color(theme.rule)
    top = float(present.max(initial=0.0))
    if top == 0:
        text = "every layer is at 0" if len(present) else "no layer was compared"
        write(axes, (0.5, 0.5), text, 10 * k, transform=axes.transAxes)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    edges = np.linspace(0.0, top, _BINS + 1)
    heights, _, _ = axes.hist(
        present, bins=edges.tolist(), color=colour, edgecolor=theme.paper, linewidth=0.3
    )
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if np.max(heights) < 50 else (1,)))
    axes.set_ylim(0.7, None)
    axes.set_xlim(-0.01 * top, 1.01 * top)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(8))
    axes.grid(axis="y")
