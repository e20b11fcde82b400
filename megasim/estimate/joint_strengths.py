"""How strongly each of several changes is in the difference of two models, found together.

M ≈ B + Σ sᵢ Δᵢ, with the same two estimates as for one change (`adapter_strength`):

- Least squares: s = G⁻¹ p, with G the inner products of the changes and p those with M − B. The
  errors are those of u = p_l − G_l s over the layers l, the rows of a sum that is 0 over all.
- By rounding: each element of M is a number of few digits, so B + Σ sᵢ Δᵢ must lie within half a
  digit of it: a slab of s for each element. A point within all of them minimises the squares of
  what sticks out, which is convex; how far each sᵢ may go within the slabs is a linear program.

Two changes that are nearly one are told by wide errors: the slabs, or G⁻¹, leave them open.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from megasim.checkpoint.tensors import TensorReader, TensorRef
from megasim.estimate.adapter_strength import (
    ALL_BUT_FEW,
    DIGITS,
    TOLERANCES,
    Doubles,
    Strength,
    doubles_of,
    half_digits,
)
from megasim.interrupts import stop_if_asked
from megasim.representation.adapter_changes import Change, row_blocks

# Elements of a layer that are kept for the slabs: those in which the changes show most.
_KEPT = 8_000
# Slabs that a linear program is given: those that the found point is nearest to the sides of.
_MOST_SLABS = 4_000
_MOST_STEPS = 60


@dataclass(frozen=True, eq=False)
class JointSums:
    """What one layer says of the strengths of n changes.

    Attributes:
        products: (n, n), the inner products of the changes.
        along: (n,), those with M − B.
        difference: the square of ‖M − B‖.
        elements: of the layer.
        steps: (k, n) the changes, `left` (k,) M − B and `half` (k,) half a digit of M, of the
            kept elements; empty where M is not rounded.
    """

    products: Doubles
    along: Doubles
    difference: float
    elements: int
    steps: Doubles
    left: Doubles
    half: Doubles


@dataclass(frozen=True)
class JointStrengths:
    """The strengths of several changes over some layers.

    Attributes:
        each: the strength of each change, `explained` being the share of ‖M − B‖² that would be
            left if it alone were taken away.
        exact: share of the kept elements that are what the sum rounds to; None where M is not
            rounded, or least squares was taken.
        explained: share of ‖M − B‖² that all account for together.
        cosines: (n, n), between the changes.
        difference, residual: ‖M − B‖, and ‖M − B − Σ sᵢ Δᵢ‖.
    """

    each: tuple[Strength, ...]
    exact: float | None
    explained: float
    cosines: Doubles
    difference: float
    residual: float


def joint_sums(
    reader: TensorReader,
    model: TensorRef,
    base: TensorRef,
    changes: Mapping[int, Change],
    count: int,
    intervals: Sequence[tuple[int, int]],
) -> JointSums:
    """Return what a layer of a model says of the strengths of several changes to its base.

    Args:
        model, base: of one number of elements; both are read once, piece by piece.
        changes: of the whole weight, by their number among the `count` changes.
        intervals: the rows that any of them changes; the others are not read.

    Raises:
        CheckpointError: a weight cannot be read.
    """
    products, along = np.zeros((count, count)), np.zeros(count)
    difference, elements = 0.0, 0
    kept: list[tuple[Doubles, Doubles, Doubles]] = []
    here = sorted(changes)
    columns = changes[here[0]].columns
    total = sum(stop - start for start, stop in intervals) * columns
    for low, high in intervals:
        for start, stop in row_blocks(high - low, columns):
            stop_if_asked()
            begin, end = low + start, low + stop
            deltas = np.stack([changes[i].block(begin, end).reshape(-1) for i in here], axis=1)
            ours = doubles_of(reader, model, begin * columns, end * columns)
            theirs = doubles_of(reader, base, begin * columns, end * columns)
            step = ours - theirs
            products[np.ix_(here, here)] += deltas.T @ deltas
            along[here] += deltas.T @ step
            difference += float(step @ step)
            elements += len(step)
            if model.dtype in DIGITS:
                keep = max(1, _KEPT * len(step) // max(total, 1))
                kept.append(_slabs(ours, theirs, deltas, model.dtype, keep))
    steps = np.zeros((sum(len(k[1]) for k in kept), count))
    if kept:
        steps[:, here] = np.concatenate([k[0] for k in kept])
    left, half = (np.concatenate([k[i] for k in kept] or [np.zeros(0)]) for i in (1, 2))
    return JointSums(products, along, difference, elements, steps, left, half)


def _slabs(
    ours: Doubles, theirs: Doubles, deltas: Doubles, dtype: str, keep: int
) -> tuple[Doubles, Doubles, Doubles]:
    """Return the changes, M − B and half a digit of M of the elements that show most."""
    typical = np.sqrt(np.mean(deltas**2, axis=0))
    # by what is known of B alone: a choice by M would favour some strengths
    digit = np.maximum(np.abs(theirs), float(typical.max()))
    shows = np.max(np.abs(deltas) / np.maximum(typical, 1e-300), axis=1)
    usable = np.isfinite(ours) & np.isfinite(theirs) & (shows > 0)
    clarity = np.where(usable, shows / np.maximum(digit, 1e-300), -1.0)
    chosen = np.argsort(-clarity, kind="stable")[:keep]
    chosen = chosen[clarity[chosen] > 0]
    half = half_digits(ours[chosen], dtype)
    return deltas[chosen], ours[chosen] - theirs[chosen], half


def joint_strengths(layers: Sequence[JointSums]) -> JointStrengths:
    """Return the strengths of several changes over some layers.

    Raises:
        ValueError: no layer.
    """
    if not layers:
        raise ValueError("no layer")
    products = np.sum([layer.products for layer in layers], axis=0)
    along = np.sum([layer.along for layer in layers], axis=0)
    difference = float(sum(layer.difference for layer in layers))
    norms = np.sqrt(np.diag(products))
    scale = np.where(norms > 0, norms, 1.0)
    cosines = products / np.outer(scale, scale)
    # in units of each change, so that nothing depends on how large they are
    inverse = np.linalg.pinv(cosines, rcond=1e-10, hermitian=True)
    values = inverse @ (along / scale) / scale
    errors = _errors(layers, values, inverse, scale)
    exact: float | None = None
    found = _by_slabs(layers, values, scale)
    if found is not None:
        values, errors, exact = found

    def left_of(strengths: Doubles) -> float:
        return max(
            0.0, difference - 2 * float(strengths @ along) + float(strengths @ products @ strengths)
        )

    left = left_of(values)
    each = []
    for i, value in enumerate(values):
        alone = np.delete(np.arange(len(values)), i)
        others = np.linalg.pinv(products[np.ix_(alone, alone)], hermitian=True) @ along[alone]
        without = np.zeros(len(values))
        without[alone] = others
        share = max(0.0, left_of(without) - left) / difference if difference else 0.0
        cosine = float(along[i]) / (scale[i] * math.sqrt(difference)) if difference else 0.0
        count = sum(bool(layer.products[i, i]) for layer in layers)
        known = norms[i] > 0
        each.append(
            Strength(
                float(value) if known else math.nan, float(errors[i]) if known else math.nan,
                exact, share, cosine, count, float(norms[i]), math.sqrt(difference),
            )
        )  # fmt: skip
    explained = 1 - left / difference if difference else 0.0
    return JointStrengths(
        tuple(each), exact, max(0.0, explained), cosines, math.sqrt(difference), math.sqrt(left)
    )


def _errors(
    layers: Sequence[JointSums], values: Doubles, inverse: Doubles, scale: Doubles
) -> Doubles:
    """Return standard errors by least squares, from the scatter over layers."""
    n = len(values)
    if len(layers) > n:
        rests = np.array([(layer.along - layer.products @ values) / scale for layer in layers])
        scatter = rests.T @ rests * (len(layers) / (len(layers) - n))
    else:
        left = sum(
            layer.difference - 2 * values @ layer.along + values @ layer.products @ values
            for layer in layers
        )
        elements = sum(layer.elements for layer in layers)
        cosines = np.linalg.pinv(inverse, rcond=1e-10, hermitian=True)
        scatter = cosines * max(float(left), 0.0) / max(elements - n, 1)
    errors: Doubles = np.sqrt(np.maximum(np.diag(inverse @ scatter @ inverse), 0)) / scale
    return errors


def _by_slabs(
    layers: Sequence[JointSums], start: Doubles, scale: Doubles
) -> tuple[Doubles, Doubles, float] | None:
    """Return strengths within the slabs of nearly all elements, half the room that these leave,
    and the share of the elements; None where there are no such strengths."""
    steps = np.concatenate([layer.steps for layer in layers])
    if not len(steps):
        return None
    left = np.concatenate([layer.left for layer in layers])
    half = np.concatenate([layer.half for layer in layers])
    typical = np.sqrt(np.mean(steps**2, axis=0))
    for tolerance in TOLERANCES:
        # a change that was made in few digits is off by as much as its own size tells
        room = half * (1 + 1e-6) + tolerance * (np.abs(steps) + typical) @ np.abs(start)
        values = _within(steps, left, room, start)
        fits = np.abs(left - steps @ values) <= room * (1 + 1e-9)
        share = float(np.mean(fits))
        if share >= ALL_BUT_FEW:
            low, high = _room_of(steps[fits], left[fits], room[fits], values)
            return (low + high) / 2, (high - low) / 2, share
    return None


def _within(steps: Doubles, left: Doubles, room: Doubles, start: Doubles) -> Doubles:
    """Return the strengths that minimise the squares of what sticks out of the slabs."""
    values = start.copy()
    weights = 1 / room
    for _ in range(_MOST_STEPS):
        rest = left - steps @ values
        out = np.abs(rest) > room
        if not out.any():
            break
        beyond = (rest[out] - np.sign(rest[out]) * room[out]) * weights[out]
        rows = steps[out] * weights[out][:, None]
        move = np.linalg.lstsq(rows, beyond, rcond=1e-12)[0]
        values = values + move
        if not np.abs(move).max() > 1e-9 * max(1.0, float(np.abs(values).max())):
            break
    return values


def _room_of(
    steps: Doubles, left: Doubles, room: Doubles, values: Doubles
) -> tuple[Doubles, Doubles]:
    """Return how far each strength may go, the others free, while all stays within the slabs."""
    from scipy.optimize import linprog

    rest = left - steps @ values
    size = np.linalg.norm(steps, axis=1)
    slack = (room - np.abs(rest)) / np.maximum(size, 1e-300)
    near = np.argsort(slack, kind="stable")[:_MOST_SLABS]
    rows = np.concatenate([steps[near], -steps[near]])
    # what is within by rounding of float64 is within
    limits = np.maximum(np.concatenate([room[near] - rest[near], room[near] + rest[near]]), 0.0)
    unit = np.maximum(np.abs(rows).max(axis=1), 1e-300)
    low, high = np.zeros(len(values)), np.zeros(len(values))
    for i in range(len(values)):
        for sign, bounds in ((1, low), (-1, high)):
            cost = np.zeros(len(values))
            cost[i] = sign
            found = linprog(
                cost, rows / unit[:, None], limits / unit, bounds=(-4.0, 4.0), method="highs"
            )
            bounds[i] = found.x[i] if found.x is not None else -4.0 * sign
    return values + low, values + high
