"""The models of a store that an adapter may be for, and where its change is seen in their sketches.

A sketch is linear: the sketch of M − B is that of M less that of B. So how far an adapter's change
points the way from one known model to another follows from the store alone, with no weight read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from megasim.answers.adapter_files import AdapterFile
from megasim.answers.adapter_places import (
    AdapterFit,
    ModelWeights,
    Placed,
    fit_of,
    weights_in_store,
)
from megasim.checkpoint.opening import TensorReader, TensorRef
from megasim.errors import CheckpointError, printable
from megasim.fingerprint.sketch import DEFAULT_SIZE
from megasim.fingerprint.tensor import COMPARABLE_VERSIONS, fingerprint_refs
from megasim.progress import NO_PROGRESS, Progress
from megasim.representation.adapter_changes import Change
from megasim.store.rows import Model, Store
from megasim.words import PartRole

Doubles = npt.NDArray[np.float64]

# Models whose pairs are looked at; more would be some hundred thousand pairs.
_MOST_MODELS = 300
# A pair is named where the cosine is so many standard errors from 0, and as large as this.
_ERRORS, _LEAST_COSINE = 8, 0.25
_MOST_SEEN = 5
# Of a layer whose change is written out, for its sketch.
_LARGEST_SKETCHED = 1 << 26


@dataclass(frozen=True)
class SeenIn:
    """An adapter's change in the sketches of two known models.

    Attributes:
        strength, error: of it in model − base, estimated.
        cosine: between it and model − base, with its standard error `cosine_error`.
    """

    model: str
    base: str
    strength: float
    error: float
    cosine: float
    cosine_error: float

    def sentence(self) -> str:
        """Return it as a sentence."""
        return (
            f"seen between {printable(self.base, 80)} and {printable(self.model, 80)}: strength "
            f"about {self.strength:.2f} ± {max(self.error, 0.01):.2f}, cosine "
            f"{self.cosine:.2f} ± {self.cosine_error:.2f}, estimated from the sketches; "
            "--model measures it"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and strings."""
        return dict(vars(self))


class AdapterTargets:
    """The models of a store with weights of their own, as adapters are looked for in them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @cached_property
    def models(self) -> list[Model]:
        """Those with fingerprints that are no adapters, in the order they came."""
        return [
            model
            for model in self._store.models()
            if model.part_role in (PartRole.WEIGHTS, PartRole.EMA)
            and model.fingerprint_version in COMPARABLE_VERSIONS
        ]

    @cached_property
    def weights(self) -> dict[str, ModelWeights]:
        """Their weights by canonical key, without values."""
        return {
            m.name: weights_in_store(self._store, m.id, m.name, m.family or "generic")
            for m in self.models
        }

    def fits_of(self, adapter: AdapterFile) -> tuple[AdapterFit, ...]:
        """Return how an adapter goes with each model that has most of its layers."""
        fits = [fit_of(adapter, weights) for weights in self.weights.values()]
        most = [f for f in fits if 2 * f.layers > len(adapter.layers)]
        return tuple(sorted(most, key=lambda fit: -fit.layers))

    def best_base(self, adapter: AdapterFile, model: str) -> str | None:
        """Return the known model that, with the adapter added, comes nearest to another one.

        None where `model` is not known, or no other of its architecture is.
        """
        if model not in self.weights:
            return None
        fits = [f for f in self.fits_of(adapter) if f.placed]
        mine = next((f for f in fits if f.model == model), None)
        others = [f for f in fits if f.model != model]
        if mine is None or not others:
            return None
        places, sketches, change = self.sketched(adapter, [mine, *others])
        if not places:
            return None
        left = []
        for i in range(1, len(sketches)):
            step = sketches[0] - sketches[i]
            size = float(change @ change)
            strength = float(step @ change) / size if size else 0.0
            rest = step - strength * change
            left.append((float(rest @ rest), -strength, others[i - 1].model))
        return min(left)[2]

    def sketched(
        self, adapter: AdapterFile, fits: Sequence[AdapterFit], progress: Progress = NO_PROGRESS
    ) -> tuple[list[Placed], list[Doubles], Doubles]:
        """Return layers that all models hold in one way, the sketches of each, and the change's.

        The sketches of all layers stand one after another, in float64.
        """
        by_key: list[dict[str, Placed]] = []
        for fit in fits:
            counts: dict[str, list[Placed]] = {}
            for placed in fit.placed:
                counts.setdefault(placed.weight.key, []).append(placed)
            by_key.append({k: v[0] for k, v in counts.items() if len(v) == 1 and _is_plain(v[0])})
        shared = [
            key
            for key, placed in by_key[0].items()
            if all(key in d and d[key].weight.matrix == placed.weight.matrix for d in by_key)
        ]
        size = next((m.sketch_size for m in self.models if m.sketch_size), DEFAULT_SIZE)
        changes: dict[str, Doubles] = {}
        progress.start("Sketching the adapter", len(shared), "layers")
        try:
            with TensorReader() as reader:
                for key in shared:
                    sketch = _sketch(adapter, by_key[0][key], reader, size)
                    if sketch is not None:
                        changes[key] = sketch
                    progress.advance(1)
        finally:
            progress.finish()
        tables = {"keys": {"canonical_key": list(changes), "place": list(range(len(changes)))}}
        ids = {model.name: model.id for model in self.models}
        held: list[Mapping[int, Any]] = []
        for fit in fits:
            rows = self._store.rows("sketches_of_keys", tables=tables, id=ids[fit.model])
            held.append(dict(rows))
        keys = list(changes)
        usable = [
            i
            for i, key in enumerate(keys)
            if all(h.get(i) is not None and len(h[i]) == len(changes[key]) for h in held)
        ]
        placed_ones = [by_key[0][keys[i]] for i in usable]
        if not usable:
            return [], [], np.zeros(0)
        sketches = [np.concatenate([np.asarray(h[i], np.float64) for i in usable]) for h in held]
        return placed_ones, sketches, np.concatenate([changes[keys[i]] for i in usable])


def seen_in(
    known: AdapterTargets,
    adapter: AdapterFile,
    fits: Sequence[AdapterFit],
    *,
    progress: Progress = NO_PROGRESS,
) -> tuple[SeenIn, ...]:
    """Return the pairs of known models between which an adapter's change is seen, clearest first.

    Of each model only the base that leaves the least unexplained is named.
    """
    whole = [fit for fit in fits if fit.is_whole][:_MOST_MODELS]
    if len(whole) < 2:
        return ()
    places, sketches, change = known.sketched(adapter, whole, progress)
    size = float(change @ change)
    if not places or not size:
        return ()
    products = np.array([sketch @ change for sketch in sketches])
    error = 1 / math.sqrt(len(change))
    found: list[SeenIn] = []
    for i, fit in enumerate(whole):
        best: tuple[float, SeenIn] | None = None
        for j, other in enumerate(whole):
            step = sketches[i] - sketches[j]
            squared = float(step @ step)
            product = float(products[i] - products[j])
            if i == j or product <= 0 or not squared:
                continue
            cosine = product / math.sqrt(squared * size)
            left = squared - product**2 / size
            if cosine < max(_LEAST_COSINE, _ERRORS * error) or (best and best[0] <= left):
                continue
            spread = math.sqrt(max(left, 0.0) / size / len(change))
            seen = SeenIn(fit.model, other.model, product / size, spread, cosine, error)
            best = left, seen
        if best is not None:
            found.append(best[1])
    return tuple(sorted(found, key=lambda s: -s.cosine)[:_MOST_SEEN])


def _is_plain(placed: Placed) -> bool:
    """Whether a change is that of a whole weight, and does not depend on it."""
    rows, columns = placed.weight.matrix
    is_whole = placed.first_row == 0 and placed.touched.place.place.of == 1
    return is_whole and not placed.touched.layer.needs_base and rows * columns <= _LARGEST_SKETCHED


def _sketch(
    adapter: AdapterFile, placed: Placed, reader: TensorReader, size: int
) -> Doubles | None:
    """Return the sketch of a change, as the store has those of weights."""
    try:
        change: Change | None = adapter.load(reader, placed.touched).change
    except CheckpointError as error:
        if not error.key:
            raise
        return None
    assert change is not None
    change = placed.on_weight(change)
    values = change.block(0, change.rows).astype(np.float32)
    ref = TensorRef(placed.weight.key, "float32", placed.weight.shape, "", 0, data=values.tobytes())
    (found,) = fingerprint_refs([ref], size)
    return np.asarray(found.sketch, np.float64)
