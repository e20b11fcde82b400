"""Names of tensors in the zoo: prefixes, components, merge blocks, and other layouts of SD1.

This is the zoo's own knowledge, on purpose apart from the anatomy rules: the tests hold the one
against the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT_SD1 = "cond_stage_model.transformer.text_model."
TEXT_NOVELAI = "cond_stage_model.transformer."
TEXT_SD2 = "cond_stage_model.model."
TEXT_SDXL_1 = "conditioner.embedders.0.transformer.text_model."
TEXT_SDXL_2 = "conditioner.embedders.1.model."


def ema_key(key: str) -> str:
    """Return the key of the EMA copy of a UNet tensor: dots removed behind `model_ema.`.

    >>> ema_key("model.diffusion_model.out.2.bias")
    'model_ema.diffusion_modelout2bias'
    """
    return "model_ema." + key.removeprefix("model.").replace(".", "")


_COMPONENTS = (
    (r"model_ema\.(decay|num_updates)$", "training_state"),
    (r"model_ema\.", "ema"),
    (r"model\.diffusion_model\.", "unet"),
    (r"cond_stage_model\.", "text_encoder"),
    (r"conditioner\.embedders\.0\.", "text_encoder_1"),
    (r"conditioner\.embedders\.1\.", "text_encoder_2"),
    (r"first_stage_model\.encoder\.", "vae_encoder"),
    (r"first_stage_model\.decoder\.", "vae_decoder"),
    (r"first_stage_model\.(post_)?quant_conv\.", "vae_quant"),
    (r"model\.embed_tokens\.", "embedding"),
    (r"model\.(layers|norm)\.", "layers"),
    (r"lm_head\.", "head"),
)


def component_of(key: str) -> str:
    """Return the component of one of the zoo's own keys; schedule buffers are training state.

    Those of other networks are the names at the top, under the wrapper `model.`.

    >>> component_of("first_stage_model.post_quant_conv.bias"), component_of("betas")
    ('vae_quant', 'training_state')
    """
    for pattern, component in _COMPONENTS:
        if re.match(pattern, key):
            return component
    if "." in key:
        return key.removeprefix("model.").partition(".")[0]
    return "training_state"


MERGE_BLOCKS = (*(f"IN{i:02}" for i in range(12)), "M00", *(f"OUT{i:02}" for i in range(12)))
"""The 25 units by which people merge an SD1 UNet."""


def merge_block_of(key: str) -> str:
    """Return the merge block of an SD1 UNet key, "" for keys outside the UNet.

    As block-wise merging does it, the time embedding goes with IN00 and the last layers with OUT11.

    >>> merge_block_of("model.diffusion_model.output_blocks.3.1.norm.bias")
    'OUT03'
    """
    match = re.match(r"model\.diffusion_model\.(input|middle|output)_block(?:s\.(\d+))?\.", key)
    if match:
        name = {"input": "IN", "middle": "M", "output": "OUT"}[match[1]]
        return f"{name}{int(match[2] or 0):02}"
    if key.startswith(UNET):
        return "IN00" if key.startswith(UNET + "time_embed.") else "OUT11"
    return ""


# Resolution levels and blocks are numbered through in LDM, and counted per level in diffusers.
_UNET_MODULES = {
    "time_embed.0.": "time_embedding.linear_1.",
    "time_embed.2.": "time_embedding.linear_2.",
    "input_blocks.0.0.": "conv_in.",
    "middle_block.0.": "mid_block.resnets.0.",
    "middle_block.1.": "mid_block.attentions.0.",
    "middle_block.2.": "mid_block.resnets.1.",
    "out.0.": "conv_norm_out.",
    "out.2.": "conv_out.",
}
_VAE_MODULES = {
    "mid.block_1.": "mid_block.resnets.0.",
    "mid.block_2.": "mid_block.resnets.1.",
    "mid.attn_1.": "mid_block.attentions.0.",
    "norm_out.": "conv_norm_out.",
}
for _level in range(4):
    for _i in range(2):
        _in, _down = f"input_blocks.{3 * _level + _i + 1}", f"down_blocks.{_level}"
        _UNET_MODULES[f"{_in}.0."] = f"{_down}.resnets.{_i}."
        _UNET_MODULES[f"{_in}.1."] = f"{_down}.attentions.{_i}."
        _VAE_MODULES[f"down.{_level}.block.{_i}."] = f"{_down}.resnets.{_i}."
    for _i in range(3):
        _out, _up = f"output_blocks.{3 * _level + _i}", f"up_blocks.{_level}"
        _UNET_MODULES[f"{_out}.0."] = f"{_up}.resnets.{_i}."
        if _level:
            _UNET_MODULES[f"{_out}.1."] = f"{_up}.attentions.{_i}."
        _VAE_MODULES[f"up.{3 - _level}.block.{_i}."] = f"{_up}.resnets.{_i}."
    if _level < 3:
        _UNET_MODULES[f"input_blocks.{3 * _level + 3}.0.op."] = f"{_down}.downsamplers.0.conv."
        _conv = f"output_blocks.{3 * _level + 2}.{2 if _level else 1}.conv."
        _UNET_MODULES[_conv] = f"{_up}.upsamplers.0.conv."
        _VAE_MODULES[f"down.{_level}.downsample."] = f"{_down}.downsamplers.0."
        _VAE_MODULES[f"up.{3 - _level}.upsample."] = f"{_up}.upsamplers.0."

_UNET_LAYERS = {
    "in_layers.0.": "norm1.",
    "in_layers.2.": "conv1.",
    "emb_layers.1.": "time_emb_proj.",
    "out_layers.0.": "norm2.",
    "out_layers.3.": "conv2.",
    "skip_connection.": "conv_shortcut.",
}
_VAE_LAYERS = {"nin_shortcut.": "conv_shortcut."}
_VAE_ATTENTION_LAYERS = {
    "norm.": "group_norm.",
    "q.": "to_q.",
    "k.": "to_k.",
    "v.": "to_v.",
    "proj_out.": "to_out.0.",
}


def _translated(key: str, table: Mapping[str, str]) -> tuple[str, str]:
    """Return the translation of the longest prefix of `key` in a table, and the rest of the key."""
    prefix = max((p for p in table if key.startswith(p)), key=len, default="")
    return table.get(prefix, ""), key[len(prefix) :]


def diffusers_key(key: str) -> tuple[str, str]:
    """Return the pipeline folder and the key in it of an SD1 key.

    The names are those that diffusers writes since 0.15; the VAE's attention was `query`, `key`,
    `value` and `proj_attn` before. There the VAE's 1×1 convolutions are linear layers.

    >>> diffusers_key("model.diffusion_model.output_blocks.5.2.conv.weight")
    ('unet', 'up_blocks.1.upsamplers.0.conv.weight')
    >>> diffusers_key("first_stage_model.decoder.mid.attn_1.q.weight")
    ('vae', 'decoder.mid_block.attentions.0.to_q.weight')
    """
    if key.startswith(TEXT_SD1):
        return "text_encoder", key.removeprefix("cond_stage_model.transformer.")
    if key.startswith(UNET):
        module, rest = _translated(key.removeprefix(UNET), _UNET_MODULES)
        layer, rest = _translated(rest, _UNET_LAYERS) if "resnets" in module else ("", rest)
        return "unet", module + layer + rest
    half, dot, rest = key.removeprefix(VAE).partition(".")
    if half not in ("encoder", "decoder"):
        return "vae", half + dot + rest
    module, rest = _translated(rest, _VAE_MODULES)
    layers = _VAE_ATTENTION_LAYERS if "attentions" in module else _VAE_LAYERS
    layer, rest = _translated(rest, layers)
    return "vae", half + dot + module + layer + rest
