"""Which numbered layers of the models of a store hold the very same numbers, by their hashes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

import networkx as nx

from megasim.lineage.settings import SETTINGS, LineageSettings
from megasim.store.rows import Store

_NUMBERED = re.compile(r"^layer (\d+)$")

# Place in the layer, hash of the numbers, how many there are.
_Tensor = tuple[str, str, int]

# Model → number of a layer → its class: layers of one class hold the same numbers.
LayerClasses = Mapping[str, Mapping[int, int]]


def equal_layers(store: Store, settings: LineageSettings = SETTINGS) -> LayerClasses:
    """Return the layers of the models of which some stand under another number elsewhere.

    These models, and those that hold a tensor of their layers; empty where nothing moved. Constant
    tensors do not count: any two layers may hold the same.
    """
    layers: dict[tuple[str, int], set[_Tensor]] = defaultdict(set)
    for model, key, block, digest, numel in store.rows("layers_around_moved_ones"):
        found = _NUMBERED.match(block)
        if found is not None:
            place = _without_number(key, found[1])
            layers[model, int(found[1])].add((place, digest, numel))
    classes = _classes(layers.values(), settings)
    result: dict[str, dict[int, int]] = defaultdict(dict)
    for (model, number), tensors in sorted(layers.items()):
        result[model][number] = classes[frozenset(tensors)]
    return result


def _classes(
    layers: Iterable[set[_Tensor]], settings: LineageSettings
) -> dict[frozenset[_Tensor], int]:
    """Return the class of each layer: of those that have nearly all elements in common one."""
    distinct = sorted({frozenset(tensors) for tensors in layers}, key=sorted)
    sizes = [sum(numel for *_, numel in tensors) for tensors in distinct]
    holders: dict[_Tensor, list[int]] = defaultdict(list)
    for i, tensors in enumerate(distinct):
        for tensor in tensors:
            holders[tensor].append(i)
    shared: dict[tuple[int, int], int] = defaultdict(int)
    for (*_, numel), held in holders.items():
        for place, i in enumerate(held):
            for j in held[place + 1 :]:
                shared[i, j] += numel
    joined: nx.utils.UnionFind[int] = nx.utils.UnionFind(range(len(distinct)))
    for (i, j), numel in shared.items():
        if numel >= settings.same_layer * max(sizes[i], sizes[j]):
            joined.union(i, j)
    return {tensors: joined[i] for i, tensors in enumerate(distinct)}


def _without_number(key: str, number: str) -> str:
    """Return a key without the number of its layer, the first part of the name that is it.

    >>> _without_number("model.layers.3.mlp.3.weight", "3")
    'model.layers.*.mlp.3.weight'
    """
    parts = key.split(".")
    if number in parts:
        parts[parts.index(number)] = "*"
    return ".".join(parts)
