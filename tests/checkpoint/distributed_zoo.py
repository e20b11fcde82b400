"""Writes tests/golden/distributed by torch.distributed.checkpoint: two ranks, on the CPU.

    PYTHONPATH=. python -m tests.checkpoint.distributed_zoo tests/golden/distributed

with torch 2.13.0. The first of two models is split by rows, as FSDP does; `turned.weight` by
columns, as tensor parallelism does; `replicated.weight` is whole on both ranks.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor


def tensors() -> dict[str, torch.Tensor]:
    """Return the whole tensors of the model."""
    generator = torch.Generator().manual_seed(0)
    return {
        "layers.0.weight": torch.randn(7, 5, generator=generator),
        "layers.0.bias": torch.randn(7, generator=generator).bfloat16(),
        "tiny.weight": torch.randn(1, 5, generator=generator),
        "turned.weight": torch.randn(4, 6, generator=generator),
        "replicated.weight": torch.randn(3, 3, generator=generator),
    }


def _save(rank: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29611"}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    model: dict[str, Any] = {}
    for key, tensor in tensors().items():
        how = {"turned.weight": Shard(1), "replicated.weight": Replicate()}.get(key, Shard(0))
        model[key] = distribute_tensor(tensor, mesh, [how])
    moments = {0: {"exp_avg": distribute_tensor(torch.ones(7, 5), mesh, [Shard(0)])}}
    dcp.save({"model": model, "optim": {"state": moments}, "step": 3}, checkpoint_id=folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(_save, (sys.argv[1],), nprocs=2)
