"""The same matrices in another layout: transposed, fused, split, rows of heads in another order.

Libraries keep one network in different ways: an attention has one matrix for queries, keys and
values or three; a linear layer is (outputs, inputs) or (inputs, outputs); the rows of a rotary head
are in halves or in pairs. The norms of rows and columns tell all of these, whatever the names and
with no file read: those of a transposed matrix have changed places, those of a fused matrix are
those of its parts one after the other, and another order of rows leaves the columns as they were.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from megasim.estimate.profiles import MatrixProfile
from megasim.words import Layout

Floats = npt.NDArray[np.float64]

# Two norms kept as float16 may be the same where they differ by this share at most.
SAME_NORM = 2.0**-10
# So many of the norms must be the same, as sums of other orders may round the other way.
_SAME_SHARE = 0.99
# Norms of whole matrices whose profiles may be the same.
_SAME_L2 = 1e-3
# A matrix whose norms are all alike to this share says nothing of which matrix it is.
_FLAT = 8 * SAME_NORM
_FEWEST_NORMS = 16
# So much of the matrices of both models must be found for them to be one in another layout.
_LEAST_FOUND = 0.5
_MOST_FUSED = 4
# Of two runs of norms the first few are looked at before all: half of them must be the same.
_FIRST = 16


class LayoutMatch(NamedTuple):
    """Matrices of one model that are those of another.

    Attributes:
        keys, others: of the first model and of the second; more than one where it is split.
        head_size: rows of a head, where rows of heads are in another order; else 0.
    """

    layout: Layout
    keys: tuple[str, ...]
    others: tuple[str, ...]
    head_size: int = 0


class _Sides(NamedTuple):
    """A matrix seen from one side: norms along it and across it."""

    along: Floats
    across: Floats
    turned: bool


def same_norms(first: Floats, second: Floats) -> bool:
    """Return whether nearly all norms are the same, one by one."""
    if len(first) != len(second):
        return False
    least = 1e-6 * float(first.max())
    close = np.abs(first - second) <= SAME_NORM * np.maximum(first, second) + least
    return bool(np.count_nonzero(close) >= _SAME_SHARE * len(first))


def matched_layouts(
    first: Mapping[str, MatrixProfile], second: Mapping[str, MatrixProfile]
) -> list[LayoutMatch]:
    """Return which matrices of one model are which of another, in the order of the first's keys.

    Those under one name are asked first. A matrix whose norms are all alike is left out, and one
    without norms of both rows and columns.

    >>> rows, columns = np.linspace(1, 2, 24), np.linspace(1, 3, 16)
    >>> columns *= np.linalg.norm(rows) / np.linalg.norm(columns)
    >>> matched_layouts({"a": MatrixProfile(rows, columns)}, {"b": MatrixProfile(columns, rows)})
    [LayoutMatch(layout=<Layout.TRANSPOSED: 'transposed'>, keys=('a',), others=('b',), head_size=0)]
    """
    left, right = _telling(first), _telling(second)
    found: list[LayoutMatch] = []
    for key in [key for key in left if key in right]:
        layout = _layout_of(left[key], right[key])
        if layout is not None:
            found.append(LayoutMatch(layout[0], (key,), (key,), layout[1]))
            del left[key], right[key]
    by_size = sorted((_l2(side), other) for other, side in right.items())
    sizes = np.array([size for size, _ in by_size])
    for key in list(left):
        size = _l2(left[key])
        low, high = np.searchsorted(sizes, [size * (1 - _SAME_L2), size * (1 + _SAME_L2)])
        for _, other in by_size[low:high]:
            layout = _layout_of(left[key], right[other]) if other in right else None
            if layout is not None:
                found.append(LayoutMatch(layout[0], (key,), (other,), layout[1]))
                del left[key], right[other]
                break
    found += [LayoutMatch(Layout.FUSED, keys, (other,)) for other, keys in _fused(right, left)]
    found += [LayoutMatch(Layout.SPLIT, (key,), others) for key, others in _fused(left, right)]
    order = {key: place for place, key in enumerate(first)}
    return sorted(found, key=lambda match: order[match.keys[0]])


def is_other_layout(
    first: Mapping[str, MatrixProfile],
    second: Mapping[str, MatrixProfile],
    matches: Sequence[LayoutMatch],
) -> bool:
    """Return whether half the matrices of both models or more are found, and some laid out anew.

    Rows in an order of no library are another matter: hidden units may have changed places.
    """
    if all(match.layout in (Layout.SAME, Layout.ROWS) for match in matches):
        return False
    of_first = sum(len(match.keys) for match in matches)
    of_second = sum(len(match.others) for match in matches)
    return of_first >= _LEAST_FOUND * len(first) and of_second >= _LEAST_FOUND * len(second)


def _telling(profiles: Mapping[str, MatrixProfile]) -> dict[str, tuple[Floats, Floats]]:
    found = {}
    for key, (rows, columns) in profiles.items():
        if rows is None or columns is None or max(len(rows), len(columns)) < _FEWEST_NORMS:
            continue
        if not (_is_flat(rows) and _is_flat(columns)):
            found[key] = (rows, columns)
    return found


def _is_flat(norms: Floats) -> bool:
    return bool(norms.max() <= norms.min() * (1 + _FLAT))


def _l2(sides: tuple[Floats, Floats]) -> float:
    return float(np.linalg.norm(sides[0]))


def _layout_of(
    first: tuple[Floats, Floats], second: tuple[Floats, Floats]
) -> tuple[Layout, int] | None:
    """Return how a matrix is laid out beside the first, and the size of its heads; or None."""
    (rows, columns), (other_rows, other_columns) = first, second
    if same_norms(columns, other_columns):
        if same_norms(rows, other_rows):
            return Layout.SAME, 0
        if len(rows) == len(other_rows):
            size = _head_size(rows, other_rows)
            if size:
                return Layout.HEADS, size
            if same_norms(np.sort(rows), np.sort(other_rows)) and not _is_flat(rows):
                return Layout.ROWS, 0
    if same_norms(rows, other_columns) and same_norms(columns, other_rows):
        return Layout.TRANSPOSED, 0
    return None


def _head_size(rows: Floats, others: Floats) -> int:
    """Return of how many rows the heads are of which halves and pairs changed places; else 0.

    A rotary head turns its rows two by two: the i-th with the one half a head further, or with the
    next one. Both are in use, and converters between them move the rows.
    """
    for size in range(4, len(rows) + 1, 2):
        if len(rows) % size:
            continue
        halves = rows.reshape(-1, 2, size // 2).transpose(0, 2, 1).ravel()
        pairs = rows.reshape(-1, size // 2, 2).transpose(0, 2, 1).ravel()
        if same_norms(halves, others) or same_norms(pairs, others):
            return size
    return 0


def _fused(
    wholes: dict[str, tuple[Floats, Floats]], parts: dict[str, tuple[Floats, Floats]]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield (whole, its parts in order) and take both away."""
    for key in list(wholes):
        for side in _both_sides(wholes[key]):
            found = _parts_of(side, parts)
            if found is not None:
                del wholes[key]
                for part in found:
                    del parts[part]
                yield key, found
                break


def _both_sides(matrix: tuple[Floats, Floats]) -> tuple[_Sides, _Sides]:
    rows, columns = matrix
    return _Sides(rows, columns, False), _Sides(columns, rows, True)


def _parts_of(whole: _Sides, parts: Mapping[str, tuple[Floats, Floats]]) -> tuple[str, ...] | None:
    """Return the matrices that make up a whole one along a side, in order; None if none do."""
    able: list[tuple[str, Floats, Floats]] = []
    for key, matrix in parts.items():
        for along, across, _ in _both_sides(matrix):
            if len(across) == len(whole.across) and len(along) < len(whole.along):
                able.append((key, along, across))
    at: dict[int, tuple[str, Floats, Floats]] = {}
    for key, along, across in able:
        start = _place_in(whole.along, along)
        if start is not None:
            at.setdefault(start, (key, along, across))
    found = [at[start] for start in sorted(at)]
    keys = tuple(key for key, *_ in found)
    length = sum(len(along) for _, along, _ in found)
    if len(set(keys)) < len(keys) or length != len(whole.along) or len(keys) < 2:
        return _by_heads(whole, able)
    return keys if _add_up(whole.across, [across for *_, across in found]) else None


def _place_in(whole: Floats, part: Floats) -> int | None:
    """Return where the norms of a part begin in those of a whole; None where nowhere."""
    starts = whole[: len(whole) - len(part) + 1]
    close = np.flatnonzero(np.abs(starts - part[0]) <= 2 * SAME_NORM * part[0])
    first = whole[close[:, None] + np.arange(min(_FIRST, len(part)))]
    for start in close[_begin_alike(first, part)].tolist():
        if same_norms(whole[start : start + len(part)], part):
            return int(start)
    return None


def _by_heads(whole: _Sides, able: Sequence[tuple[str, Floats, Floats]]) -> tuple[str, ...] | None:
    """Return the parts of a whole that holds a head of each, then the next head of each."""
    for count in range(2, _MOST_FUSED + 1):
        size, over = divmod(len(whole.along), count)
        alike = [(key, along, across) for key, along, across in able if len(along) == size]
        if over or len(alike) < count:
            continue
        first = np.stack([along[:_FIRST] for _, along, _ in alike])
        for heads in _divisors(size):
            split = whole.along.reshape(heads, count, size // heads)
            found = []
            for place in range(count):
                own = split[:, place].ravel()
                likely = [alike[i] for i in np.flatnonzero(_begin_alike(first, own)).tolist()]
                part = next((p for p in likely if same_norms(own, p[1])), None)
                if part is None:
                    break
                found.append(part)
            keys = tuple(key for key, *_ in found)
            if len(set(keys)) == count and _add_up(whole.across, [a for *_, a in found]):
                return keys
    return None


def _begin_alike(first: Floats, part: Floats) -> npt.NDArray[np.bool_]:
    """Return which of (N, n) first norms may be those that a part begins with."""
    own = part[: first.shape[1]]
    return np.asarray(np.mean(np.abs(first - own) <= 2 * SAME_NORM * own, axis=1) >= 0.5)


def _divisors(number: int) -> list[int]:
    low = [n for n in range(2, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*low, *(number // n for n in low)})


def _add_up(whole: Floats, parts: Sequence[Floats]) -> bool:
    """Return whether the norms across parts give those of the whole."""
    return same_norms(whole, np.sqrt(np.sum(np.square(np.stack(parts)), axis=0)))
