"""Stores of many models without any weights: fingerprints and distances drawn at random.

Models are points: a tree of fine-tunes in a few directions, plus a change of their own. The
distance of two models in a layer is that of their points, times the root of the layer's size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from megasim.anatomy import Part, canonical_shape, classify_keys
from megasim.fingerprint import Fingerprint
from megasim.store import Model, ModelTensor, Store, pair_frame

SHARED = {"text_encoder": 3, "vae_encoder": 2, "vae_decoder": 4, "vae_quant": 4}
Shapes = Mapping[str, tuple[int, ...]]


def model_names(count: int) -> list[str]:
    """Return names like those people give: families of mixes, one series of epochs."""
    families = ("base", "anime_mix", "photo-real_v", "dreamy", "Merge of many", "kohaku.beta")
    names = [f"run-e{10 * i:03}" for i in range(1, min(7, max(count // 3, 1)))]
    return [f"{families[i % 6]}{i // 6:02}" for i in range(count - len(names))] + names


def simulate_store(
    path: Path,
    names: Sequence[str],
    shapes: Shapes,
    *,
    seed: int = 0,
    compared: bool = True,
    alike: bool = False,
) -> None:
    """Write a store of models of one architecture.

    Args:
        names: what the models are called; those that start with "run-" are a chain of epochs.
        shapes: key → shape of all of them.
        compared: whether the distances are there too.
        alike: whether all models hold the same weights.
    """
    random = np.random.default_rng(seed)
    anatomy = classify_keys(shapes)
    parts = anatomy.parts
    points = _points(names, random)
    held = {
        component: [int(i) for i in np.minimum(random.geometric(0.5, len(names)) - 1, count - 1)]
        for component, count in SHARED.items()
    }

    def content(part: Part, model: int) -> str:
        of = 0 if alike else held.get(part.component, range(len(names)))[model]
        return f"{part.canonical_key} {of}"

    with Store(path, "write") as store:
        for number, name in enumerate(names):
            tensors = [
                _tensor(part, shapes[part.sources[0]], content(part, number)) for part in parts
            ]
            store.save_model(Model(name, format="safetensors", family=anatomy.family), tensors)
        if compared:
            if alike:
                held = {part.component: [0] * len(names) for part in parts}
            _compare(store, parts, shapes, points, held)


def _points(names: Sequence[str], random: np.random.Generator) -> np.ndarray:
    """Return (N, N + 8) coordinates: a random walk over a tree, the rest each model's own."""
    count = len(names)
    points = np.zeros((count, count + 8))
    parent = 0
    for i in range(1, count):
        on = names[i].startswith("run-") and names[i - 1].startswith("run-")
        parent = i - 1 if on else int(random.integers(max(i - 12, 0), i))
        points[i, :8] = points[parent, :8] + random.normal(size=8) * 0.5 + (0.8 if on else 0)
        points[i, 8 + i] = 0.6
    return points


def _tensor(part: Part, shape: tuple[int, ...], content: str) -> ModelTensor:
    digest = blake2b(content.encode(), digest_size=32).hexdigest()
    numel = math.prod(shape)
    return ModelTensor(
        sources=part.sources,
        transposed=False,
        canonical_key=part.canonical_key,
        canonical_shape=canonical_shape(shape),
        shape=shape,
        component=part.component,
        block=part.block,
        role=part.role,
        fingerprint=Fingerprint(
            content_hash=digest,
            value_hash=digest[:32],
            fp16_hash=digest[:32],
            bf16_hash=digest[:32],
            dtype="float16",
            numel=numel,
            l1=0.02 * numel,
            l2=0.03 * math.sqrt(numel),
            linf=0.2,
            mean=0.0,
            std=0.03,
            kurtosis=0.5,
            zeros=0,
            nans=0,
            infs=0,
            is_constant=False,
            sketch=np.zeros(0, dtype=np.float32),
        ),
    )


def _compare(
    store: Store,
    parts: Sequence[Part],
    shapes: Shapes,
    points: np.ndarray,
    held: Mapping[str, Sequence[int]],
) -> None:
    pairs = list(combinations(range(len(points)), 2))
    i, j = np.array(pairs).reshape(-1, 2).T
    apart = np.sqrt(np.square(points[i] - points[j]).sum(axis=1))
    ids = {h: int(t) for h, t in store.connection.execute(
        "select content_hash, id from tensor").fetchall()}  # fmt: skip
    batches = []
    for part in parts:
        numel = math.prod(shapes[part.sources[0]])
        of = np.array(held.get(part.component, range(len(points))))
        a, b = of[i], of[j]
        first = {  # one distance for two contents, whoever holds them
            (min(x, y), max(x, y)): d
            for x, y, d in reversed(list(zip(a.tolist(), b.tolist(), apart.tolist(), strict=True)))
            if x != y
        }
        tensor = {
            x: ids[blake2b(f"{part.canonical_key} {x}".encode(), digest_size=32).hexdigest()]
            for x in set(of.tolist())
        }
        # each layer moves by its own share
        scale = 1e-3 * (1 + int(blake2b(part.canonical_key.encode()).hexdigest()[:4], 16) % 7)
        l2 = np.array(list(first.values())) * scale * math.sqrt(numel)
        ends = np.array([[tensor[x], tensor[y]] for x, y in first], dtype=np.int64).reshape(-1, 2)
        batches.append((ends.min(axis=1), ends.max(axis=1), np.full(len(l2), numel), l2))
    a, b, numels, l2 = (np.concatenate(column) for column in zip(*batches, strict=True))
    l1 = l2 * np.sqrt(numels) * 0.8
    batch = pd.DataFrame({"tensor_a": a, "tensor_b": b, "l0": numels, "l1": l1, "l2": l2})
    store.rows("add_distances", tables={"batch": batch}, metric_version=1)
    model_ids = list(store.model_ids().values())
    for start in range(0, len(pairs), 512):
        chosen = [(model_ids[x], model_ids[y]) for x, y in pairs[start : start + 512]]
        tables = {"batch": pair_frame(chosen)}
        with store.transaction():
            store.rows("add_pairs", tables=tables)
            store.rows("finish_pairs", tables=tables, linf=False, cossim=False)
            store.rows("add_exact_components", tables=tables)
