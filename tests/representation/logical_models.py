"""Files of quantised tensors that tests write, and the values that megasim reads out of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from megasim.checkpoint.tensors import TensorReader, TensorRef
from megasim.representation.opening import open_model
from tests.models import write_model

Values = npt.NDArray[np.float32]


def read_values(path: Path) -> dict[str, Values]:
    """Return the values of all float32 tensors of a checkpoint."""
    with TensorReader() as reader:
        return {
            key: reader.read(ref).reshape(ref.shape)
            for key, ref in open_model(path).tensors.items()
            if ref.dtype == "float32"
        }


def logical(folder: Path, tensors: Mapping[str, torch.Tensor], key: str) -> TensorRef:
    """Write tensors and return one of them, by its values."""
    ref = open_model(write_model(folder / "m.safetensors", tensors)).tensors[key]
    assert ref.decoder is not None
    return ref


def problem_of(folder: Path, tensors: Mapping[str, torch.Tensor], key: str, **metadata: str) -> str:
    """Write tensors beside one that is sound, and return why a key of them is unread."""
    sound = {"sound.weight": torch.ones(8, 8)}
    path = write_model(folder / "m.safetensors", {**tensors, **sound}, **metadata)
    opened = open_model(path)
    assert "sound.weight" in opened.tensors
    assert key not in opened.tensors
    return opened.unread[key].note


def check_ranges(ref: TensorRef) -> None:
    """Assert that any range of the values, and of their transpose, is a part of the whole."""
    assert ref.decoder is not None
    rng = np.random.default_rng(5)
    with TensorReader() as reader:
        whole = reader.read(ref)
        for _ in range(40):
            start, stop = sorted(rng.integers(0, ref.numel + 1, 2).tolist())
            assert np.array_equal(reader.read(ref, start, stop), whole[start:stop], equal_nan=True)
        if len(ref.shape) == 2:
            turned = np.ascontiguousarray(whole.reshape(ref.shape).T).reshape(-1)
            decoder = ref.decoder.transposed()
            for _ in range(20):
                start, stop = sorted(rng.integers(0, ref.numel + 1, 2).tolist())
                out = np.empty(stop - start, np.float32)
                decoder.read(reader, start, stop, out)
                assert np.array_equal(out, turned[start:stop], equal_nan=True)
