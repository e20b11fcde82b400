"""Small networks of several kinds, as state dicts of torch."""

from __future__ import annotations

import numpy as np
import torch

StateDict = dict[str, torch.Tensor]


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def language_model(seed: int, head: bool = True) -> StateDict:
    names = [f"self_attn.{k}_proj" for k in "qkvo"] + ["mlp.up_proj", "mlp.down_proj"]
    state = {"model.embed_tokens.weight": noise(seed, 32, 8)}
    for layer in range(2):
        for at, name in enumerate(names):
            state[f"model.layers.{layer}.{name}.weight"] = noise(100 * seed + 10 * layer + at, 8, 8)
        state[f"model.layers.{layer}.input_layernorm.weight"] = torch.ones(8)
    return state | ({"lm_head.weight": noise(seed + 7, 32, 8)} if head else {})


def convolutional(seed: int, batches: int) -> StateDict:
    state: StateDict = {}
    for layer in range(3):
        at = f"features.{layer}."
        state[at + "conv.weight"] = noise(10 * seed + layer, 8, 4, 3, 3)
        state[at + "bn.weight"] = torch.ones(8)
        state[at + "bn.running_mean"] = noise(10 * seed + layer + 5, 8)
        state[at + "bn.running_var"] = noise(10 * seed + layer + 6, 8).abs()
        state[at + "bn.num_batches_tracked"] = torch.tensor(batches)
    return state


def lora(seed: int, alpha: float) -> StateDict:
    state: StateDict = {}
    for at, name in enumerate(("down_blocks_0_to_q", "mid_block_to_k", "up_blocks_1_to_v")):
        state[f"lora_unet_{name}.lora_down.weight"] = noise(10 * seed + at, 4, 32)
        state[f"lora_unet_{name}.lora_up.weight"] = noise(10 * seed + at + 5, 32, 4)
        state[f"lora_unet_{name}.alpha"] = torch.tensor(alpha)
    return state


def transformer(seed: int, layers: int = 3) -> StateDict:
    """Return a vision transformer: a patch embedding, blocks, and a head of one key."""
    state = {
        "patch_embed.proj.weight": noise(seed, 24, 3, 4, 4),
        "patch_embed.proj.bias": noise(seed + 1, 24),
        "pos_embed": noise(seed + 2, 1, 17, 24),
    }
    shapes = {"attn.qkv.weight": (72, 24), "attn.proj.weight": (24, 24), "norm1.weight": (24,)}
    shapes |= {"mlp.fc1.weight": (96, 24), "mlp.fc2.weight": (24, 96)}
    for layer in range(layers):
        for at, (name, shape) in enumerate(shapes.items()):
            state[f"blocks.{layer}.{name}"] = noise(1000 * seed + 10 * layer + at, *shape)
    return state | {"head.weight": noise(seed + 3, 10, 24)}


def copied(state: StateDict) -> StateDict:
    """Return a copy of which the tensors may be written to."""
    return {key: value.clone() for key, value in state.items()}
