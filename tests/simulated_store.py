"""Stores of many models without any weights: fingerprints and distances drawn at random.

Models are points: a tree of fine-tunes in a few directions, plus a change of their own. The
distance of two models in a layer is that of their points, times the root of the layer's size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from megasim.anatomy.classification import Part, canonical_shape, classify_keys
from megasim.compare import METRIC_VERSION, sum_up_pairs
from megasim.fingerprint import FINGERPRINT_VERSION, Fingerprint
from megasim.sketch import sketch_length
from megasim.store import Model, ModelTensor, Store, pair_table

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
    shared: Mapping[str, int] = SHARED,
    sketch_size: int = 0,
) -> None:
    """Write a store of models of one architecture.

    Args:
        names: what the models are called; those that start with "run-" are a chain of epochs.
        shapes: key → shape of all of them.
        compared: whether the distances are there too.
        alike: whether all models hold the same weights.
        shared: component → how many versions of it there are among all models; of the other
            components every model has its own.
        sketch_size: numbers a sketch, drawn at random; none when 0.
    """
    random = np.random.default_rng(seed)
    anatomy = classify_keys(shapes)
    parts = anatomy.parts
    points = _points(names, random)
    count = len(names)
    held = {part.component: np.arange(count) for part in parts}
    for component, versions in shared.items():
        held[component] = np.minimum(random.geometric(0.5, count) - 1, versions - 1)
    if alike:
        held = {component: np.zeros(count, dtype=np.int64) for component in held}

    with Store(path, "write") as store:
        for number, name in enumerate(names):
            tensors = []
            for part in parts:
                digest = _content_hash(part, int(held[part.component][number]))
                shape = shapes[part.sources[0]]
                length = sketch_length(math.prod(shape), sketch_size) if sketch_size else 0
                sketch = random.standard_normal(length, dtype=np.float32)
                tensors.append(_tensor(part, shape, digest, sketch))
            store.save_model(
                Model(
                    name,
                    format="safetensors",
                    family=anatomy.family,
                    fingerprint_version=FINGERPRINT_VERSION,
                    sketch_size=sketch_size or None,
                ),
                tensors,
            )
        if compared:
            _compare(store, parts, shapes, points, held)


def _content_hash(part: Part, version: int) -> str:
    return blake2b(f"{part.canonical_key} {version}".encode(), digest_size=32).hexdigest()


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


def _tensor(
    part: Part, shape: tuple[int, ...], digest: str, sketch: npt.NDArray[np.float32]
) -> ModelTensor:
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
            sketch=sketch,
        ),
    )


def _compare(
    store: Store,
    parts: Sequence[Part],
    shapes: Shapes,
    points: np.ndarray,
    held: Mapping[str, np.ndarray],
) -> None:
    count = len(points)
    i, j = np.triu_indices(count, 1)
    apart = np.sqrt(np.square(points[i] - points[j]).sum(axis=1))
    known = store.connection.execute("select content_hash, id from tensor").fetchall()
    ids = dict(known)
    rows: list[pd.DataFrame] = []
    for part in parts:
        versions = held[part.component]
        tensor = np.zeros(int(versions.max()) + 1, dtype=np.int64)
        for version in np.unique(versions).tolist():
            tensor[version] = ids[_content_hash(part, version)]
        ends = np.sort(np.stack([versions[i], versions[j]]), axis=0)
        # one distance for two contents, whoever holds them
        _, first = np.unique(ends[0] * count + ends[1], return_index=True)
        first = first[ends[0, first] != ends[1, first]]
        contents = np.sort(tensor[ends[:, first]], axis=0)
        numel = math.prod(shapes[part.sources[0]])
        # each layer moves by its own share
        scale = 1e-3 * (1 + int(blake2b(part.canonical_key.encode()).hexdigest()[:4], 16) % 7)
        l2 = apart[first] * scale * math.sqrt(numel)
        columns = {"tensor_a": contents[0], "tensor_b": contents[1], "l0": numel}
        rows.append(pd.DataFrame({**columns, "l1": l2 * math.sqrt(numel) * 0.8, "l2": l2}))
        if sum(map(len, rows)) > 1_000_000:
            _add_distances(store, rows)
    _add_distances(store, rows)
    model_ids = np.array(list(store.model_ids().values()))
    pairs = np.stack([model_ids[i], model_ids[j]], axis=1)
    store.rows("add_pairs", tables={"batch": pair_table(map(tuple, pairs.tolist()))})
    sum_up_pairs(store, [(int(a), int(b)) for a, b in pairs])


def _add_distances(store: Store, rows: list[pd.DataFrame]) -> None:
    if rows:
        batch = pd.concat(rows, ignore_index=True)
        store.rows("add_distances", tables={"batch": batch}, metric_version=METRIC_VERSION)
        rows.clear()
