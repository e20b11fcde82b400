"""The undirected tree of a family: who stands next to whom."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np
import numpy.typing as npt
from scipy.sparse.csgraph import minimum_spanning_tree

from megasim.lineage.inner_products import (
    Floats,
    difference_cosine,
    difference_product,
    step_cosine,
)
from megasim.lineage.settings import SETTINGS, LineageSettings

Merged = Mapping[int, Sequence[int]]


@dataclass(frozen=True)
class FittedTree:
    """The likeliest tree over the N models of a family.

    Attributes:
        edges: N − 1 pairs of places, undirected; a merge is tied to its first parent.
        merges: place of a merge → those of its parents, heaviest first.
        costs: (N, N) of all edges that there could be.
    """

    edges: tuple[tuple[int, int], ...]
    merges: Merged
    costs: Floats


def fit_tree(
    costs: Floats, squared: Floats, merges: Merged, settings: LineageSettings = SETTINGS
) -> FittedTree:
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
    descent: nx.DiGraph[int] = nx.DiGraph()
    descent.add_nodes_from(range(len(costs)))
    descent.add_edges_from((p, m) for m, parents in merges.items() for p in parents)
    made_of: dict[int, set[int]] = {m: nx.ancestors(descent, m) for m in merges}
    following = _followers(squared, merges, made_of, settings)
    trained = [i for i in range(len(costs)) if i not in merges and i not in following]
    tied = _tie_merges(costs, merges, following, trained)
    edges = [*spanning_edges(costs, trained), *sorted(tied)]
    moved = bool(merges)
    while moved:
        moved = False
        sides = _sides(edges, len(costs))
        for edge in sorted(set(edges) - tied, key=lambda e: (-costs[e], e)):
            better = _better_place(costs, squared, edge, sides[edge], made_of, settings)
            if better is not None:
                edges, moved = [*(e for e in edges if e != edge), better], True
                break
    return FittedTree(tuple(edges), merges, costs)


def spanning_edges(costs: Floats, nodes: Sequence[int]) -> list[tuple[int, int]]:
    """Return the edges of the minimum spanning tree of some nodes, cheapest first.

    Of equal costs the pair that comes first is taken. SciPy's tree is used on the ranks of the
    costs, which are all different and above 0, as it wants them: networkx would hold each of the
    N²/2 pairs as a dictionary.

    >>> spanning_edges(np.array([[0, 1, 5], [1, 0, -2], [5, -2, 0.0]]), [0, 1, 2])
    [(1, 2), (0, 1)]
    """
    if len(nodes) < 2:
        return []
    rows, cols = np.triu_indices(len(nodes), 1)
    at = np.asarray(nodes, dtype=np.intp)
    order = np.argsort(costs[at[rows], at[cols]], kind="stable")
    ranks = np.zeros((len(nodes), len(nodes)))
    ranks[rows[order], cols[order]] = np.arange(1, len(order) + 1)
    tree = minimum_spanning_tree(ranks).tocoo()
    cheapest = np.argsort(tree.data, kind="stable")
    return [
        (int(at[i]), int(at[j]))
        for i, j in zip(tree.row[cheapest], tree.col[cheapest], strict=True)
    ]


def _tie_merges(
    costs: Floats, merges: Merged, following: Mapping[int, int], trained: Collection[int]
) -> set[tuple[int, int]]:
    """Return the edges that tie each merge to its first parent, and its followers to it."""
    placed = set(trained)
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
    return tied


def _followers(
    squared: Floats,
    merges: Merged,
    made_of: Mapping[int, set[int]],
    settings: LineageSettings,
) -> dict[int, int]:
    """Return model → merge, of models trained from a merge that stand between its parents.

    A common base of the parents sees them at a right angle; such a model sees them apart. Of a
    step between the parents, as of an epoch, the foot on their line is anywhere; of a model
    trained from the merge it is the merge.
    """
    found: dict[int, int] = {}
    for merge, parents in merges.items():
        a, b = parents[:2]
        for i in range(len(squared)):
            near = squared[i, merge] < min(squared[i, a], squared[i, b])
            if i in merges or i in made_of[merge] or not near:
                continue
            off = abs(difference_cosine(squared, merge, i, a, b))
            if step_cosine(squared, a, i, b) > settings.between and off < settings.off_foot:
                best = found.get(i, merge)
                found[i] = merge if squared[i, merge] <= squared[i, best] else best
    return found


def _sides(
    edges: Sequence[tuple[int, int]], count: int
) -> dict[tuple[int, int], npt.NDArray[np.bool_]]:
    """Return for each edge (a, b) of a tree of N models (N,) which stand with a when it is cut."""
    graph: nx.Graph[int] = nx.Graph(edges)
    order = list(nx.dfs_preorder_nodes(graph, 0))
    above = dict(nx.bfs_predecessors(graph, 0))
    place, below = np.zeros(count, dtype=np.intp), np.ones(count, dtype=np.intp)
    place[order] = np.arange(count)
    for model in reversed(order[1:]):
        below[above[model]] += below[model]
    sides = {}
    for a, b in edges:
        far = b if above.get(b) == a else a
        behind = (place >= place[far]) & (place < place[far] + below[far])
        sides[a, b] = ~behind if far == b else behind
    return sides


def _better_place(
    costs: Floats,
    squared: Floats,
    edge: tuple[int, int],
    side: npt.NDArray[np.bool_],
    made_of: Mapping[int, set[int]],
    settings: LineageSettings,
) -> tuple[int, int] | None:
    """Return the edge by which one side of a cut edge hangs on a merge of the other, if nearer.

    Args:
        side: (N,) which models stand with the first end.
        made_of: merge → all that it is made of.
    """
    merges = list(made_of)
    for start_side, other in ((side, edge[1]), (~side, edge[0])):
        beyond = np.where(start_side, costs[merges], np.inf)
        nearest = beyond.argmin(axis=1).tolist()
        nearer = beyond.min(axis=1) < costs[edge]
        for merge, near, cheaper in zip(merges, nearest, nearer.tolist(), strict=True):
            origins = made_of[merge]
            if not cheaper or near in made_of or start_side[[merge, *origins]].any():
                continue
            gone = difference_product(squared, other, merge, other, near)
            part = np.flatnonzero(start_side).tolist()
            least = _least_gone(squared, other, merge, [*part, *origins, *made_of], settings)
            if gone > least * squared[other, merge]:
                return merge, near
    return None


def _least_gone(
    squared: Floats, start: int, merge: int, left_out: Collection[int], settings: LineageSettings
) -> float:
    """Return the share of the way to a merge that a model trained from it has gone at least.

    Trainings with something in common have all gone a part of the way. A model trained from the
    merge has gone about all of it, so more than half of what the others leave. Where the others
    have gone as far as that themselves, nothing tells one.
    """
    known = {start, *left_out}
    others = [i for i in range(len(squared)) if i not in known]
    if not others:
        return settings.from_merge
    gone = (squared[start, others] + squared[merge, start] - squared[merge, others]) / 2
    usual = float(np.median(gone)) / float(squared[start, merge])
    if usual >= settings.from_merge:
        return float("inf")
    return max(settings.from_merge, (1 + usual) / 2)
