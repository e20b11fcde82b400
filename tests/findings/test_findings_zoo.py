"""The known history of the demo zoo is told without a mistake.

Of each series of the zoo (chain, run, mixes) two members are enough here.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations

import pytest

from megasim.findings.component_groups import shared_components
from megasim.findings.health import model_health
from megasim.findings.overview import findings_report
from megasim.findings.relations import model_relations
from megasim.findings.verdicts import Finding, pair_findings
from megasim.store.rows import Store
from megasim.words import Verdict
from megasim.workspace import open_store
from megasim.zoo.building import TRUTH, ZooModel, build_zoo, expected_identity

LEFT_OUT = ("chain-3", "chain-4", "chain-5", "run-e03", "run-e04", "run-e05", "mix-15", "mix-30")
LEFT_OUT += ("mix-50", "mix-70", "mix-85", "mix-mbw", "base-legacy")
PLAN = [planned for planned in TRUTH if planned.name not in LEFT_OUT]
BY_NAME = {planned.name: planned for planned in PLAN}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("zoo")
    build_zoo(PLAN, folder / "models", seed=0, width=1 / 32)
    with open_store(folder / "store.duckdb", memory=3 << 30) as workspace:
        assert not workspace.ingest(folder / "models").failed
        assert not workspace.compare().failed
        yield workspace.store


@pytest.fixture(scope="module")
def by_pair(store: Store) -> dict[tuple[str, str], dict[str, Finding]]:
    found: dict[tuple[str, str], dict[str, Finding]] = defaultdict(dict)
    for finding in pair_findings(store):
        found[finding.model_a, finding.model_b][finding.component] = finding
    return dict(found)


def components(a: ZooModel, b: ZooModel) -> set[str]:
    return (set(a.contents) | set(b.contents)) - {"training_state"}


def test_every_component_of_every_pair(by_pair) -> None:
    assert len(by_pair) == len(list(combinations(PLAN, 2)))
    wrong = []
    for (name_a, name_b), findings in by_pair.items():
        a, b = BY_NAME[name_a], BY_NAME[name_b]
        for component in components(a, b):
            truth = expected_identity(a, b, component)
            allowed = {"missing_a": {"absent_a"}, "missing_b": {"absent_b"}}.get(truth, {truth})
            if truth == "changed":
                allowed = {"changed", "partly_changed"}
                if component in ("unet", "text_encoder") and "sd2" in {a.family, b.family}:
                    same = a.family == b.family
                    allowed = {"same_where_used" if same else "other_architecture"}
            if findings[component].verdict not in allowed:
                wrong.append((name_a, name_b, component, truth, findings[component].verdict))
        extra = set(findings) - components(a, b) - {"training_state", "text_encoder", "vae"}
        assert not extra, (name_a, name_b)
    assert wrong == []


def pair(store: Store, a: str, b: str) -> dict[str, Finding]:
    return {finding.component: finding for finding in pair_findings(store, [(a, b)])}


def test_what_was_trained_is_told_to_the_key(store: Store) -> None:
    text = pair(store, "base-fp16", "dreambooth")["text_encoder"]
    assert (text.keys_changed, text.keys_compared) == BY_NAME["dreambooth"].changed_keys(
        "text_encoder"
    )
    assert text.detail == "64 of 197 keys: layers.8–11"
    tail = pair(store, "sd2-base", "sd2-tail")["text_encoder"]
    assert tail.verdict == "same_where_used"
    assert tail.detail.startswith("13 of 294 keys: resblocks.23, text_projection; never used: ")


def test_the_novelai_layout_is_seen_through(store: Store) -> None:
    findings = pair(store, "base-fp16", "nai-layout")
    assert findings["text_encoder"].verdict == "identical"
    assert findings["text_encoder"].detail == (
        "197 keys, renamed: cond_stage_model.transformer.text_model. → "
        "cond_stage_model.transformer."
    )
    assert findings["unet"].verdict == "changed"


def test_a_folder_of_diffusers_is_the_single_file(store: Store) -> None:
    findings = pair(store, "base-fp16", "base-diffusers")
    assert {finding.verdict for finding in findings.values()} == {"identical"}
    assert findings["unet"].detail == "686 keys, named otherwise: ldm → diffusers"


NEVER_USED = {"ema", "training_state"}
VAE = {"vae_encoder", "vae_decoder", "vae_quant"}


def founder(planned: ZooModel) -> str:
    while planned.parents:
        planned = next(p for p in TRUTH if p.name == planned.parents[0])
    return planned.name


def expected_kinds(a: ZooModel, b: ZooModel) -> set[str]:
    """Return the kinds of relation that follow from the history of two models."""
    if founder(a) != founder(b):
        return set()
    held_a, held_b = (set(m.contents) - NEVER_USED for m in (a, b))
    common = held_a & held_b
    altered = {c for c in common if a.contents[c] != b.contents[c]}
    names = {a.name, b.name}
    # What a step did to keys that are never used, what was damaged, whose UNet is the EMA copy.
    stories = {
        ("sd2-base", "sd2-tail"): "same_where_used",
        ("dreambooth", "nan-layer"): "damaged",
        ("base-ema", "base-emaonly"): "pruned",
    }
    for pair, kind in stories.items():
        if names == set(pair):
            return {kind}
    if not common or (not altered and held_a - common and held_b - common):
        return set()
    if not altered and held_a != held_b:
        return {"part_of"}
    if not altered:
        minor = [set(m.contents) & NEVER_USED for m in (a, b)]
        if minor[0] != minor[1]:
            return {"pruned"}
        return {"same_weights"} if a.dtype == b.dtype else {"cast"}
    if "unet" in common - altered:
        replaced = {"vae_replaced"} if altered & VAE else set()
        return replaced | ({"text_encoder_replaced"} if "text_encoder" in altered else set())
    if "unet" in altered and "text_encoder" in common - altered:
        return {"unet_fine_tuned"}
    whole = {"unet", "text_encoder", *VAE}
    return {"everything_changed"} if altered == whole else {"fine_tuned"}


def test_every_relation_of_every_pair_and_no_other(store: Store) -> None:
    pairs = [(a.name, b.name) for a, b in combinations(PLAN, 2)]
    by_pair: dict[frozenset[str], list[str]] = defaultdict(list)
    for relation in model_relations(store, pairs):
        by_pair[frozenset((relation.model, relation.other))].append(relation.kind)
    wrong = [
        (a, b, kinds, expected)
        for a, b in pairs
        if (kinds := sorted(by_pair.pop(frozenset((a, b)), [])))
        != (expected := sorted(expected_kinds(BY_NAME[a], BY_NAME[b])))
    ]
    assert (wrong, by_pair) == ([], {})


def test_who_was_made_from_whom(store: Store) -> None:
    pairs = [(a.name, b.name) for a, b in combinations(PLAN, 2)]
    directed = {
        (r.kind, r.model, r.other): r.donors for r in model_relations(store, pairs) if r.directed
    }
    originals = {"base-pruned", "base-ema"}
    halves = {"base-fp16", "base-diffusers"}
    assert directed == {
        **{("cast", half, "base-pruned"): () for half in halves},
        **{("pruned", half, "base-ema"): () for half in halves},
        ("pruned", "base-pruned", "base-ema"): (),
        ("pruned", "base-emaonly", "base-ema"): (),
        ("damaged", "nan-layer", "dreambooth"): (),
        **{("vae_replaced", "new-decoder", o): ("vae-only",) for o in originals | halves},
    }


def test_what_is_told_of_the_nearest_is_told_with_its_evidence(store: Store) -> None:
    relations = {frozenset((r.model, r.other)): r for r in model_relations(store)}
    assert len(relations) < len(PLAN)
    kept = relations[frozenset(("base-pruned", "base-ema"))]
    assert kept.text.endswith(
        "without its EMA copy, noise schedule and training state; it keeps the raw UNet"
    )
    assert "EMA copy: dropped (686 keys)" in kept.evidence
    raised = relations[frozenset(("base-emaonly", "base-ema"))]
    assert "EMA copy as its UNet" in raised.text
    copied = relations[frozenset(("base-fp16", "base-diffusers"))]
    assert "UNet: identical (686 keys, named otherwise: ldm → diffusers)" in copied.evidence
    decoder = relations[frozenset(("base-fp16", "new-decoder"))]
    assert "that of new-decoder is also that of vae-only" in decoder.text


def test_groups_are_those_of_equal_contents(store: Store) -> None:
    holders: dict[tuple[str, str], set[str]] = defaultdict(set)
    for planned in PLAN:
        for component, content in planned.contents.items():
            if component in ("unet", "text_encoder"):
                holders[component, content].add(planned.name)
    # What differs only where it is never used counts as one.
    assert holders.pop(("text_encoder", "sd2-tail")) == {"sd2-tail"}
    holders["text_encoder", "sd2-base"].add("sd2-tail")
    expected = {(c, frozenset(names)) for (c, _), names in holders.items() if len(names) > 1}
    groups = {
        (group.component, frozenset(group.models))
        for group in shared_components(store)
        if group.component in ("unet", "text_encoder")
    }
    assert groups == expected


def test_the_ill_are_found_and_only_they(store: Store) -> None:
    notes = {(note.model, note.kind): note.text for note in model_health(store)}
    lacking = {planned.name for planned in PLAN if planned.keeps == ("unet",)}
    assert set(notes) == {
        ("broken-ids", "broken_positions"),
        ("nan-layer", "non_finite"),
        *((name, "missing_parts") for name in lacking),
    }
    assert "41 became 40" in notes["broken-ids", "broken_positions"]
    assert "attn1.to_v.weight" in notes["nan-layer", "non_finite"]


def test_the_report_of_many_leads_with_what_is_shared_and_odd(store: Store) -> None:
    text = findings_report(store).to_text()
    headings = [line for line in text.splitlines() if line and not line.startswith(" ")]
    assert headings[1:] == [
        *("Shared components", "What is odd", "How they are related"),
        *("What their metadata claims", "Over all pairs"),
    ]
    assert len(text.splitlines()) < 100
    assert set(Verdict) > {verdict for _, verdict, _ in findings_report(store).verdicts}


def test_the_report_of_two_says_who_else_holds_the_same(store: Store) -> None:
    text = findings_report(store, [("base-ema", "base-emaonly")]).to_text()
    lines = [line.strip() for line in text.splitlines()]
    assert lines[2] == "base-ema → base-emaonly"
    (unet,) = (line for line in lines if line.startswith("UNet: partly changed"))
    assert unet.endswith("(627 of 686 keys; unchanged: 59 of 218 norm)")
    (vae,) = (line for line in lines if line.startswith("VAE of both: also in "))
    assert "base-pruned" in vae
    assert not any(line.startswith("VAE encoder and VAE quant") for line in lines)
