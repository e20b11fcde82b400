"""A Flux transformer of diffusers in the names and fused projections of its authors."""

from __future__ import annotations

import torch

Tensors = dict[str, torch.Tensor]

# The names of Black Forest Labs for those of diffusers (`convert_diffusers_to_flux` of ComfyUI's
# `utils.py`), and what diffusers has apart and they have in one.
BFL = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "transformer_blocks.0.norm1.linear": "double_blocks.0.img_mod.lin",
    "transformer_blocks.0.norm1_context.linear": "double_blocks.0.txt_mod.lin",
    "transformer_blocks.0.attn.to_out.0": "double_blocks.0.img_attn.proj",
    "transformer_blocks.0.attn.to_add_out": "double_blocks.0.txt_attn.proj",
    "transformer_blocks.0.ff.net.0.proj": "double_blocks.0.img_mlp.0",
    "transformer_blocks.0.ff.net.2": "double_blocks.0.img_mlp.2",
    "transformer_blocks.0.ff_context.net.0.proj": "double_blocks.0.txt_mlp.0",
    "transformer_blocks.0.ff_context.net.2": "double_blocks.0.txt_mlp.2",
    "single_transformer_blocks.0.norm.linear": "single_blocks.0.modulation.lin",
    "single_transformer_blocks.0.proj_out": "single_blocks.0.linear2",
    "proj_out": "final_layer.linear",
}
BFL_NORMS = {
    "transformer_blocks.0.attn.norm_q": "double_blocks.0.img_attn.norm.query_norm",
    "transformer_blocks.0.attn.norm_k": "double_blocks.0.img_attn.norm.key_norm",
    "transformer_blocks.0.attn.norm_added_q": "double_blocks.0.txt_attn.norm.query_norm",
    "transformer_blocks.0.attn.norm_added_k": "double_blocks.0.txt_attn.norm.key_norm",
    "single_transformer_blocks.0.attn.norm_q": "single_blocks.0.norm.query_norm",
    "single_transformer_blocks.0.attn.norm_k": "single_blocks.0.norm.key_norm",
}
BFL_FUSED = {
    "double_blocks.0.img_attn.qkv": ("transformer_blocks.0.attn", "to_q", "to_k", "to_v"),
    "double_blocks.0.txt_attn.qkv": (
        *("transformer_blocks.0.attn", "add_q_proj", "add_k_proj", "add_v_proj"),
    ),
    "single_blocks.0.linear1": (
        *("single_transformer_blocks.0", "attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    ),
}


def of_black_forest_labs(base: Tensors) -> Tensors:
    """Return a Flux transformer in the names and fused projections in which it is published."""
    found = {f"{BFL_NORMS[k]}.scale": base[f"{k}.weight"] for k in BFL_NORMS}
    for kind in ("weight", "bias"):
        found |= {f"{new}.{kind}": base[f"{old}.{kind}"] for old, new in BFL.items()}
        for new, (prefix, *names) in BFL_FUSED.items():
            found[f"{new}.{kind}"] = torch.cat([base[f"{prefix}.{n}.{kind}"] for n in names])
        # shift and scale stand the other way round
        first, second = base[f"norm_out.linear.{kind}"].chunk(2)
        found[f"final_layer.adaLN_modulation.1.{kind}"] = torch.cat([second, first])
    return found
