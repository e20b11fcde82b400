"""Relations between whole models: each kind is told, with its evidence, and none is invented."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from megasim.findings.component_groups import shared_components
from megasim.findings.relations import Relation, model_relations
from megasim.findings.verdicts import pair_findings
from megasim.store.rows import Store
from megasim.words import RelationKind
from megasim.workspace import open_store
from megasim.zoo.building import unrelated_models
from tests.models import write_model
from tests.small_sd import (
    POSITIONS,
    SHAPES,
    TEXT,
    UNET,
    VAE,
    cast,
    compared_store,
    only,
    raised_ema,
    small_sd,
    trained,
    with_ema,
    without,
)


def models() -> dict[str, dict[str, torch.Tensor]]:
    base = with_ema(small_sd(1), 2)
    plain = without(base, "model_ema.")
    other_text = trained(plain, 3, TEXT, UNET)
    tail = {k: v.clone() for k, v in plain.items()}
    tail[UNET + "out.2.weight"][1, 1, 1, 1] = torch.inf
    return {
        "base": base,
        "pruned": plain,
        "copy": dict(plain),
        "half": cast(plain, torch.float16),
        "half-in-floats": cast(cast(plain, torch.float16), torch.float32),
        "ema-only": raised_ema(base),
        "vae": only(trained(plain, 4, VAE), VAE),
        "with-vae": plain | only(trained(plain, 4, VAE), VAE),
        "tuned": trained(plain, 5, UNET),
        "tuned-text": other_text,
        "transplant": plain | only(other_text, TEXT),
        "all-new": trained(plain, 6, UNET, TEXT, VAE),
        "unet-a": only(trained(plain, 7, UNET), UNET),
        "unet-b": only(trained(plain, 8, UNET), UNET),
        "hurt": tail,
        "other-ema": with_ema(plain, 10),
        "no-text": without(plain, TEXT),
        "stranger": small_sd(9),
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):
    with Store(compared_store(tmp_path_factory.mktemp("relations"), models())) as opened:
        yield opened


PAIRS = {
    ("pruned", "copy"): ("same_weights", "copy", "pruned", False),
    ("base", "pruned"): ("pruned", "pruned", "base", True),
    ("base", "half"): ("pruned", "half", "base", True),
    ("pruned", "half"): ("cast", "half", "pruned", True),
    ("half", "half-in-floats"): ("same_weights", "half-in-floats", "half", False),
    ("pruned", "half-in-floats"): ("cast", "half-in-floats", "pruned", False),
    ("base", "ema-only"): ("pruned", "ema-only", "base", True),
    ("vae", "with-vae"): ("part_of", "vae", "with-vae", False),
    ("pruned", "with-vae"): ("vae_replaced", "with-vae", "pruned", True),
    ("pruned", "transplant"): ("text_encoder_replaced", "transplant", "pruned", True),
    ("pruned", "tuned"): ("unet_fine_tuned", "tuned", "pruned", False),
    ("pruned", "tuned-text"): ("fine_tuned", "tuned-text", "pruned", False),
    ("unet-a", "unet-b"): ("fine_tuned", "unet-b", "unet-a", False),
    ("pruned", "all-new"): ("everything_changed", "all-new", "pruned", False),
    ("pruned", "hurt"): ("damaged", "hurt", "pruned", True),
    ("base", "other-ema"): ("same_where_used", "other-ema", "base", False),
    ("pruned", "no-text"): ("part_of", "no-text", "pruned", False),
}


@pytest.fixture(scope="module")
def related(store: Store) -> Mapping[tuple[str, str], list[Relation]]:
    found: dict[tuple[str, str], list[Relation]] = {pair: [] for pair in PAIRS}
    for relation in model_relations(store, list(PAIRS)):
        ahead, back = (relation.other, relation.model), (relation.model, relation.other)
        found[ahead if ahead in found else back].append(relation)
    return found


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_each_kind(related, pair: tuple[str, str]) -> None:
    (relation,) = related[pair]
    assert (relation.kind, relation.model, relation.other, relation.directed) == PAIRS[pair]
    assert relation.evidence


def test_every_kind_is_tried_here_or_among_the_small_differences() -> None:
    small = {"same_as_read", "overlap", "shards", "rescaled", "widened", "all_but_few"}
    small |= {"permuted", "rows_added"}  # test_profile_relations.py
    small |= {"other_layout", "layers_moved"}  # test_layout_relations.py
    small |= {"quantised", "quantised_and_changed", "scales_lost", "scales_of_another"}
    assert {kind for kind, *_ in PAIRS.values()} | small == set(RelationKind)


def test_no_more_is_said_than_holds(related) -> None:
    (ema,) = related["base", "other-ema"]
    assert ema.text == ("base and other-ema differ only in the EMA copy, which is never used")
    assert related["pruned", "no-text"][0].text == "no-text is pruned without its text encoder"
    assert related["vae", "with-vae"][0].text == "vae is the VAE of with-vae"


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if PAIRS[pair][3]], ids="-".join)
def test_what_was_made_from_what_does_not_depend_on_the_order(store: Store, pair) -> None:
    (relation,) = model_relations(store, [(pair[1], pair[0])])
    assert (relation.kind, relation.model, relation.other, relation.directed) == PAIRS[pair]


def test_which_unet_was_kept(related) -> None:
    assert "keeps the raw UNet" in related["base", "pruned"][0].text
    assert "keeps the EMA copy as its UNet" in related["base", "ema-only"][0].text
    assert "cast to float16" in related["base", "half"][0].text


def test_whose_vae_and_text_encoder_it_is(related) -> None:
    (vae,) = related["pruned", "with-vae"]
    assert vae.donors == ("vae",)
    (text,) = related["pruned", "transplant"]
    assert text.donors == ("tuned-text",)
    assert "that of transplant is also that of tuned-text" in text.text


def test_strangers_of_the_same_shapes_are_not_related(store: Store) -> None:
    others = [name for name in store.model_ids() if name != "stranger"]
    assert model_relations(store, [(name, "stranger") for name in others]) == []


def test_of_many_pairs_the_fewest_are_told_that_tie_all_together(store: Store) -> None:
    relations = model_relations(store)
    assert len(relations) < 2 * len(store.model_ids())
    related = {relation.model for relation in relations} | {r.other for r in relations}
    assert related == set(store.model_ids()) - {"stranger"}
    direct = [(r.model, r.other) for r in relations if r.kind in ("same_weights", "cast")]
    assert ("copy", "pruned") in direct
    assert ("half", "pruned") in direct or ("half", "copy") in direct


def test_a_model_in_two_layouts_is_one(tmp_path: Path) -> None:
    plain = {f"layers.{i}.weight": torch.randn(8, 8) for i in range(14)}
    with Store(
        compared_store(tmp_path, {"a": plain, "b": {"bert." + k: v for k, v in plain.items()}})
    ) as store:
        (relation,) = model_relations(store)
    assert relation.kind == "same_weights"


def test_a_shared_text_encoder_makes_no_kin_of_two_unets(tmp_path: Path) -> None:
    """Networks that were trained from nothing on the same frozen parts."""
    frozen = only(small_sd(1), TEXT, VAE)
    files = {"one": only(small_sd(2), UNET) | frozen, "two": only(small_sd(3), UNET) | frozen}
    with Store(compared_store(tmp_path, files)) as store:
        verdicts = {f.component: f.verdict for f in pair_findings(store)}
        assert verdicts["unet"] in ("changed", "partly_changed")
        assert verdicts["text_encoder"] == verdicts["vae_encoder"] == "identical"
        assert model_relations(store) == []


def sdxl_with(text: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a small model of the SDXL family whose first text encoder is one of SD1."""
    spatial = UNET + "input_blocks.4.1.transformer_blocks."
    own = {
        **{spatial + f"{i}.attn1.to_q.weight": torch.randn(16, 16) for i in range(2)},
        "conditioner.embedders.1.model.ln_final.weight": torch.randn(128),
        VAE + "decoder.conv_in.weight": torch.randn(16, 4, 3, 3),
    }
    first = "conditioner.embedders.0.transformer.text_model."
    return own | {first + key.removeprefix(TEXT): value for key, value in text.items()}


def test_families_that_share_a_text_encoder(tmp_path: Path) -> None:
    """What SD1 calls its text encoder is the first of two in SDXL."""
    sd1 = small_sd(1)
    clip = only(sd1, TEXT)
    sdxl = sdxl_with(without(clip, POSITIONS))
    files = {"sd1": sd1, "sdxl": sdxl, "sdxl-half": cast(sdxl, torch.float16), "clip": clip}
    with Store(compared_store(tmp_path, files)) as store:
        findings = {f.component: f for f in pair_findings(store, [("sd1", "sdxl")])}
        text = findings["text_encoder"]
        assert (text.verdict, text.missing_b) == ("same_where_used", 1)
        assert "position_ids" in text.detail
        assert "text_encoder_1" not in findings
        assert findings["text_encoder_2"].verdict == "absent_a"
        groups = [g.models for g in shared_components(store) if "text" in g.component]
        assert groups == [("sd1", "sdxl", "sdxl-half", "clip"), ("sdxl", "sdxl-half")]
        relations = {(r.kind, r.model, r.other) for r in model_relations(store)}
        assert relations == {
            ("cast", "sdxl-half", "sdxl"),
            ("part_of", "clip", "sd1"),
            ("part_of", "clip", "sdxl"),
            ("part_of", "clip", "sdxl-half"),
        }


@pytest.mark.parametrize("shapes", [None, SHAPES], ids=["language", "image"])
def test_a_thousand_unrelated_pairs_raise_no_alarm(tmp_path: Path, shapes) -> None:
    """46 models of equal shapes, 1035 pairs: they share norms still at 1, and nothing else."""
    paths = []
    for i, weights in enumerate(unrelated_models(46, seed=11, shapes=shapes)):
        tensors = {key: torch.from_numpy(value.copy()) for key, value in weights.items()}
        if shapes is not None:
            tensors[TEXT + "embeddings.position_ids"] = torch.arange(77).reshape(1, 77)
        paths.append(write_model(tmp_path / f"m{i:02}.safetensors", tensors))
    with open_store(tmp_path / "store.duckdb") as workspace:
        workspace.ingest(*paths)
        workspace.compare()
        store = workspace.store
        assert store.rows("renames") == []
        assert {f.component for f in pair_findings(store) if f.equal} <= {"norm"}  # only ones
        alike = workspace.sql(
            "select distinct canonical_key from layer_distances where status not in ('changed')"
        )
        trivial = workspace.sql(
            "select distinct canonical_key from layers where is_constant or numel < 64 "
            "or canonical_key like '%position_ids'"
        )
        assert set(alike["canonical_key"]) <= set(trivial["canonical_key"])
        assert shared_components(store) == []
        names = sorted(store.model_ids())
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
        assert len(pairs) == 1035
        assert model_relations(store, pairs) == []
        assert model_relations(store) == []
