"""What the machine can do with the same files, and the pairwise way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from blake3 import blake3

from benchmarks.measure import in_cache


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


def pairwise_seconds(pair: Sequence[Path], metrics: str) -> float:
    """Return the seconds of a pair the pairwise way, its files in the page cache."""
    in_cache(pair)
    command = [sys.executable, "-m", "benchmarks.pairwise", metrics, *map(str, pair)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(json.loads(output)["seconds"])


def out_of_cache(paths: Sequence[Path]) -> None:
    """Drop files from the page cache, so that the next reading comes from the disk."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
