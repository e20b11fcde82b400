"""A file or folder → the values that its keys stand for, whatever their representation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from megasim.checkpoint.contents import StateDictContents, UnreadTensor
from megasim.checkpoint.folders import read_config
from megasim.checkpoint.limits import Limits
from megasim.checkpoint.opening import Checkpoint, check_not_empty, open_stored
from megasim.checkpoint.strict_json import JSON
from megasim.checkpoint.tensors import TensorReader, TensorRef
from megasim.representation.adapted_models import model_and_adapter_keys, renamed
from megasim.representation.logical import StoredTensors
from megasim.representation.single_experts import single_experts
from megasim.representation.single_projections import single_projections
from megasim.words import PartRole

# The last words of names, and the dtypes, of numbers that every library stores as they are. A file
# of nothing else, as most are, needs no scheme: codes, scales and factors have other names.
_PLAIN_NAMES: Final = frozenset(
    [
        "weight",
        "bias",
        "running_mean",
        "running_var",
        "num_batches_tracked",
        "position_ids",
        "in_proj_weight",
        "in_proj_bias",
    ]
)
_PLAIN_DTYPES: Final = frozenset(("float32", "float16", "bfloat16", "float64", "int64"))


def open_model(path: Path | str, limits: Limits | None = None) -> Checkpoint:
    """Return the logical tensors that a checkpoint file or folder holds, without reading them.

    As `open_checkpoint` of the room `checkpoint`, which says what is raised; but codes and scales
    are the values that they stand for, under the names of these.
    """
    checkpoint = open_stored(path, limits)
    config = quantization_config(checkpoint)
    with TensorReader() as reader:
        tensors, unread = with_values(
            StoredTensors(
                checkpoint.tensors, checkpoint.unread, config, checkpoint.metadata, reader
            )
        )
        others = tuple(_decoded(part, config, reader) for part in checkpoint.others)
    tied = {k: kept for k, kept in checkpoint.tied.items() if k in tensors and kept in tensors}
    opened = replace(checkpoint, tensors=tensors, unread=unread, tied=tied, others=others)
    if opened.role is not PartRole.ADAPTER:
        opened = without_adapters(opened)
    check_not_empty(opened)
    return opened


def without_adapters(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint whose adapters, if it has any inside, are a part of their own."""
    found = model_and_adapter_keys((*checkpoint.tensors, *checkpoint.unread))
    if found is None:
        return checkpoint
    model, adapters = found
    inside = StateDictContents(
        _with_keys(checkpoint.tensors, adapters),
        renamed(checkpoint.unread, adapters),
        name="adapter",
        role=PartRole.ADAPTER,
    )
    tied = {model[k]: model[kept] for k, kept in checkpoint.tied.items() if {k, kept} <= set(model)}
    return replace(
        checkpoint,
        tensors=single_projections(_with_keys(checkpoint.tensors, model)),
        unread=renamed(checkpoint.unread, model),
        tied=tied,
        others=(*checkpoint.others, inside),
    )


def _with_keys(tensors: Mapping[str, TensorRef], names: Mapping[str, str]) -> dict[str, TensorRef]:
    return {key: replace(ref, key=key) for key, ref in renamed(tensors, names).items()}


def with_values(
    stored: StoredTensors,
) -> tuple[dict[str, TensorRef], dict[str, UnreadTensor]]:
    """Return the tensors of a state dict by their values, and those that cannot be read.

    Each stands where the first key that it is made of stood.
    """
    tensors, unread = dict(stored.tensors), dict(stored.unread)
    if not is_plain(stored):
        from megasim.representation.schemes import with_schemes

        tensors, unread = with_schemes(stored)
    return single_projections(single_experts(tensors)), unread


def is_plain(stored: StoredTensors) -> bool:
    """Whether names and dtypes alone say that every number is stored as it is.

    >>> weight = TensorRef("a.weight", "float16", (4, 4), "", 0)
    >>> scale = TensorRef("a.weight_scale", "float16", (1,), "", 32)
    >>> is_plain(StoredTensors({"a.weight": weight}))
    True
    >>> is_plain(StoredTensors({"a.weight": weight, "a.weight_scale": scale}))
    False
    """
    return (
        not stored.unread
        and not stored.config
        and all(ref.dtype in _PLAIN_DTYPES for ref in stored.tensors.values())
        and {key.rpartition(".")[2] for key in stored.tensors} <= _PLAIN_NAMES
    )


def _decoded(
    part: StateDictContents, config: Mapping[str, JSON], reader: TensorReader
) -> StateDictContents:
    tensors, unread = with_values(StoredTensors(part.tensors, part.unread, config, {}, reader))
    tied = {key: kept for key, kept in part.tied.items() if key in tensors and kept in tensors}
    return replace(part, tensors=tensors, unread=unread, tied=tied)


def quantization_config(checkpoint: Checkpoint) -> dict[str, JSON]:
    """Return the `quantization_config` of the config.json beside the weights; empty without one.

    It is of one model: a pipeline, whose folders have configs of their own, has none.
    """
    if checkpoint.format == "diffusers":
        return {}
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    found = read_config(folder / "config.json").get("quantization_config")
    return found if isinstance(found, dict) else {}
