"""An adapter out of its file: the layers that it changes, its settings, what it says of itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from megasim.anatomy.adapter_names import ChangedLayer, changed_layers
from megasim.checkpoint.adapter_keys import AdapterKind, AdapterLayer, adapter_keys, is_adapter
from megasim.checkpoint.adapter_shapes import changed_shape
from megasim.checkpoint.opening import JSON, Checkpoint, TensorReader, TensorRef
from megasim.checkpoint.strict_json import parse_json
from megasim.errors import CheckpointError, printable
from megasim.kernels.elements import to_double
from megasim.representation.adapter_changes import BadFactors
from megasim.representation.adapter_factors import LayerChange, layer_change
from megasim.representation.opening import open_model
from megasim.words import PartRole

Shape = tuple[int, ...]

# What files say of the model that they were trained on, by the name of their metadata.
_SAID: Final = (
    *("ss_base_model_version", "ss_sd_model_name", "modelspec.architecture", "modelspec.title"),
    *("ss_output_name", "ss_network_module", "base_model_name_or_path", "peft_type"),
)
# A factor of more elements is refused: it would be a weight, not a factor.
_LARGEST_FACTOR: Final = 1 << 26
_HEADER_VALUES: Final = 100_000
_SCALED: Final = (AdapterKind.LORA, AdapterKind.LOHA, AdapterKind.LOKR)
# A pattern of PEFT that is the end of a layer's name; others are regular expressions, which could
# be made to run for ever, and are not tried.
_PLAIN_PATTERN: Final = re.compile(r"[\w.\-]+")


@dataclass(frozen=True)
class TouchedLayer:
    """A layer that an adapter changes, where it stands in a model, and the shape of its weight.

    The shape is that of the rows alone where the factors do not tell the columns.
    """

    layer: AdapterLayer
    place: ChangedLayer
    shape: Shape

    @property
    def module(self) -> str:
        """Its name in the adapter."""
        return self.layer.module


@dataclass(frozen=True)
class AdapterSettings:
    """What decides the strength beside the factors.

    Attributes:
        alphas: by the beginning of the layers that it is for; "" for all.
        patterns: alphas of layers whose names end so.
        is_root_scaled: whether the strength is alpha / √rank.
        is_transposed: whether the weights are stored as (in, out), as GPT-2's are.
        unused: patterns that are regular expressions, and were not tried.
    """

    alphas: Mapping[str, float]
    patterns: Mapping[str, float]
    is_root_scaled: bool = False
    is_transposed: bool = False
    unused: tuple[str, ...] = ()

    def alpha_of(self, module: str) -> float | None:
        """Return the alpha of a layer whose factors come without one; None where it is not said."""
        bare = module.removeprefix("base_model.model.")
        for pattern, alpha in self.patterns.items():
            if bare == pattern or bare.endswith("." + pattern):
                return alpha
        fitting = [name for name in self.alphas if module.startswith(name)]
        return self.alphas[max(fitting, key=len)] if fitting else None


@dataclass(frozen=True)
class AdapterFile:
    """An adapter, its values not read.

    Attributes:
        name: as it is called in the store, or by its file.
        family: that its layers are of, as far as their names tell; else "generic".
        layers: what it changes and how, in the order of the file.
        unread: layers that are not computed, with the reason.
        others: keys that belong to no change.
        settings, said: see `AdapterSettings`; what it says of its base.
    """

    name: str
    path: Path
    family: str
    layers: tuple[TouchedLayer, ...]
    unread: Mapping[str, str]
    others: tuple[str, ...]
    settings: AdapterSettings
    said: Mapping[str, str]
    tensors: Mapping[str, TensorRef]

    @property
    def kinds(self) -> tuple[str, ...]:
        """How its changes are made, each kind once."""
        kinds = (
            "DoRA" if t.layer.is_decomposed and t.layer.kind == "LoRA" else str(t.layer.kind)
            for t in self.layers
        )
        return tuple(dict.fromkeys(kinds))

    @property
    def states_strength(self) -> bool:
        """Whether the file, or its settings, say how strongly all of its factors count."""
        return all(
            "alpha" in touched.layer.factors
            or self.settings.alpha_of(touched.module) is not None
            or touched.layer.kind not in _SCALED
            for touched in self.layers
        )

    def load(self, reader: TensorReader, touched: TouchedLayer) -> LayerChange:
        """Return the change of a layer.

        Raises:
            CheckpointError: the factors do not fit each other, or cannot be read.
        """
        layer = touched.layer
        factors = {role: self._values(reader, key) for role, key in layer.factors.items()}
        try:
            alpha = self.settings.alpha_of(layer.module)
            return layer_change(layer, factors, alpha, self.settings.is_root_scaled)
        except BadFactors as error:
            raise CheckpointError(
                self.path, str(error), "get the adapter again", layer.module
            ) from None

    def _values(self, reader: TensorReader, key: str) -> npt.NDArray[np.float64]:
        ref = self.tensors[key]
        if ref.numel > _LARGEST_FACTOR:
            raise CheckpointError(self.path, "a factor as large as a weight", "", key)
        out = np.empty(ref.numel, np.float64)
        to_double(reader.read(ref), ref.dtype, out)
        return out.reshape(ref.shape)


def open_adapter(path: Path | str, name: str = "") -> AdapterFile:
    """Return an adapter out of a file, or out of a folder as PEFT saves it.

    Raises:
        UsageError: there is nothing at `path`.
        CheckpointError: it cannot be read, or is no adapter.
    """
    checkpoint = open_model(path)
    part = next((p for p in checkpoint.parts if _holds_adapter(p)), None)
    if part is None:
        raise CheckpointError(
            path,
            "no adapter: none of its keys are factors of a change",
            "name a file of a LoRA, LoHa, LoKr, OFT or the like",
        )
    return read_adapter(part, {**checkpoint.metadata}, name or checkpoint.path.stem)


def _holds_adapter(part: Checkpoint) -> bool:
    return part.role is PartRole.ADAPTER or is_adapter(part.tensors)


def read_adapter(part: Checkpoint, metadata: Mapping[str, JSON], name: str) -> AdapterFile:
    """Return what a state dict of factors changes; only alphas and the like are read later."""
    shapes = {key: ref.shape for key, ref in part.tensors.items()}
    found = adapter_keys(shapes)
    settings = adapter_settings(metadata)
    unread = {layer.module: layer.why for layer in found.layers if layer.why}
    unread |= {key: odd.note for key, odd in part.unread.items()}
    usable = [layer for layer in found.layers if not layer.why]
    weights = {layer.module: changed_shape(layer, shapes) for layer in usable}
    family, places = changed_layers(weights)
    return AdapterFile(
        name=name,
        path=part.path,
        family=family,
        layers=tuple(TouchedLayer(y, places[y.module], weights[y.module]) for y in usable),
        unread=unread,
        others=found.others,
        settings=settings,
        said=_said(metadata),
        tensors=part.tensors,
    )


def adapter_settings(metadata: Mapping[str, JSON]) -> AdapterSettings:
    """Return the settings that PEFT or MLX keep beside a file, or others in its metadata."""
    config = metadata.get("adapter_config")
    if isinstance(config, dict):
        return _of_config(config)
    text = metadata.get("lora_adapter_metadata")
    if isinstance(text, str):
        try:
            said = parse_json(text.encode(), _HEADER_VALUES)
        except ValueError:
            said = None
        if isinstance(said, dict):
            return _of_diffusers(said)
    alpha = _number(metadata.get("adapter.lora.alpha"))  # of llama.cpp
    return AdapterSettings({} if alpha is None else {"": alpha}, {})


def _of_config(config: Mapping[str, JSON], prefix: str = "") -> AdapterSettings:
    alpha = _number(config.get("lora_alpha", config.get("alpha")))
    if isinstance(said := config.get("lora_parameters"), dict):  # MLX: the strength itself
        scale, rank = _number(said.get("scale")), _number(said.get("rank"))
        alpha = None if scale is None or rank is None else scale * rank
    patterns = config.get("alpha_pattern")
    patterns = patterns if isinstance(patterns, dict) else {}
    plain = {p: n for p, v in patterns.items() if (n := _number(v)) is not None}
    unused = tuple(pattern for pattern in plain if not _PLAIN_PATTERN.fullmatch(pattern))
    return AdapterSettings(
        alphas={} if alpha is None else {prefix: alpha},
        patterns={p: n for p, n in plain.items() if p not in unused},
        is_root_scaled=config.get("use_rslora") is True,
        is_transposed=config.get("fan_in_fan_out") is True,
        unused=unused,
    )


def _of_diffusers(said: Mapping[str, JSON]) -> AdapterSettings:
    """Settings whose names begin with the part of the pipeline: `unet.lora_alpha`."""
    alphas: dict[str, float] = {}
    for name, value in said.items():
        part, _, setting = name.rpartition(".")
        if setting == "lora_alpha" and (number := _number(value)) is not None:
            alphas[part + "." if part else ""] = number
    rooted = any(n.endswith("use_rslora") and v is True for n, v in said.items())
    return AdapterSettings(alphas, {}, is_root_scaled=rooted)


def _number(value: JSON) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None  # type: ignore[arg-type]


def _said(metadata: Mapping[str, JSON]) -> dict[str, str]:
    config = metadata.get("adapter_config")
    all_said = {**metadata, **(config if isinstance(config, dict) else {})}
    found = {name: all_said.get(name) for name in _SAID}
    return {name: printable(value) for name, value in found.items() if isinstance(value, str | int)}
