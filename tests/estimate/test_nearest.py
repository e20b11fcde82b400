"""Estimates end to end: exact where known, marked and with their error in every output."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
import torch

import megasim
from megasim.cli import run
from tests.models import random_model, write_model

SHAPE = (64, 80)  # 5,120 elements a key: more than a sketch keeps


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight models on a line, so that every one knows its neighbours; a store of their prints."""
    base = random_model(0, keys=30, shape=SHAPE)
    step = random_model(1, keys=30, shape=SHAPE)
    for i in range(8):
        model = {k: v + 0.1 * i * step[k] for k, v in base.items()}
        write_model(tmp_path / "models" / f"m{i}.safetensors", model)
    outside = {k: v + 0.41 * step[k] for k, v in base.items()}
    write_model(tmp_path / "outside.safetensors", outside)
    monkeypatch.chdir(tmp_path)
    assert run(["ingest", "models"]) == 0
    return tmp_path


def truth(i: float, j: float) -> float:
    step = random_model(1, keys=30, shape=SHAPE)
    return 0.1 * abs(i - j) * float(torch.cat([v.flatten() for v in step.values()]).norm())


def test_estimates_lie_within_their_errors(folder: Path) -> None:
    with megasim.open_store() as store:
        store.compare(estimate=True)
        matrix = store.matrix("block")
        i, j = np.triu_indices(8, 1)
        off = matrix.values[i, j] - [truth(a, b) for a, b in zip(i, j, strict=True)]
        assert (np.abs(off) < 4 * matrix.errors[i, j]).all()
        assert (matrix.errors[i, j] < 0.02 * matrix.values[i, j]).all()
        found = store.sql("select source, l2_error, l1 from component_distances")
    assert (found["source"] == "estimated").all()
    assert (found["l2_error"] > 0).all()
    assert found["l1"].isna().all()


def test_exact_values_take_the_place_of_estimates(folder: Path) -> None:
    assert run(["compare", "--estimate"]) == 0
    assert run(["compare", "--models", "m0,m1,m2"]) == 0
    for ending in (".csv", ".parquet"):
        assert run(["matrix", "-c", "block", "-o", f"after{ending}"]) == 0
    for frame in (pd.read_csv("after.csv"), duckdb.sql("from 'after.parquet'").df()):
        exact = frame["source"] == "exact"
        assert exact.sum() == 3
        assert (frame["source"][~exact] == "estimated").all()
        assert (frame["error"][exact] == 0).all()
        assert (frame["error"][~exact] > 0).all()
        for row in frame[exact].itertuples():
            expected = truth(int(row.model_a[1:]), int(row.model_b[1:]))
            assert row.l2 == pytest.approx(expected, rel=1e-5)
    assert run(["matrix", "-c", "block", "-o", "m.json"]) == 0
    told = json.loads(Path("m.json").read_text())
    assert {s for row in told["sources"] for s in row} == {"", "exact", "estimated"}
    assert run(["matrix", "-c", "block", "-o", "m.npz"]) == 0
    with np.load("m.npz") as arrays:
        estimated = arrays["sources"] == "estimated"
        assert estimated.sum() == 2 * 25
        assert (arrays["errors"][estimated] > 0).all()


def test_nearest_uses_what_is_exact(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "--models", "m3,m4"]) == 0
    capsys.readouterr()
    assert run(["nearest", "m4", "-k", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["model"] for row in found[:2]} == {"m3", "m5"}
    sources = {row["model"]: (row["source"], row["error"] > 0) for row in found}
    assert sources["m3"] == ("exact", False)
    assert sources["m5"] == ("estimated", True)


def test_no_answer_leaves_estimates_behind(folder: Path) -> None:
    with megasim.open_store() as store:
        near = store.nearest("m4", ["block"], k=8)
        matrix = store.matrix("block", estimate=True)
        assert store.sql("select * from component_distances").empty
        row = matrix.values[matrix.models.index("m4")]
        told = {model: row[matrix.models.index(model)] for model in near["model"]}
        assert list(told.values()) == near["l2"].tolist() == sorted(told.values())


def test_nearest_to_a_file_that_is_only_looked_at(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["nearest", "outside.safetensors", "-k", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found[0]["model"] == "m4"
    assert all(row["source"] == "estimated" and row["error"] > 0 for row in found)
    assert found[0]["l2"] == pytest.approx(truth(4.1, 4), abs=4 * found[0]["error"])
    assert run(["models", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 8


def test_compare_nearest_computes_only_those(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["compare", "--nearest", "1", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert 4 <= done["pairs_done"] <= 8
    assert done["tensor_pairs_computed"] == 30 * done["pairs_done"]
    with megasim.open_store(mode="read") as store:
        frame = store.sql("select model_a, model_b, source from component_distances")
    exact = frame[frame["source"] == "exact"]
    apart = [abs(int(a[1:]) - int(b[1:])) for a, b in exact[["model_a", "model_b"]].to_numpy()]
    assert apart == [1] * done["pairs_done"]
    assert len(frame) == len(exact)  # the estimates that they were chosen by are not kept


def test_no_file_is_read_for_an_estimate(folder: Path) -> None:
    for path in (folder / "models").iterdir():
        path.unlink()
    assert run(["matrix", "-c", "block", "--estimate", "-o", "m.csv"]) == 0
    assert run(["nearest", "m0"]) == 0


def test_fingerprints_of_another_version_give_no_estimate_until_read_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with duckdb.connect("megasim.duckdb") as con:  # as an older megasim would have left it
        con.execute("update model set fingerprint_version = 2")
        con.execute("update tensor set sketch = sketch[:100], fingerprint_version = 2")
    for command in (
        ["matrix", "-c", "block", "--estimate"],
        ["nearest", "outside.safetensors"],
        ["export", "--fingerprints", "f.parquet"],
    ):
        capsys.readouterr()
        assert run(command) == 1
        told = capsys.readouterr().err
        assert "8 models are left out of every comparison" in told
        assert "m0, m1, m2, …" in told
        assert "megasim ingest" in told
    assert run(["ingest", "models"]) == 0
    assert run(["matrix", "-c", "block", "--estimate", "-o", "m.npz"]) == 0
    with np.load("m.npz") as arrays:
        assert arrays["values"][0, 7] == pytest.approx(truth(0, 7), rel=0.05)


def test_a_model_that_shares_no_key_is_said_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        path = tmp_path / f"{name}.safetensors"
        write_model(path, {f"{name}.weight": torch.ones(8, 8)})
    store = ["--db", str(tmp_path / "s.duckdb")]
    assert run([*store, "ingest", str(tmp_path)]) == 0
    assert run([*store, "nearest", "a"]) == 0
    printed = capsys.readouterr()
    assert "no other model of the store has keys in common with a" in printed.out + printed.err
