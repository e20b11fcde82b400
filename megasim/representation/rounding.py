"""Whether plain values are those that a quantised tensor was made of.

Quantising leaves of each value a code, and a code stands for an interval: half a step of the grid
of its block to either side. Values of which all lie in the intervals of the codes are rounded to
these very codes: the one tensor is the other, quantised. Of a model one small training step away
some lie beyond.

GPTQ does not round to nearest: it rounds the columns of a matrix one after another, and moves
those still to come to make up for the error (Frantar et al. 2023, arXiv:2210.17323). But nothing
has moved the column that it takes first: all values of that lie within half a step. It is column 0,
or, where columns are taken in the order of their inputs' size, any.
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
# What a proof rests on that is not of all values: see `Rounding.basis`.
COMPENSATED: Final = "compensated"
SCALED: Final = "scaled"
# When so many values were looked at, and more than this part of them lies beyond, the others will
# not make it a quantised copy.
_MOST_STEPS: Final = 1e6
# Of a matrix that GPTQ made at 4 bits, 75 to 90 % of the values lie within half a step, and others
# one or two steps off. Where more or fewer do, or none so far, it is another method's: that one
# column lies within proves nothing then.
_PART_WITHIN: Final = (0.3, 0.98)
_FAR: Final = 0.25
# How probable it may be that any column of a matrix lies within by chance, if each of its values
# does so as often as those of the others.
_CHANCE: Final = 1e-3
# A column of values so much smaller than the others, squared, lies within whatever they were.
_SMALL: Final = 0.01
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
        basis: what proves the one to be made of the other where not all are within: "compensated"
            by the column that GPTQ rounds first, "scaled" by factors of inputs as of AWQ; else "".
        proving: how many values prove that, all of them within half a step. 0 where the basis is
            "compensated": a column lies within, but of too few rows to prove anything by itself.
    """

    measured: int
    within: int
    excess: float
    basis: str = ""
    proving: int = 0


def measure_rounding(reader: ElementReader, coded: TensorRef, plain: TensorRef) -> Rounding | None:
    """Return how the values of a plain tensor lie to the codes of a quantised one.

    Both are of one size, in one order. None where the intervals of the codes are not known.

    Raises CheckpointError when either cannot be read.
    """
    casts = ("", "bfloat16", "float16") if plain.dtype == "float32" else ("",)
    columns = coded.shape[1] if len(coded.shape) == 2 else 0
    tallies = [_Tally(columns) for _ in casts]
    measured = 0
    piece = max(_PIECE // columns, 1) * columns if columns else _PIECE
    for start in range(0, coded.numel, piece):
        stop = min(start + piece, coded.numel)
        ends = intervals(reader, coded, start, stop)
        if ends is None:
            return None
        values = as_singles(reader.read(plain, start, stop), plain.dtype)
        step = _steps(*ends)
        for tally, cast in zip(tallies, casts, strict=True):
            tally.add(values_cast(values, cast), ends, step)
        measured = stop
        if measured >= _ENOUGH and max(t.within for t in tallies) < (1 - _BEYOND) * measured:
            break
    best = min(tallies, key=lambda tally: (-tally.within, tally.excess))
    first = [n for tally in tallies if (n := tally.first_column(measured)) is not None]
    if best.within == measured or not first:
        return Rounding(measured, best.within, best.excess)
    return Rounding(measured, best.within, best.excess, COMPENSATED, max(first))


class _Tally:
    """What of the values that were looked at lies within half a step.

    Attributes:
        within, excess: of all, as in `Rounding`.
    """

    def __init__(self, columns: int) -> None:
        self.within, self.excess = 0, 0.0
        self._columns = columns
        self._inside = np.zeros(columns, np.int64)  # values of each column that lie within
        self._squares = np.zeros(columns, np.float64)

    def add(self, values: Singles, ends: tuple[Singles, Singles], step: Singles) -> None:
        """Count some values, whole rows where there are columns."""
        beyond = np.maximum(ends[0] - values, values - ends[1])
        is_within = beyond <= 0
        self.within += int(is_within.sum())
        self.excess = max(self.excess, min(float(np.max(beyond / step, initial=0.0)), _MOST_STEPS))
        if self._columns:
            self._inside += is_within.reshape(-1, self._columns).sum(0)
            rows = values.reshape(-1, self._columns)
            self._squares += np.einsum("ij,ij->j", rows, rows, dtype=np.float64)

    def first_column(self, measured: int) -> int | None:
        """Return how many values the column has that was rounded before any was made up for.

        0 where one lies within half a step as a whole that may do so by chance; None where none
        does, or the others do not lie as GPTQ leaves them.
        """
        rows = measured // self._columns if self._columns else 0
        least, most = (part * measured for part in _PART_WITHIN)
        if not rows or not least <= self.within <= most or self.excess < _FAR:
            return None
        whole = (self._inside == rows) & (self._squares > _SMALL * self._squares.mean())
        if whole[0]:
            return rows
        if not whole.any():
            return None
        by_chance = self._columns * (self.within / measured) ** rows
        return rows if by_chance < _CHANCE else 0


def _steps(low: Singles, high: Singles) -> Singles:
    """Return the widths of intervals; of those without an end, the mean of the others."""
    step = np.maximum(high - low, np.float32(1e-30))
    has_ends = np.isfinite(step)
    usual = step[has_ends].mean() if has_ends.any() else np.float32(1)
    widths: Singles = np.where(has_ends, step, usual).astype(np.float32)
    return widths


def values_cast(values: Singles, dtype: str) -> Singles:
    """Return values rounded to a dtype, to nearest with ties to even."""
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        return (rounded & np.uint32(0xFFFF0000)).view(np.float32)
    return values


def intervals(
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
            ends = intervals(reader, part, first, last)
            if ends is None:
                return None
            found.append(ends)
        begin += part.numel
    return np.concatenate([low for low, _ in found]), np.concatenate([high for _, high in found])
