"""Which layers of a model are layers of another, whatever their numbers, trained since or not.

Two layers are tested as two models are (`megasim.estimate.kinship`): the hidden units of either
stand in an order that nothing but a common origin gives, and layers of one model have as little in
common as unrelated models. So each layer of a model is tested against each of another, with no file
read, and the likeliest origin of each makes up the runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from megasim.anatomy.hidden_units import HiddenUnits, hidden_units
from megasim.estimate.kinship import ERROR_RATE, norms_test
from megasim.estimate.layer_runs import LayerRun, layer_runs
from megasim.estimate.layouts import same_norms
from megasim.estimate.profiles import MatrixProfile
from megasim.fingerprint.profile import Norms
from megasim.words import Axis

# The chance that any layer of a model is given an origin that it does not have: a thousand pairs of
# models asked about together stay within the error rate.
_ERROR_RATE = ERROR_RATE / 1000
# Layers that stand in the correlation of their units so near to the best may be the origin as well:
# a model may hold a layer twice.
_AS_NEAR = 0.02

# Prefix of a list of layers → number → key within the layer → profile.
_Lists = Mapping[str, Mapping[int, Mapping[str, MatrixProfile]]]


@dataclass(frozen=True)
class LayerOrigins:
    """Where the layers of a model stand in another.

    Attributes:
        runs: in the order of the layers.
        layers: how many layers could be tested, those without an origin among them.
        correlation: the least of the origins found.
        equal: whether all norms of these layers are those of their origins.
    """

    runs: tuple[LayerRun, ...]
    layers: int
    correlation: float
    equal: bool

    @property
    def moved(self) -> bool:
        """Whether a layer has another number there."""
        return any(run.start != run.first for run in self.runs)

    @property
    def found(self) -> int:
        """How many layers have an origin."""
        return sum(run.count for run in self.runs)


def layer_origins(
    model: Mapping[str, MatrixProfile], other: Mapping[str, MatrixProfile], name: str
) -> LayerOrigins | None:
    """Return where the layers of a model stand in another; None where none can be tested.

    The chance that any layer is given an origin that it does not have is at most 10⁻⁵. Of
    several lists of layers, as of an encoder and a decoder, the longest is asked about.

    Args:
        name: of the other model.
    """
    lists, other_lists = _numbered(model), _numbered(other)
    error_rate = _ERROR_RATE / max(len(lists) * len(other_lists), 1)
    for prefix in sorted(lists, key=lambda p: (-len(lists[p]), p)):
        for theirs in sorted(other_lists, key=lambda p: (p != prefix, -len(other_lists[p]), p)):
            found = _origins(lists[prefix], other_lists[theirs], name, error_rate)
            if found is not None:
                return found
    return None


def _numbered(profiles: Mapping[str, MatrixProfile]) -> _Lists:
    found: dict[str, dict[int, dict[str, MatrixProfile]]] = defaultdict(lambda: defaultdict(dict))
    for key, profile in profiles.items():
        parts = key.split(".")
        for place, part in enumerate(parts):
            if part.isdecimal() and part.isascii():
                within = ".".join(parts[place + 1 :])
                found[".".join(parts[:place])][int(part)][within] = profile
                break
    return found


def _origins(
    layers: Mapping[int, Mapping[str, MatrixProfile]],
    others: Mapping[int, Mapping[str, MatrixProfile]],
    name: str,
    error_rate: float,
) -> LayerOrigins | None:
    sets = {number: _units(layer) for number, layer in layers.items()}
    other_sets = {number: _units(layer) for number, layer in others.items()}
    common = {units for units in sets.values() if units} & set(other_sets.values())
    whole: dict[int, list[tuple[str, int]]] = {}
    least, tested = 1.0, 0
    for units in sorted(common):
        mine = sorted(n for n, own in sets.items() if own == units)
        theirs = sorted(n for n, own in other_sets.items() if own == units)
        held = [layers[n] for n in mine] + [others[n] for n in theirs]
        norms = [np.stack([_norms(layer, one) for layer in held]) for one in units]
        test = norms_test([str(i) for i in range(len(held))], norms)
        related = test.related(error_rate / len(common), len(mine) * len(theirs))
        tested += len(mine)
        for i, number in enumerate(mine):
            row = test.correlation[i, len(mine) :]
            best = float(np.max(row))
            near = [
                (name, theirs[j])
                for j in range(len(theirs))
                if related[i, len(mine) + j] and row[j] >= best - _AS_NEAR
            ]
            if near:
                whole[number] = near
                least = min(least, best)
    if not whole:
        return None
    runs = tuple(layer_runs(whole))
    equal = all(
        _is_same(layers[run.first + i], others[run.start + i])
        for run in runs
        for i in range(run.count)
    )
    return LayerOrigins(runs, tested, least, equal)


def _units(layer: Mapping[str, MatrixProfile]) -> tuple[HiddenUnits, ...]:
    shapes = {
        key: (len(rows), len(columns))
        for key, (rows, columns) in layer.items()
        if rows is not None and columns is not None
    }
    return tuple(hidden_units(shapes))


def _norms(layer: Mapping[str, MatrixProfile], units: HiddenUnits) -> Norms:
    """Return (axes, units) norms relative to the mean of their axis."""
    found = []
    for key, axis, start in units.axes:
        side = layer[key].rows if axis == Axis.ROWS else layer[key].columns
        assert side is not None  # `_units` names no other
        mean = float(np.sqrt(np.mean(np.square(side)))) or 1.0
        found.append(side[start : start + units.size] / mean)
    return np.array(found).astype(np.float16)


def _is_same(layer: Mapping[str, MatrixProfile], other: Mapping[str, MatrixProfile]) -> bool:
    return layer.keys() == other.keys() and all(
        (mine is None and its is None)
        or (mine is not None and its is not None and same_norms(mine, its))
        for key in layer
        for mine, its in zip(layer[key], other[key], strict=True)
    )
