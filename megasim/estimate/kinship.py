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
from scipy.stats import t as students_t

from megasim.anatomy.hidden_units import HiddenUnits, hidden_units
from megasim.estimate.file_profiles import FileProfiles
from megasim.fingerprint.profile import Norms
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.matrices import member_names
from megasim.store.rows import Store

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# Two norms that differ by this share at most may be one and the same: twice the precision of a
# float16, as sums of permuted elements may round the other way.
_SAME_NORM = 2.0**-10
# Where so many of the units are found again, one model is the other with its units permuted.
PERMUTED_SHARE = 0.99
# Models whose hidden units correlate less than this, three standard errors above included, are
# taken for unrelated. Really trained kin come down to 0.25: one initialisation, other data
# (`benchmarks/kinship.py`).
_UNRELATED_CORRELATION = 0.25
# The chance of any false kinship, over all pairs that are tested together.
ERROR_RATE = 0.01
# So many units show a correlation of 0.05 at six standard errors on one axis; each set has two or
# more. More units would only cost time.
_ENOUGH_UNITS = 16_384
_GOLDEN_RATIO = (5**0.5 - 1) / 2
# Sets of hidden units that are loaded at a time.
_SETS_AT_ONCE = 4


@dataclass(frozen=True)
class KinshipTest:
    """The test of each pair of N models.

    Attributes:
        models: their names.
        units: (N, N) hidden units that were compared, 0 where nothing can be tested.
        correlation: (N, N) mean rank correlation of the units' norms, -1 to 1; NaN without units.
        freedom: (N, N) degrees of freedom ν of its test; NaN without units.
        log_p: (N, N) natural logarithm of the p-value; NaN without units.
    """

    models: tuple[str, ...]
    units: npt.NDArray[np.int64]
    correlation: Floats
    freedom: Floats
    log_p: Floats

    def related(self, error_rate: float, tested: int | None = None) -> Bools:
        """Return (N, N) which pairs are shown to be related, at this chance of any false one.

        Bonferroni's bound over the pairs that are asked about, all of these when None.
        """
        if tested is None:
            tested = int(np.triu(self.units > 0, 1).sum())
        with np.errstate(invalid="ignore"):
            return np.asarray(self.log_p < np.log(error_rate / max(tested, 1)), dtype=np.bool_)

    def unrelated(self, error_rate: float, tested: int | None = None) -> Bools:
        """Return (N, N) which pairs are shown to have nothing of one origin in common.

        Where even the upper end of what the correlation may be, three standard errors above what
        it is, is less than that of related models.
        """
        with np.errstate(invalid="ignore"):
            most = self.correlation + 3 / np.sqrt(self.freedom)
            low = np.asarray(most < _UNRELATED_CORRELATION, dtype=np.bool_)
        return low & ~self.related(error_rate, tested)


class _UnitSet(NamedTuple):
    """One set of hidden units and the ids of the models that hold it."""

    units: HiddenUnits
    model_ids: tuple[int, ...]


class _Sums(NamedTuple):
    """What the tests of N holders of hidden units add up: (N, N) each, over the sets so far.

    Attributes:
        total: n − 1 times the sum of correlations.
        variance: what that has over permutations.
        weight: n − 1 times the axes.
        units: how many were compared.
    """

    total: Floats
    variance: Floats
    weight: Floats
    units: npt.NDArray[np.int64]

    @classmethod
    def of(cls, count: int) -> _Sums:
        """Return the sums over no sets."""
        total, variance, weight = np.zeros((3, count, count))
        return cls(total, variance, weight, np.zeros((count, count), dtype=np.int64))

    def add(self, held: npt.NDArray[np.int64], norms: Norms) -> None:
        """Add one set of hidden units to the sums of all pairs of the models that hold it."""
        if not len(held):
            return
        count = norms.shape[2]
        ranks = _mean_ranks(norms) - np.float32((count - 1) / 2)
        length = np.linalg.norm(ranks, axis=2, keepdims=True)
        ranks /= np.where(length > 0, length, 1.0)  # units that are all alike say nothing
        inner = (ranks @ ranks.transpose(0, 2, 1)).reshape(len(held), -1).astype(np.float64)
        flat = ranks.reshape(len(held), -1)
        pairs = np.ix_(held, held)
        self.total[pairs] += (count - 1) * (flat @ flat.T)
        self.variance[pairs] += (count - 1) * (inner @ inner.T)
        self.weight[pairs] += norms.shape[1] * (count - 1)
        self.units[pairs] += count

    def tested(self, names: tuple[str, ...]) -> KinshipTest:
        """Return correlations, degrees of freedom and logarithms of p-values of all pairs."""
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation = np.where(self.weight > 0, self.total / self.weight, np.nan)
            freedom = np.where(self.variance > 0, self.weight**2 / self.variance - 1, np.nan)
            correlation = np.clip(correlation, -1.0, 1.0)
            student = correlation * np.sqrt(freedom / (1 - correlation**2))
        log_p = np.asarray(students_t.logsf(student, freedom), dtype=np.float64)
        return KinshipTest(names, self.units, correlation, freedom, log_p)


def kinship_test(
    store: Store,
    component: str = "unet",
    *,
    models: Sequence[str] | None = None,
    files: FileProfiles | None = None,
    progress: Progress = NO_PROGRESS,
) -> KinshipTest:
    """Test every pair of models for kinship in a component, with no file read but `files`.

    Args:
        models: all that the store knows when None.
        files: of models that were read as samples; such models are not tested without.

    Raises:
        UsageError: a model that the store does not know.
    """
    ids = store.model_ids(models)
    place = {model_id: i for i, model_id in enumerate(ids.values())}
    count = len(place)
    sums = _Sums.of(count)
    sets = _enough(_unit_sets(store, component, place, files))
    progress.start("Testing kinship", len(sets), "sets of hidden units")
    try:
        for start in range(0, len(sets), _SETS_AT_ONCE):
            some = sets[start : start + _SETS_AT_ONCE]
            for held, norms in _norms_of_sets(store, some, place, files):
                sums.add(np.array(held), norms)
            progress.advance(len(some))
    finally:
        progress.finish()
    return sums.tested(tuple(ids))


def norms_test(names: Sequence[str], sets: Sequence[Norms]) -> KinshipTest:
    """Test every pair of N holders of the same sets of hidden units, whatever they are.

    Args:
        sets: of each (N, axes, units) norms, relative to the mean of their axis.
    """
    sums = _Sums.of(len(names))
    for norms in sets:
        sums.add(np.arange(len(names)), norms)
    return sums.tested(tuple(names))


def shared_units(
    store: Store, a: str, b: str, component: str = "unet", files: FileProfiles | None = None
) -> tuple[int, int]:
    """Return how many hidden units two models both hold, and how many of B are A's in any order.

    A unit is found again where a unit of the other model has the same norm on every axis, to the
    precision that norms are kept in. Where nearly all are, B is A with its units permuted, or A
    itself; unrelated models share next to none. With `files`, of as many units as the test takes.
    """
    ids = store.model_ids([a, b])
    place = {model_id: i for i, model_id in enumerate(ids.values())}
    units = found = 0
    sets = _unit_sets(store, component, place, files)
    if files is not None:
        sets = _enough(sets)
    for held, norms in _norms_of_sets(store, sets, place, files):
        if len(held) < 2:
            continue
        scaled = np.log(np.maximum(norms.astype(np.float64), np.finfo(np.float16).tiny))
        distance, _ = KDTree(scaled[0].T).query(scaled[1].T, p=np.inf)
        units += norms.shape[2]
        found += int(np.count_nonzero(distance <= _SAME_NORM))
    return units, found


def _unit_sets(
    store: Store, component: str, place: Mapping[int, int], files: FileProfiles | None
) -> list[_UnitSet]:
    components = {"component": member_names(store, component)}
    sampled = {"model_id": [i for i in place if files is not None and i in files]}
    holders: dict[HiddenUnits, list[int]] = {}
    for matrices, model_ids in store.rows(
        "matrix_layouts", tables={"batch": components, "sampled": sampled}
    ):
        wanted = [model_id for model_id in model_ids if model_id in place]
        shapes = {entry["key"]: tuple(entry["shape"]) for entry in matrices}
        for units in hidden_units(shapes) if wanted else ():
            holders.setdefault(units, []).extend(wanted)
    return [_UnitSet(units, tuple(sorted(held))) for units, held in holders.items()]


def _enough(sets: Sequence[_UnitSet]) -> list[_UnitSet]:
    """Return sets spread over the network that hold enough units, for each layout of models."""
    by_holders: dict[tuple[int, ...], list[_UnitSet]] = {}
    for each in sets:
        by_holders.setdefault(each.model_ids, []).append(each)
    kept = []
    for alike in by_holders.values():
        units = 0
        # multiples of the golden ratio: however many are taken, they lie spread over the network
        for _, each in sorted((i * _GOLDEN_RATIO % 1, each) for i, each in enumerate(alike)):
            if units >= _ENOUGH_UNITS:
                break
            kept.append(each)
            units += each.units.size
    return kept


def _norms_of_sets(
    store: Store,
    sets: Sequence[_UnitSet],
    place: Mapping[int, int],
    files: FileProfiles | None,
) -> list[tuple[list[int], Norms]]:
    """Return of each set the places of the models with profiles, and (models, axes, units) norms.

    Norms are relative to the mean of their axis, as the store keeps them.
    """
    axes = sorted({(axis.key, axis.axis) for units, _ in sets for axis in units.axes})
    members = sorted({model_id for _, held in sets for model_id in held})
    tables: dict[str, dict[str, object]] = {
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
    if files is not None:
        sampled = [model_id for model_id in members if model_id in files]
        files.read({model_id: [key for key, _ in axes] for model_id in sampled})
        for model_id in sampled:
            for at, (key, axis) in enumerate(axes):
                if len(norms := files.norms(model_id, key, axis)):
                    kept[model_id, at] = norms
    found = []
    for (count, unit_axes), held in sets:
        at = [axes.index((axis.key, axis.axis)) for axis in unit_axes]
        having = [model_id for model_id in held if all((model_id, i) in kept for i in at)]
        slices = [slice(axis.start, axis.start + count) for axis in unit_axes]
        norms = np.array(
            [[kept[m, i][part] for i, part in zip(at, slices, strict=True)] for m in having],
            dtype=np.float16,
        ).reshape(len(having), len(at), count)
        found.append(([place[model_id] for model_id in having], norms))
    return found


def _mean_ranks(norms: Norms) -> npt.NDArray[np.float32]:
    """Return the ranks along the last axis, from 0, equal norms sharing their mean rank.

    Float16 numbers that are not negative stand in the order of their bits, and sixteen bits are
    sorted without comparisons.

    >>> _mean_ranks(np.float16([[3, 1, 2, 2]])).tolist()
    [[3.0, 0.0, 1.5, 1.5]]
    """
    bits = norms.view(np.uint16)
    order = bits.argsort(axis=-1, kind="stable")
    ordered = np.take_along_axis(bits, order, axis=-1)
    place = np.arange(norms.shape[-1], dtype=np.int32)
    differs = ordered[..., 1:] != ordered[..., :-1]
    edge = np.ones((*differs.shape[:-1], 1), dtype=np.bool_)
    starts = np.concatenate([edge, differs], axis=-1)
    ends = np.concatenate([differs, edge], axis=-1)
    first = np.maximum.accumulate(np.where(starts, place, 0), axis=-1)
    backward = np.where(ends, place, place[-1])[..., ::-1]
    last = np.minimum.accumulate(backward, axis=-1)[..., ::-1]
    ranks = np.empty(norms.shape, dtype=np.float32)
    np.put_along_axis(ranks, order, (first + last) / np.float32(2), axis=-1)
    return ranks
