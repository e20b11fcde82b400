"""From what a pickle says of a tensor, and where its storages lie, to where its elements lie."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from megasim.checkpoint.byte_source import CUT_SHORT, ByteSource
from megasim.checkpoint.contents import UnreadTensor
from megasim.checkpoint.dtypes import STORAGE_DTYPES, element_bits
from megasim.checkpoint.limits import Limits, remedy
from megasim.checkpoint.pickled_arrays import PickledArray
from megasim.checkpoint.pickled_storages import OddTensor, PickledTensor, Plain
from megasim.checkpoint.pickled_tensors import Pickled, PickledSparse
from megasim.checkpoint.tensors import SparseParts, TensorRef, is_contiguous
from megasim.errors import CheckpointError
from megasim.words import Unread

_FREE_REPEATS = 32  # of the bytes of a file in its tensors: layers share their weights


@dataclass(frozen=True, slots=True)
class Span:
    """Where the bytes of a storage lie in a file."""

    offset: int
    nbytes: int


SpanOf: TypeAlias = Callable[[str], Span | None]
"""From the key of a storage to its span, None where the file does not hold it."""


def check_unfolded(source: ByteSource, refs: Iterable[TensorRef]) -> None:
    """Raise CheckpointError where tensors show the bytes of a file again and again without end."""
    total = sum(ref.nbytes for ref in refs)
    beyond = total - _FREE_REPEATS * source.size
    source.limits.check("unfolded_bytes", beyond, source.path)


def place(
    path: Path, key: str, pickled: Pickled, span: SpanOf, limits: Limits
) -> TensorRef | UnreadTensor:
    """Return where a tensor's elements lie, or what is known of one that is not decoded.

    Raises CheckpointError, naming the key, if a tensor reaches beyond its storage, repeats it to
    more than `limits.unfolded_bytes`, or has too many dimensions.
    """
    limits.check("dimensions", len(pickled.shape or ()), path, key)
    if isinstance(pickled, OddTensor):
        stored = tuple(_place_plain(path, key, part, span, limits) for part in pickled.parts)
        return UnreadTensor(
            *(pickled.reason, pickled.note, pickled.dtype, pickled.shape, stored, pickled.said),
            *(pickled.subclass, pickled.names, pickled.options),
        )
    if isinstance(pickled, PickledSparse):
        return _place_sparse(path, key, pickled, span, limits)
    return _place_plain(path, key, pickled, span, limits)


def _place_sparse(
    path: Path, key: str, pickled: PickledSparse, span: SpanOf, limits: Limits
) -> TensorRef | UnreadTensor:
    indices = tuple(_place_plain(path, key, index, span, limits) for index in pickled.indices)
    values = _place_plain(path, key, pickled.values, span, limits)
    nbytes = math.prod(pickled.shape) * STORAGE_DTYPES[values.dtype].itemsize
    stored = max(values.numel, *(index.numel for index in indices))
    if nbytes > limits.unfolded_bytes or stored > limits.sparse_elements:
        what = f"{nbytes >> 20} MiB as dense values"
        if stored > limits.sparse_elements:
            what = f"{stored:,} stored elements"
        return UnreadTensor(
            Unread.LAYOUT,
            f"a sparse tensor of {what}, beyond the limits; {remedy()}",
            values.dtype,
            pickled.shape,
            (*indices, values),
            pickled.layout,
        )
    parts = SparseParts(pickled.layout, indices, values)
    return TensorRef(key, values.dtype, pickled.shape, str(path), 0, sparse=parts)


def _place_plain(path: Path, key: str, tensor: Plain, span_of: SpanOf, limits: Limits) -> TensorRef:
    numel = math.prod(tensor.shape)
    if isinstance(tensor, PickledArray):
        return TensorRef(key, tensor.dtype, tensor.shape, str(path), 0, data=tensor.data)
    if numel == 0:  # no bytes needed, so it does not matter where they are not
        return TensorRef(key, tensor.dtype, tensor.shape, str(path), 0)
    span = _span(path, key, tensor, span_of)
    itemsize = STORAGE_DTYPES[tensor.dtype].itemsize
    last = tensor.offset + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    if (last + 1) * itemsize > span.nbytes:
        raise CheckpointError(
            path,
            f"element {last} of a storage of {span.nbytes // itemsize}",
            "the file is damaged: get it again",
            key,
        )
    if numel * itemsize > span.nbytes:  # a stride of 0, or rows that overlap
        limits.check("unfolded_bytes", numel * itemsize - _FREE_REPEATS * span.nbytes, path, key)
    strides = None if is_contiguous(tensor.shape, tensor.strides) else tensor.strides
    offset = span.offset + tensor.offset * itemsize
    return TensorRef(key, tensor.dtype, tensor.shape, str(path), offset, strides)


def _span(path: Path, key: str, tensor: PickledTensor, span_of: SpanOf) -> Span:
    """The bytes of a tensor's storage, checked against what the pickle says of it."""
    span = span_of(tensor.storage.key)
    if span is None:
        raise CheckpointError(path, "its bytes are not in the file", "get the file again", key)
    itemsize = element_bits(tensor.storage.dtype) // 8
    nbytes = tensor.storage.numel * itemsize
    if nbytes > span.nbytes:
        raise CheckpointError(
            path, f"a storage of {nbytes} bytes, of which {span.nbytes} are there", CUT_SHORT, key
        )
    begin, size = tensor.storage.view or (0, tensor.storage.numel)
    if begin + size > tensor.storage.numel:
        raise CheckpointError(path, "a view beyond its storage", CUT_SHORT, key)
    return Span(span.offset + begin * itemsize, size * itemsize)
