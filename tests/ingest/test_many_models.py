"""What an ingest asks of the store does not grow with the number of models; no clock is needed."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

import megasim
from megasim.ingest import unsaved
from megasim.store.session import Session
from tests.models import random_model, write_model


def small_models(folder: Path, count: int) -> Path:
    for i in range(count):
        write_model(folder / f"m{i:03}.safetensors", random_model(i, keys=2))
    return folder


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each statement of `sql/` ran."""
    ran: Counter[str] = Counter()
    running = Session._running

    def counted(self: Session, name: str, *given: object) -> object:
        ran[name] += 1
        return running(self, name, *given)

    monkeypatch.setattr(Session, "_running", counted)
    # saved by their number alone, however slow the machine
    monkeypatch.setattr(unsaved, "_SAVE_SECONDS", float("inf"))
    return ran


@pytest.mark.parametrize("how", ["read", "known", "moved", "copied"])
def test_statements_do_not_grow_with_models(
    tmp_path: Path, statements: Counter[str], how: str
) -> None:
    ran = []
    for count in (3, 12):
        folder = small_models(tmp_path / str(count) / "models", count)
        with megasim.open_store(tmp_path / f"{count}.duckdb") as store:
            if how != "read":
                store.ingest(folder)
            if how == "moved":
                folder = folder.rename(folder.with_name("elsewhere"))
            if how == "copied":
                folder = Path(shutil.copytree(folder, folder.with_name("again")))
            statements.clear()
            result = store.ingest(folder)
            ran.append(dict(statements))
            assert len(getattr(result, "added" if how == "read" else how)) == count
            assert len(store.models()) == (2 if how == "copied" else 1) * count
    assert ran[0] == ran[1]
    assert sum(ran[0].values()) < 30


def test_order_does_not_depend_on_when_it_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies and models read come into the store in the order of their files."""
    folder = small_models(tmp_path / "models", 2)
    shutil.copy2(folder / "m000.safetensors", folder / "m002.safetensors")
    write_model(folder / "m003.safetensors", random_model(9))
    shutil.copy2(folder / "m001.safetensors", folder / "m004.safetensors")
    names = []
    for seconds in (0.0, float("inf")):
        monkeypatch.setattr(unsaved, "_SAVE_SECONDS", seconds)
        with megasim.open_store(tmp_path / f"{seconds}.duckdb") as store:
            store.ingest(folder / "m000.safetensors", folder / "m001.safetensors")
            result = store.ingest(folder)
            assert (result.copied, result.added) == (["m002", "m004"], ["m003"])
            names.append(store.models()["name"].tolist())
    assert names[0] == names[1]


def test_a_copy_of_a_file_that_is_replaced_is_of_what_it_was(tmp_path: Path) -> None:
    path = write_model(tmp_path / "a.safetensors", random_model(0))
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(path)
        before = store.sql("select content_hash from layers order by 1")
        kept = Path(shutil.copy2(path, tmp_path / "b.safetensors"))
        write_model(path, random_model(1))
        os.utime(path, ns=(10**18, 10**18))
        assert store.ingest(path, kept).replaced == ["a"]
        held = store.sql("select content_hash from layers where model = 'b' order by 1")
        assert held.equals(before)
        assert store.sql("select count(distinct content_hash) as n from layers")["n"][0] == 8
