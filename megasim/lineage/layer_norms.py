"""What the norms of single layers tell of two models: whether they are related, and who grew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from megasim.lineage.inner_products import Floats
from megasim.matrix.distance_matrix import LayerMatrices

# Model → canonical key → L2 of its tensor.
NormsByLayer = Mapping[str, Mapping[str, float]]


def cosines_by_elements(layers: LayerMatrices, norms: NormsByLayer) -> Floats:
    """Return (N, N) the cosines of the weights of models, in which every element counts alike.

    The mean over layers of (‖a‖² + ‖b‖² − D²) / 2‖a‖‖b‖, weighted by their elements; NaN where no
    layer is known. In the cosine of all weights, layers count by their squared norms. So gains
    of norms near 1 and running variances, which are alike in any two models of one architecture,
    can outweigh all matrices: there are few of them, but they are large.
    """
    count = len(layers.models)
    total, weight = np.zeros((count, count)), np.zeros((count, count))
    for k, key in enumerate(layers.keys):
        size = _norms_of(layers, norms, key)
        with np.errstate(invalid="ignore", divide="ignore"):
            squares = size[:, None] ** 2 + size**2 - np.square(layers.values[k])
            cosine = squares / (2 * np.outer(size, size))
        known = np.isfinite(cosine)
        total += np.where(known, layers.numels[k] * cosine, 0.0)
        weight += np.where(known, layers.numels[k], 0)
    unknown = np.full(total.shape, np.nan)
    return np.asarray(np.divide(total, weight, out=unknown, where=weight > 0))


def growth_by_layer(
    layers: LayerMatrices, norms: NormsByLayer, a: int, b: int, fewest: int
) -> tuple[Floats, Floats]:
    """Return (‖b‖² − ‖a‖²) / ‖b − a‖² of each layer that differs, and its elements.

    Args:
        a, b: places of two models.
        fewest: layers of less elements are left out.
    """
    growth, elements = [], []
    first, second = norms[layers.models[a]], norms[layers.models[b]]
    for key, numel, length in zip(
        layers.keys, layers.numels.tolist(), layers.values[:, a, b].tolist(), strict=True
    ):
        if numel >= fewest and length > 0 and key in first and key in second:
            growth.append((second[key] ** 2 - first[key] ** 2) / length**2)
            elements.append(numel)
    return np.array(growth), np.array(elements, dtype=np.float64)


def growth_log_odds(
    growth: Floats | Sequence[float], elements: Floats | None, width: float
) -> float:
    """Return how much more likely a growth is of a step from a to b than of one from b to a.

    A step that is unrelated to where the model stands adds its square to the squared norm: its
    growth is +1, seen from its start, and −1 seen from its end. Weight decay, and a direction that
    the training finds along the weights themselves, add what may be many times as much, of either
    sign. So deviations are taken for Cauchy's, by whose law a growth far from both tells nothing:
    log (1 + ((g + 1) / w)²) / (1 + ((g − 1) / w)²), the mean over layers by their elements.

    >>> [round(growth_log_odds([g], None, 0.5), 2) for g in (1.0, 0.0, -1.0, 100.0)]
    [2.83, 0.0, -2.83, 0.04]
    """
    g = np.asarray(growth, dtype=np.float64)
    if not len(g):
        return 0.0
    ratio = np.log((1 + ((g + 1) / width) ** 2) / (1 + ((g - 1) / width) ** 2))
    return float(np.average(ratio, weights=elements))


def _norms_of(layers: LayerMatrices, norms: NormsByLayer, key: str) -> Floats:
    return np.array([norms.get(model, {}).get(key, np.nan) for model in layers.models])
