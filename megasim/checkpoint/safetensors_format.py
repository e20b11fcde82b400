"""The .safetensors format: a JSON header with the place of every tensor, then their bytes.

Source: https://github.com/huggingface/safetensors, README "Format" and `tensor.rs`, whose
checks are all made here: the header is at most 100 MB, and the tensors cover the rest of the
file without an overlap or a hole.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from megasim.checkpoint.byte_source import CUT_SHORT, ByteSource
from megasim.checkpoint.contents import (
    METADATA_LIMIT,
    FileContents,
    StateDictContents,
    UnreadTensor,
    set_placeholders_apart,
    shorten,
)
from megasim.checkpoint.dtypes import (
    COMPLEX_PARTS,
    SAFETENSORS_DTYPES,
    STORAGE_DTYPES,
    element_bits,
)
from megasim.checkpoint.limits import remedy
from megasim.checkpoint.strict_json import JSON, JsonTooLarge, parse_json
from megasim.checkpoint.tensors import TensorRef
from megasim.errors import CheckpointError, printable
from megasim.words import Unread

MAX_HEADER_BYTES: Final = 100_000_000
_MAX_DIMENSION = 1 << 62
_NOT_ONE = "not a .safetensors file, or a damaged one: get it again"


def is_safetensors(start: bytes) -> bool:
    """Whether a file that begins so is a .safetensors file: a length of its header, then a `{`.

    No other format has both: the length alone may begin with the bytes of any other one.

    >>> is_safetensors(b"\\x80\\x02\\0\\0\\0\\0\\0\\0{"), is_safetensors(b"\\x80\\x02}q\\0X\\1\\0{")
    (True, False)
    """
    return int.from_bytes(start[:8], "little") <= MAX_HEADER_BYTES and start[8:9] == b"{"


def read_safetensors(source: ByteSource) -> FileContents:
    """Return where the tensors of a .safetensors file lie; only its header is read.

    Raises CheckpointError if the header breaks a rule of the format, or the file is cut short.
    """
    size = int.from_bytes(source.read(0, 8), "little")
    if size > MAX_HEADER_BYTES:
        raise CheckpointError(source.path, "the header is larger than 100 MB", _NOT_ONE)
    limits = source.limits
    limits.check("header_bytes", min(size, source.size), source.path)
    raw = source.read(8, size)
    try:
        header = parse_json(raw, limits.header_values)
    except JsonTooLarge as e:
        raise CheckpointError(source.path, str(e), remedy()) from None
    except ValueError as e:
        raise CheckpointError(source.path, f"a bad header: {e}", _NOT_ONE) from None
    if not isinstance(header, dict):
        raise CheckpointError(source.path, "a bad header: not an object", _NOT_ONE)
    metadata = _metadata(source, header.pop("__metadata__", {}))
    limits.check("tensors", len(header), source.path)
    limits.check("key_bytes", sum(map(len, header)), source.path)
    longest = max(header, key=len, default="")
    limits.check("name_bytes", len(longest), source.path, longest[:80])
    tensors: dict[str, TensorRef] = {}
    unread: dict[str, UnreadTensor] = {}
    spans: list[tuple[int, int, str]] = []
    path, start = str(source.path), source.base + 8 + size
    for key in list(header):
        entry = header.pop(key)  # what is made of it takes its place
        dtype, shape, begin, end = _parse_entry(source, key, entry)
        if len(shape) > limits.dimensions:
            limits.check("dimensions", len(shape), source.path, key)
        spans.append((begin, end, key))
        place = path, start + begin
        if dtype in COMPLEX_PARTS:
            tensors[key] = TensorRef(key, COMPLEX_PARTS[dtype], (*shape, 2), *place)
        elif dtype in STORAGE_DTYPES:
            tensors[key] = TensorRef(key, dtype, shape, *place)
        else:
            stored = TensorRef(key, "uint8", (end - begin,), *place)
            note = f"elements of type {dtype} are not decoded"
            if dtype not in SAFETENSORS_DTYPES.values():
                note = f"an unknown dtype {printable(dtype, 40)}"
            unread[key] = UnreadTensor(Unread.DTYPE, note, dtype, shape, (stored,))
    _check_cover(source, spans, 8 + size)
    unread |= set_placeholders_apart(tensors)
    tied = _alias(tensors, metadata)
    head = size.to_bytes(8, "little") + raw
    return FileContents("safetensors", StateDictContents(tensors, unread, tied), metadata, head)


def _alias(tensors: dict[str, TensorRef], metadata: dict[str, JSON]) -> dict[str, str]:
    """Add the keys that `save_model` left out since another holds their tensor; return them.

    It keeps them in the metadata, each with the key that was kept: `load_model` ties them again.
    """
    tied = {
        key: kept
        for key, kept in metadata.items()
        if isinstance(kept, str) and kept in tensors and key not in tensors
    }
    tensors.update({key: replace(tensors[kept], key=key) for key, kept in tied.items()})
    return tied


def _metadata(source: ByteSource, given: JSON) -> dict[str, JSON]:
    if not isinstance(given, dict) or not all(isinstance(v, str) for v in given.values()):
        raise CheckpointError(source.path, "a bad header: __metadata__ is not text", _NOT_ONE)
    return {key: shorten(str(value), METADATA_LIMIT) for key, value in given.items()}


def _parse_entry(
    source: ByteSource, key: str, entry: JSON
) -> tuple[str, tuple[int, ...], int, int]:
    """The dtype, shape, and byte range (within the data) of a header entry."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(source.path, "a bad header entry", _NOT_ONE, key)
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    sizes = _naturals(shape)
    span = _naturals(offsets)
    if sizes is None or span is None or len(span) != 2 or span[0] > span[1]:
        raise CheckpointError(source.path, "a bad shape or offset", _NOT_ONE, key)
    if not isinstance(code, str):
        raise CheckpointError(source.path, "a bad header entry", _NOT_ONE, key)
    dtype = SAFETENSORS_DTYPES.get(code)
    if dtype is None:  # a newer version of the format may know it, and its size
        return code, sizes, span[0], span[1]
    if math.prod(sizes) * element_bits(dtype) != (span[1] - span[0]) * 8:
        raise CheckpointError(
            source.path, "its shape and its bytes do not agree in size", _NOT_ONE, key
        )
    return dtype, sizes, span[0], span[1]


def _naturals(value: JSON) -> tuple[int, ...] | None:
    """A list of plain integers, none negative or absurd, as a tuple; None for all else."""
    if not isinstance(value, list):
        return None
    for n in value:
        if type(n) is not int or not 0 <= n < _MAX_DIMENSION:
            return None
    return tuple(value)  # type: ignore[arg-type]


def _check_cover(source: ByteSource, spans: list[tuple[int, int, str]], data_offset: int) -> None:
    """Check that the tensors cover the bytes after the header once each, in any order."""
    position = 0
    for begin, end, key in sorted(spans):
        if begin != position:
            what = "overlaps another tensor" if begin < position else "leaves a gap before it"
            raise CheckpointError(source.path, what, _NOT_ONE, key)
        position = end
    if data_offset + position > source.size:
        missing = data_offset + position - source.size
        raise CheckpointError(source.path, f"cut short: {missing} bytes are missing", CUT_SHORT)
    if data_offset + position < source.size:
        raise CheckpointError(source.path, "bytes after the last tensor", _NOT_ONE)
