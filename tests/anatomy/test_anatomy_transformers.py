"""Anatomy of SD3 and Flux: a diffusers folder comes to its place in the single file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megasim.anatomy.classification import classify_keys
from megasim.findings.verdicts import pair_findings
from megasim.workspace import open_store
from megasim.zoo import architectures as zoo
from tests.diffusers_shapes import (
    NEW_ATTENTION,
    SMALL,
    Shapes,
    assembled,
    clip,
    conv,
    diffusers_vae,
    labels,
    linear,
    with_canonical_shapes,
)
from tests.models import write_model

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
    assert found == expected
    # Scale and shift are the other way round in these.
    last = f"transformer/transformer_blocks.{blocks - 1}.norm1_context.linear"
    twice = {p.sources for p in anatomy.parts if len(set(p.sources)) < len(p.sources)}
    assert twice == {
        (f"{layer}.{kind}",) * 2
        for layer in ("transformer/norm_out.linear", last)
        for kind in ("weight", "bias")
    }
    assert {p.component for p in (*anatomy.parts, *of_single.parts)} == {"transformer"}
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
        *("transformer", "vae_encoder", "vae_decoder"),
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
    assert found == expected
    parts = {part.canonical_key: part for part in anatomy.parts}
    block = "transformer/single_transformer_blocks.37."
    assert parts["model.diffusion_model.single_blocks.37.linear1.weight"].sources == (
        *(f"{block}attn.to_{x}.weight" for x in "qkv"),
        f"{block}proj_mlp.weight",
    )
    assert {p.component for p in (*anatomy.parts, *of_single.parts)} == {"transformer"}
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
        *("transformer", "text_encoder_1", "text_encoder_2"),
        *("vae_encoder", "vae_decoder", "vae_quant"),
    }
    assert "first_stage_model.decoder.conv_in.bias" in {p.canonical_key for p in anatomy.parts}
