"""Who came from whom: families, and in each a tree of fine-tunes, merges, casts and epochs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import networkx as nx
import numpy as np

from megasim.errors import printable
from megasim.lineage.evidence import (
    EMA_COPY,
    ONE_RUN,
    RECORD,
    Evidence,
    ModelFacts,
    PairFacts,
    drift_evidence,
    rounding_of,
    same_weights_kind,
)
from megasim.lineage.inner_products import Floats, require_l2
from megasim.lineage.recipe import recover_recipe
from megasim.lineage.recipe_result import Recipe
from megasim.lineage.recipe_search import explainable
from megasim.lineage.result import Edge, Family, Lineage
from megasim.lineage.step_costs import block_weights, family_steps
from megasim.lineage.tree import (
    ONE_COURSE,
    find_root,
    related_groups,
    spanning_tree,
    step_cosine,
)
from megasim.matrix.distance_matrix import DistanceMatrix, LayerMatrices

# Below this probability a direction is shown as undecided.
DECIDED = 0.8
# Models that hold fewer of their keys in common are not told to be kin by these.
LEAST_COMMON = 0.5
# How often a tree tells the weights of the blocks, and these the tree.
ROUNDS = 2


def build_lineage(
    matrix: DistanceMatrix,
    *,
    layers: LayerMatrices | None = None,
    layers_l1: LayerMatrices | None = None,
    changed: DistanceMatrix | None = None,
    facts: Sequence[ModelFacts] = (),
    pairs: Sequence[PairFacts] = (),
    stated: Mapping[tuple[str, str], str] | None = None,
    ema_copies: Collection[tuple[str, str]] = (),
    max_unexplained: float = 0.02,
    merges: Sequence[Recipe] | None = None,
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
        changed: L0 distances of the same models: what two trainings left untouched. Counted
            between those of the commonest dtype, since rounding changes nearly all.
        facts: of any of the models; norms part unrelated families and tell directions.
        pairs: of any pairs; identity of the other components tells prunings and swaps.
        stated: (parent, child) → where it is written that the one was made from the other.
        ema_copies: (parent, child) where the child's weights are the EMA copy in the parent.
        max_unexplained: what a merge may leave. Less than `recover_recipe` allows: an epoch of a
            straight run lies as near the line of two others as a merge that was trained further.
        merges: the recipes of all merges, where they are known already, as from a tree of the same
            distances that took other evidence.

    Raises:
        UsageError: a metric other than L2.
    """
    require_l2(matrix.metric)
    matrix, few = _with_enough_in_common(matrix)
    known = {f.name: f for f in facts if f.name in set(matrix.models)}
    by_pair = {frozenset((p.a, p.b)): p for p in pairs}
    edges: list[Edge] = []
    notes = [f"{few} pair(s) share less than half of their keys: not told to be kin"] if few else []
    kept, twins = _same_weights(matrix, known)
    for _, parent, model in twins:
        edges.append(_twin_edge(matrix, known, by_pair, parent, model))
    work = matrix.subset(kept)
    norms = {n: f.norms[matrix.component] for n, f in known.items() if matrix.component in f.norms}
    if len(norms) < len(kept):
        notes.append("not all norms are known: unrelated families may stand as one")
    groups = [work.subset(group) for group in related_groups(work, norms)]
    builders = [
        _FamilyBuilder(
            part.largest_complete(),
            layers,
            layers_l1,
            changed,
            known,
            stated or {},
            ema_copies,
            max_unexplained,
            merges,
        )
        for part in groups
    ]
    weights: dict[str, float] = {}
    for _ in range(ROUNDS):
        weights = block_weights([(family.steps, family.errors(weights)) for family in builders])
    families: list[Family] = []
    recipes: list[Recipe] = []
    for part, family in zip(groups, builders, strict=True):
        lost = sorted(set(part.models) - set(family.names))
        if lost:
            notes.append(f"{len(lost)} model(s) lack distances within their family")
        root, probability = family.build(weights)
        edges += family.edges
        recipes += family.recipes
        for model in lost:
            edges += _nearest_edge(part, model, set(family.names))
        members = set(part.models) | {model for first, _, model in twins if first in part.models}
        families.append(Family(tuple(sorted(members)), root, probability))
    families.sort(key=lambda f: (-len(f.models), f.models[0]))
    return Lineage(
        component=matrix.component,
        source="/".join(sorted(set(np.unique(matrix.sources).tolist()) - {""})),
        families=tuple(families),
        edges=tuple(sorted(edges, key=lambda e: (e.parent, e.child))),
        recipes=tuple(sorted(recipes, key=lambda r: r.model)),
        notes=tuple(notes),
    )


def _with_enough_in_common(matrix: DistanceMatrix) -> tuple[DistanceMatrix, int]:
    """Return the matrix without the pairs that share too few keys, and how many these are.

    The norms are of all keys: a distance over few of them would make any two models kin.
    """
    few = matrix.coverage < LEAST_COMMON
    return replace(matrix, values=np.where(few, np.nan, matrix.values)), int(np.triu(few, 1).sum())


def _same_weights(
    matrix: DistanceMatrix, known: Mapping[str, ModelFacts]
) -> tuple[list[str], list[tuple[str, str, str]]]:
    """Return one model of each set of equal ones, and of every other (that model, parent, model).

    The fullest model stands for a set; each other hangs on the one before it that is most like
    it: in its weights, then in how many keys it has.
    """
    rounding = rounding_of(known.values(), matrix.component)
    order = sorted(
        matrix.models, key=lambda m: known[m].completeness if m in known else (0, 0, 0, m)
    )
    place = {m: i for i, m in enumerate(matrix.models)}
    keys = {m: known[m].keys if m in known else 0 for m in matrix.models}
    sets: dict[str, list[str]] = {}
    twins: list[tuple[str, str, str]] = []
    for model in order:
        row = matrix.values[place[model]]
        for first, members in sets.items():
            noise = rounding.get(model, 0.0) ** 2 + rounding.get(first, 0.0) ** 2
            if row[place[first]] ** 2 <= 1.5 * noise:
                near = [m for m in members if np.isfinite(row[place[m]])]
                parent = min(near, key=lambda m: (row[place[m]], abs(keys[m] - keys[model])))
                twins.append((first, parent, model))
                members.append(model)
                break
        else:
            sets[model] = [model]
    return [m for m in matrix.models if m in sets], twins


def _twin_edge(
    matrix: DistanceMatrix,
    known: Mapping[str, ModelFacts],
    by_pair: Mapping[frozenset[str], PairFacts],
    first: str,
    second: str,
) -> Edge:
    pair = by_pair.get(frozenset((first, second)))
    seen = pair.seen_from(first) if pair else None
    kind, evidence = same_weights_kind(known.get(first), known.get(second), seen, matrix.component)
    confidence = _probability(sum(e.log_odds for e in evidence))
    length = float(matrix.values[matrix.models.index(first), matrix.models.index(second)])
    return Edge(
        first, second, kind, length, float("nan"), confidence, confidence >= DECIDED,
        tuple(evidence),
    )  # fmt: skip


def _nearest_edge(part: DistanceMatrix, model: str, placed: set[str]) -> list[Edge]:
    """Return an undecided edge to the nearest model that has its place, for one with gaps."""
    row = part.values[part.models.index(model)]
    near = [
        (float(d), other)
        for d, other in zip(row, part.models, strict=True)
        if other in placed and np.isfinite(d)
    ]
    if not near:
        return []
    length, other = min(near)
    text = "some distances are missing: the nearest model with its place in the tree"
    return [
        Edge(
            other, model, "fine-tune", length, float("nan"), 0.5, False,
            (Evidence("nearest", text, 0.0),),
        )
    ]  # fmt: skip


class _FamilyBuilder:
    """Builds the edges of one family of models, all related and with all distances."""

    def __init__(
        self,
        matrix: DistanceMatrix,
        layers: LayerMatrices | None,
        layers_l1: LayerMatrices | None,
        changed: DistanceMatrix | None,
        known: Mapping[str, ModelFacts],
        stated: Mapping[tuple[str, str], str],
        ema_copies: Collection[tuple[str, str]],
        max_unexplained: float,
        merges: Sequence[Recipe] | None,
    ) -> None:
        self.matrix = matrix
        self.names = matrix.models
        self.squared = matrix.squared()
        self.layers = _layers_of(layers, matrix.models)
        self.layers_l1 = _layers_of(layers_l1, matrix.models)
        self.changed = _comparable_bits(changed, matrix.models, known)
        self.known = known
        self.stated = stated
        self.ema_copies = ema_copies
        self.max_unexplained = max_unexplained
        self.edges: list[Edge] = []
        self.recipes = self._search_merges() if merges is None else self._own(merges)
        self.merges = self._merges()
        self.steps = family_steps(self.squared, self.layers, self.layers_l1, self.changed)

    def errors(self, weights: Mapping[str, float]) -> Floats:
        """Return how far the steps of the tree by these weights are from being independent."""
        return self.steps.errors(self._tree(weights), self.merges)

    def _tree(self, weights: Mapping[str, float]) -> list[tuple[int, int]]:
        return spanning_tree(self.steps.costs(weights), self.squared, self.merges)

    def build(self, weights: Mapping[str, float]) -> tuple[str, float]:
        """Fill `edges`; return the likeliest root and its probability.

        Args:
            weights: how much each block counts, from `block_weights`.
        """
        if len(self.names) == 1:
            return self.names[0], 1.0
        merges = self.merges
        pairs = self._tree(weights)
        evidence = {pair: self._evidence(*pair) for pair in pairs}
        log_odds = {pair: sum(e.log_odds for e in found) for pair, found in evidence.items()}
        rooting = find_root(pairs, self.squared, log_odds, merges)
        root, n = rooting.base, len(self.names)
        parent_of: dict[int, int] = {}
        directed: list[tuple[int, int, float, list[Evidence]]] = []
        for pair, found in evidence.items():
            a, b = pair
            away = rooting.away(pair)
            forward = root in rooting.sides[pair]
            if not forward:
                a, b, away = b, a, 1 - away
                found = [replace(e, log_odds=-e.log_odds) for e in found]
            if b in merges and a in merges[b]:
                continue
            parent_of[b] = a
            own = sum(e.log_odds for e in found)
            rest = float(np.log(max(away, 1e-9) / max(1 - away, 1e-9))) - own
            behind = len(rooting.sides[pair]) if forward else n - len(rooting.sides[pair])
            models = "1 model" if behind == 1 else f"{behind} models"
            text = f"{models} on the side of {printable(self.names[a], 60)}, {n - behind} ahead"
            found = [*found, Evidence("place in the tree", text, rest)]
            directed.append((a, b, away, found))
        for a, b, away, found in directed:
            kind = "fine-tune"
            if a in parent_of:
                turn = step_cosine(self.squared, parent_of[a], a, b)
                shorter = self.squared[a, b] < 1.5 * self.squared[parent_of[a], a]
                if turn > ONE_COURSE and shorter:
                    kind = "epoch step"
                    text = f"cosine {turn:.2f} with the step before"
                    found = [*found, Evidence("same course", text, 0.0)]
            if any(e.name in ONE_RUN for e in found):
                kind = "epoch step"
            if any(e.name == EMA_COPY for e in found):
                kind = "pruned"
            self._add(a, b, kind, away, found)
        return self.names[root], rooting.probability[root]

    def _own(self, merges: Sequence[Recipe]) -> list[Recipe]:
        """Return those merges that are of this family, by order of its models."""
        own = {r.model: r for r in merges}
        return [own[name] for name in self.names if name in own]

    def _search_merges(self) -> list[Recipe]:
        rounding = rounding_of(self.known.values(), self.matrix.component)
        recipes = (
            recover_recipe(
                self.matrix,
                self.names[i],
                layers=self.layers,
                rounding=rounding,
                max_unexplained=self.max_unexplained,
            )
            for i in explainable(self.squared, self.layers)
        )
        return [recipe for recipe in recipes if recipe.claimed]

    def _merges(self) -> dict[int, list[int]]:
        """Return model → parents, heaviest first, of the models that are merges."""
        place = {n: i for i, n in enumerate(self.names)}
        found = {place[r.model]: [place[p.model] for p in r.parents] for r in self.recipes}
        self._break_cycles(found)
        for recipe in self.recipes:
            decided = recipe.verdict != "ambiguous"
            evidence = Evidence("recipe", recipe.sentence(), 0.0)
            for parent in recipe.parents:
                self.edges.append(
                    Edge(
                        parent.model,
                        recipe.model,
                        "merge",
                        float(np.sqrt(self.squared[place[parent.model], place[recipe.model]])),
                        parent.weight,
                        max(0.0, 1 - recipe.unexplained) if decided else 0.5,
                        decided,
                        (evidence,),
                    )
                )
        return found

    def _break_cycles(self, merges: dict[int, list[int]]) -> None:
        """Drop the worst explained merge of each circle of merges that explain each other."""
        left = {r.model: r.unexplained for r in self.recipes}
        graph: nx.DiGraph[int] = nx.DiGraph((p, m) for m, ps in merges.items() for p in ps)
        while not nx.is_directed_acyclic_graph(graph):
            cycle = {a for a, _ in nx.find_cycle(graph)}
            worst = max(sorted(cycle & set(merges)), key=lambda i: left[self.names[i]])
            graph.remove_edges_from([(p, worst) for p in merges.pop(worst)])
            self.recipes = [r for r in self.recipes if r.model != self.names[worst]]

    def _evidence(self, a: int, b: int) -> list[Evidence]:
        first, second = self.names[a], self.names[b]
        found = drift_evidence(
            self.known.get(first),
            self.known.get(second),
            float(self.squared[a, b]),
            self.matrix.component,
        )
        for pair, sign in (((first, second), 1.0), ((second, first), -1.0)):
            if pair in self.stated:
                found.append(Evidence("stated", printable(self.stated[pair], 120), sign * RECORD))
            if pair in self.ema_copies:
                text = f"{printable(pair[1], 60)} holds the EMA copy of {printable(pair[0], 60)}"
                found.append(Evidence(EMA_COPY, text, sign * RECORD))
        return found

    def _add(self, a: int, b: int, kind: str, away: float, found: Sequence[Evidence]) -> None:
        self.edges.append(
            Edge(
                self.names[a],
                self.names[b],
                kind,
                float(np.sqrt(self.squared[a, b])),
                float("nan"),
                away,
                away >= DECIDED,
                tuple(found),
            )
        )


def _comparable_bits(
    changed: DistanceMatrix | None, names: tuple[str, ...], known: Mapping[str, ModelFacts]
) -> Floats | None:
    """Return how many elements differ between the models of the commonest dtype, else NaN.

    Rounding changes nearly all elements; and of two models that were both rounded, those that
    are alike may have become so by it.
    """
    dtypes = [known[n].dtype if n in known else "" for n in names]
    if changed is None or not any(dtypes):
        return None
    common = max(sorted(set(dtypes) - {""}), key=dtypes.count)
    same = np.array([dtype == common for dtype in dtypes])
    values = np.where(np.outer(same, same), changed.subset(names).values, np.nan)
    return values if np.isfinite(values[np.ix_(same, same)]).all() else None


def _layers_of(layers: LayerMatrices | None, names: tuple[str, ...]) -> LayerMatrices | None:
    """Return the layers of the named models, or None when a model is not among them."""
    if layers is None or not set(names) <= set(layers.models):
        return None
    return layers.subset(names)


def _probability(log_odds: float) -> float:
    return float(1 / (1 + np.exp(-log_odds)))
