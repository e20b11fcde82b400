"""Estimates: how fast for many models, and how near to the exact distances."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.measure import Row
from megasim.estimate.pairs import KeyContents, estimate_distances, read_key_contents
from megasim.fingerprint.sketch import DEFAULT_SIZE, sketch_length
from megasim.store.rows import Store
from megasim.zoo.architectures import sd1_shapes
from megasim.zoo.keys import component_of


def measure_estimates(models: int, keys: int) -> list[Row]:
    """Return how long the estimates of all pairs take over keys of an SD1 UNet.

    Sketches are drawn at random, of the lengths that the tensors have; drawing is not counted.
    """
    lengths = [
        sketch_length(int(np.prod(shape)), DEFAULT_SIZE)
        for key, shape in sd1_shapes().items()
        if component_of(key) == "unet"
    ][:keys]
    drawn = {length: _key(models, length) for length in set(lengths)}

    def contents() -> Iterator[tuple[str, KeyContents]]:
        for length in lengths:
            yield "unet", drawn[length]

    estimate_distances(range(models), range(models), iter([("unet", drawn[lengths[0]])]))
    start = time.perf_counter()
    pairs = len(estimate_distances(range(models), range(models), contents()).to_frame())
    seconds = time.perf_counter() - start
    return [
        {
            "what": "estimates",
            "models": models,
            "keys": len(lengths),
            "pairs": pairs,
            "seconds": seconds,
            "ms a key": 1e3 * seconds / len(lengths),
        }
    ]


def _key(models: int, length: int) -> KeyContents:
    rng = np.random.default_rng(length)
    codes = np.arange(models, dtype=np.int32)
    return KeyContents(
        key="layer",
        place=codes,
        name=np.zeros(models, dtype=np.int32),
        sketches=rng.standard_normal((models, length), dtype=np.float32),
        relative_variance=np.full(models, 2.0 / length),
        codes=np.stack([np.zeros_like(codes), codes, codes, codes], axis=1),
        finite=np.ones(models, dtype=np.bool_),
        measured=np.ones(models, dtype=np.bool_),
    )


def measure_accuracy(db: Path, models: int) -> list[Row]:
    """Return, component by component, how far estimates are from the exact distances of a store."""
    with Store(db) as store:
        ids = [model.id for model in store.models()]
        components = [name for name, _ in store.rows("components")]
        keys = read_key_contents(store, ids, components)
        estimated = estimate_distances(ids, range(len(ids)), keys).to_frame()
        exact = store.connection.execute(
            "select model_a, model_b, component, l2 from component_distance where source = 'exact'"
        ).df()
    both = estimated.merge(exact, on=["model_a", "model_b", "component"], suffixes=("", "_exact"))
    both = both[both["l2_exact"] > 0]
    both["off"] = 100 * (both["l2"] / both["l2_exact"] - 1).abs()
    both["stated"] = 100 * both["l2_error"] / both["l2"]
    rows: list[Row] = []
    for component, group in [*both.groupby("component"), ("all of these", both)]:
        off = group["off"].to_numpy(dtype=np.float64)
        rows.append(
            {
                "what": "accuracy",
                "models": models,
                "component": str(component),
                "pairs": len(off),
                "median off %": float(np.median(off)),
                "95 % of pairs off %": float(np.quantile(off, 0.95)),
                "stated standard error %": float(group["stated"].astype(float).mean()),
                "within 1.5 %": float((off <= 1.5).mean()),
            }
        )
    return rows
