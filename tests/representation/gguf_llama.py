"""A small Llama, and its file as llama.cpp's converter writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

WIDTH, INNER, HEADS, KV_HEADS, VOCABULARY, LAYERS = 256, 256, 4, 2, 32, 1
# The name of a layer's tensor in the model, and in the file.
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def llama(seed: int = 0) -> dict[str, Array]:
    """Return a state dict as Hugging Face names it, of float32 numbers that bfloat16 holds."""
    rng = np.random.default_rng(seed)
    kv = WIDTH // HEADS * KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, WIDTH)}
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        shapes |= {
            f"{layer}self_attn.q_proj.weight": (WIDTH, WIDTH),
            f"{layer}self_attn.k_proj.weight": (kv, WIDTH),
            f"{layer}self_attn.v_proj.weight": (kv, WIDTH),
            f"{layer}self_attn.o_proj.weight": (WIDTH, WIDTH),
            f"{layer}mlp.gate_proj.weight": (INNER, WIDTH),
            f"{layer}mlp.up_proj.weight": (INNER, WIDTH),
            f"{layer}mlp.down_proj.weight": (WIDTH, INNER),
            f"{layer}input_layernorm.weight": (WIDTH,),
            f"{layer}post_attention_layernorm.weight": (WIDTH,),
        }
    shapes |= {"model.norm.weight": (WIDTH,), "lm_head.weight": (VOCABULARY, WIDTH)}
    state = {}
    for key, shape in shapes.items():
        values = 0.05 * rng.standard_normal(shape, dtype=np.float32) + (len(shape) == 1)
        state[key] = (values.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
    return state


def permuted(weight: Array, heads: int) -> Array:
    """Return rows as `permute` of llama.cpp's convert_hf_to_gguf.py orders them."""
    halves = weight.reshape(heads, 2, len(weight) // heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def converted(
    state: Mapping[str, Array], heads: int = HEADS, kv_heads: int = KV_HEADS
) -> dict[str, Array]:
    """Return the tensors of the file by their names there, in float32."""
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    found = {}
    for key, weight in state.items():
        name = names.get(key, "")
        if not name:
            _, _, layer, *rest = key.split(".")
            name = f"blk.{layer}.{NAMES['.'.join(rest[:-1])]}.{rest[-1]}"
        if "attn_q." in name:
            weight = permuted(weight, heads)
        if "attn_k." in name:
            weight = permuted(weight, kv_heads)
        found[name] = weight
    return found


Encode = Callable[[str, Array], tuple[Array, Any]]
"""From a name and its values to what is stored, and the type of gguf for it."""


def write_gguf(
    path: Path, tensors: Mapping[str, Array], encode: Encode, architecture: str = "llama"
) -> Path:
    """Write a GGUF file by the gguf package."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, architecture)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_block_count(LAYERS)
    writer.add_token_list([f"<{i}>" for i in range(VOCABULARY)])
    writer.add_token_scores([float(i) for i in range(100)])
    for name, values in tensors.items():
        stored, kind = encode(name, values)
        writer.add_tensor(name, stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
