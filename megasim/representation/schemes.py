"""Stored tensors → the values that they stand for, by the schemes that know how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from megasim.checkpoint.contents import UnreadTensor
from megasim.checkpoint.tensors import TensorRef
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


def with_schemes(
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
        return dict(stored.tensors), dict(stored.unread)
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
    return tensors, unread


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
