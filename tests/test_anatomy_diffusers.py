"""Anatomy of diffusers folders: each tensor comes to its place in the single file.

The key lists are generated the way the diffusers and transformers classes name their modules, and
the single-file ones the way the original code does; neither looks at the rules.
"""

from __future__ import annotations

import json
from collections import defaultdict
from math import prod
from pathlib import Path

import pytest
import torch

from megasim.anatomy.classification import ModelAnatomy, canonical_shape, classify_keys
from megasim.findings.relations import model_relations
from megasim.findings.verdicts import pair_findings
from megasim.workspace import open_store
from megasim.zoo import architectures as zoo
from megasim.zoo.keys import TEXT_SD2, TEXT_SDXL_2, UNET, VAE, diffusers_key
from tests.models import write_model

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
        if len(part.sources) > 1:
            assert {shapes[key][1:] for key in part.sources} == {shape[1:]}
            shape = (sum(shapes[key][0] for key in part.sources), *shape[1:])
        found[part.canonical_key] = canonical_shape(shape[::-1] if part.transposed else shape)
    assert sum(len(part.sources) for part in anatomy.parts) == len(shapes)
    assert sum(map(prod, found.values())) == sum(map(prod, shapes.values()))
    return found


def with_canonical_shapes(shapes: Shapes) -> Shapes:
    return {key: canonical_shape(shape) for key, shape in shapes.items()}


def labels(anatomy: ModelAnatomy) -> dict[str, tuple[str, str | None, str | None]]:
    return {p.canonical_key: (p.component, p.block, p.role) for p in anatomy.parts}


@pytest.mark.parametrize(
    ("family", "plan"), [("SD1", SD1), ("SD2", SD2), ("SDXL", SDXL), ("SDXL refiner", REFINER)]
)
@pytest.mark.parametrize("folder", ["unet/", ""])
def test_unet(family: str, plan: zoo.UNetPlan, folder: str) -> None:
    shapes = {k.replace("unet/", folder): s for k, s in diffusers_unet(plan, SMALL).items()}
    anatomy = classify_keys(shapes)
    assert anatomy.family == family
    assert anatomy.layout == ("diffusers" if folder else "diffusers-unet")
    single = zoo.prefixed(UNET, zoo.unet_shapes(plan, SMALL))
    assert assembled(anatomy, shapes) == with_canonical_shapes(single)
    assert labels(anatomy) == labels(classify_keys(single))


@pytest.mark.parametrize("names", [NEW_ATTENTION, OLD_ATTENTION])
@pytest.mark.parametrize("folder", ["vae/", ""])
def test_vae(names: tuple[str, str, str, str], folder: str) -> None:
    shapes = {k.replace("vae/", folder): s for k, s in diffusers_vae(SMALL, names).items()}
    anatomy = classify_keys(shapes)
    assert anatomy.family == "VAE"
    assert anatomy.layout == ("diffusers" if folder else "diffusers-vae")
    single = zoo.prefixed(VAE, zoo.vae_shapes(SMALL))
    assert assembled(anatomy, shapes) == with_canonical_shapes(single)


def pipeline(family: str) -> Shapes:
    """A pipeline folder of a family, as diffusers writes it."""
    words = zoo.scaled(49408, SMALL)
    vae = diffusers_vae(SMALL, NEW_ATTENTION)
    small = {channels: zoo.scaled(channels, SMALL) for channels in (768, 1024, 1280)}
    if family == "SD1":
        text = clip("text_encoder", 12, small[768], False, words)
        text["text_encoder/text_model.embeddings.position_ids"] = (1, 77)
        return diffusers_unet(SD1, SMALL) | vae | text
    if family == "SD2":
        return (
            diffusers_unet(SD2, SMALL) | vae | clip("text_encoder", 23, small[1024], False, words)
        )
    text = clip("text_encoder", 12, small[768], False, words)
    text["text_encoder/text_model.embeddings.position_ids"] = (1, 77)
    text |= clip("text_encoder_2", 32, small[1280], True, words)
    return diffusers_unet(SDXL, SMALL) | vae | text


@pytest.mark.parametrize("family", ["SD1", "SD2", "SDXL"])
def test_pipeline_and_single_file_are_the_same_model(family: str) -> None:
    single = {"SD1": zoo.sd1_shapes, "SD2": zoo.sd2_shapes, "SDXL": zoo.sdxl_shapes}[family](SMALL)
    shapes = pipeline(family)
    folder, file = classify_keys(shapes), classify_keys(single)
    assert (folder.family, file.family) == (family, family)
    found, expected = assembled(folder, shapes), with_canonical_shapes(single)
    # What the single files have and diffusers drops: logit_scale, and SD2's unused last layer.
    absent = {"SD1": 0, "SD2": 12 + 2, "SDXL": 1}[family]
    assert len(expected) - len(found) == absent
    assert found.items() <= expected.items()
    assert labels(folder).items() <= labels(file).items()


@pytest.mark.parametrize("family", ["SD1", "SD2", "SDXL"])
def test_a_folder_and_a_file_of_the_same_weights_are_identical(family: str, tmp_path: Path) -> None:
    """Through reading, fusing, transposing, hashing and comparing, component by component."""
    random = torch.Generator().manual_seed(1)
    made = {"SD1": zoo.sd1_shapes, "SD2": zoo.sd2_shapes, "SDXL": zoo.sdxl_shapes}[family](SMALL)
    single = {key: torch.randn(shape, generator=random) for key, shape in made.items()}
    shapes = pipeline(family)
    parts: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for part in classify_keys(shapes).parts:
        whole = single[part.canonical_key]
        for key, tensor in zip(part.sources, whole.chunk(len(part.sources)), strict=True):
            folder, name = key.split("/")
            turned = tensor.T if part.transposed else tensor
            parts[folder][name] = turned.reshape(shapes[key]).contiguous()
    for folder, tensors in parts.items():
        (tmp_path / "folder" / folder).mkdir(parents=True)
        write_model(tmp_path / "folder" / folder / "model.safetensors", tensors)
    index = {folder: ["diffusers", "Model"] for folder in parts}
    (tmp_path / "folder" / "model_index.json").write_text(json.dumps(index))
    file = write_model(tmp_path / "file.safetensors", single)
    with open_store(tmp_path / "store.duckdb") as workspace:
        assert not workspace.ingest(tmp_path / "folder", file).failed
        assert not workspace.compare().failed
        verdicts = {f.component: f.verdict for f in pair_findings(workspace.store)}
        texts = ("text_encoder",) if family != "SDXL" else ("text_encoder_1", "text_encoder_2")
        assert set(verdicts) == {"unet", *texts, "vae_encoder", "vae_decoder", "vae_quant"}
        # What folders leave out is never used: logit_scale, and the last layer of SD2.
        dropped = {"SD1": (), "SD2": ("text_encoder",), "SDXL": ("text_encoder_2",)}[family]
        assert verdicts == {c: "same_where_used" if c in dropped else "identical" for c in verdicts}
        (relation,) = model_relations(workspace.store)
        assert relation.kind == ("same_where_used" if dropped else "same_weights")


def test_the_zoo_names_diffusers_keys_the_same_way() -> None:
    """The zoo has its own way from the single file to the folder; the rules are the way back."""
    single = zoo.sd1_shapes(SMALL)
    folder = {"/".join(diffusers_key(key)): key for key in single}
    parts = classify_keys({name: single[key] for name, key in folder.items()}).parts
    assert {p.sources[0]: p.canonical_key for p in parts} == folder


def test_query_key_and_value_come_in_this_order() -> None:
    parts = {part.canonical_key: part for part in classify_keys(pipeline("SDXL")).parts}
    prefix = "conditioner.embedders.1.model."
    layer = "text_encoder_2/text_model.encoder.layers.31.self_attn."
    for kind in ("weight", "bias"):
        part = parts[f"{prefix}transformer.resblocks.31.attn.in_proj_{kind}"]
        assert part.sources == tuple(f"{layer}{p}_proj.{kind}" for p in "qkv")
        assert (part.block, part.role, part.transposed) == ("resblocks.31", "attn", False)
    projection = parts[f"{prefix}text_projection"]
    assert projection.sources == ("text_encoder_2/text_projection.weight",)
    assert projection.transposed
    assert [p.canonical_key for p in parts.values() if p.transposed] == [projection.canonical_key]


@pytest.mark.parametrize("broken", ["missing", "other shape", "scalar"])
def test_an_incomplete_set_of_parts_is_not_fused(broken: str) -> None:
    shapes = pipeline("SD2")
    layer = "text_encoder/text_model.encoder.layers.0.self_attn."
    if broken == "missing":
        del shapes[f"{layer}k_proj.weight"]
    else:
        shapes[f"{layer}k_proj.weight"] = (3, 5) if broken == "other shape" else ()
    parts = {part.canonical_key: part for part in classify_keys(shapes).parts}
    assert "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight" not in parts
    part = parts[f"{layer}q_proj.weight"]
    assert (part.sources, part.component, part.block) == (
        (f"{layer}q_proj.weight",),
        "text_encoder",
        "resblocks.0",
    )
    assert "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_bias" in parts


def test_text_encoders_alone() -> None:
    words = zoo.scaled(49408, SMALL)
    for layers, projection, family, prefix in (
        (12, False, "SD1", "cond_stage_model.transformer.text_model."),
        (23, False, "SD2", "cond_stage_model.model."),
        (32, True, "SDXL", "conditioner.embedders.1.model."),
    ):
        shapes = clip("x", layers, 24, projection, words)
        alone = {key.removeprefix("x/"): shape for key, shape in shapes.items()}
        anatomy = classify_keys(alone)
        assert (anatomy.family, anatomy.layout) == (family, "bare-text-encoder")
        assert all(part.canonical_key.startswith(prefix) for part in anatomy.parts)
    for model, prefix in (("OpenCLIP-H", TEXT_SD2), ("OpenCLIP-bigG", TEXT_SDXL_2)):
        bare = zoo.openclip_shapes(model, SMALL)
        assert {p.canonical_key for p in classify_keys(bare).parts} == {prefix + k for k in bare}


def test_refiner_single_file() -> None:
    text = zoo.prefixed(
        "conditioner.embedders.0.model.", zoo.openclip_shapes("OpenCLIP-bigG", SMALL)
    )
    unet = zoo.prefixed(UNET, zoo.unet_shapes(REFINER, SMALL))
    vae = zoo.prefixed(VAE, zoo.vae_shapes(SMALL))
    anatomy = classify_keys(unet | text | vae)
    assert anatomy.family == "SDXL refiner"
    components = {"unet", "text_encoder", "vae_encoder", "vae_decoder", "vae_quant"}
    assert {part.component for part in anatomy.parts} == components
    assert all(part.role for part in anatomy.parts)


# ---- SD3 -------------------------------------------------------------------------------------


def qkv(name: str, channels: int) -> Shapes:
    return linear(f"{name}.qkv", 3 * channels, channels)


def sd3_single(blocks: int, dual: int, qk_norm: bool, c: int = 8) -> Shapes:
    """`MMDiT` of the original code; in 3.5 medium, `dual` blocks have a second attention."""
    keys: Shapes = {"pos_embed": (1, 9, c), **conv("x_embedder.proj", c, 16, 2)}
    for name, into in (("t_embedder", 256), ("y_embedder", 20)):
        keys |= linear(f"{name}.mlp.0", c, into) | linear(f"{name}.mlp.2", c, c)
    keys |= linear("context_embedder", c, 32)
    for i in range(blocks):
        for side in ("x_block", "context_block"):
            block, last = f"joint_blocks.{i}.{side}", i == blocks - 1 and side == "context_block"
            second = side == "x_block" and i < dual
            chunks = 2 if last else 9 if second else 6
            keys |= linear(f"{block}.adaLN_modulation.1", chunks * c, c)
            for attention in ("attn", "attn2") if second else ("attn",):
                keys |= qkv(f"{block}.{attention}", c)
                if qk_norm:
                    keys |= {f"{block}.{attention}.ln_{x}.weight": (4,) for x in "qk"}
                if not last:
                    keys |= linear(f"{block}.{attention}.proj", c, c)
            if not last:
                keys |= linear(f"{block}.mlp.fc1", 4 * c, c) | linear(f"{block}.mlp.fc2", c, 4 * c)
    keys |= linear("final_layer.linear", 64, c) | linear("final_layer.adaLN_modulation.1", 2 * c, c)
    return {f"model.diffusion_model.{key}": shape for key, shape in keys.items()}


def sd3_diffusers(blocks: int, dual: int, qk_norm: bool, c: int = 8) -> Shapes:
    """`SD3Transformer2DModel`."""
    keys: Shapes = {"pos_embed.pos_embed": (1, 9, c), **conv("pos_embed.proj", c, 16, 2)}
    for name, into in (("timestep_embedder", 256), ("text_embedder", 20)):
        keys |= linear(f"time_text_embed.{name}.linear_1", c, into)
        keys |= linear(f"time_text_embed.{name}.linear_2", c, c)
    keys |= linear("context_embedder", c, 32)
    for i in range(blocks):
        block, last = f"transformer_blocks.{i}", i == blocks - 1
        keys |= linear(f"{block}.norm1.linear", (9 if i < dual else 6) * c, c)
        keys |= linear(f"{block}.norm1_context.linear", (2 if last else 6) * c, c)
        for attention in ("attn", "attn2") if i < dual else ("attn",):
            for name in NEW_ATTENTION:
                keys |= linear(f"{block}.{attention}.{name}", c, c)
            if qk_norm:
                keys |= {f"{block}.{attention}.norm_{x}.weight": (4,) for x in "qk"}
        for name in ("add_q_proj", "add_k_proj", "add_v_proj"):
            keys |= linear(f"{block}.attn.{name}", c, c)
        if qk_norm:
            keys |= {f"{block}.attn.norm_added_{x}.weight": (4,) for x in "qk"}
        for name in ("ff",) if last else ("ff", "ff_context"):
            keys |= linear(f"{block}.{name}.net.0.proj", 4 * c, c)
            keys |= linear(f"{block}.{name}.net.2", c, 4 * c)
        if not last:
            keys |= linear(f"{block}.attn.to_add_out", c, c)
    keys |= linear("proj_out", 64, c) | linear("norm_out.linear", 2 * c, c)
    return {f"transformer/{key}": shape for key, shape in keys.items()}


@pytest.mark.parametrize(
    ("blocks", "dual", "qk_norm"), [(24, 0, False), (38, 0, True), (24, 13, True)]
)
def test_sd3(blocks: int, dual: int, qk_norm: bool) -> None:
    single, folder = sd3_single(blocks, dual, qk_norm), sd3_diffusers(blocks, dual, qk_norm)
    anatomy, of_single = classify_keys(folder), classify_keys(single)
    assert (anatomy.family, of_single.family) == ("SD3", "SD3")
    found, expected = assembled(anatomy, folder), with_canonical_shapes(single)
    # Scale and shift are swapped in these; they are not claimed to be equal.
    swapped = {f"transformer/norm_out.linear.{kind}" for kind in ("weight", "bias")}
    last = f"transformer_blocks.{blocks - 1}.norm1_context.linear"
    swapped |= {f"transformer/{last}.{kind}" for kind in ("weight", "bias")}
    assert found.keys() - expected.keys() == swapped
    assert {k: s for k, s in found.items() if k not in swapped}.items() <= expected.items()
    assert len(expected) == len(found)
    assert {p.component for p in (*anatomy.parts, *of_single.parts)} == {"unet"}
    assert all(p.role and p.block for p in (*anatomy.parts, *of_single.parts))
    counts = {p.block for p in anatomy.parts}
    assert {f"joint_blocks.{i}" for i in range(blocks)} <= counts
    assert counts == {p.block for p in of_single.parts}

    bare = {key.removeprefix("model.diffusion_model."): shape for key, shape in single.items()}
    assert {p.canonical_key for p in classify_keys(bare).parts} == set(single)
    bare = {key.removeprefix("transformer/"): shape for key, shape in folder.items()}
    assert {p.canonical_key for p in classify_keys(bare).parts} == set(found)


def t5(prefix: str, layers: int, c: int = 8) -> Shapes:
    keys: Shapes = {"shared.weight": (32, c), "encoder.final_layer_norm.weight": (c,)}
    for i in range(layers):
        attention, feed = f"encoder.block.{i}.layer.0", f"encoder.block.{i}.layer.1"
        keys |= {f"{attention}.SelfAttention.{x}.weight": (c, c) for x in "qkvo"}
        keys |= {f"{part}.layer_norm.weight": (c,) for part in (attention, feed)}
        keys |= {f"{feed}.DenseReluDense.{x}.weight": (c, c) for x in ("wi_0", "wi_1", "wo")}
    keys["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (32, 2)
    return {prefix + key: shape for key, shape in keys.items()}


def renamed(shapes: Shapes, old: str, new: str) -> Shapes:
    return {new + key.removeprefix(old): shape for key, shape in shapes.items()}


def test_sd3_with_its_text_encoders() -> None:
    words = 40
    folder = sd3_diffusers(24, 0, False) | clip("text_encoder", 12, 8, True, words)
    folder |= clip("text_encoder_2", 32, 8, True, words) | t5("text_encoder_3/", 24)
    folder |= {k: s for k, s in diffusers_vae(SMALL, NEW_ATTENTION, 16).items() if "quant" not in k}
    single = renamed(clip("x", 12, 8, True, words), "x/", "text_encoders.clip_l.transformer.")
    single |= renamed(clip("x", 32, 8, True, words), "x/", "text_encoders.clip_g.transformer.")
    single |= t5("text_encoders.t5xxl.transformer.", 24) | {"text_encoders.clip_l.logit_scale": ()}
    anatomy = classify_keys(sd3_single(24, 0, False) | single)
    of_folder = classify_keys(folder)
    assert (anatomy.family, of_folder.family) == ("SD3", "SD3")
    texts = {k: v for k, v in labels(of_folder).items() if v[0].startswith("text_encoder")}
    assert texts.items() <= labels(anatomy).items()
    assert {v[0] for v in texts.values()} == {f"text_encoder_{n}" for n in (1, 2, 3)}
    fused = 2 * 2 * 32  # query, key and value are one in clip_g, weight and bias, in each layer
    assert len(texts) == len(single) - 1 - fused
    assert all(role for _, _, role in texts.values())
    encoder_t5 = [v for k, v in texts.items() if ".t5xxl." in k]
    assert {block for _, block, _ in encoder_t5} == {f"layer {i}" for i in range(24)} | {None}
    assert {p.component for p in of_folder.parts} == {
        *("unet", "vae_encoder", "vae_decoder"),
        *("text_encoder_1", "text_encoder_2", "text_encoder_3"),
    }


def test_the_second_text_encoder_of_sd3_is_that_of_sdxl(tmp_path: Path) -> None:
    """OpenCLIP bigG: query, key and value stand apart in SD3's file, and in one in SDXL's."""
    before, after = "conditioner.embedders.1.model.", "text_encoders.clip_g."
    sdxl = zoo.prefixed(before, zoo.openclip_shapes("OpenCLIP-bigG", SMALL))
    words, channels = sdxl[f"{before}token_embedding.weight"]
    sd3 = renamed(clip("x", 32, channels, True, words), "x/", f"{after}transformer.")
    sd3[f"{after}logit_scale"] = ()
    anatomy = classify_keys(sd3)
    assert anatomy.family == "SD3"
    assert assembled(anatomy, sd3) == {k.replace(before, after): v for k, v in sdxl.items()}
    tensors = {key: torch.randn(shape) for key, shape in sdxl.items()}
    apart = {}
    for part in anatomy.parts:
        whole = tensors[part.canonical_key.replace(after, before)]
        pieces = whole.chunk(3) if len(part.sources) == 3 else (whole,)
        for key, piece in zip(part.sources, pieces, strict=True):
            apart[key] = (piece.T if part.transposed else piece).contiguous()
    write_model(tmp_path / "models" / "sdxl.safetensors", tensors)
    write_model(tmp_path / "models" / "sd3.safetensors", apart)
    with open_store(tmp_path / "store.duckdb") as workspace:
        assert not workspace.ingest(tmp_path / "models").failed
        workspace.compare()
        (finding,) = pair_findings(workspace.store)
    assert (finding.component, finding.verdict) == ("text_encoder_2", "identical")
    assert finding.keys_compared == len(sdxl)


# ---- Flux ------------------------------------------------------------------------------------


def flux_single(double: int, single: int, guidance: bool, c: int = 8) -> Shapes:
    """`Flux` of the original code."""
    keys = linear("img_in", c, 64) | linear("txt_in", c, 40)
    for name in ("time_in", "vector_in", *(["guidance_in"] if guidance else [])):
        keys |= linear(f"{name}.in_layer", c, 16) | linear(f"{name}.out_layer", c, c)
    for i in range(double):
        for side in ("img", "txt"):
            block = f"double_blocks.{i}.{side}"
            keys |= linear(f"{block}_mod.lin", 6 * c, c) | qkv(f"{block}_attn", c)
            keys |= {f"{block}_attn.norm.{x}_norm.scale": (4,) for x in ("query", "key")}
            keys |= linear(f"{block}_attn.proj", c, c)
            keys |= linear(f"{block}_mlp.0", 4 * c, c) | linear(f"{block}_mlp.2", c, 4 * c)
    for i in range(single):
        block = f"single_blocks.{i}"
        keys |= linear(f"{block}.linear1", 7 * c, c) | linear(f"{block}.linear2", c, 5 * c)
        keys |= {f"{block}.norm.{x}_norm.scale": (4,) for x in ("query", "key")}
        keys |= linear(f"{block}.modulation.lin", 3 * c, c)
    return (
        keys
        | linear("final_layer.linear", 64, c)
        | linear("final_layer.adaLN_modulation.1", 2 * c, c)
    )


def flux_diffusers(double: int, single: int, guidance: bool, c: int = 8) -> Shapes:
    """`FluxTransformer2DModel`."""
    keys = linear("x_embedder", c, 64) | linear("context_embedder", c, 40)
    embedders = ("timestep", "text", *(["guidance"] if guidance else []))
    for name in embedders:
        keys |= linear(f"time_text_embed.{name}_embedder.linear_1", c, 16)
        keys |= linear(f"time_text_embed.{name}_embedder.linear_2", c, c)
    for i in range(double):
        block = f"transformer_blocks.{i}"
        keys |= linear(f"{block}.norm1.linear", 6 * c, c)
        keys |= linear(f"{block}.norm1_context.linear", 6 * c, c)
        for name in (*NEW_ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
            keys |= linear(f"{block}.attn.{name}", c, c)
        for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            keys[f"{block}.attn.{name}.weight"] = (4,)
        for name in ("ff", "ff_context"):
            keys |= linear(f"{block}.{name}.net.0.proj", 4 * c, c)
            keys |= linear(f"{block}.{name}.net.2", c, 4 * c)
    for i in range(single):
        block = f"single_transformer_blocks.{i}"
        keys |= linear(f"{block}.norm.linear", 3 * c, c) | linear(f"{block}.proj_mlp", 4 * c, c)
        for name in ("to_q", "to_k", "to_v"):
            keys |= linear(f"{block}.attn.{name}", c, c)
        keys |= {f"{block}.attn.norm_{x}.weight": (4,) for x in "qk"}
        keys |= linear(f"{block}.proj_out", c, 5 * c)
    keys |= linear("proj_out", 64, c) | linear("norm_out.linear", 2 * c, c)
    return {f"transformer/{key}": shape for key, shape in keys.items()}


@pytest.mark.parametrize("guidance", [True, False])
def test_flux(guidance: bool) -> None:
    bare, folder = flux_single(19, 38, guidance), flux_diffusers(19, 38, guidance)
    single = zoo.prefixed("model.diffusion_model.", bare)
    anatomy, of_single = classify_keys(folder), classify_keys(single)
    assert (anatomy.family, of_single.family) == ("Flux", "Flux")
    assert {p.canonical_key for p in classify_keys(bare).parts} == set(single)
    found, expected = assembled(anatomy, folder), with_canonical_shapes(single)
    swapped = {f"transformer/norm_out.linear.{kind}" for kind in ("weight", "bias")}
    assert found.keys() - expected.keys() == swapped
    assert {k: s for k, s in found.items() if k not in swapped}.items() <= expected.items()
    assert len(expected) == len(found)
    parts = {part.canonical_key: part for part in anatomy.parts}
    block = "transformer/single_transformer_blocks.37."
    assert parts["model.diffusion_model.single_blocks.37.linear1.weight"].sources == (
        *(f"{block}attn.to_{x}.weight" for x in "qkv"),
        f"{block}proj_mlp.weight",
    )
    assert {p.component for p in (*anatomy.parts, *of_single.parts)} == {"unet"}
    assert all(p.role and p.block for p in (*anatomy.parts, *of_single.parts))
    blocks = {f"double_blocks.{i}" for i in range(19)} | {f"single_blocks.{i}" for i in range(38)}
    assert blocks <= {p.block for p in of_single.parts} == {p.block for p in anatomy.parts}


def test_flux_variants_and_its_other_components() -> None:
    shapes = zoo.prefixed("model.diffusion_model.", flux_single(2, 2, True))
    shapes |= renamed(clip("x", 12, 8, True, 40), "x/", "text_encoders.clip_l.transformer.")
    shapes |= t5("text_encoders.t5xxl.transformer.", 2)
    shapes |= zoo.prefixed("vae.", zoo.vae_shapes(SMALL))
    first = "model.diffusion_model.img_in.weight"
    for channels, variant in ((64, ""), (384, "inpainting"), (128, "control")):
        anatomy = classify_keys(shapes | {first: (8, channels)})
        assert (anatomy.family, anatomy.variant) == ("Flux", variant)
    assert {p.component for p in anatomy.parts} == {
        *("unet", "text_encoder_1", "text_encoder_2"),
        *("vae_encoder", "vae_decoder", "vae_quant"),
    }
    assert "first_stage_model.decoder.conv_in.bias" in {p.canonical_key for p in anatomy.parts}


def test_other_pipelines_are_generic_with_components_by_folder() -> None:
    shapes = {
        "transformer/adaln_single.linear.weight": (4, 4),
        "transformer/transformer_blocks.3.attn1.to_q.weight": (4, 4),
        "text_encoder/encoder.block.3.layer.0.SelfAttention.q.weight": (4, 4),
        "safety_checker/vision_model.embeddings.class_embedding": (4,),
    } | diffusers_vae(SMALL, NEW_ATTENTION)
    anatomy = classify_keys(shapes)
    assert anatomy.family == "generic"
    blocks = {(p.component, p.block) for p in anatomy.parts if "vae" not in p.component}
    assert blocks == {
        ("unet", None),
        ("unet", "layer 3"),
        ("text_encoder_1", "layer 3"),
        ("safety_checker", None),
    }
    assert "first_stage_model.decoder.mid.attn_1.q.weight" in labels(anatomy)
