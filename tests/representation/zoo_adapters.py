"""One LoRA as the libraries that train adapters write it."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from tests.representation.zoo_models import (
    save,
)


def write_adapters(folder: Path, model: torch.nn.Module) -> None:
    """Write one LoRA of the attention of a Flux transformer in the spellings of the libraries."""
    from diffusers import FluxPipeline
    from diffusers.utils.state_dict_utils import (
        convert_state_dict_to_diffusers,
        convert_state_dict_to_kohya,
    )
    from lycoris import LycorisNetwork, create_lycoris
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    layers = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj"]
    config = LoraConfig(r=4, lora_alpha=2, target_modules=layers)
    torch.manual_seed(23)
    wrapped = get_peft_model(copy.deepcopy(model).float(), config)
    for name, factor in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(factor, std=0.02)
    wrapped.save_pretrained(folder / "peft")
    (folder / "peft" / "README.md").unlink(missing_ok=True)
    factors = get_peft_model_state_dict(wrapped)
    bare = {key.removeprefix("base_model.model."): value for key, value in factors.items()}
    FluxPipeline.save_lora_weights(
        folder / "diffusers", bare, transformer_lora_adapter_metadata=config.to_dict()
    )
    halved = {k: v / 2 if "lora_B" in k else v for k, v in bare.items()}  # its alpha is its rank
    older = convert_state_dict_to_diffusers({f"transformer.{k}": v for k, v in halved.items()})
    save(folder, "diffusers-older", older)
    kohya = convert_state_dict_to_kohya({f"unet.{k}": v for k, v in halved.items()})
    save(folder, "kohya", kohya)
    LycorisNetwork.apply_preset({"enable_conv": False, "target_module": ["FluxAttention"]})
    plain = copy.deepcopy(model).float()
    network = create_lycoris(plain, 1.0, linear_dim=4, linear_alpha=2, algo="lora")
    network.apply_to()
    for layer in network.loras:
        name = layer.lora_name.removeprefix("lycoris_")
        found = {k.replace(".", "_"): v for k, v in bare.items()}
        for half, own in (("A", layer.lora_down), ("B", layer.lora_up)):
            factor = found.get(f"{name}_lora_{half}_weight")
            own.weight.data = torch.zeros_like(own.weight) if factor is None else factor.clone()
    state = dict(network.state_dict())
    silent = {
        k.rpartition(".lora_up")[0] for k, v in state.items() if "lora_up" in k and not v.any()
    }
    save(folder, "lycoris", {k: v for k, v in state.items() if k.split(".")[0] not in silent})
