"""Which merge that sparsifies made a model: TIES, DARE, breadcrumbs, DELLA, whole elements.

Told from the exact elements of a model, its base and its parents (`sparse_atoms`): at which ranks
of a parent's change elements were taken, whether parents of opposite signs were, and the factors.

- TIES takes the largest changes, and of those the ones with the sign that weighs more.
- DARE takes changes at random, whatever their size, and scales them up.
- Breadcrumbs leave out the smallest and the largest.
- DELLA takes changes at random, the larger the likelier, and scales them up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from megasim.lineage.settings import SETTINGS, LineageSettings
from megasim.lineage.sparse_atoms import (
    Bools,
    ElementChanges,
    Explained,
    Floats,
    explain,
    factor_in,
    factors,
    pair_share,
    refined,
)
from megasim.words import MergeMethod

# Bins of ranks: for rules by size, and for chances.
_RANKS, _COARSE = 200, 20


@dataclass(frozen=True)
class SparseFit:
    """A merge that sparsifies, with K parents.

    Attributes:
        parents: which of the parents given were used.
        weights: of each, λ included; of DARE and DELLA as if scaled by one over the density.
        densities: share of each parent's changes that was kept.
        gamma: of breadcrumbs, the share of largest changes that was left out; else NaN.
        epsilon: of DELLA, by how much the mean change is likelier than the smallest; else NaN.
        normalised: whether the weights of those taken were normalised in each element.
        with_base: whether some elements are the base's.
        explained, by_chance: share of elements that follow exactly, and how many would by chance.
        unexplained: squared distance left over that from the nearest model.
    """

    method: MergeMethod
    parents: tuple[int, ...]
    weights: tuple[float, ...]
    densities: tuple[float, ...]
    gamma: float
    epsilon: float
    normalised: bool
    with_base: bool
    explained: float
    by_chance: float
    unexplained: float


def sparse_fit(
    keys: Sequence[ElementChanges], settings: LineageSettings = SETTINGS
) -> SparseFit | None:
    """Return the sparsifying merge that made a model, or None where none explains it exactly.

    Args:
        keys: the changes of some keys, from one base and of the same parents.
    """
    if not keys:
        return None
    count = len(keys[0].parents)
    usual = {i: factors(keys, i, settings.least_alone) for i in range(count)}
    used = [i for i in range(count) if usual[i] is not None]
    if not used:
        return None
    keys = [replace(key, parents=key.parents[used]) for key in keys]
    known = [float(usual[i] or 0.0) for i in used]
    scales = [[factor_in(key, i, c) for i, c in enumerate(known)] for key in keys]
    best, weights = _best_explained(keys, scales)
    scales = [refined(key, c, e) for key, c, e in zip(keys, scales, best, strict=True)]
    best = [explain(key, c, weights) for key, c in zip(keys, scales, strict=True)]
    tried = sum(e.tried for e in best)
    right, chance = (
        sum(getattr(e, name) for e in best) / max(tried, 1) for name in ("right", "by_chance")
    )
    if tried < settings.fewest_elements or right < settings.exactly:
        return None
    if right - chance < settings.beyond_chance * (1 - chance):
        return None
    found = _named(keys, scales, best, weights, used, (right, chance), settings)
    return found if found and found.unexplained <= settings.max_unexplained else None


def parents_by_elements(
    keys: Sequence[ElementChanges], settings: LineageSettings = SETTINGS
) -> list[int]:
    """Return the parents of which single elements were taken, out of many; empty if of none.

    One is added after the other, that which explains most more, until none explains a share more:
    another merge of the same parents explains some elements too, but fewer than these.

    Args:
        keys: the changes of some keys, from one base, of the model and of all that may be parents.
    """
    if not keys:
        return []
    usual = {i: factors(keys, i, settings.least_alone) for i in range(len(keys[0].parents))}
    elements = sum(len(key.model) for key in keys)

    def explained(some: Sequence[int]) -> float:
        part = [replace(key, parents=key.parents[list(some)]) for key in keys]
        scales = [
            [factor_in(key, k, float(usual[i] or 0.0)) for k, i in enumerate(some)] for key in part
        ]
        best, _ = _best_explained(part, scales)
        return sum(e.right for e in best) / elements

    open_to = [i for i, factor in usual.items() if factor is not None]
    chosen: list[int] = []
    reached = 0.0
    while open_to and len(chosen) < settings.most_parents:
        shares = {i: explained([*chosen, i]) for i in open_to}
        further = max(open_to, key=lambda i: shares[i])
        if shares[further] < reached + settings.least_alone:
            break
        chosen.append(further)
        open_to.remove(further)
        reached = shares[further]
    for one in chosen[:-1]:  # what came first may not be needed once all are there
        rest = [i for i in chosen if i != one]
        if explained(rest) >= reached - settings.least_alone:
            chosen = rest
    return chosen


def _best_explained(
    keys: Sequence[ElementChanges], scales: Sequence[Sequence[float]]
) -> tuple[list[Explained], list[float] | None]:
    """Return how far subsets explain, added up or normalised, whichever explains more."""
    added = [explain(key, c, None) for key, c in zip(keys, scales, strict=True)]
    shares = [pair_share(keys, 0, j, scales) for j in range(1, len(scales[0]))]
    if not shares or any(s is None for s in shares):
        return added, None
    # Parent 0 beside parent j has the share s = ω₀ / (ω₀ + ωⱼ).
    relative = [1.0, *((1 - s) / s for s in shares if s is not None)]
    weights = [w / sum(relative) for w in relative]
    normalised = [explain(key, c, weights) for key, c in zip(keys, scales, strict=True)]
    if sum(e.right for e in normalised) > sum(e.right for e in added):
        return normalised, weights
    return added, None


def _named(
    keys: Sequence[ElementChanges],
    scales: Sequence[Sequence[float]],
    best: Sequence[Explained],
    weights: Sequence[float] | None,
    used: Sequence[int],
    shares: tuple[float, float],
    settings: LineageSettings,
) -> SparseFit | None:
    count = len(used)
    whole = all(abs(c - 1) < settings.as_one for row in scales for c in row)
    alone, none = _alone(best)
    if whole and (count == 1 or (alone and none < 1 - settings.exactly)):
        taken = [_share_taken(best, i) for i in range(count)]
        return _whole_elements(keys, best, used, taken, count > 1, shares)
    elected = _signs_elected(keys, scales, best)
    curves = [_taken_by_rank(keys, scales, best, i, elected) for i in range(count)]
    shapes = [_shape(curve, settings) for curve in curves]
    told = [shape for shape in shapes if shape is not None]
    kinds = {kind for kind, *_ in told}
    densities = tuple(density for _, density, _, _ in told)
    if len(told) < count or len(kinds) > 1 or min(densities) > settings.dense:
        return None
    kind = kinds.pop()
    method = {
        ("flat", False): MergeMethod.DARE,
        ("flat", True): MergeMethod.DARE_TIES,
        ("step", False): MergeMethod.TRIMMED,
        ("step", True): MergeMethod.TIES,
        ("band", False): MergeMethod.BREADCRUMBS,
        ("band", True): MergeMethod.BREADCRUMBS_TIES,
        ("ramp", False): MergeMethod.DELLA,
        ("ramp", True): MergeMethod.DELLA_TIES,
    }[kind, elected]
    scaled_up = kind in ("flat", "ramp")
    factor = [_factor(keys, scales, best, i, scaled_up, elected) for i in range(count)]
    own = [c if weights is None else c * w for c, w in zip(factor, weights or factor, strict=True)]
    return SparseFit(
        method=method,
        parents=tuple(used),
        weights=tuple(own),
        densities=densities,
        gamma=float(np.mean([g for _, _, g, _ in told])) if kind == "band" else float("nan"),
        epsilon=float(np.mean([e for *_, e in told])) if kind == "ramp" else float("nan"),
        normalised=weights is not None,
        with_base=True,
        explained=shares[0],
        by_chance=shares[1],
        unexplained=_left(keys, best),
    )


def _whole_elements(
    keys: Sequence[ElementChanges],
    best: Sequence[Explained],
    used: Sequence[int],
    taken: Sequence[float],
    without_base: bool,
    shares: tuple[float, float],
) -> SparseFit:
    return SparseFit(
        method=MergeMethod.WHOLE_ELEMENTS,
        parents=tuple(used),
        weights=tuple(taken),
        densities=tuple(taken),
        gamma=float("nan"),
        epsilon=float("nan"),
        normalised=False,
        with_base=not without_base,
        explained=shares[0],
        by_chance=shares[1],
        unexplained=_left(keys, best),
    )


def _left(keys: Sequence[ElementChanges], best: Sequence[Explained]) -> float:
    whole = sum(key.distance for key in keys)
    return sum(e.left for e in best) / whole if whole > 0 else float("nan")


def _scaled(key: ElementChanges, factor: Sequence[float]) -> Floats:
    return np.asarray(np.array(factor)[:, None] * key.parents)


def _signs_elected(
    keys: Sequence[ElementChanges], scales: Sequence[Sequence[float]], best: Sequence[Explained]
) -> bool:
    """Return whether parents of opposite signs are hardly ever taken together, as others are."""
    both = np.zeros(2)
    seen = np.zeros(2)
    for key, factor, found in zip(keys, scales, best, strict=True):
        signs = np.sign(_scaled(key, factor))
        for i in range(len(signs)):
            for j in range(i):
                told = found.known[i] & found.known[j]
                opposite = signs[i] != signs[j]
                together = found.taken[i] & found.taken[j]
                for which, some in enumerate((told & ~opposite, told & opposite)):
                    seen[which] += some.sum()
                    both[which] += (together & some).sum()
    rates = both / np.maximum(seen, 1)
    return bool(rates[0] > 0 and rates[1] < 0.2 * rates[0])


def _undisputed(
    key: ElementChanges, factor: Sequence[float], found: Explained, parent: int, elected: bool
) -> Bools:
    """Return the elements in which it is known whether a parent was taken, its sign or not.

    Where signs are elected, those in which all parents have one.
    """
    if not elected:
        return np.asarray(found.known[parent], dtype=np.bool_)
    signs = np.sign(_scaled(key, factor))
    return np.asarray(found.known[parent] & (signs == signs[parent]).all(axis=0))


def _taken_by_rank(
    keys: Sequence[ElementChanges],
    scales: Sequence[Sequence[float]],
    best: Sequence[Explained],
    parent: int,
    elected: bool,
) -> Floats:
    """Return (R, 2) how many elements at each rank of a parent's change were taken, and told of."""
    counts = np.zeros((_RANKS, 2))
    for key, factor, found in zip(keys, scales, best, strict=True):
        change = key.parents[parent]
        n = len(change)
        if n < _RANKS:
            continue
        rank = np.empty(n)
        rank[np.argsort(np.abs(change), kind="stable")] = np.arange(n) / n
        told = _undisputed(key, factor, found, parent, elected)
        at = (rank[told] * _RANKS).astype(np.int64)
        counts[:, 1] += np.bincount(at, minlength=_RANKS)
        counts[:, 0] += np.bincount(at, weights=found.taken[parent][told], minlength=_RANKS)
    return counts


def _shape(counts: Floats, settings: LineageSettings) -> tuple[str, float, float, float] | None:
    """Return how the share taken depends on the rank: its shape, density, gamma and epsilon.

    "flat": at random · "ramp": at random, the larger the likelier · "step": from a rank on ·
    "band": from a rank on, without the largest. None of another form.
    """
    seen = counts[:, 1] > settings.fewest_in_bin
    if seen.sum() < _RANKS / 4:
        return None
    share = counts[seen, 0] / counts[seen, 1]
    middle = (np.arange(_RANKS)[seen] + 0.5) / _RANKS
    between = (share > 0.1) & (share < 0.9)
    if between.mean() < settings.blurred:
        first = float(middle[share > 0.5].min(initial=1.0))
        if first >= 1.0:
            return None
        # The bin in which it begins is taken in part.
        taken = float(share[middle >= first - 1.5 / _RANKS].sum()) / _RANKS
        top = share[middle > first]
        lost = float((1 - top).sum()) / _RANKS
        is_band = bool(share[-1] < 0.5)
        return ("band" if is_band else "step", taken, lost if is_band else 0.0, 0.0)
    # Of chances the shares scatter by how few elements there are, so ranks are put together.
    coarse = counts.reshape(-1, _RANKS // _COARSE, 2).sum(axis=1)
    seen = coarse[:, 1] > settings.fewest_in_bin
    share, weight = coarse[seen, 0] / coarse[seen, 1], coarse[seen, 1]
    middle = (np.arange(_COARSE)[seen] + 0.5) / _COARSE
    slope, mean = np.polyfit(middle - 0.5, share, 1, w=np.sqrt(weight))
    error = np.average(np.abs(share - mean - slope * (middle - 0.5)), weights=weight)
    if error > settings.blurred:
        return None
    if abs(slope) < settings.ramp:
        return ("flat", float(np.average(share, weights=weight)), 0.0, 0.0)
    return ("ramp", float(mean), 0.0, float(slope / 2))


def _factor(
    keys: Sequence[ElementChanges],
    scales: Sequence[Sequence[float]],
    best: Sequence[Explained],
    parent: int,
    scaled_up: bool,
    elected: bool,
) -> float:
    """Return the factor of a parent; of changes scaled up, what it was before.

    Tools scale so that the L1 of a tensor's changes stays what it was, or by one over the density;
    both give the same here but for chance.
    """
    found, sizes = [], []
    for key, factor, explained in zip(keys, scales, best, strict=True):
        change = np.abs(key.parents[parent])
        told = _undisputed(key, factor, explained, parent, elected)
        whole = float(change[told].sum())
        if whole > 0:
            kept = float(change[told & explained.taken[parent]].sum()) / whole
            found.append(factor[parent] * (kept if scaled_up else 1.0))
            sizes.append(int(told.sum()))
    return float(np.average(found, weights=sizes)) if sum(sizes) else float("nan")


def _share_taken(best: Sequence[Explained], parent: int) -> float:
    told = sum(int(e.known[parent].sum()) for e in best)
    return sum(int((e.known & e.taken)[parent].sum()) for e in best) / max(told, 1)


def _alone(best: Sequence[Explained]) -> tuple[bool, float]:
    """Return whether no two parents were taken together, and the share with none of them."""
    told = together = none = 0
    for e in best:
        clear = e.known.all(axis=0)
        counts = e.taken[:, clear].sum(axis=0)
        told += int(clear.sum())
        together += int((counts > 1).sum())
        none += int((counts == 0).sum())
    return together < 0.01 * told, none / max(told, 1)
