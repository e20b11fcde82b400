"""The findings of all 23 published pairs, component by component.

The expected verdicts were read off the JSON files by hand, and from what is known of the models.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from megasim.exchange.mega_cmp_import import import_path
from megasim.findings.pair_sentences import pair_sentences
from megasim.findings.relations import Relation, model_relations
from megasim.findings.verdicts import Finding, pair_findings
from megasim.store.rows import Store

# Of each pair, the verdict of UNet, text encoder, VAE encoder, decoder and quant convolutions, EMA
# copy and training state; "" where neither model has the component and nobody would miss it.
S, C, P, U = "identical", "changed", "partly_changed", "same_where_used"
ONLY_A, NONE, OTHER, IN = "absent_b", "absent", "other_architecture", "contained"
EXPECTED = {
    # A UNet was trained on an unchanged text encoder, and the VAE decoder with it.
    ("sd144g", "ac"): (C, S, S, C, C, "", ONLY_A),
    # The text encoder of NovelAI is that of SD under another name.
    ("sd144g", "nai4g"): (C, S, S, S, S, "", P),
    ("sd147g", "nai7g"): (C, S, S, S, S, C, P),
    ("nai7g", "nai4g"): (C, S, S, S, S, ONLY_A, IN),
    ("sd12", "sd14"): (C, S, S, S, S, C, P),
    # SD2: the decoder is another, and the last text-encoder block was dropped.
    ("sd20", "wd14"): (C, C, S, C, C, "", ONLY_A),
    ("sd20", "sd21"): (C, S, S, S, S, "", P),
    ("sd21", "cjd211"): (C, S, C, C, C, "", IN),
    ("sd21", "jrd"): (C, U, S, S, S, "", ONLY_A),
    ("wd14", "p1at"): (C, C, C, C, C, "", ""),
    ("wd14e1", "wd14e2"): (C, C, S, S, S, "", ""),
    ("sd14", "sd21"): (OTHER, OTHER, S, C, P, "", P),
    # Fine-tunes without text encoder and VAE.
    ("ac", "mk0"): (C, ONLY_A, ONLY_A, ONLY_A, ONLY_A, "", ""),
    ("ac", "nman"): (C, ONLY_A, ONLY_A, ONLY_A, ONLY_A, "", ""),
    ("mk0", "mk3"): (C, NONE, NONE, NONE, NONE, "", ""),
    ("mk3", "mk5"): (C, NONE, NONE, NONE, NONE, "", ""),
    ("mk5", "nman"): (C, NONE, NONE, NONE, NONE, "", ""),
    # VAEs alone: `loss.*` counts as training state.
    ("full", "sd84k"): ("", "", S, C, P, "", C),
    ("full", "wd1"): ("", "", C, C, C, "", P),
    ("wd1", "wd2"): ("", "", C, C, C, "", P),
    ("sd84k", "wd2"): ("", "", S, C, C, "", C),
    ("sd84k", "nai"): ("", "", S, C, C, "", C),
    ("wd2", "nai"): ("", "", S, C, C, "", P),
}
COMPONENTS = (
    *("unet", "text_encoder", "vae_encoder", "vae_decoder", "vae_quant", "ema", "training_state"),
)


Pair = tuple[str, str]


@pytest.fixture(scope="module")
def published(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    path = tmp_path_factory.mktemp("published") / "store.duckdb"
    with Store(path, "write") as store:
        result = import_path(store, shared / "published" / "v1")
        assert not result.failed
        yield store


@pytest.fixture(scope="module")
def by_pair(published: Store) -> dict[Pair, dict[str, Finding]]:
    """Pair → component → finding."""
    found: dict[Pair, dict[str, Finding]] = defaultdict(dict)
    for finding in pair_findings(published):
        found[finding.model_a, finding.model_b][finding.component] = finding
    return dict(found)


@pytest.fixture(scope="module")
def related(published: Store) -> dict[Pair, list[Relation]]:
    found: dict[Pair, list[Relation]] = {pair: [] for pair in EXPECTED}
    for relation in model_relations(published):
        found[relation.other, relation.model].append(relation)
    return found


def test_there_are_all_23(by_pair) -> None:
    assert set(by_pair) == set(EXPECTED)
    assert len(EXPECTED) == 23


@pytest.mark.parametrize("pair", EXPECTED, ids="-".join)
def test_the_verdict_of_each_component(by_pair, pair: Pair) -> None:
    findings = dict(by_pair[pair])
    if findings.get("vae") is not None:  # said once of all its parts
        assert findings["vae"].verdict == NONE
        findings |= dict.fromkeys(COMPONENTS[2:5], findings.pop("vae"))
    verdicts = {component: finding.verdict for component, finding in findings.items()}
    expected = dict(zip(COMPONENTS, EXPECTED[pair], strict=True))
    assert verdicts == {component: verdict for component, verdict in expected.items() if verdict}


def numbers(finding: Finding) -> tuple[int | None, ...]:
    return (
        finding.keys_compared,
        finding.keys_changed,
        finding.missing_a,
        finding.missing_b,
        finding.shape_mismatch,
    )


PREFIXES = {
    "model.diffusion_model.": "unet",
    "cond_stage_model.": "text_encoder",
    "model_ema.diffusion_model": "ema",
    "encoder.": "vae_encoder",
    "decoder.": "vae_decoder",
    "quant_conv.": "vae_quant",
    "post_quant_conv.": "vae_quant",
}


def component_by_prefix(key: str) -> str:
    bare = key.removeprefix("nai.").removeprefix("first_stage_model.")
    found = (name for prefix, name in PREFIXES.items() if bare.startswith(prefix))
    return next(found, "training_state")


@pytest.mark.parametrize("pair", EXPECTED, ids="-".join)
def test_every_number_is_that_of_the_published_file(by_pair, shared: Path, pair: Pair) -> None:
    """Counted here by prefixes, not by the rules of the anatomy; counters enter no distance."""
    (path,) = (shared / "published" / "v1").glob(f"*_{'_'.join(pair)}.json")
    data = json.loads(path.read_text())
    renamed = any(key.startswith("nai.") for key in data["kv"])
    counts: dict[str, list[int]] = defaultdict(lambda: [0] * 5)
    squares: dict[str, float] = defaultdict(float)
    for key, distance in data["kv"].items():
        component = component_by_prefix(key)
        counts[component][0] += 1
        counts[component][1] += distance > 0
        if not key.endswith(("num_updates", "num_batches_tracked", "position_ids")):
            squares[component] += distance**2
    for place, name in ((3, "da"), (2, "db"), (4, "err")):
        for key in data[name]:
            if not (renamed and key.startswith("cond_stage_model.")):  # counted as `nai.`
                counts[component_by_prefix(key)][place] += 1
    findings = {c: f for c, f in by_pair[pair].items() if f.verdict != NONE}
    assert {c: list(numbers(f)) for c, f in findings.items()} == counts
    for component, finding in findings.items():
        assert finding.l2 is None or finding.l2**2 == pytest.approx(squares[component])


def test_the_renamed_text_encoder_is_identical(by_pair) -> None:
    text = by_pair["sd147g", "nai7g"]["text_encoder"]
    assert numbers(text) == (197, 0, 0, 0, 0)
    renamed = "cond_stage_model.transformer.text_model. → cond_stage_model.transformer."
    assert text.detail == f"197 keys, renamed: {renamed}"
    assert text.l2 == 0


def test_either_direction_can_be_asked_for(published: Store, by_pair) -> None:
    ahead = by_pair["nai7g", "nai4g"]
    back = {f.component: f for f in pair_findings(published, [("nai4g", "nai7g")])}
    assert (ahead["ema"].verdict, back["ema"].verdict) == ("absent_b", "absent_a")
    assert (ahead["ema"].missing_b, back["ema"].missing_a) == (686, 686)
    assert [(f.model_a, f.model_b) for f in back.values()] == [("nai4g", "nai7g")] * len(back)
    (_, back_text, *_) = pair_findings(published, [("nai7g", "sd147g")])
    assert back_text.detail.endswith(
        "cond_stage_model.transformer. → cond_stage_model.transformer.text_model."
    )


def test_the_dropped_ema_copy(by_pair, related) -> None:
    sentences = pair_sentences(list(by_pair["nai7g", "nai4g"].values()))
    assert "EMA copy: dropped (686 keys)" in sentences
    assert "VAE: identical (248 keys)" in sentences
    (relation,) = related["nai7g", "nai4g"]
    assert "distances cannot tell" in relation.text  # whether the kept UNet is the EMA copy


def test_only_the_decoder_changed(by_pair) -> None:
    sentences = pair_sentences(list(by_pair["sd20", "wd14"].values()))
    (vae,) = (s for s in sentences if s.startswith("VAE"))
    assert vae.startswith("VAE: only the decoder side changed: encoder identical (106 keys)")
    assert "decoder changed, L2 271.6 (138 of 138 keys)" in vae


def test_the_text_encoder_that_is_the_same_where_it_is_used(by_pair) -> None:
    text = by_pair["sd21", "jrd"]["text_encoder"]
    assert numbers(text) == (294, 14, 0, 0, 0)
    assert text.l2 == pytest.approx(1026.2476, abs=1e-4)
    listed, _, reason = text.detail.partition("; never used: ")
    assert listed == "14 of 294 keys: resblocks.23, text_projection, logit_scale"
    assert "penultimate layer" in reason


def test_keys_that_are_dropped_but_never_used(by_pair) -> None:
    text = by_pair["sd20", "wd14"]["text_encoder"]
    assert numbers(text) == (280, 280, 1, 14, 0)
    dropped = "14 keys only in sd20: resblocks.23, logit_scale, text_projection (never used)"
    assert dropped in text.detail
    assert "1 key only in wd14: position_ids (never used)" in text.detail


def test_another_architecture(by_pair, related) -> None:
    findings = by_pair["sd14", "sd21"]
    assert findings["unet"].detail == "64 of 686 keys have another shape"
    assert numbers(findings["unet"]) == (622, 622, 0, 0, 64)
    assert findings["text_encoder"].detail == "197 keys against 294, none of them in common"
    assert related["sd14", "sd21"] == []


def test_a_rounding_is_suspected_where_the_size_fits_and_nowhere_else(by_pair) -> None:
    suspected = [f for findings in by_pair.values() for f in findings.values() if f.rounding]
    (finding,) = suspected
    assert (finding.model_a, finding.model_b, finding.component) == ("wd14", "p1at", "vae_encoder")
    assert numbers(finding)[:2] == (106, 106)
    assert finding.l2 == pytest.approx(0.0494, abs=1e-4)
    assert finding.detail.startswith("106 of 106 keys; nonzero only at the level of a half-prec")
    assert "distances cannot prove" in finding.detail
    assert "√n" in finding.detail  # how it was judged


def test_loss_keys_are_training_state(by_pair) -> None:
    state = by_pair["full", "sd84k"]["training_state"]
    assert "56 keys only in full: loss" in state.detail


def test_the_kinds_of_relations(related) -> None:
    kinds = {pair: [relation.kind for relation in found] for pair, found in related.items()}
    on_same_text = {
        ("sd144g", "ac"), ("sd144g", "nai4g"), ("sd147g", "nai7g"), ("nai7g", "nai4g"),
        ("sd12", "sd14"), ("sd20", "sd21"), ("sd21", "cjd211"), ("sd21", "jrd"),
    }  # fmt: skip
    assert {pair for pair, kind in kinds.items() if kind == ["unet_fine_tuned"]} == on_same_text
    everything = {pair for pair, kind in kinds.items() if kind == ["everything_changed"]}
    assert everything == {("wd14", "p1at"), ("full", "wd1"), ("wd1", "wd2")}
    others = {pair for pair in EXPECTED if pair not in on_same_text | everything}
    assert {pair for pair in others if kinds[pair] != ["fine_tuned"]} == {("sd14", "sd21")}
