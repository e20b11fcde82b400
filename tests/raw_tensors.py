"""Tensors in files of their own, as bytes without a header, and strategies that make them."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import torch

from megasim.checkpoint.tensors import TensorRef

FLOATS = ("float16", "bfloat16", "float32", "float64")
FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DTYPES = (*FLOATS, *FLOAT8, *INTEGERS, "bool")

_numbers = itertools.count()


def write_raw(folder: Path, tensor: torch.Tensor) -> TensorRef:
    """Write a tensor's storage behind some padding; strides are kept."""
    path = folder / f"{next(_numbers)}.bin"
    dtype = str(tensor.dtype).removeprefix("torch.")
    storage = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    path.write_bytes(bytes(64) + storage.numpy().tobytes())
    offset = 64 + tensor.storage_offset() * tensor.element_size()
    strides = None if tensor.is_contiguous() else tuple(tensor.stride())
    return TensorRef(path.stem, dtype, tuple(tensor.shape), str(path), offset, strides)


def values(tensor: torch.Tensor) -> torch.Tensor:
    """The numbers as float64; torch converts every dtype, uint64 by way of Python."""
    if tensor.dtype == torch.uint64:
        return torch.tensor(tensor.tolist(), dtype=torch.float64).reshape(tensor.shape)
    return tensor.to(torch.float64)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, ...]:
    """0-d, 1-d, empty, and larger than a tile of 1024."""
    return draw(
        st.sampled_from([(), (1,), (0,), (3, 0, 2), (7,), (1500,), (5, 3), (33, 65), (8, 4, 3, 3)])
    )


@st.composite
def tensors(
    draw: st.DrawFn, shape: tuple[int, ...] | None = None, dtypes: tuple[str, ...] = DTYPES
) -> torch.Tensor:
    """Finite tensors of any dtype, some sparse, some constant, some a transposed view."""
    dtype = getattr(torch, draw(st.sampled_from(dtypes)))
    shape = draw(shapes()) if shape is None else shape
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = 10.0 ** draw(st.sampled_from([-3, 0, 1]))
    centre = draw(st.sampled_from([0.0, 1.0]))
    x = rng.standard_normal(math.prod(shape)) * size + centre
    kind = draw(st.sampled_from(["dense", "sparse", "constant"]))
    if kind == "sparse":
        x[rng.random(len(x)) < 0.9] = -0.0
    elif kind == "constant":
        x[:] = size
    if not dtype.is_floating_point:
        x = np.abs(np.round(20 * x)) % 100
    tensor = torch.from_numpy(x).to(dtype).reshape(shape)
    if draw(st.booleans()) and tensor.dim() >= 2:
        bits = tensor.view(torch.uint8) if dtype.itemsize == 1 else tensor
        flipped = bits.transpose(0, 1).contiguous().transpose(0, 1)
        tensor = flipped.view(dtype) if dtype.itemsize == 1 else flipped
    return tensor
