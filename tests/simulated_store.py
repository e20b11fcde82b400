"""Stores of many models without any weights: fingerprints and distances drawn at random.

Models are points: a tree of fine-tunes in a few directions, plus a change of their own. Each layer
sees the directions with weights of its own. All of it is written in bulk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from megasim.anatomy.classification import CanonicalTensor, canonical_shape, classify_keys
from megasim.compare.pairs import METRIC_VERSION
from megasim.fingerprint.sketch import sketch_length
from megasim.fingerprint.tensor import FINGERPRINT_VERSION
from megasim.store.batches import pair_table
from megasim.store.model_tables import shape_text
from megasim.store.rows import HeldModel, Model, Store

SHARED = {"text_encoder": 3, "vae_encoder": 2, "vae_decoder": 4, "vae_quant": 4}
Shapes = Mapping[str, tuple[int, ...]]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Sketch = npt.NDArray[np.float32]
_AXES = 8  # directions that the models have in common
_L1 = 0.8  # of a change, against what its L2 gives at most
_AT_ONCE = 1_000_000  # rows of a table


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
    layers: bool = True,
    alike: bool = False,
    shared: Mapping[str, int] = SHARED,
    sketch_size: int = 0,
    sketch: Callable[[int, str, int, int], Sketch] | None = None,
) -> None:
    """Write a store of models of one architecture.

    Args:
        names: what the models are called; those that start with "run-" are a chain of epochs.
        shapes: key → shape of all of them.
        compared: whether the distances are there too.
        layers: whether those of layers are among them; else only their sums are, as a thousand
            models have half a billion distances of layers.
        alike: whether all models hold the same weights.
        shared: component → how many versions of it there are among all models; of the other
            components every model has its own.
        sketch_size: numbers a sketch, drawn at random; none when 0.
        sketch: gives them instead, for the number of a model, a canonical key, how many elements
            the tensor has and how many numbers its sketch; models are asked for in their order.
    """
    random = np.random.default_rng(seed)
    anatomy = classify_keys(shapes)
    places, own = _points(names, random)
    parts = _part_frame(anatomy.parts, shapes)
    if sketch is None:
        sketch = partial(_any_sketch, random)
    first = _first_holders(parts["component"].unique(), len(names), shared, alike, random)
    # (models, parts): the first model that holds the same, and the content by its id
    holder = np.stack([first[component] for component in parts["component"]], axis=1)
    is_new = holder == np.arange(len(names))[:, np.newaxis]
    ids = np.cumsum(is_new).reshape(is_new.shape)
    ids = np.take_along_axis(ids, holder, axis=0)
    weights = _weights(parts, random)

    with Store(path, "write") as store:
        for name in names:
            model = Model(
                name,
                format="safetensors",
                family=anatomy.family,
                fingerprint_version=FINGERPRINT_VERSION,
                sketch_size=sketch_size or None,
            )
            store.save_model(HeldModel(model))
        with store.transaction():
            for number in range(len(names)):
                new = is_new[number]
                tensors = _tensor_frame(parts[new], ids[number, new], number, sketch_size, sketch)
                tensors["version"] = FINGERPRINT_VERSION
                store.write("add_tensors", tables={"batch": tensors})
                held = parts.assign(model_id=number + 1, tensor_id=ids[number], transposed=False)
                held["nature"] = "weight"
                held["representation"] = "plain"
                store.write("add_model_tensors", tables={"batch": held})
        if not compared:
            return
        with store.transaction():
            pairs = np.stack(np.triu_indices(len(names), 1), axis=1) + 1
            batch = {"batch": pair_table(map(tuple, pairs.tolist()))}
            store.write("add_pairs", tables=batch)
            store.write("finish_pairs", tables=batch, linf=False, cossim=False)
            for component, where in parts.groupby("component").indices.items():
                moves = _Moves(places, own, first[str(component)], weights[where])
                numels = parts["numel"].to_numpy()[where]
                if layers:
                    _add_layers(store, moves, ids[:, where], numels)
                _add_components(store, moves, str(component), numels)


def _points(names: Sequence[str], random: np.random.Generator) -> tuple[Floats, Floats]:
    """Return places, (N, 8): a random walk over a tree; and the square of each one's own change."""
    count = len(names)
    places = np.zeros((count, _AXES))
    for i in range(1, count):
        on = names[i].startswith("run-") and names[i - 1].startswith("run-")
        parent = i - 1 if on else int(random.integers(max(i - 12, 0), i))
        places[i] = places[parent] + random.normal(size=_AXES) * 0.5 + (0.8 if on else 0)
    own = np.full(count, 0.6**2)
    own[:1] = 0
    return places, own


def _part_frame(parts: Sequence[CanonicalTensor], shapes: Shapes) -> pd.DataFrame:
    """Return a row per part, as `model_tensor` names it, and its number of elements."""
    own = [shapes[part.sources[0]] for part in parts]
    return pd.DataFrame(
        {
            "key": [" + ".join(part.sources) for part in parts],
            "sources": [list(part.sources) for part in parts],
            "canonical_key": [part.canonical_key for part in parts],
            "canonical_shape": [shape_text(canonical_shape(shape)) for shape in own],
            "shape": [shape_text(shape) for shape in own],
            "component": [part.component for part in parts],
            "block": [part.block for part in parts],
            "role": [part.role for part in parts],
            "numel": [math.prod(shape) for shape in own],
        }
    )


def _first_holders(
    components: Sequence[str],
    count: int,
    shared: Mapping[str, int],
    alike: bool,
    random: np.random.Generator,
) -> dict[str, Integers]:
    """Return for each component and model the first model that holds the same of it."""
    held = {component: np.arange(count) for component in components}
    for component, versions in shared.items():
        held[component] = np.minimum(random.geometric(0.5, count) - 1, versions - 1)
    found = {}
    for component, versions in held.items():
        _, index, inverse = np.unique(
            versions * (not alike), return_index=True, return_inverse=True
        )
        found[component] = index[inverse]
    return found


def _weights(parts: pd.DataFrame, random: np.random.Generator) -> Floats:
    """Return how much of a squared distance in each axis, and of an own change, a part sees."""
    digests = [blake2b(key.encode()).hexdigest()[:4] for key in parts["canonical_key"]]
    scale = np.array([1e-3 * (1 + int(digest, 16) % 7) for digest in digests])
    seen = random.gamma(4, 1 / 4, size=(len(parts), _AXES + 1))
    return np.asarray(seen * (scale**2 * parts["numel"].to_numpy())[:, np.newaxis])


def _tensor_frame(
    parts: pd.DataFrame,
    ids: Integers,
    version: int,
    sketch_size: int,
    sketch: Callable[[int, str, int, int], Sketch],
) -> pd.DataFrame:
    digests = [
        blake2b(f"{key} {version}".encode(), digest_size=32).hexdigest()
        for key in parts["canonical_key"]
    ]
    numel = parts["numel"].to_numpy()
    lengths = [sketch_length(n, sketch_size) if sketch_size else 0 for n in numel.tolist()]
    short = [digest[:32] for digest in digests]
    return pd.DataFrame(
        {
            "id": ids,
            "content_hash": digests,
            "value_hash": short,
            "fp16_hash": short,
            "bf16_hash": short,
            "dtype": "float16",
            "numel": numel,
            "l1": 0.02 * numel,
            "l2": 0.03 * np.sqrt(numel),
            "linf": 0.2,
            "mean": 0.0,
            "std": 0.03,
            "kurtosis": 0.5,
            "zeros": 0,
            "nans": 0,
            "infs": 0,
            "is_constant": False,
            "sketch": [
                sketch(version, key, size, length)
                for key, size, length in zip(
                    parts["canonical_key"], numel.tolist(), lengths, strict=True
                )
            ],
        }
    )


def _any_sketch(
    random: np.random.Generator, number: int, key: str, numel: int, length: int
) -> Sketch:
    if key.endswith("position_ids"):
        return np.arange(length, dtype=np.float32)
    return random.standard_normal(length, dtype=np.float32)


@dataclass(frozen=True)
class _Moves:
    """How far the models are from each other in the parts of a component.

    Attributes:
        places, own: as `_points` gives them.
        first: for each model the first that holds the same.
        weights: (parts, axes + 1), as `_weights` gives them.
    """

    places: Floats
    own: Floats
    first: Integers
    weights: Floats

    def l2(self, i: Integers, j: Integers) -> Floats:
        """Return (pairs, parts) of L2 distances."""
        a, b = self.first[i], self.first[j]
        along = np.square(self.places[a] - self.places[b])
        apart = np.where(a == b, 0, self.own[a] + self.own[b])
        return np.sqrt(np.column_stack([along, apart]) @ self.weights.T)


def _add_layers(store: Store, moves: _Moves, ids: Integers, numels: Integers) -> None:
    """Save the distances of all contents, some parts at a time, as a comparison does."""
    holders = np.unique(moves.first)
    i, j = (holders[ends] for ends in np.triu_indices(len(holders), 1))
    step = max(_AT_ONCE // max(len(i), 1), 1)
    for start in range(0, len(numels), step):
        now = slice(start, start + step)
        l2 = replace(moves, weights=moves.weights[now]).l2(i, j)
        ends = np.sort(np.stack([ids[i, now], ids[j, now]]), axis=0)
        batch = pd.DataFrame(
            {
                "tensor_a": ends[0].ravel(),
                "tensor_b": ends[1].ravel(),
                "l0": np.broadcast_to(numels[now], l2.shape).ravel(),
                "l1": (l2 * np.sqrt(numels[now]) * _L1).ravel(),
                "l2": l2.ravel(),
            }
        )
        store.write("add_distances", tables={"batch": batch})


def _add_components(store: Store, moves: _Moves, component: str, numels: Integers) -> None:
    """Save what the parts of a component sum up to, pair by pair."""
    ends = np.triu_indices(len(moves.first), 1)
    step = _AT_ONCE * 10 // len(numels)
    for start in range(0, len(ends[0]), step):
        i, j = (end[start : start + step] for end in ends)
        l2 = moves.l2(i, j)
        changed = (moves.first[i] != moves.first[j]).astype(np.int64)
        batch = pd.DataFrame(
            {
                "model_a": i + 1,
                "model_b": j + 1,
                "component": component,
                "source": "exact",
                "unproven": False,
                "keys_compared": len(numels),
                "keys_measured": len(numels),
                "identical": (1 - changed) * len(numels),
                **dict.fromkeys(("same_values", "same_at_fp16", "same_at_bf16"), 0),
                "changed": changed * len(numels),
                **dict.fromkeys(("renamed", "missing_a", "missing_b"), 0),
                **dict.fromkeys(("shape_mismatch", "non_finite"), 0),
                "l0": changed * int(numels.sum()),
                "l1": l2 @ (np.sqrt(numels) * _L1),
                "l2": np.sqrt(np.square(l2).sum(axis=1)),
                "l2_error": 0.0,
                "coverage": 1.0,
                "version": METRIC_VERSION,
            }
        )
        store.connection.register("batch", batch)
        store.connection.execute("insert into component_distance by name from batch")
        store.connection.unregister("batch")
