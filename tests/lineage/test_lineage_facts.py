"""What the store and its metadata tell the lineage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from megasim.lineage.evidence import (
    ModelFacts,
    PairFacts,
    drift_evidence,
    same_weights_kind,
)
from megasim.lineage.facts import load_ema_copies, load_model_facts, step_counts
from megasim.store.rows import Store
from megasim.words import EdgeKind
from tests.small_sd import UNET, cast, compared_store, raised_ema, small_sd, trained, with_ema


@pytest.mark.parametrize(
    ("metadata", "counts"),
    [
        ({}, {}),
        ({"epoch": 3}, {("epoch count", "epoch"): 3}),
        ({"global_step": "470000"}, {("step count", "global step"): 470000}),
        ({"ss_steps": "12", "ss_output_name": "x"}, {("same run", "run x: step"): 12}),
        ({"ss_epoch": "4", "ss_output_name": "x"}, {("same run", "run x: epoch"): 4}),
        ({"ss_steps": "12"}, {("same run", "run : step"): 12}),
        ({"epoch": None, "global_step": "many", "ss_steps": [1], "ss_epoch": "1e3"}, {}),
        ({"epoch": "9" * 5000, "global_step": float("nan")}, {}),
    ],
)
def test_step_counts_are_read_or_left_out(
    metadata: Mapping[str, object], counts: Mapping[tuple[str, str], int]
) -> None:
    assert step_counts(metadata) == counts


def test_a_hostile_name_of_a_run_is_not_printed_raw() -> None:
    ((_, unit),) = step_counts({"ss_steps": 1, "ss_output_name": "\x1b[31m" + "x" * 500})
    assert unit.isprintable()
    assert len(unit) < 100


def test_the_surest_count_that_both_have_decides() -> None:
    def model(name: str, **metadata: object) -> ModelFacts:
        return ModelFacts(name, counts=step_counts(metadata))

    first = model("a", ss_output_name="run", ss_steps=100, epoch=9)
    later = model("b", ss_output_name="run", ss_steps=200, epoch=1)
    (found,) = drift_evidence(first, later, "unet")
    assert (found.name, found.log_odds > 0) == ("same run", True)
    # steps of another run are counted from its own start, and so are epochs, unless the two
    # are known to be of one run
    other = model("c", ss_output_name="another", ss_steps=900, epoch=1)
    assert not drift_evidence(first, other, "unet")
    (found,) = drift_evidence(first, other, "unet", one_run=2.0)
    assert (found.name, found.log_odds) == ("epoch count", -2.0)
    assert not drift_evidence(first, model("d", ss_output_name="third", ss_steps=5), "unet")


def test_models_that_keep_the_ema_copy_of_another_are_found(tmp_path: Path) -> None:
    full = with_ema(small_sd(), seed=1)
    raised = raised_ema(full)
    models = {
        "full": full,
        "raised": raised,
        "raised_half": cast(raised, torch.float16),
        "raised_further": trained(raised, 7, UNET),
        "plain": small_sd(),
    }
    with Store(compared_store(tmp_path, models), "read") as store:
        assert load_ema_copies(store) == {("full", "raised"), ("full", "raised_half")}
        facts = {f.name: f for f in load_model_facts(store, "unet")}
    assert {f.dtype for n, f in facts.items() if n != "raised_half"} == {"float32"}
    assert facts["raised_half"].dtype == "float16"
    assert facts["full"].keys > facts["raised"].keys
    norm = sum(float(v.double().square().sum()) for k, v in full.items() if k.startswith(UNET))
    assert facts["full"].norms["unet"] == pytest.approx(norm**0.5)


def test_a_model_that_is_its_own_ema_copy_is_no_parent_of_itself(tmp_path: Path) -> None:
    plain = small_sd()
    copied = plain | {
        "model_ema." + k.removeprefix("model.").replace(".", ""): v.clone()
        for k, v in plain.items()
        if k.startswith(UNET)
    }
    with Store(compared_store(tmp_path, {"copied": copied, "plain": plain}), "read") as store:
        assert load_ema_copies(store) == {("copied", "plain")}


def test_what_is_equal_once_rounded_to_bfloat16_was_rounded_from_float16() -> None:
    half, brain = (ModelFacts(d[:1], keys=3, dtype=d, bytes=9) for d in ("float16", "bfloat16"))
    assert half.completeness < brain.completeness
    rounded = PairFacts(half.name, brain.name, {"all": {"same_at_bf16": 3}})
    kind, evidence = same_weights_kind(half, brain, rounded, "all")
    assert (kind, evidence[0].text) == (EdgeKind.CAST, "float16 → bfloat16")
    exact = PairFacts(half.name, brain.name, {"all": {"same_values": 3}})
    kind, evidence = same_weights_kind(half, brain, exact, "all")
    assert (kind, sum(e.log_odds for e in evidence)) == (EdgeKind.COPY, 0.0)
