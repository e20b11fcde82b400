"""Integers of 2 to 8 bits packed into words, with scales and zero points: GPTQ, AWQ, and
compressed-tensors' pack-quantized.

GPTQ stores the transposed weights: `qweight` (in × bits / 32, out) is packed down its columns,
`qzeros` (groups, out × bits / 32) along its rows, `g_idx` names the group of each input. In its
first convention zero points are stored one smaller than they are ("gptq"), in its second as they
are ("gptq_v2"). AWQ stores them transposed too, packed along the rows in its own order. Sources:
auto-gptq 0.7.1 `qlinear_cuda_old.py`, autoawq 0.2.9 `packing_utils.py`, compressed-tensors 0.20.1
`pack_quantized`.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Final

import numpy as np

from megasim.checkpoint.strict_json import JSON
from megasim.checkpoint.tensors import TensorRef
from megasim.representation.boxes import transposed
from megasim.representation.grids import Affine, Blocks, Indexed, Numbers, Packed, Same, Shifted
from megasim.representation.logical import Represented, StoredTensors

_FLOATS: Final = ("float32", "float16", "bfloat16")
# Which value of a word each 4 bits of it hold, from the lowest on.
_AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)
_PARTS: Final = ("qweight", "qzeros", "scales", "g_idx")
_WORD: Final = 32


def transposed_groups(stored: StoredTensors) -> Iterator[Represented]:
    """Find what GPTQ and AWQ write: `qweight` with `scales`."""
    for prefix, words in stored.ending_in("qweight"):
        parts = {n: stored.tensors[prefix + n] for n in _PARTS if prefix + n in stored.tensors}
        if words.dtype != "int32" or len(words.shape) != 2 or "scales" not in parts:
            continue
        sources = tuple(prefix + name for name in parts)
        key = f"{prefix}weight"
        try:
            yield _transposed(stored, key, sources, parts)
        except ValueError as error:
            yield Represented(key, words.shape, sources, None, str(error))


def _transposed(
    stored: StoredTensors, key: str, sources: tuple[str, ...], parts: dict[str, TensorRef]
) -> Represented:
    words, scales = parts["qweight"], parts["scales"]
    zeros = parts.get("qzeros")
    if len(scales.shape) != 2 or scales.dtype not in _FLOATS or not scales.numel:
        raise ValueError(f"its scales, {_shape(scales)} of {scales.dtype}, are no groups × outputs")
    if zeros is None:
        raise ValueError("its zero points, qzeros, are missing")
    groups, outputs = scales.shape
    if words.shape[1] == outputs:
        return _gptq(stored, key, sources, parts)
    if words.shape[1] * 8 == outputs and "g_idx" not in parts:
        inputs = words.shape[0]
        if zeros.shape != (groups, words.shape[1]) or zeros.dtype != "int32":
            raise ValueError(f"its qzeros, {_shape(zeros)}, do not fit {groups} groups")
        block = _group_size(inputs, groups), 1
        packed = (Packed(ref, words.shape[1], 4, 1, _AWQ_ORDER) for ref in (words, zeros))
        codes, zero_codes = packed
        decoder = Affine(
            *(inputs, outputs, "awq int4", codes),
            Blocks(Numbers(scales, outputs, scales.dtype), outputs, inputs, block),
            Blocks(zero_codes, outputs, inputs, block),
        )
        return Represented(key, (outputs, inputs), sources, transposed(decoder, 1))
    raise ValueError(
        f"its codes, {_shape(words)}, and its scales, {_shape(scales)}, fit neither GPTQ nor AWQ"
    )


def _gptq(
    stored: StoredTensors, key: str, sources: tuple[str, ...], parts: dict[str, TensorRef]
) -> Represented:
    words, scales, zeros = parts["qweight"], parts["scales"], parts["qzeros"]
    groups, outputs = scales.shape
    if len(zeros.shape) != 2 or zeros.shape[0] != groups or zeros.dtype != "int32":
        raise ValueError(f"its qzeros, {_shape(zeros)}, do not fit {groups} groups")
    bits, rest = divmod(zeros.shape[1] * _WORD, outputs)
    if rest or bits not in (2, 3, 4, 8) or words.shape[0] % (bits if bits == 3 else 1):
        raise ValueError(f"its qzeros, {_shape(zeros)}, fit no whole bits of {outputs} outputs")
    inputs = words.shape[0] * _WORD // bits
    shift, name = _zero_convention(stored, key, zeros, bits)
    codes = Packed(words, outputs, bits, 0)
    zero_codes = Shifted(Packed(zeros, zeros.shape[1], bits), shift, 1 << bits)
    scale_numbers = Numbers(scales, outputs, scales.dtype)
    index = parts.get("g_idx")
    if index is None:
        block = _group_size(inputs, groups), 1
        decoder = Affine(
            *(inputs, outputs, f"{name} int{bits}", codes),
            Blocks(scale_numbers, outputs, inputs, block),
            Blocks(zero_codes, outputs, inputs, block),
        )
    else:
        _check_index(stored, f"{key.removesuffix('weight')}g_idx", index, inputs, groups)
        decoder = Affine(
            *(inputs, outputs, f"{name} int{bits}", codes),
            Indexed(scale_numbers, index, 0, groups),
            Indexed(zero_codes, index, 0, groups),
        )
    return Represented(key, (outputs, inputs), sources, transposed(decoder, 1))


def _zero_convention(
    stored: StoredTensors, key: str, zeros: TensorRef, bits: int
) -> tuple[int, str]:
    """Return what is to be added to stored zero points, and the name of the convention.

    Without a config.json it is known only where all zero points are in the middle, as of symmetric
    quantisation; ValueError where it is not.
    """
    said = stored.config.get("checkpoint_format") or stored.config.get("format")
    if said in ("gptq", "gptq_v2"):
        return (0, "gptq_v2") if said == "gptq_v2" else (1, "gptq")
    if stored.config.get("quant_method") == "gptq" and said is None:
        return 1, "gptq"
    if said is not None and stored.config.get("quant_method") == "gptq":
        raise ValueError(f"GPTQ in the layout {_told(said)}: not decoded")
    words = stored.read_small(f"{key.removesuffix('weight')}qzeros")
    middle = 1 << (bits - 1)
    for shift, name in ((1, "gptq"), (0, "gptq_v2")):
        if bits == 3 or words is None:
            break
        word = sum((middle - shift) << at for at in range(0, _WORD, bits))
        if (words.view(np.uint32) == np.uint32(word)).all():
            return shift, name
    raise ValueError(
        "its zero points may be stored one too small (gptq) or as they are (gptq_v2): "
        "its config.json, which says so, is not beside it"
    )


def _told(value: JSON) -> str:
    return ascii(str(value)[:40])


def _check_index(
    stored: StoredTensors, name: str, index: TensorRef, inputs: int, groups: int
) -> None:
    """Raise ValueError unless an index names a group that is there for each input."""
    if index.numel != inputs or index.dtype not in ("int32", "int64"):
        raise ValueError(f"its g_idx has {index.numel} {index.dtype} for {inputs} inputs")
    found = stored.read_small(name)
    if found is None:
        raise ValueError("its g_idx is too large to be checked")
    for group in (int(found.min()), int(found.max())):
        if not 0 <= group < groups:
            raise ValueError(f"its g_idx names group {group} of {groups}")


def _group_size(size: int, groups: int) -> int:
    """Return the size of equal groups; ValueError where there are none.

    >>> _group_size(4096, 32)
    128
    """
    if size % groups:
        raise ValueError(f"{groups} groups do not divide {size} inputs")
    return size // groups


NO_ZERO_POINTS: Final = "its zero points, weight_zero_point, are missing; other layers have theirs"


def have_zero_points(stored: StoredTensors) -> bool:
    """Whether the layers of a file that compressed-tensors wrote have zero points, one as another.

    So it is where some have, unless config.json says that others are symmetric.

    >>> zeros = TensorRef("a.weight_zero_point", "int8", (4, 1), "", 0)
    >>> have_zero_points(StoredTensors({"a.weight_zero_point": zeros}))
    True
    """
    if not any(key.endswith("weight_zero_point") for key in stored.tensors):
        return False
    said = stored.config.get("config_groups")
    groups = list(said.values()) if isinstance(said, dict) else []
    weights = [group.get("weights") for group in groups if isinstance(group, dict)]
    return not any(isinstance(of, dict) and of.get("symmetric") is True for of in weights)


def packed_rows(stored: StoredTensors) -> Iterator[Represented]:
    """Find what compressed-tensors writes as pack-quantized: `weight_packed` of int32."""
    with_zeros = have_zero_points(stored)
    for prefix, words in stored.ending_in("weight_packed"):
        names = ("scale", "shape", "zero_point", "g_idx")
        parts = {
            name: stored.tensors[f"{prefix}weight_{name}"]
            for name in names
            if f"{prefix}weight_{name}" in stored.tensors
        }
        if words.dtype != "int32" or len(words.shape) < 2:
            continue
        sources = (f"{prefix}weight_packed", *(f"{prefix}weight_{name}" for name in parts))
        key = f"{prefix}weight"
        if "zero_point" not in parts and with_zeros:
            yield Represented(key, words.shape, sources, None, NO_ZERO_POINTS)
            continue
        try:
            yield _packed(stored, prefix, sources, words, parts)
        except ValueError as error:
            yield Represented(key, words.shape, sources, None, str(error))


def _packed(
    stored: StoredTensors,
    prefix: str,
    sources: tuple[str, ...],
    words: TensorRef,
    parts: dict[str, TensorRef],
) -> Represented:
    scales = parts.get("scale")
    if scales is None or scales.dtype not in _FLOATS:
        raise ValueError("its weight_scale is missing")
    shape = _said_shape(stored, f"{prefix}weight_shape", words)
    rows, columns = prod(shape[:-1]), shape[-1]
    bits = [b for b in range(1, 9) if -(-columns * b // _WORD) == words.shape[-1]]
    if len(bits) != 1 or prod(words.shape[:-1]) != rows:
        raise ValueError(f"its codes, {_shape(words)}, fit no whole bits of {shape} values")
    height, groups = shape[-2], scales.shape[-1] if scales.shape else 1
    by_row = prod(scales.shape[:-1]) == rows and len(scales.shape) > 1
    if not by_row and scales.numel != 1:
        raise ValueError(f"its scales, {_shape(scales)}, do not fit {shape} values")
    middle = 1 << (bits[0] - 1)
    scale_numbers = Numbers(scales, groups, scales.dtype)
    zeros = parts.get("zero_point")
    zero_grid: Numbers | Packed | Shifted | None = None
    if zeros is not None and zeros.dtype == "int32" and zeros.numel != scales.numel:
        if len(shape) != 2 or zeros.shape != (-(-rows * bits[0] // _WORD), groups):
            raise ValueError(f"its zero points, {_shape(zeros)}, do not fit its scales")
        zero_grid = Packed(zeros, groups, bits[0], 0)
    elif zeros is not None:
        if zeros.numel != scales.numel or not zeros.dtype.startswith("int"):
            raise ValueError(f"its zero points, {_shape(zeros)}, do not fit its scales")
        zero_grid = Shifted(Numbers(zeros, groups, zeros.dtype), middle)
    codes = Packed(words, words.shape[-1], bits[0])
    name = f"compressed-tensors int{bits[0]}"
    index = parts.get("g_idx")
    if index is not None:
        if not by_row:
            raise ValueError("its g_idx names groups, and it has no scales of groups")
        _check_index(stored, f"{prefix}weight_g_idx", index, columns, groups)
        decoder = Affine(
            *(rows, columns, name, codes, Indexed(scale_numbers, index, 1, groups)),
            Same(middle) if zero_grid is None else Indexed(zero_grid, index, 1, groups),
        )
    else:
        block = (1, _group_size(columns, groups)) if by_row else (height, columns)
        decoder = Affine(
            *(rows, columns, name, codes, Blocks(scale_numbers, columns, height, block)),
            Same(middle) if zero_grid is None else Blocks(zero_grid, columns, height, block),
        )
    return Represented(f"{prefix}weight", shape, sources, decoder)


def _said_shape(stored: StoredTensors, key: str, words: TensorRef) -> tuple[int, ...]:
    said = stored.read_small(key)
    if said is None or said.dtype not in (np.int32, np.int64) or len(said) != len(words.shape):
        raise ValueError("its weight_shape is missing")
    shape = tuple(int(n) for n in said)
    if any(not 0 < n < 1 << 40 for n in shape):
        raise ValueError("its weight_shape is no shape")
    return shape


def _shape(ref: TensorRef) -> str:
    return "x".join(map(str, ref.shape)) or "one number"
