"""Both passes give the same bytes on threads, processes, any memory and any number of workers."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import megasim
import megasim.compare.pairs
import megasim.compare.plan
import megasim.ingest.reading
from megasim.errors import MegasimError
from megasim.matrix.files import write_matrix
from megasim.workspace import worker_processes
from tests.models import nudged, random_model, write_model

METRICS = ("linf", "cossim")
TABLES = ("tensor", "model_tensor", "tensor_distance", "tensor_linf", "component_distance")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four models of several dtypes, one renamed, two that share tensors."""
    folder = tmp_path_factory.mktemp("models")
    base = random_model(0, keys=6, shape=(96, 130))
    base |= {"half": torch.randn(99, 201).half(), "ints": torch.arange(3000).reshape(60, 50)}
    write_model(folder / "a.safetensors", base)
    write_model(folder / "b.safetensors", nudged(base, 1, "block.0.weight", "block.1.weight"))
    write_model(folder / "c.ckpt", {k: v.to(torch.bfloat16) for k, v in base.items()})
    write_model(folder / "d.pt", {f"m.{k}": v for k, v in nudged(base, 2, "half").items()})
    return folder


def results(folder: Path, models: Path, **options: Any) -> dict[str, bytes]:
    """Ingest and compare; return the rows of the tables and the matrix files."""
    ingest = {k: v for k, v in options.items() if k in ("workers", "executor")}
    found = {}
    memory = options.pop("memory", None)
    with megasim.open_store(folder / "s.duckdb", memory=memory) as store:
        store.ingest(models, **ingest)
        store.matrix("block", estimate=True).to_frame().to_csv(folder / "estimates.csv")
        result = store.compare(metrics=METRICS, **options)
        found["counters"] = repr(result.to_json()).encode()
        for table in TABLES:
            rows = store.store.connection.execute(f"from {table} order by all").fetchall()
            found[table] = repr(rows).encode()
        for ending in (".csv", ".json", ".npz", ".parquet"):
            write_matrix(store.matrix("block"), folder / f"m{ending}")
            found[ending] = (folder / f"m{ending}").read_bytes()
    found["estimates"] = (folder / "estimates.csv").read_bytes()
    return found


@pytest.fixture(scope="module")
def expected(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    found = results(tmp_path_factory.mktemp("one"), models, workers=1)
    assert found["tensor_distance"] != b"[]"
    return found


@pytest.mark.parametrize("options", [{"workers": 4}, {"workers": 3, "memory": 64 << 20}])
def test_threads_and_memory_change_nothing(
    tmp_path: Path, models: Path, expected: dict[str, bytes], options: dict[str, int]
) -> None:
    assert results(tmp_path, models, **options) == expected


def test_processes_change_nothing(tmp_path: Path, models: Path, expected: dict[str, bytes]) -> None:
    """Any executor does, here one of the standard library. Its processes share nothing with this
    one: a piece is its description and the files."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=fresh) as executor:
        assert results(tmp_path, models, executor=executor) == expected
        assert executor.submit(int, "1").result() == 1  # it was not shut down


def test_ingest_takes_processes_by_itself_and_changes_nothing(
    tmp_path: Path, models: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_processes, "MANY_WORKERS", 2)
    monkeypatch.setattr(worker_processes, "BYTES_A_PROCESS", 1)
    with worker_processes.ingest_processes(2, [models]) as executor:
        assert executor is not None
        with megasim.open_store(tmp_path / "s.duckdb") as store:
            store.ingest(models, executor=executor)
            rows = store.store.connection.execute("from tensor order by all").fetchall()
    assert repr(rows).encode() == expected["tensor"]


@pytest.mark.parametrize("workers", [1, 2, 7, 64])
def test_few_workers_and_few_bytes_stay_threads(models: Path, workers: int) -> None:
    with worker_processes.ingest_processes(workers, [models, models / "gone"]) as executor:
        assert executor is None


def test_a_process_that_is_ended_is_told_in_a_sentence(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_processes, "BYTES_A_PROCESS", 0)
    with (
        pytest.raises(MegasimError, match="a process that read checkpoints was ended"),
        worker_processes.ingest_processes(8, [models]) as executor,
    ):
        assert executor is not None
        executor.submit(os._exit, 1).result()


class _Counting(ThreadPoolExecutor):
    """Counts what is handed to it, and may say that each piece costs it something."""

    def __init__(self, piece_factor: int) -> None:
        super().__init__(2)
        self.piece_factor = piece_factor
        self.pieces = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.pieces += 1
        return super().submit(fn, *args, **kwargs)


def test_an_engine_to_which_pieces_cost_something_gets_fewer(
    tmp_path: Path, models: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(megasim.compare.plan, "_PIECE_ELEMENTS", 10_000)
    monkeypatch.setattr(megasim.ingest.reading, "PIECE_BYTES", 50_000)
    handed = []
    for factor in (1, 3):
        with _Counting(factor) as executor:
            (folder := tmp_path / str(factor)).mkdir()
            assert results(folder, models, workers=2, executor=executor) == expected
            handed.append(executor.pieces)
    assert handed[1] < handed[0] - 5


def test_many_small_pieces_change_nothing(
    tmp_path: Path, models: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each position is planned, run and saved by itself, in whatever order the threads end."""
    monkeypatch.setattr(megasim.compare.pairs, "_SAVE_ROWS", 1)
    for limit in ("_PIECE_ELEMENTS", "_PLANNED_LAYERS"):
        monkeypatch.setattr(megasim.compare.plan, limit, 1)
    monkeypatch.setattr(megasim.ingest.reading, "PIECE_BYTES", 1)
    assert results(tmp_path, models, workers=4) == expected
