"""Files that a user asked for: whole or not at all, and errors that name them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from megasim import cli
from megasim.output_files import replaced_file, write_file
from megasim.store.connection import explained
from megasim.workspace import open_store
from tests.models import nudged, random_model, write_model

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a store of three models."""
    folder = tmp_path_factory.mktemp("compared")
    for i in range(3):
        write_model(folder / "models" / f"m{i}.safetensors", nudged(random_model(0), i))
    with open_store(folder / "s.duckdb") as store:
        store.ingest(folder / "models")
        store.compare()
    return folder / "s.duckdb"


def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    write_file(path, "old")
    with pytest.raises(OSError, match=r"m\.csv") as raised, replaced_file(path) as here:
        here.write_text("new, but only ha")
        raise OSError(28, "No space left on device", str(here))
    assert raised.value.filename == str(path)
    assert (path.read_text(), list(tmp_path.iterdir())) == ("old", [path])
    with pytest.raises(KeyboardInterrupt), replaced_file(path) as here:
        here.write_text("new")
        raise KeyboardInterrupt
    assert (path.read_text(), list(tmp_path.iterdir())) == ("old", [path])


def test_a_link_stays_one_and_a_missing_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    link, target = tmp_path / "link.csv", tmp_path / "kept" / "m.csv"
    link.symlink_to(target)
    write_file(link, "a")
    write_file(link, "b")
    assert (link.is_symlink(), target.read_text()) == (True, "b")
    with pytest.raises(FileNotFoundError) as raised:
        write_file(tmp_path / "none" / "m.csv", "a")
    assert raised.value.filename == str(tmp_path / "none" / "m.csv")
    with pytest.raises(IsADirectoryError):
        write_file(tmp_path / "kept", "a")


def test_what_utf_8_cannot_hold_is_escaped(tmp_path: Path) -> None:
    write_file(tmp_path / "m.json", '"caf\udce9"')
    assert (tmp_path / "m.json").read_bytes() == rb'"caf\udce9"'


@needs_full
@pytest.mark.parametrize(
    ("command", "name"),
    [
        *((("matrix", "-c", "block", "-o"), f"m.{e}") for e in ("json", "csv", "parquet", "npz")),
        (("heatmap", "-c", "block", "-o"), "m.png"),
        (("lineage", "-c", "block", "-o"), "m.html"),
        (("findings", "-o"), "m.md"),
        (("findings", "-o"), "m.json"),
        (("export", "--fingerprints"), "m.parquet"),
    ],
)
def test_a_full_disk_is_said_with_the_name_of_the_file(
    compared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).symlink_to(FULL)
    assert cli.run(["--db", str(compared), *command, name]) == 1
    assert f"error: {name}: No space left on device\n" in capsys.readouterr().err


@needs_full
def test_a_full_standard_output_is_one_error(compared: Path) -> None:
    command = [sys.executable, "-m", "megasim.cli", "--db", str(compared), "matrix", "-c", "block"]
    with FULL.open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("error: standard output: no space left\n  free some disk space\n")


def test_a_log_that_cannot_be_made_is_no_full_disk(tmp_path: Path) -> None:
    write_model(tmp_path / "m.safetensors", random_model(0))
    with open_store(tmp_path / "s.duckdb") as store:
        store.ingest(tmp_path / "m.safetensors")
    with open_store(tmp_path / "s.duckdb") as store:
        (tmp_path / "s.duckdb.wal").mkdir()
        with pytest.raises(duckdb.Error) as raised:
            store.forget("m")
        (tmp_path / "s.duckdb.wal").rmdir()
    error = explained(raised.value)
    assert error.message.endswith("s.duckdb.wal: Is a directory")
    assert "permissions" in error.remedy
    assert "space" not in error.remedy


def test_a_store_in_a_folder_that_takes_no_files_can_be_read_alone(tmp_path: Path) -> None:
    """Real processes that may not write there."""
    plain = ["setpriv", "--bounding-set=-all"] if os.geteuid() == 0 else []  # no rights of root
    if plain and not shutil.which(plain[0]):
        pytest.skip("root writes everywhere, and there is no setpriv here")
    folder = tmp_path / "kept"
    write_model(folder / "m.safetensors", random_model(0))
    db = folder / "s.duckdb"
    with open_store(db) as store:
        store.ingest(folder / "m.safetensors")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*plain, sys.executable, "-m", "megasim.cli", "--db", str(db), *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    folder.chmod(0o555)
    try:
        reading, changing = run("models"), run("forget", "m")
    finally:
        folder.chmod(0o755)
    assert reading.returncode == 0, reading.stderr
    assert "m.safetensors" in reading.stdout
    assert changing.returncode == 1
    assert "cannot be written to\n" in changing.stderr
    assert "permissions" in changing.stderr
