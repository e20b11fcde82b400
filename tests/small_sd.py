"""Checkpoints with a few of SD1's real keys, small enough to make dozens of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from megasim.workspace import open_store
from megasim.zoo.building import unrelated_models
from tests.models import write_model

StateDict = dict[str, torch.Tensor]

UNET = "model.diffusion_model."
TEXT = "cond_stage_model.transformer.text_model."
VAE = "first_stage_model."
POSITIONS = TEXT + "embeddings.position_ids"
SHAPES: dict[str, tuple[int, ...]] = {
    UNET + "input_blocks.0.0.weight": (8, 4, 3, 3),
    UNET + "input_blocks.1.1.proj_in.weight": (8, 8, 1, 1),
    UNET + "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": (8, 8),
    UNET + "input_blocks.1.1.transformer_blocks.0.norm1.weight": (8,),
    UNET + "input_blocks.2.1.transformer_blocks.0.attn1.to_q.weight": (8, 8),
    UNET + "input_blocks.2.1.transformer_blocks.0.attn1.to_k.weight": (8, 8),
    UNET + "middle_block.1.transformer_blocks.0.attn1.to_q.weight": (8, 8),
    UNET + "out.2.weight": (4, 8, 3, 3),
    **{
        TEXT + f"encoder.layers.{i}.{name}.weight": (16, 8)
        for i in range(12)
        for name in ("mlp.fc1", "mlp.fc2", "self_attn.out_proj")
    },
    TEXT + "final_layer_norm.weight": (8,),
    VAE + "encoder.conv_in.weight": (8, 3, 3, 3),
    VAE + "encoder.conv_out.weight": (8, 8, 3, 3),
    VAE + "decoder.conv_in.weight": (8, 4, 3, 3),
    VAE + "decoder.conv_out.weight": (3, 8, 3, 3),
    VAE + "quant_conv.weight": (8, 8, 1, 1),
}


def small_sd(seed: int = 0) -> StateDict:
    """Return a float32 state dict that shares nothing with those of other seeds."""
    (weights,) = unrelated_models(1, seed=seed, shapes=SHAPES)
    state = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in weights.items()}
    return state | {POSITIONS: torch.arange(77).reshape(1, 77)}


def trained(state: Mapping[str, torch.Tensor], seed: int, *prefixes: str) -> StateDict:
    """Return a copy whose floats under the prefixes moved by a tenth of their size."""
    random = np.random.default_rng(seed)
    moved = dict(state)
    for key, value in state.items():
        if key.startswith(prefixes) and value.is_floating_point():
            noise = random.standard_normal(tuple(value.shape)).astype(np.float32)
            moved[key] = value + 0.1 * value.float().std(correction=0).item() * torch.from_numpy(
                noise
            ).to(value.dtype)
            if value.dim() == 1:
                moved[key] = value + 0.1 * torch.from_numpy(noise).to(value.dtype)
    return moved


def cast(state: Mapping[str, torch.Tensor], dtype: torch.dtype) -> StateDict:
    """Return a copy with the floats in another dtype."""
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}


def without(state: Mapping[str, torch.Tensor], *prefixes: str) -> StateDict:
    """Return a copy without the keys under the prefixes."""
    return {key: value for key, value in state.items() if not key.startswith(prefixes)}


def only(state: Mapping[str, torch.Tensor], *prefixes: str) -> StateDict:
    """Return a copy of the keys under the prefixes."""
    return {key: value for key, value in state.items() if key.startswith(prefixes)}


def with_ema(state: Mapping[str, torch.Tensor], seed: int) -> StateDict:
    """Return a copy with an EMA copy of its UNet, a little off, and its counters."""
    averaged = trained(state, seed, UNET)
    ema = {
        "model_ema." + key.removeprefix("model.").replace(".", ""): value
        for key, value in averaged.items()
        if key.startswith(UNET)
    }
    return {**state, **ema, "model_ema.num_updates": torch.tensor(1000, dtype=torch.int32)}


def raised_ema(state: Mapping[str, torch.Tensor]) -> StateDict:
    """Return what pruning scripts keep when they keep the EMA copy: it becomes the UNet."""
    raised = without(state, "model_ema.")
    for key in only(state, UNET):
        raised[key] = state["model_ema." + key.removeprefix("model.").replace(".", "")]
    return raised


def compared_store(folder: Path, models: Mapping[str, Mapping[str, torch.Tensor]]) -> Path:
    """Write models under their names, ingest and compare them all; return their store's path."""
    paths = [write_model(folder / f"{name}.safetensors", state) for name, state in models.items()]
    store = folder / "store.duckdb"
    with open_store(store) as workspace:
        assert not workspace.ingest(*paths).failed
        assert not workspace.compare().failed
    return store
