"""Keys and shapes as the diffusers and transformers classes name their modules.

Neither these nor the single-file ones beside them look at the rules under test.
"""

from __future__ import annotations

from math import prod

from megasim.anatomy.classification import ModelAnatomy, canonical_shape
from megasim.zoo import architectures as zoo

Shape = tuple[int, ...]
Shapes = dict[str, Shape]

SD1 = zoo.UNetPlan((1, 2, 4, 4), (1, 1, 1, 0), 1, 768, False)
SD2 = zoo.UNetPlan((1, 2, 4, 4), (1, 1, 1, 0), 1, 1024, True)
SDXL = zoo.UNetPlan((1, 2, 4), (0, 2, 10), 10, 2048, True, pooled=2816)
# The refiner is 1.2 times as wide; its context is 1,280 channels all the same.
REFINER = zoo.UNetPlan((1, 2, 4, 4), (0, 4, 4, 0), 4, 1280, True, pooled=2560)
SMALL = 1 / 32


def linear(name: str, out: int, into: int) -> Shapes:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def conv(name: str, out: int, into: int, size: int = 3) -> Shapes:
    return {f"{name}.weight": (out, into, size, size), f"{name}.bias": (out,)}


def norm(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def resnet(name: str, into: int, out: int, time: int = 0) -> Shapes:
    keys = norm(f"{name}.norm1", into) | conv(f"{name}.conv1", out, into)
    keys |= norm(f"{name}.norm2", out) | conv(f"{name}.conv2", out, out)
    if time:
        keys |= linear(f"{name}.time_emb_proj", out, time)
    return keys | (conv(f"{name}.conv_shortcut", out, into, 1) if into != out else {})


def diffusers_unet(plan: zoo.UNetPlan, width: float) -> Shapes:
    base = zoo.scaled(320, width)
    time, context = 4 * base, zoo.scaled(plan.context, width)
    levels = [multiplier * base for multiplier in plan.multipliers]

    def transformer(name: str, channels: int, depth: int) -> Shapes:
        size = () if plan.linear_projection else (1, 1)
        keys = norm(f"{name}.norm", channels)
        for side in ("proj_in", "proj_out"):
            keys[f"{name}.{side}.weight"] = (channels, channels, *size)
            keys[f"{name}.{side}.bias"] = (channels,)
        for d in range(depth):
            block = f"{name}.transformer_blocks.{d}"
            for attention, source in (("attn1", channels), ("attn2", context)):
                keys[f"{block}.{attention}.to_q.weight"] = (channels, channels)
                keys[f"{block}.{attention}.to_k.weight"] = (channels, source)
                keys[f"{block}.{attention}.to_v.weight"] = (channels, source)
                keys |= linear(f"{block}.{attention}.to_out.0", channels, channels)
            keys |= linear(f"{block}.ff.net.0.proj", 8 * channels, channels)
            keys |= linear(f"{block}.ff.net.2", channels, 4 * channels)
            for n in (1, 2, 3):
                keys |= norm(f"{block}.norm{n}", channels)
        return keys

    keys = conv("conv_in", base, plan.in_channels) | conv("conv_out", 4, base)
    keys |= norm("conv_norm_out", base)
    keys |= linear("time_embedding.linear_1", time, base)
    keys |= linear("time_embedding.linear_2", time, time)
    if plan.pooled:
        keys |= linear("add_embedding.linear_1", time, zoo.scaled(plan.pooled, width))
        keys |= linear("add_embedding.linear_2", time, time)
    into = base
    for i, (out, depth) in enumerate(zip(levels, plan.depths, strict=True)):
        for j in range(2):
            keys |= resnet(f"down_blocks.{i}.resnets.{j}", out if j else into, out, time)
            if depth:
                keys |= transformer(f"down_blocks.{i}.attentions.{j}", out, depth)
        if i < len(levels) - 1:
            keys |= conv(f"down_blocks.{i}.downsamplers.0.conv", out, out)
        into = out
    keys |= resnet("mid_block.resnets.0", into, into, time)
    keys |= resnet("mid_block.resnets.1", into, into, time)
    keys |= transformer("mid_block.attentions.0", into, plan.middle_depth)
    upward, depths = levels[::-1], plan.depths[::-1]
    before = upward[0]
    for i, (out, depth) in enumerate(zip(upward, depths, strict=True)):
        below = upward[min(i + 1, len(upward) - 1)]
        for j in range(3):
            skip = below if j == 2 else out
            keys |= resnet(f"up_blocks.{i}.resnets.{j}", skip + (out if j else before), out, time)
            if depth:
                keys |= transformer(f"up_blocks.{i}.attentions.{j}", out, depth)
        if i < len(upward) - 1:
            keys |= conv(f"up_blocks.{i}.upsamplers.0.conv", out, out)
        before = out
    return {f"unet/{key}": shape for key, shape in keys.items()}


def diffusers_vae(width: float, names: tuple[str, str, str, str], latent: int = 4) -> Shapes:
    levels = [m * zoo.scaled(128, width) for m in (1, 2, 4, 4)]
    wide = levels[-1]
    keys: Shapes = {}
    for side in ("encoder", "decoder"):
        for j in (0, 1):
            keys |= resnet(f"{side}.mid_block.resnets.{j}", wide, wide)
        keys |= norm(f"{side}.mid_block.attentions.0.group_norm", wide)
        for name in names:
            keys |= linear(f"{side}.mid_block.attentions.0.{name}", wide, wide)
    keys |= conv("encoder.conv_in", levels[0], 3) | norm("encoder.conv_norm_out", wide)
    keys |= conv("encoder.conv_out", 2 * latent, wide) | conv("decoder.conv_in", wide, latent)
    keys |= norm("decoder.conv_norm_out", levels[0]) | conv("decoder.conv_out", 3, levels[0])
    keys |= conv("quant_conv", 2 * latent, 2 * latent, 1)
    keys |= conv("post_quant_conv", latent, latent, 1)
    into = levels[0]
    for i, out in enumerate(levels):
        for j in range(2):
            keys |= resnet(f"encoder.down_blocks.{i}.resnets.{j}", out if j else into, out)
        if i < 3:
            keys |= conv(f"encoder.down_blocks.{i}.downsamplers.0.conv", out, out)
        into = out
    for i, out in enumerate(levels[::-1]):
        for j in range(3):
            keys |= resnet(f"decoder.up_blocks.{i}.resnets.{j}", out if j else into, out)
        if i < 3:
            keys |= conv(f"decoder.up_blocks.{i}.upsamplers.0.conv", out, out)
        into = out
    return {f"vae/{key}": shape for key, shape in keys.items()}


NEW_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
OLD_ATTENTION = ("query", "key", "value", "proj_attn")


def clip(folder: str, layers: int, channels: int, projection: bool, vocabulary: int) -> Shapes:
    """`CLIPTextModel`, or `CLIPTextModelWithProjection`, of transformers."""
    keys: Shapes = {
        "embeddings.token_embedding.weight": (vocabulary, channels),
        "embeddings.position_embedding.weight": (77, channels),
        **norm("final_layer_norm", channels),
    }
    for i in range(layers):
        layer = f"encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            keys |= linear(f"{layer}.self_attn.{name}", channels, channels)
        keys |= norm(f"{layer}.layer_norm1", channels) | norm(f"{layer}.layer_norm2", channels)
        keys |= linear(f"{layer}.mlp.fc1", 4 * channels, channels)
        keys |= linear(f"{layer}.mlp.fc2", channels, 4 * channels)
    keys = {f"text_model.{key}": shape for key, shape in keys.items()}
    if projection:
        keys["text_projection.weight"] = (channels, channels)
    return {f"{folder}/{key}": shape for key, shape in keys.items()}


def assembled(anatomy: ModelAnatomy, shapes: Shapes) -> Shapes:
    """The canonical shape of every part, put together from the sources as it says."""
    found = {}
    for part in anatomy.parts:
        shape = shapes[part.sources[0]]
        keys = set(part.sources)  # one that is named twice has its halves swapped
        if len(keys) > 1:
            assert {shapes[key][1:] for key in keys} == {shape[1:]}
            shape = (sum(shapes[key][0] for key in keys), *shape[1:])
        found[part.canonical_key] = canonical_shape(shape[::-1] if part.transposed else shape)
    assert sum(len(set(part.sources)) for part in anatomy.parts) == len(shapes)
    assert sum(map(prod, found.values())) == sum(map(prod, shapes.values()))
    return found


def with_canonical_shapes(shapes: Shapes) -> Shapes:
    return {key: canonical_shape(shape) for key, shape in shapes.items()}


def labels(anatomy: ModelAnatomy) -> dict[str, tuple[str, str | None, str | None]]:
    return {p.canonical_key: (p.component, p.block, p.role) for p in anatomy.parts}
