"""Keys and shapes of the zoo's architectures, out of the parameters that define them.

The keys are those of the original single-file checkpoints. `width` scales every channel count
and the vocabulary; what is not a channel (image and latent channels, kernel sizes, the 77
positions of a prompt, the number of layers) stays, so each key keeps its rank and its role.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from megasim.zoo.keys import TEXT_SD1, TEXT_SD2, TEXT_SDXL_1, TEXT_SDXL_2, UNET, VAE

Shape = tuple[int, ...]
Shapes = dict[str, Shape]

_PROMPT = 77  # positions of a prompt
_VOCABULARY = 49408
_LATENT = 4  # channels of the VAE's latent image
_TEXT_CHANNELS = {"CLIP-L": 768, "OpenCLIP-H": 1024, "OpenCLIP-bigG": 1280}


@dataclass(frozen=True, slots=True)
class UNetPlan:
    """The parameters that tell the UNets of the SD families apart.

    `multipliers` and `depths` have one entry per resolution: the channel multiplier, and how many
    transformer blocks stand after each residual block (0: none). `pooled` is the length of the
    extra conditioning vector (SDXL), 0 where there is none.
    """

    multipliers: tuple[int, ...]
    depths: tuple[int, ...]
    middle_depth: int
    context: int
    linear_projection: bool
    in_channels: int = _LATENT
    pooled: int = 0


_SD1_UNET = UNetPlan((1, 2, 4, 4), (1, 1, 1, 0), 1, _TEXT_CHANNELS["CLIP-L"], False)
# Its input is the latent image, the masked latent image, and the mask.
_SD1_INPAINTING_UNET = replace(_SD1_UNET, in_channels=2 * _LATENT + 1)
_SD2_UNET = UNetPlan((1, 2, 4, 4), (1, 1, 1, 0), 1, _TEXT_CHANNELS["OpenCLIP-H"], True)
_SDXL_UNET = UNetPlan(
    (1, 2, 4),
    (0, 2, 10),
    10,
    _TEXT_CHANNELS["CLIP-L"] + _TEXT_CHANNELS["OpenCLIP-bigG"],
    True,
    pooled=2816,
)


def scaled(channels: int, width: float) -> int:
    """Return a channel count at a width, at least 1.

    >>> scaled(320, 1 / 32), scaled(3, 1 / 32)
    (10, 1)
    """
    return max(1, round(channels * width))


def prefixed(prefix: str, shapes: Mapping[str, Shape]) -> Shapes:
    """Return the shapes with `prefix` before every key."""
    return {prefix + key: shape for key, shape in shapes.items()}


def _joined(parts: Mapping[str, Mapping[str, Shape]]) -> Shapes:
    return {f"{name}.{key}": shape for name, part in parts.items() for key, shape in part.items()}


def _linear(out: int, into: int, bias: bool = True) -> Shapes:
    return {"weight": (out, into), **({"bias": (out,)} if bias else {})}


def _conv(out: int, into: int, size: int) -> Shapes:
    return {"weight": (out, into, size, size), "bias": (out,)}


def _norm(channels: int) -> Shapes:
    return {"weight": (channels,), "bias": (channels,)}


def _residual(into: int, out: int, time: int) -> Shapes:
    parts = {
        "in_layers.0": _norm(into),
        "in_layers.2": _conv(out, into, 3),
        "emb_layers.1": _linear(out, time),
        "out_layers.0": _norm(out),
        "out_layers.3": _conv(out, out, 3),
    }
    if into != out:
        parts["skip_connection"] = _conv(out, into, 1)
    return _joined(parts)


def _attention(channels: int, context: int) -> Shapes:
    return _joined(
        {
            "to_q": _linear(channels, channels, bias=False),
            "to_k": _linear(channels, context, bias=False),
            "to_v": _linear(channels, context, bias=False),
            "to_out.0": _linear(channels, channels),
        }
    )


def _transformer(channels: int, depth: int, context: int, linear: bool) -> Shapes:
    projection = _linear(channels, channels) if linear else _conv(channels, channels, 1)
    parts = {"norm": _norm(channels), "proj_in": projection, "proj_out": projection}
    for i in range(depth):
        parts[f"transformer_blocks.{i}"] = _joined(
            {
                "attn1": _attention(channels, channels),
                "attn2": _attention(channels, context),
                "ff.net.0.proj": _linear(8 * channels, channels),
                "ff.net.2": _linear(channels, 4 * channels),
                **{f"norm{n}": _norm(channels) for n in (1, 2, 3)},
            }
        )
    return _joined(parts)


def unet_shapes(plan: UNetPlan, width: float = 1.0) -> Shapes:
    """Return the keys (without prefix) and shapes of an SD UNet.

    The order of blocks and the skip connections follow `UNetModel` of the latent-diffusion code.
    """
    base = scaled(320, width)
    time = 4 * base
    context = scaled(plan.context, width)
    parts = {"time_embed.0": _linear(time, base), "time_embed.2": _linear(time, time)}
    if plan.pooled:
        parts["label_emb.0.0"] = _linear(time, scaled(plan.pooled, width))
        parts["label_emb.0.2"] = _linear(time, time)

    def transformer(channels: int, depth: int) -> Shapes:
        return _transformer(channels, depth, context, plan.linear_projection)

    parts["input_blocks.0.0"] = _conv(base, plan.in_channels, 3)
    channels, skips, block = base, [base], 1
    last = len(plan.multipliers) - 1
    for level, (multiplier, depth) in enumerate(zip(plan.multipliers, plan.depths, strict=True)):
        for _ in range(2):
            parts[f"input_blocks.{block}.0"] = _residual(channels, multiplier * base, time)
            channels = multiplier * base
            if depth:
                parts[f"input_blocks.{block}.1"] = transformer(channels, depth)
            skips.append(channels)
            block += 1
        if level < last:
            parts[f"input_blocks.{block}.0.op"] = _conv(channels, channels, 3)
            skips.append(channels)
            block += 1

    parts["middle_block.0"] = _residual(channels, channels, time)
    parts["middle_block.1"] = transformer(channels, plan.middle_depth)
    parts["middle_block.2"] = _residual(channels, channels, time)

    block = 0
    for level in range(last, -1, -1):
        multiplier, depth = plan.multipliers[level], plan.depths[level]
        for i in range(3):
            name = f"output_blocks.{block}"
            parts[f"{name}.0"] = _residual(channels + skips.pop(), multiplier * base, time)
            channels = multiplier * base
            if depth:
                parts[f"{name}.1"] = transformer(channels, depth)
            if level and i == 2:
                parts[f"{name}.{2 if depth else 1}.conv"] = _conv(channels, channels, 3)
            block += 1
    parts["out.0"] = _norm(channels)
    parts["out.2"] = _conv(_LATENT, channels, 3)
    return _joined(parts)


def clip_shapes(width: float = 1.0) -> Shapes:
    """Return the keys (without prefix) and shapes of the CLIP ViT-L/14 text encoder."""
    channels = scaled(_TEXT_CHANNELS["CLIP-L"], width)
    parts = {"embeddings": _embeddings(channels, width), "final_layer_norm": _norm(channels)}
    for i in range(12):
        parts[f"encoder.layers.{i}"] = _joined(
            {
                **{f"self_attn.{p}_proj": _linear(channels, channels) for p in "qkv"},
                "self_attn.out_proj": _linear(channels, channels),
                "layer_norm1": _norm(channels),
                "layer_norm2": _norm(channels),
                "mlp.fc1": _linear(4 * channels, channels),
                "mlp.fc2": _linear(channels, 4 * channels),
            }
        )
    return _joined(parts)


def _embeddings(channels: int, width: float) -> Shapes:
    return {
        "position_ids": (1, _PROMPT),
        "position_embedding.weight": (_PROMPT, channels),
        "token_embedding.weight": (scaled(_VOCABULARY, width), channels),
    }


def openclip_shapes(model: str, width: float = 1.0) -> Shapes:
    """Return the keys and shapes of an OpenCLIP text encoder: "OpenCLIP-H" or "OpenCLIP-bigG"."""
    channels = scaled(_TEXT_CHANNELS[model], width)
    parts = {"ln_final": _norm(channels)}
    for i in range({"OpenCLIP-H": 24, "OpenCLIP-bigG": 32}[model]):
        parts[f"transformer.resblocks.{i}"] = {
            "attn.in_proj_weight": (3 * channels, channels),
            "attn.in_proj_bias": (3 * channels,),
            **_joined(
                {
                    "attn.out_proj": _linear(channels, channels),
                    "ln_1": _norm(channels),
                    "ln_2": _norm(channels),
                    "mlp.c_fc": _linear(4 * channels, channels),
                    "mlp.c_proj": _linear(channels, 4 * channels),
                }
            ),
        }
    return {
        **_joined(parts),
        "logit_scale": (),
        "positional_embedding": (_PROMPT, channels),
        "text_projection": (channels, channels),
        "token_embedding.weight": (scaled(_VOCABULARY, width), channels),
    }


def _vae_residual(into: int, out: int) -> Shapes:
    parts = {
        "norm1": _norm(into),
        "conv1": _conv(out, into, 3),
        "norm2": _norm(out),
        "conv2": _conv(out, out, 3),
    }
    if into != out:
        parts["nin_shortcut"] = _conv(out, into, 1)
    return _joined(parts)


def _vae_middle(channels: int) -> Shapes:
    attention = {name: _conv(channels, channels, 1) for name in ("q", "k", "v", "proj_out")}
    return _joined(
        {
            "mid.block_1": _vae_residual(channels, channels),
            "mid.attn_1": _joined({"norm": _norm(channels), **attention}),
            "mid.block_2": _vae_residual(channels, channels),
        }
    )


def vae_shapes(width: float = 1.0) -> Shapes:
    """Return the keys (without prefix) and shapes of the VAE that SD1, SD2 and SDXL share."""
    levels = tuple(m * scaled(128, width) for m in (1, 2, 4, 4))
    wide = levels[-1]
    encoder: dict[str, Shapes] = {"conv_in": _conv(levels[0], 3, 3)}
    into = levels[0]
    for level, out in enumerate(levels):
        for i in range(2):
            encoder[f"down.{level}.block.{i}"] = _vae_residual(into, out)
            into = out
        if level < 3:
            encoder[f"down.{level}.downsample.conv"] = _conv(out, out, 3)
    encoder |= {"norm_out": _norm(wide), "conv_out": _conv(2 * _LATENT, wide, 3)}

    decoder: dict[str, Shapes] = {"conv_in": _conv(wide, _LATENT, 3)}
    into = wide
    for level in (3, 2, 1, 0):
        out = levels[level]
        for i in range(3):
            decoder[f"up.{level}.block.{i}"] = _vae_residual(into, out)
            into = out
        if level:
            decoder[f"up.{level}.upsample.conv"] = _conv(out, out, 3)
    decoder |= {"norm_out": _norm(into), "conv_out": _conv(3, into, 3)}
    return {
        **prefixed("encoder.", _vae_middle(wide) | _joined(encoder)),
        **prefixed("decoder.", _vae_middle(wide) | _joined(decoder)),
        **prefixed("quant_conv.", _conv(2 * _LATENT, 2 * _LATENT, 1)),
        **prefixed("post_quant_conv.", _conv(_LATENT, _LATENT, 1)),
    }


def vae_loss_shapes(width: float = 1.0) -> Shapes:
    """Return the keys and shapes of what the VAE was trained against, under `loss.`.

    Standalone VAE checkpoints still carry it: a perceptual loss (VGG16) and a discriminator.
    """
    c = [scaled(channels, width) for channels in (64, 128, 256, 512, 512)]
    perceptual: dict[str, Shapes] = {
        "scaling_layer": {"shift": (1, 3, 1, 1), "scale": (1, 3, 1, 1)}
    }
    slices = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
    into = 3
    for i, (out, places) in enumerate(zip(c, slices, strict=True)):
        perceptual[f"lin{i}.model.1"] = {"weight": (1, out, 1, 1)}
        for place in places:
            perceptual[f"net.slice{i + 1}.{place}"] = _conv(out, into, 3)
            into = out
    discriminator = {"0": _conv(c[0], 3, 4), "11": _conv(1, c[3], 4)}
    for i in range(3):
        discriminator[str(3 * i + 2)] = {"weight": (c[i + 1], c[i], 4, 4)}
        discriminator[str(3 * i + 3)] = {
            **_norm(c[i + 1]),
            "running_mean": (c[i + 1],),
            "running_var": (c[i + 1],),
            "num_batches_tracked": (),
        }
    return {
        "loss.logvar": (),
        **prefixed("loss.perceptual_loss.", _joined(perceptual)),
        **prefixed("loss.discriminator.main.", _joined(discriminator)),
    }


def sd1_shapes(width: float = 1.0) -> Shapes:
    """Return the 1,131 keys and shapes of an SD1 checkpoint without EMA.

    >>> shapes = sd1_shapes(1 / 32)
    >>> len(shapes), shapes["model.diffusion_model.input_blocks.0.0.weight"]
    (1131, (10, 4, 3, 3))
    """
    return _sd_shapes(_SD1_UNET, prefixed(TEXT_SD1, clip_shapes(width)), width)


def sd1_inpainting_shapes(width: float = 1.0) -> Shapes:
    """Return the shapes of an SD1 inpainting checkpoint: nine input channels, else SD1."""
    return _sd_shapes(_SD1_INPAINTING_UNET, prefixed(TEXT_SD1, clip_shapes(width)), width)


def sd2_shapes(width: float = 1.0) -> Shapes:
    """Return the 1,228 keys and shapes of an SD2 checkpoint without EMA."""
    text = prefixed(TEXT_SD2, openclip_shapes("OpenCLIP-H", width))
    return _sd_shapes(_SD2_UNET, text, width)


def sdxl_shapes(width: float = 1.0) -> Shapes:
    """Return the 2,515 keys and shapes of an SDXL base checkpoint."""
    text = {
        **prefixed(TEXT_SDXL_1, clip_shapes(width)),
        **prefixed(TEXT_SDXL_2, openclip_shapes("OpenCLIP-bigG", width)),
    }
    return _sd_shapes(_SDXL_UNET, text, width)


def _sd_shapes(unet: UNetPlan, text: Shapes, width: float) -> Shapes:
    return {
        **prefixed(UNET, unet_shapes(unet, width)),
        **text,
        **prefixed(VAE, vae_shapes(width)),
    }


def transformer_shapes(layers: int = 2, channels: int = 16, vocabulary: int = 64) -> Shapes:
    """Return the keys and shapes of a small language model of the Llama form."""
    parts: dict[str, Shapes] = {
        "model.embed_tokens": {"weight": (vocabulary, channels)},
        "model.norm": {"weight": (channels,)},
        "lm_head": {"weight": (vocabulary, channels)},
    }
    for i in range(layers):
        parts[f"model.layers.{i}"] = _joined(
            {
                **{f"self_attn.{p}_proj": _linear(channels, channels, False) for p in "qkvo"},
                "mlp.gate_proj": _linear(3 * channels, channels, False),
                "mlp.up_proj": _linear(3 * channels, channels, False),
                "mlp.down_proj": _linear(channels, 3 * channels, False),
                "input_layernorm": {"weight": (channels,)},
                "post_attention_layernorm": {"weight": (channels,)},
            }
        )
    return _joined(parts)


def cnn_shapes(width: float = 1.0) -> Shapes:
    """Return the keys and shapes of a residual network with BatchNorm, named as torchvision does.

    Two stages of two blocks; the first block of the second halves the resolution.
    """
    first, second = scaled(512, width), scaled(1024, width)
    parts: dict[str, Shapes] = {"conv1": {"weight": (first, 3, 7, 7)}, "bn1": _batch_norm(first)}
    for stage, (inner, outer) in enumerate(((first, first), (first, second)), start=1):
        for block in range(2):
            here = inner if block == 0 else outer
            name = f"layer{stage}.{block}"
            parts[f"{name}.conv1"] = {"weight": (outer, here, 3, 3)}
            parts[f"{name}.conv2"] = {"weight": (outer, outer, 3, 3)}
            parts |= {f"{name}.bn{i}": _batch_norm(outer) for i in (1, 2)}
            if here != outer:
                parts[f"{name}.downsample.0"] = {"weight": (outer, here, 1, 1)}
                parts[f"{name}.downsample.1"] = _batch_norm(outer)
    parts["fc"] = _linear(10, second, True)
    return _joined(parts)


def _batch_norm(channels: int) -> Shapes:
    names = ("weight", "bias", "running_mean", "running_var")
    return {**dict.fromkeys(names, (channels,)), "num_batches_tracked": ()}


FAMILY_SHAPES: Mapping[str, Callable[[float], Shapes]] = {
    "sd1": sd1_shapes,
    "sd1-inpainting": sd1_inpainting_shapes,
    "sd2": sd2_shapes,
    "sdxl": sdxl_shapes,
    "cnn": cnn_shapes,
    "llama": lambda width: transformer_shapes(4, scaled(2048, width), scaled(16384, width)),
    "transformer": lambda width: transformer_shapes(4, scaled(1024, width), scaled(8192, width)),
}
