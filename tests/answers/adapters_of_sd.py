"""One LoRA of a small SD1 UNet in the spellings that people meet."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.models import write_model

# diffusers' name → the original one, of layers that `SHAPES` has.
LAYERS = {
    "down_blocks.0.attentions.0.proj_in": "input_blocks.1.1.proj_in",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (
        "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    ),
    "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q": (
        "input_blocks.2.1.transformer_blocks.0.attn1.to_q"
    ),
    "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_k": (
        "input_blocks.2.1.transformer_blocks.0.attn1.to_k"
    ),
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_q": (
        "middle_block.1.transformer_blocks.0.attn1.to_q"
    ),
}
UNET = "model.diffusion_model."
RANK, ALPHA = 4, 2.0


def factors(seed: int, size: float = 0.1) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return up and down of each layer, by diffusers' names."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (
            size * torch.randn(8, RANK, generator=generator),
            size * torch.randn(RANK, 8, generator=generator),
        )
        for name in LAYERS
    }


def change(made: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the change at strength 1, by the keys of a checkpoint."""
    return {
        f"{UNET}{LAYERS[name]}.weight": (ALPHA / RANK) * (up.double() @ down.double())
        for name, (up, down) in made.items()
    }


def write_spellings(
    folder: Path, made: dict[str, tuple[torch.Tensor, torch.Tensor]], alpha: float = ALPHA
) -> dict[str, Path]:
    """Write one LoRA as kohya, its original-named form, diffusers, PEFT and old diffusers do."""
    kohya, original, diffusers, peft, old = {}, {}, {}, {}, {}
    for name, (up, down) in made.items():
        kernel = (1, 1) if name.endswith("proj_in") else ()
        up_k, down_k = up.reshape(*up.shape, *kernel), down.reshape(*down.shape, *kernel)
        for names, state in ((name, kohya), (LAYERS[name], original)):
            module = "lora_unet_" + names.replace(".", "_")
            state[f"{module}.lora_up.weight"] = up_k
            state[f"{module}.lora_down.weight"] = down_k
            state[f"{module}.alpha"] = torch.tensor(alpha)
        diffusers[f"unet.{name}.lora_A.weight"] = down_k
        diffusers[f"unet.{name}.lora_B.weight"] = up_k
        peft[f"base_model.model.{name}.lora_A.weight"] = down_k
        peft[f"base_model.model.{name}.lora_B.weight"] = up_k
        block, _, last = name.rpartition(".")
        place = f"{block}.processor.{last}_lora" if "attn1" in name else f"{name}.lora"
        old[f"{place}.up.weight"] = up_k * (alpha / RANK)  # without an alpha of its own
        old[f"{place}.down.weight"] = down_k
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": alpha, "fan_in_fan_out": False}
    said = {f"unet.{key}": value for key, value in config.items()}
    paths = {
        "kohya": write_model(folder / "kohya.safetensors", kohya, ss_network_dim=str(RANK)),
        "original": write_model(folder / "original.safetensors", original),
        "diffusers": folder / "diffusers.safetensors",
        "peft": folder / "peft",
        "old": write_model(folder / "old.bin", old),
    }
    save_file(
        {key: t.contiguous() for key, t in diffusers.items()},
        paths["diffusers"],
        {"format": "pt", "lora_adapter_metadata": json.dumps(said)},
    )
    write_model(paths["peft"] / "adapter_model.safetensors", peft)
    (paths["peft"] / "adapter_config.json").write_text(json.dumps(config))
    return paths
