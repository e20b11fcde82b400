"""Norms of models of which only distances are known, as far as these imply them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform

from megasim.errors import printable
from megasim.lineage.inner_products import Floats
from megasim.lineage.settings import SETTINGS, LineageSettings
from megasim.matrix.distance_matrix import DistanceMatrix


@dataclass(frozen=True)
class ImpliedNorms:
    """Norms that the distances between families imply.

    Attributes:
        norms: model → L2 of its weights.
        families: how many there are at right angles to each other.
        error: the largest relative deviation of a squared distance between families from
            nᵢ² + nⱼ²; a cosine between models of equal norms is off by as much at most.
    """

    norms: Mapping[str, float]
    families: int
    error: float

    def sentence(self) -> str:
        """Return what is known, from what, and what else would look the same."""
        count = len(self.norms)
        some = ", ".join(printable(name, 40) for name in sorted(self.norms)[:2])
        return (
            f"the norms of {count} models ({some} …) are not known; their distances imply them: "
            f"{self.families} families stand at right angles, within {100 * self.error:.1f} % of "
            "D² = n² + m²; models trained, each by itself, from one that is not here would too"
        )


def implied_norms(
    matrix: DistanceMatrix, known: Mapping[str, float], settings: LineageSettings = SETTINGS
) -> ImpliedNorms | None:
    """Return the norms of the models without one, or None where their distances imply none.

    Unrelated models stand at right angles, so between families D²(i, j) = nᵢ² + nⱼ². With three
    families and more pairs than norms, least squares gives the norms, and the residual tells
    whether it is so. The families are not known either: the finest cut of the tree of the nearest
    distances that fits is taken.

    Models of one family can look alike, seen from their base: steps that have nothing in common
    stand at right angles too. Where the base is there, its "norm" is next to nothing beside
    theirs; so norms must be of one scale. And models of a family must stand out by a cosine that
    unrelated ones have not: where all models are as far from each other, they may as well be one
    family whose base is not here, and nothing is implied.

    Args:
        known: model → L2 of its weights, of those where it is known: left out.
    """
    without = [name for name in matrix.models if name not in known]
    if len(without) < settings.fewest_implied:
        return None
    part = matrix.subset(without).largest_complete()
    squared = part.squared()
    if (
        len(squared) < settings.fewest_implied
        or not squared[np.triu_indices(len(squared), 1)].all()
    ):
        return None
    merged = linkage(squareform(part.values, checks=False), "single")
    for count in range(min(len(squared) - 1, settings.most_families), 2, -1):
        family = fcluster(merged, count, "maxclust")
        fitted = _fit(squared, family)
        if fitted is None:
            continue
        of_squares, error, spare = fitted
        if error > settings.right_angle or spare < settings.spare_pairs:
            continue
        one_scale = of_squares.min() * settings.same_scale**2 >= of_squares.max()
        if one_scale and _stand_out(squared, of_squares, family, settings):
            norms = dict(zip(part.models, np.sqrt(of_squares).tolist(), strict=True))
            return ImpliedNorms(norms, int(family.max()), error)
    return None


def _fit(squared: Floats, family: npt.NDArray[np.int32]) -> tuple[Floats, float, int] | None:
    """Return squared norms, the largest relative residual, and how many pairs were to spare.

    Least squares of (nᵢ² + nⱼ²) / D²(i, j) − 1 over the pairs of different families.
    """
    between = family[:, None] != family
    spare = int(between.sum()) // 2 - len(squared)
    if spare < 1 or family.max() < 3:
        return None
    weight = np.divide(1.0, squared, out=np.zeros(squared.shape), where=between)
    normal = weight**2 + np.diag((weight**2).sum(axis=1))
    try:
        found = np.linalg.solve(normal, weight.sum(axis=1))
    except np.linalg.LinAlgError:
        return None
    residual = np.abs((found[:, None] + found) * weight - 1)[between]
    return found, float(residual.max()), spare


def _stand_out(
    squared: Floats, of_squares: Floats, family: npt.NDArray[np.int32], settings: LineageSettings
) -> bool:
    """Return whether the cosines of the models join those of each family, and no others."""
    sums = of_squares[:, None] + of_squares
    cosine = (sums - squared) / (2 * np.sqrt(np.outer(of_squares, of_squares)))
    count, joined = connected_components(cosine > settings.related_cosine, directed=False)
    together = joined[:, None] == joined
    return bool(count < len(squared) and (together == (family[:, None] == family)).all())
