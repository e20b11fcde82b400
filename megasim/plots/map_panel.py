"""The panel of a map: points, the walk over them, and labels that keep off each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.patches import FancyArrowPatch, Rectangle

from megasim.geometry.embedding import squared_distances
from megasim.geometry.map import MapResult
from megasim.matrix.distance_matrix import Floats
from megasim.plots.heatmap import colour_map
from megasim.plots.label_placement import Place, place_labels
from megasim.plots.labels import text_extent
from megasim.plots.style import SMALLEST, Theme

NAMED = 40  # models up to which names stand at the points; beyond, numbers and a list
LABELLED = 300  # models up to which all have a label
TABLE = 16  # steps up to which length and turn are printed
PLAIN = "#7c7b78"  # of points where no third axis colours them: the middle of cividis
_SHORTEST = 52  # typographic points of a step that has room for its length
_FARTHEST = 330.0  # typographic points of a label from its point
_LEADER = 8.0  # the same from which a line leads to it
_NEARBY = 30.0  # the same where labels may be left out
_ZOOM_LENGTH = 0.35  # share of the map's width below which enlarging half the models is worth it
_ZOOM_LEAST = 8  # models
_OUTLIERS = 0.95  # quantile of the third axis where colours end, of many models

Box = tuple[float, float, float, float]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MapArt:
    """What all panels of one map share.

    Attributes:
        result: the map.
        names: drawable, no two alike.
        theme, scale: of its text and marks.
        alone: whether no list of names goes with it, so that points have names or nothing, and
            these only near by.
    """

    result: MapResult
    names: tuple[str, ...]
    theme: Theme
    scale: float = 1.0
    alone: bool = False

    @property
    def named(self) -> bool:
        """Whether names stand at the points, not numbers."""
        return self.alone or len(self.names) <= NAMED

    @property
    def labelled(self) -> Mask:
        """(N,) which models have a label: all, or of more than `LABELLED` those on the path."""
        on_path = np.isin(np.arange(len(self.names)), self.result.walk.order)
        return on_path | (len(self.names) <= LABELLED)

    @cached_property
    def colours(self) -> ScalarMappable | None:
        """The colours of the third axis; None where it holds less than half a percent."""
        eigenvalues = self.result.eigenvalues
        if eigenvalues[2:3].sum() < 0.005 * np.maximum(eigenvalues, 0.0).sum():
            return None
        # one far model would leave the others a single colour
        size = np.abs(self.result.coordinates[:, 2])
        reach = float(np.quantile(size, _OUTLIERS if len(size) > TABLE else 1.0))
        return ScalarMappable(Normalize(-reach, reach), colour_map(self.theme))

    @property
    def extend(self) -> str:
        """Whether values go beyond the colours, as matplotlib says it."""
        reach = np.inf if self.colours is None else self.colours.norm.vmax
        return "both" if np.abs(self.result.coordinates[:, 2]).max() > reach else "neither"

    @property
    def fill(self) -> Any:
        """The colour of each point, or one for all."""
        if self.colours is None:
            return [PLAIN]
        return self.colours.to_rgba(self.result.coordinates[:, 2])

    def steps(self) -> list[tuple[float, float]]:
        """Return length and turn of each edge of the walk."""
        a, b = self.result.walk.edges.T
        lengths = np.sqrt(squared_distances(self.result.matrix)[a, b])
        return list(zip(lengths.tolist(), self.result.turns.tolist(), strict=True))


def draw_panel(axes: Axes, art: MapArt, size: tuple[float, float], part: Box, within: Mask) -> int:
    """Draw the points, the walk, and labels for the models of `within`; return how many had room.

    Args:
        axes: of a place `size` large, in typographic points.
        part: left, bottom, right, top of what is shown, of the shape of the place.
        within: (N,) which models are labelled here.
    """
    xy = art.result.coordinates[:, :2]
    axes.set_xlim(part[0], part[2])
    axes.set_ylim(part[1], part[3])
    k, theme = art.scale, art.theme
    axes.tick_params(labelsize=SMALLEST * k, length=2 * k)
    axes.locator_params(nbins=7)
    for spine in axes.spines.values():
        spine.set_color(theme.rule)
    n = len(xy)
    marker = (3.8 if n <= NAMED else 2.6 if n <= 150 else 2.1) * k
    _draw_walk(axes, art)
    axes.scatter(
        xy[:, 0],
        xy[:, 1],
        s=(2 * marker) ** 2,
        c=art.fill,
        edgecolors=theme.paper,
        lw=0.6 * k,
        zorder=4,
    )
    low = np.array(part[:2])
    at = (xy - low) / (np.array(part[2:]) - low) * np.array(size)
    return _draw_labels(axes, art, at, size, within, marker)


def shown_part(xy: Floats, size: tuple[float, float], margin: float) -> Box:
    """Return the limits that show all of `xy` with a margin, a unit as long in x as in y."""
    low, high = xy.min(axis=0), xy.max(axis=0)
    unit = float(((high - low) / (np.array(size) * (1 - 2 * margin))).max()) or 1.0
    half = np.array(size) * unit / 2
    centre = (low + high) / 2
    return (*(centre - half).tolist(), *(centre + half).tolist())


def crowded_part(xy: Floats, whole: Box, size: tuple[float, float], margin: float) -> Box | None:
    """Return the part that shows the half of the models around the median, if it is small.

    Of the shape of `size`; None where the models are few, or spread well over the whole.
    """
    if len(xy) < _ZOOM_LEAST:
        return None
    apart = np.abs((xy - np.median(xy, axis=0)) / np.array(size)).max(axis=1)
    nearest = np.argsort(apart, kind="stable")[: -(-len(xy) // 2)]
    if not np.ptp(xy[nearest], axis=0).any():
        return None
    part = shown_part(xy[nearest], size, margin)
    # both have one shape, so lengths stand for areas
    return part if part[2] - part[0] < _ZOOM_LENGTH * (whole[2] - whole[0]) else None


def inside(xy: Floats, part: Box) -> Mask:
    """Return (N,) which points lie within a part."""
    return np.asarray(((xy >= part[:2]) & (xy <= part[2:])).all(axis=1))


def outline(axes: Axes, part: Box, theme: Theme) -> None:
    """Draw the frame of a part that is enlarged elsewhere."""
    width, height = part[2] - part[0], part[3] - part[1]
    axes.add_patch(Rectangle(part[:2], width, height, fill=False, ec=theme.trunk, lw=0.8, zorder=5))


def _draw_walk(axes: Axes, art: MapArt) -> None:
    """Draw the steps; only a path that was named has an order, and so heads of arrows."""
    walk, xy = art.result.walk, art.result.coordinates[:, :2]
    trunk = set(pairwise(walk.order))
    edges = [(int(a), int(b)) for a, b in walk.edges]
    for on in (False, True):
        lines = [xy[list(e)] for e in edges if (e in trunk) == on]
        if on and walk.kind == "path":
            break
        colour, width = (art.theme.trunk, 1.1) if on else (art.theme.edge, 0.8)
        axes.add_collection(
            LineCollection(lines, colors=colour, linewidths=width * art.scale, zorder=2 + on),
            autolim=False,
        )
    for a, b in edges if walk.kind == "path" else []:
        if (a, b) in trunk:
            axes.add_patch(
                FancyArrowPatch(
                    tuple(xy[a]),
                    tuple(xy[b]),
                    arrowstyle="-|>,head_width=2,head_length=4",
                    mutation_scale=art.scale,
                    color=art.theme.trunk,
                    lw=1.1 * art.scale,
                    shrinkA=3.5 * art.scale,
                    shrinkB=4.0 * art.scale,
                    zorder=3,
                )
            )


def _draw_labels(
    axes: Axes, art: MapArt, at: Floats, size: tuple[float, float], within: Mask, marker: float
) -> int:
    n = len(art.names)
    within = within & art.labelled
    labelled = np.flatnonzero(within)
    texts = art.names if art.named else [str(i) for i in range(1, n + 1)]
    k = art.scale
    font = (9.5 if n <= 12 else 8.6 if art.named else SMALLEST) * k
    box = (2.0, 2.0, size[0] - 2.0, size[1] - 2.0)
    lines = np.hstack([at[art.result.walk.edges[:, 0]], at[art.result.walk.edges[:, 1]]])
    hidden = [_square(x, y, marker) for x, y in at[~within].tolist()]
    extents = np.array([text_extent(texts[i], font) for i in labelled]).reshape(-1, 2)
    places = place_labels(
        at[labelled],
        extents,
        box,
        lines=lines,
        taken=hidden,
        marker=marker,
        farthest=(_NEARBY if art.alone else _FARTHEST) * k,
        near=_LEADER * k,
        untangled=art.alone,
    )
    leaders, taken = [], [*hidden, *(_square(x, y, marker) for x, y in at[labelled].tolist())]
    for i, place, extent in zip(labelled.tolist(), places, extents, strict=True):
        if place is None:
            continue
        _write(axes, texts[i], place, size, font, art.theme.ink)
        taken.append(_rectangle(place, extent))
        if place.distance > _LEADER * k:
            leaders.append((at[i] / size, _edge_of(place, extent, at[i]) / size))
    axes.add_collection(
        LineCollection(
            leaders,
            colors=art.theme.leader,
            linewidths=0.5 * k,
            transform=axes.transAxes,
            zorder=1,
        ),
        autolim=False,
    )
    if len(lines) <= TABLE:
        _label_steps(axes, art, lines, size, taken)
    return sum(place is not None for place in places)


def _label_steps(
    axes: Axes, art: MapArt, lines: Floats, size: tuple[float, float], taken: Sequence[Box]
) -> None:
    """Write length and turn at the arrows that are long enough; the table has them all."""
    long = np.flatnonzero(np.hypot(*(lines[:, :2] - lines[:, 2:]).T) > _SHORTEST * art.scale)
    steps, font = art.steps(), SMALLEST * art.scale
    texts = [step_text(*steps[i]) for i in long]
    places = place_labels(
        ((lines[:, :2] + lines[:, 2:]) / 2)[long],
        np.array([text_extent(text, font) for text in texts]).reshape(-1, 2),
        (2.0, 2.0, size[0] - 2.0, size[1] - 2.0),
        lines=lines,
        taken=taken,
        farthest=20.0 * art.scale,
        marker=0.5,
    )
    for text, place in zip(texts, places, strict=True):
        if place is not None:
            _write(axes, text, place, size, font, art.theme.quiet)


def step_text(length: float, turn: float) -> str:
    """Return length and turn cosine of a step, the turn left out where there is none.

    >>> step_text(8.2067, 0.2311)
    '8.207, turn +0.23'
    """
    return f"{length:.4g}" if np.isnan(turn) else f"{length:.4g}, turn {turn_text(turn, 2)}"


def turn_text(turn: float, digits: int) -> str:
    """Return a cosine with its sign; "" for NaN.

    >>> turn_text(-0.2311, 2), turn_text(-0.0001, 2)
    ('−0.23', '+0.00')
    """
    return "" if np.isnan(turn) else f"{turn:+z.{digits}f}".replace("-", "−")


def _write(
    axes: Axes, text: str, place: Place, size: tuple[float, float], font: float, colour: str
) -> None:
    axes.text(
        place.x / size[0],
        place.y / size[1],
        text,
        transform=axes.transAxes,
        fontsize=font,
        color=colour,
        ha="center",
        va="center",
        zorder=6,
    )


def _edge_of(place: Place, extent: Floats, point: Floats) -> Floats:
    """Return where the line from a point to the centre of its label meets the label."""
    centre = np.array([place.x, place.y])
    away = point - centre
    inside = (extent / 2 + 1.0) / np.maximum(np.abs(away), 1e-9)
    return np.asarray(centre + min(float(inside.min()), 1.0) * away)


def _square(x: float, y: float, half: float) -> Box:
    return x - half, y - half, x + half, y + half


def _rectangle(place: Place, extent: Floats) -> Box:
    x, y = (extent / 2).tolist()
    return place.x - x, place.y - y, place.x + x, place.y + y
