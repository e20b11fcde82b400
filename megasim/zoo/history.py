"""The zoo's known history: who derives from whom, how, and what follows for every component."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal

import numpy as np

from megasim.zoo.architectures import FAMILY_SHAPES
from megasim.zoo.keys import component_of, merge_block_of
from megasim.zoo.variants import adapter_factors, batches_counted, permuted, with_adapter
from megasim.zoo.weights import (
    INTEGER_KEYS,
    Weights,
    decoded,
    encoded,
    fresh_weights,
    merge,
    train,
    unet_from_ema,
    widened,
    with_training_state,
)

Kind = Literal[
    "base",  # made from nothing
    "copy",  # the same weights in another file format
    "cast",  # the same weights in another dtype
    "pruned",  # fewer tensors, the kept ones unchanged
    "fine-tune",
    "epoch",  # a fine-tune of the epoch before, in one run
    "swap",  # a component taken from the second parent
    "merge",  # Σ weight·parent; a negative weight makes it an add-difference merge
    "block-merge",  # a merge of two, with a ratio for each UNet block
    "damaged",  # a copy with elements lost
    "quantised",  # in FP8 codes with scales
    "permuted",  # hidden units in another order
    "adapter",  # factors of a low-rank change of its parent
    "baked",  # the first parent plus the change of the second, an adapter
    "training",  # its parent as a training run keeps it: with EMA copy and optimiser
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooModel:
    """One model of a zoo: how it is made, and thereby the truth about it.

    Parents are names of models earlier in the same plan. `contents` is filled in by the plan: for
    each component the name of the model that had this content first, so two models have the same
    content (up to rounding to their dtypes) exactly when these names are equal.
    """

    name: str
    file: str  # relative to the zoo's folder; a folder when it has no ending
    kind: Kind
    story: str  # one line for people
    parents: tuple[str, ...] = ()
    family: str = "sd1"  # a key of FAMILY_SHAPES
    dtype: str = "float16"  # of the float tensors; "float8" of matrices, with scales
    layout: str = "ldm"  # or "novelai", "diffusers", "bare-vae", "peft", "training"
    weights: tuple[float, ...] = ()  # merges: of the parents, adding up to 1
    block_weights: Mapping[str, float] = field(default_factory=dict)
    """Block merges: the second parent's share in each block, and in "BASE", the text encoder."""
    strength: float = 0.0  # baked: of the adapter
    batches: int = 0  # that a network with BatchNorm has seen
    claim: tuple[float, ...] = ()  # the weights its metadata claims, true or not
    trains: tuple[str, ...] = ()  # prefixes of the keys a step trains
    step: float = 0.05  # size of the step relative to the weights, times a factor of each role
    drift: float = 0.0  # expected cosine between the steps `toward` the same goal
    drift_keys: str = ""  # drift only where the key contains this
    toward: str = ""
    keeps: tuple[str, ...] = ()  # components kept; all of them when empty
    takes: tuple[str, ...] = ()  # swaps: components taken from the second parent
    from_ema: bool = False  # pruned: the kept UNet is the EMA copy
    trained_ema: bool = False  # has the EMA copy, its counters and the schedule
    non_finite: Mapping[str, int] = field(default_factory=dict)  # key → NaN elements
    broken_positions: bool = False  # position_ids merged as if they were weights, in half precision
    metadata: Mapping[str, str | int] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)

    def trains_key(self, key: str) -> bool:
        """Return whether the step that made this model trained a key (of the LDM layout)."""
        return key.startswith(self.trains) and not key.endswith(INTEGER_KEYS)

    def changed_keys(self, component: str) -> tuple[int, int]:
        """Return how many keys of a component its training step trained, of how many.

        >>> from megasim.zoo.plans import TRUTH
        >>> model(TRUTH, "dreambooth").changed_keys("text_encoder")
        (64, 197)
        """
        keys = [key for key in _family_keys(self.family) if component_of(key) == component]
        return sum(map(self.trains_key, keys)), len(keys)


@cache
def _family_keys(family: str) -> tuple[str, ...]:
    return tuple(FAMILY_SHAPES[family](1 / 64))


def model(plan: Sequence[ZooModel], name: str) -> ZooModel:
    """Return the model of a plan by its name; KeyError when there is none."""
    for candidate in plan:
        if candidate.name == name:
            return candidate
    raise KeyError(name)


def recipe_by_ends(plan: Sequence[ZooModel], name: str) -> dict[str, float]:
    """Return the weights of a merge in terms of models that are no merges, {} for others.

    >>> from megasim.zoo.plans import TRUTH
    >>> recipe_by_ends(TRUTH, "mix-30")
    {'mix-00': 0.7, 'mix-100': 0.3}
    """
    merged = model(plan, name)
    ends: dict[str, float] = {}
    for parent, weight in zip(merged.parents, merged.weights, strict=False):
        for end, share in (recipe_by_ends(plan, parent) or {parent: 1.0}).items():
            ends[end] = ends.get(end, 0.0) + weight * share
    return ends


def expected_identity(a: ZooModel, b: ZooModel, component: str) -> str:
    """Return what holds of a component of two models, from the history alone.

    "identical", "same_at_fp16" (one is the fp16 rounding of the other), "changed", "missing_a",
    "missing_b", or "" when neither has it.

    >>> from megasim.zoo.plans import TRUTH
    >>> expected_identity(model(TRUTH, "base-pruned"), model(TRUTH, "base-fp16"), "unet")
    'same_at_fp16'
    """
    first, second = a.contents.get(component), b.contents.get(component)
    if first is None or second is None:
        return "" if first == second else "missing_a" if first is None else "missing_b"
    if first != second:
        return "changed"
    return "identical" if a.dtype == b.dtype else "same_at_fp16"


def with_contents(plan: Sequence[ZooModel]) -> tuple[ZooModel, ...]:
    """Return the plan with the contents of every model filled in."""
    known: dict[str, ZooModel] = {}
    for planned in plan:
        contents = _contents(planned, [known[parent].contents for parent in planned.parents])
        known[planned.name] = replace(planned, contents=contents)
    return tuple(known.values())


def _contents(planned: ZooModel, parents: Sequence[Mapping[str, str]]) -> dict[str, str]:
    own = planned.name
    if not parents:
        contents = {component_of(key): own for key in _family_keys(planned.family)}
        if planned.trained_ema:
            contents |= {"ema": f"{own} (EMA)", "training_state": own}
    else:
        contents = dict(parents[0])
    if planned.kind in ("merge", "block-merge"):
        # What all parents agree on, no weights change.
        for component, content in contents.items():
            if any(parent[component] != content for parent in parents[1:]):
                contents[component] = own
    for component in planned.takes:
        contents[component] = parents[1][component]
    if planned.from_ema:
        contents["unet"] = contents["ema"]
    touched = {component_of(key) for key in _family_keys(planned.family) if planned.trains_key(key)}
    touched |= {component_of(key) for key in planned.non_finite}
    touched |= {"text_encoder"} if planned.broken_positions else set()
    touched |= set(contents) if planned.kind in ("permuted", "adapter", "baked") else set()
    contents |= dict.fromkeys(touched, own)
    return {
        c: content for c, content in contents.items() if not planned.keeps or c in planned.keeps
    }


def make_weights(planned: ZooModel, parents: Sequence[Weights], seed: int, width: float) -> Weights:
    """Return the weights of a model, in LDM keys and as its dtype stores them.

    `parents` are the weights of `planned.parents`, in that order.
    """
    weights = _start(planned, parents, seed, width)
    if planned.trains:
        weights = train(
            weights,
            seed,
            planned.name,
            step=planned.step,
            trains=planned.trains_key,
            drift=lambda key: planned.drift if planned.drift_keys in key else 0.0,
            toward=planned.toward,
        )
    if planned.trained_ema:
        weights = with_training_state(weights, seed, planned.name, updates=470_000)
    if planned.keeps:
        weights = {k: v for k, v in weights.items() if component_of(k) in planned.keeps}
    if planned.batches:
        weights = batches_counted(weights, planned.batches)
    if planned.dtype == "float8":  # rounded when it is written, and nobody's parent
        return weights
    for key, count in planned.non_finite.items():
        weights[key] = weights[key].copy()
        weights[key].flat[:: weights[key].size // count + 1] = np.nan
    stored = {key: encoded(value, planned.dtype) for key, value in weights.items()}
    return {key: decoded(value, planned.dtype) for key, value in stored.items()}


def _start(planned: ZooModel, parents: Sequence[Weights], seed: int, width: float) -> Weights:
    if not parents:
        return fresh_weights(FAMILY_SHAPES[planned.family](width), seed, planned.name)
    weights = dict(parents[0])
    if planned.kind == "permuted":
        return permuted(weights, seed, planned.name)
    if planned.kind == "adapter":
        return adapter_factors(weights, seed, planned.name)
    if planned.kind == "baked":
        return with_adapter(weights, parents[1], planned.strength)
    if planned.kind in ("merge", "block-merge"):
        weights = merge(parents, _shares(planned))
    if planned.broken_positions:
        weights |= _broken_positions(parents, planned.weights)
    for key, value in parents[1].items() if planned.takes else ():
        if component_of(key) in planned.takes:
            weights[key] = value
    if planned.from_ema:
        weights = unet_from_ema(weights)
    if planned.kind == "fine-tune":
        shapes = FAMILY_SHAPES[planned.family](width)
        weights = widened(weights, {key: shapes[key] for key in weights if key in shapes})
    return weights


def _shares(planned: ZooModel) -> Callable[[str], Sequence[float]]:
    if planned.kind == "merge":
        return lambda key: planned.weights

    def by_block(key: str) -> Sequence[float]:
        share = planned.block_weights[merge_block_of(key) or "BASE"]
        return 1 - share, share

    return by_block


def _broken_positions(parents: Sequence[Weights], shares: Sequence[float]) -> Weights:
    """Return position_ids as merge tools got them that took them for weights: 3 becomes 2.998."""
    broken: Weights = {}
    for key in (key for key in parents[0] if key.endswith("position_ids")):
        terms = [
            p[key].astype(np.float16) * np.float16(s) for p, s in zip(parents, shares, strict=True)
        ]
        broken[key] = sum(terms[1:], terms[0]).astype(np.float32)
    return broken
