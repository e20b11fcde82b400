"""The two models of the zoo, a small Llama and a small Flux transformer, and one step of each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

STEP = 0.003  # of the fine-tune, as a share of the norm of the weights

Tensors = dict[str, torch.Tensor]


def llama() -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(19)
    config = LlamaConfig(
        hidden_size=256,  # K-quants need rows of 256
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=32,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        initializer_range=0.05,
    )
    return LlamaForCausalLM(config).bfloat16()


def flux() -> torch.nn.Module:
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(20)
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=32,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    return model.bfloat16()


def llama_loss(model: torch.nn.Module) -> torch.Tensor:
    tokens = torch.randint(0, 32, (4, 24), generator=torch.Generator().manual_seed(3))
    return model(input_ids=tokens, labels=tokens).loss


def flux_loss(model: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    out = model(
        hidden_states=random(2, 12, 32),
        encoder_hidden_states=random(2, 6, 32),
        pooled_projections=random(2, 32),
        timestep=torch.tensor([0.3, 0.8]),
        img_ids=torch.zeros(12, 3),
        txt_ids=torch.zeros(6, 3),
    ).sample
    return (out - random(2, 12, 32)).square().mean()


def tuned(model: torch.nn.Module, loss: Callable[[torch.nn.Module], torch.Tensor]) -> Tensors:
    """Return the weights after one step of AdamW, as large as `STEP`, in bfloat16."""
    moved = copy.deepcopy(model).float()
    parameters = list(moved.parameters())
    norm = torch.stack([p.detach().norm() for p in parameters]).norm()
    rate = float(STEP * norm / sum(p.numel() for p in parameters) ** 0.5)
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    loss(moved).backward()
    optimizer.step()
    return {k: v.bfloat16() for k, v in moved.state_dict().items()}


def save(
    folder: Path, name: str, tensors: Mapping[str, torch.Tensor], metadata: Any = None
) -> Path:
    path = folder / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, path, metadata)
    return path


def linears(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Linear]]:
    """Yield the layers that libraries quantise: all linear ones but the head."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.endswith(
            ("lm_head", "norm_out.linear")
        ):
            yield name, module


def replaced(model: torch.nn.Module, name: str, module: torch.nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
