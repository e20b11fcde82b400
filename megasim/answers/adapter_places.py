"""The layers of an adapter among the weights of a model: which it is for, by names and shapes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from megasim.anatomy.adapter_names import flat_name
from megasim.anatomy.classification import classify_keys
from megasim.answers.adapter_files import AdapterFile, TouchedLayer
from megasim.checkpoint.opening import Checkpoint, TensorRef
from megasim.ingest.reading import assemble_ref
from megasim.representation.adapter_algebra import rows_of_change, transposed, with_swapped_halves
from megasim.representation.adapter_changes import Change
from megasim.representation.single_projections import FUSED_PROJECTIONS
from megasim.store.rows import Store

Shape = tuple[int, ...]

# What stands before the names of layers, once dots are `_`, in one file and not in another.
_PREFIXES = (
    *("model_diffusion_model_", "diffusion_model_", "unet_", "transformer_", "model_"),
    *("text_encoder_2_", "text_encoder_3_", "text_encoder_", "lora_unet_", "lycoris_", "lora_"),
)


@dataclass(frozen=True)
class Weight:
    """A weight of a model, by its canonical key; the tensor itself where the file is open."""

    key: str
    sources: tuple[str, ...]
    shape: Shape
    component: str
    block: str | None
    role: str | None
    ref: TensorRef | None = None

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows, and all other dimensions as columns."""
        rows = self.shape[0] if self.shape else 1
        return rows, math.prod(self.shape[1:])

    @property
    def block_name(self) -> str:
        """The block that people merge by; of an unknown family, the name with the first number."""
        if self.block:
            return self.block
        names = self.key.split(".")
        numbered = next((i for i, name in enumerate(names) if name.isdecimal() and i), None)
        return self.component if numbered is None else ".".join(names[: numbered + 1])


@dataclass(frozen=True)
class ModelWeights:
    """The weights of a model by canonical key."""

    name: str
    family: str
    weights: Mapping[str, Weight]

    @cached_property
    def by_flat_name(self) -> dict[str, Weight | None]:
        """Names with `_` for dots, with and without what stands before; None: several."""
        found: dict[str, Weight | None] = {}
        for weight in self.weights.values():
            for name in {n for key in (weight.key, *weight.sources) for n in _flat_names(key)}:
                known = found.setdefault(name, weight)
                if known is not weight:
                    found[name] = None
        return found


def bare_name(key: str) -> str:
    """Return the key of a weight with `_` for dots, and without what stands before the layer.

    >>> bare_name("model.diffusion_model.layers.0.attention.to_q.weight")
    'layers_0_attention_to_q'
    """
    *_, name = _flat_names(key)
    return name


def _flat_names(key: str) -> Iterator[str]:
    name = flat_name(key)
    yield name
    while (prefix := next((p for p in _PREFIXES if name.startswith(p)), None)) is not None:
        name = name.removeprefix(prefix)
        if name:
            yield name


@dataclass(frozen=True)
class Placed:
    """A layer of an adapter on a weight of a model: its rows from `first_row` on.

    Attributes:
        is_transposed: the weight is stored as (in, out), so it takes the transpose of the change.
        rows: of the change that the weight takes, from and to; None: all of them.
        is_swapped: the weight has the halves of its rows the other way round.
    """

    touched: TouchedLayer
    weight: Weight
    first_row: int = 0
    is_transposed: bool = False
    rows: tuple[int, int] | None = None
    is_swapped: bool = False

    def on_weight(self, change: Change) -> Change:
        """Return the change of the layer as the weight takes it."""
        if self.rows is not None:
            change = rows_of_change(change, *self.rows)
        if self.is_swapped:
            change = with_swapped_halves(change)
        return transposed(change) if self.is_transposed else change


@dataclass(frozen=True)
class AdapterFit:
    """How the layers of an adapter go with one model.

    Attributes:
        placed: those that it has, in fitting shapes.
        missing: those that it has no weight for. mismatched: those of another shape.
    """

    model: str
    family: str
    placed: tuple[Placed, ...]
    missing: tuple[str, ...]
    mismatched: tuple[str, ...]

    @property
    def layers(self) -> int:
        """How many layers of the adapter are placed; one may be on several weights."""
        return len({placed.touched.module for placed in self.placed})

    @property
    def is_whole(self) -> bool:
        """Whether every layer of the adapter has its weight."""
        return bool(self.placed) and not self.missing and not self.mismatched


def weights_in_store(store: Store, model_id: int, name: str, family: str) -> ModelWeights:
    """Return the weights of a model of the store, without their values."""
    weights = {}
    for key, sources, shape, component, block, role in store.rows("weights_of", id=model_id):
        weights[key] = Weight(key, tuple(sources), tuple(shape), component, block, role)
    return ModelWeights(name, family, weights)


def weights_in_file(checkpoint: Checkpoint, name: str) -> ModelWeights:
    """Return the weights of the model of a file, without reading them."""
    tensors = checkpoint.tensors
    anatomy = classify_keys({key: ref.shape for key, ref in tensors.items()})
    weights = {}
    for part in anatomy.parts:
        if len({tensors[key].dtype for key in part.sources}) > 1:
            continue  # parts of one weight in several dtypes: each stands for itself
        ref = assemble_ref(tensors, part.sources, part.transposed)
        weights[part.canonical_key] = Weight(
            part.canonical_key, part.sources, ref.shape, part.component, part.block, part.role, ref
        )
    return ModelWeights(name, anatomy.family, weights)


def fit_of(adapter: AdapterFile, model: ModelWeights) -> AdapterFit:
    """Return which weight of a model each layer of an adapter is."""
    found: list[Placed] = []
    missing: list[str] = []
    wrong: list[str] = []
    turned = adapter.settings.is_transposed
    pairs: list[tuple[TouchedLayer, Weight | None]] = []
    for touched in adapter.layers:
        weight = _weight(touched, model)
        projections = [] if weight is not None else _on_projections(touched, model)
        found += projections
        if not projections:
            pairs.append((touched, weight))
    # GPT-2's layers are all stored as (in, out); where one shows it, it holds of the square ones
    turned = turned or any(_only_turned(t, w) for t, w in pairs if w is not None)
    for touched, weight in pairs:
        if weight is None:
            missing.append(touched.module)
            continue
        placed = _placed(touched, weight, turned)
        if placed is None:
            wrong.append(touched.module)
        else:
            found.append(placed)
    return AdapterFit(model.name, model.family, tuple(found), tuple(missing), tuple(wrong))


def _weight(touched: TouchedLayer, model: ModelWeights) -> Weight | None:
    place = touched.place.place
    for key in (place.canonical_key, touched.place.key):
        if key in model.weights:
            return model.weights[key]
    for name in (*_flat_names(touched.place.key), *_flat_names(touched.module)):
        if (found := model.by_flat_name.get(name)) is not None:
            return found
    return None


def _on_projections(touched: TouchedLayer, model: ModelWeights) -> list[Placed]:
    """Return where a layer of several projections stands in a model that has one weight for each.

    Nothing where it is no such layer, its rows are not theirs, or its change depends on the whole.
    """
    stem, _, last = touched.place.key.removesuffix(".weight").rpartition(".")
    weights = [
        weight
        for name in FUSED_PROJECTIONS.get(last, ())
        if (weight := model.weights.get(f"{stem}.{name}.weight")) is not None
    ]
    heights = [weight.matrix[0] for weight in weights]
    columns = {weight.matrix[1] for weight in weights}
    if touched.layer.needs_base or touched.shape != (sum(heights), *columns):
        return []
    ends = list(itertools.accumulate(heights))
    return [
        Placed(touched, weight, rows=(end - height, end))
        for weight, height, end in zip(weights, heights, ends, strict=True)
    ]


def _only_turned(touched: TouchedLayer, weight: Weight) -> bool:
    """Whether the change of a matrix fits its weight only as its transpose."""
    shape, stored = touched.shape, weight.shape
    is_matrix = len(shape) == 2 and len(stored) == 2 and "embedding_up" not in touched.layer.factors
    return is_matrix and shape != stored and shape == stored[::-1]


def _placed(touched: TouchedLayer, weight: Weight, turned: bool) -> Placed | None:
    rows, columns = weight.matrix
    shape, place = touched.shape, touched.place.place
    if not shape:
        return None
    is_turned = place.transposed or (
        turned and len(shape) == 2 and "embedding_up" not in touched.layer.factors
    )
    if is_turned:
        fits = len(shape) == 2 and (shape[1], shape[0]) == (rows, columns)
        return Placed(touched, weight, 0, True) if fits else None
    is_rotation = "oft_blocks" in touched.layer.factors
    if not is_rotation and math.prod(shape[1:]) != columns:
        return None
    if place.of == 1 or shape[0] == rows:
        fits = shape[0] == rows and not (place.swapped and touched.layer.needs_base)
        return Placed(touched, weight, is_swapped=place.swapped) if fits else None
    # parts of one height stand one after another; a last one may be of another height
    first = rows - shape[0] if place.part == place.of else (place.part - 1) * shape[0]
    return Placed(touched, weight, first) if 0 <= first <= rows - shape[0] else None
