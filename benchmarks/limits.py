"""What the machine can do with the same files: `cat`, and a multi-threaded BLAKE3."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from blake3 import blake3


def cat_seconds(paths: Sequence[Path]) -> float:
    """Return how long `cat` of the files takes."""
    start = time.perf_counter()
    subprocess.run(["cat", *map(str, paths)], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def blake3_seconds(paths: Sequence[Path]) -> float:
    """Return how long a BLAKE3 of each file takes, with as many threads as there are cores."""
    start = time.perf_counter()
    for path in paths:
        blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()
    return time.perf_counter() - start


def pairwise_seconds(a: Path, b: Path) -> float:
    """Return how long the pairwise way takes for one pair, in a process of its own."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "benchmarks.pairwise", str(a), str(b)],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - start


def start_up_seconds() -> float:
    """Return how long Python takes to import what the pairwise way needs."""
    command = [sys.executable, "-c", "import torch, safetensors.torch"]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def median(measure: Callable[[], float], runs: int) -> float:
    """Return the median of several runs."""
    return statistics.median(measure() for _ in range(runs))
