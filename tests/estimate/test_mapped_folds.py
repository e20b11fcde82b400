"""Folds in files beside the store: what they find is what the store says, or they are not used."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import megasim
from megasim.estimate import mapped_folds, nearest
from megasim.estimate.mapped_folds import MappedFolds, candidates, short_folds
from megasim.fingerprint.folded import LENGTH
from tests.models import random_model, write_model

FOLDS = np.random.default_rng(0).standard_normal((60, LENGTH)).astype(np.float32)
KEYS = np.random.default_rng(1).permutation(1000)[:60].astype(np.uint64)


def folds_in(folder: Path) -> MappedFolds:
    return MappedFolds(folder / "s.duckdb", "block")


def files_of(folder: Path) -> list[Path]:
    return sorted((folder / "s.duckdb.folds").glob("*"))


def test_rows_come_back_whatever_file_they_are_in(tmp_path: Path) -> None:
    folds = folds_in(tmp_path)
    assert folds.lacking(KEYS).tolist() == sorted(KEYS.tolist())
    assert folds.add(KEYS[:50], [FOLDS[:20], FOLDS[20:50]])
    assert folds_in(tmp_path).lacking(KEYS).tolist() == sorted(KEYS[50:].tolist())
    assert folds.add(KEYS[50:], [FOLDS[50:]])
    again = folds_in(tmp_path)
    some = [55, 3, 3, 49, 50]
    assert (again.rows(KEYS[some]) == FOLDS[some]).all()
    apart = np.linalg.norm(FOLDS[some].astype(np.float64) - FOLDS[7], axis=1) ** 2
    np.testing.assert_allclose(again.squares(KEYS[some], FOLDS[7]), apart, rtol=1e-6)
    short = np.linalg.norm(short_folds(FOLDS) - short_folds(FOLDS[7:8]), axis=1) ** 2
    np.testing.assert_allclose(again.short_squares(KEYS, FOLDS[7]), short, rtol=1e-5, atol=1e-9)


def test_many_files_become_one(tmp_path: Path) -> None:
    folds = folds_in(tmp_path)
    for i in range(10):
        assert folds.add(KEYS[i : i + 1], [FOLDS[i : i + 1]])
    assert folds.is_worn(KEYS[:8])
    folds.renew(KEYS[:8])
    assert len(files_of(tmp_path)) == 1
    again = folds_in(tmp_path)
    assert not again.is_worn(KEYS[:8])
    assert again.lacking(KEYS[:10]).tolist() == sorted(KEYS[8:10].tolist())
    assert (again.rows(KEYS[:8]) == FOLDS[:8]).all()


@pytest.mark.parametrize("damage", ["cut", "head", "key", "empty"])
def test_a_file_that_is_not_whole_is_not_used(tmp_path: Path, damage: str) -> None:
    assert folds_in(tmp_path).add(KEYS, [FOLDS])
    (path,) = files_of(tmp_path)
    whole = bytearray(path.read_bytes())
    if damage == "cut":
        del whole[-1:]
    elif damage == "empty":
        whole.clear()
    else:
        whole[3 if damage == "head" else 70] ^= 1
    path.write_bytes(whole)
    folds = folds_in(tmp_path)
    assert len(folds.lacking(KEYS)) == 60
    assert folds.is_worn(KEYS)  # so it gives way to a new one
    assert folds.add(KEYS[:9], [FOLDS[:9]])
    folds.renew(KEYS[:9])
    assert len(files_of(tmp_path)) == 1


def test_a_row_that_was_altered_is_noticed(tmp_path: Path) -> None:
    assert folds_in(tmp_path).add(KEYS, [FOLDS])
    (path,) = files_of(tmp_path)
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    folds = folds_in(tmp_path)
    assert (folds.rows(KEYS[:59]) == FOLDS[:59]).all()
    with pytest.raises(ValueError, match="not what was written"):
        folds.rows(KEYS)
    folds.discard()
    assert files_of(tmp_path) == []


def test_short_forms_lose_no_neighbour() -> None:
    """Of points whose distances are close all of the nearest ten are kept, and not all points."""
    rng = np.random.default_rng(5)
    points = rng.standard_normal((1000, LENGTH)).astype(np.float32)
    points *= rng.uniform(0.5, 2, (1000, 1)).astype(np.float32)
    shorts = short_folds(points)
    kept = []
    for i in range(40):
        exact = np.linalg.norm(points - points[i], axis=1)
        short = np.square(shorts - shorts[i]).sum(axis=1, dtype=np.float64)
        exact[i] = short[i] = np.inf
        found = candidates(short, 10)
        assert set(np.argsort(exact)[:10]) <= set(found.tolist())
        kept.append(len(found))
    assert np.mean(kept) < 700


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve models on a line, of which three are already too many to look at all."""
    base, step = random_model(0, keys=12, shape=(40, 50)), random_model(1, keys=12, shape=(40, 50))
    for i in range(12):
        model = {key: value + 0.1 * i * step[key] for key, value in base.items()}
        write_model(tmp_path / "models" / f"m{i:02}.safetensors", model)
    monkeypatch.setattr(nearest, "FEW_MODELS", 3)
    monkeypatch.setattr(nearest, "_candidates", lambda k: k + 1)
    with megasim.open_store(tmp_path / "s.duckdb") as opened:
        opened.ingest(tmp_path / "models")
    return tmp_path


def near(folder: Path) -> pd.DataFrame:
    with megasim.open_store(folder / "s.duckdb", "update") as opened:
        return opened.nearest("m05", k=4)


def test_files_change_no_answer_and_may_go(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = near(store)
    assert set(first["model"]) == {"m03", "m04", "m06", "m07"}
    (path,) = files_of(store)
    written = path.stat().st_mtime_ns
    pd.testing.assert_frame_equal(near(store), first)
    assert path.stat().st_mtime_ns == written
    path.unlink()
    pd.testing.assert_frame_equal(near(store), first)
    path.write_bytes(b"something else")
    pd.testing.assert_frame_equal(near(store), first)
    whole = bytearray(path.read_bytes())
    for place in range(len(whole) - 1, 0, -LENGTH * 2):  # a bit in each row
        whole[place] ^= 1
    path.write_bytes(whole)
    pd.testing.assert_frame_equal(near(store), first)
    monkeypatch.setattr(MappedFolds, "add", lambda *_: False)  # as where nothing can be written
    for path in files_of(store):
        path.unlink()
    pd.testing.assert_frame_equal(near(store), first)


def test_models_that_come_change_and_go_are_seen(store: Path) -> None:
    near(store)
    base, step = random_model(0, keys=12, shape=(40, 50)), random_model(1, keys=12, shape=(40, 50))

    def write(name: str, place: float) -> None:
        model = {key: value + 0.1 * place * step[key] for key, value in base.items()}
        path = store / "models" / f"{name}.safetensors"
        write_model(path, model)
        os.utime(path, ns=(1, int(place * 1000)))

    write("new", 5.1)
    write("m04", 30.0)  # another content under a name, and an id, that are known
    with megasim.open_store(store / "s.duckdb") as opened:
        opened.ingest(store / "models")
        opened.forget("m07")
    assert near(store)["model"].tolist()[:3] == ["new", "m06", "m03"]


def test_a_damaged_row_beside_a_broken_file_is_no_crash(store: Path) -> None:
    first = near(store)
    (path,) = files_of(store)
    whole = bytearray(path.read_bytes())
    for place in range(len(whole) - 1, 0, -LENGTH * 2):  # a bit in each row
        whole[place] ^= 1
    path.write_bytes(whole)
    path.with_name(path.name.replace(".folds", "0.folds")).write_bytes(b"broken off")
    pd.testing.assert_frame_equal(near(store), first)
    pd.testing.assert_frame_equal(near(store), first)
    assert len(files_of(store)) == 1


def test_a_question_about_few_models_keeps_the_folds_of_others(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped_folds, "_AT_ONCE", 8)
    for i in range(2):
        model = random_model(i, keys=3, shape=(40, 50))
        write_model(store / "models" / f"small{i}.safetensors", model)
    with megasim.open_store(store / "s.duckdb") as opened:
        opened.ingest(store / "models")
        opened.nearest("m05", k=1)
        opened.nearest("small0", k=1)
        written = {path: path.stat().st_mtime_ns for path in files_of(store)}
        opened.nearest("m05", k=1)
        opened.nearest("small1", k=1)
        assert {path: path.stat().st_mtime_ns for path in files_of(store)} == written
