"""Codes that are numbers themselves, each times the scale of its tensor, row or block.

FP8 with scales as ComfyUI (`scale_weight`), compressed-tensors (`weight_scale`) and DeepSeek
(`weight_scale_inv`, which is the scale and not its inverse; blocks of 128 × 128) write it; MXFP8,
with a power of two for each 32 elements of a row; int8 with a scale for each row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod
from typing import Final

from megasim.checkpoint.tensors import TensorRef
from megasim.representation.grids import Affine, Blocks, Numbers
from megasim.representation.logical import Represented, StoredTensors
from megasim.representation.packed_integers import NO_ZERO_POINTS, have_zero_points

# Names of the scale beside `weight`.
_SCALES: Final = ("scale_weight", "weight_scale", "weight_scale_inv")
_CODES: Final = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "int8")
# Of scales that are powers of two, E8M0: many files keep them as bytes.
_POWERS: Final = ("uint8", "float8_e8m0fnu")
# Sizes of blocks that are in use, beside whole tensors, rows and columns.
_BLOCKS: Final = (16, 32, 64, 128, 256)


def scaled_codes(stored: StoredTensors) -> Iterator[Represented]:
    """Find codes of float8 or int8 with a scale beside them."""
    with_zeros = have_zero_points(stored)
    for prefix, codes in stored.ending_in("weight"):
        if codes.dtype not in _CODES or (prefix and prefix[-1] not in "./"):
            continue
        name = next((name for name in _SCALES if prefix + name in stored.tensors), None)
        if name is None:
            continue
        scales = stored.tensors[prefix + name]
        key, sources = prefix + "weight", [prefix + "weight", prefix + name]
        zeros = stored.tensors.get(f"{prefix}weight_zero_point")
        if zeros is not None:
            sources.append(f"{prefix}weight_zero_point")
        elif codes.dtype == "int8" and with_zeros:
            yield Represented(key, codes.shape, tuple(sources), None, NO_ZERO_POINTS)
            continue
        yield scaled(key, codes, scales, tuple(sources), zeros)
    yield from _of_other_names(stored)


def _of_other_names(stored: StoredTensors) -> Iterable[Represented]:
    """Find what is not called `weight`: fused experts, the matrices of a recurrent layer."""
    for name in ("_scale_inv", "_scale"):
        for key, scales in stored.ending_in(name):
            codes = stored.tensors.get(key)
            if codes is not None and codes.dtype in _CODES and len(codes.shape) > 1:
                yield scaled(key, codes, scales, (key, key + name))


def scaled(
    key: str,
    codes: TensorRef,
    scales: TensorRef,
    sources: tuple[str, ...],
    zeros: TensorRef | None = None,
) -> Represented:
    """Return codes with scales as one tensor, whose blocks are told from the two shapes.

    Args:
        zeros: zero points, as many as scales.
    """
    shape = codes.shape
    rows, columns = (1, 1) if not shape else (prod(shape[:-1]), shape[-1])
    height = shape[-2] if len(shape) > 2 else rows
    if len(shape) == 4:  # a convolution: a row for each channel that comes out
        rows, columns = shape[0], prod(shape[1:])
    if len(shape) == 4 or scales.numel == 1:
        height = rows  # one matrix
    block = _block(rows // max(height, 1), height, columns, scales)
    if block is None:
        said = "x".join(map(str, scales.shape)) or "one number"
        wanted = "x".join(map(str, shape))
        problem = f"its scales, {said} of {scales.dtype}, fit no blocks of its {wanted} codes"
        return Represented(key, shape, sources, None, problem)
    if zeros is not None and zeros.numel != scales.numel:
        problem = f"its {zeros.numel} zero points do not fit its {scales.numel} scales"
        return Represented(key, shape, sources, None, problem)
    is_power = scales.dtype in _POWERS
    across = -(-columns // block[1])
    zero_points = None
    if zeros is not None:
        numbers = Numbers(zeros, across, zeros.dtype)
        zero_points = Blocks(numbers, columns, height, block)
    dtype = "float8_e8m0fnu" if is_power else scales.dtype
    numbers = Numbers(scales, across, dtype)
    decoder = Affine(
        rows,
        columns,
        _name(codes.dtype, columns, scales, block),
        Numbers(codes, columns, codes.dtype),
        Blocks(numbers, columns, height, block),
        zero_points,
    )
    return Represented(key, shape, sources, decoder)


def _name(codes: str, columns: int, scales: TensorRef, block: tuple[int, int]) -> str:
    name = codes.replace("float8", "fp8")
    tall, wide = block
    if scales.numel == 1:
        return f"{name} scaled"
    if block == (1, 32) and scales.dtype in _POWERS:
        return f"mx{name}"
    if wide >= columns:
        return f"{name} scaled by row" if tall == 1 else f"{name} scaled by {tall} rows"
    return f"{name} scaled by {tall}x{wide}"


def _block(matrices: int, height: int, columns: int, scales: TensorRef) -> tuple[int, int] | None:
    """Return rows and columns of the blocks that so many scales fit, None where there are none."""
    if not scales.dtype.startswith(("float", "bfloat", "uint8")) or scales.numel == 0:
        return None
    if not (matrices and height and columns):
        return None
    if scales.numel == 1:
        return height, columns
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
