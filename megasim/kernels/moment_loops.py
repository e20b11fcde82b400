"""The compiled loops of norms and moments over a tile.

Sums run in float32 over a tile, in vector lanes of a few dozen elements, and go on in float64: the
relative error stays near 1e-7. A tile whose powers leave the range of float32 is summed in
float64 from the start.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from megasim.kernels.compiled import (
    REORDER,
    SINGLE_INF,
    bits_of,
    compiled,
    count_if,
    fill_tile,
    larger,
    single_of,
    widen,
)
from megasim.kernels.state import (
    COUNT,
    INFS,
    L1,
    LINF,
    M2,
    M3,
    M4,
    MEAN,
    NANS,
    SQUARES,
    ZEROS,
    Counts,
    Doubles,
    Halves,
    Singles,
)

# How a tile was summed.
NOT_FINITE, IN_SINGLE, IN_DOUBLE = range(3)

# Sums of fourth powers between these lost nothing to the range of float32.
_TINY, _HUGE = 1e-24, 1e30


@compiled(REORDER)
def _survey(x: Singles) -> tuple[np.float64, np.float64, np.int64, np.uint32]:
    """Sum, sum of magnitudes, number of zeros, and the bits of the largest magnitude."""
    total, size = np.float32(0), np.float32(0)
    zeros, largest = np.int32(0), np.uint32(0)
    for i in range(x.shape[0]):
        magnitude = abs(x[i])
        total += x[i]
        size += magnitude
        zeros = count_if(zeros, magnitude == np.float32(0))
        largest = larger(largest, bits_of(magnitude))
    return np.float64(total), np.float64(size), np.int64(zeros), largest


@compiled(REORDER)
def widen_and_survey(
    half: Halves, single: Singles
) -> tuple[np.float64, np.float64, np.int64, np.uint32]:
    """Convert float16, given as their bits, to float32, and return what `_survey` does of them."""
    total, size = np.float32(0), np.float32(0)
    zeros, largest = np.int32(0), np.uint32(0)
    for i in range(half.shape[0]):
        value = widen(half[i])
        single[i] = value
        magnitude = abs(value)
        total += value
        size += magnitude
        zeros = count_if(zeros, magnitude == np.float32(0))
        largest = larger(largest, bits_of(magnitude))
    return np.float64(total), np.float64(size), np.int64(zeros), largest


@compiled(REORDER)
def _central(x: Any, centre: Any) -> tuple[float, float, float, float]:
    """Sums of the first four powers of x − centre, in the precision of both."""
    first = second = third = fourth = centre - centre  # a zero of the same precision
    for i in range(x.shape[0]):
        d = x[i] - centre
        square = d * d
        first += d
        second += square
        third += square * d
        fourth += square * square
    return np.float64(first), np.float64(second), np.float64(third), np.float64(fourth)


@compiled()
def _merge(m: Doubles, n: float, centre: float, sums: tuple[float, float, float, float]) -> None:
    """Add n elements, given their sums of powers about `centre`, to the moments.

    P. Pébay, "Formulas for robust, one-pass parallel computation of covariances and
    arbitrary-order statistical moments", SAND2008-6212.
    """
    shift = sums[0] / n
    mean = centre + shift
    m2 = sums[1] - n * shift * shift
    m3 = sums[2] - 3 * shift * sums[1] + 2 * n * shift**3
    m4 = sums[3] - 4 * shift * sums[2] + 6 * shift * shift * sums[1] - 3 * n * shift**4
    k = m[COUNT]
    total = k + n
    d = mean - m[MEAN]
    d2 = d * d
    m[M4] += (
        m4
        + d2 * d2 * k * n * (k * k - k * n + n * n) / (total * total * total)
        + 6 * d2 * (k * k * m2 + n * n * m[M2]) / (total * total)
        + 4 * d * (k * m3 - n * m[M3]) / total
    )
    m[M3] += m3 + d2 * d * k * n * (k - n) / (total * total) + 3 * d * (k * m2 - n * m[M2]) / total
    m[M2] += m2 + d2 * k * n / total
    m[MEAN] += d * n / total
    m[COUNT] = total


@compiled()
def _mark(x: Any, counts: Counts) -> bool:
    """Count zeros, NaNs and infs, and give all NaNs one bit pattern; whether there were any."""
    found = False
    for i in range(x.shape[0]):
        if x[i] != x[i]:
            x[i] = np.nan
            counts[NANS] += 1
            found = True
        elif abs(x[i]) == np.inf:
            counts[INFS] += 1
            found = True
        elif x[i] == 0:
            counts[ZEROS] += 1
    return found


@compiled()
def add_double(x: Doubles, moments: Doubles, counts: Counts) -> bool:
    """Add elements to the sums; whether all are finite."""
    n = x.shape[0]
    if _mark(x, counts):
        return False
    total = size = largest = 0.0
    for i in range(n):
        total += x[i]
        size += abs(x[i])
        largest = max(largest, abs(x[i]))
    moments[L1] += size
    moments[LINF] = max(moments[LINF], largest)
    centre = total / n
    _merge(moments, np.float64(n), centre, _central(x, centre))
    return True


@compiled()
def add_single(x: Singles, scratch: Doubles, moments: Doubles, counts: Counts) -> int:
    """Add elements to the sums, no more than `scratch` holds; returns how they were summed."""
    return add_surveyed(x, _survey(x), scratch, moments, counts)


@compiled()
def add_surveyed(
    x: Singles,
    survey: tuple[np.float64, np.float64, np.int64, np.uint32],
    scratch: Doubles,
    moments: Doubles,
    counts: Counts,
) -> int:
    """As `add_single`, of elements of which `survey` is known."""
    n = x.shape[0]
    total, size, zeros, largest = survey
    if largest >= SINGLE_INF:
        _mark(x, counts)
        return NOT_FINITE
    centre = np.float32(total / n)
    sums = _central(x, centre)
    if largest > 0 and not _TINY < sums[3] < _HUGE:
        fill_tile(x, scratch)
        add_double(scratch[:n], moments, counts)
        return IN_DOUBLE
    counts[ZEROS] += zeros
    moments[L1] += size
    moments[LINF] = max(moments[LINF], np.float64(single_of(largest)))
    c = np.float64(centre)
    moments[SQUARES] = sums[1] + 2 * c * sums[0] + n * c * c
    _merge(moments, np.float64(n), c, sums)
    return IN_SINGLE
