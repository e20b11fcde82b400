"""Whether plain values are those of a quantised tensor once inputs, or outputs, have a factor each.

AWQ multiplies what stands for an input that matters by a factor before it rounds, and divides what
feeds that input by the same: a norm, or the rows of the layer before (Lin et al. 2023,
arXiv:2306.00978). Where a norm tells the factors, they are known; else one factor for each input,
or output, has to explain all values that it is for. It also cuts off the values beyond a range, so
what lies beyond the last code is within.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Final

import numpy as np

from megasim.checkpoint.dtypes import AnyArray, Singles
from megasim.checkpoint.tensor_refs import ElementReader
from megasim.checkpoint.tensors import TensorRef
from megasim.representation.boxes import Box, BoxDecoder, Transposed, as_singles
from megasim.representation.grids import Affine, Packed
from megasim.representation.rounding import intervals

_PIECE: Final = 1 << 20
# So many values at least have to be explained by one factor.
_FEWEST: Final = 16
# Rows that are looked at before all are.
_FIRST_ROWS: Final = 64
# Half a unit in the last place of a dtype, relative.
_HALF_UNIT: Final = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


class _CutOff(Affine):
    """Codes of which the first and the last stand for all that lies beyond them, too."""

    def _code_interval(
        self, reader: ElementReader, box: Box, dtype: str
    ) -> tuple[AnyArray, AnyArray]:
        low, high = super()._code_interval(reader, box, dtype)
        if isinstance(self.codes, Packed):
            last = np.float32((1 << self.codes.bits) - 1)
            low = np.where(low < 0, -np.float32(np.inf), low)
            high = np.where(high > last, np.float32(np.inf), high)
        return low, high


def without_ends(ref: TensorRef) -> TensorRef:
    """Return a tensor of which the intervals of the first and the last code have no end."""
    decoder = ref.decoder
    if isinstance(decoder, Transposed):
        return replace(ref, decoder=replace(decoder, inner=_cut_off(decoder.inner)))
    return replace(ref, decoder=_cut_off(decoder)) if isinstance(decoder, Affine) else ref


def _cut_off(decoder: BoxDecoder) -> BoxDecoder:
    if not isinstance(decoder, Affine):
        return decoder
    return _CutOff(*(getattr(decoder, field.name) for field in fields(decoder)))


def input_factors(plain: Singles, folded: Singles) -> Singles | None:
    """Return the factors of inputs that a norm tells, which was divided by them; None without.

    >>> input_factors(np.float32([1.0, 3.0]), np.float32([2.0, 1.0])).tolist()
    [0.5, 3.0]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        factors: Singles = plain / folded
    return factors if np.isfinite(factors).all() and (factors > 0).all() else None


def slack_of_factors(*dtypes: str) -> float:
    """Return how much of a value rounding its factor and itself may take away."""
    return 2 * max(_HALF_UNIT.get(dtype, 0.0) for dtype in dtypes) + 2.0**-20


def explains(
    reader: ElementReader,
    coded: TensorRef,
    plain: TensorRef,
    inputs: Singles | None,
    slack: float,
    *,
    outputs: bool = False,
) -> bool:
    """Whether all values of a plain matrix are within those of a quantised one, times factors.

    Args:
        inputs: the factor of each column; None: one that is not known for each.
        outputs: whether each row has a factor, too, that is not known. Only with known `inputs`.
        slack: how much a value may be off, as a part of it.

    Raises:
        CheckpointError: either cannot be read.
    """
    rows, columns = coded.shape
    coded = without_ends(coded)
    low = np.full(columns, 0.0)  # what the factor of each column is at least, and at most
    high = np.full(columns, np.inf)
    if (inputs is None and rows < _FEWEST) or (outputs and columns < _FEWEST):
        return False
    step = max(_PIECE // columns, 1)
    starts = [0, *range(min(_FIRST_ROWS, step), rows, step)]
    for first, last in zip(starts, [*starts[1:], rows], strict=True):
        ends = intervals(reader, coded, first * columns, last * columns)
        if ends is None:
            return False
        shape = last - first, columns
        bottom, top = (end.reshape(shape) for end in ends)
        values = as_singles(reader.read(plain, first * columns, last * columns), plain.dtype)
        values = values.reshape(shape) if inputs is None else values.reshape(shape) * inputs
        if inputs is not None and not outputs:
            room = np.float32(slack) * np.abs(values)
            if ((values < bottom - room) | (values > top + room)).any():
                return False
            continue
        least, most = _factors(values, bottom, top, slack)
        if outputs:
            if (least.max(1) > most.min(1)).any():
                return False
            continue
        low, high = np.maximum(low, least.max(0)), np.minimum(high, most.min(0))
        if (low > high).any():
            return False
    return True


def _factors(
    values: Singles, bottom: Singles, top: Singles, slack: float
) -> tuple[AnyArray, AnyArray]:
    """Return what each value has to be multiplied by at least, and at most, to be within."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        first, second = bottom / values, top / values
    least, most = np.minimum(first, second), np.maximum(first, second)
    is_zero = values == 0
    fits = (bottom <= 0) & (top >= 0)
    least = np.where(is_zero, np.where(fits, 0.0, np.inf), np.maximum(least, 0.0))
    most = np.where(is_zero, np.where(fits, np.inf, 0.0), most)
    return least * (1 - slack), most * (1 + slack)
