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
from megasim.representation.bitsandbytes import four_bits, int8_rows
from megasim.representation.four_bit_floats import (
    declared_floats,
    fused_experts,
    packed_floats,
)
from megasim.representation.gguf_blocks import gguf_blocks
from megasim.representation.logical import Represented, Scheme, StoredTensors, logical_ref
from megasim.representation.packed_integers import packed_rows, transposed_groups
from megasim.representation.scaled import scaled_codes
from megasim.representation.single_experts import single_experts
from megasim.representation.torchao import flattened_subclasses, pickled_subclasses
from megasim.representation.undecoded import undecoded
from megasim.representation.weight_norm import weight_norms
from megasim.words import Unread

# All representations that are decoded, or named where they cannot be. The first that finds a
# tensor has it.
SCHEMES: Final[tuple[Scheme, ...]] = (
    gguf_blocks,
    undecoded,
    four_bits,
    int8_rows,
    packed_floats,
    fused_experts,
    declared_floats,
    transposed_groups,
    packed_rows,
    flattened_subclasses,
    pickled_subclasses,
    scaled_codes,
    weight_norms,
)


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
    check_not_empty(opened)
    return opened


def with_values(
    stored: StoredTensors,
) -> tuple[dict[str, TensorRef], dict[str, UnreadTensor]]:
    """Return the tensors of a state dict by their values, and those that cannot be read.

    Each stands where the first key that it is made of stood.
    """
    taken: dict[str, Represented] = {}  # by the keys that are taken
    found: list[Represented] = []
    for scheme in SCHEMES:
        for represented in scheme(stored):
            if _is_free(represented, taken, stored):
                taken |= dict.fromkeys(represented.sources, represented)
                found.append(represented)
    if not found:
        return single_experts(stored.tensors), dict(stored.unread)
    tensors: dict[str, TensorRef] = {}
    unread: dict[str, UnreadTensor] = {}
    for key in (*stored.tensors, *stored.unread):
        represented_by = taken.get(key)
        if represented_by is None:
            if key in stored.tensors:
                tensors[key] = stored.tensors[key]
            else:
                unread[key] = stored.unread[key]
        elif represented_by.decoder is None:
            unread[represented_by.key] = _unread(represented_by, stored)
        else:
            tensors[represented_by.key] = logical_ref(
                represented_by.key, represented_by.shape, represented_by.decoder
            )
    return single_experts(tensors), unread


def _is_free(represented: Represented, taken: Mapping[str, object], stored: StoredTensors) -> bool:
    """Whether no other scheme has taken what a tensor is made of, and its name is its own."""
    sources = represented.sources
    if any(key in taken for key in sources):
        return False
    is_named = represented.key in stored.tensors or represented.key in stored.unread
    return represented.key in sources or not is_named


def _unread(represented: Represented, stored: StoredTensors) -> UnreadTensor:
    """Return what is known of a tensor that a scheme cannot decode."""
    refs: list[TensorRef] = []
    for key in represented.sources:
        refs += [stored.tensors[key]] if key in stored.tensors else stored.unread[key].stored
    dtype = refs[0].dtype if refs else None
    return UnreadTensor(Unread.LAYOUT, represented.problem, dtype, represented.shape, tuple(refs))


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
