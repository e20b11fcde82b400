"""Anatomy: what each key of the published models and architectures is."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from megasim.anatomy.classification import (
    classify_keys,
    component_members,
    ema_key,
    load_rules,
)
from megasim.anatomy.patterns import split_key
from megasim.zoo import architectures as zoo
from tests.anatomy.classified import Shapes, assert_nothing_lost

# Where each list of ../shared/architectures stands in a checkpoint: family, prefix, component.
PLACES = [
    ("UNET-v1-SD", "SD1", "model.diffusion_model.", {"unet"}),
    ("UNET-v1-Inpainting", "SD1", "model.diffusion_model.", {"unet"}),
    ("UNET-v2-SD", "SD2", "model.diffusion_model.", {"unet"}),
    ("UNET-XL-SD", "SDXL", "model.diffusion_model.", {"unet"}),
    ("UNET-v1-EMA", "SD1", "model_ema.diffusion_model", {"ema"}),
    ("VAE-v1-SD", "VAE", "first_stage_model.", {"vae_encoder", "vae_decoder", "vae_quant"}),
    ("VAE-v1-SD", "VAE", "", {"vae_encoder", "vae_decoder", "vae_quant"}),
    ("CLIP-v1-SD", "SD1", "cond_stage_model.transformer.text_model.", {"text_encoder"}),
    ("CLIP-v1-SD", "SD1", "cond_stage_model.transformer.", {"text_encoder"}),
    ("CLIP-v1-SD", "SDXL", "conditioner.embedders.0.transformer.text_model.", {"text_encoder_1"}),
    ("CLIP-v2-SD", "SD2", "cond_stage_model.model.", {"text_encoder"}),
    ("CLIP-v2-WD", "SD2", "cond_stage_model.model.", {"text_encoder"}),
    ("CLIP-XL-SD", "SDXL", "conditioner.embedders.1.model.", {"text_encoder_2"}),
]


def read_architecture(shared: Path, name: str, prefix: str) -> Shapes:
    lines = (shared / "architectures" / f"{name}.txt").read_text().splitlines()
    pairs = (line.split() for line in lines)
    return {prefix + key: tuple(json.loads(shape)) for key, shape in pairs}


@pytest.mark.parametrize(("name", "family", "prefix", "components"), PLACES)
def test_every_key_of_the_architectures_is_known(
    shared: Path, name: str, family: str, prefix: str, components: set[str]
) -> None:
    shapes = read_architecture(shared, name, prefix)
    anatomy = classify_keys(shapes)
    assert anatomy.family == family
    assert {part.component for part in anatomy.parts} == components
    assert all(part.role for part in anatomy.parts)
    assert all(part.block for part in anatomy.parts if part.component in ("unet", "ema"))
    assert_nothing_lost(shapes, anatomy)


def test_there_is_a_place_for_every_architecture(shared: Path) -> None:
    files = {path.stem for path in (shared / "architectures").glob("*.txt")}
    assert files == {name for name, *_ in PLACES}


@pytest.mark.parametrize(("name", "family", "prefix", "components"), PLACES)
def test_no_key_fits_rules_of_two_components(
    shared: Path, name: str, family: str, prefix: str, components: set[str]
) -> None:
    rules = load_rules().of_family(family)
    for part in classify_keys(read_architecture(shared, name, prefix)).parts:
        names = frozenset(split_key(part.canonical_key))
        found = [
            rule.value.fill(match)
            for rule in rules.component.candidates(names)
            if (match := rule.pattern.match(part.canonical_key)) is not None
        ]
        assert len(set(found)) == 1, (part.canonical_key, found)


def test_filing_rules_by_names_hides_none_of_them() -> None:
    """A rule that fits a key is among the few that the key is tried against; and keys that are
    taken to be alike, but for their numbers, are."""
    rules = load_rules()
    for family, shapes in (("SD1", zoo.sd1_shapes(1 / 32)), ("SDXL", zoo.sdxl_shapes(1 / 32))):
        columns = rules.of_family(family)
        everything = {
            "component": rules.component,
            "block": rules.block,
            "role": rules.role,
        }
        numbered = (re.sub(r"(?<=[.])[0-9]+", n, key) for key in shapes for n in ("0", "1", "31"))
        for key in dict.fromkeys((*shapes, *numbered)):
            for column, all_rules in everything.items():
                first = next(
                    (
                        rule.value.fill(match)
                        for rule in all_rules
                        if not rule.families or family in rule.families
                        if (match := rule.pattern.match(key)) is not None
                    ),
                    None,
                )
                assert getattr(columns, column).decide(key) == first


def published_keys(shared: Path) -> dict[str, tuple[set[str], set[str]]]:
    """The keys of models a and b of each published comparison; `nai.X` is X renamed."""
    found = {}
    for path in sorted((shared / "published" / "v1").glob("*_*_*.json")):
        data = json.loads(path.read_text())
        both = {*data["kv"], *data["err"]}
        found[path.stem] = (both | set(data["da"]), both | set(data["db"]))
    return found


def test_every_key_of_the_published_comparisons_is_known(shared: Path) -> None:
    published = published_keys(shared)
    assert len(published) == 23
    for name, models in published.items():
        group, *names = name.split("_")
        for model, keys in zip(names, models, strict=True):
            anatomy = classify_keys(dict.fromkeys(keys, ()))
            assert_nothing_lost(dict.fromkeys(keys), anatomy)
            unknown = [p.canonical_key for p in anatomy.parts if p.component == "other"]
            assert not unknown, (name, unknown[:3])
            family = {"vae": "VAE", "sd2": "SD1" if model == "sd14" else "SD2"}.get(group, "SD1")
            assert anatomy.family == family


def test_the_published_components_have_the_counts_people_wrote_down(shared: Path) -> None:
    _, keys = published_keys(shared)["nai_sd147g_nai7g"]
    counts = Counter(p.component for p in classify_keys(dict.fromkeys(keys, ())).parts)
    assert counts == {
        "unet": 686,
        "ema": 686,
        "text_encoder": 197 + 197,  # those of nai7g, and as `nai.` against those of sd14
        "vae_encoder": 106,
        "vae_decoder": 138,
        "vae_quant": 4,
        "training_state": 14,
    }


def test_blocks_are_the_units_of_block_wise_merging() -> None:
    counts: dict[str, set[str]] = {}
    for family, shapes in {"SD1": zoo.sd1_shapes(), "SDXL": zoo.sdxl_shapes()}.items():
        parts = classify_keys(shapes).parts
        counts[family] = {p.block for p in parts if p.component == "unet" and p.block}
    numbered = {f"IN{i:02}" for i in range(12)} | {f"OUT{i:02}" for i in range(12)}
    assert counts["SD1"] == numbered | {"M00", "TIME", "OUT"}
    numbered = {f"IN{i:02}" for i in range(9)} | {f"OUT{i:02}" for i in range(9)}
    assert counts["SDXL"] == numbered | {"M00", "TIME", "LABEL", "OUT"}


@pytest.mark.parametrize(
    ("key", "component", "block", "role"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", "unet", "IN00", "conv"),
        (
            "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
            "unet",
            "IN01",
            "attn1",
        ),
        ("model.diffusion_model.middle_block.1.proj_in.weight", "unet", "M00", "proj"),
        (
            "model.diffusion_model.output_blocks.11.0.emb_layers.1.bias",
            "unet",
            "OUT11",
            "emb_layers",
        ),
        ("model.diffusion_model.output_blocks.3.0.in_layers.0.bias", "unet", "OUT03", "norm"),
        ("model.diffusion_model.time_embed.2.bias", "unet", "TIME", "embedding"),
        ("model.diffusion_model.out.2.bias", "unet", "OUT", "conv"),
        ("first_stage_model.decoder.up.3.block.0.norm1.bias", "vae_decoder", "up.3", "norm"),
        ("first_stage_model.encoder.mid.attn_1.q.bias", "vae_encoder", "mid", "attn"),
        ("first_stage_model.quant_conv.bias", "vae_quant", "quant_conv", "conv"),
        (
            "cond_stage_model.transformer.text_model.encoder.layers.7.mlp.fc1.bias",
            "text_encoder",
            "layer 7",
            "mlp",
        ),
        (
            "cond_stage_model.transformer.text_model.embeddings.position_ids",
            "text_encoder",
            None,
            "buffer",
        ),
        ("betas", "training_state", None, "buffer"),
        ("sqrt_one_minus_alphas_cumprod", "training_state", None, "buffer"),
        ("model_ema.num_updates", "training_state", None, "buffer"),
        ("model_ema.diffusion_modelinput_blocks110in_layers0weight", "ema", "IN11", "norm"),
        (
            "model_ema.diffusion_modeloutput_blocks31transformer_blocks0attn2to_kweight",
            "ema",
            "OUT03",
            "attn2",
        ),
        ("v_pred", "other", None, None),
    ],
)
def test_what_single_keys_are(
    key: str, component: str, block: str | None, role: str | None
) -> None:
    shapes = zoo.sd1_shapes(1 / 32) | {key: ()}
    (part,) = (p for p in classify_keys(shapes).parts if p.canonical_key == key)
    assert (part.component, part.block, part.role) == (component, block, role)


def test_the_ema_copy_has_the_blocks_and_roles_of_the_unet() -> None:
    unet = {k: s for k, s in zoo.sd1_shapes(1 / 32).items() if k.startswith("model.")}
    both = unet | {ema_key(key): shape for key, shape in unet.items()}
    labels = {p.canonical_key: (p.block, p.role) for p in classify_keys(both).parts}
    assert {key: labels[ema_key(key)] for key in unet} == {key: labels[key] for key in unet}


@pytest.mark.parametrize("width", [1, 1 / 32])
def test_families_and_variants_are_told_at_any_width(width: float) -> None:
    for family, shapes in {
        "SD1": zoo.sd1_shapes(width),
        "SD2": zoo.sd2_shapes(width),
        "SDXL": zoo.sdxl_shapes(width),
    }.items():
        first = "model.diffusion_model.input_blocks.0.0.weight"
        for channels, variant in (
            (4, ""),
            (9, "inpainting"),
            (5, "depth"),
            (8, "instruct-pix2pix"),
        ):
            changed = shapes | {first: (shapes[first][0], channels, 3, 3)}
            assert (anatomy := classify_keys(changed)).family == family
            assert (anatomy.variant, anatomy.layout) == (variant, "ldm")
            unet_only = {k: s for k, s in changed.items() if k.startswith("model.")}
            assert classify_keys(unet_only).family == family


@pytest.mark.parametrize(
    ("change", "layout"),
    [
        (lambda key: key.replace("text_model.", ""), "novelai"),
        (lambda key: "state_dict." + key, "ldm"),
        (lambda key: "module." + key, "ldm"),
        (lambda key: "model." + key, "ldm"),
        (lambda key: "state_dict.module." + key, "ldm"),
    ],
)
def test_layouts_and_wrappers_come_to_the_same_canonical_keys(
    change: Callable[[str], str], layout: str
) -> None:
    shapes = zoo.sd1_shapes(1 / 32)
    anatomy = classify_keys({change(key): shape for key, shape in shapes.items()})
    assert anatomy.layout == layout
    assert {part.canonical_key for part in anatomy.parts} == set(shapes)


def test_a_vae_alone_has_the_keys_of_a_vae_inside() -> None:
    inside = {k for k in zoo.sd1_shapes(1 / 32) if k.startswith("first_stage_model.")}
    alone = zoo.vae_shapes(1 / 32) | zoo.vae_loss_shapes(1 / 32) | {"model_ema.decay": ()}
    anatomy = classify_keys(alone)
    assert (anatomy.family, anatomy.layout) == ("VAE", "bare-vae")
    vae = {p.canonical_key for p in anatomy.parts if p.component in component_members("vae")}
    assert vae == inside
    rest = {p.component for p in anatomy.parts if p.canonical_key not in vae}
    assert rest == {"training_state"}


def test_a_key_whose_canonical_name_is_taken_keeps_its_own() -> None:
    taken = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    twice = "cond_stage_model.transformer.embeddings.position_ids"
    anatomy = classify_keys({taken: (1, 77), twice: (1, 77)})
    assert [(p.canonical_key, p.sources) for p in anatomy.parts] == [
        (twice, (twice,)),
        (taken, (taken,)),
    ]
    assert {p.component for p in anatomy.parts} == {"text_encoder"}
