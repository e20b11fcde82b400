"""Where in the network the change is: layers × pairs. Nothing here saves or queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from megasim.anatomy.block_order import block_place, natural
from megasim.errors import NoAnswerError, printable
from megasim.matrix.distance_matrix import Floats
from megasim.plots.heatmap import COLOURS, MISSING, colour_bar, component_label, short_label

RMS = "rms"  # L2 over the root of the number of elements: the change of a typical element
RAW = "raw"  # L2 as it is
_UNCHANGED = "#ffffff"
_HATCH: dict[str, Any] = {"facecolor": MISSING, "hatch": "////", "edgecolor": "#b5b5b5"}
_MOST_ROLES = 9  # with a colour of their own
_OTHER_ROLES = "#c9c9c9"
_LABEL_GAP = 0.095  # inches between two labels of blocks
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


def layers_figure(grid: LayerGrid, *, title: str, component: str) -> Figure:
    """Return layers × pairs as a heatmap: a row for each layer, a column for each pair.

    Rows are grouped by block, and a stripe beside them tells the role. The scale is logarithmic
    and spans at most five decades below the largest change; a layer at distance 0 is white, one
    without a distance grey and hatched.

    Args:
        title: what the columns are, e.g. "sd14 against 4 others".
    """
    rows, columns = grid.values.shape
    cell = float(np.clip(7.0 / columns, 0.115, 0.6))
    width, height = max(cell * columns, 1.2), float(np.clip(rows * 0.055, 1.3, 9.5))
    labels = [short_label(pair, 40) for pair in grid.pairs]
    size = float(np.clip(cell * 62, 4.2, 9.0))
    colours = _role_colours(grid.roles)
    left, stripe, top = 1.1, 0.13, 1.15
    below = 0.25 + max(map(len, labels)) * size * 0.0088
    whole = (max(left + stripe + width + 1.9, 5.6), below + height + top)
    figure = Figure(figsize=whole)

    def axes_at(x: float, y: float, w: float, h: float) -> Axes:
        return figure.add_axes((x / whole[0], y / whole[1], w / whole[0], h / whole[1]))

    norm = _norm(grid.values)
    axes = axes_at(left + stripe + 0.05, below, width, height)
    _draw_cells(axes, grid.values, norm)
    axes.set_xticks(np.arange(columns) + 0.5, labels, rotation=90, fontsize=size)
    axes.tick_params(length=0)
    side = axes_at(left, below, stripe, height)
    side.imshow(
        [[to_rgba(colours.get(role, _OTHER_ROLES))] for role in grid.roles],
        aspect="auto",
        interpolation="none",
        extent=(0, 1, rows, 0),
    )
    side.axis("off")
    _draw_blocks(axes, side, grid.blocks, columns, height / rows)
    if norm is not None:
        colour_bar(figure, axes_at(left, below + height + 0.14, 3.4, 0.12), norm, most_decades=2)
    _legend(axes, grid, colours)
    unit = "change of a typical element, L2 / √elements" if grid.scale == RMS else "L2 distance"
    parts = f" in {rows:,} parts" if rows < grid.keys else ""
    missing = int(np.isnan(grid.values).sum())
    note = f"{unit} · {grid.keys:,} keys{parts} · {columns} pair{'s'[: columns != 1]}"
    note += f" · {missing:,} of {rows * columns:,} cells without a distance" if missing else ""
    heading = f"{component_label(component)}: {short_label(title, 120)}"
    figure.text(0.1 / whole[0], 1 - 0.1 / whole[1], heading, va="top", fontsize=12, weight="bold")
    figure.text(0.1 / whole[0], 1 - 0.36 / whole[1], note, va="top", fontsize=8)
    return figure


def _norm(values: Floats) -> LogNorm | None:
    positive = values[values > 0]
    if not positive.size:
        return None
    high = float(positive.max())
    low = max(float(positive.min()), high / _DECADES)
    return LogNorm(low if low < high else high / 10, high, clip=True)


def _draw_cells(axes: Axes, values: Floats, norm: LogNorm | None) -> None:
    rows, columns = values.shape
    # one hatched ground; all that has a value is painted over it
    axes.add_patch(Rectangle((0, 0), columns, rows, zorder=1, linewidth=0, **_HATCH))
    image = np.zeros((rows, columns, 4))
    image[values == 0] = to_rgba(_UNCHANGED)
    if norm is not None:
        positive = values > 0
        image[positive] = ScalarMappable(norm, COLOURS).to_rgba(values[positive])
    # more rows than pixels must be averaged, or some would not be seen at all
    how = "none" if rows < 1100 else "antialiased"
    axes.imshow(image, aspect="auto", interpolation=how, extent=(0, columns, rows, 0), zorder=2)
    for spine in axes.spines.values():
        spine.set(color="#999999", linewidth=0.6)
    axes.set_yticks([])


def _role_colours(roles: Sequence[str]) -> dict[str, Any]:
    """Return colours for the most frequent roles, in the order of their names."""
    counts = pd.Series([role for role in roles if role]).value_counts()
    named = sorted(sorted(counts.index, key=lambda role: (-counts[role], role))[:_MOST_ROLES])
    # the palette's grey is kept for the rest
    palette = [c for i, c in enumerate(sns.color_palette("colorblind")) if i != 7]
    return dict(zip(named, palette, strict=False))


def _draw_blocks(axes: Axes, side: Axes, blocks: Sequence[str], columns: int, row: float) -> None:
    """Draw a line between blocks, and their names left of the stripe, none over another.

    Args:
        columns: of the grid. row: inches of one of its rows.
    """
    starts = [i for i, block in enumerate(blocks) if i == 0 or block != blocks[i - 1]]
    centres = [(a + b) / 2 for a, b in zip(starts, [*starts[1:], len(blocks)], strict=True)]
    for ax, width in ((axes, columns), (side, 1)):
        ax.hlines(starts[1:], 0, width, colors="white", linewidths=1.1, zorder=3)
    axes.hlines(starts[1:], 0, columns, colors="#999999", linewidths=0.25, zorder=4)
    if len(starts) == 1 and not blocks[0]:
        return
    places = _spread(centres, _LABEL_GAP / row, len(blocks))
    for start, place in zip(starts, places, strict=True):
        name = printable(blocks[start], 14).replace("$", r"\$") or "(no block)"
        side.text(-1.9, place, name, fontsize=6.2, ha="right", va="center")
    leads = [((-1.7, place), (-0.2, centre)) for place, centre in zip(places, centres, strict=True)]
    side.add_collection(
        LineCollection(leads, colors="#999999", linewidths=0.4, clip_on=False), autolim=False
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


def _legend(axes: Axes, grid: LayerGrid, colours: Mapping[str, Any]) -> None:
    handles = [
        Patch(facecolor=colour, label=printable(role, 18)) for role, colour in colours.items()
    ]
    if any(role not in colours for role in grid.roles) and colours:
        handles.append(Patch(facecolor=_OTHER_ROLES, label="other"))
    if (grid.values == 0).any():
        handles.append(Patch(facecolor=_UNCHANGED, edgecolor="#999999", label="unchanged"))
    if np.isnan(grid.values).any():
        handles.append(Patch(label="no distance", **_HATCH))
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        fontsize=7.5,
        handlelength=1.1,
        handleheight=0.9,
    )
