"""Labels beside points: none over another, none over a point, the same every time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megasim.matrix.distance_matrix import Floats

_DISTANCES = (3.0, 9.0, 17.0, 28.0, 42.0, 60.0, 85.0, 120.0, 170.0, 240.0, 330.0)
_ANGLES = np.arange(24) * 2 * np.pi / 24
_GAP = 1.5  # between two labels
_CROSSING = 25.0  # what a line under a label costs, as distance from the point
_LEADER = 60.0  # what a leader over a label costs
_TANGLED = 240.0  # the same where a label is placed again
_ROUNDS = 4  # in which labels that a leader runs through are placed again
_AWAY = 5.0  # what it costs to stand on the side where other points are
_CROWD = 6  # neighbours that make that side
_WEIGHED = 60  # free places, the nearest ones, whose crossings are counted


@dataclass(frozen=True)
class Place:
    """Where a label stands: its centre, and its distance from the point, in the unit of both."""

    x: float
    y: float
    distance: float


def place_labels(
    points: Floats,
    sizes: Floats,
    box: tuple[float, float, float, float],
    *,
    lines: Floats | None = None,
    taken: Sequence[tuple[float, float, float, float]] = (),
    farthest: float = np.inf,
    marker: float = 4.0,
    near: float = 0.0,
    untangled: bool = False,
) -> list[Place | None]:
    """Return a place for a label beside each point, in the points' order.

    Greedy, in crowded places first: each label at the cheapest of 264 places around its
    point: near it, on the side away from its neighbours, over few lines. A place that
    covers another label, a point, or reaches out of the box is never taken, so a label for which
    none is left is None.

    Args:
        points: (P, 2), in the unit of the sizes, e.g. typographic points.
        sizes: (P, 2) width and height of each label.
        box: left, bottom, right, top that all labels stay within.
        lines: (L, 4) x0, y0, x1, y1 that labels keep off where they can.
        taken: rectangles (left, bottom, right, top) that labels keep off.
        farthest: from its point that a label may stand.
        marker: radius of what is drawn at a point.
        near: distance from its point up to which a label needs no leader.
        untangled: leave out labels rather than let a leader run through one.

    >>> place_labels(np.array([[50.0, 50.0]]), np.array([[20.0, 8.0]]), (0, 0, 100, 100))[0].y
    50.0
    """
    segments = np.empty((0, 4)) if lines is None else lines
    markers = np.hstack([points - marker, points + marker])
    outward, order = _outward(points)
    found: dict[int, _Spot] = {}

    def spot(i: int, others: Sequence[_Spot], leader_cost: float) -> _Spot | None:
        """Return the cheapest free place of a label, among others that stand already."""
        centres, cost = _candidates(points[i], outward[i], sizes[i], marker)
        cost = np.where(cost[:, 1] <= farthest, cost[:, 0], np.inf)
        half = sizes[i] / 2 + _GAP / 2
        rectangles = np.hstack([centres - half, centres + half])
        inside = (rectangles[:, :2] >= box[:2]).all(axis=1) & (rectangles[:, 2:] <= box[2:]).all(1)
        free = inside & ~_overlap(rectangles, markers).any(axis=1)
        labels = np.array([*taken, *(other.rectangle for other in others)]).reshape(-1, 4)
        free &= ~_overlap(rectangles, labels).any(axis=1)
        chosen = np.flatnonzero(free & np.isfinite(cost))
        if not len(chosen):
            return None
        chosen = chosen[np.argsort(cost[chosen], kind="stable")][:_WEIGHED]
        spots, total = rectangles[chosen], cost[chosen]
        total = total + _CROSSING * _crosses(spots, segments).sum(axis=1)
        own = np.hstack([np.broadcast_to(points[i], (len(chosen), 2)), centres[chosen]])
        total = total + leader_cost * _crosses(labels, own).sum(axis=0)
        leaders = np.array([other.leader for other in others]).reshape(-1, 4)
        total = total + leader_cost * _crosses(spots, leaders).sum(axis=1)
        best = chosen[int(np.argmin(total))]
        x, y = centres[best].tolist()
        gap = float(np.hypot(*np.maximum(np.abs(points[i] - centres[best]) - sizes[i] / 2, 0.0)))
        return _Spot(
            Place(x, y, gap), tuple(rectangles[best].tolist()), (*points[i].tolist(), x, y)
        )

    for i in order:
        best = spot(i, list(found.values()), _LEADER)
        if best is not None:
            found[i] = best
    # a label that was placed early knew nothing of those after it
    for _ in range(_ROUNDS):
        tangled = [i for i in order if i in found and _tangles(i, found, near)]
        for i in tangled:
            others = [other for j, other in found.items() if j != i]
            best = spot(i, others, _TANGLED)
            if best is not None:
                found[i] = best
        if not tangled:
            break
    while untangled:
        worst = max(found, key=lambda i: (_tangles(i, found, near), i), default=None)
        if worst is None or not _tangles(worst, found, near):
            break
        del found[worst]
    return [found[i].place if i in found else None for i in range(len(points))]


@dataclass(frozen=True)
class _Spot:
    """A label that stands: its place, its rectangle, and the line from its point to its centre."""

    place: Place
    rectangle: tuple[float, ...]
    leader: tuple[float, ...]


def _tangles(i: int, found: Mapping[int, _Spot], near: float) -> int:
    """Return how often the leader of a label runs through others, or theirs through it."""
    others = [other for j, other in found.items() if j != i]
    led = [other.leader for other in others if other.place.distance > near]
    count = 0
    if led:
        count += int(_crosses(np.array([found[i].rectangle]), np.array(led)).sum())
    if others and found[i].place.distance > near:
        labels = np.array([other.rectangle for other in others])
        count += int(_crosses(labels, np.array([found[i].leader])).sum())
    return count


def _outward(points: Floats) -> tuple[Floats, list[int]]:
    """Return the (P, 2) directions away from each point's neighbours, and the order to place in."""
    n = len(points)
    away = np.tile([1.0, 0.0], (n, 1))
    if n < 2:
        return away, list(range(n))
    apart = points[:, None] - points[None, :]
    distance = np.hypot(apart[..., 0], apart[..., 1])
    np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance, axis=1, kind="stable")[:, : min(_CROWD, n - 1)]
    rows = np.arange(n)[:, None]
    weights = 1.0 / (distance[rows, near] + 1.0)
    mean = (apart[rows, near] * weights[..., None]).sum(axis=1)
    length = np.hypot(mean[:, 0], mean[:, 1])
    clear = length > 1e-9
    away[clear] = mean[clear] / length[clear, None]
    # the most crowded first: they have the least choice
    return away, np.argsort(distance[rows, near].mean(axis=1), kind="stable").tolist()


def _candidates(point: Floats, away: Floats, size: Floats, marker: float) -> tuple[Floats, Floats]:
    """Return (C, 2) centres, and (C, 2) their cost and their distance."""
    directions = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
    # clear of the marker however the label stands to it
    reach = marker + np.array(_DISTANCES)[:, None, None]
    centres = point + directions * (reach + size / 2 * np.abs(directions) ** 0.5)
    cost = np.array(_DISTANCES)[:, None] + _AWAY * (1.0 - directions @ away)
    # beside is read more easily than above or below
    cost = cost + 2.0 * np.abs(directions[:, 1])
    distance = np.broadcast_to(np.array(_DISTANCES)[:, None], cost.shape)
    return centres.reshape(-1, 2), np.stack([cost, distance], axis=-1).reshape(-1, 2)


def _overlap(one: Floats, other: Floats) -> npt.NDArray[np.bool_]:
    """Return (C, R) whether rectangles overlap."""
    left, bottom, right, top = one.T[:, :, None]
    return np.asarray(
        (left < other[:, 2]) & (other[:, 0] < right) & (bottom < other[:, 3]) & (other[:, 1] < top)
    )


def _crosses(rectangles: Floats, lines: Floats) -> npt.NDArray[np.bool_]:
    """Return (C, L) whether lines run through rectangles (the slab method)."""
    enter, leave = np.array(0.0), np.array(1.0)
    for axis in (0, 1):
        start, direction = lines[:, axis], lines[:, axis + 2] - lines[:, axis]
        direction = np.where(np.abs(direction) < 1e-9, 1e-9, direction)
        one = (rectangles[:, axis, None] - start) / direction
        other = (rectangles[:, axis + 2, None] - start) / direction
        enter = np.maximum(enter, np.minimum(one, other))
        leave = np.minimum(leave, np.maximum(one, other))
    return np.asarray(enter <= leave)
