"""A walk over the models: the user's path, or the minimum spanning tree, and its turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from megasim.matrix.distance_matrix import Floats

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Walk:
    """A tree over N models, and the path through it that is read as a sequence.

    Attributes:
        kind: "path" when the order was given, "spanning tree" when it was read off the distances.
        order: the path: as given, or the longest path of the tree (its trunk).
        edges: (N−1, 2) model numbers (from, to), outward from `order[0]`: a model stands as
            `to` once, and before it stands as `from`.
        parents: (N,) the model before each one; −1 for `order[0]`.
    """

    kind: str
    order: tuple[int, ...]
    edges: Indices
    parents: Indices


def find_walk(squared: Floats, order: Sequence[int] = ()) -> Walk:
    """Return the walk over all models: along `order`, else along the minimum spanning tree.

    Models that a given order leaves out hang on it by the shortest edges that reach them. The
    tree of distances has no direction; it is read from that end of its longest path where the
    step is longer, as a base mostly lies further off than its fine-tunes do from each other.
    Equal lengths are decided by the order of the models.

    Args:
        squared: (N, N) squared distances, none missing, N ≥ 1.
        order: model numbers, none twice; fewer than two count as none.

    >>> find_walk(np.array([[0.0, 1, 9], [1, 0, 4], [9, 4, 0]])).order
    (2, 1, 0)
    """
    tree = spanning_tree(squared, order)
    if tree.kind == "path":
        return tree
    trunk = _trunk(tree, squared)
    return _walk("spanning tree", trunk, _visit(tree, trunk), len(squared))


def spanning_tree(squared: Floats, order: Sequence[int] = ()) -> Walk:
    """Return `find_walk` without its search for the longest path: the order is the first model."""
    # Prim's algorithm, begun with the given path; argmin takes the first of equals
    start = tuple(int(i) for i in order) if len(order) > 1 else (0,)
    edges = list(pairwise(start))
    inside = np.zeros(len(squared), dtype=bool)
    inside[list(start)] = True
    nearest = np.array(start, dtype=np.intp)[np.argmin(squared[list(start)], axis=0)]
    best = np.where(inside, np.inf, squared[list(start)].min(axis=0))
    for _ in range(len(squared) - len(start)):
        new = int(np.argmin(best))
        edges.append((int(nearest[new]), new))
        inside[new] = True
        best[new] = np.inf
        nearer = (squared[new] < best) & ~inside
        nearest[nearer] = new
        best[nearer] = squared[new][nearer]
    return _walk("path" if len(start) > 1 else "spanning tree", start, edges, len(squared))


def orthogonal_walk(squared: Floats, walk: Walk) -> Floats:
    """Return the squared distances if every step of the walk stood at right angles to the others.

    D²(i, j) is then the sum of the squared steps on the path between i and j.

    Args:
        squared: (..., N, N); only the steps of the walk are read.

    Returns:
        (..., N, N) float64.
    """
    return _path_sums(squared[..., walk.edges[:, 0], walk.edges[:, 1]], walk)


def unrelated_walks(squared: Floats, walk: Walk) -> Floats:
    """Return `orthogonal_walk`, and the same when each model also has a change of its own.

    Fine-tunes of a base that is not in the set are the common case: the steps between them turn
    back, by what each has to itself. The mean product of the steps that meet in model i, where
    negative, is −u_i; the steps between lose u_i + u_j, and D²(i, j) = path + u_i + u_j. The
    two are equal when no step turns back.

    Args:
        squared: (N, N).

    Returns:
        (2, N, N) float64.
    """
    own = _own_changes(squared, walk)
    a, b = walk.edges.T
    steps = squared[a, b]
    both = _path_sums(np.stack([steps, np.maximum(steps - own[a] - own[b], 0.0)]), walk)
    both[1] += own[:, None] + own[None, :]
    np.fill_diagonal(both[1], 0.0)
    return both


@dataclass(frozen=True)
class PathSquares:
    """The squared distances along a path of m + 1 models that its figures need.

    They add over layers, so the figures of any group of layers follow from sums of these.

    Attributes:
        steps: (..., m) from each model to the next.
        leaps: (..., m − 1) over each inner model, from the one before it to the one after.
        direct: (...) from the first model to the last.
    """

    steps: Floats
    leaps: Floats
    direct: Floats

    @classmethod
    def along(cls, squared: Floats, order: Sequence[int]) -> PathSquares:
        """Return those of (..., N, N) squared distances along model numbers; NaN where missing."""
        o = np.asarray(order, dtype=np.intp)
        return cls(
            steps=squared[..., o[:-1], o[1:]],
            leaps=squared[..., o[:-2], o[2:]],
            direct=squared[..., o[0], o[-1]],
        )

    def coherence(self) -> Floats:
        """Return (D_end² − Σs²)/((Σs)² − Σs²): 0 at right angles, 1 for a straight line.

        Below 0 the steps turn back. (...) float64 without unit; NaN below two steps that have a
        length, and where a value is missing.
        """
        squares = self.steps.sum(axis=-1)
        room = np.square(np.sqrt(self.steps).sum(axis=-1)) - squares
        return _quotient(self.direct - squares, room, room > 1e-12 * squares)

    def turn_cosines(self) -> Floats:
        """Return the cosine between the step into and the step out of each inner model.

        1 is straight on, 0 a right angle, −1 back. (..., m − 1) float64, within −1 to 1 up to
        the noise of the distances; NaN beside a step of length 0 or a missing value.
        """
        into, out = self.steps[..., :-1], self.steps[..., 1:]
        lengths = 2.0 * np.sqrt(into * out)
        return _quotient(self.leaps - into - out, lengths, lengths > 0)


def edge_turns(squared: Floats, walk: Walk) -> Floats:
    """Return, for each edge of the walk, the cosine with the edge that leads into it.

    (N−1,) float64, NaN for edges from the first model.
    """
    source, target = walk.edges.T
    before = walk.parents[source]
    first = before < 0
    before = np.where(first, source, before)
    squares = PathSquares(
        steps=np.stack([squared[before, source], squared[source, target]], axis=-1),
        leaps=squared[before, target][:, None],
        direct=squared[before, target],
    )
    return np.where(first, np.nan, squares.turn_cosines()[:, 0])


def same_edges(one: Walk, other: Walk) -> bool:
    """Return whether two walks over the same models take the same steps, in any direction."""
    first, second = ({frozenset(edge) for edge in w.edges.tolist()} for w in (one, other))
    return first == second


def step_products(squared: Floats, order: Sequence[int]) -> Floats:
    """Return the (m, m) inner products of the m steps of a path.

    ⟨a−c, b−d⟩ = ½(D²(a,d) + D²(b,c) − D²(a,b) − D²(c,d)), in squared units of the distance.
    """
    o = np.asarray(order, dtype=np.intp)
    a, b = o[:-1], o[1:]
    products = squared[np.ix_(a, b)] + squared[np.ix_(b, a)]
    return np.asarray(
        0.5 * (products - squared[np.ix_(a, a)] - squared[np.ix_(b, b)]), dtype=np.float64
    )


def _quotient(part: Floats, whole: Floats, defined: npt.NDArray[np.bool_]) -> Floats:
    return np.where(defined, part / np.where(defined, whole, 1.0), np.nan)


def _walk(kind: str, order: tuple[int, ...], edges: list[tuple[int, int]], n: int) -> Walk:
    outward = np.array(edges, dtype=np.intp).reshape(-1, 2)
    parents = np.full(n, -1, dtype=np.intp)
    parents[outward[:, 1]] = outward[:, 0]
    return Walk(kind, order, outward, parents)


def _visit(tree: Walk, start: Sequence[int]) -> list[tuple[int, int]]:
    """Return the edges of the tree outward: those along `start` first, then breadth first."""
    around: list[list[int]] = [[] for _ in tree.parents]
    for a, b in tree.edges.tolist():
        around[a].append(b)
        around[b].append(a)
    edges, visited, queue = list(pairwise(start)), set(start), list(start)
    for model in queue:
        for other in around[model]:
            if other not in visited:
                visited.add(other)
                edges.append((model, other))
                queue.append(other)
    return edges


def _trunk(tree: Walk, squared: Floats) -> tuple[int, ...]:
    def farthest(start: int) -> list[int]:
        length, before = np.zeros(len(squared)), {start: -1}
        for a, b in _visit(tree, [start]):
            length[b] = length[a] + np.sqrt(squared[a, b])
            before[b] = a
        path = [int(np.argmax(length))]
        while before[path[-1]] >= 0:
            path.append(before[path[-1]])
        return path[::-1]

    trunk = farthest(farthest(0)[-1])
    if len(trunk) > 1 and squared[trunk[0], trunk[1]] < squared[trunk[-2], trunk[-1]]:
        trunk.reverse()
    return tuple(trunk)


def _path_sums(steps: Floats, walk: Walk) -> Floats:
    """Return (..., N, N) sums of the (..., N−1) `steps` along the paths of the tree."""
    # row i marks the steps on the way from the first model to i
    ways = np.zeros((len(walk.parents), steps.shape[-1]))
    for number, (before, model) in enumerate(walk.edges.tolist()):
        ways[model] = ways[before]
        ways[model, number] = 1.0
    shared = (ways * steps[..., None, :]) @ ways.T
    depth = np.diagonal(shared, axis1=-2, axis2=-1)
    sums = depth[..., :, None] + depth[..., None, :] - 2.0 * shared
    return np.asarray(np.maximum(sums, 0.0), dtype=np.float64)


def _own_changes(squared: Floats, walk: Walk) -> Floats:
    # The product of two outward steps of model i is ½(D²(i,a) + D²(i,b) − D²(a,b)); its mean
    # over the pairs of neighbours, where positive, is the square of what i has to itself.
    both = np.concatenate([walk.edges, walk.edges[:, ::-1]])
    model, neighbour = both.T
    count = np.bincount(model, minlength=len(squared))
    to = np.bincount(model, weights=squared[model, neighbour], minlength=len(squared))
    near = np.zeros_like(squared)
    np.add.at(near, model, squared[neighbour])
    between = np.bincount(model, weights=near[model, neighbour], minlength=len(squared))
    pairs = count * (count - 1) / 2
    products = 0.5 * (count - 1) * to - 0.25 * between
    return np.where(pairs > 0, np.maximum(products, 0.0) / np.maximum(pairs, 1.0), 0.0)
