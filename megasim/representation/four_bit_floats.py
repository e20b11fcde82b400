"""Floats of 4 bits (E2M1), two to a byte, the first in the lower half, with scales of blocks.

MXFP4 has a power of two for each 32 values, NVFP4 a float8 for each 16 and one float32 for the
tensor: compressed-tensors stores what the scales were multiplied by, ModelOpt what they are to be
multiplied by. gpt-oss keeps the experts of a layer as `_blocks` and `_scales`, each a matrix of
outputs × inputs, where its plain weights are inputs × outputs (transformers 5.24.0,
`integrations/mxfp4.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Final

from megasim.checkpoint.tensors import TensorRef
from megasim.representation.boxes import BoxDecoder, transposed
from megasim.representation.grids import E2M1, Blocks, Levels, Numbers, Packed, Rescaled
from megasim.representation.logical import Represented, StoredTensors

_POWERS: Final = ("uint8", "float8_e8m0fnu")


def packed_floats(stored: StoredTensors) -> Iterator[Represented]:
    """Find 4-bit floats under the names of compressed-tensors and of ModelOpt."""
    for prefix, codes in stored.ending_in("weight_packed"):
        if codes.dtype == "uint8":
            whole = f"{prefix}weight_global_scale"
            yield _two_scales(stored, prefix, f"{prefix}weight_packed", whole, divided=True)
    for prefix, codes in stored.ending_in("weight"):
        whole = f"{prefix}weight_scale_2"
        if codes.dtype == "uint8" and whole in stored.tensors:
            yield _two_scales(stored, prefix, f"{prefix}weight", whole, divided=False)


def _two_scales(
    stored: StoredTensors, prefix: str, codes_key: str, whole_key: str, *, divided: bool
) -> Represented:
    key, scales_key = f"{prefix}weight", f"{prefix}weight_scale"
    codes = stored.tensors[codes_key]
    scales, whole = stored.tensors.get(scales_key), stored.tensors.get(whole_key)
    present = (codes_key, scales_key, whole_key)
    sources = tuple(name for name in present if name in stored.tensors)
    shape = (*codes.shape[:-1], 2 * codes.shape[-1]) if codes.shape else ()
    if f"{prefix}comfy_quant" in stored.tensors:
        problem = "NVFP4 of ComfyUI, whose scales are laid out in tiles of a GPU: not decoded"
        return Represented(key, shape, sources, None, problem)
    if scales is None:
        return Represented(key, shape, sources, None, "its weight_scale is missing")
    if whole is not None and (whole.numel != 1 or whole.dtype != "float32"):
        return Represented(key, shape, sources, None, "its scale of the whole is no float32")
    return float_blocks(key, shape, sources, codes, scales, whole, divided=divided)


def float_blocks(
    key: str,
    shape: tuple[int, ...],
    sources: tuple[str, ...],
    codes: TensorRef,
    scales: TensorRef,
    factor: TensorRef | None = None,
    *,
    divided: bool = False,
) -> Represented:
    """Return 4-bit floats with a scale for each 16 or 32 of a row, as one tensor.

    Args:
        factor: one more scale, of the whole tensor; the others are divided by it where `divided`.
    """
    rows, columns = prod(shape[:-1]), shape[-1] if shape else 0
    size = 16 if scales.dtype == "float8_e4m3fn" else 32
    is_sound = scales.dtype in (*_POWERS, "float8_e4m3fn") and (factor is None or size == 16)
    if not (rows and columns and is_sound and scales.shape == (*shape[:-1], columns // size)):
        said = f"{'x'.join(map(str, scales.shape))} of {scales.dtype}"
        wanted = "x".join(map(str, shape))
        problem = f"its scales, {said}, fit no blocks of {wanted} 4-bit floats"
        return Represented(key, shape, sources, None, problem)
    dtype = "float8_e8m0fnu" if scales.dtype in _POWERS else scales.dtype
    numbers = Numbers(scales, columns // size, dtype)
    grid = numbers if factor is None else Rescaled(numbers, factor, divided)
    name = "nvfp4" if size == 16 else "mxfp4"
    decoder = _levels(rows, columns, name, codes, grid, size)
    return Represented(key, shape, sources, decoder)


def _levels(
    rows: int, columns: int, name: str, codes: TensorRef, grid: Numbers | Rescaled, size: int
) -> BoxDecoder:
    spread = Blocks(grid, columns, rows, (1, size))
    return Levels(rows, columns, name, Packed(codes, columns // 2, 4), E2M1, spread)


def fused_experts(stored: StoredTensors) -> Iterator[Represented]:
    """Find the experts of gpt-oss: `_blocks` of bytes, and `_scales`."""
    for key, blocks in stored.ending_in("_blocks"):
        if blocks.dtype != "uint8" or len(blocks.shape) != 4:
            continue
        experts, outputs, groups, width = blocks.shape
        shape = (experts, groups * width * 2, outputs)
        scales = stored.tensors.get(f"{key}_scales")
        if scales is None:
            yield Represented(key, shape, (f"{key}_blocks",), None, "its _scales are missing")
            continue
        sources = (f"{key}_blocks", f"{key}_scales")
        if width != 16 or scales.dtype not in _POWERS or scales.shape != blocks.shape[:3]:
            said = "x".join(map(str, scales.shape))
            problem = f"its scales, {said} of {scales.dtype}, fit no blocks of 32 4-bit floats"
            yield Represented(key, shape, sources, None, problem)
            continue
        if not blocks.numel:
            continue
        numbers = Numbers(scales, groups, "float8_e8m0fnu")
        rows, columns = experts * outputs, groups * 32
        decoder = _levels(rows, columns, "mxfp4", blocks, numbers, 32)
        yield Represented(key, shape, sources, transposed(decoder, experts))


def declared_floats(stored: StoredTensors) -> Iterator[Represented]:
    """Find tensors of safetensors' dtype F4, whose header counts values, not bytes."""
    for key, odd in stored.unread.items():
        if odd.dtype != "float4_e2m1fn" or not odd.shape or not odd.stored or odd.shape[-1] % 2:
            continue
        prefix = key.removesuffix("weight")
        scales_key = f"{prefix}weight_scale"
        scales = stored.tensors.get(scales_key)
        if scales is not None and scales_key != key:
            sources = (key, scales_key)
            yield float_blocks(key, odd.shape, sources, odd.stored[0], scales)
