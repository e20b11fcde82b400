"""What a recipe file of mergekit says a model was made of. Needs the extra `recipes`.

Read as mergekit 0.1.5 reads it: `linear` normalises weights unless `normalize: false`, so that
0.1 and 1.0 stand for 0.0909 and 0.9091; `ties` and `della` normalise in each element; others do
not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megasim.errors import NoAnswerError, UsageError, printable, require_extra
from megasim.words import MergeMethod

LARGEST_FILE = 1 << 20

_METHODS = {
    "linear": MergeMethod.WEIGHTED_SUM,
    "task_arithmetic": MergeMethod.WEIGHTED_SUM,
    "slerp": MergeMethod.SLERP,
    "model_stock": MergeMethod.MODEL_STOCK,
    "ties": MergeMethod.TIES,
    "dare_linear": MergeMethod.DARE,
    "dare_ties": MergeMethod.DARE_TIES,
    "breadcrumbs": MergeMethod.BREADCRUMBS,
    "breadcrumbs_ties": MergeMethod.BREADCRUMBS_TIES,
    "della_linear": MergeMethod.DELLA,
    "della": MergeMethod.DELLA_TIES,
    "passthrough": MergeMethod.STACK,
}
# Those that mergekit normalises where the file does not say.
_NORMALISED = ("linear", "ties", "della")

# Parts of names of keys → value; the first that is in a key counts, "" is in all.
Filtered = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class ClaimedRecipe:
    """A recipe as its file states it.

    Attributes:
        method: how the models were put together.
        models: as they are written, the base among them where it has no weight of its own.
        base: as it is written; "" where the method has none.
        weights: of each model, by parts of the names of keys; empty where the method has none.
        normalised: whether the tool divides by the sum of the weights.
        numbers: `lambda`, `density`, `t`, by parts of the names of keys.
        slices: of a stack, (model, first layer, layer after the last).
    """

    method: MergeMethod
    models: tuple[str, ...]
    base: str
    weights: Mapping[str, Filtered]
    normalised: bool
    numbers: Mapping[str, Filtered] = field(default_factory=dict)
    slices: tuple[tuple[str, int, int], ...] = ()


def value_for(filtered: Filtered, key: str) -> float:
    """Return the value for a key: that of the first part that is in its name; NaN without any.

    >>> value_for((("mlp", 0.2), ("", 0.5)), "layers.0.mlp.up.weight")
    0.2
    """
    return next((value for part, value in filtered if part in key), math.nan)


def read_claimed_recipe(path: Path) -> ClaimedRecipe:
    """Return what a configuration of mergekit states.

    Raises:
        UsageError: it is none, or cannot be read.
        NoAnswerError: a method, or values by layer, that are not understood.
    """
    require_extra("recipes", "reading a recipe of mergekit")
    import yaml

    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError("larger than 1 MiB")
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(read, dict):
            raise ValueError("not a mapping")
        return _claimed(read)
    except (OSError, ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(
            f"{printable(path, 300)} is no recipe of mergekit: {printable(error, 100)}",
            "give a file with `merge_method:` and `models:` or `slices:`",
        ) from None


def _claimed(read: Mapping[str, Any]) -> ClaimedRecipe:
    name = str(read["merge_method"])
    if name not in _METHODS:
        raise NoAnswerError(
            f"the method {printable(name, 60)} is not one that can be checked",
            f"there are {', '.join(_METHODS)}",
        )
    method = _METHODS[name]
    own = read.get("parameters") or {}
    base = str(read.get("base_model") or "")
    if method == MergeMethod.STACK:
        slices = tuple(_slice(each) for each in read["slices"])
        models = tuple(dict.fromkeys(model for model, _, _ in slices))
        return ClaimedRecipe(method, models, "", {}, False, slices=slices)
    entries = [(str(e["model"]), e.get("parameters") or {}) for e in read["models"]]
    weights: dict[str, Filtered] = {}
    numbers: dict[str, Filtered] = {}
    for model, parameters in entries:
        if "weight" in parameters or "weight" in own:
            weights[model] = _filtered(parameters.get("weight", own.get("weight")))
        if "density" in parameters or "density" in own:
            density = parameters.get("density", own.get("density"))
            numbers[f"density of {model}"] = _filtered(density)
    for number in ("lambda", "t"):
        if number in own:
            numbers[number] = _filtered(own[number])
    models = tuple(dict.fromkeys([*(model for model, _ in entries), *([base] if base else [])]))
    normalised = bool(own.get("normalize", name in _NORMALISED))
    return ClaimedRecipe(method, models, base, weights, normalised, numbers)


def _slice(read: Mapping[str, Any]) -> tuple[str, int, int]:
    sources = read["sources"]
    if len(sources) != 1:
        raise ValueError("a slice of a stack has one source")
    first, stop = sources[0]["layer_range"]
    return str(sources[0]["model"]), int(first), int(stop)


def _filtered(value: object) -> Filtered:
    """Return a parameter: a number, or a list of numbers for parts of the names of keys."""
    if isinstance(value, int | float):
        return (("", float(value)),)
    if isinstance(value, Sequence) and not isinstance(value, str):
        if all(isinstance(each, dict) for each in value):
            return tuple((str(e.get("filter") or ""), _number(e["value"])) for e in value)
        raise NoAnswerError(
            "values that change from layer to layer are not checked",
            "`megasim recipe` without --check says what the weights of each block are",
        )
    raise ValueError(f"a parameter is a number, not {printable(value, 40)}")


def _number(value: object) -> float:
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    raise ValueError(f"a parameter is a number, not {printable(value, 40)}")
