"""Which models hold the same weights, and which are related at all."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import networkx as nx
import numpy as np
import numpy.typing as npt

from megasim.estimate.kinship import ERROR_RATE, KinshipTest
from megasim.lineage.evidence import ModelFacts
from megasim.lineage.inner_products import Floats
from megasim.lineage.rounding import ROUNDING
from megasim.lineage.settings import SETTINGS, LineageSettings
from megasim.matrix.distance_matrix import DistanceMatrix, LayerMatrices

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SameWeights:
    """One model for each set of equal ones, and where the others hang.

    Attributes:
        kept: the models that stand for a set, in the order of the matrix.
        copies: (the model that stands for the set, the one it hangs on, the model) of the others.
    """

    kept: tuple[str, ...]
    copies: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class FamilyDistances:
    """What is known of N related models between which all distances are known.

    Attributes:
        matrix: their L2 distances.
        layers, layers_l1: L2 and L1 by layer, where all of them have layers.
        untouched: (N, N) share of elements that are exactly alike, 0 where that tells nothing; None
            where not known.
        common: how many keys all of them hold in one shape, where pairs share different keys and
            the distances are therefore of these alone; None where all are of the same keys.
        with_statistics: the distances that norms of all keys go with, where `matrix` leaves out
            running statistics.
    """

    matrix: DistanceMatrix
    layers: LayerMatrices | None
    layers_l1: LayerMatrices | None
    untouched: Floats | None
    common: int | None = None
    with_statistics: DistanceMatrix | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The models, in the order of rows and columns."""
        return self.matrix.models


def without_sparse_pairs(
    matrix: DistanceMatrix, settings: LineageSettings = SETTINGS
) -> tuple[DistanceMatrix, int]:
    """Return the matrix without the pairs that share too few keys, and how many these are.

    The norms are of all keys: a distance over few of them would make any two models related.
    """
    few = matrix.coverage < settings.least_common
    return replace(matrix, values=np.where(few, np.nan, matrix.values)), int(np.triu(few, 1).sum())


def alike_pairs(matrix: DistanceMatrix, weight_sets: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the pairs of models that hold the same weights, by their hashes or at distance 0.

    >>> three = DistanceMatrix.from_values("abc", [[0, 0, 2], [0, 0, 2], [2, 2, 0]])
    >>> alike_pairs(three, {"a": "a", "c": "a"})
    [('a', 'b'), ('a', 'c')]
    """
    names = [weight_sets.get(m, "") for m in matrix.models]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    of_set = np.array([number[name] for name in names])
    named = np.array([bool(name) for name in names])
    alike = (of_set[:, None] == of_set) & named & named[:, None] | (matrix.values == 0)
    rows, cols = np.nonzero(np.triu(alike, 1))
    return [(matrix.models[i], matrix.models[j]) for i, j in zip(rows, cols, strict=True)]


def same_weights(
    matrix: DistanceMatrix,
    known: Mapping[str, ModelFacts],
    weight_sets: Mapping[str, str],
) -> SameWeights:
    """Return one model of each set of equal ones, and on which each other hangs.

    The fullest model stands for a set; each other hangs on the one before it that is most like
    it: in its weights, then in how many keys it has.

    Args:
        weight_sets: model → a name for the set of models with the same weights, by their hashes.
            Models at distance 0 are the same too; others are not, however near.
    """
    order = sorted(
        matrix.models,
        key=lambda m: known[m].completeness if m in known else (False, False, 0, 0, 0, m),
    )
    place = {m: i for i, m in enumerate(matrix.models)}
    keys = {m: known[m].keys if m in known else 0 for m in matrix.models}
    sets: dict[str, list[str]] = {}
    copies: list[tuple[str, str, str]] = []
    for model in order:
        row = matrix.values[place[model]]
        for first, members in sets.items():
            alike = model in weight_sets and weight_sets[model] == weight_sets.get(first)
            near = [m for m in members if np.isfinite(row[place[m]])]
            # nothing is made of a quantised model but a copy of it
            plain = [m for m in near if not (m in known and known[m].scheme) or not row[place[m]]]
            near = plain or near
            if near and (alike or row[place[first]] == 0):
                parent = min(near, key=lambda m: (row[place[m]], abs(keys[m] - keys[model])))
                copies.append((first, parent, model))
                members.append(model)
                break
        else:
            sets[model] = [model]
    return SameWeights(tuple(m for m in matrix.models if m in sets), tuple(copies))


def related_groups(
    matrix: DistanceMatrix,
    norms: Mapping[str, float],
    settings: LineageSettings = SETTINGS,
    kinship: KinshipTest | None = None,
    by_elements: Floats | None = None,
) -> list[list[str]]:
    """Return the families: models whose weights are related, largest family first.

    Two models of one scale are related when the order of their hidden units says so, at an error
    rate of 1 % over all pairs. Where these are too few to decide, or none are known, two
    models with norms are related when the cosine of their raw weights,
    (‖a‖² + ‖b‖² − D²) / 2‖a‖‖b‖, is above that of the settings.
    Where norms of layers are known, the cosine counts every element alike (`by_elements`, (N, N),
    NaN where not known).
    Models without a norm are joined to the family of their nearest model, unless nothing of it is
    within ten times the distances inside. Models that share no distance are not related.
    """
    size = np.array([norms.get(m, np.nan) for m in matrix.models])
    with np.errstate(invalid="ignore", divide="ignore"):
        product = np.outer(size, size)
        cosine = (size[:, None] ** 2 + size[None] ** 2 - matrix.squared()) / (2 * product)
    with np.errstate(invalid="ignore"):
        largest = np.maximum(size[:, None], size[None])
        one_scale = (largest > 0) & (
            largest <= settings.same_scale * np.minimum(size[:, None], size)
        )
    if by_elements is not None:
        cosine = np.where(np.isfinite(by_elements), by_elements, cosine)
    linked = cosine > settings.related_cosine
    if kinship is not None:
        kin, unrelated = by_hidden_units(matrix.models, kinship)
        linked = (linked & ~unrelated) | (kin & np.isfinite(matrix.values))
    linked &= one_scale
    unknown = np.isnan(product) & np.isfinite(matrix.values)
    groups = nx.utils.UnionFind(range(len(matrix.models)))
    longest: dict[int, float] = {}
    rows, cols = np.nonzero(np.triu(linked | unknown, 1))
    lengths = matrix.values[rows, cols]
    for k in np.argsort(lengths, kind="stable").tolist():
        i, j, length = int(rows[k]), int(cols[k]), float(lengths[k])
        first, second = groups[i], groups[j]
        inside = max(longest.get(first, 0.0), longest.get(second, 0.0))
        if first != second and (linked[i, j] or inside == 0 or length <= settings.gap * inside):
            groups.union(i, j)
            longest[groups[i]] = max(inside, length)
    found = [[matrix.models[i] for i in sorted(group)] for group in groups.to_sets()]
    return sorted(found, key=lambda g: (-len(g), g[0]))


def by_hidden_units(models: Sequence[str], kinship: KinshipTest) -> tuple[Bools, Bools]:
    """Return (N, N) which pairs the test shows to be related, and which to be unrelated."""
    place = {model: i for i, model in enumerate(kinship.models)}
    known = np.array([model in place for model in models])
    at = np.array([place.get(model, 0) for model in models])
    both, pairs = np.outer(known, known), np.ix_(at, at)
    kin, unrelated = kinship.related(ERROR_RATE), kinship.unrelated(ERROR_RATE)
    return both & kin[pairs], both & unrelated[pairs]


def family_distances(
    part: DistanceMatrix,
    known: Mapping[str, ModelFacts],
    layers: LayerMatrices | None,
    layers_l1: LayerMatrices | None,
    changed: DistanceMatrix | None,
    settings: LineageSettings = SETTINGS,
    statistics: Collection[str] = (),
) -> FamilyDistances:
    """Return what is known of the models of a family between which no distance is missing.

    A model with NaN or infinity among its weights is left out where others have none: its
    distances are of fewer elements than theirs.
    """
    finite = [m for m in part.models if m not in known or not known[m].lacks(part.component)]
    whole = part.subset(finite or part.models).largest_complete()
    own = _layers_of(layers, whole.models)
    whole, common = _over_common_keys(whole, own, settings)
    return FamilyDistances(
        whole,
        own,
        _layers_of(layers_l1, whole.models),
        _untouched(changed, own, statistics, known, settings),
        common,
    )


def _over_common_keys(
    matrix: DistanceMatrix, layers: LayerMatrices | None, settings: LineageSettings
) -> tuple[DistanceMatrix, int | None]:
    """Return distances over the keys that all models hold in one shape, and how many these are.

    Where one has a vocabulary of another size, its distances leave out the embeddings, and it would
    look nearer to each of two others than these to each other. Left as it is where all pairs
    share the same keys, or all models less than half of them.
    """
    if layers is None or len(matrix.models) < 3:
        return matrix, None
    pairs = ~np.eye(len(matrix.models), dtype=bool)
    in_all = np.asarray(np.isfinite(layers.values).all(axis=(1, 2)))
    in_some = np.isfinite(layers.values[:, pairs]).any(axis=1)
    if in_all.sum() == in_some.sum() or in_all.sum() < settings.least_common * in_some.sum():
        return matrix, None
    return replace(matrix, values=layers.keep(in_all).total()), int(in_all.sum())


def _layers_of(layers: LayerMatrices | None, names: tuple[str, ...]) -> LayerMatrices | None:
    """Return the layers of the named models, or None when a model is not among them.

    Layers that no two of them were compared in, as of other architectures, are not theirs.
    """
    if layers is None or not set(names) <= set(layers.models):
        return None
    own = layers.subset(names)
    pairs = ~np.eye(len(names), dtype=bool)
    known = np.asarray(np.isfinite(own.values[:, pairs]).any(axis=1))
    return own.keep(known) if known.any() else own


def _untouched(
    changed: DistanceMatrix | None,
    layers: LayerMatrices | None,
    statistics: Collection[str],
    known: Mapping[str, ModelFacts],
    settings: LineageSettings,
) -> Floats | None:
    """Return the share of elements that are exactly alike in two models.

    Rounding changes nearly all elements, and makes some alike in two models that were both rounded,
    and in what was trained from these. So they are counted between models of which none was
    rounded, or where all were, and all pairs are alike in that.
    """
    if changed is None or layers is None:
        return None
    names = layers.models
    dtypes = [known[n].dtype if n in known else "" for n in names]
    layers = layers.keep(np.array([key not in statistics for key in layers.keys]))
    if not all(dtypes) or not layers.keys:
        return None
    in_all = np.isfinite(layers.values).all(axis=(1, 2)) & (layers.numels > 0)
    elements = layers.numels.sum()
    if layers.numels[in_all].sum() < settings.counted_elements * elements:
        return None
    rounded = np.array([dtype in ROUNDING for dtype in dtypes])
    counted = np.ones((len(names),) * 2) if rounded.all() else np.outer(~rounded, ~rounded)
    values = changed.subset(names).values
    return np.nan_to_num(1 - values / elements) * counted if np.isfinite(values).all() else None


def without_statistics(family: FamilyDistances, statistics: Collection[str]) -> FamilyDistances:
    """Return the distances of a family without the running statistics of its normalisations.

    These follow the last batches that a training saw: they are no steps away from those of its
    parent, and two trainings on alike images have them alike.

    Args:
        statistics: their keys.
    """
    if family.layers is None:
        return family
    trained = np.array([key not in statistics for key in family.layers.keys])
    if trained.all() or not trained.any():
        return family
    layers = family.layers.keep(trained)
    l1 = family.layers_l1
    if l1 is not None:
        l1 = l1.keep(np.array([key not in statistics for key in l1.keys]))
    common = family.common
    if common is not None:
        in_all = np.asarray(np.isfinite(layers.values).all(axis=(1, 2)))
        values, common = layers.total(in_all), int(in_all.sum())
    else:  # of two models as the distances are: over the keys that both have
        known = np.isfinite(layers.values).any(axis=0)
        values = np.sqrt(np.where(known, np.nansum(np.square(layers.values), axis=0), np.nan))
    if common == 0 or not np.isfinite(values).all():
        return family
    return replace(
        family,
        matrix=replace(family.matrix, values=values),
        layers=layers,
        layers_l1=l1,
        common=common,
        with_statistics=family.matrix,
    )
