"""Real processes that read while another one writes, and the other way round."""

import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

import megasim
from megasim.errors import StoreLockedError
from megasim.store import writer_lock
from megasim.store.lease import Lease
from megasim.workspace import jobs
from tests.models import nudged, random_model, write_model

# A line for each piece of work, which begins when a line has come in, and one when its distances
# are saved. The two come from two threads, in either order; each is one write, so that they do not
# mix, as those of print do.
STEP_BY_STEP = """if True:
    import os, sys
    import megasim.cli as cli
    import megasim.compare.pairs as pairs, megasim.compare.plan as plan
    import megasim.compare.runs as runs
    import megasim.ingest.reading as ingest
    plan._PIECE_ELEMENTS = pairs._SAVE_ROWS = 1
    def told(work):
        def run(*given):
            os.write(1, b'piece\\n')
            sys.stdin.readline()
            return work(*given)
        return run
    ingest.fingerprint_refs = told(ingest.fingerprint_refs)
    runs.run_pair_piece = told(runs.run_pair_piece)
    save = pairs._StoreKeeper.save_in_time
    def saved(keeper):
        save(keeper)
        os.write(1, b'saved\\n')
    pairs._StoreKeeper.save_in_time = saved
    cli.main()
"""


class Stepped:
    """A command in a process of its own that works piece by piece, when it is told to."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", STEP_BY_STEP, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: Counter[str] = Counter()

    def wait_for_piece(self) -> bool:
        return self.wait_for("piece")

    def wait_for(self, line: str) -> bool:
        """Whether one more such line came, before the process ended."""
        assert self.process.stdout is not None
        while not self.lines[line]:
            read = self.process.stdout.readline()
            if not read:
                return False
            self.lines[read.strip()] += 1
        self.lines[line] -= 1
        return True

    def step(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def finish(self) -> int:
        out, _ = self.process.communicate("\n" * 10_000, timeout=120)
        del out
        return self.process.returncode


def command(db: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    given = [sys.executable, "-m", "megasim.cli", "--db", str(db), *map(str, arguments)]
    return subprocess.run(given, capture_output=True, text=True, timeout=120)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for i in range(4):
        tensors = nudged(random_model(0, 6), i, by=0.1)
        write_model(tmp_path / "models" / f"m{i}.safetensors", tensors)
    return tmp_path / "models"


def test_an_ingest_can_be_watched(tmp_path: Path, models: Path) -> None:
    db = tmp_path / "s.duckdb"
    ingest = Stepped("--db", db, "ingest", models, "--workers", "1")
    seen = []
    for _ in range(4):
        assert ingest.wait_for_piece()
        with megasim.open_store(db, "read") as store:  # while the piece is under way
            seen.append(len(store.models()))
        assert ingest.process.poll() is None
        ingest.step()
    assert ingest.finish() == 0
    with megasim.open_store(db, "read") as store:
        seen.append(len(store.models()))
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, 4)


def test_a_comparison_can_be_watched(tmp_path: Path, models: Path) -> None:
    db = tmp_path / "s.duckdb"
    with megasim.open_store(db) as store:
        store.ingest(models)
    compare = Stepped("--db", db, "compare", "--workers", "1")
    known = []
    for _ in range(4):
        assert compare.wait_for_piece()
        with megasim.open_store(db, "read") as store:
            known.append(store.sql("select count(*) as n from tensor_distance")["n"][0])
        compare.step()
        assert compare.wait_for("saved")  # nobody reads, so it was
    assert compare.wait_for_piece()
    for given in (["models"], ["sql", "from models"], ["report", "-o", tmp_path / "report"]):
        assert command(db, *given).returncode == 0, given
    assert compare.finish() == 0
    assert known == [0, 6, 12, 18]
    with megasim.open_store(db) as store, megasim.open_store(tmp_path / "t.duckdb") as other:
        other.ingest(models)
        other.compare()
        order = "select * from layer_distances order by all"
        assert store.sql(order).equals(other.sql(order))


def test_an_open_store_that_nobody_asks_blocks_no_writer(tmp_path: Path, models: Path) -> None:
    db = tmp_path / "s.duckdb"
    with megasim.open_store(db) as writer:
        writer.ingest(models / "m0.safetensors")
        with megasim.open_store(db, "update") as reader:
            assert len(reader.models()) == 1
            assert command(db, "ingest", models).returncode == 0
            assert len(reader.models()) == 4
        assert len(writer.models()) == 4


def test_a_reader_that_goes_on_does_not_stop_a_comparison(tmp_path: Path, models: Path) -> None:
    db = tmp_path / "s.duckdb"
    with megasim.open_store(db) as store:
        store.ingest(models)
    compare = Stepped("--db", db, "compare", "--workers", "1")
    assert compare.wait_for_piece()
    with megasim.open_store(db, "read") as reader:
        reader.store.keep()
        for _ in range(4):  # which cannot be saved now
            compare.step()
            assert compare.wait_for_piece()
        ((count,),) = reader.store.connection.execute(
            "from tensor_distance select count(*)"
        ).fetchall()
        assert count == 0
    assert compare.finish() == 0
    with megasim.open_store(db, "read") as store:
        assert store.sql("select count(*) as n from tensor_distance")["n"][0] == 36


def test_a_second_writer_waits_for_the_first(tmp_path: Path, models: Path) -> None:
    db = tmp_path / "s.duckdb"
    first = Stepped("--db", db, "ingest", models, "--workers", "1")
    assert first.wait_for_piece()
    refused = command(db, "--wait", "0", "ingest", models)
    assert (refused.returncode, f"process {first.process.pid}" in refused.stderr) == (3, True)
    with (
        megasim.open_store(db, wait=2) as store,
        pytest.raises(StoreLockedError, match=f"process {first.process.pid}"),
    ):
        store.ingest(models)
    second = subprocess.Popen(
        [sys.executable, "-m", "megasim.cli", "--db", str(db), "--wait", "ingest", str(models)]
    )
    time.sleep(0.5)
    assert first.finish() == 0
    assert second.wait(timeout=60) == 0
    assert not list(tmp_path.glob("*.lock"))


def test_a_writer_that_was_killed_holds_nothing_up(tmp_path: Path, models: Path) -> None:
    db = tmp_path / "s.duckdb"
    first = Stepped("--db", db, "ingest", models, "--workers", "1")
    assert first.wait_for_piece()
    first.process.kill()
    first.process.wait()
    assert command(db, "--wait", "0", "ingest", models).returncode == 0


def test_who_waits_to_write_keeps_nobody_out(tmp_path: Path, monkeypatch) -> None:
    """Else the writer that is waited for could not save what it has, and both would wait."""
    path = tmp_path / "s.duckdb"
    megasim.open_store(path).close()
    waits, done = threading.Event(), threading.Event()

    def sleep(seconds: float) -> None:
        waits.set()
        time.sleep(seconds)

    def write() -> None:
        with lease.transaction():
            done.set()

    with writer_lock.writer_lock(path):
        lease = Lease(path, "update", wait=60)
        assert lease._connection is not None
        patched = SimpleNamespace(sleep=sleep, monotonic=time.monotonic)
        monkeypatch.setattr(writer_lock, "time", patched)
        thread = threading.Thread(target=write)
        thread.start()
        assert waits.wait(60)
        assert lease._connection is None
        assert not done.is_set()
    thread.join(60)
    assert done.is_set()
    lease.close()


@pytest.mark.parametrize("job", ["compact", "migrate"])
def test_what_opens_the_store_itself_waits_for_readers(tmp_path: Path, job: str) -> None:
    path = tmp_path / "s.duckdb"
    megasim.open_store(path).close()
    hold = (
        "import sys, duckdb; con = duckdb.connect(sys.argv[1], read_only=True); print(1, flush=1)"
    )
    hold += "; print(1, flush=True); sys.stdin.readline()"
    reader = subprocess.Popen(
        [sys.executable, "-c", hold, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert reader.stdout is not None and reader.stdin is not None
    assert reader.stdout.readline() == b"1\n"
    work = getattr(jobs, job)
    with pytest.raises(StoreLockedError):
        work(path, wait=0)
    waiting = threading.Thread(target=work, args=(path,), kwargs={"wait": 600})
    waiting.start()
    reader.communicate(b"\n")
    waiting.join(600)
    assert not waiting.is_alive()
    work(path, wait=0)
