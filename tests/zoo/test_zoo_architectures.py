"""Keys and shapes of the zoo are the real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from megasim.zoo.architectures import (
    FAMILY_SHAPES,
    Shapes,
    sd1_inpainting_shapes,
    sd1_shapes,
    sd2_shapes,
    sdxl_shapes,
)
from megasim.zoo.keys import (
    MERGE_BLOCKS,
    TEXT_SD1,
    TEXT_SD2,
    TEXT_SDXL_1,
    TEXT_SDXL_2,
    UNET,
    VAE,
    component_of,
    ema_key,
    merge_block_of,
)
from megasim.zoo.weights import noise_schedule


def read_architecture(path: Path) -> Shapes:
    shapes: Shapes = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        key, _, shape = line.rpartition(" ")
        shapes[key] = tuple(int(n) for n in shape.strip("[]").split(",") if n)
    return shapes


@pytest.mark.parametrize(
    ("family", "prefix", "name"),
    [
        (sd1_shapes, UNET, "UNET-v1-SD"),
        (sd1_shapes, TEXT_SD1, "CLIP-v1-SD"),
        (sd1_shapes, VAE, "VAE-v1-SD"),
        (sd1_inpainting_shapes, UNET, "UNET-v1-Inpainting"),
        (sd2_shapes, UNET, "UNET-v2-SD"),
        (sd2_shapes, TEXT_SD2, "CLIP-v2-SD"),
        (sdxl_shapes, UNET, "UNET-XL-SD"),
        (sdxl_shapes, TEXT_SDXL_1, "CLIP-v1-SD"),
        (sdxl_shapes, TEXT_SDXL_2, "CLIP-XL-SD"),
        (sdxl_shapes, VAE, "VAE-v1-SD"),
    ],
)
def test_keys_and_shapes_are_the_real_ones(
    shared: Path, family: Callable[[float], Shapes], prefix: str, name: str
) -> None:
    real = read_architecture(shared / "architectures" / f"{name}.txt")
    made = {k.removeprefix(prefix): s for k, s in family(1.0).items() if k.startswith(prefix)}
    assert made == real


def test_ema_keys_are_the_real_ones(shared: Path) -> None:
    real = read_architecture(shared / "architectures" / "UNET-v1-EMA.txt")
    made = {ema_key(k): s for k, s in sd1_shapes().items() if k.startswith(UNET)}
    assert made == {f"model_ema.diffusion_model{k}": s for k, s in real.items()}


def test_keys_beside_the_weights_are_the_real_ones(shared: Path) -> None:
    published = json.loads((shared / "published/v1/nai_nai7g_nai4g.json").read_text())
    schedule = {k for k in published["kv"] if component_of(k) == "training_state"}
    assert set(noise_schedule()) | {"model_ema.decay", "model_ema.num_updates"} == schedule


@pytest.mark.parametrize("family", sorted(FAMILY_SHAPES))
@pytest.mark.parametrize("width", [1 / 128, 1 / 33, 1 / 32])
def test_width_scales_channels_only(family: str, width: float) -> None:
    full, small = FAMILY_SHAPES[family](1.0), FAMILY_SHAPES[family](width)
    assert list(full) == list(small)
    for key, shape in full.items():
        assert len(small[key]) == len(shape)
        assert small[key][2:] == shape[2:]  # kernels
        assert all(0 < n <= m for n, m in zip(small[key], shape, strict=True))


def test_every_sd1_block_has_a_merge_ratio() -> None:
    blocks = {merge_block_of(key) for key in sd1_shapes(1 / 64)}
    assert blocks == {*MERGE_BLOCKS, ""}
