"""All pairs of many models from simulated sketches."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from megasim.estimate import KeyContents, estimate_distances

Row = dict[str, object]
_SIZE = 256


def measure_estimates(models: int, keys: int) -> list[Row]:
    """Return how long the estimates of all pairs take; making the sketches is not counted."""
    contents = [_key(models, seed) for seed in range(min(keys, 8))]

    def repeated() -> Iterator[tuple[str, KeyContents]]:
        for i in range(keys):
            yield "unet", contents[i % len(contents)]

    estimate_distances(range(models), range(models), iter([("unet", contents[0])]))
    start = time.perf_counter()
    found = estimate_distances(range(models), range(models), repeated())
    rows = len(found.to_frame())
    seconds = time.perf_counter() - start
    return [
        {
            "what": f"estimate of {models:,} models, one key",
            "keys": keys,
            "pairs": rows,
            "seconds": seconds,
            "seconds a key": seconds / keys,
        }
    ]


def _key(models: int, seed: int) -> KeyContents:
    rng = np.random.default_rng(seed)
    codes = np.arange(models, dtype=np.int32)
    return KeyContents(
        place=codes,
        name=np.zeros(models, dtype=np.int32),
        sketches=rng.standard_normal((models, _SIZE), dtype=np.float32),
        whole=False,
        codes=np.stack([np.zeros_like(codes), codes, codes, codes], axis=1),
        finite=np.ones(models, dtype=np.bool_),
    )
