"""Signals: told by type, acted on in the middle of a tensor, and what was done is kept."""

import errno
import json
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import megasim
from megasim import cli
from megasim.errors import MegasimError
from tests.models import write_model

PIECES = 400
# Reads slowly, with a line for each piece of a tensor that it reads.
SLOWLY = """if True:
    import sys, time
    import megasim.cli as cli
    from megasim.checkpoint.tensors import TensorReader
    read = TensorReader.read
    def slowly(*given):
        print('piece', flush=True)
        time.sleep(0.05)
        return read(*given)
    TensorReader.read = slowly
    cli.main()
"""


def write_sparse(path: Path, size: int) -> None:
    """Write a checkpoint of one tensor of zeros, which takes no space on the disk."""
    entry = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    header = json.dumps({"block.weight": entry}).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)


def stop(number: int, *arguments: object, after: int) -> tuple[int, int, str]:
    """Send a signal once so many pieces are read; return the exit code, all pieces and stderr."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for _ in range(after):
        assert process.stdout.readline() == "piece\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return process.returncode, after + out.count("piece"), err


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_an_ingest_in_the_middle_of_a_tensor(tmp_path: Path, name: str) -> None:
    folder, db = tmp_path / "models", tmp_path / "s.duckdb"
    folder.mkdir()
    write_model(folder / "a.safetensors", {"block.weight": torch.randn(8, 8)})
    write_sparse(folder / "b.safetensors", PIECES << 21)
    write_model(folder / "c.safetensors", {"block.weight": torch.randn(8, 8)})
    code, pieces, err = stop(
        getattr(signal, name), "--db", db, "ingest", folder, "--workers", "1", after=5
    )
    assert (code, "interrupted; finished work is saved" in err) == (130, True)
    assert pieces < PIECES // 4
    with megasim.open_store(db) as store:
        assert store.models()["name"].tolist() in ([], ["a"])  # what was done, and no more


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_a_comparison_in_the_middle_of_a_tensor(tmp_path: Path, name: str) -> None:
    db = tmp_path / "s.duckdb"
    for model, value in (("a", 1), ("b", 2)):
        write_sparse(tmp_path / f"{model}.safetensors", PIECES << 18)
        with (tmp_path / f"{model}.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            file.write(bytes([value]))
    with megasim.open_store(db) as store:
        store.ingest(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    code, pieces, err = stop(
        getattr(signal, name), "--db", db, "compare", "--workers", "1", after=5
    )
    assert (code, "interrupted" in err) == (130, True)
    assert pieces < PIECES // 4
    with megasim.open_store(db) as store:
        assert store.compare().tensor_pairs_computed == 1


def test_a_signal_ends_a_query(tmp_path: Path) -> None:
    db = tmp_path / "s.duckdb"
    megasim.open_store(db).close()
    endless = "select count(*) from range(1000000) a, range(1000000) b where hash(a, b) % 7 = 3"
    code = (
        "import os, signal, threading, megasim.cli as cli\n"
        "from megasim.store import rows\n"
        "import megasim.workspace\n"
        "threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
        "cli.main()\n"
    )
    command = [sys.executable, "-c", code, "--db", str(db), "sql", endless]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, "interrupted" in done.stderr) == (130, True), done.stderr


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/data/interrupted-run/s.duckdb"),
        MegasimError("no such folder: interrupted-run"),
    ],
)
def test_an_error_that_says_interrupt_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail(*given: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(cli.megasim, "main", fail)
    assert cli.run(["models"]) == 1
    assert "what was done is saved" not in capsys.readouterr().err


def test_an_error_of_the_database_that_says_interrupt_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import duckdb

    def fail(*given: object, **named: object) -> None:
        raise duckdb.IOException('Could not write file "/interrupted-run/s": No space left')

    monkeypatch.setattr(cli.megasim, "main", fail)
    assert cli.run(["models"]) == 1
    assert "free some disk space" in capsys.readouterr().err
