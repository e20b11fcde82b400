"""Weights that look trained, in every dtype, and models of full size."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from megasim.zoo.architectures import (
    sd1_shapes,
)
from megasim.zoo.building import (
    build_full_size,
    unrelated_models,
)
from megasim.zoo.keys import (
    UNET,
    component_of,
)
from megasim.zoo.weights import decoded, encoded, fresh_weights, train
from tests.zoo.zoo_files import POSITIONS


def test_weights_look_trained() -> None:
    weights = fresh_weights(sd1_shapes(1 / 16), 0, "test")
    gain = weights[UNET + "output_blocks.5.0.in_layers.0.weight"]
    assert abs(gain.mean() - 1) < 0.05
    assert abs(weights[UNET + "time_embed.0.bias"].mean()) < 0.02
    matrix = weights[UNET + "middle_block.0.in_layers.2.weight"]
    standard = (matrix - matrix.mean()) / matrix.std()
    assert 0.1 < (standard**4).mean() - 3 < 3  # heavier tails than normal, as real layers have


def test_training_moves_only_what_it_trains() -> None:
    before = fresh_weights(sd1_shapes(1 / 64), 0, "test")
    after = train(before, 0, "step", step=0.05, trains=lambda key: ".attn1." in key)
    for key in before:
        assert (after[key] is before[key]) == (".attn1." not in key)


def test_bfloat16_rounds_as_torch_does() -> None:
    import torch

    values = np.concatenate(
        [
            fresh_weights({"w": (100, 100)}, 0, "test")["w"].ravel(),
            np.float32([np.nan, np.inf, -0.0]),
        ]
    )
    bits = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    finite = ~np.isnan(values)
    assert np.array_equal(encoded(values, "bfloat16")[finite], bits[finite])
    assert np.isnan(decoded(encoded(values, "bfloat16"), "bfloat16")[~finite]).all()


def test_unrelated_models_share_only_what_is_trivial() -> None:
    models = list(unrelated_models(6, seed=3))
    for a, b in itertools.combinations(models, 2):
        same = {key for key in a if (a[key] == b[key]).any()}
        assert same == {key for key in a if key.endswith("norm.weight")}
    again = next(unrelated_models(1, seed=3))
    assert all(np.array_equal(again[key], models[0][key]) for key in again)


# --------------------------------------------------------------------------------- full size


def test_full_size_models_are_distinct_and_reproducible(tmp_path: Path) -> None:
    paths = build_full_size(tmp_path / "a", 3, width=1 / 16, shared=("vae_decoder",))
    models = [load_file(path) for path in paths]
    shapes = sd1_shapes(1 / 16)
    assert all({k: a.shape for k, a in m.items()} == shapes for m in models)
    for a, b in itertools.combinations(models, 2):
        same = {k for k in shapes if np.array_equal(a[k], b[k])}
        assert same == {k for k in shapes if component_of(k) == "vae_decoder"} | {POSITIONS}
    base = models[0]
    assert len({a.tobytes() for a in base.values()}) == len(base)
    key = UNET + "middle_block.0.in_layers.2.weight"
    change = np.linalg.norm(models[1][key].astype(float) - base[key])
    assert change == pytest.approx(0.05 * np.linalg.norm(base[key].astype(float)), rel=0.05)
    again = build_full_size(tmp_path / "b", 1, width=1 / 16)
    assert again[0].read_bytes() == paths[0].read_bytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_full_size_dtypes_are_roundings_of_each_other(tmp_path: Path, dtype: Any) -> None:
    import torch

    halves = load_file(build_full_size(tmp_path / "half", 1, width=1 / 64)[0])
    (path,) = build_full_size(tmp_path / dtype, 1, width=1 / 64, dtype=dtype)
    with safe_open(path, "pt") as opened:
        for key, half in halves.items():
            tensor = opened.get_tensor(key)
            if key != POSITIONS:
                assert tensor.dtype == getattr(torch, dtype)
                difference = np.abs(tensor.float().numpy() - half.astype(np.float32))
                assert (difference <= 2.0**-7 * np.abs(half.astype(np.float32)) + 1e-6).all()


def test_importing_the_zoo_does_not_import_torch() -> None:
    script = "import sys, megasim.zoo.building; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
