"""The edges of a lineage with their evidence: copies, merges, and the steps of a rooted tree."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from megasim.errors import printable
from megasim.lineage.calibration import calibrated, calibrated_edge
from megasim.lineage.edge_rivals import EdgeOdds, edge_odds
from megasim.lineage.evidence import (
    EMA_COPY,
    EPOCHS,
    NAMED_RUN,
    QUANTISED,
    Evidence,
    ModelFacts,
    PairFacts,
    counts_evenly,
    drift_evidence,
    same_weights_kind,
)
from megasim.lineage.families import FamilyDistances, SameWeights
from megasim.lineage.inner_products import step_cosine
from megasim.lineage.layer_norms import NormGrowth, NormsByLayer, growth_by_layer
from megasim.lineage.merges import Merges
from megasim.lineage.result import Edge, RivalEdge
from megasim.lineage.rooting import Rooting
from megasim.lineage.settings import SETTINGS, LineageSettings
from megasim.lineage.tree import FittedTree
from megasim.matrix.distance_matrix import DistanceMatrix
from megasim.words import EdgeKind, RecipeVerdict


@dataclass(frozen=True)
class KnownHistory:
    """What is known of models beside their distances.

    Attributes:
        facts: by name of model.
        pairs: by the two names.
        stated: (parent, child) → where it is written that the one was made from the other.
        ema_copies: (parent, child) where the child's weights are the EMA copy in the parent.
        permuted: two models → how many hidden units of one are the other's in another order, and
            how many there are.
        layer_norms: L2 of single tensors, where known.
    """

    facts: Mapping[str, ModelFacts]
    pairs: Mapping[frozenset[str], PairFacts]
    stated: Mapping[tuple[str, str], str]
    ema_copies: Collection[tuple[str, str]]
    permuted: Mapping[frozenset[str], tuple[int, int]] = field(default_factory=dict)
    layer_norms: NormsByLayer = field(default_factory=dict)


def copy_edges(
    matrix: DistanceMatrix,
    same: SameWeights,
    known: KnownHistory,
    settings: LineageSettings = SETTINGS,
) -> list[Edge]:
    """Return an edge to each model that holds the weights of another."""
    edges = []
    for _, first, second in same.copies:
        pair = known.pairs.get(frozenset((first, second)))
        seen = pair.seen_from(first) if pair else None
        kind, evidence = same_weights_kind(
            known.facts.get(first), known.facts.get(second), seen, matrix.component, settings
        )
        moved = known.permuted.get(frozenset((first, second)))
        if moved is not None:
            kind = EdgeKind.PERMUTED
            text = f"{moved[0]:,} of {moved[1]:,} hidden units are found again in another order"
            evidence = [Evidence("permuted units", text, 0.0)]
        confidence = _probability(sum(e.log_odds for e in evidence))
        length = float(matrix.values[matrix.models.index(first), matrix.models.index(second)])
        decided = confidence >= settings.decided
        edges.append(
            Edge(
                first, second, kind, length, float("nan"), confidence, decided, tuple(evidence)
            )
        )  # fmt: skip
    return edges


def merge_edges(family: FamilyDistances, merges: Merges) -> list[Edge]:
    """Return an edge from each parent of a merge to it."""
    place = {name: i for i, name in enumerate(family.names)}
    edges = []
    for recipe in merges.recipes:
        decided = recipe.verdict != RecipeVerdict.AMBIGUOUS
        confidence = max(0.0, 1 - recipe.unexplained) if decided else 0.5
        evidence = (Evidence("recipe", recipe.sentence(), 0.0),)
        for parent in recipe.parents:
            length = float(family.matrix.values[place[parent.model], place[recipe.model]])
            edges.append(
                Edge(
                    parent.model, recipe.model, EdgeKind.MERGE, length, parent.weight, confidence,
                    decided, evidence,
                )
            )  # fmt: skip
    return edges


def step_evidence(
    family: FamilyDistances,
    tree: FittedTree,
    known: KnownHistory,
    counted: Mapping[tuple[int, int], float],
    settings: LineageSettings = SETTINGS,
) -> dict[tuple[int, int], list[Evidence]]:
    """Return for each edge (a, b) of a tree what speaks for b having come from a.

    Args:
        counted: what step counts are worth between two models, from `runs.count_odds`.
    """
    return {
        (a, b): _evidence(family, a, b, known, counted.get((a, b), 0.0), settings)
        for a, b in tree.edges
    }


def tree_edges(
    family: FamilyDistances,
    tree: FittedTree,
    rooting: Rooting,
    evidence: Mapping[tuple[int, int], Sequence[Evidence]],
    facts: Mapping[str, ModelFacts],
    settings: LineageSettings = SETTINGS,
) -> list[Edge]:
    """Return the steps of a tree in their likelier direction, but for those from a merge's parents.

    Args:
        evidence: from `step_evidence`.
        facts: by name of model.
    """
    squared = family.matrix.squared()
    steps = [_directed(family.names, pair, found, rooting) for pair, found in evidence.items()]
    directed = [s for s in steps if s.parent not in tree.merges.get(s.child, ())]
    parent_of = {step.child: step.parent for step in directed}
    edges = []
    for step in directed:
        found = list(step.evidence)
        kind = EdgeKind.FINE_TUNE
        if step.parent in parent_of:
            before = parent_of[step.parent]
            turn = step_cosine(squared, before, step.parent, step.child)
            longest = settings.epoch_length * squared[before, step.parent]
            if turn > settings.one_course and squared[step.parent, step.child] < longest:
                kind = EdgeKind.EPOCH_STEP
                text = f"cosine {turn:.2f} with the step before"
                found.append(Evidence("same course", text, 0.0))
            three = (before, step.parent, step.child)
            batches = counts_evenly(*(facts.get(family.names[i]) for i in three))
            if batches is not None:
                kind = EdgeKind.EPOCH_STEP
                text = f"{batches:.0f} batches, as many as the step before"
                found.append(Evidence("same course", text, 0.0))
        of_run = (e for e in found if e.name in (NAMED_RUN, EPOCHS))
        if any(abs(e.log_odds) >= settings.record for e in of_run):
            kind = EdgeKind.EPOCH_STEP
        if any(e.name == EMA_COPY for e in found):
            kind = EdgeKind.PRUNED
        if any(e.name == QUANTISED and e.log_odds > 0 for e in found):
            kind = EdgeKind.QUANTISED_AND_CHANGED
        confidence = calibrated(step.probability)
        odds = _odds_of(step, tree, rooting, settings)
        stands = calibrated_edge(odds.probability)
        # what is left is the rivals', in the ratio of their costs
        left = (1 - stands) / max(1 - odds.probability, 1e-12)
        edges.append(
            Edge(
                family.names[step.parent],
                family.names[step.child],
                kind,
                float(np.sqrt(squared[step.parent, step.child])),
                float("nan"),
                confidence,
                confidence >= settings.decided,
                tuple(found),
                stands,
                tuple(
                    RivalEdge(family.names[a], family.names[b], left * p) for a, b, p in odds.rivals
                ),
            )
        )
    return edges


def _odds_of(
    step: _Step, tree: FittedTree, rooting: Rooting, settings: LineageSettings
) -> EdgeOdds:
    """Return how likely a step is, whichever came first."""
    parent, child = step.parent, step.child
    behind = rooting.sides.get((parent, child))
    if behind is None:
        behind = frozenset(range(len(tree.costs))) - rooting.sides[child, parent]
    return edge_odds((parent, child), behind, tree.costs, tree.merges, settings)


def nearest_edges(part: DistanceMatrix, lost: Collection[str]) -> list[Edge]:
    """Return an undecided edge to each model with gaps from the nearest that has its place."""
    edges = []
    for model in sorted(lost):
        row = part.values[part.models.index(model)]
        near = [
            (float(d), other)
            for d, other in zip(row, part.models, strict=True)
            if other not in lost and np.isfinite(d)
        ]
        if near:
            length, other = min(near)
            text = "some of its distances are missing: the nearest model with its place in the tree"
            evidence = (Evidence("nearest", text, 0.0),)
            edges.append(
                Edge(other, model, EdgeKind.FINE_TUNE, length, float("nan"), 0.5, False, evidence)
            )
    return edges


@dataclass(frozen=True)
class _Step:
    """An edge of the tree in its likelier direction."""

    parent: int
    child: int
    probability: float
    evidence: tuple[Evidence, ...]


def _directed(
    names: Sequence[str],
    pair: tuple[int, int],
    found: Sequence[Evidence],
    rooting: Rooting,
) -> _Step:
    """Return an edge as it leads away from the root, with what its place in the tree adds."""
    a, b = pair
    away = rooting.away(pair)
    behind = len(rooting.sides[pair])
    if rooting.base not in rooting.sides[pair]:
        a, b, away = b, a, 1 - away
        behind = len(names) - behind
        found = [e.turned() for e in found]
    own = sum(e.log_odds for e in found)
    rest = float(np.log(max(away, 1e-9) / max(1 - away, 1e-9))) - own
    models = "1 model" if behind == 1 else f"{behind} models"
    text = f"{models} on the side of {printable(names[a], 60)}, {len(names) - behind} ahead"
    return _Step(a, b, away, (*found, Evidence("place in the tree", text, rest)))


def _evidence(
    family: FamilyDistances,
    a: int,
    b: int,
    known: KnownHistory,
    one_run: float,
    settings: LineageSettings,
) -> list[Evidence]:
    first, second = family.names[a], family.names[b]
    found = drift_evidence(
        known.facts.get(first),
        known.facts.get(second),
        family.matrix.component,
        settings,
        one_run=one_run,
        growth=_growth(family, a, b, known, settings),
    )
    for pair, sign in (((first, second), settings.record), ((second, first), -settings.record)):
        if pair in known.stated:
            found.append(Evidence("stated", printable(known.stated[pair], 120), sign))
        if pair in known.ema_copies:
            text = f"{printable(pair[1], 60)} holds the EMA copy of {printable(pair[0], 60)}"
            found.append(Evidence(EMA_COPY, text, sign))
    schemes = [known.facts[m].scheme if m in known.facts else "" for m in (first, second)]
    if any(schemes) and not all(schemes):  # plain weights are made of no quantised ones
        sign = settings.record if schemes[1] else -settings.record
        text = f"to {printable(schemes[0] or schemes[1], 60)}, and not by rounding alone"
        found.append(Evidence(QUANTISED, text, sign))
    return found


def _growth(
    family: FamilyDistances, a: int, b: int, known: KnownHistory, settings: LineageSettings
) -> NormGrowth | None:
    """Return how the norm grew over the keys of a step; None where that is not known.

    Without norms by layer, that is where the distance covers all keys of both models.
    """
    first, second = family.names[a], family.names[b]
    if family.layers is not None and {first, second} <= known.layer_norms.keys():
        return growth_by_layer(family.layers, known.layer_norms, a, b, settings.grown_elements)
    matrix = family.with_statistics or family.matrix
    ends = (known.facts.get(name) for name in (first, second))
    before, after = (None if f is None else f.norms.get(matrix.component) for f in ends)
    covers_all = family.common is None and matrix.coverage[a, b] == 1
    if before is None or after is None or not covers_all or not matrix.values[a, b] > 0:
        return None
    return NormGrowth(before**2, after**2, float(matrix.values[a, b] ** 2))


def _probability(log_odds: float) -> float:
    return float(1 / (1 + np.exp(-log_odds)))
