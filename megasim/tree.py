"""The undirected tree of a family, and where its root is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, logsumexp

from megasim.evidence import COURSE, SHRINKING, Evidence
from megasim.inner_products import Floats, difference_product
from megasim.matrix import DistanceMatrix, LayerMatrices

# Two weight vectors trained apart have a cosine of about 0, related ones of 0.9 and more.
RELATED_COSINE = 0.3
# Without norms families part only where nothing of one is within this factor of the other.
GAP = 10.0
# The cosine between successive steps from which they count as one course.
ONE_COURSE = 0.2
SAME_LAYER = 1e-8


def related_groups(matrix: DistanceMatrix, norms: Mapping[str, float]) -> list[list[str]]:
    """Return the families: models whose weights are related, largest family first.

    With norms, two models are related when the cosine of their raw weights,
    (‖a‖² + ‖b‖² − D²) / 2‖a‖‖b‖, is above 0.3. Models without a norm are joined to the family
    of their nearest model, unless nothing of it is within ten times the distances inside.
    Models that share no distance are not related.
    """
    n = len(matrix.models)
    size = np.array([norms.get(m, np.nan) for m in matrix.models])
    with np.errstate(invalid="ignore", divide="ignore"):
        product = np.outer(size, size)
        cosine = (size[:, None] ** 2 + size[None] ** 2 - matrix.squared()) / (2 * product)
    linked = cosine > RELATED_COSINE
    unknown = np.isnan(cosine) & np.isfinite(matrix.values)
    group = np.arange(n)
    longest: dict[int, float] = {}

    def join(i: int, j: int, length: float) -> None:
        a, b = int(group[i]), int(group[j])
        if a != b:
            longest[min(a, b)] = max(longest.get(a, 0.0), longest.get(b, 0.0), length)
            group[group == max(a, b)] = min(a, b)

    rows, cols = np.nonzero(np.triu(linked | unknown, 1))
    lengths = matrix.values[rows, cols]
    for k in np.argsort(lengths, kind="stable").tolist():
        i, j, length = int(rows[k]), int(cols[k]), float(lengths[k])
        inside = max(longest.get(int(group[i]), 0.0), longest.get(int(group[j]), 0.0))
        if linked[i, j] or inside == 0 or length <= GAP * inside:
            join(i, j, length)
    groups: dict[int, list[str]] = {}
    for i, g in enumerate(group.tolist()):
        groups.setdefault(g, []).append(matrix.models[i])
    return sorted(groups.values(), key=lambda g: (-len(g), g[0]))


def tree_costs(squared: Floats, layers: LayerMatrices | None) -> Floats:
    """Return the (N, N) cost of every edge: how unlikely the one is a step from the other.

    If every layer of a child differs from its parent by Gaussian noise of unknown size, the
    likelihood of a tree is Σ over edges and layers of −½ P log D² (P elements in the layer), so
    the likeliest tree is the minimum spanning tree of Σ P log D². A layer left untouched says
    most. Without layers this is log D², with the same tree as D itself.
    """
    if layers is None or not (layers.numels > 0).any():
        by_layer, sizes = squared[None], np.ones(1)
    else:
        known = np.isfinite(layers.values).all(axis=(1, 2)) & (layers.numels > 0)
        if not known.any():
            by_layer, sizes = squared[None], np.ones(1)
        else:
            by_layer, sizes = np.square(layers.values[known]), layers.numels[known] / 1.0
    cost = np.zeros(squared.shape)
    above = np.triu_indices(len(squared), 1)
    for d2, size in zip(by_layer, sizes, strict=True):
        typical = float(np.median(d2[above]))
        if typical > 0:
            cost += size * np.log(np.maximum(d2 / typical, SAME_LAYER))
    return cost / sizes.sum()


def spanning_tree(costs: Floats, merges: Mapping[int, Collection[int]]) -> list[tuple[int, int]]:
    """Return the likeliest undirected tree; a merge is tied to its first parent.

    A merge lies between its parents, nearer to each than they are to their base, so a plain
    spanning tree would hang everything on it. Therefore the tree is built without merges, and a
    part of the tree is hung on a merge only if it is nearer to it, and no parent of the merge is
    in that part.

    Args:
        costs: (N, N) from `tree_costs`.
        merges: model → its parents, heaviest first.
    """
    nodes = [i for i in range(len(costs)) if i not in merges]
    edges = _kruskal(costs, nodes)
    placed = set(nodes)
    left = list(merges)
    while left:
        ready = [m for m in left if set(merges[m]) <= placed] or left[:1]
        for merge in ready:
            edges.append((next(iter(merges[merge])), merge))
            placed.add(merge)
            left.remove(merge)
    tied = {(p, m) for p, m in edges if m in merges and p in merges[m]}
    changed = True
    while changed:
        changed = False
        for edge in sorted(edges, key=lambda e: -costs[e]):
            if edge in tied:
                continue
            rest = [e for e in edges if e != edge]
            for side in (edge[0], edge[1]):
                part = _reach(side, rest)
                for merge, parents in merges.items():
                    if merge in part or part & set(parents) or _ancestors(merge, merges) & part:
                        continue
                    nearest = min(sorted(part), key=lambda x: costs[merge, x])
                    if nearest not in merges and costs[merge, nearest] < costs[edge]:
                        edges = [*rest, (merge, nearest)]
                        changed = True
                        break
                if changed:
                    break
            if changed:
                break
    return edges


def _ancestors(merge: int, merges: Mapping[int, Collection[int]]) -> set[int]:
    found: set[int] = set()
    stack = [merge]
    while stack:
        for parent in merges.get(stack.pop(), ()):
            if parent not in found:
                found.add(parent)
                stack.append(parent)
    return found


def _kruskal(costs: Floats, nodes: Sequence[int]) -> list[tuple[int, int]]:
    group = {i: i for i in nodes}

    def find(i: int) -> int:
        while group[i] != i:
            group[i] = group[group[i]]
            i = group[i]
        return i

    pairs = sorted((costs[i, j], i, j) for x, i in enumerate(nodes) for j in nodes[x + 1 :])
    edges: list[tuple[int, int]] = []
    for _, i, j in pairs:
        a, b = find(i), find(j)
        if a != b:
            group[b] = a
            edges.append((i, j))
    return edges


def _reach(start: int, edges: Sequence[tuple[int, int]]) -> set[int]:
    near: dict[int, list[int]] = {}
    for a, b in edges:
        near.setdefault(a, []).append(b)
        near.setdefault(b, []).append(a)
    seen, stack = {start}, [start]
    while stack:
        for other in near.get(stack.pop(), ()):
            if other not in seen:
                seen.add(other)
                stack.append(other)
    return seen


@dataclass(frozen=True)
class Rooting:
    """How likely each model is the root of its tree.

    Attributes:
        probability: model → probability, summing to 1.
        sides: for each edge (a, b) the models on the side of a when it is cut.
        courses: for the middle of each three models in one course, what was seen there.
    """

    probability: dict[int, float]
    sides: dict[tuple[int, int], frozenset[int]]
    courses: dict[int, list[tuple[int, int, Evidence]]]

    def away(self, edge: tuple[int, int]) -> float:
        """Return the probability that an edge leads from its first to its second end."""
        return float(min(1.0, sum(self.probability.get(i, 0.0) for i in self.sides[edge])))


def find_root(
    edges: Sequence[tuple[int, int]],
    squared: Floats,
    log_odds: Mapping[tuple[int, int], float],
    merges: Mapping[int, Collection[int]],
) -> Rooting:
    """Return how likely each model is the root.

    All directions follow from the root, so evidence on any edge counts for all. The prior
    of a root is the number of orders in which the tree can have grown from it, N! / Π of the
    sizes of the subtrees (rumor centrality: Shah and Zaman, 2011). Evidence on edges multiplies
    it, and so does each bend-free run of steps: successive steps of one training keep their
    course, so the model in the middle came from one of its two neighbours there, more likely
    from the farther, since steps shrink as the rate of learning falls.

    Args:
        squared: (N, N) squared distances.
        log_odds: for each edge (a, b), how much speaks for b having come from a.
        merges: model → parents; neither a merge nor what hangs on it is a root.
    """
    nodes = sorted({i for e in edges for i in e})
    near: dict[int, list[int]] = {i: [] for i in nodes}
    for a, b in edges:
        near[a].append(b)
        near[b].append(a)
    sides = {e: frozenset(_reach(e[0], [x for x in edges if x != e])) for e in edges}

    def side(a: int, b: int) -> frozenset[int]:
        """Return the models on the side of a."""
        return sides[a, b] if (a, b) in sides else frozenset(nodes) - sides[b, a]

    barred = {
        i
        for a, b in edges
        for p, m in ((a, b), (b, a))
        if m in merges and p in merges[m]
        for i in side(m, p)
    }
    courses = _courses(near, squared)
    score: dict[int, float] = {}
    for root in nodes:
        if root in barred:
            continue
        value = float(gammaln(len(nodes) + 1)) - float(np.log(len(nodes)))
        for a, b in edges:
            down = (a, b) if root in side(a, b) else (b, a)
            value -= float(np.log(len(side(down[1], down[0]))))
            value += log_odds.get((a, b), 0.0) * (0.5 if down == (a, b) else -0.5)
        for middle, runs in courses.items():
            for first, last, shrink in runs:
                if root in side(first, middle):
                    value += COURSE + shrink.log_odds / 2
                elif root in side(last, middle):
                    value += COURSE - shrink.log_odds / 2
        score[root] = value
    total = float(logsumexp(list(score.values())))
    return Rooting({i: float(np.exp(v - total)) for i, v in score.items()}, sides, courses)


def _courses(
    near: Mapping[int, Sequence[int]], squared: Floats
) -> dict[int, list[tuple[int, int, Evidence]]]:
    """Return for each middle the neighbours (farther, nearer) between which it lies straight."""
    found: dict[int, list[tuple[int, int, Evidence]]] = {}
    for middle, others in near.items():
        for x, a in enumerate(others):
            for b in others[x + 1 :]:
                turn = step_cosine(squared, a, middle, b)
                if turn > ONE_COURSE:
                    first, last = sorted((a, b), key=lambda i: (-squared[middle, i], i))
                    ratio = float(np.sqrt(squared[middle, last] / squared[middle, first]))
                    text = f"one course (cosine {turn:.2f}), steps shrinking to {ratio:.2f}"
                    shrink = Evidence("course", text, SHRINKING * (1 - ratio))
                    found.setdefault(middle, []).append((first, last, shrink))
    return found


def step_cosine(squared: Floats, a: int, b: int, c: int) -> float:
    """Return the cosine between the steps a→b and b→c; 0 where one has no length."""
    size = float(np.sqrt(squared[a, b] * squared[b, c]))
    return float(difference_product(squared, a, b, b, c)) / size if size > 0 else 0.0
