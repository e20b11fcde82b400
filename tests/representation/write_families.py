"""Writes `families.tar.xz`: small models of other architectures, quantised by real libraries.

Not a test. A folder in it is one model of transformers or diffusers: `base.safetensors` as
the library saves it, `tuned.safetensors` one step of AdamW away (0.3 % of the norm), and copies by
two libraries or more. In an environment as `write_zoo` needs it:

    PYTHONPATH=. python -m tests.representation.write_families
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.representation.write_zoo import pack
from tests.representation.zoo_models import Tensors, save, tuned
from tests.representation.zoo_quantised import (
    write_bitsandbytes,
    write_compressed_tensors,
    write_torchao,
)

FAMILIES = Path(__file__).parent / "families.tar.xz"
HEADS = 4
LANGUAGE: dict[str, Any] = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "vocab_size": 32},
    **{"num_attention_heads": HEADS, "num_key_value_heads": 2, "max_position_embeddings": 64},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.05},
}
# The class of transformers, its settings, and what llama.cpp calls the architecture.
TRANSFORMERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "mistral": ("MistralForCausalLM", {"tie_word_embeddings": False}, ""),
    "qwen2": ("Qwen2ForCausalLM", {"tie_word_embeddings": True}, "qwen2"),
    "gemma2": ("Gemma2ForCausalLM", {"head_dim": 16}, "gemma2"),
    "phi3": ("Phi3ForCausalLM", {"tie_word_embeddings": False}, "phi3"),
    "gpt-neox": ("GPTNeoXForCausalLM", {"rotary_pct": 0.5}, "gptneox"),
    "mixtral": ("MixtralForCausalLM", {"num_local_experts": 2, "num_experts_per_tok": 1}, ""),
    "vit": ("ViTForImageClassification", {"image_size": 32, "patch_size": 16, "num_labels": 8}, ""),
}
# Of what the writers of the zoo make, one file of each library and width.
KEPT = ("bnb-nf4", "bnb-int8", "ct-int4", "ct-fp8", "torchao-int8", "torchao-fp8")


def of_transformers(name: str) -> torch.nn.Module:
    import transformers

    kind, settings, _ = TRANSFORMERS[name]
    made = getattr(transformers, kind)
    config = made.config_class(**{**LANGUAGE, **settings})
    return made(config).bfloat16()


def sd3() -> torch.nn.Module:
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=8,
    ).bfloat16()


def pixart() -> torch.nn.Module:
    from diffusers import PixArtTransformer2DModel

    return PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        cross_attention_dim=32,
        caption_channels=32,
        sample_size=8,
    ).bfloat16()


def random(*shape: int, seed: int = 5) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def language_loss(model: Any) -> torch.Tensor:
    tokens = torch.randint(0, 32, (4, 24), generator=torch.Generator().manual_seed(3))
    return model(input_ids=tokens, labels=tokens).loss


def vit_loss(model: Any) -> torch.Tensor:
    return model(pixel_values=random(2, 3, 32, 32), labels=torch.tensor([1, 3])).loss


def sd3_loss(model: Any) -> torch.Tensor:
    out = model(
        hidden_states=random(2, 4, 8, 8),
        encoder_hidden_states=random(2, 6, 32),
        pooled_projections=random(2, 32),
        timestep=torch.tensor([3.0, 8.0]),
    ).sample
    return (out - random(*out.shape, seed=6)).square().mean()


def pixart_loss(model: Any) -> torch.Tensor:
    out = model(
        hidden_states=random(2, 4, 8, 8),
        encoder_hidden_states=random(2, 6, 32),
        timestep=torch.tensor([3, 8]),
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ).sample
    return (out - random(*out.shape, seed=6)).square().mean()


def write_gguf(folder: Path, base: Tensors, architecture: str) -> None:
    """As llama.cpp's converter: names by gguf's own map, and what it does to the values."""
    import numpy as np
    from gguf import MODEL_ARCH_NAMES, GGUFWriter, get_tensor_name_map
    from gguf.constants import GGMLQuantizationType

    from tests.representation.gguf_zoo import ggml, quantised

    (number,) = (a for a, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names = get_tensor_name_map(number, 1)
    library = ggml()
    for kind in ("Q8_0", "Q4_0"):
        used = GGMLQuantizationType[kind]
        writer = GGUFWriter(folder / f"gguf-{kind.lower()}.gguf", architecture)
        writer.add_head_count(HEADS)
        if architecture != "gptneox":
            writer.add_head_count_kv(2)
        for key, tensor in base.items():
            name = names.get_name(key, try_suffixes=(".weight", ".bias"))
            assert name is not None, key
            values = tensor.float().numpy()
            if "query_key_value" in key:
                parts = values.reshape(HEADS, 3, -1, *values.shape[1:])
                values = np.concatenate(
                    [parts[:, i].reshape(-1, *values.shape[1:]) for i in range(3)]
                )
            if architecture == "gemma2" and key.endswith("norm.weight"):
                values = values + 1
            if values.ndim == 1:
                writer.add_tensor(name, values)
            else:
                codes = quantised(library, np.ascontiguousarray(values), used, None)
                writer.add_tensor(name, codes, raw_dtype=used)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def write_family(
    folder: Path,
    model: Any,
    loss: Callable[[Any], torch.Tensor],
    architecture: str = "",
) -> None:
    model.save_pretrained(folder / "saved")
    (weights,) = (folder / "saved").glob("*.safetensors")
    base = load_file(weights)
    shutil.rmtree(folder / "saved")
    save(folder, "base", base, {"format": "pt"})
    moved = tuned(model, loss)
    save(folder, "tuned", {k: v for k, v in moved.items() if k in base or k not in _tied(model)})
    for write in (write_bitsandbytes, write_compressed_tensors, write_torchao):
        write(folder, model)
    for path in folder.iterdir():
        if path.stem not in (*KEPT, "base", "tuned") or path.suffix == ".pt":
            path.unlink()
    if architecture:
        write_gguf(folder, base, architecture)


def _tied(model: Any) -> set[str]:
    return {"lm_head.weight"} if getattr(model.config, "tie_word_embeddings", False) else set()


def write_families(folder: Path) -> None:
    """Write all of them into a folder."""
    makers: dict[str, tuple[Callable[[], torch.nn.Module], Callable[[Any], torch.Tensor], str]] = {
        name: (lambda name=name: of_transformers(name), language_loss, architecture)
        for name, (_, _, architecture) in TRANSFORMERS.items()
    }
    makers["vit"] = (makers["vit"][0], vit_loss, "")
    makers |= {"sd3": (sd3, sd3_loss, ""), "pixart": (pixart, pixart_loss, "")}
    for name, (make, loss, architecture) in makers.items():
        torch.manual_seed(29)
        write_family(folder / name, make(), loss, architecture)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        write_families(Path(made))
        pack(Path(made), FAMILIES)
