"""How strongly a change is in the difference of two models, layer by layer and over many layers.

Two estimates are made of the strength s in M ≈ B + s·Δ.

- Least squares: s = ⟨M − B, Δ⟩ / ⟨Δ, Δ⟩, with the error that its scatter over layers gives.
- By rounding: each element of M is a number of few digits, so B + s·Δ must lie within half a digit
  of it, and that is a range of s. The s within the ranges of the most elements is taken. Where M
  was made by adding the change, they are nearly all, and s is known to the width of what they have
  in common; and where B has as few digits as M, least squares would be wrong: what is smaller than
  half a digit is rounded away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megasim.checkpoint.tensors import TensorReader, TensorRef
from megasim.interrupts import stop_if_asked
from megasim.kernels.elements import to_double
from megasim.representation.adapter_changes import Change, row_blocks

Doubles = npt.NDArray[np.float64]

# Elements of a layer whose ranges of s are kept: those in which the change shows most.
_KEPT = 20_000
# Digits of the mantissa, with the leading one, and the exponent of the smallest normal number.
DIGITS = {"float16": (11, -14), "bfloat16": (8, -126), "float32": (24, -126)}
# A change may have been made in float32, or in bfloat16, and differs by as much from ours.
TOLERANCES = (2.0**-18, 2.0**-8)
# Where nearly all elements agree on one s, M is B plus the change, rounded, and nothing else.
ALL_BUT_FEW = 0.98


@dataclass(frozen=True, eq=False)
class LayerSums:
    """What one layer says of the strength.

    Attributes:
        elements: of the layer.
        change, difference: sums of squares of Δ and of M − B.
        product: the inner product of the two.
        center, width, spread: of each kept element: the middle and half the width of its range of
            s, and how much of that width an error of 1 in Δ adds. Empty where M is not rounded.
    """

    elements: int
    change: float
    difference: float
    product: float
    center: Doubles
    width: Doubles
    spread: Doubles

    @property
    def strength(self) -> float:
        """By least squares; NaN where there is no change."""
        return self.product / self.change if self.change else math.nan


@dataclass(frozen=True)
class Strength:
    """A strength over some layers.

    Attributes:
        value, error: the strength and its standard error; by rounding, half of what is left open.
        exact: share of the kept elements that are what B + value·Δ rounds to; None where M is not
            rounded, or where least squares was taken.
        explained: share of ‖M − B‖² that value·Δ accounts for.
        cosine: between M − B and Δ.
        layers: that were measured.
        change, difference: norms of Δ and of M − B.
    """

    value: float
    error: float
    exact: float | None
    explained: float
    cosine: float
    layers: int
    change: float
    difference: float

    @property
    def residual(self) -> float:
        """‖M − B − value·Δ‖."""
        return self.difference * math.sqrt(max(0.0, 1 - self.explained))


def layer_sums(
    reader: TensorReader, model: TensorRef, base: TensorRef, change: Change, first_row: int = 0
) -> LayerSums:
    """Return what a layer of a model says of the strength of a change to its base.

    Args:
        model, base: of one number of elements; both are read once, piece by piece.
        change: of the rows of the weight from `first_row` on.

    Raises:
        CheckpointError: a weight cannot be read.
    """
    totals = np.zeros(3)
    kept: list[Doubles] = []
    rows, columns = change.rows, change.columns
    keep = max(1, _KEPT * columns * max(1, (1 << 21) // max(columns, 1)) // max(rows * columns, 1))
    keep = min(_KEPT, keep)
    for start, stop in row_blocks(rows, columns):
        stop_if_asked()
        delta = change.block(start, stop).reshape(-1)
        span = (first_row + start) * columns, (first_row + stop) * columns
        ours, theirs = doubles_of(reader, model, *span), doubles_of(reader, base, *span)
        step = ours - theirs
        totals += (delta @ delta, step @ step, step @ delta)
        if model.dtype in DIGITS:
            kept.append(_ranges(ours, theirs, delta, model.dtype, keep))
    empty = np.zeros((3, 0))
    center, width, spread = np.hstack(kept) if kept else empty
    squared, difference, product = totals.tolist()
    return LayerSums(rows * columns, squared, difference, product, center, width, spread)


def half_digits(values: Doubles, dtype: str) -> Doubles:
    """Return half a unit in the last place of each value, as numbers of a dtype have it.

    >>> half_digits(np.array([1.0, -3.0]), "bfloat16") * 256
    array([1., 2.])
    """
    digits, smallest = DIGITS[dtype]
    magnitude = np.maximum(np.abs(values), 2.0**smallest)
    half: Doubles = np.exp2(np.floor(np.log2(magnitude)) - digits)
    return half


def doubles_of(reader: TensorReader, ref: TensorRef, start: int, stop: int) -> Doubles:
    """Return elements `start` to `stop` of a tensor."""
    out = np.empty(stop - start, np.float64)
    to_double(reader.read(ref, start, stop), ref.dtype, out)
    return out


def _ranges(ours: Doubles, theirs: Doubles, delta: Doubles, dtype: str, keep: int) -> Doubles:
    """Return (3, n): center, half the width, and spread of the ranges of s of some elements."""
    half = half_digits(ours, dtype)
    size = np.abs(delta)
    usable = (size > 0) & np.isfinite(ours) & np.isfinite(theirs)
    # by what is known of B alone: a choice by M would favour some strengths
    digit = np.maximum(np.abs(theirs), float(np.sqrt(np.mean(delta**2))))
    clarity = np.where(usable, size / np.maximum(digit, 1e-300), -1.0)
    if keep < len(clarity):
        chosen = np.argpartition(clarity, len(clarity) - keep)[len(clarity) - keep :]
    else:
        chosen = np.arange(len(clarity))
    chosen = chosen[clarity[chosen] > 0]
    step = delta[chosen]
    typical = float(np.sqrt(np.mean(delta**2)))
    size = np.abs(step)
    return np.stack(
        [(ours[chosen] - theirs[chosen]) / step, half[chosen] / size, 1 + typical / size]
    )


def joint_strength(layers: Sequence[LayerSums]) -> Strength:
    """Return the strength over some layers. By rounding where that explains nearly all elements.

    >>> joint_strength([]).value
    nan
    """
    change = sum(layer.change for layer in layers)
    difference = sum(layer.difference for layer in layers)
    product = sum(layer.product for layer in layers)
    if not change:
        return Strength(
            math.nan, math.nan, None, 0.0, math.nan, len(layers), 0.0, math.sqrt(difference)
        )
    cosine = product / math.sqrt(change * difference) if difference else 0.0
    value = product / change

    def strength(value: float, error: float, exact: float | None) -> Strength:
        left = max(0.0, difference - 2 * value * product + value * value * change)
        explained = 1 - left / difference if difference else 0.0
        return Strength(
            value, error, exact, max(0.0, explained), cosine, len(layers),
            math.sqrt(change), math.sqrt(difference),
        )  # fmt: skip

    for tolerance in TOLERANCES:
        found = _by_rounding(layers, tolerance)
        if found is not None and found[2] >= ALL_BUT_FEW:
            low, high, exact = found
            return strength((low + high) / 2, (high - low) / 2, exact)
    return strength(value, _error(layers, value), None)


def _by_rounding(
    layers: Sequence[LayerSums], tolerance: float
) -> tuple[float, float, float] | None:
    """Return the range of s that the most elements have in common, and their share."""
    center = np.concatenate([layer.center for layer in layers] or [np.zeros(0)])
    if not len(center):
        return None
    width = np.concatenate([layer.width for layer in layers])
    spread = np.concatenate([layer.spread for layer in layers])
    width = width * (1 + 1e-6) + tolerance * spread
    ends = np.concatenate([center - width, center + width])
    steps = np.concatenate([np.ones(len(center)), -np.ones(len(center))])
    order = np.lexsort((-steps, ends))  # what begins at a point counts there, what ends there too
    counts = np.cumsum(steps[order])
    most = counts.max()
    best = np.flatnonzero(counts == most)
    # of several ranges that as many share, from the first to the last: all of them may hold s
    low, high = ends[order][best[0]], ends[order][min(best[-1] + 1, len(order) - 1)]
    return float(low), float(high), float(most / len(center))


def _error(layers: Sequence[LayerSums], value: float) -> float:
    """Return the standard error of a strength by least squares.

    From its scatter over layers, each weighted as in the sum; of one layer, from what is left over.
    """
    change = sum(layer.change for layer in layers)
    if len(layers) > 1:
        terms = [(layer.product - value * layer.change) ** 2 for layer in layers]
        return math.sqrt(sum(terms) * len(layers) / (len(layers) - 1)) / change
    difference = sum(layer.difference for layer in layers)
    left = max(0.0, difference - value * value * change)
    elements = sum(layer.elements for layer in layers)
    return math.sqrt(left / max(elements - 1, 1) / change)
