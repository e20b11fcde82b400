"""Who came from whom: families, and in each a tree of fine-tunes, merges, casts and epochs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from megasim.errors import printable
from megasim.estimate.kinship import KinshipTest
from megasim.lineage.angular_methods import LayerNorms
from megasim.lineage.edges import (
    KnownHistory,
    copy_edges,
    merge_edges,
    nearest_edges,
    step_evidence,
    tree_edges,
)
from megasim.lineage.evidence import ModelFacts, PairFacts, norms_of, rounding_of
from megasim.lineage.families import (
    FamilyDistances,
    family_distances,
    related_groups,
    same_weights,
    without_sparse_pairs,
    without_statistics,
)
from megasim.lineage.implied_norms import implied_norms
from megasim.lineage.inner_products import Floats, require_l2
from megasim.lineage.layer_norms import cosines_by_elements
from megasim.lineage.merges import Merges, find_merges, merges_of
from megasim.lineage.recipe_result import Recipe
from megasim.lineage.result import Edge, Family, Lineage
from megasim.lineage.rooting import find_root
from megasim.lineage.runs import count_odds, shown_kin
from megasim.lineage.settings import SETTINGS, LineageSettings
from megasim.lineage.step_costs import Steps, block_weights, family_steps
from megasim.lineage.step_spectra import StepSpectra
from megasim.lineage.tree import FittedTree, fit_tree
from megasim.matrix.distance_matrix import DistanceMatrix, LayerMatrices


def build_lineage(
    matrix: DistanceMatrix,
    *,
    layers: LayerMatrices | None = None,
    layers_l1: LayerMatrices | None = None,
    changed: DistanceMatrix | None = None,
    facts: Sequence[ModelFacts] = (),
    pairs: Sequence[PairFacts] = (),
    compared: Collection[str] = (),
    stated: Mapping[tuple[str, str], str] | None = None,
    ema_copies: Collection[tuple[str, str]] = (),
    weight_sets: Mapping[str, str] | None = None,
    permuted: Mapping[frozenset[str], tuple[int, int]] | None = None,
    merges: Sequence[Recipe] | None = None,
    kinship: KinshipTest | None = None,
    layer_norms: LayerNorms | None = None,
    statistics: Collection[str] = (),
    spectra: StepSpectra | None = None,
    settings: LineageSettings = SETTINGS,
) -> Lineage:
    """Return the families of the models of a matrix and the tree in each.

    Models with the same weights are joined first (casts, prunings, swaps of another component);
    of the rest, merges are found by their recipes, the others by the likeliest tree, and
    directions by the likeliest root of it.

    Args:
        matrix: L2 distances of one component; estimated and imported ones do as well.
        layers: the same by layer; blocks tell merges by block, layers sharpen the tree.
        layers_l1: the L1 of the same layers, which sharpens it further: one training moves the
            elements of a layer in another way than two do together.
        changed: L0 distances of the same models, without running statistics: what two trainings
            left untouched. Counted where neither was rounded, or all were: rounding changes nearly
            all, and makes some alike.
        facts: of any of the models; norms part unrelated families and tell directions.
        pairs: of pairs with the same weights; identity of the other components tells prunings and
            swaps.
        compared: models of which keys were compared with those of another, besides those of pairs.
        stated: (parent, child) → where it is written that the one was made from the other.
        ema_copies: (parent, child) where the child's weights are the EMA copy in the parent.
        weight_sets: model → a name for the set of models with the same weights, by their hashes;
            of models that are not named, those at distance 0 are the same.
        permuted: two models that are one but for the order of hidden units → how many of these
            were found again, and how many there are; they are one set of `weight_sets`.
        merges: the recipes of all merges, where they are known already, as from a tree of the same
            distances that took other evidence.
        kinship: what the order of their hidden units says of the models.
        layer_norms: gives L2 of single tensors, where known: merges along an arc show in them.
        statistics: keys of running statistics, which follow the data and make no tree.
        spectra: gives how few directions the changes of single matrices have.

    Raises:
        UsageError: a metric other than L2.
    """
    require_l2(matrix.metric)
    uncompared = _uncompared(matrix, pairs, compared)
    matrix, few = without_sparse_pairs(matrix, settings)
    known = KnownHistory(
        {f.name: f for f in facts if f.name in set(matrix.models)},
        {frozenset((p.a, p.b)): p for p in pairs},
        stated or {},
        ema_copies,
        permuted or {},
        layer_norms(matrix.models) if layers is not None and layer_norms is not None else {},
    )
    notes = (
        [f"{few} pair(s) share less than half of their keys: treated as unrelated"] if few else []
    )
    same = same_weights(matrix, known.facts, weight_sets or {})
    edges = copy_edges(matrix, same, known, settings)

    distinct = matrix.subset(same.kept)
    norms = norms_of(known.facts.values(), matrix.component)
    implied = implied_norms(distinct, norms, settings)
    if implied is not None:
        notes.append(implied.sentence())
        norms = {**implied.norms, **norms}
    if not norms.keys() >= set(same.kept):
        notes.append("not all norms are known: unrelated families may stand as one")
    by_elements = None
    if layers is not None and known.layer_norms and set(distinct.models) <= set(layers.models):
        by_elements = cosines_by_elements(layers.subset(distinct.models), known.layer_norms)
    groups = related_groups(distinct, norms, settings, kinship, by_elements)
    parts = [distinct.subset(group) for group in groups]
    families = [
        family_distances(p, known.facts, layers, layers_l1, changed, settings, statistics)
        for p in parts
    ]

    rounding = rounding_of(known.facts.values(), matrix.component)
    found = [
        find_merges(family, rounding, norms, settings, layer_norms)
        if merges is None
        else merges_of(family, merges)
        for family in families
    ]
    trained = [without_statistics(family, statistics) for family in families]
    trees = _fit_trees(trained, found, spectra, settings)
    described: list[Family] = []
    for part, family, own, tree in zip(parts, trained, found, trees, strict=True):
        if family.common is not None:
            notes.append(
                f"the tree of {printable(family.names[0], 60)} and {len(family.names) - 1} more "
                f"rests on the {family.common} keys that all of them hold in one shape; the length "
                "of a step is over all keys of the two"
            )
        lost = set(part.models) - set(family.names)
        if lost:
            notes.append(f"{len(lost)} model(s) lack distances within their family")
        kin = shown_kin(family, norms, kinship, settings)
        counted = count_odds(family, tree.edges, known.facts, kin, settings)
        evidence = step_evidence(family, tree, known, counted, settings)
        log_odds = {pair: sum(e.log_odds for e in each) for pair, each in evidence.items()}
        root, probability = 0, 1.0
        if len(family.names) > 1:
            rooting = find_root(tree, family.matrix.squared(), log_odds, settings)
            root, probability = rooting.base, rooting.probability[rooting.base]
            edges += tree_edges(family, tree, rooting, evidence, known.facts, settings)
        edges += merge_edges(family, own)
        edges += nearest_edges(part, lost)
        copies = {model for first, _, model in same.copies if first in part.models}
        members = tuple(sorted({*part.models, *copies}))
        described.append(Family(members, family.names[root], probability))
    return Lineage(
        component=matrix.component,
        source="/".join(sorted(set(np.unique(matrix.sources).tolist()) - {""})),
        families=tuple(sorted(described, key=lambda f: (-len(f.models), f.models[0]))),
        edges=tuple(sorted(_as_in_matrix(edges, matrix), key=_by_ends)),
        recipes=tuple(sorted((r for own in found for r in own.recipes), key=lambda r: r.model)),
        notes=tuple(notes),
        uncompared=uncompared,
    )


def _uncompared(
    matrix: DistanceMatrix, pairs: Sequence[PairFacts], compared: Collection[str]
) -> tuple[str, ...]:
    """Return the models that were compared with no other: no distance, and no keys looked at."""
    known = np.isfinite(matrix.values) & ~np.eye(len(matrix.models), dtype=bool)
    seen = {matrix.models[i] for i in np.flatnonzero(known.any(axis=1)).tolist()}
    seen |= {name for pair in pairs for name in (pair.a, pair.b)}
    return tuple(sorted(set(matrix.models) - seen - set(compared)))


def _fit_trees(
    families: Sequence[FamilyDistances],
    merges: Sequence[Merges],
    spectra: StepSpectra | None,
    settings: LineageSettings,
) -> list[FittedTree]:
    """Return the tree of each family, by blocks that count as the trees of all families tell."""
    steps = [_steps_of(family, spectra, settings) for family in families]

    def fitted(weights: Mapping[str, float]) -> list[FittedTree]:
        return [
            fit_tree(each.costs(weights), family.matrix.squared(), own.parents, settings)
            for family, each, own in zip(families, steps, merges, strict=True)
        ]

    weights: dict[str, float] = {}
    for _ in range(settings.block_rounds):
        errors = _step_errors(steps, fitted(weights))
        # A family of one has no steps, and nothing to say of blocks.
        weights = block_weights([x for x in zip(steps, errors, strict=True) if len(x[1])], settings)
    return fitted(weights)


def _steps_of(
    family: FamilyDistances, spectra: StepSpectra | None, settings: LineageSettings
) -> Steps:
    squared = family.matrix.squared()
    known: Mapping[str, Floats] = {}
    if spectra is not None and family.layers is not None and len(family.names) > 2:
        known = spectra(family.names, squared)
    return family_steps(squared, family.layers, family.layers_l1, family.untouched, known, settings)


def _step_errors(steps: Sequence[Steps], trees: Sequence[FittedTree]) -> list[Floats]:
    return [each.errors(t.edges, t.merges) for each, t in zip(steps, trees, strict=True)]


def _as_in_matrix(edges: Sequence[Edge], matrix: DistanceMatrix) -> list[Edge]:
    """Return the edges with the length that every other answer gives for the pair.

    The tree of a family may rest on the keys that all of it hold, which is a little less.
    """
    at = {name: i for i, name in enumerate(matrix.models)}
    lengths = [float(matrix.values[at[edge.parent], at[edge.child]]) for edge in edges]
    return [
        edge if np.isnan(length) else replace(edge, length=length)
        for edge, length in zip(edges, lengths, strict=True)
    ]


def _by_ends(edge: Edge) -> tuple[str, str]:
    return edge.parent, edge.child
