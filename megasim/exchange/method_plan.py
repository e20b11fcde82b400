"""How a model is made again by a method of merge tools that is no sum of whole tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from megasim.errors import NoAnswerError, printable
from megasim.exchange.merge_plan import MergePlan, commonest_dtype, with_file
from megasim.lineage.recipe_result import Recipe
from megasim.lineage.settings import SETTINGS
from megasim.lineage.stacks import Stack, find_stack
from megasim.store.rows import Store
from megasim.words import MergeMethod

_SUMS = (MergeMethod.WEIGHTED_SUM, MergeMethod.SLERP)
# Numbers found by counting elements are written in hundredths where they are as near to one.
_NEAR_HUNDREDTH = 0.003
_OF = "density of "
_NOT_IN_MERGEKIT = (
    *(MergeMethod.WHOLE_ELEMENTS, MergeMethod.TRAIN_DIFFERENCE, MergeMethod.ADD_OPPOSITE),
    *(MergeMethod.ADD_STRICT_OPPOSITE, MergeMethod.CLAMPED_DIFFERENCE),
    *(MergeMethod.MULTIPLY_QUOTIENT, MergeMethod.GEOMETRIC_SUM),
)


def has_own_method(recipes: Sequence[Recipe]) -> bool:
    """Return whether all claimed recipes are of one method that is no sum of whole tensors."""
    methods = {recipe.method for recipe in recipes if recipe.claimed}
    return len(methods) == 1 and not methods & set(_SUMS)


def method_plan(store: Store, model: str, recipes: Sequence[Recipe]) -> MergePlan:
    """Return how a model is made by the one method of all its recipes.

    Raises:
        NoAnswerError: components made of different models or by other numbers, or that came from
            elsewhere; a method that mergekit lacks; a parent that has no file.
    """
    claimed = [recipe for recipe in recipes if recipe.claimed]
    first = claimed[0]
    models = {m.name: m for m in store.models()}
    stack = find_stack(store, model) if first.method == MergeMethod.STACK else None
    parents = [p.model for p in first.parents if p.model != first.base]
    names = [*([first.base] if first.base else []), *parents]
    if first.method in _NOT_IN_MERGEKIT or (
        first.method == MergeMethod.TRIMMED and len(parents) > 1
    ):
        raise NoAnswerError(
            f"mergekit has no method that makes {printable(model)}: {first.method}",
            "`megasim recipe` without -o says what is known",
        )
    _require_one_recipe(recipes, names)
    parameters, notes = _parameters(claimed, names)
    if stack is not None:
        parameters = _nothing(names)
        notes = _ends_of_a_stack(stack)
    return MergePlan(
        model=model,
        family=models[model].family or "",
        dtype=commonest_dtype(store, models[model]),
        sources=tuple(with_file(models[name]) for name in names),
        merged=(),
        notes=(*(recipe.sentence() for recipe in claimed), *notes),
        method=MergeMethod.TIES if first.method == MergeMethod.TRIMMED else first.method,
        base=first.base,
        parameters=parameters,
        normalised=first.normalised,
        runs=stack.runs if stack is not None else (),
    )


def _require_one_recipe(recipes: Sequence[Recipe], names: Sequence[str]) -> None:
    """Refuse components that one method with one set of numbers does not make."""
    claimed = [recipe for recipe in recipes if recipe.claimed]
    numbers = [_numbers(recipe) for recipe in claimed]
    apart = [
        name
        for name in numbers[0]
        for found in numbers[1:]
        if not abs(found.get(name, np.nan) - numbers[0][name]) <= SETTINGS.claim_tolerance
    ]
    other = [r for r in recipes if not r.claimed and not set(names) <= {*r.same, r.model}]
    if apart or other or len({frozenset(found) for found in numbers}) > 1:
        raise NoAnswerError(
            f"the components of {printable(recipes[0].model)} were made in different ways",
            "merge tools use one method for a file; `megasim recipe` without -o says how each was",
        )


def _numbers(recipe: Recipe) -> dict[str, float]:
    """Return the weights and numbers of a recipe by name, but those that follow from the others."""
    found = {f"weight of {p.model}": p.weight for p in recipe.parents if p.model != recipe.base}
    if recipe.method in (MergeMethod.MODEL_STOCK, MergeMethod.STACK):
        return dict.fromkeys(found, 0.0)
    return {**found, **dict(recipe.numbers)}


def _parameters(
    claimed: Sequence[Recipe], names: Sequence[str]
) -> tuple[tuple[Mapping[str, float], ...], tuple[str, ...]]:
    """Return the parameters of each source as mergekit calls them, and what to know of them."""
    first = claimed[0]
    if first.method in (MergeMethod.MODEL_STOCK, MergeMethod.STACK):
        return _nothing(names), ()
    all_numbers = [_numbers(recipe) for recipe in claimed]
    mean = {name: float(np.mean([n[name] for n in all_numbers])) for name in all_numbers[0]}
    own: dict[str, float] = {n: mean[n] for n in ("gamma", "epsilon") if n in mean}
    found: list[Mapping[str, float]] = []
    for name in names:
        if name == first.base:
            found += _nothing([name])
            continue
        told: dict[str, float] = {
            "weight": mean[f"weight of {name}"],
            "density": mean[_OF + name],
            **own,
        }
        found.append({parameter: as_written(value) for parameter, value in told.items()})
    random = first.method not in (
        *(MergeMethod.TIES, MergeMethod.TRIMMED),
        *(MergeMethod.BREADCRUMBS, MergeMethod.BREADCRUMBS_TIES),
    )
    notes = (
        ("which elements are kept follows from a seed: the same numbers, other elements",)
        if random
        else ()
    )
    return tuple(found), notes


def _nothing(names: Sequence[str]) -> tuple[Mapping[str, float], ...]:
    nothing: Mapping[str, float] = {}
    return (nothing,) * len(names)


def as_written(value: float) -> float:
    """Return a number as people write it, where it is near one such; else with four digits.

    >>> as_written(0.4992), as_written(0.5066)
    (0.5, 0.5066)
    """
    coarse = round(value, 2)
    return coarse if abs(coarse - value) <= _NEAR_HUNDREDTH else round(value, 4)


def _ends_of_a_stack(stack: Stack) -> tuple[str, ...]:
    """Return what a stacking tool does with the keys that are in no layer."""
    first, last = stack.runs[0].model, stack.runs[-1].model
    if first == last:
        return ()
    return (
        f"what is before the layers is taken from {printable(first, 80)} and what is after them "
        f"from {printable(last, 80)}, as mergekit does: not held against the model",
    )
