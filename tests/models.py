"""Small checkpoints that tests write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file


def write_model(path: Path, tensors: Mapping[str, torch.Tensor], **metadata: str) -> Path:
    """Write tensors as .safetensors or by torch.save, as the ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, path, metadata or None)
    else:
        torch.save(dict(tensors), path)
    return path


def random_model(seed: int, keys: int = 4, shape: tuple[int, ...] = (16, 24)) -> dict:
    """Return a state dict of random float32 tensors."""
    rng = np.random.default_rng(seed)
    return {
        f"block.{i}.weight": torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        for i in range(keys)
    }


def nudged(model: Mapping[str, torch.Tensor], seed: int, *keys: str, by: float = 0.01) -> dict:
    """Return a copy with noise added to some keys, or to all."""
    rng = np.random.default_rng(seed)
    return {
        k: v + by * torch.from_numpy(rng.standard_normal(tuple(v.shape), dtype=np.float32))
        if not keys or k in keys
        else v.clone()
        for k, v in model.items()
    }
