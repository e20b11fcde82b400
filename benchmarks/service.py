"""Many readers of a service while it ingests: how long they wait, and what memory it takes.

    python -m benchmarks.service                118 models of SD1, 100 readers, 60 seconds
    python -m benchmarks.service --short        12 models, 20 readers, 10 seconds

The readers are one process on the same machine, so they take some of its time. Pages and calls of
the API are asked in turns, each reader as soon as it has its last answer. The same files are
ingested again and again. Prints what was measured as JSON, writes it with `-o`, and exits with 1
where an answer was an error.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import numpy as np
from safetensors.numpy import save_file

from megasim.zoo.architectures import sd1_shapes
from tests.simulated_store import model_names, simulate_store

_MODEL_MB = 100  # of each file that is ingested meanwhile
_JOBS = 200  # more than are done in that time
_WATCH_SECONDS = 0.5  # between two looks at the memory


@dataclass(frozen=True)
class ReaderLoad:
    """How much is asked: of a store of so many models, by so many readers, for so long."""

    models: int
    readers: int
    seconds: float
    files: int


def main() -> int:
    """Run, and print what was measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.service",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--short", action="store_true", help="a small store, for some seconds")
    parser.add_argument("--folder", type=Path, help="where files are made; a temporary folder")
    parser.add_argument("-o", "--output", type=Path, help="results as JSON")
    options = parser.parse_args()
    load = ReaderLoad(12, 20, 10.0, 5) if options.short else ReaderLoad(118, 100, 60.0, 20)
    with tempfile.TemporaryDirectory(prefix="megasim-bench-", dir=options.folder) as folder:
        found = measure_service(Path(folder), load)
    print(json.dumps(found, indent=2))
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 1 if found["errors"] else 0


def measure_service(folder: Path, load: ReaderLoad) -> dict[str, object]:
    """Return how long pages and calls took while files were ingested, and the peak of memory."""
    db, models = folder / "s.duckdb", folder / "models"
    names = model_names(load.models)
    simulate_store(db, names, sd1_shapes())
    _write_models(models, load.files)
    command = [sys.executable, "-m", "megasim.cli", "--db", str(db), "serve", "--port", "0"]
    command += ["--models", str(models), "--allow-jobs", "--no-access-log"]
    began = time.perf_counter()
    service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert service.stdout is not None
        address = service.stdout.readline().strip()
        start = time.perf_counter() - began
        ingest = {"kind": "ingest", "paths": ["."], "reread": True}
        client = httpx.Client(base_url=address, timeout=60, verify=False)
        for _ in range(_JOBS):
            client.post("/api/v1/jobs", json=ingest).raise_for_status()
        before = _core_seconds([service.pid])
        with _watched(service.pid) as memory:
            asked = asyncio.run(_read(address, names, load))
        cores = _core_seconds([service.pid]) - before
        jobs = client.get("/api/v1/jobs").json()["states"]
    finally:
        service.terminate()
        service.wait(60)
    seconds: dict[str, list[float]] = defaultdict(list)
    errors = []
    for address_, status_code, took in asked:
        kind = "api" if address_.startswith("/api/") else "page"
        seconds[kind].append(took)
        if status_code != 200:
            errors.append(f"{status_code} {address_}")
    return {
        "models": load.models,
        "readers": load.readers,
        "seconds": load.seconds,
        "start_seconds": round(start, 2),
        "jobs": jobs,
        "service_peak_MiB": sum(memory.values()),
        "of_processes_MiB": memory,
        "service_core_ms_per_answer": round(1000 * cores / len(asked), 3),
        "errors": len(errors),
        "first_errors": errors[:5],
        **{kind: _of(took) for kind, took in sorted(seconds.items())},
    }


def _processes(service: int) -> Iterator[tuple[str, int]]:
    """Yield the service, and the processes that make its answers; not those that read files."""
    yield "service", service
    niceness = os.getpriority(os.PRIO_PROCESS, service)
    for found in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            status = (found / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            if (
                int(status[1]) == service and int(status[16]) == niceness
            ):  # those that read give way
                yield f"answers {found.name}", int(found.name)


@contextmanager
def _watched(service: int) -> Iterator[dict[str, int]]:
    """Give the memory of each process, in MiB, at the moment when all of them held the most.

    A page of memory that processes share, as of libraries, counts once (PSS of smaps_rollup).
    """
    most: dict[str, int] = {}
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(_WATCH_SECONDS):
            now = {name: _proportional_kb(pid) // 1024 for name, pid in _processes(service)}
            if sum(now.values()) > sum(most.values()):
                most.clear()
                most.update(now)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        is_over.set()
        watcher.join()


def _proportional_kb(process: int) -> int:
    with suppress(OSError):  # it has ended
        told = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8")
        return int(next(line for line in told.splitlines() if line.startswith("Pss:")).split()[1])
    return 0


def _core_seconds(processes: Iterable[int]) -> float:
    """Return the time of a core that processes have taken."""
    ticks = 0
    for process in processes:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2]
        ticks += sum(map(int, stat.split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _of(seconds: Sequence[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(np.array(seconds) * 1000, [50, 95, 99])
    return {
        "answers": len(seconds),
        "p50_ms": round(float(p50), 1),
        "p95_ms": round(float(p95), 1),
        "p99_ms": round(float(p99), 1),
    }


async def _read(
    address: str, names: Sequence[str], load: ReaderLoad
) -> list[tuple[str, int, float]]:
    """Return (address, status, seconds) of all that the readers asked."""
    found: list[tuple[str, int, float]] = []
    deadline = time.monotonic() + load.seconds
    place = urlsplit(address)

    async def reader(number: int) -> None:
        asked = _asked(names, np.random.default_rng(number))
        connection = await asyncio.open_connection(place.hostname, place.port, limit=1 << 20)
        try:
            for i in itertools.count(number):
                if time.monotonic() >= deadline:
                    return
                path = asked[i % len(asked)]
                began = time.perf_counter()
                status = await _ask(connection, place.netloc, path)
                found.append((path, status, time.perf_counter() - began))
        except (OSError, EOFError):
            found.append(("a connection was broken off", 0, 0.0))
        finally:
            connection[1].close()

    await asyncio.gather(*(reader(number) for number in range(load.readers)))
    return found


async def _ask(
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], host: str, path: str
) -> int:
    """Ask for an address, read the whole answer, and return its status.

    It speaks HTTP itself: a client that does more takes as long as the service.
    """
    answer, request = connection
    accept = "application/json" if path.startswith("/api/") else "text/html"
    request.write(f"GET {path} HTTP/1.1\r\nhost: {host}\r\naccept: {accept}\r\n\r\n".encode())
    head = (await answer.readuntil(b"\r\n\r\n")).lower()
    _, told, size = head.partition(b"content-length:")
    if told:
        await answer.readexactly(int(size.partition(b"\r")[0]))
    else:
        left = 1
        while left:
            left = int(await answer.readuntil(b"\r\n"), 16)
            await answer.readexactly(left + 2)
    return int(head[9:12])


def _asked(names: Sequence[str], random: np.random.Generator) -> list[str]:
    """Return what one reader asks, again and again: two of its own, and what all ask."""
    a, b = (quote(names[int(i)]) for i in random.choice(len(names), 2, replace=False))
    return [
        "/models",
        f"/api/v1/component_distances?model={a}&component=unet",
        f"/pair?a={a}&b={b}",
        "/api/v1/models?limit=50",
        "/matrix?component=unet",
        "/api/v1/matrix?component=unet",
        f"/models?q={a}",
        f"/api/v1/layer_distances?model_a={a}&model_b={b}&component=unet&limit=100",
        f"/api/v1/sql?query={quote('select family, count(*) as n from models group by family')}",
    ]


def _write_models(folder: Path, count: int) -> None:
    """Write checkpoints of random weights, each another."""
    folder.mkdir()
    random = np.random.default_rng(0)
    size = _MODEL_MB * 1_000_000 // 2 // 64
    weights = random.standard_normal((64, size), dtype=np.float32).astype(np.float16)
    for i in range(count):
        weights[:, i::97] *= np.float16(1.01)
        rows = {f"layer.{j}.weight": weights[j].copy() for j in range(64)}
        save_file(rows, folder / f"new-{i:03}.safetensors")


if __name__ == "__main__":
    sys.exit(main())
