"""Figures out of matrices. Nothing here saves or queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from scipy.cluster.hierarchy import dendrogram, leaves_list, linkage
from scipy.spatial.distance import squareform

from megasim.matrix.distance_matrix import DistanceMatrix, Floats, coverage_note
from megasim.plots.labels import (
    METRIC_TITLES,
    component_label,
    figure_names,
    text_extent,
    widest,
)
from megasim.plots.sheet import Sheet, heading_height
from megasim.plots.style import SMALLEST, Style, Theme, ink_on

_FAR = 5.0  # the top of a tree as a multiple of its median branching, from which its scale is log
WRITTEN = 14  # models up to which the cells have their values written in
_LINED = 40  # models up to which cells have lines between them
_WIDEST = 2.4  # of a cell against its height, where a wide size is asked for
_LEAST_FONT = 5.0  # typographic points below which a text of a given size is left out
_GAP, _BAR = 0.12, 0.5  # inches
_MARK = 1.15  # inches of a mark with its words
_ZEROS = "0 is drawn as the darkest"
_DARKEST = 0.1  # of a grey map: black would hide the lines between cells


def colour_map(theme: Theme) -> Any:
    """Return the colours of distances: dark is near, light is far."""
    if not theme.grey:
        return matplotlib.colormaps[theme.colours]
    greys = matplotlib.colormaps[theme.colours](np.linspace(_DARKEST, 1 - _DARKEST / 2, 256))
    return ListedColormap(greys)


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


@dataclass(frozen=True)
class _Frame:
    """Where the grid of a heatmap stands, in inches, and how its rows and columns are named.

    Attributes:
        left, top, width, height: of the grid. tree: width of the tree beside it.
        font: of the names, in typographic points before scaling. every: of how many rows one is
            named.
        rows, columns: their names. flat: whether those of columns lie.
    """

    left: float
    top: float
    width: float
    height: float
    tree: float
    whole: tuple[float, float]
    font: float
    every: int
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    flat: bool = False


def heatmap_figure(
    matrix: DistanceMatrix, *, subtitle: str = "", style: Style | None = None
) -> Figure:
    """Return models × models as a clustered heatmap, with its dendrogram.

    Missing pairs are grey and hatched, estimated ones carry a dot, and the values are written in
    the cells up to 14 models. A logarithmic scale is used where distances span more than a
    factor of 50. Where a size is asked for, cells and text follow it.

    Args:
        subtitle: in place of what the distances cover.
    """
    style = style or Style()
    with style.applied():
        return _draw(matrix, subtitle, style)


def _draw(matrix: DistanceMatrix, subtitle: str, style: Style) -> Figure:
    n = len(matrix.models)
    tree = cluster_linkage(matrix)
    order = list(range(n)) if tree is None else leaves_list(tree).tolist()
    shown = matrix.subset([matrix.models[i] for i in order])
    title = f"{component_label(matrix.component)}: {METRIC_TITLES[matrix.metric]}, {n} models"
    note = subtitle or coverage_note(matrix)
    scale = style.scale(8.5, 5.6)
    frame = _frame(shown, style, scale, title, note, has_tree=tree is not None)
    if frame.every > 1:
        note += f" · one name of {frame.every} is written; fewer models, or more room, show all"
    sheet = Sheet(*frame.whole, style, scale)
    sheet.heading(title, note)
    axes = sheet.axes(frame.left, frame.top, frame.width, frame.height)
    values = shown.values.copy()
    if matrix.metric != "cossim":
        np.fill_diagonal(values, np.nan)
    norm, zero_note = colour_norm(values, matrix.metric)
    _draw_cells(axes, values, norm, style.theme)
    _write_values(axes, shown, values, norm, frame, style, scale)
    _name_models(axes, frame, scale)
    marks = [*_mark_missing(axes, shown, style.theme), *_mark_estimated(axes, shown, frame)]
    # the scale, what is said of its zeros, and the marks stand in one line
    beside = widest([_ZEROS], SMALLEST * scale) if zero_note else 0.0
    room = frame.whole[0] - frame.left - beside - (_MARK * len(marks) + 0.4) * scale
    bar_width = max(min(frame.width, 4.0 * scale, room), 0.8 * scale)
    _draw_scale(sheet, frame, norm, bar_width, scale, zero_note)
    if marks:
        axes.legend(
            handles=marks,
            loc="lower left",
            bbox_to_anchor=((bar_width + beside + 0.2 * scale) / frame.width, 1.0),
            ncols=len(marks),
            fontsize=SMALLEST * scale,
            borderaxespad=0.3,
            handlelength=1.4,
            columnspacing=1.0,
        )
    if tree is not None:
        _draw_tree(sheet, frame, tree, scale)
    return sheet.done()


def _frame(
    matrix: DistanceMatrix, style: Style, scale: float, title: str, note: str, *, has_tree: bool
) -> _Frame:
    """Return where all stands: in the size asked for, or as large as the cells need."""
    n = len(matrix.models)
    names = figure_names(matrix.models)
    side = 0.14 * scale
    if style.size is None:
        cell = float(np.clip(9.0 / n, 0.132, 0.64))
        font = float(np.clip(cell * 62, SMALLEST, 10.0))
        grid = max(cell * n, 2.6)
        tree = float(np.clip(grid * 0.12, 0.5, 2.2)) if has_tree else 0.0
        margin = widest(names, font) + 0.15
        left = side + tree
        # the title may stand above all of it
        width = max(left + grid + margin, widest([style.title or title], 12.5, bold=True) + 0.3)
        width = max(width, 5.6)
        top = heading_height(style, width, title, note) + _BAR
        whole = (width, top + grid + margin)
        return _Frame(left, top, grid, grid, tree, whole, font, 1, names, names)
    width, height = style.size
    tree = float(np.clip(width * 0.1, 0.4, 1.6)) if has_tree else 0.0
    top = heading_height(style, width, title, note, scale) + _BAR * scale
    font, columns, least = 10.0, names, max(_LEAST_FONT, 5.5 * scale) / scale
    for _ in range(3):  # names take room from the cells, and cells tell how large names are
        right = widest(names, font * scale) + _GAP
        wide = max(width - side - tree - right, 0.5)
        flat = widest(columns, font * scale) + 0.1 < wide / n
        below = (1.3 * font * scale / 72 if flat else widest(columns, font * scale)) + _GAP
        if columns is names and below > 0.24 * height:
            columns = tuple(str(i) for i in range(1, n + 1))
            names = tuple(f"{i}  {name}" for i, name in enumerate(names, 1))
            continue
        tall = max(height - top - below - 0.05, 0.5)
        font = float(np.clip(72 * 0.82 * tall / n / scale, least, 10.0))
    every = int(np.ceil(font * scale / (72 * 0.82 * tall / n) - 1e-9))
    wide = min(wide, tall * _WIDEST)
    return _Frame(
        side + tree, top, wide, tall, tree, (width, height), font, every, names, columns, flat
    )


def _draw_cells(axes: Axes, values: Floats, norm: Normalize, theme: Theme) -> None:
    """Paint the cells as one picture, which stays small and sharp however many they are."""
    n = len(values)
    drawn = np.where(values == 0, norm.vmin or 0.0, values)
    colours = ScalarMappable(norm, colour_map(theme)).to_rgba(np.ma.masked_invalid(drawn))
    colours[np.isnan(values)] = 0.0
    axes.imshow(colours, aspect="auto", interpolation="none", extent=(0, n, n, 0))
    if n <= _LINED:
        between = range(1, n)
        lines = [[(i, 0), (i, n)] for i in between] + [[(0, i), (n, i)] for i in between]
        axes.add_collection(
            LineCollection(lines, colors=theme.paper, linewidths=0.8), autolim=False
        )
    for spine in axes.spines.values():
        spine.set_visible(False)


def _name_models(axes: Axes, frame: _Frame, scale: float) -> None:
    n = len(frame.rows)
    shown = np.arange(0, n, frame.every)
    axes.yaxis.tick_right()
    size = frame.font * scale
    names, turned = [frame.columns[i] for i in shown], 0 if frame.flat else 90
    axes.set_xticks(shown + 0.5, names, rotation=turned, fontsize=size)
    axes.set_yticks(shown + 0.5, [frame.rows[i] for i in shown], fontsize=size)
    axes.tick_params(length=0, pad=3)


def _write_values(
    axes: Axes,
    matrix: DistanceMatrix,
    values: Floats,
    norm: Normalize,
    frame: _Frame,
    style: Style,
    scale: float,
) -> None:
    n = len(matrix.models)
    if n > WRITTEN:
        return
    texts = cell_texts(matrix)
    # as large as the longest leaves room for
    room = 0.94 * 72 * frame.width / n / max(text_extent(t, 1.0)[0] for t in texts.flat if t)
    size = min(frame.font * scale, room, 0.7 * 72 * frame.height / n)
    if size < _LEAST_FONT:
        return
    drawn = np.where(values == 0, norm.vmin or 0.0, values)
    colours = ScalarMappable(norm, colour_map(style.theme)).to_rgba(np.ma.masked_invalid(drawn))
    for (row, column), text in np.ndenumerate(texts):
        on_paper = np.isnan(values[row, column])
        ink = style.theme.quiet if on_paper else ink_on(colours[row, column, :3])
        axes.text(column + 0.5, row + 0.5, text, fontsize=size, color=ink, ha="center", va="center")


def _draw_scale(
    sheet: Sheet, frame: _Frame, norm: Normalize, width: float, scale: float, zero_note: bool
) -> None:
    bar = sheet.axes(frame.left, frame.top - 0.24 * scale, width, 0.13 * scale)
    colour_bar(sheet.figure, bar, norm, sheet.style.theme, scale=scale)
    if zero_note:
        left = frame.left + width + 0.1 * scale
        sheet.text(left, frame.top - 0.26 * scale, _ZEROS, SMALLEST, color=sheet.quiet)


def _draw_tree(sheet: Sheet, frame: _Frame, tree: Floats, scale: float) -> None:
    theme = sheet.style.theme
    side = sheet.axes(0.1 * scale, frame.top, frame.tree, frame.height)
    heights, logarithmic = _branch_heights(tree[:, 2])
    if logarithmic:
        size = SMALLEST * scale
        side.set_title("log scale", fontsize=size, pad=2, color=theme.quiet, loc="left")
    # a threshold of 0 keeps all branches in one colour
    dendrogram(
        np.column_stack([tree[:, :2], heights, tree[:, 3]]),
        ax=side,
        orientation="left",
        no_labels=True,
        color_threshold=0,
        above_threshold_color=theme.trunk,
    )
    side.invert_yaxis()
    side.axis("off")


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


def colour_norm(values: npt.NDArray[Any], metric: str) -> tuple[Normalize, bool]:
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


def cell_texts(matrix: DistanceMatrix) -> npt.NDArray[Any]:
    """Return what is written in each cell: three digits, ~ before an estimate, nothing of a gap."""

    def text(value: float, source: str) -> str:
        if np.isnan(value):
            return ""
        if not source and value == 0:
            return "0"
        mark = "~" if source == "estimated" else "?" if source == "unproven" else ""
        # three digits throughout, also where the last are zeros
        return mark + (f"{value:#.3g}".rstrip(".") if value < 1e5 else f"{value:.0e}")

    rows = zip(matrix.values, matrix.sources, strict=True)
    return np.array([[text(v, s) for v, s in zip(*row, strict=True)] for row in rows], dtype=object)


def _mark_missing(axes: Axes, matrix: DistanceMatrix, theme: Theme) -> list[Artist]:
    """Mark pairs that were not compared; return what the legend shows of it."""
    n = len(matrix.models)
    rows, columns = np.nonzero(np.isnan(matrix.values))
    if not len(rows):
        return []
    image = np.full((n, n), np.nan)
    image[rows, columns] = 1.0
    # hatching blurs where cells are only a few pixels wide
    look: dict[str, Any] = {"edgecolor": theme.missing}
    if n <= 60:
        look = {"hatch": "////", "edgecolor": theme.hatch}
    axes.pcolor(
        np.arange(n + 1),
        np.arange(n + 1),
        np.ma.masked_invalid(image),
        linewidth=0,
        cmap=ListedColormap([theme.missing]),
        **look,
    )
    return [Patch(facecolor=theme.missing, label="not compared", **look)]


def _mark_estimated(axes: Axes, matrix: DistanceMatrix, frame: _Frame) -> list[Artist]:
    """Put a dot on estimates where cells have room; return what the legend shows of it."""
    rows, columns = np.nonzero(matrix.sources == "estimated")
    if not len(rows) or len(matrix.models) > 60:
        return []
    dots = axes.scatter(columns + 0.9, rows + 0.12, s=4, color="white", edgecolors="black", lw=0.3)
    dots.set_label("estimated")
    return [dots]


def colour_bar(
    figure: Figure,
    place: Axes,
    norm: Normalize,
    theme: Theme,
    *,
    most_decades: float = 4,
    scale: float = 1.0,
) -> None:
    """Draw the scale of the colours; a logarithmic one has marks at 1, 2 and 5 of few decades."""
    mappable = ScalarMappable(norm, colour_map(theme))
    bar = figure.colorbar(mappable, cax=place, orientation="horizontal")
    place.xaxis.set_ticks_position("top")
    if isinstance(norm, LogNorm):
        decades = np.log10(float(norm.vmax or 1) / float(norm.vmin or 1))
        width = figure.get_figwidth() * place.get_position().width
        label = 5 * 0.65 * SMALLEST * scale / 72  # inches, of a number such as 0.005
        crowded = decades > most_decades or 3 * decades * label > width
        marks = (1.0,) if crowded else (1.0, 2.0, 5.0)
        place.xaxis.set_major_locator(LogLocator(subs=marks))
        place.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        place.xaxis.set_minor_locator(NullLocator())
    place.tick_params(labelsize=SMALLEST * scale, length=2 * scale, pad=1)
    bar.outline.set_visible(False)
