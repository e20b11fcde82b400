"""Whether plain values are those that a quantised tensor was made of.

Quantising leaves of each value a code, and a code stands for an interval: half a step of the grid
of its block to either side. Values of which all lie in the intervals of the codes are rounded to
these very codes: the one tensor is the other, quantised. Of a model one small training step away
some lie beyond.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from megasim.checkpoint.dtypes import Singles
from megasim.checkpoint.tensor_refs import ElementReader
from megasim.checkpoint.tensors import TensorRef
from megasim.kernels.elements import float8_table
from megasim.representation.boxes import as_singles
from megasim.representation.grids import edges_of

_PIECE: Final = 1 << 18
# When so many values were looked at, and more than this part of them lies beyond, the others will
# not make it a quantised copy.
_MOST_STEPS: Final = 1e6
_ENOUGH: Final = 1 << 21
_BEYOND: Final = 0.02


@dataclass(frozen=True)
class Rounding:
    """How many values of a tensor lie within half a step of those of its quantised copy.

    Attributes:
        measured: how many values were looked at: all, or the first where these lie far beyond.
        within: how many of these do, at best of the values as they are, rounded to bfloat16, or to
            float16: models are often cast before they are quantised.
        excess: how far the worst one lies beyond, in steps of its block; 0 where all are within.
    """

    measured: int
    within: int
    excess: float


def measure_rounding(reader: ElementReader, coded: TensorRef, plain: TensorRef) -> Rounding | None:
    """Return how the values of a plain tensor lie to the codes of a quantised one.

    Both are of one size, in one order. None where the intervals of the codes are not known.

    Raises CheckpointError when either cannot be read.
    """
    casts = ("", "bfloat16", "float16") if plain.dtype == "float32" else ("",)
    within = np.zeros(len(casts), np.int64)
    excess = np.zeros(len(casts))
    measured = 0
    for start in range(0, coded.numel, _PIECE):
        stop = min(start + _PIECE, coded.numel)
        ends = _intervals(reader, coded, start, stop)
        if ends is None:
            return None
        low, high = ends
        values = as_singles(reader.read(plain, start, stop), plain.dtype)
        step = _steps(low, high)
        for i, cast in enumerate(casts):
            beyond = np.maximum(low - _cast(values, cast), _cast(values, cast) - high)
            within[i] += int((beyond <= 0).sum())
            steps = min(float(np.max(beyond / step, initial=0.0)), _MOST_STEPS)
            excess[i] = max(excess[i], steps)
        measured = stop
        if measured >= _ENOUGH and within.max() < (1 - _BEYOND) * measured:
            break
    best = int(np.lexsort((excess, -within))[0])
    return Rounding(measured, int(within[best]), float(excess[best]))


def _steps(low: Singles, high: Singles) -> Singles:
    """Return the widths of intervals; of those without an end, the mean of the others."""
    step = np.maximum(high - low, np.float32(1e-30))
    has_ends = np.isfinite(step)
    usual = step[has_ends].mean() if has_ends.any() else np.float32(1)
    widths: Singles = np.where(has_ends, step, usual).astype(np.float32)
    return widths


def _cast(values: Singles, dtype: str) -> Singles:
    """Return values rounded to a dtype, to nearest with ties to even."""
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        return (rounded & np.uint32(0xFFFF0000)).view(np.float32)
    return values


def _intervals(
    reader: ElementReader, ref: TensorRef, start: int, stop: int
) -> tuple[Singles, Singles] | None:
    """Return the ends of the intervals of a range of values; those of plain values are empty."""
    if ref.decoder is not None:
        return ref.decoder.intervals(reader, start, stop)
    if ref.dtype.startswith("float8") and not ref.parts:
        low, high = edges_of(float8_table(ref.dtype).tolist(), even=True)
        codes = reader.read(ref, start, stop)
        return low[codes], high[codes]
    if not ref.parts:
        values = as_singles(reader.read(ref, start, stop), ref.dtype)
        return values, values
    found: list[tuple[Singles, Singles]] = []
    begin = 0
    for part in ref.parts:
        first, last = max(start - begin, 0), min(stop - begin, part.numel)
        if first < last:
            ends = _intervals(reader, part, first, last)
            if ends is None:
                return None
            found.append(ends)
        begin += part.numel
    return np.concatenate([low for low, _ in found]), np.concatenate([high for _, high in found])
