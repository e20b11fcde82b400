"""Writes tests/golden/adapters: adapters by the libraries that define them, and what they make.

    python tests/representation/adapter_zoo.py tests/golden/adapters

in an environment with peft 0.21.2, transformers 5.24.0, lycoris-lora 4.1.3 and torch 2.13.0. Tests
read what it wrote; nothing of this is needed to run them.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

LINEAR = ["q_proj", "v_proj", "down_proj"]


def noise(parameters: Any, seed: int, size: float, scales: tuple[str, ...]) -> None:
    """Fill factors at random; lengths of rows only move a little."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in parameters:
        if any(scale in name for scale in scales):
            parameter.data *= 1 + 0.05 * torch.rand(parameter.shape, generator=generator)
        else:
            parameter.data += size * torch.randn(parameter.shape, generator=generator)


def write(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write tensors, each with bytes of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: t.detach().contiguous().clone() for key, t in tensors.items()}, path)


def write_peft(folder: Path) -> None:
    """Write adapters of a small Llama by PEFT, each with the weights that merging it changes."""
    from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=32,
    )  # fmt: skip

    def llama() -> nn.Module:
        torch.manual_seed(1)
        return LlamaForCausalLM(config)

    before = llama().state_dict()
    write(folder / "llama.safetensors", before)
    configs = {
        "lora": LoraConfig(r=4, lora_alpha=2, target_modules=LINEAR),
        "rslora": LoraConfig(
            r=4, lora_alpha=2, use_rslora=True, target_modules=["q_proj"],
            alpha_pattern={"layers.1.self_attn.q_proj": 8},
        ),
        "dora": LoraConfig(r=4, lora_alpha=4, use_dora=True, target_modules=["q_proj", "o_proj"]),
        "embedding": LoraConfig(r=4, lora_alpha=4, target_modules=["embed_tokens", "q_proj"]),
        "loha": LoHaConfig(r=3, alpha=3, target_modules=["q_proj", "up_proj"]),
        "lokr": LoKrConfig(r=3, alpha=3, target_modules=["q_proj", "up_proj"]),
    }  # fmt: skip
    for name, adapter in configs.items():
        model = get_peft_model(llama(), adapter)
        factors = [
            (n, p)
            for n, p in model.named_parameters()
            if any(f in n for f in ("lora_", "hada_", "lokr_"))
        ]
        noise(factors, 7, 0.15, ("magnitude",))
        model.save_pretrained(folder / f"peft-{name}")
        (folder / f"peft-{name}" / "README.md").unlink(missing_ok=True)
        merged = model.merge_and_unload().state_dict()
        changed = {k: t for k, t in merged.items() if not torch.equal(t, before[k])}
        write(folder / f"peft-{name}" / "merged.safetensors", changed)


class Net(nn.Module):
    """A linear layer and two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(24, 16)
        self.conv = nn.Conv2d(8, 16, 3)
        self.point = nn.Conv2d(8, 16, 1)


def write_lycoris(folder: Path) -> None:
    """Write adapters of a small network by LyCORIS, each with the weights that it makes."""
    from lycoris import LycorisNetwork, create_lycoris

    logging.disable(logging.CRITICAL)
    conv = {"linear_dim": 4, "linear_alpha": 2, "conv_dim": 3, "conv_alpha": 2}
    one = {"linear_dim": 1, "linear_alpha": 0.5, "conv_dim": 1, "conv_alpha": 0.5, "factor": 2}
    algorithms: dict[str, dict[str, Any]] = {
        "locon": {"algo": "lora", **conv},
        "tucker": {"algo": "lora", "use_tucker": True, **conv},
        "loha": {"algo": "loha", **conv},
        "loha-tucker": {"algo": "loha", "use_tucker": True, **conv},
        "lokr": {"algo": "lokr", **one},
        "lokr-tucker": {"algo": "lokr", "use_tucker": True, "decompose_both": True, **one},
        "oft": {"algo": "diag-oft", "rescaled": True, "constraint": 0.001, **conv},
        "boft": {"algo": "boft", **conv},
        "full": {"algo": "full", **conv},
        "dora": {"algo": "lora", "dora_wd": True, **conv},
        "dora-in": {"algo": "lora", "dora_wd": True, "wd_on_out": False, **conv},
    }
    LycorisNetwork.apply_preset({"enable_conv": True, "target_module": ["Linear", "Conv2d"]})
    for name, settings in algorithms.items():
        torch.manual_seed(3)
        net = Net()
        write(folder / "net.safetensors", net.state_dict())
        network = create_lycoris(net, 1.0, **settings)
        network.apply_to()
        noise(network.named_parameters(), 5, 0.1, ("dora_scale", "rescale"))
        write(folder / f"lycoris-{name}" / "adapter.safetensors", network.state_dict())
        merged = {}
        for layer in network.loras:
            # 4.1.3 merges LoHa and LoKr by alpha / rank twice, and runs them with it once
            once = 1 / layer.scale if settings["algo"] in ("loha", "lokr") else 1.0
            weight, _ = layer.get_merged_weight(once, shape=layer.org_weight.shape)
            merged[layer.lora_name.removeprefix("lycoris_") + ".weight"] = weight.float()
        write(folder / f"lycoris-{name}" / "merged.safetensors", merged)


if __name__ == "__main__":
    write_peft(Path(sys.argv[1]))
    write_lycoris(Path(sys.argv[1]))
