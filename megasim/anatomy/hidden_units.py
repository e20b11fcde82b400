"""Which axes of which keys are one and the same hidden units, told by names and shapes.

The hidden units of a network have no order: permute the rows of the layer that writes them and the
columns of the layer that reads them, and the network is the same. The rules are the table
`data/hidden_units.csv`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from megasim.anatomy.tables import read_table
from megasim.resources import resource_path
from megasim.words import Axis

Shape = tuple[int, ...]

_COLUMNS = ("writes", "reads", "sets", "wide")
# Fewer units than these say too little of each other.
_FEWEST = 16
_WEIGHT = ".weight"


class UnitAxis(NamedTuple):
    """Hidden units on one axis of a key: they begin with its slice number `start`."""

    key: str
    axis: Axis
    start: int


class HiddenUnits(NamedTuple):
    """So many units that nothing outside of the network tells apart, and where they stand."""

    size: int
    axes: tuple[UnitAxis, ...]


class _Rule(NamedTuple):
    writes: tuple[str, ...]
    reads: tuple[str, ...]
    sets: tuple[int, ...]
    wide: bool


def hidden_units(shapes: Mapping[str, Shape]) -> list[HiddenUnits]:
    """Return the hidden units of one component, in the order of the keys that write them.

    Args:
        shapes: the shape of each canonical key of a weight.

    >>> for units in hidden_units({"0.gate_up_proj.weight": (128, 32),
    ...                            "0.down_proj.weight": (32, 64)}):
    ...     print(units.size, [(a.key, str(a.axis), a.start) for a in units.axes])
    64 [('0.gate_up_proj.weight', 'rows', 0), ('0.gate_up_proj.weight', 'rows', 64), \
('0.down_proj.weight', 'columns', 0)]
    """
    matrices = {
        key.removesuffix(_WEIGHT): shape
        for key, shape in shapes.items()
        if key.endswith(_WEIGHT) and len(shape) >= 2
    }
    following = _following(matrices)
    written: dict[tuple[str, int, Axis], list[UnitAxis]] = {}
    for module, shape in matrices.items():
        for rule, reader in _readers(module, matrices, following):
            turned = rule.wide and shape[0] < shape[1]
            own, other = (Axis.COLUMNS, Axis.ROWS) if turned else (Axis.ROWS, Axis.COLUMNS)
            size = shape[1] if turned else shape[0]
            count = matrices[reader][0 if turned else 1]
            if count < _FEWEST or size not in [sets * count for sets in rule.sets]:
                continue
            axes = written.setdefault((reader, count, other), [])
            axes += [UnitAxis(module + _WEIGHT, own, start) for start in range(0, size, count)]
            break
    return [
        HiddenUnits(count, (*axes, UnitAxis(reader + _WEIGHT, axis, 0)))
        for (reader, count, axis), axes in written.items()
    ]


def _readers(
    module: str, matrices: Mapping[str, Shape], following: Mapping[str, str]
) -> Iterator[tuple[_Rule, str]]:
    """Yield what may read the units that a module writes, with the rule that says so."""
    names = module.split(".")
    for rule in _rules().get(names[-1], ()):
        depth = len(rule.writes)
        if tuple(names[-depth:]) == rule.writes:
            reader = ".".join([*names[:-depth], *rule.reads])
            if reader in matrices:
                yield rule, reader
    if module in following:
        yield _rules()["{i}"][0], following[module]


def _following(matrices: Mapping[str, Shape]) -> dict[str, str]:
    """Return module → the module of the next number under the same prefix.

    >>> _following({"net.0": (), "net.10": (), "net.2": (), "out": ()})
    {'net.0': 'net.2', 'net.2': 'net.10'}
    """
    numbered: dict[str, list[tuple[int, str]]] = {}
    for module in matrices:
        prefix, _, number = module.rpartition(".")
        if number.isdecimal() and number.isascii():
            numbered.setdefault(prefix, []).append((int(number), module))
    return {
        first: second
        for found in numbered.values()
        for (_, first), (_, second) in pairwise(sorted(found))
    }


@cache
def _rules() -> dict[str, list[_Rule]]:
    """Return the rules by the last name of the module that writes."""
    found: dict[str, list[_Rule]] = {}
    path = resource_path("data", "hidden_units.csv")
    for row in read_table(path, _COLUMNS, ("writes", "reads")):
        rule = _Rule(
            writes=tuple(row["writes"].split(".")),
            reads=tuple(row["reads"].split(".")),
            sets=row.read("sets", _parse_sets),
            wide=row.read("wide", _parse_yes),
        )
        found.setdefault(rule.writes[-1], []).append(rule)
    return found


def _parse_sets(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in (text or "1").split("|"))


def _parse_yes(text: str) -> bool:
    if text not in ("", "yes"):
        raise ValueError("neither `yes` nor empty")
    return text == "yes"
