"""Two models in five sentences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from megasim import cli
from megasim.workspace import Workspace, open_store
from tests.answers.test_notebook import small_demo
from tests.exchange.merged_models import store_of
from tests.models import write_model
from tests.small_sd import UNET, small_sd, trained


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_of(tmp_path_factory.mktemp("why"), small_demo())


@pytest.fixture
def store(path: Path) -> Workspace:
    with open_store(path, "read") as store:
        yield store


def test_a_merge_and_its_parent(store: Workspace) -> None:
    why = store.why("mix-00", "mix-30")
    assert why.same == "Same: VAE (identical)."
    (unet,) = (f for f in store.pair_findings("mix-00", "mix-30") if f.component == "unet")
    assert why.changed.startswith("Changed most: ")
    assert "mix-30 came from mix-00 (merge, 0.7 of it)" in why.descent
    assert "the merge explains" in why.certainty
    assert why.next.startswith("Ask next: `megasim recipe mix-30`")
    assert unet.l2 is not None


def test_the_order_of_the_two_changes_no_fact(store: Workspace) -> None:
    there, back = store.why("base-fp16", "chain-1"), store.why("chain-1", "base-fp16")
    assert there.same == back.same == "Same: text encoder and VAE (identical)."
    assert (there.changed, there.descent) == (back.changed, back.descent)
    assert "UNet" in there.changed
    assert "--by block" in there.next


def test_one_block_that_changed_is_named(tmp_path: Path) -> None:
    base = small_sd()
    path = store_of(tmp_path, {"a": base, "b": trained(base, 1, UNET + "input_blocks.1.")})
    with open_store(path, "read") as store:
        assert store.why("a", "b").changed.endswith(", 3 of 8 keys, most in IN01 (100 %).")


def test_where_nothing_changed(store: Workspace) -> None:
    why = store.why("base-fp16", "new-decoder")
    assert "VAE decoder" in why.changed
    assert "UNet" in why.same


def test_numbers_are_those_of_the_findings(store: Workspace) -> None:
    why = store.why("base-fp16", "chain-1")
    (unet,) = (f for f in store.pair_findings("base-fp16", "chain-1") if f.component == "unet")
    assert f"L2 {unet.l2:.4g}, {unet.keys_changed} of {unet.keys_compared} keys" in why.changed
    total = sum(f.keys_compared or 0 for f in store.pair_findings("base-fp16", "chain-1"))
    assert f"exact distances over {total} keys" in why.certainty


def test_where_nothing_was_compared_no_distance_is_claimed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_model(tmp_path / f"{name}.safetensors", {f"{name}.weight": torch.ones(8, 8)})
    with open_store(tmp_path / "s.duckdb") as store:
        store.ingest(tmp_path)
        store.compare()
        assert store.why("a", "b").certainty == "How sure: no key was compared."


def test_the_command_prints_five_lines(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--db", str(path), "why", "mix-00", "mix-100"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "Same",
        "Changed most",
        "Descent",
        "How sure",
        "Ask next",
    ]
    assert cli.run(["--db", str(path), "why", "mix-00", "mix-100", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["next"] == lines[4]
    assert cli.run(["--db", str(path), "why", "mix-00", "mix-00"]) == 2
