"""Figures out of matrices. Nothing here saves or queries."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from scipy.cluster.hierarchy import dendrogram, leaves_list, linkage
from scipy.spatial.distance import squareform

from megasim.anatomy.classification import component_title
from megasim.errors import printable
from megasim.matrix.distance_matrix import DistanceMatrix, Floats, coverage_note

# cividis reads the same with and without colour vision, and in grey.
COLOURS = "cividis"
MISSING = "#e8e8e8"
_FAR = 5.0  # the top of a tree as a multiple of its median branching, from which its scale is log
_HYPHEN = re.compile(r"(?<![^\s(:=±])-(?=[\d.])|(?<=\de)-(?=\d)")
_LABEL = 34  # characters of a model name that a figure shows

METRIC_TITLES = {
    "l0": "elements that differ",
    "l1": "L1 distance",
    "l2": "L2 distance",
    "linf": "largest difference",
    "cossim": "cosine similarity",
}


def drawable(text: str) -> str:
    """Return the text with □ for what the figure's font has no sign for.

    >>> drawable("mix 東京 v2")
    'mix □□ v2'
    """
    return "".join(c if ord(c) in _signs() else "□" for c in text)


def minus_signs(text: str) -> str:
    """Return the text with a minus sign, not a hyphen, before each negative number.

    >>> minus_signs("run-2: -0.5, 3e-6")
    'run-2: −0.5, 3e−6'
    """
    return _HYPHEN.sub("−", text)


@cache
def _signs() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def short_label(name: str, limit: int = _LABEL) -> str:
    """Return a model name as a figure shows it: safe, drawable, its middle left out when long.

    >>> short_label("a" * 20 + "b" * 30, limit=11)
    'aaaaa…bbbbb'
    """
    text = drawable(printable(name))
    if len(text) > limit:
        half = (limit - 1) // 2
        text = text[: limit - 1 - half] + "…" + text[-half:]
    # a dollar sign would switch matplotlib to formula setting
    return text.replace("$", r"\$")


def component_label(component: str) -> str:
    """Return what people call a component, as a figure shows it."""
    return short_label(component_title(component))


def cluster_linkage(matrix: DistanceMatrix) -> Floats | None:
    """Return SciPy's average linkage of the condensed matrix, leaves in the best order.

    A missing pair counts as the largest distance, for the order only. None where there is
    nothing to order: below three models, or without any distance above 0.
    """
    n = len(matrix.models)
    if n < 3:
        return None
    values = 1 - matrix.values if matrix.metric == "cossim" else matrix.values.copy()
    off = ~np.eye(n, dtype=bool)
    largest = np.nanmax(values[off], initial=0.0)
    if largest <= 0:
        return None
    values[np.isnan(values)] = largest
    np.fill_diagonal(values, 0.0)
    condensed = squareform(np.maximum(values, 0.0), checks=False)
    return np.asarray(linkage(condensed, "average", optimal_ordering=n <= 300), dtype=np.float64)


def cluster_order(matrix: DistanceMatrix) -> list[int]:
    """Return the rows in the order a clustering puts them: near models side by side."""
    tree = cluster_linkage(matrix)
    return list(range(len(matrix.models))) if tree is None else leaves_list(tree).tolist()


def heatmap_figure(matrix: DistanceMatrix, *, subtitle: str = "") -> Figure:
    """Return models × models as a clustered heatmap, with its dendrogram.

    Missing pairs are grey and hatched, estimated ones carry a dot, and the values are written in
    the cells up to 14 models. A logarithmic scale is used where distances span more than a
    factor of 50.
    """
    n = len(matrix.models)
    tree = cluster_linkage(matrix)
    order = list(range(n)) if tree is None else leaves_list(tree).tolist()
    shown = matrix.subset([matrix.models[i] for i in order])
    cell = float(np.clip(9.0 / n, 0.115, 0.62))
    grid = max(cell * n, 2.6)
    labels = [short_label(name) for name in shown.models]
    size = float(np.clip(cell * 62, 4.2, 10.0))
    margin = 0.35 + max(map(len, labels)) * size * 0.0088
    tree_width = 0.0 if tree is None else float(np.clip(grid * 0.12, 0.5, 2.2))
    title = f"{component_label(matrix.component)}: {METRIC_TITLES[matrix.metric]}, {n} models"
    # 0.11 in a character of the bold title
    width = max(margin + tree_width + grid + 0.2, 0.3 + 0.11 * len(title), 5.0)
    height = margin + grid + 1.15
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes(
        ((tree_width + 0.15) / width, (margin + 0.1) / height, grid / width, grid / height)
    )
    values = shown.values.copy()
    if matrix.metric != "cossim":
        np.fill_diagonal(values, np.nan)
    norm, zero_note = _norm(values, matrix.metric)
    drawn = np.where(values == 0, norm.vmin or 0.0, values) if zero_note else values
    with sns.axes_style("white"):
        sns.heatmap(
            drawn,
            mask=np.isnan(values),
            ax=axes,
            cmap=COLOURS,
            norm=norm,
            cbar=False,
            square=True,
            linewidths=0.4 if n <= 40 else 0,
            # seaborn would measure each label, for which matplotlib draws a whole figure
            xticklabels=False,
            yticklabels=False,
            annot=_annotations(shown) if n <= 14 else False,
            fmt="",
            annot_kws={"size": max(size * 0.78, 5)},
        )
    axes.set_facecolor("white")
    axes.yaxis.tick_right()
    places = np.arange(n) + 0.5
    axes.set_xticks(places, labels, rotation=90, fontsize=size)
    axes.set_yticks(places, labels, fontsize=size)
    axes.tick_params(length=0)
    marks = [*_mark_missing(axes, shown), *_mark_estimated(axes, shown)]
    if marks:
        axes.legend(
            handles=marks,
            # beside the colour bar, which spans a small grid
            loc="lower left" if grid < 6 else "lower right",
            bbox_to_anchor=(1.0, 1.0),
            frameon=False,
            fontsize=8,
        )
    bar = figure.add_axes(
        (
            (tree_width + 0.15) / width,
            (margin + grid + 0.16) / height,
            min(grid, 4.0) / width,
            0.13 / height,
        )
    )
    colour_bar(figure, bar, norm)
    if zero_note:
        text = "0 is drawn as the darkest"
        bar.text(1.03, 0.9, text, transform=bar.transAxes, fontsize=6, va="top")
    if tree is not None:
        side = figure.add_axes(
            (0.1 / width, (margin + 0.1) / height, tree_width / width, grid / height)
        )
        heights, logarithmic = _branch_heights(tree[:, 2])
        if logarithmic:
            side.set_title("log scale", fontsize=6, pad=2, color="#777777")
        # a threshold of 0 keeps all branches in one colour
        dendrogram(
            np.column_stack([tree[:, :2], heights, tree[:, 3]]),
            ax=side,
            orientation="left",
            no_labels=True,
            color_threshold=0,
            above_threshold_color="#777777",
        )
        side.invert_yaxis()
        side.axis("off")
    figure.text(0.12 / width, 1 - 0.1 / height, title, va="top", fontsize=12, weight="bold")
    figure.text(
        0.12 / width, 1 - 0.36 / height, subtitle or coverage_note(matrix), va="top", fontsize=8
    )
    return figure


def _branch_heights(heights: Floats) -> tuple[Floats, bool]:
    """Return where branches join in the drawing, and whether that is a logarithmic scale.

    It is where one far family would leave the others no room. What joins at 0 stays there.
    """
    positive = heights[heights > 0]
    low, high = float(positive.min()), float(positive.max())
    if high < _FAR * np.median(positive):
        return heights, False
    floor = max(low, high * 1e-4)
    return np.where(heights > 0, np.log(np.maximum(heights, floor) / floor) + 0.3, 0.0), True


def _norm(values: npt.NDArray[Any], metric: str) -> tuple[Normalize, bool]:
    """Return the colour scale, and whether zeros are drawn at its lower end."""
    finite = values[np.isfinite(values)]
    if metric == "cossim":
        low = float(finite.min(initial=1.0))
        return Normalize(min(low, 0.999999), 1.0), False
    positive = finite[finite > 0]
    if not positive.size:
        return Normalize(0.0, 1.0), False
    low, high = float(positive.min()), float(positive.max())
    if high > 50 * low:
        return LogNorm(low, high), bool((finite == 0).any())
    return Normalize(0.0, high), False


def _annotations(matrix: DistanceMatrix) -> npt.NDArray[Any]:
    def text(value: float, source: str) -> str:
        if np.isnan(value):
            return ""
        mark = "~" if source == "estimated" else "?" if source == "unproven" else ""
        # three digits throughout, also where the last are zeros
        return mark + (f"{value:#.3g}".rstrip(".") if value < 1e5 else f"{value:.0e}")

    rows = zip(matrix.values, matrix.sources, strict=True)
    return np.array([[text(v, s) for v, s in zip(*row, strict=True)] for row in rows], dtype=object)


def _mark_missing(axes: Axes, matrix: DistanceMatrix) -> list[Artist]:
    """Mark pairs that were not compared; return what the legend shows of it."""
    n = len(matrix.models)
    rows, columns = np.nonzero(np.isnan(matrix.values))
    if not len(rows):
        return []
    image = np.full((n, n), np.nan)
    image[rows, columns] = 1.0
    # hatching blurs where cells are only a few pixels wide
    style: dict[str, Any] = {"edgecolor": MISSING}
    if n <= 60:
        style = {"hatch": "////", "edgecolor": "#b0b0b0"}
    axes.pcolor(
        np.arange(n + 1),
        np.arange(n + 1),
        np.ma.masked_invalid(image),
        linewidth=0,
        cmap=ListedColormap([MISSING]),
        **style,
    )
    return [Patch(facecolor=MISSING, label="not compared", **style)]


def _mark_estimated(axes: Axes, matrix: DistanceMatrix) -> list[Artist]:
    """Put a dot on estimates where cells have room; return what the legend shows of it."""
    rows, columns = np.nonzero(matrix.sources == "estimated")
    if not len(rows) or len(matrix.models) > 60:
        return []
    dots = axes.scatter(columns + 0.86, rows + 0.14, s=4, color="white", edgecolors="black", lw=0.3)
    dots.set_label("estimated")
    return [dots]


def colour_bar(figure: Figure, place: Axes, norm: Normalize, *, most_decades: float = 4) -> None:
    """Draw the scale of the colours; a logarithmic one has marks at 1, 2 and 5 of few decades."""
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), cax=place, orientation="horizontal")
    place.xaxis.set_ticks_position("top")
    if isinstance(norm, LogNorm):
        decades = np.log10(float(norm.vmax or 1) / float(norm.vmin or 1))
        marks = (1.0,) if decades > most_decades else (1.0, 2.0, 5.0)
        place.xaxis.set_major_locator(LogLocator(subs=marks))
        place.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        place.xaxis.set_minor_locator(NullLocator())
    place.tick_params(labelsize=7, length=2, pad=1)
    bar.outline.set_visible(False)


def model_order(matrix: DistanceMatrix, by: str) -> Sequence[str]:
    """Return the models in the order of a figure: "cluster", "name" or "store"."""
    if by == "name":
        return sorted(matrix.models)
    if by == "cluster":
        return [matrix.models[i] for i in cluster_order(matrix)]
    return matrix.models
