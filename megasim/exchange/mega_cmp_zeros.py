"""Which zeros of a published matrix cannot mean "identical".

A file of mega_cmp writes 0 for two models that are the same, and for two that were not compared.
Being the same is an equivalence: of two models that are the same, every other is at the same
distance. A zero that breaks this was not compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megasim.matrix.distance_matrix import Floats

Mask = npt.NDArray[np.bool_]

# Relative; the published figures of equal models agree to 1e-15, and those of a model that lacks
# a few keys differ by 1e-4 and more.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class ZeroVerdict:
    """What the zeros of a matrix can mean.

    Attributes:
        not_compared: (N, N) bool, symmetric: zeros that other distances contradict.
        unproven: (N, N) bool, symmetric: the other zeros off the diagonal.
        silent: models that stand at 0 from every other, though those differ; all their zeros
            are in `not_compared`.
    """

    not_compared: Mask
    unproven: Mask
    silent: tuple[int, ...]


def judge_zeros(values: Floats) -> ZeroVerdict:
    """Judge the zeros of a distance matrix, (N, N), symmetric, NaN where nothing is known.

    In three steps, the surest first:

    1. d(i,j) = 0 while d(i,k) and d(j,k), both nonzero, differ: not compared.
    2. A model without any nonzero distance, at 0 from two models that differ: none of its pairs
       was compared, as when it lacks the component or names it otherwise.
    3. d(i,j) = d(i,k) = 0 while d(j,k) is not: one of the two was not compared, and it is not
       known which; both are given up.

    Not guaranteed: that a zero which remains means identical. Time grows as N³.

    >>> judge_zeros(np.array([[0, 5, 0], [5, 0, 0], [0, 0, 0.0]])).silent
    (2,)
    """
    n = len(values)
    off = ~np.eye(n, dtype=bool)
    measured = off & (values > 0)
    zero = off & (values == 0)
    contradicted = np.zeros((n, n), dtype=bool)
    for i, j in zip(*np.nonzero(np.triu(zero)), strict=True):
        both = measured[i] & measured[j]
        a, b = values[i, both], values[j, both]
        contradicted[i, j] = contradicted[j, i] = bool(
            (np.abs(a - b) > TOLERANCE * np.maximum(a, b)).any()
        )
    zero_left = zero & ~contradicted
    doubtful = _doubtful(zero_left, measured)
    silent = np.flatnonzero(~measured.any(axis=1) & doubtful.any(axis=1))
    zero_left[silent, :] = zero_left[:, silent] = False
    zero_left &= ~_doubtful(zero_left, measured)
    return ZeroVerdict(
        not_compared=zero & ~zero_left,
        unproven=zero_left,
        silent=tuple(silent.tolist()),
    )


def _doubtful(zero: Mask, measured: Mask) -> Mask:
    """Return the zeros of a model at 0 from two models that differ."""
    found = np.zeros_like(zero)
    for i, row in enumerate(zero):
        same = np.flatnonzero(row)
        found[i, same] = measured[np.ix_(same, same)].any(axis=1)
    return found | found.T
