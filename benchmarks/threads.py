"""The work of ingest, its fingerprints, by the number of workers: threads beside processes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from blake3 import blake3

from benchmarks.measure import Row, in_cache
from megasim.checkpoint.tensors import TensorRef
from megasim.fingerprint.table import HASHES, FingerprintTable
from megasim.fingerprint.tensor import fingerprint_refs
from megasim.ingest.reading import pieces_of
from megasim.representation.opening import open_model
from megasim.workspace.jobs import usable_cores
from megasim.workspace.worker_processes import processes_pay
from megasim.zoo.building import build_full_size


def measure_threads(folder: Path, models: int, width: float) -> list[Row]:
    """Return a row for 1, 2, 4 … and all cores: seconds of fingerprints, beside BLAKE3.

    The pool of workers has started before, so the figures are of the work alone; beside them stand
    how long processes took to start, with a piece for each, and whether ingest would take them.

    Raises RuntimeError where threads and processes find different hashes.
    """
    paths = build_full_size(folder / f"w{width:g}", models, width=width)
    in_cache(paths)
    pieces = [
        piece for path in paths for piece in pieces_of(list(open_model(path).tensors.values()))
    ]
    size = sum(path.stat().st_size for path in paths)
    rows: list[Row] = []
    for workers in worker_counts(usable_cores()):
        with ThreadPoolExecutor(workers) as threads:
            _, in_threads, found = _seconds(threads, workers, pieces)
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as processes:
            start, in_processes, others = _seconds(processes, workers, pieces)
        if _hashes(found) != _hashes(others):
            raise RuntimeError("threads and processes found different hashes")
        began = time.perf_counter()
        for path in paths:
            blake3(max_threads=workers).update_mmap(path).hexdigest()
        hashing = time.perf_counter() - began
        rows.append(
            {
                "what": "threads",
                "workers": workers,
                "threads": in_threads,
                "processes": in_processes,
                "threads / processes": in_threads / in_processes,
                "start of processes": start,
                "processes chosen": processes_pay(workers, size),
                "GB/s": size / min(in_threads, in_processes) / 1e9,
                "BLAKE3 GB/s": size / hashing / 1e9,
            }
        )
    return rows


def worker_counts(cores: int) -> list[int]:
    """Return 1, 2, 4 … up to the number of cores, and that."""
    return sorted({*(1 << i for i in range(cores.bit_length())), cores})


def _seconds(
    executor: Executor, workers: int, pieces: Sequence[Sequence[TensorRef]]
) -> tuple[float, float, list[FingerprintTable]]:
    """Return the seconds of the start, with the smallest piece for each worker, and of the work."""
    smallest = min(pieces, key=lambda piece: sum(ref.nbytes for ref in piece))
    begin = time.perf_counter()
    list(executor.map(fingerprint_refs, [smallest] * workers))
    start = time.perf_counter()
    found = list(executor.map(fingerprint_refs, pieces))
    return start - begin, time.perf_counter() - start, found


def _hashes(tables: Sequence[FingerprintTable]) -> list[bytes]:
    return [table.hashes[name].tobytes() for table in tables for name in HASHES]
