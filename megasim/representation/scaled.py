"""Codes that are numbers themselves, each times the scale of its tensor, row or block.

FP8 with scales as ComfyUI (`scale_weight`), compressed-tensors (`weight_scale`) and DeepSeek
(`weight_scale_inv`, which is the scale and not its inverse; blocks of 128 × 128) write it; MXFP8,
with a power of two for each 32 elements of a row; int8 with a scale for each row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np

from megasim.checkpoint.tensors import TensorReader, TensorRef
from megasim.kernels.state import Singles
from megasim.representation.boxes import Box, BoxDecoder, as_singles, read_box
from megasim.representation.logical import Represented, StoredTensors

# Names of the scale beside `weight`.
_SCALES: Final = ("scale_weight", "weight_scale", "weight_scale_inv")
_CODES: Final = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "int8")
# Sizes of blocks that are in use, beside whole tensors, rows and columns.
_BLOCKS: Final = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class ScaledCodes(BoxDecoder):
    """Values = codes × scales, rounded once to float32.

    Attributes:
        codes: rows × columns of a float8 dtype or int8.
        scales: one for each block, row-major.
        height: rows of a matrix, where the codes are several matrices one below another: a block
            ends with its matrix.
        block: rows and columns of a block; the last of a matrix may be smaller.
    """

    codes: TensorRef
    scales: TensorRef
    height: int
    block: tuple[int, int]

    @property
    def scheme(self) -> str:
        name = self.codes.dtype.replace("float8", "fp8")
        if self.scales.numel == 1:
            return f"{name} scaled"
        rows, columns = self.block
        if rows == 1 and columns == 32 and self.scales.dtype in ("uint8", "float8_e8m0fnu"):
            return f"mx{name}"
        if columns >= self.columns:
            return f"{name} scaled by row" if rows == 1 else f"{name} scaled by {rows} rows"
        return f"{name} scaled by {rows}x{columns}"

    @property
    def stored(self) -> tuple[TensorRef, ...]:
        return self.codes, self.scales

    def fill(self, reader: TensorReader, box: Box, out: Singles) -> None:
        out[...] = as_singles(read_box(reader, self.codes, self.columns, box), self.codes.dtype)
        rows, columns = self.block
        width = -(-self.columns // columns)
        across = np.arange(box.left, box.right) // columns
        matrix, row = np.divmod(np.arange(box.top, box.bottom), self.height)
        down = matrix * -(-self.height // rows) + row // rows
        area = Box(int(down[0]), int(down[-1]) + 1, int(across[0]), int(across[-1]) + 1)
        raw = read_box(reader, self.scales, width, area)
        is_power = self.scales.dtype == "uint8"  # E8M0, before torch had a dtype for it
        scales = as_singles(raw, "float8_e8m0fnu" if is_power else self.scales.dtype)
        if area.shape[1] == 1:
            out *= scales[down - area.top]
        else:
            out *= scales[(down - area.top)[:, None], (across - area.left)[None, :]]


def scaled_codes(stored: StoredTensors) -> Iterator[Represented]:
    """Find codes of float8 or int8 with a scale beside them."""
    for prefix, codes in stored.ending_in("weight"):
        if codes.dtype not in _CODES or (prefix and prefix[-1] not in "./"):
            continue
        name = next((name for name in _SCALES if prefix + name in stored.tensors), None)
        if name is None:
            continue
        scales = stored.tensors[prefix + name]
        key, sources = prefix + "weight", (prefix + "weight", prefix + name)
        if codes.dtype == "int8" and prefix + "weight_zero_point" in stored.tensors:
            continue  # of compressed-tensors
        yield scaled(key, codes, scales, sources)
    yield from _fused_experts(stored)


def _fused_experts(stored: StoredTensors) -> Iterable[Represented]:
    """Find fused experts, a tensor of three dimensions that is called by its layer alone."""
    for name in ("_scale_inv", "_scale"):
        for key, scales in stored.ending_in(name):
            codes = stored.tensors.get(key)
            if codes is not None and codes.dtype in _CODES and len(codes.shape) == 3:
                yield scaled(key, codes, scales, (key, key + name))


def scaled(key: str, codes: TensorRef, scales: TensorRef, sources: tuple[str, ...]) -> Represented:
    """Return codes with scales as one tensor, whose blocks are told from the two shapes."""
    shape = codes.shape
    rows, columns = (1, 1) if not shape else (prod(shape[:-1]), shape[-1])
    height = shape[-2] if len(shape) > 2 else rows
    if len(shape) == 4:  # a convolution: one matrix, a row for each channel that comes out
        rows, columns = shape[0], prod(shape[1:])
        height = rows
    block = _block(rows // max(height, 1), height, columns, scales)
    if block is None:
        said = "x".join(map(str, scales.shape)) or "one number"
        wanted = "x".join(map(str, shape))
        problem = f"its scales, {said} of {scales.dtype}, fit no blocks of its {wanted} codes"
        return Represented(key, shape, sources, None, problem)
    decoder = ScaledCodes(rows, columns, codes, scales, height, block)
    return Represented(key, shape, sources, decoder)


def _block(matrices: int, height: int, columns: int, scales: TensorRef) -> tuple[int, int] | None:
    """Return rows and columns of the blocks that so many scales fit, None where there are none."""
    is_power = scales.dtype in ("uint8", "float8_e8m0fnu")
    if not (scales.dtype.startswith(("float", "bfloat")) or is_power) or scales.numel == 0:
        return None
    if not (matrices and height and columns):
        return None
    if scales.numel == 1:
        return (height, columns) if matrices == 1 else None
    if scales.shape == (matrices * height,) or (
        matrices > 1 and scales.shape == (matrices, height)
    ):
        return 1, columns
    if scales.shape == (matrices,):
        return height, columns
    if len(scales.shape) < 2 or prod(scales.shape[:-2]) != matrices:
        return None
    down, across = scales.shape[-2:]
    tall, wide = _block_size(height, down), _block_size(columns, across)
    return None if tall is None or wide is None else (tall, wide)


def _block_size(size: int, count: int) -> int | None:
    """Return the size of `count` equal blocks that `size` elements are cut into, the last smaller.

    >>> _block_size(4096, 32), _block_size(576, 5), _block_size(100, 100), _block_size(7, 3)
    (128, 128, 1, None)
    """
    if count == size:
        return 1
    if count == 1:
        return size
    fits = [block for block in _BLOCKS if -(-size // block) == count]
    exact = [block for block in fits if size % block == 0]
    return next(iter(exact or reversed(fits)), None)
