"""What the numbers under each key are for: learned weights, statistics, counters, ….

A distance between two models is one of their weights; a step counter that differs by 5,000 says
nothing of it. The rules are the table `data/natures.csv`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

from megasim.anatomy.tables import Row, read_table
from megasim.resources import resource_path
from megasim.words import Nature

Shape = tuple[int, ...]

_COLUMNS = ("name", "kind", "shape", "beside", "nature")
_KINDS = ("", "bool", "integer", "float8", "float")


@dataclass(frozen=True, slots=True)
class _NatureRule:
    """A row of the table."""

    kind: str
    shape: tuple[int | None, ...] | None  # None: any; () is one element, however many dimensions
    beside: tuple[str, ...]
    nature: Nature

    def fits(self, prefix: str, kind: str, shape: Shape, keys: Mapping[str, object]) -> bool:
        if self.kind and self.kind != kind and not (self.kind == "float" and kind == "float8"):
            return False
        if self.shape is not None and not _has_shape(shape, self.shape):
            return False
        return not self.beside or any(prefix + name in keys for name in self.beside)


def key_natures(
    keys: Mapping[str, tuple[Shape, str | None]],
) -> dict[str, Nature]:
    """Return the nature of every key of one state dict.

    Args:
        keys: the shape and torch's name of the dtype of each; None where it is not known.

    >>> {key: str(nature) for key, nature in key_natures({
    ...     "bn.weight": ((8,), "float32"), "bn.running_mean": ((8,), "float32"),
    ...     "bn.num_batches_tracked": ((), "int64"), "table": ((4, 4), "int64"),
    ... }).items()}
    {'bn.weight': 'weight', 'bn.running_mean': 'statistic', 'bn.num_batches_tracked': 'counter', \
'table': 'unknown'}
    """
    return {key: _nature(key, shape, dtype, keys) for key, (shape, dtype) in keys.items()}


def nature_in(component: str, nature: Nature) -> Nature:
    """Return the nature of a key, given its component: factors of an adapter are no weights.

    >>> str(nature_in("adapter", Nature.WEIGHT)), str(nature_in("unet", Nature.WEIGHT))
    ('change', 'weight')
    """
    return Nature.CHANGE if component == "adapter" and nature == Nature.WEIGHT else nature


def _nature(key: str, shape: Shape, dtype: str | None, keys: Mapping[str, object]) -> Nature:
    cut = max(key.rfind("."), key.rfind("/")) + 1
    prefix, name = key[:cut], key[cut:]
    kind = _kind(dtype)
    for rule in _rules_of(name):
        if rule.fits(prefix, kind, shape, keys):
            return rule.nature
    if kind == "bool":
        return Nature.MASK
    if kind == "integer":
        return Nature.COUNTER if math.prod(shape) == 1 else Nature.UNKNOWN
    return Nature.WEIGHT


# The keys of a model have few last names.
@lru_cache(maxsize=4096)
def _rules_of(name: str) -> tuple[_NatureRule, ...]:
    """Return the rules that speak of a last name, in order."""
    by_name, by_pattern = _rules()
    fitting = (rule for pattern, rule in by_pattern if pattern.fullmatch(name))
    return (*by_name.get(name, ()), *fitting)


@lru_cache(maxsize=64)
def _kind(dtype: str | None) -> str:
    """Return the kind of a dtype as the table calls it; "" for what is not known.

    >>> _kind("uint8"), _kind("float8_e4m3fn"), _kind("bfloat16"), _kind("complex64")
    ('integer', 'float8', 'float', 'complex')
    """
    if dtype is None:
        return ""
    if dtype.startswith("float8"):
        return "float8"
    for beginning, kind in _KIND_OF.items():
        if dtype.startswith(beginning):
            return kind
    return ""


_KIND_OF = {
    "bool": "bool",
    "int": "integer",
    "uint": "integer",
    "qint": "integer",
    "quint": "integer",
    "float": "float",
    "bfloat": "float",
    "complex": "complex",
}


def _has_shape(shape: Shape, wanted: tuple[int | None, ...]) -> bool:
    if not wanted:
        return math.prod(shape) == 1
    return len(shape) == len(wanted) and all(
        want in (None, size) for want, size in zip(wanted, shape, strict=True)
    )


@cache
def _rules() -> tuple[
    dict[str, tuple[_NatureRule, ...]], tuple[tuple[re.Pattern[str], _NatureRule], ...]
]:
    """Return the rules by the last name they speak of, and those of names with a wildcard."""
    by_name: dict[str, list[_NatureRule]] = {}
    by_pattern: list[tuple[re.Pattern[str], _NatureRule]] = []
    for row in read_table(resource_path("data", "natures.csv"), _COLUMNS, ("name", "nature")):
        rule = _NatureRule(
            kind=row.read("kind", _parse_kind),
            shape=row.read("shape", _parse_shape),
            beside=_names(row, "beside"),
            nature=row.read("nature", Nature),
        )
        for name in _names(row, "name"):
            if "*" in name:
                pattern = ".*".join(re.escape(piece) for piece in name.split("*"))
                by_pattern.append((re.compile(pattern), rule))
            else:
                by_name.setdefault(name, []).append(rule)
    return {name: tuple(rules) for name, rules in by_name.items()}, tuple(by_pattern)


def _names(row: Row, column: str) -> tuple[str, ...]:
    return tuple(name for name in row[column].split("|") if name)


def _parse_kind(text: str) -> str:
    if text not in _KINDS:
        raise ValueError(f"not one of {', '.join(_KINDS[1:])}")
    return text


def _parse_shape(text: str) -> tuple[int | None, ...] | None:
    """
    >>> _parse_shape(""), _parse_shape("scalar"), _parse_shape("1x1x?x?")
    (None, (), (1, 1, None, None))
    """
    if not text:
        return None
    if text == "scalar":
        return ()
    return tuple(None if size == "?" else int(size) for size in text.split("x"))
