"""Findings of pairs of small models: verdicts, details, both directions, what is asked wrongly."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megasim.errors import NoAnswerError, UsageError
from megasim.findings.details import Detail
from megasim.findings.identity import Counts
from megasim.findings.overview import findings_report
from megasim.findings.pair_sentences import model_verdict, pair_sentences
from megasim.findings.verdicts import Finding, FindingsReader, chosen_pairs, pair_findings
from megasim.store.rows import HeldModel, Model, Store
from megasim.words import Source, Verdict
from tests.simulated_store import model_names, simulate_store
from tests.small_sd import (
    POSITIONS,
    SHAPES,
    TEXT,
    UNET,
    VAE,
    cast,
    compared_store,
    only,
    small_sd,
    trained,
    with_ema,
    without,
)

GOLDEN = Path(__file__).parents[1] / "golden"
HOSTILE = "<b>*evil*</b>\x1b[31m|`x`"


def models() -> dict[str, dict[str, torch.Tensor]]:
    base = small_sd()
    novelai = {k.replace(".text_model.", "."): v for k, v in base.items()}
    widened = trained(base, 5, UNET)
    widened[UNET + "input_blocks.0.0.weight"] = torch.ones(8, 9, 3, 3)
    broken = {k: v.clone() for k, v in base.items()}
    broken[UNET + "out.2.weight"][0, 0, 0, 0] = torch.nan
    return {
        "base": with_ema(base, 1),
        "half": cast(base, torch.float16),
        "brain": cast(base, torch.bfloat16),
        "double": cast(base, torch.float64),
        "novelai": trained(novelai, 2, UNET),
        "decoder": trained(base, 3, VAE + "decoder"),
        "tuned": trained(base, 4, UNET, *(TEXT + f"encoder.layers.{i}." for i in (8, 9, 10, 11))),
        "unet": only(base, UNET),
        "no-positions": without(base, POSITIONS),
        "widened": widened,
        "broken": broken,
        HOSTILE: {"layers.0.weight": torch.arange(64.0), "<script>": torch.ones(3)},
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("findings")
    files = models()
    evil = files.pop(HOSTILE)
    path = compared_store(folder, {**files, "evil": evil})
    with Store(path, "write") as opened:
        opened.rename_model(opened.model_ids(["evil"])["evil"], HOSTILE)
        opened.save_model(HeldModel(Model("stranger", source="imported")))
        opened.add_groups({"halves": [(1, 2), (1, 3)]})
        yield opened


def told(store: Store, a: str, b: str) -> dict[str, Finding]:
    return {finding.component: finding for finding in pair_findings(store, [(a, b)])}


@pytest.mark.parametrize(
    ("name", "component", "verdict", "detail"),
    [
        ("half", "unet", "same_at_fp16", "8 keys, float32 → float16"),
        ("brain", "unet", "same_at_bf16", "8 keys, float32 → bfloat16"),
        ("double", "vae_decoder", "same_values", "2 keys, float32 → float64"),
        (
            "novelai",
            "text_encoder",
            "identical",
            "38 keys, renamed: cond_stage_model.transformer.text_model. → "
            "cond_stage_model.transformer.",
        ),
        ("decoder", "vae_encoder", "identical", "2 keys"),
        ("decoder", "vae_decoder", "changed", "2 of 2 keys"),
        ("tuned", "text_encoder", "partly_changed", "12 of 38 keys: layers.8–11"),
        ("tuned", "ema", "absent_b", "8 keys"),
        ("unet", "unet", "identical", "8 keys"),
        ("unet", "text_encoder", "absent_b", "38 keys"),
        (
            "no-positions",
            "text_encoder",
            "same_where_used",
            "37 keys equal; 1 key only in base: position_ids; never used: whole "
            "position_ids are the numbers 0, 1, 2 …, made anew where they are missing",
        ),
        (
            "widened",
            "unet",
            "changed",
            "7 of 7 keys; 1 key of another shape: input_blocks.0.0.weight (8x4x3x3 → 8x9x3x3)",
        ),
        (
            "broken",
            "unet",
            "partly_changed",
            "7 of 8 keys equal; 1 key with NaN or inf: out.2.weight",
        ),
    ],
)
def test_components(store: Store, name: str, component: str, verdict: str, detail: str) -> None:
    finding = told(store, "base", name)[component]
    assert (finding.verdict, finding.detail) == (verdict, detail)


@pytest.mark.parametrize("name", [name for name in models() if name != "base"])
def test_the_other_direction_swaps_what_is_missing(store: Store, name: str) -> None:
    ahead, back = told(store, "base", name), told(store, name, "base")
    swap = {"absent_a": "absent_b", "absent_b": "absent_a"}
    for component, finding in ahead.items():
        turned = back[component]
        assert turned.verdict == swap.get(finding.verdict, finding.verdict)
        assert (turned.missing_a, turned.missing_b) == (finding.missing_b, finding.missing_a)
        assert (turned.model_a, turned.model_b) == (finding.model_b, finding.model_a)
        assert (turned.l2, turned.keys_changed) == (finding.l2, finding.keys_changed)


def test_json_holds_what_is_promised(store: Store) -> None:
    (unet, *_) = (f.to_json() for f in pair_findings(store, [("base", "tuned")]))
    assert list(unet) == [
        *("model_a", "model_b", "component", "verdict", "keys_compared", "keys_changed"),
        *("missing_a", "missing_b", "shape_mismatch", "l2", "l2_error", "detail", "source"),
        "keys_unread",
        "keys_measured",
    ]
    assert unet["verdict"] == "changed"
    assert (unet["keys_compared"], unet["keys_changed"]) == (8, 8)


def test_what_neither_model_has_is_said_too(store: Store, tmp_path: Path) -> None:
    base = small_sd()
    names = {"one": only(base, UNET), "two": only(trained(base, 1, UNET), UNET)}
    with Store(compared_store(tmp_path, names)) as other:
        findings = pair_findings(other)
    assert {f.component: f.verdict for f in findings} == {
        "unet": "changed",
        "text_encoder": "absent",
        "vae": "absent",
    }


def test_estimates_are_told_with_their_error() -> None:
    def changed(component: str, l2: float, error: float) -> Finding:
        found = Finding(
            *("a", "b", component, Verdict.CHANGED, Counts(changed=9)),
            l2=l2,
            l2_error=error,
            source=Source.ESTIMATED,
            described=Detail(9),
        )
        assert (found.to_json()["source"], found.to_json()["l2_error"]) == ("estimated", error)
        return found

    sides = [changed("vae_encoder", 3, 0.5), changed("vae_decoder", 4, 0.25)]
    unet, vae = pair_sentences([changed("unet", 40, 0.1), *sides])
    assert unet.startswith("UNet: changed, L2 ≈ 40 ± 0.1 (")
    assert vae.startswith("VAE: changed, L2 ≈ 5 ± 0.36 (")  # √((3 · 0.5)² + (4 · 0.25)²) / 5
    (whole,) = pair_sentences([changed("unet", 40, 0)])
    assert whole.startswith("UNet: changed, L2 ≈ 40 (")  # all tensors kept whole


def test_whole_models(store: Store) -> None:
    verdicts = {
        name: model_verdict(pair_findings(store, [("base", name)]))
        for name in ("half", "brain", "double", "no-positions", "tuned", "unet", HOSTILE)
    }
    assert verdicts == {
        "half": "same_at_fp16",
        "brain": "same_at_bf16",
        "double": "same_values",
        "no-positions": "same_where_used",
        "tuned": "partly_changed",
        "unet": "contained",
        HOSTILE: "disjoint",
    }


def test_sentences(store: Store) -> None:
    assert pair_sentences(pair_findings(store, [("base", "half")]))[:3] == [
        "UNet: same at fp16 (8 keys, float32 → float16)",
        # the positions, and a norm still at 1
        "text encoder: same at fp16 (38 keys, float32 → float16, of them 1 identical, "
        "1 same values)",
        "VAE: same at fp16 (5 keys, float32 → float16)",
    ]
    state = models()
    apart = sum(
        (state["base"][key] - state["decoder"][key]).square().sum().item()
        for key in only(state["base"], VAE + "decoder")
    )
    assert pair_sentences(pair_findings(store, [("base", "decoder")]))[:3] == [
        "UNet: identical (8 keys)",
        "text encoder: identical (38 keys)",
        "VAE: only the decoder changed: encoder identical (2 keys); decoder changed, L2 "
        f"{apart**0.5:.4g} (2 of 2 keys); quant convolutions identical (1 key)",
    ]


def test_renames_found_from_content_are_told(tmp_path: Path) -> None:
    base = {f"layers.{i}.{part}.weight": torch.randn(8, 8) for i in range(6) for part in ("q", "k")}
    moved = {"bert." + key: value for key, value in base.items()}
    moved["bert.layers.2.q.weight"] = torch.randn(8, 8)
    with Store(compared_store(tmp_path, {"plain": base, "wrapped": moved})) as store:
        (finding,) = pair_findings(store)
        assert (finding.keys_compared, finding.missing_a, finding.missing_b) == (12, 0, 0)
        assert finding.detail == ("1 of 12 keys: layers.2.q.weight, renamed: (none) → bert.")
        (back,) = pair_findings(store, [("wrapped", "plain")])
        assert back.detail.endswith("renamed: bert. → (none)")


def test_counting_verdicts_agrees_with_telling_them(store: Store) -> None:
    reader = FindingsReader(store)
    pairs = chosen_pairs(store)
    counts = reader.verdict_counts(pairs)
    told_one_by_one = [
        (f.component, f.verdict)
        for f in reader.findings(pairs, details=False)
        if f.verdict != "absent"
    ]
    assert sorted(counts.elements()) == sorted(told_one_by_one)


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_tiers_are_what_the_roundings_of_the_numbers_say(data: st.DataObject) -> None:
    """The tier of a pair of tensors, against torch."""
    dtypes = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    numbers = st.sampled_from([0.0, -0.0, 1.0, 1.0004, 1.003, 6e-8, 1e-40, 65504.0, 65519.0, 7e4])
    one = torch.tensor(data.draw(st.lists(numbers, min_size=64, max_size=64)), dtype=torch.float64)
    other = one.clone()
    place = data.draw(st.integers(0, 63))
    other[place] = data.draw(numbers)
    a, b = (x.to(data.draw(st.sampled_from(dtypes))) for x in (one, other))
    a[(place + 1) % 64] = b[(place + 1) % 64] = 2.0  # never all alike
    with TemporaryDirectory() as folder:
        path = compared_store(Path(folder), {"a": {"layers.0.w": a}, "b": {"layers.0.w": b}})
        with Store(path) as store:
            (finding,) = pair_findings(store)
    largest = max(a.double().abs().max().item(), b.double().abs().max().item())
    bits = {8: torch.int64, 4: torch.int32, 2: torch.int16}
    raw = [x.view(bits[x.element_size()]) for x in (a, b)]
    if a.dtype == b.dtype and torch.equal(*raw):
        tier = "identical"
    elif torch.equal(a.double(), b.double()):
        tier = "same_values"
    elif largest <= 65504 and torch.equal(a.float().half(), b.float().half()):
        tier = "same_at_fp16"
    elif torch.equal(a.float().bfloat16(), b.float().bfloat16()):
        tier = "same_at_bf16"
    else:
        tier = "changed"
    finite = torch.isfinite(a).all() and torch.isfinite(b).all()
    assert finding.verdict == (tier if finite or tier == "identical" else "changed")


def test_a_group_of_pairs(store: Store) -> None:
    pairs = {(f.model_a, f.model_b) for f in pair_findings(store, group="halves")}
    assert pairs == {tuple(list(store.model_ids())[i] for i in (0, k)) for k in (1, 2)}


def test_questions_that_cannot_be_asked(store: Store) -> None:
    with pytest.raises(UsageError, match="no such model"):
        pair_findings(store, [("base", "nobody")])
    with pytest.raises(UsageError, match="no such group"):
        pair_findings(store, group="nothing")
    with pytest.raises(UsageError, match="itself"):
        pair_findings(store, [("base", "base")])
    with pytest.raises(NoAnswerError, match="have not been compared"):
        pair_findings(store, [("base", "stranger")])


def test_nothing_that_a_model_says_is_printed_raw(store: Store) -> None:
    report = findings_report(store, [("base", HOSTILE), ("base", "half")])
    text, markdown, html = report.to_text(), report.to_markdown(), report.to_html()
    assert "\x1b" not in text + markdown + html
    assert "<script>" not in html
    assert "<b>" not in html
    assert "*evil*" not in markdown
    assert "\\*evil\\*" in markdown


@pytest.mark.parametrize("ending", ["txt", "md", "html"])
def test_reports_are_what_they_were(store: Store, ending: str) -> None:
    """With GOLDEN=write in the environment, what a report is now becomes what it should be."""
    pairs = [("base", "half"), ("base", "novelai"), ("base", "tuned"), ("unet", "base")]
    report = findings_report(store, pairs)
    text = {"txt": report.to_text, "md": report.to_markdown, "html": report.to_html}[ending]()
    golden = GOLDEN / f"findings.{ending}"
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_the_same_store_gives_the_same_bytes(store: Store) -> None:
    first, second = findings_report(store), findings_report(store)
    assert first.to_html() == second.to_html()
    assert first.to_json() == second.to_json()


def test_the_report_of_many_stays_short(tmp_path: Path) -> None:
    """Of 40 models, as much is said as one reads."""
    path = tmp_path / "many.duckdb"
    names = model_names(40)
    simulate_store(path, names, SHAPES)
    with Store(path) as store:
        report = findings_report(store)
        text = report.to_text()
    headings = [line for line in text.splitlines() if line and not line.startswith(" ")]
    assert headings == [
        "40 models, 780 pairs",
        *("Shared components", "How they are related", "Over all pairs"),
    ]
    assert len(text.splitlines()) < 70
    assert len(report.relations) > 40  # all of them are in the JSON
