"""Files that change while they are read, or between: nothing of them is stored."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import megasim
from megasim import cli
from megasim.compare import runs
from megasim.ingest import reading
from tests.models import nudged, random_model, write_model

SHAPE = (1200, 1200)  # of files larger than what is sampled of them


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for i, name in enumerate("abc"):
        tensors = nudged(random_model(0, 2, SHAPE), i, by=0.1) if i else random_model(0, 2, SHAPE)
        write_model(tmp_path / "models" / f"{name}.safetensors", tensors)
    return tmp_path / "models"


def overwrite(path: Path) -> None:
    """Change some bytes in place, and set the time of the change back."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 15 + (128 << 10))  # between two samples
        file.write(b"\x01\x3c" * 100)
    os.utime(path, ns=times)


def replace(path: Path) -> None:
    """Put another file in its place, of the same size and time."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    other = path.with_name("other.part")
    other.write_bytes(path.read_bytes())
    overwrite(other)
    os.utime(other, ns=times)
    other.replace(path)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def remove(path: Path) -> None:
    path.unlink()


CHANGES = [overwrite, replace, cut, remove]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("before", [True, False])
def test_a_file_that_changes_during_ingest_is_not_stored(
    tmp_path: Path,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    before: bool,
) -> None:
    read = reading.fingerprint_refs
    left = [models / "b.safetensors"]

    def meanwhile(refs, *given):
        is_it = refs[0].path == str(models / "b.safetensors")
        if before and is_it and left:
            change(left.pop())
        found = read(refs, *given)
        if is_it and left:
            change(left.pop())
        return found

    monkeypatch.setattr(reading, "fingerprint_refs", meanwhile)
    db = tmp_path / "s.duckdb"
    assert cli.run(["--db", str(db), "ingest", str(models), "--workers", "1"]) == 4
    assert "b.safetensors" in capsys.readouterr().err
    with megasim.open_store(db) as store:
        assert store.models()["name"].tolist() == ["a", "c"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_during_compare_leaves_no_distance(
    tmp_path: Path,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
) -> None:
    run, left = runs.run_pair_piece, [models / "b.safetensors"]

    def meanwhile(piece):
        if left:
            change(left.pop())
        return run(piece)

    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(models)
        monkeypatch.setattr(runs, "run_pair_piece", meanwhile)
        result = store.compare(workers=1)
        assert (result.pairs_done, len(result.failed)) == (1, 1)
        assert "b.safetensors" in result.failed[0].message
        assert result.failed[0].exit_code == 4
        found = store.sql("select model_a, model_b, l2 from component_distances")
        assert found[["model_a", "model_b"]].to_numpy().tolist() == [["a", "c"]]
        distances = store.sql("select * from tensor_distance order by all")
    with megasim.open_store(tmp_path / "t.duckdb") as store:
        store.ingest(models / "a.safetensors", models / "c.safetensors")
        store.compare()
        assert store.sql("select l2 from component_distances")["l2"][0] == found["l2"][0]
        assert store.sql("select l2 from tensor_distance order by all")["l2"].tolist() == (
            distances["l2"].tolist()
        )


@pytest.mark.parametrize("change", [overwrite, replace])
def test_a_file_that_changed_unseen_is_not_compared(
    tmp_path: Path, models: Path, change: Callable[[Path], None]
) -> None:
    """Same size, time, header and samples: its content is not what was fingerprinted."""
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(models)
        change(models / "b.safetensors")
        assert len(store.ingest(models).known) == 3  # by its identity it is the same
        result = store.compare()
        assert (result.pairs_done, len(result.failed)) == (1, 1)
        assert "--reread" in result.failed[0].remedy
        assert store.sql("select count(*) as n from tensor_distance")["n"][0] == 2
        store.ingest(models, reread=True)
        assert store.compare().pairs_done == 3


def test_a_file_that_was_only_touched_is_compared(tmp_path: Path, models: Path) -> None:
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(models)
        path = models / "b.safetensors"
        path.chmod(0o600)
        os.link(path, models / "b.link")
        result = store.compare()
        assert (result.pairs_done, result.failed) == (3, [])


def test_a_distance_that_contradicts_the_hashes_is_never_stored(tmp_path: Path) -> None:
    half = random_model(0, 3)
    write_model(tmp_path / "models" / "a.safetensors", {k: x.half() for k, x in half.items()})
    write_model(
        tmp_path / "models" / "b.safetensors", {k: x.half().float() for k, x in half.items()}
    )
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(tmp_path / "models")
        store.store.connection.execute(
            "update tensor set value_hash = 'wrong' where id = (select min(id) from tensor)"
        )
        result = store.compare()
        assert (result.pairs_done, len(result.failed)) == (0, 1)
        assert "fingerprint differs" in result.failed[0].message
        assert store.sql("select count(*) as n from tensor_distance")["n"][0] == 0


def test_integers_beyond_float64_are_no_contradiction(tmp_path: Path) -> None:
    for name, value in (("a", 2**53), ("b", 2**53 + 1)):
        tensors = {"block.w": torch.full((8, 8), value), "block.v": torch.randn(8, 8)}
        write_model(tmp_path / "models" / f"{name}.safetensors", tensors)
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(tmp_path / "models")
        assert store.compare().pairs_done == 1
