"""What the norms of single layers tell of two models: whether they are related, and who grew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from megasim.lineage.inner_products import Floats
from megasim.matrix.distance_matrix import LayerMatrices

# Model → canonical key → L2 of its tensor.
NormsByLayer = Mapping[str, Mapping[str, float]]

# A squared norm that changes by so many squared steps tells next to nothing of the direction.
_FAR = 10.0


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


@dataclass(frozen=True)
class NormGrowth:
    """How the norm of the weights changed over a step, taken over the very keys of its length.

    Attributes:
        before, after: squared norms at its two ends.
        squared: the squared length of the step, above 0.
        layers, elements: (after − before) / squared of single layers, and the elements of each;
            empty where none are known.
    """

    before: float
    after: float
    squared: float
    layers: Floats = field(default_factory=lambda: np.zeros(0))
    elements: Floats = field(default_factory=lambda: np.zeros(0))

    @property
    def share(self) -> float:
        """The change of the squared norm over the squared length."""
        return (self.after - self.before) / self.squared

    def turned(self) -> NormGrowth:
        """Return the growth seen from the other end."""
        return NormGrowth(self.after, self.before, self.squared, -self.layers, self.elements)

    def log_odds(self, width: float) -> float:
        """Return how much likelier it is of a step from the first end: see `growth_log_odds`."""
        if len(self.layers):
            return growth_log_odds(self.layers, self.elements, width)
        return growth_log_odds([self.share], None, width)

    def sentence(self) -> str:
        """Return the growth in words; of one that tells next to nothing, only that.

        >>> NormGrowth(100.0, 102.0, 2.0).sentence()
        'squared norm changes by +1 of the squared step'
        >>> NormGrowth(100.0, 81.0, 0.01).sentence()
        'norm 10 → 9, by far more than the step alone would change it'
        """
        if abs(self.share) > _FAR:
            ends = f"norm {np.sqrt(self.before):.4g} → {np.sqrt(self.after):.4g}"
            text = f"{ends}, by far more than the step alone would change it"
        else:
            text = f"squared norm changes by {self.share:+.3g} of the squared step"
        if len(self.layers) and abs(median := float(np.median(self.layers))) <= _FAR:
            text += f"; in the median layer by {median:+.3g} of its squared step"
        return text


def growth_by_layer(
    layers: LayerMatrices, norms: NormsByLayer, a: int, b: int, fewest: int
) -> NormGrowth | None:
    """Return how the norm grew from a to b over the layers that differ; None where none is known.

    Args:
        a, b: places of two models.
        fewest: layers of less elements do not count by themselves.
    """
    first, second = norms[layers.models[a]], norms[layers.models[b]]
    known = [
        (first[key] ** 2, second[key] ** 2, length**2, numel)
        for key, numel, length in zip(
            layers.keys, layers.numels.tolist(), layers.values[:, a, b].tolist(), strict=True
        )
        if length > 0 and key in first and key in second
    ]
    if not known:
        return None
    before, after, squared, elements = np.array(known, dtype=np.float64).T
    large = elements >= fewest
    grown = ((after - before) / squared)[large]
    return NormGrowth(
        float(before.sum()), float(after.sum()), float(squared.sum()), grown, elements[large]
    )


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
