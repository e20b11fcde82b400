"""Small Llamas in folders, and merges of them that are no sums of whole tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

LAYERS = 3
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
_LAYER = {
    **{f"self_attn.{p}_proj": (64, 64) for p in "qkvo"},
    "mlp.gate_proj": (96, 64),
    "mlp.up_proj": (96, 64),
    "mlp.down_proj": (64, 96),
    "input_layernorm": (64,),
    "post_attention_layernorm": (64,),
}
State = Mapping[str, torch.Tensor]


def llama(random: torch.Generator) -> dict[str, torch.Tensor]:
    """Return a network of random weights, in float64."""
    shapes = {f"model.layers.{i}.{k}.weight": s for i in range(LAYERS) for k, s in _LAYER.items()}
    ends = {"model.embed_tokens.weight": (64, 64), "lm_head.weight": (64, 64)}
    return {
        k: torch.randn(s, generator=random, dtype=torch.float64) * 0.05
        for k, s in {**shapes, **ends, "model.norm.weight": (64,)}.items()
    }


def slerp(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """Return what mergekit's slerp does, for tensors that are not nearly parallel."""
    angle = torch.acos(torch.clamp((a * b).sum() / (a.norm() * b.norm()), -1, 1))
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


def trimmed(change: torch.Tensor, density: float) -> torch.Tensor:
    """Return the largest elements of a change, the others 0, as TIES keeps them."""
    kept = torch.zeros(change.numel(), dtype=torch.bool)
    kept[change.abs().flatten().topk(int(density * change.numel())).indices] = True
    return change * kept.reshape(change.shape)


def ties(base: torch.Tensor, changes: Mapping[float, torch.Tensor]) -> torch.Tensor:
    """Return a base and the weighted changes of the sign that weighs more, normalised."""
    weights = torch.tensor(list(changes), dtype=torch.float64).reshape(-1, *[1] * base.ndim)
    kept = torch.stack([trimmed(change, 0.5) for change in changes.values()])
    signs = torch.where((weights * kept).sum(0) >= 0, 1, -1)
    chosen = kept.sign() == signs
    total = (weights * chosen).sum(0)
    return base + (weights * kept * chosen).sum(0) / torch.where(total == 0, 1, total)


def parents() -> dict[str, dict[str, torch.Tensor]]:
    """Return a base and two models from it, as float16 keeps them."""
    random = torch.Generator().manual_seed(4)
    base = llama(random)
    models = {"base": base}
    for name in "AB":
        models[name] = {k: v + 0.6 * step for (k, v), step in zip(
            base.items(), llama(random).values(), strict=True)}  # fmt: skip
    return {n: {k: v.half().double() for k, v in m.items()} for n, m in models.items()}


def by_role(key: str) -> float:
    """Return the share of B in a slerp by role."""
    return 0.3 if "self_attn" in key else 0.8


def merges() -> dict[str, dict[str, torch.Tensor]]:
    """Return merges of the parents by name."""
    base, a, b = parents().values()
    random = torch.Generator().manual_seed(9)

    def made(of: Callable[[str], torch.Tensor]) -> dict[str, torch.Tensor]:
        return {key: of(key) for key in base}

    def dared(key: str, of: State) -> torch.Tensor:
        change = of[key] - base[key]
        return change * (torch.rand(change.shape, generator=random) < 0.5) / 0.5

    def stacked(key: str) -> list[tuple[str, torch.Tensor]]:
        if ".layers." not in key:
            return [(key, (b if "lm_head" in key or key == "model.norm.weight" else a)[key])]
        number = int(key.split(".")[2])
        under = [(number, a)] if number < 2 else []
        under += [(number + 1, b)] if number > 0 else []
        return [(key.replace(f".{number}.", f".{n}.", 1), of[key]) for n, of in under]

    return {
        "slerp": made(lambda k: slerp(a[k], b[k], 0.3)),
        "slerp-by-role": made(lambda k: slerp(a[k], b[k], by_role(k))),
        "ties": made(lambda k: ties(base[k], {0.7: a[k] - base[k], 0.3: b[k] - base[k]})),
        "dare": made(lambda k: base[k] + 0.6 * dared(k, a) + 0.4 * dared(k, b)),
        "stack": dict(pair for key in base for pair in stacked(key)),
    }


def write_folder(folder: Path, state: State) -> Path:
    """Write a state dict in float16 as transformers does."""
    folder.mkdir()
    layers = len({key.split(".")[2] for key in state if ".layers." in key})
    halves = {k: v.half().contiguous() for k, v in state.items()}
    save_file(halves, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": layers}))
    return folder
