"""Recipes and the family tree of many models, as whole processes on a store of sketches."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.measure import Row, megasim
from megasim.zoo.architectures import sd1_shapes
from megasim.zoo.keys import component_of
from tests.simulated_store import simulate_store

_FAMILY = 100  # models of one base
_MERGES = 0.1  # of the models
_STEP = 0.1  # of a fine-tune, against the weights
_NORM = 0.03  # of an element, as the simulated store says

Sketch = npt.NDArray[np.float32]


@dataclass
class History:
    """Families of fine-tunes of fine-tunes, some of them merged, by the sketch of every layer.

    A sketch is a linear map, so a sketch of a fine-tune is that of its parent and a random step,
    and that of a merge the weighted sum of its parents'.
    """

    count: int
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    names: list[str] = field(default_factory=list)
    parents: list[dict[int, float]] = field(default_factory=list)
    _sketches: dict[str, list[Sketch]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for i in range(self.count):
            family = i // _FAMILY * _FAMILY
            earlier = list(range(family, i))
            if not earlier:
                self.parents.append({})
                kind = "base"
            elif len(earlier) > 10 and self.random.random() < _MERGES:
                a, b = self.random.choice(
                    [p for p in earlier if len(self.parents[p]) < 2], 2, False
                )
                share = float(self.random.uniform(0.2, 0.8))
                self.parents.append({int(a): share, int(b): 1 - share})
                kind = "merge"
            else:
                self.parents.append({int(self.random.choice(earlier[-12:])): 1.0})
                kind = "tune"
            self.names.append(f"{kind}-{i:04}")

    def sketch(self, number: int, key: str, numel: int, length: int) -> Sketch:
        """Return the sketch of one layer of a model; models are asked for in their order."""
        held = self._sketches.setdefault(key, [])
        parents = self.parents[number]
        size = _NORM * np.sqrt(numel / max(length, 1))
        drawn = self.random.standard_normal(length, dtype=np.float32) * np.float32(size)
        if len(parents) > 1:
            drawn = sum((np.float32(w) * held[p] for p, w in parents.items()), 0 * drawn)
        for parent in parents if len(parents) == 1 else ():
            drawn = held[parent] + np.float32(_STEP) * drawn
        held.append(drawn)
        return drawn


def measure_lineage(folder: Path, models: int) -> list[Row]:
    """Return how long recipes and the tree of many models take, and how many are right.

    The models are UNets of SD1 that have sketches and no distances; all is asked with --estimate.
    """
    db = folder / "lineage.duckdb"
    db.unlink(missing_ok=True)
    history = History(models)
    shapes = {k: s for k, s in sd1_shapes().items() if component_of(k) == "unet"}
    start = time.perf_counter()
    simulate_store(
        db, history.names, shapes, compared=False, sketch_size=256, sketch=history.sketch
    )
    made = time.perf_counter() - start
    rows: list[Row] = []

    def add(asked: str, seconds: float, anonymous: int, right: str) -> None:
        rows.append(
            {
                "what": "lineage",
                "models": models,
                "asked": asked,
                "seconds": seconds,
                "MiB": anonymous / 2**20,
                "right": right,
            }
        )

    add("the store, made", made, 0, f"{db.stat().st_size / 1e6:.0f} MB")
    merges = [i for i, parents in enumerate(history.parents) if len(parents) > 1]
    for i in (merges[0], merges[-1], models - 1):
        took = megasim(db, "recipe", history.names[i], "--estimate", "--json")
        found = {str(p["model"]): float(p["weight"]) for p in took.json()["parents"]}
        true = {history.names[p]: w for p, w in history.parents[i].items() if w < 1}
        right = found.keys() == true.keys() and all(abs(found[n] - true[n]) < 0.01 for n in true)
        add(f"recipe {history.names[i]}", took.seconds, took.anonymous, str(right).lower())
    output = folder / "lineage.json"
    took = megasim(db, "lineage", "--estimate", "-o", str(output))
    tree = json.loads(output.read_text())
    drawn = {frozenset((e["parent"], e["child"])) for e in tree["edges"]}
    edges = {
        frozenset((history.names[p], history.names[i]))
        for i, parents in enumerate(history.parents)
        for p in parents
    }
    right_edges = f"{len(drawn & edges)} of {len(edges)} edges"
    add("lineage", took.seconds, took.anonymous, right_edges)
    db.unlink()
    return rows
