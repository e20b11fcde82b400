"""What was not read takes part in every verdict: no pair is the same beyond what was read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megasim.findings.component_groups import shared_components
from megasim.findings.overview import findings_report
from megasim.findings.relations import model_relations
from megasim.findings.verdicts import pair_findings
from megasim.store.rows import Store
from megasim.words import Unread
from tests.models import random_model
from tests.small_sd import compared_store, small_sd

COMPONENT = "block"
SAME = ("same weights", "are equal", "cast to")


@pytest.fixture
def store(tmp_path: Path):
    model = random_model(1)
    path = compared_store(tmp_path, {"a": model, "b": dict(model), "c": random_model(2)})
    with Store(path, "write") as opened:
        yield opened


def add_unread(
    store: Store,
    model: str,
    key: str = "block.odd",
    component: str = COMPONENT,
    reason: Unread = Unread.DTYPE,
    dtype: str | None = "float4_e2m1fn_x2",
    shape: tuple[int, ...] | None = (4, 4),
    digest: str | None = None,
) -> None:
    (model_id,) = store.model_ids([model]).values()
    store.connection.execute(
        "insert into unread_key (model_id, key, canonical_key, component, reason, dtype, shape, "
        "numel, digest, note) values (?, ?, ?, ?, ?, ?, ?, null, ?, 'not read')",
        [model_id, key, key, component, str(reason), dtype, list(shape or ()), digest],
    )


def between(store: Store, a: str = "a", b: str = "b"):
    (finding,) = [f for f in pair_findings(store, [(a, b)]) if f.component == COMPONENT]
    return finding, [r.text for r in model_relations(store, [(a, b)])]


def test_one_key_that_was_not_read_in_either(store: Store) -> None:
    add_unread(store, "a")
    add_unread(store, "b")
    finding, texts = between(store)
    assert finding.verdict == "same_as_read"
    assert finding.to_json()["keys_unread"] == 1
    assert finding.detail == "4 keys; 1 of 5 keys (float4_e2m1fn_x2) was not read: block.odd"
    assert texts == [
        "what was read of a and b is identical; 1 of 5 keys (float4_e2m1fn_x2) was not"
    ]
    assert shared_components(store) == []
    report = findings_report(store)
    assert "what was read is identical (4 keys; 1 of 5 keys" in report.to_text()
    assert "what was read of a and b is identical" in report.to_html()


def test_a_key_that_one_model_holds_unread_is_not_missing_there(store: Store) -> None:
    store.connection.execute(
        "delete from model_tensor where model_id = 1 and key = 'block.3.weight'"
    )
    store.connection.execute(
        "update component_distance set identical = 3, keys_compared = 3, missing_a = 1 "
        "where model_a = 1 and model_b = 2"
    )
    add_unread(store, "a", "block.3.weight")
    finding, _ = between(store)
    assert (finding.verdict, finding.missing_a, finding.missing_b) == ("same_as_read", 0, 0)
    back, _ = between(store, "b", "a")
    assert (back.verdict, back.missing_a, back.missing_b) == ("same_as_read", 0, 0)


def test_stored_bytes_that_are_equal_are_equal_and_others_are_not(store: Store) -> None:
    for model in ("a", "b"):
        add_unread(store, model, digest="00")
    finding, texts = between(store)
    assert finding.verdict == "identical"
    assert texts == ["a and b hold the same weights"]
    assert len(shared_components(store)) == 1
    add_unread(store, "a", "block.scale", dtype="float8_e8m0fnu", digest="01")
    add_unread(store, "b", "block.scale", dtype="float8_e8m0fnu", digest="02")
    finding, texts = between(store)
    assert finding.verdict == "partly_changed"
    assert "float8_e8m0fnu" in finding.detail
    assert not any("same weights" in text and "but for" not in text for text in texts)
    assert shared_components(store) == []


def test_a_component_of_which_nothing_was_read(store: Store) -> None:
    for model in ("a", "b"):
        add_unread(store, model, "packed.weight", "packed", digest=None)
    findings = {f.component: f for f in pair_findings(store, [("a", "b")])}
    assert findings["packed"].verdict == "not_read"
    (relation,) = model_relations(store, [("a", "b")])
    assert relation.kind == "same_as_read"


def test_an_unread_key_that_the_other_lacks(store: Store) -> None:
    add_unread(store, "b")
    finding, texts = between(store)
    assert (finding.verdict, finding.missing_a) == ("contained", 1)
    assert not any(text == "a and b hold the same weights" for text in texts)


def test_markers_without_values_are_what_they_are(tmp_path: Path) -> None:
    base = small_sd(1)
    with Store(compared_store(tmp_path, {"a": base, "b": dict(base)}), "write") as store:
        for model in ("a", "b"):
            add_unread(store, model, "v_pred", "other", Unread.PLACEHOLDER, "float32", (0,))
        texts = [r.text for r in model_relations(store)]
    assert texts == ["a and b hold the same weights"]


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    sides=st.sampled_from([("a",), ("b",), ("a", "b")]),
    reason=st.sampled_from(list(Unread)),
    dtype=st.sampled_from([None, "float4_e2m1fn_x2", "bits8", "quint4x2", "made_up"]),
    shape=st.sampled_from([None, (), (3,), (2, 5)]),
    component=st.sampled_from([COMPONENT, "scales"]),
    digests=st.sampled_from([(None, None), ("00", None), ("00", "01")]),
)
def test_no_unread_key_of_any_kind_is_passed_over(
    store: Store, sides, reason, dtype, shape, component, digests
) -> None:
    store.connection.execute("delete from unread_key")
    for side, digest in zip(sides, digests, strict=False):
        key = f"{component}.odd"
        add_unread(store, side, key, component, reason, dtype, shape, digest)
    findings = pair_findings(store, [("a", "b")])
    assert not all(f.verdict.is_equal for f in findings)
    for relation in model_relations(store, [("a", "b")]):
        plain = relation.text.removeprefix("a and b ")
        assert plain != "hold the same weights"
        assert relation.kind not in ("same_weights", "cast", "same_where_used")
    assert all(g.component != component for g in shared_components(store))
    # what is said of other pairs does not change
    assert next(f.verdict for f in pair_findings(store, [("b", "c")])) == "changed"


def test_two_hundred_pairs_with_one_odd_tensor(tmp_path: Path) -> None:
    """One model, and twenty copies of it with one tensor that is another, more, or not read."""
    base = random_model(3, keys=6, shape=(8, 16))
    models = {}
    for at in range(21):
        odd = {k: v.clone() for k, v in base.items()}
        if at % 3 == 0:
            odd[f"block.{at % 6}.weight"][0, at % 16] += 1 + at
        elif at % 3 == 1:
            odd[f"extra.{at}.weight"] = torch.full((8, 16), float(at)) + torch.arange(16.0)
        models[f"m{at:02}"] = odd
    with Store(compared_store(tmp_path, models), "write") as store:
        for at in range(2, 21, 3):
            add_unread(store, f"m{at:02}", f"block.odd{at}", digest=f"{at:02}")
        pairs = [(a, b) for a in models for b in models if a < b]
        assert len(pairs) == 210
        assert not {r.kind for r in model_relations(store, pairs)} & {"same_weights", "cast"}
        differ = {
            (f.model_a, f.model_b)
            for f in pair_findings(store, pairs, details=False)
            if not f.equal
        }
        assert differ == set(pairs)
