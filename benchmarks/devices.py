"""Compare with one worker, two, four … all; and on a GPU beside the CPU, where there is one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import numpy as np

from benchmarks.measure import Row, in_cache, megasim
from megasim.kernels import loops
from megasim.kernels.state import TILE
from megasim.workspace.jobs import usable_cores
from megasim.zoo.building import build_full_size


def measure_workers(folder: Path, models: int, width: float) -> list[Row]:
    """Return how ingest and compare grow with the number of workers, files in the page cache."""
    paths = build_full_size(folder, models, width=width)
    in_cache(paths)
    gigabytes = sum(path.stat().st_size for path in paths) / 1e9
    counts = [2**i for i in range(10) if 2**i < usable_cores()] + [usable_cores()]
    rows: list[Row] = []
    for workers in counts:
        db = folder / "workers.duckdb"
        db.unlink(missing_ok=True)
        given = ("--workers", str(workers))
        ingest = megasim(db, "ingest", *map(str, paths), *given)
        compare = megasim(db, "compare", "--device", "cpu", *given)
        rows.append(
            {
                "what": "workers",
                "workers": workers,
                "GB": gigabytes,
                "ingest": ingest.seconds,
                "ingest GB/s": gigabytes / ingest.seconds,
                "compare": compare.seconds,
                "compare GB/s": gigabytes / compare.seconds,
                "loop in cache": loop_rate(models) * workers,
                "compare MiB": compare.anonymous / 2**20,
            }
        )
        db.unlink()
    return rows


def loop_rate(models: int) -> float:
    """Return element-pairs a second of one core over float16 rows in its cache."""
    given = _rows(models, 16 * TILE)
    pairs = _pairs(models)
    counts, sums = np.zeros(len(pairs), dtype=np.int64), np.zeros((len(pairs), 2))
    halves, tile = np.zeros(models, dtype=np.bool_), np.empty((models, TILE), dtype=np.float32)
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        loops.add_halves(given, halves, tile, pairs, counts, sums)
        seconds.append(time.perf_counter() - start)
    return float(len(pairs) * given.shape[1] / min(seconds))


def measure_gpu(folder: Path, models: int, width: float) -> list[Row]:
    """Return rows for the kernel of a GPU by itself and for whole comparisons, beside the CPU.

    Without a card, one row that says what is missing.
    """
    problem = _no_card()
    if problem:
        return [{"what": "gpu", "not measured": problem}]
    return [*_kernel(), *_comparisons(folder, models, width)]


def _no_card() -> str:
    if find_spec("torch") is None or find_spec("triton") is None:
        return "torch or Triton is not installed"
    import torch

    return "" if torch.cuda.is_available() else "torch finds no card for CUDA"


def _kernel() -> list[Row]:
    """Return the rate of the kernel over rows of float16 that are on the card already."""
    import torch

    from megasim.compare.devices import gives_right_sums
    from megasim.kernels.triton_pairs import PairSums

    rows: list[Row] = []
    for models in (6, 12, 48, 118):
        pairs = _pairs(models)
        host = _rows(models, 1 << 20)
        kernel = PairSums(torch.device("cuda"), pairs)
        on_card = torch.from_numpy(host.view(np.int16)).cuda()
        kinds = torch.zeros(models, dtype=torch.int32, device="cuda")
        kernel.launch(on_card, kinds)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(10):
            kernel.launch(on_card, kinds)
        torch.cuda.synchronize()
        seconds = (time.perf_counter() - start) / 10
        rows.append(
            {
                "what": "gpu kernel",
                "card": torch.cuda.get_device_name(),
                "models": models,
                "element-pairs/s": len(pairs) * host.shape[1] / seconds,
                "sums": "right" if gives_right_sums("cuda") else "wrong",
            }
        )
    return rows


def _comparisons(folder: Path, models: int, width: float) -> list[Row]:
    paths = build_full_size(folder, models, width=width)
    in_cache(paths)
    db, fresh = folder / "gpu.duckdb", folder / "fresh.duckdb"
    fresh.unlink(missing_ok=True)
    megasim(fresh, "ingest", *map(str, paths))
    tiny = build_full_size(folder / "tiny", 2, width=0.02)
    small = folder / "tiny.duckdb"
    rows: list[Row] = []
    for device in ("cpu", "cuda"):
        seconds = []
        for _ in range(3):
            shutil.copy(fresh, db)
            seconds.append(megasim(db, "compare", "--device", device).seconds)
        small.unlink(missing_ok=True)
        megasim(small, "ingest", *map(str, tiny))
        start = megasim(small, "compare", "--device", device).seconds
        rows.append(
            {
                "what": "gpu compare",
                "device": device,
                "models": models,
                "GB": sum(path.stat().st_size for path in paths) / 1e9,
                "seconds": min(seconds),
                "of them start": start,
                "workers": usable_cores(),
            }
        )
    for path in (db, fresh, small):
        path.unlink()
    return rows


def _rows(models: int, columns: int) -> np.ndarray:
    """Return (models, columns) bits of float16: a base, and steps a thousandth long."""
    random = np.random.default_rng(0)
    base = random.standard_normal(columns, dtype=np.float32) * np.float32(0.02)
    steps = (random.random(columns, dtype=np.float32) * np.float32(1e-3) for _ in range(models))
    return np.stack([(base + step).astype(np.float16) for step in steps]).view(np.uint16)


def _pairs(models: int) -> np.ndarray:
    every: Sequence[tuple[int, int]] = list(combinations(range(models), 2))
    return np.array(every, dtype=np.int32)
