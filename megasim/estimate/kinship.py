"""Kinship of models as a test with a p-value, out of the profiles in the store.

Hidden units have no order. Networks that were trained apart hold theirs in orders that have nothing
to do with each other: under the hypothesis that two models are unrelated, every permutation of the
hidden units of one of them is as likely as the one it has. Related models still hold them in one
order, whatever training did since. So the norms of the slices that belong to the units are ranked,
and the ranks correlated unit by unit (Spearman). The idea is that of Zhu et al., "Independence
Tests for Language Models" (ICML 2025), on norms instead of weights or activations.

With ranks of mean 0 and length 1 in the columns of A and B (units × axes) for one set of n units,
the sum of correlations T = tr AᵀB has, over permutations, mean 0 and the exact variance

    Var T = ⟨AᵀA, BᵀB⟩ / (n − 1).

Sets are permuted independently, so sums and variances add, each set weighted by n − 1. The mean
correlation r = Σ (n − 1) T / Σ K (n − 1) of K axes a set is then tested as one correlation of
ν + 1 = (Σ K (n − 1))² / Σ (n − 1)² Var T degrees: t = r √(ν / (1 − r²)) against Student's law of ν
degrees of freedom, which for one axis is the usual test of a rank correlation.

Measured by `benchmarks/kinship.py`: see docs/lineage.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree
from scipy.stats import rankdata
from scipy.stats import t as students_t

from megasim.anatomy.hidden_units import HiddenUnits, hidden_units
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.matrices import member_names
from megasim.store.rows import Store

Floats = npt.NDArray[np.float64]

# Two norms that differ by this share at most may be one and the same: twice the precision of a
# float16, as sums of permuted elements may round the other way.
_SAME_NORM = 2.0**-10
# So many of the units must be found again where one model is the other with its units permuted.
_PERMUTED_SHARE = 0.99
# Sets of hidden units that are loaded at a time.
_SETS_AT_ONCE = 32


@dataclass(frozen=True)
class KinshipTest:
    """The test of each pair of N models.

    Attributes:
        models: their names.
        units: (N, N) hidden units that both hold, 0 where nothing can be tested.
        correlation: (N, N) mean rank correlation of the units' norms, -1 to 1; NaN without units.
        freedom: (N, N) degrees of freedom ν of its test; NaN without units.
        log_p: (N, N) natural logarithm of the p-value; NaN without units.
    """

    models: tuple[str, ...]
    units: npt.NDArray[np.int64]
    correlation: Floats
    freedom: Floats
    log_p: Floats

    def log_threshold(self, error_rate: float) -> float:
        """Return below which `log_p` is kinship, at this chance of any false one among all pairs.

        Bonferroni's bound over the pairs that were tested.
        """
        tested = int(np.triu(self.units > 0, 1).sum())
        return float(np.log(error_rate / max(tested, 1)))


class _UnitSet(NamedTuple):
    """One set of hidden units and the ids of the models that hold it."""

    units: HiddenUnits
    model_ids: tuple[int, ...]


def kinship_test(
    store: Store,
    component: str = "unet",
    *,
    models: Sequence[str] | None = None,
    progress: Progress = NO_PROGRESS,
) -> KinshipTest:
    """Test every pair of models for kinship in a component, with no file read.

    Args:
        models: all that the store knows when None.

    Raises:
        UsageError: a model that the store does not know.
    """
    ids = store.model_ids(models)
    place = {model_id: i for i, model_id in enumerate(ids.values())}
    count = len(place)
    total, variance = np.zeros((count, count)), np.zeros((count, count))
    weight, units = np.zeros((count, count)), np.zeros((count, count), dtype=np.int64)
    sets = _unit_sets(store, component, place)
    progress.start("Testing kinship", len(sets), "sets of hidden units")
    try:
        for start in range(0, len(sets), _SETS_AT_ONCE):
            some = sets[start : start + _SETS_AT_ONCE]
            for held, norms in _norms_of_sets(store, some, place):
                _add_set(np.array(held), norms, total, variance, weight, units)
            progress.advance(len(some))
    finally:
        progress.finish()
    return KinshipTest(tuple(ids), units, *_tested(total, variance, weight))


def shared_units(store: Store, a: str, b: str, component: str = "unet") -> tuple[int, int]:
    """Return how many hidden units two models both hold, and how many of B are A's in any order.

    A unit is found again where a unit of the other model has the same norm on every axis, to the
    precision that norms are kept in. Where nearly all are, B is A with its units permuted, or A
    itself; unrelated models share next to none.
    """
    ids = store.model_ids([a, b])
    place = {model_id: i for i, model_id in enumerate(ids.values())}
    units = found = 0
    for held, norms in _norms_of_sets(store, _unit_sets(store, component, place), place):
        if len(held) < 2:
            continue
        scaled = np.log(np.maximum(norms, np.finfo(np.float16).tiny))
        distance, _ = KDTree(scaled[0].T).query(scaled[1].T, p=np.inf)
        units += norms.shape[2]
        found += int((distance <= _SAME_NORM).sum())
    return units, found


def _unit_sets(store: Store, component: str, place: Mapping[int, int]) -> list[_UnitSet]:
    batch = {"batch": {"component": member_names(store, component)}}
    holders: dict[HiddenUnits, list[int]] = {}
    for matrices, model_ids in store.rows("matrix_layouts", tables=batch):
        wanted = [model_id for model_id in model_ids if model_id in place]
        shapes = {entry["key"]: tuple(entry["shape"]) for entry in matrices}
        for units in hidden_units(shapes) if wanted else ():
            holders.setdefault(units, []).extend(wanted)
    return [_UnitSet(units, tuple(sorted(held))) for units, held in holders.items()]


def _norms_of_sets(
    store: Store, sets: Sequence[_UnitSet], place: Mapping[int, int]
) -> list[tuple[list[int], Floats]]:
    """Return of each set the places of the models with profiles, and (models, axes, units) norms.

    Norms are relative to the mean of their axis, as the store keeps them.
    """
    axes = sorted({(axis.key, axis.axis) for units, _ in sets for axis in units.axes})
    members = sorted({model_id for _, held in sets for model_id in held})
    tables = {
        "axes": {
            "position": list(range(len(axes))),
            "key": [key for key, _ in axes],
            "axis": [str(axis) for _, axis in axes],
        },
        "members": {"model_id": members},
    }
    kept: dict[tuple[int, int], npt.NDArray[np.float16]] = {}
    if axes:
        for model_id, at, norms in store.rows("profiles_of_axes", tables=tables):
            if norms is not None:
                kept[model_id, at] = np.frombuffer(norms, dtype=np.float16)
    found = []
    for (count, unit_axes), held in sets:
        at = [axes.index((axis.key, axis.axis)) for axis in unit_axes]
        having = [model_id for model_id in held if all((model_id, i) in kept for i in at)]
        slices = [slice(axis.start, axis.start + count) for axis in unit_axes]
        norms = np.array(
            [[kept[m, i][part] for i, part in zip(at, slices, strict=True)] for m in having],
            dtype=np.float64,
        ).reshape(len(having), len(at), count)
        found.append(([place[model_id] for model_id in having], norms))
    return found


def _add_set(
    held: npt.NDArray[np.int64],
    norms: Floats,
    total: Floats,
    variance: Floats,
    weight: Floats,
    units: npt.NDArray[np.int64],
) -> None:
    """Add one set of hidden units to the sums of all pairs of the models that hold it."""
    if not len(held):
        return
    count = norms.shape[2]
    ranks = rankdata(norms, axis=2)
    ranks -= ranks.mean(axis=2, keepdims=True)
    length = np.linalg.norm(ranks, axis=2, keepdims=True)
    ranks /= np.where(length > 0, length, 1.0)  # units that are all alike say nothing
    inner = np.einsum("man,mbn->mab", ranks, ranks).reshape(len(held), -1)
    flat = ranks.reshape(len(held), -1)
    pairs = np.ix_(held, held)
    total[pairs] += (count - 1) * (flat @ flat.T)
    variance[pairs] += (count - 1) * (inner @ inner.T)
    weight[pairs] += norms.shape[1] * (count - 1)
    units[pairs] += count


def _tested(total: Floats, variance: Floats, weight: Floats) -> tuple[Floats, Floats, Floats]:
    """Return correlations, degrees of freedom and logarithms of p-values of the sums of pairs."""
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.where(weight > 0, total / weight, np.nan)
        freedom = np.where(variance > 0, weight**2 / variance - 1, np.nan)
        correlation = np.clip(correlation, -1.0, 1.0)
        student = correlation * np.sqrt(freedom / (1 - correlation**2))
    return correlation, freedom, students_t.logsf(student, freedom)
