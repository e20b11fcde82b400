"""The undirected tree of a family, and where its root is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from megasim.lineage.evidence import COURSE, SHRINKING, Evidence
from megasim.lineage.inner_products import Floats, difference_product
from megasim.matrix.distance_matrix import DistanceMatrix

# Two weight vectors trained apart have a cosine of about 0, related ones of 0.9 and more.
RELATED_COSINE = 0.3
# Without norms families part only where nothing of one is within this factor of the other.
GAP = 10.0
# The share of families whose base is at an end of the tree, having one child in the collection.
ENDS = 0.4
# Log odds for each step beside one e times as long as the step after it.
LENGTHS = 0.3
# The cosine between successive steps from which they count as one course.
ONE_COURSE = 0.2
# A model trained from a merge that stands between its parents sees them apart, by at least this
# cosine, and the merge lies at the foot of its perpendicular on their line, within this cosine.
BETWEEN = 0.2
OFF_FOOT = 0.3
# The share of the way from elsewhere to a merge that a model trained from it has gone; chance
# and what trainings have in common move it from 1, and from 0 for a model that is not.
FROM_MERGE = 0.7
# How far the prior of a root is trusted: a collection holds what people kept, not all that grew.
GROWTH = 0.5


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


def spanning_tree(
    costs: Floats, squared: Floats, merges: Mapping[int, Sequence[int]]
) -> list[tuple[int, int]]:
    """Return the likeliest undirected tree; a merge is tied to its first parent.

    A merge lies between its parents, nearer to each than they are to their base, so a plain
    spanning tree would hang everything on it, and on what was trained from it. Therefore the
    tree is built without either; those follow their merge, and other parts of the tree move to
    a merge if they are nearer to it and hold none of the models it is made of.

    Args:
        costs: (N, N) from `Steps.costs`.
        squared: (N, N) squared distances.
        merges: model → its parents, heaviest first.
    """
    following = _followers(squared, merges)
    edges = _kruskal(costs, [i for i in range(len(costs)) if i not in {*merges, *following}])
    placed = set(range(len(costs))) - {*merges, *following}
    tied: set[tuple[int, int]] = set()
    merges_left, left = list(merges), set(following)
    while merges_left or left:
        for merge in [m for m in merges_left if set(merges[m]) <= placed]:
            tied.add((merges[merge][0], merge))
            placed.add(merge)
            merges_left.remove(merge)
        near = [
            (costs[f, p], p, f)
            for f in sorted(left)
            for p in sorted(placed)
            if following[f] in placed and (p in merges or p in following)
        ]
        if near:
            _, place, follower = min(near)
            tied.add((place, follower))
            placed.add(follower)
            left.remove(follower)
        elif merges_left and not any(set(merges[m]) <= placed for m in merges_left):
            # Its parents follow a merge that needs it: break the circle where it starts.
            follower = min(left)
            tied.add((min(sorted(placed), key=lambda p: costs[p, follower]), follower))
            placed.add(follower)
            left.remove(follower)
    edges += sorted(tied)
    moved = True
    while moved:
        moved = False
        for edge in sorted(set(edges) - tied, key=lambda e: (-costs[e], e)):
            rest = [e for e in edges if e != edge]
            better = _better_place(costs, squared, edge, rest, merges)
            if better is not None:
                edges, moved = [*rest, better], True
                break
    return edges


def _followers(squared: Floats, merges: Mapping[int, Sequence[int]]) -> dict[int, int]:
    """Return model → merge, of models trained from a merge that stand between its parents.

    A common base of the parents sees them at a right angle; such a model sees them apart. Of a
    step between the parents, as of an epoch, the foot on their line is anywhere; of a model
    trained from the merge it is the merge.
    """
    found: dict[int, int] = {}
    made_of = {m: _ancestors(m, merges) for m in merges}
    for merge, parents in merges.items():
        a, b = parents[:2]
        for i in range(len(squared)):
            near = squared[i, merge] < min(squared[i, a], squared[i, b])
            if i in merges or i in made_of[merge] or not near:
                continue
            off = difference_cosine(squared, merge, i, a, b)
            if step_cosine(squared, a, i, b) > BETWEEN and abs(off) < OFF_FOOT:
                best = found.get(i, merge)
                found[i] = merge if squared[i, merge] <= squared[i, best] else best
    return found


def _better_place(
    costs: Floats,
    squared: Floats,
    edge: tuple[int, int],
    rest: Sequence[tuple[int, int]],
    merges: Mapping[int, Sequence[int]],
) -> tuple[int, int] | None:
    """Return the edge by which one side of a cut edge hangs on a merge of the other, if nearer."""
    for start, other in (edge, edge[::-1]):
        part = _reach(start, rest)
        for merge in merges:
            if merge in part or _ancestors(merge, merges) & part:
                continue
            nearest = min(sorted(part), key=lambda x: costs[merge, x])
            if nearest in merges or not costs[merge, nearest] < costs[edge]:
                continue
            gone = difference_product(squared, other, merge, other, nearest)
            if gone > FROM_MERGE * squared[other, merge]:
                return merge, nearest
    return None


def _ancestors(merge: int, merges: Mapping[int, Sequence[int]]) -> set[int]:
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

    @property
    def base(self) -> int:
        """The model from which every edge leads in its likelier direction."""
        ahead = dict.fromkeys(self.probability, 0)
        for edge, models in self.sides.items():
            leads_away = self.away(edge) >= 0.5
            for i in ahead:
                ahead[i] += (i in models) == leads_away
        return max(ahead, key=lambda i: (ahead[i], self.probability[i], -i))

    def away(self, edge: tuple[int, int]) -> float:
        """Return the probability that an edge leads from its first to its second end."""
        return float(min(1.0, sum(self.probability.get(i, 0.0) for i in self.sides[edge])))


def find_root(
    edges: Sequence[tuple[int, int]],
    squared: Floats,
    log_odds: Mapping[tuple[int, int], float],
    merges: Mapping[int, Sequence[int]],
) -> Rooting:
    """Return how likely each model is the root.

    All directions follow from the root, so evidence on any edge counts for all. The prior of a
    root is the square root of the number of orders in which the tree can have grown from it,
    N! / Π of the sizes of the subtrees (rumor centrality: Shah and Zaman, 2011). Evidence on
    edges multiplies it, and so does each run of steps that keeps its course, as successive
    steps of one training do: the model in the middle came from one of its two neighbours
    there, more likely from the farther, since steps shrink as the rate of learning falls.

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
    # The models on the side of a, when a—b is cut, for both ends of every edge.
    side = sides | {(b, a): frozenset(nodes) - models for (a, b), models in sides.items()}

    barred = {
        i
        for a, b in edges
        for p, m in ((a, b), (b, a))
        if m in merges and p in merges[m]
        for i in side[m, p]
    }
    courses = _courses(near, squared)
    allowed = [i for i in nodes if i not in barred]
    grown = {}
    for root in allowed:
        sizes = [len(side[b, a] if root in side[a, b] else side[a, b]) for a, b in edges]
        grown[root] = -GROWTH * float(np.log(sizes).sum())
    whole = float(logsumexp(list(grown.values())))
    ends = [i for i in allowed if len(near[i]) == 1]
    score: dict[int, float] = {}
    for root in allowed:
        prior = (1 - ENDS) * np.exp(grown[root] - whole) + ENDS * (root in ends) / max(len(ends), 1)
        value = float(np.log(max(prior, 1e-12)))
        for a, b in edges:
            value += log_odds.get((a, b), 0.0) * (0.5 if root in side[a, b] else -0.5)
        for middle, others in near.items():
            if middle == root:
                continue
            before = next(o for o in others if root in side[o, middle])
            for after in others:
                if after != before:
                    value += LENGTHS * float(
                        np.clip(np.log(squared[before, middle] / squared[middle, after]) / 2, -1, 1)
                    )
        for middle, runs in courses.items():
            for first, last, shrink in runs:
                if root in side[first, middle]:
                    value += COURSE + shrink.log_odds / 2
                elif root in side[last, middle]:
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
    return difference_cosine(squared, a, b, b, c)


def difference_cosine(squared: Floats, a: int, b: int, c: int, d: int) -> float:
    """Return the cosine between b − a and d − c; 0 where one has no length."""
    size = float(np.sqrt(squared[a, b] * squared[c, d]))
    return float(difference_product(squared, a, b, c, d)) / size if size > 0 else 0.0
