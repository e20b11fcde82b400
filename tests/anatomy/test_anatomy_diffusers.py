"""Anatomy of diffusers folders: each tensor comes to its place in the single file.

The key lists are generated the way the diffusers and transformers classes name their modules, and
the single-file ones the way the original code does; neither looks at the rules.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from megasim.anatomy.classification import classify_keys
from megasim.findings.relations import model_relations
from megasim.findings.verdicts import pair_findings
from megasim.workspace import open_store
from megasim.zoo import architectures as zoo
from megasim.zoo.keys import TEXT_SD2, TEXT_SDXL_2, UNET, VAE, diffusers_key
from tests.diffusers_shapes import (
    NEW_ATTENTION,
    OLD_ATTENTION,
    REFINER,
    SD1,
    SD2,
    SDXL,
    SMALL,
    Shapes,
    assembled,
    clip,
    diffusers_unet,
    diffusers_vae,
    labels,
    with_canonical_shapes,
)
from tests.models import write_model


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
        ("transformer", None),
        ("transformer", "layer 3"),
        ("text_encoder_1", "layer 3"),
        ("safety_checker", None),
    }
    assert "first_stage_model.decoder.mid.attn_1.q.weight" in labels(anatomy)
