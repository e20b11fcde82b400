"""The command line beside a service of the same store: real processes, the same answers."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import megasim
from megasim.cli import run
from megasim.errors import MegasimError, StoreLockedError, UsageError
from tests.models import random_model, write_model
from tests.serve.service_fixture import small_store

pytest.importorskip("fastapi", reason="the extra serve is missing")
if sys.platform == "win32":
    pytest.skip("commands do not find the service there", allow_module_level=True)


def command(store: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a store in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "megasim.cli", "--db", str(store), *arguments],
        capture_output=True,
        text=True,
        cwd=store.parent,
        timeout=120,
    )


class Running:
    """A service in a process of its own."""

    def __init__(self, store: Path, *options: str) -> None:
        program = [sys.executable, "-m", "megasim.cli", "--db", str(store)]
        self.log = (store.parent / "log.txt").open("a+")
        self.process = subprocess.Popen(
            [*program, "serve", "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=store.parent,
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http://"), (store.parent / "log.txt").read_text()

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(how)
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()
        return code


@contextmanager
def running(store: Path, *options: str) -> Iterator[Running]:
    """Give a service for the length of a block."""
    service = Running(store, *options)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.end()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("store"), ("a", "b", "c", "d"))


READING = (
    ("models", "--json"),
    ("sql", "select sum(numel) as n, max(l2) as l2, list(model) as m from layers"),
    ("sql", "--example", "closest_models", "--csv"),
    ("findings",),
    ("findings", "a", "b", "--json"),
    ("matrix", "-c", "all"),
    ("matrix", "-c", "all", "--estimate", "--json"),
    ("nearest", "a", "--json"),
    ("why", "a", "b"),
    ("layers", "a", "b"),
    ("map", "-c", "all", "--json"),
    ("lineage", "-c", "all", "--json"),
    ("verify", "a", "b", "--json"),
)


def test_commands_say_the_same_through_a_service(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*arguments: str) -> tuple[int, str]:
        """Run a command in this process, to which the service is another one."""
        code = run(["--db", str(store), *arguments])
        return code, capsys.readouterr().out

    heatmap = ("heatmap", "-c", "all", "-o")
    alone = {arguments: told(*arguments) for arguments in READING}
    assert told(*heatmap, str(tmp_path / "alone.png"))[0] == 0
    with running(store):
        for arguments, before in alone.items():
            assert told(*arguments) == before, arguments
        assert told(*heatmap, str(tmp_path / "served.png"))[0] == 0
        assert told("report", "-o", str(tmp_path / "report"))[0] == 0
    assert (tmp_path / "report" / "index.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "served.png").read_bytes() == (tmp_path / "alone.png").read_bytes()


def test_jobs_of_the_command_line_are_done_by_the_service(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "s.duckdb"
    shutil.copy(store, copy)
    write_model(tmp_path / "new" / "e.safetensors", random_model(5))
    (tmp_path / "new" / "broken.safetensors").write_bytes(b"\xff" * 64)
    with running(copy, "--workers", "1"):  # without --allow-jobs: who started it may all the same
        ingested = command(copy, "ingest", "new/e.safetensors", "new/broken.safetensors")
        assert ingested.returncode == 4, ingested.stderr
        assert "added e" in ingested.stdout
        assert "broken.safetensors" in ingested.stderr
        compared = command(copy, "compare", "--json")
        assert compared.returncode == 0, compared.stderr
        assert json.loads(compared.stdout)["pairs_done"] == 4
        named = command(copy, "known", "add", "mine", "a", "-c", "all")
        assert named.returncode in (0, 2), named.stderr
        assert command(copy, "forget", "e").returncode == 0
        assert '"e"' not in command(copy, "models", "--json").stdout
    assert command(copy, "models", "--json").returncode == 0


def test_what_a_service_cannot_do_names_the_remedy(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_model(tmp_path / "f.safetensors", random_model(5))
    with running(store) as service:
        served = f"served at {service.address.rstrip('/')}"
        for arguments in (
            ("compact",),
            ("migrate",),
            ("doctor",),
            ("doctor", "--repair"),
            ("export", "--fingerprints", str(tmp_path / "f.parquet")),
            ("nearest", str(file)),
            ("serve", "--port", "0"),
        ):
            # without --wait: what waits for a service waits for ever
            assert run(["--db", str(store), *arguments]) == 3, arguments
            told = capsys.readouterr().err
            assert served in told and "stop it, or " in told, arguments
        with pytest.raises(StoreLockedError, match=r"served at http://127\.0\.0\.1"):
            megasim.open_store(store, "read", wait=0)


def test_the_file_that_names_a_service_is_its_owners_alone(store: Path) -> None:
    file = store.with_name("s.duckdb.service")
    with running(store) as service:
        assert file.stat().st_mode & 0o777 == 0o600
        assert json.loads(file.read_text())["address"] == service.address
    assert not file.exists()


def test_a_service_that_was_killed_leaves_nothing_in_the_way(store: Path) -> None:
    service = Running(store)
    before = command(store, "models", "--json").stdout
    service.end(signal.SIGKILL)
    assert store.with_name("s.duckdb.service").exists()
    alone = command(store, "models", "--json")
    assert (alone.returncode, alone.stdout) == (0, before)
    with running(store):
        assert command(store, "models", "--json").stdout == before


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_service_ends_in_good_order(store: Path, how: signal.Signals) -> None:
    service = Running(store)
    assert service.end(how) == 0
    assert not store.with_name("s.duckdb.wal").exists()


def test_connect_has_the_methods_of_an_opened_store(store: Path) -> None:
    with megasim.open_store(store, "read") as opened:
        expected = opened.matrix("all").to_frame()
        layers = opened.layers("a", "b")
        text = opened.findings().to_text()
    with running(store) as service, megasim.connect(service.address) as remote:
        assert remote.matrix("all").to_frame().equals(expected)
        assert remote.layers("a", "b").equals(layers)
        assert remote.findings().to_text() == text
        assert "4 models" in repr(remote)
        with pytest.raises(UsageError, match="nobody"):
            remote.why("a", "nobody")
        with pytest.raises(MegasimError, match="only reads"):
            remote.compare()
        with pytest.raises(UsageError, match="only one query"):
            remote.sql("drop table model")
    with pytest.raises(MegasimError, match="does not answer"):
        megasim.connect(service.address)


def test_a_token_is_asked_of_programs_too(store: Path, tmp_path: Path) -> None:
    token = "a-token-that-only-tests-know"
    (tmp_path / "token").write_text(token + "\n")
    with running(store, "--token-file", str(tmp_path / "token")) as service:
        with pytest.raises(MegasimError, match="no token"):
            megasim.connect(service.address)
        with megasim.connect(service.address, token) as remote:
            assert len(remote.models()) == 4
        # who started it needs none
        assert command(store, "models").returncode == 0
