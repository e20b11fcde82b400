"""Real weights that others made are read as torch and safetensors read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from megasim.checkpoint.opening import (
    Checkpoint,
    TensorReader,
    default_name,
    find_checkpoints,
    open_checkpoint,
)
from tests.real import fetch

pytestmark = pytest.mark.real


def assert_same(checkpoint: Checkpoint, expected: Mapping[str, torch.Tensor]) -> None:
    assert set(checkpoint.tensors) == set(expected)
    with TensorReader() as reader:
        for key, tensor in expected.items():
            ref = checkpoint.tensors[key]
            assert ref.shape == tuple(tensor.shape)
            assert ref.dtype == str(tensor.dtype).removeprefix("torch.")
            assert np.array_equal(reader.read(ref), tensor.detach().flatten().numpy())


def torch_reads(path: Path) -> Mapping[str, torch.Tensor]:
    content: Mapping[str, torch.Tensor] = torch.load(path, "cpu", weights_only=True)
    return content


def test_legacy_pickles_of_three_berts() -> None:
    paths = find_checkpoints(fetch("rxnfp==0.1.0") / "rxnfp" / "models" / "transformers")
    checkpoints = {default_name(path): open_checkpoint(path) for path in paths}
    assert {name: len(c.tensors) for name, c in checkpoints.items()} == {
        "bert_ft": 199,
        "bert_ft_10k_25s": 201,
        "bert_pretrained": 207,
    }
    for checkpoint in checkpoints.values():
        assert checkpoint.format == "torch-legacy"
        assert_same(checkpoint, torch_reads(checkpoint.path))


def test_torchscript_keys_are_those_of_its_state_dict() -> None:
    path = fetch("silero-vad==6.2.3") / "silero_vad" / "data" / "silero_vad.jit"
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == "torchscript"
    assert_same(checkpoint, torch.jit.load(path).state_dict())


def test_safetensors() -> None:
    path = fetch("silero-vad==6.2.3") / "silero_vad" / "data" / "silero_vad_16k.safetensors"
    assert_same(open_checkpoint(path), load_file(path))


@pytest.mark.parametrize("version", ["0.1.0-rc.2", "0.1.0-rc.3"])
def test_weights_among_pickled_objects(version: str) -> None:
    # rc.3 pickles a database of molecules beside the weights; neither loads without its package.
    folder = fetch("openff-nagl-models==2025.9.0") / "openff" / "nagl_models" / "models"
    checkpoint = open_checkpoint(folder / "am1bcc" / f"openff-gnn-am1bcc-{version}.pt")
    assert checkpoint.format == "torch-zip"
    assert len(checkpoint.tensors) == 22
    assert not checkpoint.skipped
    with TensorReader() as reader:
        values = [reader.read(ref) for ref in checkpoint.tensors.values()]
    assert all(0 < np.abs(v).mean() < 1 for v in values)  # weights, not bytes from elsewhere


def test_the_same_weights_in_other_files() -> None:
    folder = fetch("openff-nagl-models==2025.9.0") / "openff" / "nagl_models" / "models" / "am1bcc"
    second, third, final = (
        open_checkpoint(folder / f"openff-gnn-am1bcc-{version}.pt")
        for version in ("0.1.0-rc.2", "0.1.0-rc.3", "1.0.0")
    )
    assert second.identity != third.identity
    with TensorReader() as reader:
        for key, ref in second.tensors.items():
            assert np.array_equal(reader.read(ref), reader.read(third.tensors[key]))
        shapes = {key: ref.shape for key, ref in final.tensors.items()}
        same = [
            key
            for key, ref in third.tensors.items()
            if ref.shape == shapes[key]
            and np.array_equal(reader.read(ref), reader.read(final.tensors[key]))
        ]
    assert len(same) == 20
    assert sum(ref.shape != shapes[key] for key, ref in third.tensors.items()) == 2
