"""How unlikely it is that one model of a pair is one training away from the other."""

from __future__ import annotations

import numpy as np

from megasim.lineage.inner_products import Floats
from megasim.matrix import LayerMatrices

SAME_LAYER = 1e-8
# How a layer counts by its elements: 1 each for itself, 0 all layers alike.
LAYER_SIZE = 0.7
# What all elements left untouched count beside the mean log D² of the layers.
UNTOUCHED = 2.0
# The share of elements all models must have for these to be counted.
NEARLY_ALL = 0.999
# E|x| of a standard normal variable, and what its square excess counts as negentropy.
NORMAL_L1 = float(np.sqrt(2 / np.pi))
NEGENTROPY = 1 / (2 - 6 / np.pi)


def step_costs(
    squared: Floats,
    layers: LayerMatrices | None = None,
    l1: LayerMatrices | None = None,
    changed: Floats | None = None,
) -> Floats:
    """Return the (N, N) cost of every edge of a tree.

    If every layer of a child differs from its parent by noise of unknown size, the likeliest
    tree is the one of least entropy: the minimum spanning tree of Σ P log (D² e⁻²ᴶ), P being
    the independent directions of the layer and J the negentropy of its elements. D² e⁻²ᴶ is the
    entropy power, and that of the sum of two independent steps is at least the sum of theirs
    (Shannon, 1948): two trainings together cost more than either. Steps move along fewer
    directions than there are elements, so for P elements P^0.7 are taken.

    A layer left untouched says most; and so do elements: a parent shares with its child those
    that one training left untouched, a grandparent only those that two did. Without layers this
    is log D², with the same tree as D itself.

    Args:
        squared: (N, N) squared distances.
        layers: L2 by layer of the same models.
        l1: the L1 of the same layers, by which J is told; 0 where not known.
        changed: (N, N) how many elements differ; counted where layers tell of how many.
    """
    values: Floats = squared[None]
    sizes: Floats = np.ones(1)
    surprise = np.zeros((1, *squared.shape))
    untouched = np.zeros(squared.shape)
    if layers is not None:
        known = np.isfinite(layers.values).all(axis=(1, 2)) & (layers.numels > 0)
        if known.any():
            values = np.square(layers.values[known])
            sizes = np.float_power(layers.numels[known], LAYER_SIZE)
            surprise = np.zeros(values.shape) if l1 is None else negentropies(layers, l1)[known]
        elements = layers.numels.sum()
        in_all = layers.numels[known].sum() >= NEARLY_ALL * elements
        if changed is not None and in_all and np.isfinite(changed).all():
            untouched = 1 - changed / elements
    cost = np.zeros(squared.shape)
    for d2, size, negentropy in zip(values, sizes, surprise, strict=True):
        apart = d2[np.triu(d2 > 0, 1)]
        if apart.size:
            relative = np.maximum(d2 / np.median(apart), SAME_LAYER)
            cost += size * (np.log(relative) - 2 * negentropy)
    return np.asarray(cost / sizes.sum() - UNTOUCHED * untouched)


def negentropies(layers: LayerMatrices, l1: LayerMatrices) -> Floats:
    """Return (K, N, N) how far the elements of each difference are from the commonest form.

    J = (E|x|/σ − √(2/π))² / (2 − 6/π), Hyvärinen's approximation (1998) for the mean absolute
    value, with E|x|/σ = L1 / (L2 √P). It measures the distance from a normal distribution; but
    elements of a layer are not equally free to move, so that also many steps together are not
    normal. Their form is taken from the models themselves: the median over all pairs, most of
    which lie many steps apart, stands for √(2/π). A single training differs from it both ways:
    a short one moves all elements alike, an update of low rank or one nearly done only some.

    Where L1 is not known, or nothing differs, J is 0.
    """
    found = np.zeros(layers.values.shape)
    at = {key: k for k, key in enumerate(l1.keys)}
    for k, (key, numel) in enumerate(zip(layers.keys, layers.numels.tolist(), strict=True)):
        if key not in at:
            continue
        l2 = layers.values[k] * np.sqrt(numel)
        told = (l2 > 0) & (l1.values[at[key]] > 0)
        if told.any():
            mean = l1.values[at[key]][told] / l2[told]
            excess = NORMAL_L1 * (mean / np.median(mean) - 1)
            found[k][told] = NEGENTROPY * np.square(excess)
    return found
