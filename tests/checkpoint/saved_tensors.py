"""Tensors of every kind, how torch saves them, and whether they are read as they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from megasim.checkpoint.dtypes import COMPLEX_PARTS
from megasim.checkpoint.opening import (
    STORAGE_DTYPES,
    Checkpoint,
    TensorReader,
)

SAVERS: dict[str, Callable[[Any, Path], None]] = {
    "torch-zip": lambda content, path: torch.save(content, path),
    "torch-legacy": lambda content, path: torch.save(
        content, path, _use_new_zipfile_serialization=False
    ),
}
W = torch.arange(6.0).reshape(2, 3)
COMPLEX_OF_TORCH_ALONE = (torch.complex32, torch.complex128)
many_times = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any dtype, 0 to 4 dimensions, empty or not, contiguous or seen through a view."""
    dtype = getattr(torch, draw(st.sampled_from([*sorted(STORAGE_DTYPES), *COMPLEX_PARTS])))
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    count = int(np.prod(shape, dtype=np.int64))
    seed = draw(st.integers(0, 99))
    raw = np.random.default_rng(seed).integers(0, 256, (count + 3) * 16, dtype=np.uint8)
    if dtype == torch.bool:
        raw %= 2
    flat = torch.from_numpy(raw).view(dtype)[: count + 3]
    tensor = flat[3:].reshape(shape)  # an offset into its storage
    view = draw(st.sampled_from(["plain", "permuted", "sliced", "expanded"]))
    if view == "permuted" and shape:
        tensor = tensor.permute(*draw(st.permutations(range(len(shape)))))
    elif view == "sliced" and shape and shape[0] > 1:
        tensor = tensor[1::2]
    elif view == "expanded":
        tensor = tensor.unsqueeze(0).expand(3, *shape)
    return tensor


def raw_bytes(tensor: torch.Tensor) -> bytes:
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype)
    flat.copy_(tensor.detach().reshape(-1))
    return flat.view(torch.uint8).numpy().tobytes()


def assert_same(checkpoint: Checkpoint, expected: Mapping[str, torch.Tensor]) -> None:
    assert set(checkpoint.tensors) == set(expected)
    with TensorReader() as reader:
        for key, ref in checkpoint.tensors.items():
            tensor = expected[key]
            dtype = str(tensor.dtype).removeprefix("torch.")
            pair = (2,) if dtype in COMPLEX_PARTS else ()
            assert (ref.key, ref.shape) == (key, (*tensor.shape, *pair))
            assert ref.dtype == COMPLEX_PARTS.get(dtype, dtype)
            values = reader.read(ref)
            assert values.dtype == STORAGE_DTYPES[ref.dtype]
            assert values.tobytes() == raw_bytes(tensor)
