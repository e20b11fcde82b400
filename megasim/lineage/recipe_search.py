"""The least squares of recipes: weights of given parents, and which models may be parents.

Everything works on a stack of squared distances (B, N, N): B blocks whose weights may differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from megasim.lineage.inner_products import Floats, gram
from megasim.lineage.settings import SETTINGS, LineageSettings
from megasim.matrix.distance_matrix import LayerMatrices


@dataclass(frozen=True)
class WeightFit:
    """The least-squares weights of k parents, block by block.

    Attributes:
        weights: (B, k), each row sums to 1; NaN where the parents of a block do not differ.
        residual: (B,) squared distance from the model to the weighted sum.
        inverse: (B, k − 1, k − 1) inverse Gram matrix of the parents about the first.
    """

    weights: Floats
    residual: Floats
    inverse: Floats


@dataclass(frozen=True)
class Candidate:
    """A set of parents and the squared distance they leave, summed over the blocks."""

    parents: tuple[int, ...]
    residual: float
    weights: tuple[float, ...]


def fit_weights(
    squared: Floats, model: int, parents: Sequence[int], settings: LineageSettings = SETTINGS
) -> WeightFit:
    """Return the weights, summing to 1, that bring Σ wᵢ pᵢ nearest to the model.

    With u = p − p₁ and m' = m − p₁ the weights of all but the first parent solve
    ⟨u, u⟩ w = ⟨u, m'⟩, and both sides follow from squared distances.

    >>> line = np.square(np.subtract.outer([0.0, 1.0, 4.0], [0.0, 1.0, 4.0]))[None]
    >>> fit_weights(line, 1, [0, 2]).weights.round(6).tolist()
    [[0.75, 0.25]]
    """
    others = list(parents[1:])
    products = gram(squared, parents[0])
    inner = products[:, others][:, :, others]
    toward = products[:, others, model]
    spread = np.einsum("bii->bi", inner).max(axis=1, initial=0.0)
    inverse = np.linalg.pinv(inner, rcond=settings.dependent, hermitian=True)
    w = np.einsum("bij,bj->bi", inverse, toward)
    residual = squared[:, parents[0], model] - np.einsum("bi,bi->b", w, toward)
    weights = np.concatenate([1 - w.sum(axis=1, keepdims=True), w], axis=1)
    if others:
        weights[spread <= 0] = np.nan
    return WeightFit(weights, np.maximum(residual, 0.0), np.asarray(inverse, dtype=np.float64))


def dependent_parent(squared: Floats, parents: Sequence[int], noise: float) -> int | None:
    """Return a parent that is a weighted sum of those before it, or None.

    Args:
        squared: (N, N) squared distances.
        noise: a squared distance that is none.
    """
    for count in range(2, len(parents)):
        if fit_weights(squared[None], parents[count], parents[:count]).residual[0] <= noise:
            return parents[count]
    return None


def least_residual(squared: Floats, model: int, pool: Iterable[int]) -> float:
    """Return the squared distance that even all models of `pool` together leave, block by block.

    No set of parents out of the pool leaves less.
    """
    first, *others = sorted(set(pool) - {model})
    products = gram(squared, first)
    inner = products[:, others][:, :, others]
    toward = products[:, others, model]
    ridge = (1e-9 * np.einsum("bii->b", inner) + 1e-200)[:, None, None] * np.eye(len(others))
    w = np.linalg.solve(inner + ridge, toward[..., None])[..., 0]
    left = squared[:, first, model] - np.einsum("bi,bi->b", w, toward)
    return float(np.maximum(left, 0.0).sum())


def hull_distances(squared: Floats) -> Floats:
    """Return (N,) squared distances of each point from the affine hull of all others.

    It is the reciprocal of the point's diagonal entry in the pseudo-inverse of the centred
    −½ D². What rounding leaves below zero of its eigenvalues is taken for zero, and each has a
    ridge of 1e-9 of the largest distance, so that a point inside the hull is reported as very near.

    Args:
        squared: (N, N) squared distances; all zero gives zeros.

    >>> hull_distances(np.array([[0.0, 1, 1], [1, 0, 4], [1, 4, 0]])).round(6).tolist()
    [0.0, 0.0, 0.0]
    """
    n, scale = len(squared), float(squared.max())
    if not scale > 0:
        return np.zeros(n)
    centred = squared - squared.mean(axis=0) - squared.mean(axis=1, keepdims=True) + squared.mean()
    # The row of ones, along which nothing varies, is made the last eigenvector and left out.
    values, vectors = np.linalg.eigh(-centred / (2 * scale) + np.full((n, n), 2.0))
    inverse = 1 / (np.maximum(values[:-1], 0.0) + 1e-9)
    return np.asarray(scale / (np.square(vectors[:, :-1]) @ inverse))


def near_copies(
    squared: Floats, model: int, settings: LineageSettings = SETTINGS
) -> frozenset[int]:
    """Return the models so near to one that the parents of a merge are far beyond them.

    There must be a gap: all of them are within a tenth of the distance to the next model. At
    least two models are beyond.

    >>> line = np.square(np.subtract.outer([0, 0.1, 50, -50], [0, 0.1, 50, -50]))
    >>> near_copies(line, 0)
    frozenset({1})
    """
    row = squared[model]
    order = sorted((i for i in range(len(row)) if i != model), key=lambda i: (row[i], i))
    for count in range(len(order) - 2, 0, -1):
        if row[order[count - 1]] <= settings.near_copy * row[order[count]]:
            return frozenset(order[:count])
    return frozenset()


def explainable(
    squared: Floats, layers: LayerMatrices | None, settings: LineageSettings = SETTINGS
) -> list[int]:
    """Return the models of which all others together leave little: what may be a merge.

    Near-copies of a model are left aside: they leave less than its parents do.
    """
    everything = list(range(len(squared)))
    copies = {i: near_copies(squared, i, settings) for i in everything}
    found: list[int] = []
    for aside in sorted(set(copies.values()), key=sorted):
        own = [i for i in everything if copies[i] == aside]
        at = [i for i in everything if i not in aside]
        part = None if layers is None else layers.subset([layers.models[i] for i in at])
        inside = _explained(squared[at][:, at], part, settings)
        found += [i for i in own if at.index(i) in inside]
    return sorted(found)


def _explained(
    squared: Floats, layers: LayerMatrices | None, settings: LineageSettings
) -> set[int]:
    """Return the models of which all others leave little, as a whole, by block or by tensor.

    Any is enough: where many models stand on one line, single blocks are all noise. What blocks
    leave adds up, so the search ends when nobody is left that may still be explained.
    """
    n = len(squared)
    if n < 3:
        return set()
    stacks = [squared[None]]
    if layers is not None:
        known = np.isfinite(layers.values).all(axis=(1, 2))
        blocks, d2 = np.array(layers.blocks)[known], np.square(layers.values[known])
        stacks.append(np.array([d2[blocks == name].sum(axis=0) for name in np.unique(blocks)]))
        stacks.append(d2)
    allowed = settings.explainable * (squared + np.diag(np.full(n, np.inf))).min(axis=1)
    explained = np.zeros(n, dtype=bool)
    for stack in stacks:
        left = np.full(n, 0.0 if len(stack) else np.inf)
        # the longest changes leave most
        for i in np.argsort(-stack.sum(axis=(1, 2)), kind="stable") if len(stack) else ():
            if (explained | (left > allowed)).all():
                break
            left += hull_distances(stack[i])
        explained |= left <= allowed
    return set(np.flatnonzero(explained).tolist())


def hull_ends(
    squared: Floats, noise: Callable[[int, Sequence[int]], float], kept: Sequence[int] = ()
) -> list[int]:
    """Return the points that are no weighted sum, all weights ≥ 0, of the others returned.

    These are the corners of the convex hull: what lies inside is left out one point after the
    other, the innermost first, while what is left still explains it.

    Args:
        squared: (N, N) squared distances.
        noise: (point, others) → the squared distance from a sum of those that is none.
        kept: points that are returned whatever explains them.

    >>> line = np.square(np.subtract.outer([0.0, 1.0, 4.0], [0.0, 1.0, 4.0]))
    >>> hull_ends(line, lambda point, others: 1e-6)
    [0, 2]
    """
    n = len(squared)
    ends = list(range(n))
    flat = hull_distances(squared)
    everything = {i: noise(i, ends) for i in ends}
    inner = [i for i in ends if i not in kept and flat[i] <= everything[i]]
    if n < 3 or not inner:
        return ends
    # Coordinates in which all distances are as given, about the mean of all points.
    centred = squared - squared.mean(axis=0) - squared.mean(axis=1, keepdims=True) + squared.mean()
    values, vectors = np.linalg.eigh(-centred / 2)
    points = vectors * np.sqrt(np.maximum(values, 0.0))
    # The row of equal numbers makes the weights sum to 1.
    heavy = 1e3 * float(np.sqrt(squared.max()))
    system = np.vstack([points.T, np.full(n, heavy)])
    for i in sorted(inner, key=lambda i: (float(squared[i].sum()), i)):
        rest = [j for j in ends if j != i]
        weights, _ = nnls(system[:, rest], system[:, i])
        used = [j for j, w in zip(rest, weights, strict=True) if w > 0]
        left = float(np.square(points[i] - weights @ points[rest]).sum())
        if len(used) > 1 and left <= noise(i, used):
            ends.remove(i)
    return ends


def natural(
    weights: npt.NDArray[np.float64], settings: LineageSettings = SETTINGS
) -> npt.NDArray[np.bool_]:
    """Return which rows of (…, k) weights a person would merge by.

    A weighted sum, or from three parents on an add-difference a + k(b − c): one negative
    weight, of size 1 at most. Two parents of which one is negative say that the other parent
    lies between, so it is the merge.
    """
    negative = weights < settings.not_negative
    count = negative.sum(axis=-1)
    allowed = weights.shape[-1] >= 3
    within = weights.min(axis=-1) >= settings.most_negative
    return np.asarray((count == 0) | (allowed & (count == 1) & within))
