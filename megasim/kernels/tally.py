"""The compiled loop that adds one key to the estimates of all pairs."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

# The order of the statuses in the last axis of `counts`. What is "changed" is not counted: it is
# what is left of the keys that both models hold, and most pairs of most keys are.
COUNTED = (
    *("identical", "same_values", "same_at_fp16", "same_at_bf16", "shape_mismatch"),
    *("non_finite", "renamed"),
)
_IDENTICAL, _SAME_VALUES, _FP16, _BF16, _SHAPE, _NON_FINITE, _RENAMED = range(len(COUNTED))

# Below this share of the norms a float32 inner product has lost too many digits to cancellation,
# and the distance is summed up from the differences.
_CANCELLED = np.float32(1e-2)


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def squared_difference(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Return the squared distance of two rows, summed in float32."""
    total = np.float32(0.0)
    for i in range(a.shape[0]):
        d = a[i] - b[i]
        total += d * d
    return float(total)


@numba.njit(cache=True, nogil=True)
def tally_key(
    rows: npt.NDArray[np.int64],
    first: npt.NDArray[np.bool_],
    place: npt.NDArray[np.int32],
    name: npt.NDArray[np.int32],
    codes: npt.NDArray[np.int32],
    finite: npt.NDArray[np.bool_],
    sketches: npt.NDArray[np.float32],
    products: npt.NDArray[np.float32],
    relative_variance: float,
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
        sketches, products: (C, m) sketches and their (C, C) inner products.
        relative_variance: of a squared distance, 2/m; 0 where tensors are kept whole.
        squared, variance: (R, N) sums of squared distances and of their variances.
        counts: (R, N, 7) integers, in the order of `COUNTED`.
    """
    norms = np.diag(products).copy()
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
            elif a == b:
                counts[r, j, _IDENTICAL] += 1
            elif not (finite[a] and finite[b]):
                counts[r, j, _NON_FINITE] += 1
            elif value == codes[b, 1]:
                counts[r, j, _SAME_VALUES] += 1
            else:
                both = norms[a] + norms[b]
                near = both - np.float32(2.0) * products[a, b]
                if near < _CANCELLED * both:
                    d = squared_difference(sketches[a], sketches[b])
                else:
                    d = float(near)
                squared[r, j] += d
                variance[r, j] += d * d * relative_variance
                if fp16 >= 0 and fp16 == codes[b, 2]:
                    counts[r, j, _FP16] += 1
                elif bf16 >= 0 and bf16 == codes[b, 3]:
                    counts[r, j, _BF16] += 1
