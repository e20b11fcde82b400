"""The compiled loops of estimates: a key → the sums of all pairs, out of its sketches."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from megasim.kernels.compiled import compiled
from megasim.kernels.state import COUNTED

_IDENTICAL, _SAME_VALUES, _FP16, _BF16, _SHAPE, _NON_FINITE, _RENAMED, _MEASURED = range(
    len(COUNTED)
)


@compiled(frozenset({"reassoc", "contract"}))
def _squared_difference(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Return the squared distance of two rows, summed in float64.

    From the differences: a matrix product of all rows would cancel, and what is said of two models
    would change in its last digits with every other model of the store.
    """
    total = 0.0
    for i in range(a.shape[0]):
        d = np.float64(a[i] - b[i])
        total += d * d
    return total


@compiled()
def squared_differences(
    rows: npt.NDArray[np.float32], usable: npt.NDArray[np.bool_], squares: npt.NDArray[np.float64]
) -> None:
    """Fill (C, C) `squares` with the squared distances of (C, m) rows, NaN beside unusable ones."""
    for i in range(rows.shape[0]):
        squares[i, i] = 0.0 if usable[i] else np.nan
        for j in range(i):
            d = _squared_difference(rows[i], rows[j]) if usable[i] and usable[j] else np.nan
            squares[i, j] = d
            squares[j, i] = d


@compiled()
def tally_key(
    rows: npt.NDArray[np.int64],
    first: npt.NDArray[np.bool_],
    place: npt.NDArray[np.int32],
    name: npt.NDArray[np.int32],
    codes: npt.NDArray[np.int32],
    finite: npt.NDArray[np.bool_],
    measured: npt.NDArray[np.bool_],
    sketches: npt.NDArray[np.float32],
    relative_variance: npt.NDArray[np.float64],
    squared: npt.NDArray[np.float64],
    variance: npt.NDArray[np.float64],
    counts: npt.NDArray[Any],
) -> None:
    """Add one key of R models against N to the sums, in place; each pair once.

    Args:
        rows: (R,) the models of the rows, ascending.
        first: (N,) whether a model is among the rows: then only the models after it count.
        place: (N,) the content of each model, -1 for none.
        name: (N,) codes of the keys as the files spell them.
        codes: (C, 4) codes of shape, value, fp16 and bf16 of each content; negative fp16 or bf16
            codes equal nothing.
        finite: (C,) whether a content has neither NaN nor inf.
        measured: (C,) whether a content enters the distance; of others only the status counts.
        sketches: (C, m), one for each content.
        relative_variance: (C,) of a squared distance, 2/m; 0 where a tensor is kept whole.
        squared, variance: (R, N) sums of squared distances and of their variances.
        counts: (R, N, 8) integers, in the order of `COUNTED`.
    """
    for r in range(rows.shape[0]):
        i = rows[r]
        a = place[i]
        if a < 0:
            continue
        shape, value, fp16, bf16 = codes[a]
        for j in range(place.shape[0]):
            b = place[j]
            if b < 0 or (first[j] and j <= i):
                continue
            if name[i] != name[j]:
                counts[r, j, _RENAMED] += 1
            if shape != codes[b, 0]:
                counts[r, j, _SHAPE] += 1
                continue
            if not (finite[a] and finite[b]) and a != b:
                counts[r, j, _NON_FINITE] += 1
                continue
            is_measured = measured[a] and measured[b]
            if is_measured:
                counts[r, j, _MEASURED] += 1
            if a == b:
                counts[r, j, _IDENTICAL] += 1
            elif value == codes[b, 1]:
                counts[r, j, _SAME_VALUES] += 1
            else:
                if fp16 >= 0 and fp16 == codes[b, 2]:
                    counts[r, j, _FP16] += 1
                elif bf16 >= 0 and bf16 == codes[b, 3]:
                    counts[r, j, _BF16] += 1
                if not is_measured:
                    continue
                d = _squared_difference(sketches[a], sketches[b])
                squared[r, j] += d
                variance[r, j] += d * d * relative_variance[a]
