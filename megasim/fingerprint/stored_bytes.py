"""Digests of stored bytes: of tensors that are decoded or cannot be, and beside the weights.

Two of equal digests are equal without being decoded; of two that differ nothing more is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from blake3 import blake3

from megasim.checkpoint.contents import UnreadTensor
from megasim.checkpoint.tensors import TensorReader, TensorRef

_PIECE = 1 << 22  # elements read at a time


def digest_unread(tensors: Sequence[UnreadTensor]) -> list[str | None]:
    """Return 64 hex digits for each tensor, None where its bytes are not known.

    BLAKE3 over dtype, shape, what the file says of it, and the bytes that hold it, each plain
    tensor of them row-major with its dtype and shape.

    Raises CheckpointError when they cannot be read.
    """
    with TensorReader() as reader:
        reader.expect([ref for tensor in tensors for ref in tensor.stored])
        return [_digest(reader, tensor) for tensor in tensors]


def digest_together(tensors: Mapping[str, TensorRef | UnreadTensor]) -> str | None:
    """Return one digest of many tensors in the order of their keys; None where one has none.

    Raises CheckpointError when they cannot be read.
    """
    whole = blake3()
    with TensorReader() as reader:
        held = tensors.values()
        stored = [(t,) if isinstance(t, TensorRef) else t.stored for t in held]
        reader.expect(ref for refs in stored for ref in refs)
        for _, tensor in sorted(tensors.items()):
            found = _digest(reader, tensor)
            if found is None:
                return None
            whole.update(found.encode())
    return whole.hexdigest()


def stored_hash(reader: TensorReader, ref: TensorRef) -> str:
    """Return the content hash of a tensor whose values are decoded: 64 hex digits.

    BLAKE3 over how the values are made, and the bytes of which they are, each plain tensor of them
    row-major with its dtype and shape. Equal hashes mean equal values and equal stored bytes.

    Raises CheckpointError when they cannot be read.
    """
    if ref.decoder is None:
        inner = [stored_hash(reader, p) if p.is_decoded else _digest(reader, p) for p in ref.parts]
        return blake3(f"joined: {' '.join(map(str, inner))}".encode()).hexdigest()
    made = f"decoded {ref.numel} {ref.decoder.identity}:"
    tensor_hash = blake3(made.encode("utf-8", "surrogatepass"))
    for stored in ref.decoder.stored:
        tensor_hash.update(f"{stored.dtype} {stored.shape}:".encode())
        _update(tensor_hash, reader, stored)
    return tensor_hash.hexdigest()


def _digest(reader: TensorReader, tensor: TensorRef | UnreadTensor) -> str | None:
    if isinstance(tensor, TensorRef):
        tensor_hash = blake3(f"{tensor.dtype} {tensor.shape}:".encode())
        _update(tensor_hash, reader, tensor)
        return tensor_hash.hexdigest()
    if not tensor.stored:
        return None
    said = f"{tensor.dtype} {tensor.shape} {tensor.said}:"
    tensor_hash = blake3(said.encode("utf-8", "surrogatepass"))
    for ref in tensor.stored:
        tensor_hash.update(f"{ref.dtype} {ref.shape}:".encode())
        _update(tensor_hash, reader, ref)
    return tensor_hash.hexdigest()


def _update(tensor_hash: blake3, reader: TensorReader, ref: TensorRef) -> None:
    for start in range(0, ref.numel, _PIECE):
        raw = reader.read(ref, start, min(start + _PIECE, ref.numel))
        tensor_hash.update(raw.view(np.uint8).data)
