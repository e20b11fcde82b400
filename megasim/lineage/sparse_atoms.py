"""Which change of which parent each element of a model took over, and by what factor.

With the changes t = m − base of a model and δᵢ = aᵢ − base of its parents, merges that sparsify
leave in each element a sum over a subset S of the parents,

    t = Σ_{i ∈ S} cᵢ δᵢ,   or with weights normalised   t = Σ_{i ∈ S} ωᵢ cᵢ δᵢ / Σ_{i ∈ S} ωᵢ,

with factors that are the same in a whole tensor. Where one parent alone was taken, t / δᵢ is
exactly cᵢ: among millions of elements this ratio stands out, where nothing of the kind was done
the ratios are spread out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from megasim.compare.elements import KeyElements

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# Bits of the mantissa, and the smallest step, of what weights are stored in.
_STEPS = {
    "float16": (10, -24),
    "bfloat16": (7, -133),
    "float32": (23, -149),
    "float64": (52, -1074),
}
# Ratios are counted in bins of this width of their logarithm; a factor stands in two of them.
_BIN = 0.02
_BINS = np.arange(np.log(0.02), np.log(50.0), _BIN)


def step_of(values: Floats, dtype: str) -> Floats:
    """Return how far numbers are from the next that a dtype has."""
    bits, least = _STEPS.get(dtype, (23, -149))
    exponent = np.floor(np.log2(np.maximum(np.abs(values), 2.0**-1000)))
    return np.asarray(np.exp2(np.maximum(exponent - bits, least)))


@dataclass(frozen=True)
class ElementChanges:
    """The changes of one key's elements from the base.

    Attributes:
        model: (n,) of the model in question.
        parents: (K, n) of its parents.
        rounding: (n,) half a step of what the model is stored in.
        precision: relative error of a product in that dtype, as a merge tool may compute in it.
        distance: squared distance of the model from the nearest of base and parents.
    """

    model: Floats
    parents: Floats
    rounding: Floats
    precision: float
    distance: float

    @classmethod
    def of(cls, elements: KeyElements, base: int, parents: Sequence[int]) -> ElementChanges:
        """Return the changes of the first of some models, and of its parents, from a base."""
        values = elements.values[[0, base, *parents]]
        model, base_values = values[0], values[1]
        bits, _ = _STEPS.get(elements.dtypes[0], (23, -149))
        step = step_of(model, elements.dtypes[0])
        near = np.square(values[1:] - model).sum(axis=1).min()
        return cls(
            model - base_values, values[2:] - base_values, step / 2, 2.0 ** -(bits + 1), float(near)
        )


@dataclass(frozen=True)
class Explained:
    """How far subsets of parents explain the elements of one key.

    Attributes:
        known: (K, n) whether it is known if a parent was taken in an element.
        taken: (K, n) whether it was.
        tried, right: how many elements changed by enough to tell, and how many of these are
            explained.
        by_chance: how many are when each is held against the changes of its neighbour.
        left: squared distance that the best subsets leave.
    """

    known: Bools
    taken: Bools
    tried: int
    right: int
    by_chance: int
    left: float


def factors(keys: Sequence[ElementChanges], parent: int, least_share: float) -> float | None:
    """Return the factor by which a parent's change was taken over where it was alone, or None.

    Args:
        least_share: of all elements that tell, how many must stand out at one factor.
    """
    counts = np.zeros((2, len(_BINS)))
    tell = 0
    for key in keys:
        ratio, logs = _ratios(key, parent)
        tell += len(ratio)
        for sign in (0, 1):
            some = logs[(ratio < 0) == bool(sign)]
            at = np.floor((some - _BINS[0]) / _BIN).astype(np.int64)
            inside = at[(at >= 0) & (at < len(_BINS))]
            counts[sign] += np.bincount(inside, minlength=len(_BINS))
    if not tell:
        return None
    pairs = counts[:, :-1] + counts[:, 1:]
    sign, at = divmod(int(pairs.argmax()), pairs.shape[1])
    around = np.concatenate(
        [pairs[sign, max(at - 15, 0) : max(at - 2, 0)], pairs[sign, at + 3 : at + 16]]
    )
    background = float(np.median(around)) if len(around) else 0.0
    above = pairs[sign, at] - background
    if above < least_share * tell or above < 2 * background:
        return None
    center = float(np.exp(_BINS[at + 1]) * (-1 if sign else 1))
    within = np.concatenate(
        [r[np.abs(r / center - 1) < _BIN] for r in (_ratios(k, parent)[0] for k in keys)]
    )
    return densest(within, 0.004 * abs(center))


def factor_in(key: ElementChanges, parent: int, usual: float) -> float:
    """Return the factor in one key, where enough elements tell; near the usual one."""
    ratio, _ = _ratios(key, parent)
    within = ratio[np.abs(ratio / usual - 1) < 0.15]
    found = densest(within, 0.01 * abs(usual)) if len(within) >= 30 else usual
    return found


def refined(key: ElementChanges, factor: Sequence[float], found: Explained) -> list[float]:
    """Return the factors in one key, by least squares over what was taken of one parent alone."""
    alone = found.known.all(axis=0) & (found.taken.sum(axis=0) == 1)
    better = list(factor)
    for i, change in enumerate(key.parents):
        some = alone & found.taken[i]
        if some.sum() >= 10:
            better[i] = float(key.model[some] @ change[some] / (change[some] @ change[some]))
    return better


def _ratios(key: ElementChanges, parent: int) -> tuple[Floats, Floats]:
    """Return t / δ of the elements in which both are clear of rounding, and log |t / δ|."""
    change = key.parents[parent]
    clear = (np.abs(change) > 16 * key.rounding) & (np.abs(key.model) > 8 * key.rounding)
    ratio = key.model[clear] / change[clear]
    return ratio, np.log(np.abs(ratio))


def densest(values: Floats, width: float) -> float:
    """Return the median of the values in the window of a width that holds most of them."""
    ordered = np.sort(values)
    ends = np.searchsorted(ordered, ordered + width, side="right")
    first = int((ends - np.arange(len(ordered))).argmax())
    return float(np.median(ordered[first : ends[first]]))


def pair_share(
    keys: Sequence[ElementChanges], i: int, j: int, scales: Sequence[Sequence[float]]
) -> float | None:
    """Return the share of parent i where i and j were both taken and the weights normalised.

    Args:
        scales: for each key the K factors.
    """
    found = []
    for key, factor in zip(keys, scales, strict=True):
        a, b = factor[i] * key.parents[i], factor[j] * key.parents[j]
        slack = 4 * key.rounding + 4 * key.precision * (np.abs(a) + np.abs(b))
        alone = np.minimum.reduce([np.abs(key.model - x) for x in (a, b, np.zeros_like(a))])
        apart = (np.abs(a - b) > 16 * key.rounding) & (alone > slack)
        share = (key.model[apart] - b[apart]) / (a[apart] - b[apart])
        found.append(share[(share > 0.02) & (share < 0.98)])
    shares = np.concatenate(found)
    if len(shares) < 30:
        return None
    return densest(shares, 0.01)


def explain(
    key: ElementChanges, factor: Sequence[float], weights: Sequence[float] | None
) -> Explained:
    """Return which subset of parents explains each element.

    Args:
        factor: of the K parents in this key.
        weights: ωᵢ where those taken are normalised; None where they are added up.
    """
    scaled = np.array(factor)[:, None] * key.parents
    subsets = [
        np.array([i in some for i in range(len(scaled))])
        for size in range(len(scaled) + 1)
        for some in combinations(range(len(scaled)), size)
    ]
    shares = [
        inside.astype(float)
        if weights is None or not inside.any()
        else inside * np.array(weights) / np.array(weights)[inside].sum()
        for inside in subsets
    ]
    predicted = np.stack(shares) @ scaled
    size = np.abs(scaled).sum(axis=0)
    slack = 1.05 * key.rounding + 4 * key.precision * size
    off = np.abs(predicted - key.model)
    member = np.stack(subsets)
    taken = np.stack([off[member[:, i]].min(axis=0) for i in range(len(scaled))]) <= slack
    dropped = np.stack([off[~member[:, i]].min(axis=0) for i in range(len(scaled))]) <= slack
    best = off.min(axis=0)
    tells = np.abs(key.model) > 8 * slack  # the others are the base's, as far as rounding tells
    chance = np.abs(np.roll(predicted, 1, axis=1) - key.model).min(axis=0)
    return Explained(
        known=taken ^ dropped,
        taken=taken & ~dropped,
        tried=int(tells.sum()),
        right=int((best[tells] <= slack[tells]).sum()),
        by_chance=int((chance[tells] <= slack[tells]).sum()),
        left=float(np.square(best).sum()),
    )
