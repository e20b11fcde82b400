"""Where in the network the change is: layers × pairs. Nothing here saves or queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path

from megasim.anatomy.block_order import block_place, natural
from megasim.errors import NoAnswerError
from megasim.matrix.distance_matrix import Floats
from megasim.plots.heatmap import colour_bar, colour_map
from megasim.plots.labels import component_label, short_label, widest
from megasim.plots.sheet import Sheet, heading_height
from megasim.plots.style import SMALLEST, Style, Theme

RMS = "rms"  # L2 over the root of the number of elements: the change of a typical element
RAW = "raw"  # L2 as it is
_MOST_ROLES = 9  # with a colour of their own
_OTHER_ROLES = "#c9c9c9"
_ROLES = (
    *("#0173b2", "#de8f05", "#029e73", "#d55e01", "#cc78bc", "#ca9161", "#fbafe4"),
    *("#ece133", "#56b4e8"),
)  # seaborn's colours for the colour-blind, without its grey
_LEAST_ROW = 0.055  # inches
_DECADES = 1e5  # most that the scale spans


@dataclass(frozen=True)
class LayerGrid:
    """The distances of K layers in P pairs, in the order a figure shows them.

    Attributes:
        blocks, roles: K strings each, "" where the anatomy names none.
        pairs: P labels.
        values: (K, P) float64 ≥ 0; NaN where there is no distance.
        scale: `RMS` or `RAW`.
        keys: how many keys the K layers are; more than K where a layer sums up several.
    """

    blocks: tuple[str, ...]
    roles: tuple[str, ...]
    pairs: tuple[str, ...]
    values: Floats
    scale: str
    keys: int


def layer_grid(layers: pd.DataFrame, *, scale: str = RMS) -> LayerGrid:
    """Return layers × pairs out of rows as `layer_distances` has them.

    Layers come in the order of their blocks, within a block by role; pairs stay in the order of
    their first row. `RMS` becomes `RAW` where the number of elements is not known, as in
    published results.

    Args:
        layers: a row for each pair and layer: `pair` (a label), `layer` (a name), `block`,
            `role`, `keys` (how many it sums up), `numel`, `l2`; NULL where not known.
        scale: `RMS` or `RAW`.

    Raises:
        NoAnswerError: no rows.
    """
    if layers.empty:
        raise NoAnswerError("no layers of these pairs are known", "run `megasim compare`")
    numels = layers["numel"].to_numpy(dtype=np.float64, na_value=np.nan)
    l2 = layers["l2"].to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isnan(numels[~np.isnan(l2)]).any():
        scale = RAW
    first = layers.drop_duplicates("layer")
    columns = (first["block"].fillna(""), first["role"].fillna(""), first["layer"])
    places = sorted(
        zip(*columns, strict=True),
        key=lambda place: (*_place(*place), natural(place[2])),
    )
    names = pd.Index([name for _, _, name in places])
    pairs = pd.Index(layers["pair"].unique())
    grid = np.full((len(names), len(pairs)), np.nan)
    grid[
        names.get_indexer(pd.Index(layers["layer"])), pairs.get_indexer(pd.Index(layers["pair"]))
    ] = l2 / np.sqrt(np.maximum(numels, 1.0)) if scale == RMS else l2
    return LayerGrid(
        blocks=tuple(block for block, _, _ in places),
        roles=tuple(role for _, role, _ in places),
        pairs=tuple(pairs),
        values=grid,
        scale=scale,
        keys=int(layers.groupby("layer")["keys"].max().sum()),
    )


def _place(block: str, role: str, layer: str) -> tuple[Any, ...]:
    # weights and biases are of other sizes; apart they read as two bands, mixed as noise
    return block_place(block), role, layer.endswith("bias")


def layers_figure(
    grid: LayerGrid, *, title: str, component: str, style: Style | None = None
) -> Figure:
    """Return layers × pairs as a heatmap: a row for each layer, a column for each pair.

    Rows are grouped by block, and a stripe beside them tells the role. The scale is logarithmic
    and spans at most five decades below the largest change; a layer at distance 0 is left as the
    paper is, one without a distance grey and hatched.

    Args:
        title: what the columns are, e.g. "sd14 against 4 others".
    """
    style = style or Style()
    with style.applied():
        return _draw(grid, f"{component_label(component)}: {short_label(title, 120)}", style)


def _draw(grid: LayerGrid, title: str, style: Style) -> Figure:
    rows, columns = grid.values.shape
    k = style.scale(8.5, 6.0)
    note = _note(grid)
    labels = [short_label(pair, 40) for pair in grid.pairs]
    colours = _role_colours(grid.roles)
    legend = _legend_handles(grid, colours, style.theme)
    left = (0.4 + widest(_block_names(grid.blocks), SMALLEST)) * k
    right = (0.55 + widest([str(h.get_label()) for h in legend], SMALLEST)) * k
    stripe = 0.13 * k
    if style.size is None:
        cell = float(np.clip(7.0 / columns, 0.132, 0.6))
        width, height = max(cell * columns, 1.2), float(np.clip(rows * _LEAST_ROW, 2.2, 9.5))
        font, every, flat = float(np.clip(cell * 62, SMALLEST, 9.5)), 1, False
        below = widest(labels, font) + 0.2
        whole_width = max(left + stripe + width + right, 6.2)
        top = heading_height(style, whole_width, title, note) + 0.5
        whole_height = top + height + below
    else:
        whole_width, whole_height = style.size
        width = max(whole_width - left - stripe - right, 0.5)
        font = float(np.clip(72 * 0.82 * width / columns / k, 5.5, 9.5))
        flat = widest(labels, font * k) + 0.1 < width / columns
        below = 0.4 * k if flat else min(widest(labels, font * k) + 0.2, 0.4 * whole_height)
        top = heading_height(style, whole_width, title, note, k) + 0.5 * k
        height = max(whole_height - top - below, 0.5)
        every = int(np.ceil(font * k / (72 * 0.82 * width / columns) - 1e-9))
    sheet = Sheet(whole_width, whole_height, style, k)
    sheet.heading(title, note)
    axes = sheet.axes(left + stripe + 0.05, top, width, height)
    norm = _norm(grid.values)
    _draw_cells(axes, grid.values, norm, style.theme)
    shown = np.arange(0, columns, every)
    names = [labels[i] for i in shown]
    axes.set_xticks(shown + 0.5, names, rotation=0 if flat else 90, fontsize=font * k)
    axes.tick_params(length=0)
    side = sheet.axes(left, top, stripe, height)
    side.imshow(
        [[to_rgba(colours.get(role, _OTHER_ROLES))] for role in grid.roles],
        aspect="auto",
        interpolation="none",
        extent=(0, 1, rows, 0),
    )
    side.axis("off")
    _draw_blocks(axes, side, grid.blocks, columns, height / rows, sheet)
    if norm is not None:
        place = sheet.axes(left, top - 0.24 * k, min(3.4 * k, left + width), 0.12 * k)
        colour_bar(sheet.figure, place, norm, style.theme, most_decades=2, scale=k)
    axes.legend(
        handles=legend,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        fontsize=SMALLEST * k,
        handlelength=1.1,
        handleheight=0.9,
    )
    return sheet.done()


def _note(grid: LayerGrid) -> str:
    rows, columns = grid.values.shape
    unit = "change of a typical element, L2 / √elements" if grid.scale == RMS else "L2 distance"
    parts = f" in {rows:,} parts" if rows < grid.keys else ""
    missing = int(np.isnan(grid.values).sum())
    note = f"{unit} · {grid.keys:,} keys{parts} · {columns} pair{'s'[: columns != 1]}"
    return note + (
        f" · {missing:,} of {rows * columns:,} cells without a distance" if missing else ""
    )


def _norm(values: Floats) -> LogNorm | None:
    positive = values[values > 0]
    if not positive.size:
        return None
    high = float(positive.max())
    low = max(float(positive.min()), high / _DECADES)
    return LogNorm(low if low < high else high / 10, high, clip=True)


def _draw_cells(axes: Axes, values: Floats, norm: LogNorm | None, theme: Theme) -> None:
    rows, columns = values.shape
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    missing = _area(np.isnan(values))
    if missing is not None:
        axes.add_patch(PathPatch(missing, zorder=1, linewidth=0, **_hatch(theme)))
    image = np.zeros((rows, columns, 4))
    if norm is not None:
        positive = values > 0
        image[positive] = ScalarMappable(norm, colour_map(theme)).to_rgba(values[positive])
    # more rows than pixels must be averaged, or some would not be seen at all
    how = "none" if rows < 1100 else "antialiased"
    axes.imshow(image, aspect="auto", interpolation=how, extent=(0, columns, rows, 0), zorder=2)
    for spine in axes.spines.values():
        spine.set(color=theme.edge, linewidth=0.6)
    axes.set_yticks([])


def _area(cells: npt.NDArray[np.bool_]) -> Path | None:
    """Return the outline of the cells that are set, (K, P), a box for each run in a column."""
    edges = np.diff(np.pad(cells.astype(np.int8), ((1, 1), (0, 0))), axis=0)
    columns, tops = np.nonzero(edges.T == 1)
    _, ends = np.nonzero(edges.T == -1)
    if not len(columns):
        return None
    corners = [(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]
    boxes = [
        [(column + x, end if y else top) for x, y in corners]
        for column, top, end in zip(columns.tolist(), tops.tolist(), ends.tolist(), strict=True)
    ]
    return Path.make_compound_path(*(Path(np.array(box, float), closed=True) for box in boxes))


def _hatch(theme: Theme) -> dict[str, Any]:
    return {"facecolor": theme.missing, "hatch": "////", "edgecolor": theme.hatch}


def _role_colours(roles: Sequence[str]) -> dict[str, Any]:
    """Return colours for the most frequent roles, in the order of their names."""
    counts = pd.Series([role for role in roles if role]).value_counts()
    named = sorted(sorted(counts.index, key=lambda role: (-counts[role], role))[:_MOST_ROLES])
    return dict(zip(named, _ROLES, strict=False))


def _block_names(blocks: Sequence[str]) -> list[str]:
    return [short_label(block, 14) or "(no block)" for block in dict.fromkeys(blocks)]


def _draw_blocks(
    axes: Axes, side: Axes, blocks: Sequence[str], columns: int, row: float, sheet: Sheet
) -> None:
    """Draw a line between blocks, and their names left of the stripe, none over another.

    Args:
        columns: of the grid. row: inches of one of its rows.
    """
    theme, k = sheet.style.theme, sheet.scale
    starts = [i for i, block in enumerate(blocks) if i == 0 or block != blocks[i - 1]]
    centres = [(a + b) / 2 for a, b in zip(starts, [*starts[1:], len(blocks)], strict=True)]
    for ax, width in ((axes, columns), (side, 1)):
        ax.hlines(starts[1:], 0, width, colors=theme.paper, linewidths=1.1, zorder=3)
    axes.hlines(starts[1:], 0, columns, colors=theme.edge, linewidths=0.25, zorder=4)
    if len(starts) == 1 and not blocks[0]:
        return
    gap = SMALLEST * k * 1.12 / 72 / row
    # more blocks than lines of text: every second one, or third, is named
    every = max(1, int(np.ceil(len(starts) * gap / len(blocks) - 1e-9)))
    starts, centres = starts[::every], centres[::every]
    places = _spread(centres, gap, len(blocks))
    for start, place in zip(starts, places, strict=True):
        name = short_label(blocks[start], 14) or "(no block)"
        side.text(-1.9, place, name, fontsize=SMALLEST * k, ha="right", va="center")
    leads = [((-1.7, place), (-0.2, centre)) for place, centre in zip(places, centres, strict=True)]
    side.add_collection(
        LineCollection(leads, colors=theme.edge, linewidths=0.5, clip_on=False), autolim=False
    )


def _spread(wanted: Sequence[float], gap: float, top: float) -> list[float]:
    """Return ascending places near the wanted ones, at least `gap` apart where there is room.

    >>> _spread([1.0, 1.5, 9.0], gap=2.0, top=10.0)
    [0.25, 2.25, 9.0]
    """
    gap = min(gap, top / max(len(wanted), 1))
    # runs of labels that touch are centred on what they name
    runs: list[list[float]] = []  # [sum of (wanted − offset), how many]
    for place in wanted:
        runs.append([place, 1.0])
        while len(runs) > 1:
            (first, count), (second, more) = runs[-2], runs[-1]
            if first / count + count * gap <= second / more:
                break
            runs[-2:] = [[first + second - more * count * gap, count + more]]
    return [total / count + i * gap for total, count in runs for i in range(int(count))]


def _legend_handles(grid: LayerGrid, colours: Mapping[str, Any], theme: Theme) -> list[Patch]:
    handles = [
        Patch(facecolor=colour, label=short_label(role, 18)) for role, colour in colours.items()
    ]
    if any(role not in colours for role in grid.roles) and colours:
        handles.append(Patch(facecolor=_OTHER_ROLES, label="other"))
    if (grid.values == 0).any():
        handles.append(Patch(facecolor="none", edgecolor=theme.edge, label="unchanged"))
    if np.isnan(grid.values).any():
        handles.append(Patch(label="no distance", **_hatch(theme)))
    return handles
