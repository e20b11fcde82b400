"""Where the root of a tree is, and with it the direction of every edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
import numpy as np
from scipy.special import logsumexp

from megasim.lineage.evidence import Evidence
from megasim.lineage.inner_products import Floats, step_cosine
from megasim.lineage.settings import SETTINGS, LineageSettings
from megasim.lineage.tree import FittedTree


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

    @cached_property
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
    tree: FittedTree,
    squared: Floats,
    log_odds: Mapping[tuple[int, int], float],
    settings: LineageSettings = SETTINGS,
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
        log_odds: for each edge (a, b), how much speaks for b having come from a. Neither a merge
            nor what hangs on it is a root.
    """
    edges, merges = tree.edges, tree.merges
    graph: nx.Graph[int] = nx.Graph(edges)
    nodes = sorted(graph)
    near = {i: list(graph[i]) for i in nodes}
    sides = _sides(graph, edges)
    # The models on the side of a, when a—b is cut, for both ends of every edge.
    side = sides | {(b, a): frozenset(nodes) - models for (a, b), models in sides.items()}

    barred = {
        i
        for a, b in edges
        for p, m in ((a, b), (b, a))
        if m in merges and p in merges[m]
        for i in side[m, p]
    }
    courses = _courses(near, squared, settings)
    allowed = [i for i in nodes if i not in barred]
    grown = {}
    for root in allowed:
        sizes = [len(side[b, a] if root in side[a, b] else side[a, b]) for a, b in edges]
        grown[root] = -settings.growth * float(np.log(sizes).sum())
    whole = float(logsumexp(list(grown.values())))
    ends = [i for i in allowed if len(near[i]) == 1]
    score: dict[int, float] = {}
    for root in allowed:
        prior = (1 - settings.ends) * np.exp(grown[root] - whole)
        prior += settings.ends * (root in ends) / max(len(ends), 1)
        value = float(np.log(max(prior, 1e-12)))
        for a, b in edges:
            value += log_odds.get((a, b), 0.0) * (0.5 if root in side[a, b] else -0.5)
        for middle, others in near.items():
            if middle == root:
                continue
            before = next(o for o in others if root in side[o, middle])
            for after in others:
                steps = squared[before, middle], squared[middle, after]
                # one of no length, as new running statistics alone make, says nothing
                if after != before and min(steps) > 0:
                    value += settings.lengths * float(
                        np.clip(np.log(steps[0] / steps[1]) / 2, -1, 1)
                    )
        for middle, runs in courses.items():
            for first, last, shrink in runs:
                if root in side[first, middle]:
                    value += settings.course + shrink.log_odds / 2
                elif root in side[last, middle]:
                    value += settings.course - shrink.log_odds / 2
        score[root] = value
    total = float(logsumexp(list(score.values())))
    return Rooting({i: float(np.exp(v - total)) for i, v in score.items()}, sides, courses)


def _sides(
    graph: nx.Graph[int], edges: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], frozenset[int]]:
    """Return for each edge (a, b) of a tree the models on the side of a when it is cut."""
    top = min(graph)
    above = dict(nx.bfs_predecessors(graph, top))
    below = {i: {i} for i in graph}
    for model in reversed(list(above)):  # from the leaves up
        below[above[model]] |= below[model]
    return {
        (a, b): frozenset(set(graph) - below[b] if above.get(b) == a else below[a])
        for a, b in edges
    }


def _courses(
    near: Mapping[int, Sequence[int]], squared: Floats, settings: LineageSettings
) -> dict[int, list[tuple[int, int, Evidence]]]:
    """Return for each middle the neighbours (farther, nearer) between which it lies straight."""
    found: dict[int, list[tuple[int, int, Evidence]]] = {}
    for middle, others in near.items():
        for x, a in enumerate(others):
            for b in others[x + 1 :]:
                turn = step_cosine(squared, a, middle, b)
                if turn > settings.one_course:
                    first, last = sorted((a, b), key=lambda i: (-squared[middle, i], i))
                    ratio = float(np.sqrt(squared[middle, last] / squared[middle, first]))
                    text = f"one course (cosine {turn:.2f}), steps shrinking to {ratio:.2f}"
                    shrink = Evidence("course", text, settings.shrinking * (1 - ratio))
                    found.setdefault(middle, []).append((first, last, shrink))
    return found
