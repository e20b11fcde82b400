"""Points out of distances: classical and metric MDS, and what their spectrum says.

Every function takes squared distances, since all of the geometry is linear in them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh
from sklearn.manifold import MDS

from megasim.matrix.distance_matrix import DistanceMatrix, Floats

_ROUNDING = 64 * np.finfo(np.float64).eps  # per model, of the largest eigenvalue


@dataclass(frozen=True)
class Embedding:
    """The points of classical MDS.

    Attributes:
        coordinates: (N, d) float64, centred, in the unit of the distances; axes in order of
            the variance they hold. The sign of an axis is fixed (its largest coordinate is
            positive); two axes of equal variance may still be turned within their plane.
        eigenvalues: (N,) float64 descending, the negative ones included: λ_k is the sum of
            squares along axis k.
    """

    coordinates: Floats
    eigenvalues: Floats


def squared_distances(matrix: DistanceMatrix) -> Floats:
    """Return the (N, N) squared distances that the geometry of `matrix` is made of.

    `cossim` is a similarity, 1 − ½‖û − v̂‖² averaged over unit columns, so 2(1 − cossim) is a
    squared distance. The other metrics are squared as they are; only for l2 are the inner
    products that follow from them those of the weights.
    """
    return squared_values(matrix.values, matrix.metric)


def squared_values(values: Floats, metric: str) -> Floats:
    """Return `squared_distances` of bare numbers of any shape.

    >>> squared_values(np.array([1.0, 0.5]), "cossim")
    array([0., 1.])
    """
    if metric == "cossim":
        return np.asarray(np.maximum(2.0 * (1.0 - values), 0.0), dtype=np.float64)
    return np.asarray(np.square(values), dtype=np.float64)


def spectrum(squared: Floats) -> Floats:
    """Return the eigenvalues of the doubly centred matrix −½JD²J, descending.

    Args:
        squared: (..., N, N) squared distances, none missing.

    Returns:
        (..., N) float64. Values within rounding of 0 are 0.

    >>> spectrum(np.array([[0.0, 1, 4], [1, 0, 1], [4, 1, 0]])).round(9).tolist()
    [2.0, 0.0, 0.0]
    """
    ascending = np.asarray(np.linalg.eigvalsh(_centred(squared)), dtype=np.float64)
    return _without_rounding(ascending[..., ::-1])


def share(eigenvalues: Floats, dimensions: int) -> Floats:
    """Return what the first `dimensions` axes hold of the positive variance, 0 to 1.

    With two dimensions this is the planarity, (λ1+λ2)/Σλ⁺. Leading axes of eigenvalues;
    NaN where nothing is positive (all models identical).
    """
    positive = np.maximum(eigenvalues, 0.0)
    return _ratio(positive[..., :dimensions].sum(axis=-1), positive.sum(axis=-1))


def cumulative_shares(eigenvalues: Floats) -> Floats:
    """Return `share` for 1, 2 … N dimensions: (..., N), rising to 1."""
    positive = np.maximum(eigenvalues, 0.0)
    return _ratio(positive.cumsum(axis=-1), positive.sum(axis=-1, keepdims=True))


def spread(eigenvalues: Floats) -> Floats:
    """Return how many dimensions the variance is spread over: (Σλ⁺)²/Σ(λ⁺)², from 1 up.

    The participation ratio: k for k equal eigenvalues. NaN where nothing is positive.
    """
    positive = np.maximum(eigenvalues, 0.0)
    return _ratio(np.square(positive.sum(axis=-1)), np.square(positive).sum(axis=-1))


def negative_mass(eigenvalues: Floats) -> Floats:
    """Return Σ|λ⁻|/Σλ⁺: 0 for distances between points, more where no points have them.

    For l2 over the same keys it is 0 up to rounding; otherwise pairs cover different keys,
    values are estimates, or the numbers were rounded.
    """
    negative = np.maximum(-eigenvalues, 0.0).sum(axis=-1)
    return _ratio(negative, np.maximum(eigenvalues, 0.0).sum(axis=-1))


def classical_mds(squared: Floats, dimensions: int = 3) -> Embedding:
    """Return the points whose distances are nearest in the sense of Torgerson's scaling.

    `sklearn.manifold.ClassicalMDS` does the same and drops the negative eigenvalues, which
    `negative_mass` needs. An axis without positive variance is 0 throughout.

    Args:
        squared: (N, N) squared distances, none missing.
        dimensions: how many axes; fewer models than that give axes of zeros.

    Source: Borg and Groenen, Modern Multidimensional Scaling, chapter 12.
    """
    values, vectors = eigh(_centred(squared))
    eigenvalues = _without_rounding(values[::-1])
    kept = np.zeros((len(squared), dimensions))
    found = min(dimensions, len(squared))
    kept[:, :found] = vectors[:, ::-1][:, :found] * np.sqrt(np.maximum(eigenvalues[:found], 0.0))
    # + 0.0 turns −0 into 0
    return Embedding(kept * _signs(kept) + 0.0, eigenvalues)


def metric_mds(squared: Floats, start: Floats) -> tuple[Floats, float]:
    """Return the layout of least stress found from `start`, and that stress.

    Args:
        squared: (N, N) squared distances, none missing.
        start: (N, d) where the iteration begins, e.g. the axes of `classical_mds`.

    Returns:
        (N, d) coordinates, and Kruskal's stress-1 = √(Σ(D−d)²/Σd²): 0 fits, above 0.2 is poor.
        A local minimum; iterations are bounded, so that large matrices end in seconds.

    Source: SMACOF, Borg and Groenen, chapter 8; every parameter is given, because the
    defaults of scikit-learn changed in 1.7, 1.8 and 1.9.
    """
    # SMACOF measures its progress on the absolute scale of 1e-5
    scale = float(np.sqrt(squared.mean()))
    if scale == 0.0:
        return np.zeros_like(start), 0.0
    scaling = MDS(
        n_components=start.shape[1],
        metric_mds=True,
        n_init=1,
        init="random",  # overruled by the start below
        max_iter=300 if len(squared) <= 300 else 100,
        verbose=0,
        eps=1e-6,
        n_jobs=1,
        random_state=0,
        metric="precomputed",
        metric_params=None,
        normalized_stress=True,
    )
    layout = scaling.fit_transform(np.sqrt(squared) / scale, init=start / scale)
    return np.asarray(layout * scale, dtype=np.float64), float(scaling.stress_)


def planarity_error(matrix: DistanceMatrix) -> float:
    """Return the standard error of the planarity that the errors of the distances cause.

    To first order, pairs taken as independent: λ_k moves by vᵀ(δB)v, so the planarity p moves
    by −Σ M_ij δ(D²_ij) over the pairs i<j, with M = (Σ_{k≤2} v vᵀ − p Σ_{λ>0} v vᵀ)/Σλ⁺. 0 for
    exact distances. Not included: errors that pairs share, and that noise adds dimensions.
    """
    errors = np.nan_to_num(matrix.errors)
    if not errors.any() or matrix.metric == "cossim":
        return 0.0
    squared = squared_distances(matrix)
    values, vectors = eigh(_centred(squared))
    positive = _without_rounding(values) > 0
    total = values[positive].sum()
    if total <= 0:
        return 0.0
    top = vectors[:, -2:]
    all_positive = vectors[:, positive]
    planarity = values[-2:].clip(min=0).sum() / total
    weights = (top @ top.T - planarity * (all_positive @ all_positive.T)) / total
    moved = np.triu(weights * 2.0 * np.sqrt(squared) * errors, 1)
    return float(np.sqrt(np.square(moved).sum()))


def _centred(squared: Floats) -> Floats:
    rows = squared.mean(axis=-1, keepdims=True)
    columns = squared.mean(axis=-2, keepdims=True)
    centred = -0.5 * (squared - rows - columns + rows.mean(axis=-2, keepdims=True))
    return np.asarray(centred, dtype=np.float64)


def _without_rounding(eigenvalues: Floats) -> Floats:
    floor = _ROUNDING * eigenvalues.shape[-1] * np.abs(eigenvalues).max(axis=-1, keepdims=True)
    return np.where(np.abs(eigenvalues) <= floor, 0.0, eigenvalues)


def _ratio(part: Floats, whole: Floats) -> Floats:
    defined = whole > 0
    return np.where(defined, part / np.where(defined, whole, 1.0), np.nan)


def _signs(axes: Floats) -> Floats:
    # the first of the largest coordinates, so that rounding does not choose among equals
    size = np.abs(axes)
    first = np.argmax(size >= size.max(axis=0) * (1 - 1e-6), axis=0)
    return np.where(axes[first, np.arange(axes.shape[1])] < 0, -1.0, 1.0)
