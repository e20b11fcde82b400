"""Histograms of the layer distances of a pair. Nothing here saves or queries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from megasim.anatomy.rules import load_components
from megasim.errors import NoAnswerError
from megasim.plots.heatmap import component_label, short_label

_BINS = 60
# inches: the two title lines, a panel with its title, the gap in it, the axis below
_HEAD, _PANEL, _GAP, _FOOT = 0.95, 1.95, 0.6, 0.5
_TITLES = {
    "attn1": "attn1 (self-attention)",
    "attn2": "attn2 (cross-attention)",
    "others": "others (neither attn1 nor attn2)",
}


def role_histogram(
    layers: pd.DataFrame, model_a: str, model_b: str, *, component: str = "unet"
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
    return _panels(parts, f"{short_label(model_a)} and {short_label(model_b)}", what)


def component_histogram(layers: pd.DataFrame, model_a: str, model_b: str) -> Figure:
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
    return _panels(parts, f"{short_label(model_a)} and {short_label(model_b)}", what)


def _panels(parts: Sequence[tuple[str, pd.Series[float]]], names: str, what: str) -> Figure:
    n = len(parts)
    width, height = 8.5, _HEAD + n * _PANEL + _FOOT
    figure = Figure(figsize=(width, height))
    colours = sns.color_palette("colorblind", n)
    with sns.axes_style("whitegrid"):
        grid = figure.subplots(n, 1, squeeze=False)
    for axes, (name, values), colour in zip(grid[:, 0], parts, colours, strict=True):
        _panel(axes, name, values, colour)
    grid[-1, 0].set_xlabel("L2 distance of a layer", fontsize=9)
    figure.align_ylabels()
    figure.subplots_adjust(
        left=0.75 / width,
        right=1 - 0.2 / width,
        bottom=_FOOT / height,
        top=1 - _HEAD / height,
        hspace=_GAP / (_PANEL - _GAP),
    )
    figure.text(0.15 / width, 1 - 0.22 / height, names, fontsize=11, weight="bold", va="center")
    figure.text(0.15 / width, 1 - 0.44 / height, what, fontsize=10, va="center")
    return figure


def _panel(
    axes: Axes, name: str, column: pd.Series[float], colour: tuple[float, float, float]
) -> None:
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    present = values[~np.isnan(values)]
    missing = len(values) - len(present)
    zeros = int((present == 0).sum())
    counts = f"{len(present)} layer" + ("" if len(present) == 1 else "s")
    counts += f", {zeros} of them at 0" if zeros else ""
    counts += f"; {missing} more without a distance" if missing else ""
    norm = f"L2 = {np.linalg.norm(present):.4f}" if len(present) else "no distance"
    axes.set_title(f"{name}: {norm}", loc="left", fontsize=10)
    axes.set_title(counts, loc="right", fontsize=8.5, color="#444444")
    axes.set_ylabel("layers", fontsize=9)
    axes.tick_params(labelsize=8)
    top = float(present.max(initial=0.0))
    if top == 0:
        text = "every layer is at 0" if len(present) else "no layer was compared"
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    edges = np.linspace(0.0, top, _BINS + 1)
    heights, _, _ = axes.hist(
        present, bins=edges.tolist(), color=colour, edgecolor="white", linewidth=0.3
    )
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if np.max(heights) < 50 else (1,)))
    axes.set_ylim(0.7, None)
    axes.set_xlim(-0.01 * top, 1.01 * top)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(8))
    axes.grid(axis="x", visible=False)
