"""The GGUF format of llama.cpp: typed metadata, then where each tensor lies, then their bytes.

Only the header is read, and none of its numbers is trusted for a size. Tensors of plain elements
are found as in any file. Those of block formats (Q4_K …) are unread here, with the rows of bytes
that they are stored as: `representation.gguf_blocks` decodes them. Tensors are named as the model
was before it was converted, see `gguf_names`.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import csv
import math
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from megasim.checkpoint.byte_source import CUT_SHORT, ByteSource
from megasim.checkpoint.contents import (
    METADATA_LIMIT,
    FileContents,
    StateDictContents,
    UnreadTensor,
    shorten,
    storable,
)
from megasim.checkpoint.gguf_names import GGUFNames, Named, names_of
from megasim.checkpoint.strict_json import JSON
from megasim.checkpoint.tensors import TensorRef, fuse_refs, transpose_ref
from megasim.errors import CheckpointError, printable
from megasim.resources import resource_path
from megasim.words import Unread

GGUF_MAGIC: Final = b"GGUF"
_NOT_ONE: Final = "not a GGUF file, or a damaged one: get it again"
_VERSIONS: Final = (2, 3)
_MOST_DIMENSIONS: Final = 4
_MAX_DIMENSION: Final = 1 << 62
# Numbers of the types of metadata → how struct reads them; 8 is a text, 9 an array.
_SCALARS: Final = {
    **{0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?"},
    **{10: "<Q", 11: "<q", 12: "<d"},
}
_TEXT, _ARRAY = 8, 9
# Elements of an array that are kept as metadata; tokenizers have hundreds of thousands.
_MOST_KEPT: Final = 64
# Bytes that are read at once.
_WINDOW: Final = 1 << 20
# The number of a file among several, as gguf-split names them.
_NUMBER: Final = re.compile(r"-[0-9]{5}(-of-[0-9]{5}\.gguf)$")
# What ComfyUI's converter writes beside tensors that it had to reshape.
_SHAPES: Final = "comfy.gguf.orig_shape."


@dataclass(frozen=True)
class BlockType:
    """How elements are stored: so many in a block of so many bytes; `dtype` where plainly."""

    name: str
    elements: int
    nbytes: int
    dtype: str


@lru_cache(maxsize=1)
def block_types() -> dict[int, BlockType]:
    """Return the types of GGUF by their number, out of `data/gguf_types.csv`.

    >>> block_types()[12]
    BlockType(name='Q4_K', elements=256, nbytes=144, dtype='')
    """
    lines = resource_path("data", "gguf_types.csv").read_text().splitlines()
    rows = csv.DictReader((x for x in lines if not x.startswith("#")), skipinitialspace=True)
    return {
        int(row["type"]): BlockType(
            row["name"], int(row["elements"]), int(row["bytes"]), (row["dtype"] or "").strip()
        )
        for row in rows
    }


@dataclass(frozen=True)
class _Entry:
    name: str
    shape: tuple[int, ...]
    type_number: int
    offset: int


class _Header:
    """Reads a file from its start, number by number, no further than its limits allow."""

    def __init__(self, source: ByteSource) -> None:
        self.source = source
        self.position = len(GGUF_MAGIC)
        self._window = b""
        self._begin = 0
        self._values = self._text = 0

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        offset = self.position - self._begin
        if offset + size > len(self._window):
            left = self.source.size - self.position
            if size > left:
                raise CheckpointError(self.source.path, "cut short in its header", CUT_SHORT)
            self._begin = self.position
            self._window = self.source.read(self.position, min(max(size, _WINDOW), left))
            offset = 0
        self.position += size
        self.source.limits.check("header_bytes", self.position, self.source.path)
        return self._window[offset : offset + size]

    def number(self, code: str) -> int:
        """Return the next number that struct reads by a code."""
        (found,) = struct.unpack(code, self.take(struct.calcsize(code)))
        return int(found)

    def text(self, limit: str = "text_bytes") -> str:
        """Return the next text."""
        size = self.number("<Q")
        self._text += size
        self.source.limits.check("text_bytes", self._text, self.source.path)
        self.source.limits.check(limit, size, self.source.path)
        return storable(self.take(size).decode("utf-8", "backslashreplace"))

    def value(self, kind: int, depth: int = 0) -> JSON:
        """Return the next value of a kind; of long arrays, how long they are."""
        self._values += 1
        self.source.limits.check("header_values", self._values, self.source.path)
        if kind in _SCALARS:
            (found,) = struct.unpack(_SCALARS[kind], self.take(struct.calcsize(_SCALARS[kind])))
            is_odd = isinstance(found, float) and not math.isfinite(found)
            return str(found) if is_odd else found
        if kind == _TEXT:
            return shorten(self.text(), METADATA_LIMIT)
        if kind != _ARRAY or depth > 1:
            raise CheckpointError(self.source.path, "metadata of an unknown type", _NOT_ONE)
        inner, count = self.number("<I"), self.number("<Q")
        if inner in _SCALARS and count > _MOST_KEPT:
            self._values += 1
            self.skip(count * struct.calcsize(_SCALARS[inner]))
            return f"({count} numbers, left out)"
        self.source.limits.check("header_values", self._values + count, self.source.path)
        kept = [self.value(inner, depth + 1) for _ in range(count)]
        return kept if count <= _MOST_KEPT else f"({count} entries, left out)"

    def skip(self, size: int) -> None:
        """Pass over some bytes."""
        if size > self.source.size - self.position:
            raise CheckpointError(self.source.path, "cut short in its header", CUT_SHORT)
        self.position += size
        self._window, self._begin = b"", self.position

    def align(self, alignment: int) -> None:
        """Go on at the next multiple of a number."""
        self.position += -self.position % alignment


def read_gguf(source: ByteSource) -> FileContents:
    """Return where the tensors of a GGUF file lie; only its header is read.

    Raises CheckpointError if the header breaks a rule of the format, or the file is cut short.
    """
    header = _Header(source)
    version = header.number("<I")
    if version not in _VERSIONS:
        known = " and ".join(map(str, _VERSIONS))
        problem = f"GGUF of version {version}, not {known}"
        if version >> 16 and version & 0xFFFF == 0:
            problem = "GGUF of the other byte order"
        raise CheckpointError(source.path, problem, "convert it again with a recent llama.cpp")
    count, pairs = header.number("<Q"), header.number("<Q")
    source.limits.check("tensors", count, source.path)
    metadata = _metadata(header, pairs)
    entries = [_entry(header) for _ in range(count)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment > 1 << 20:
        raise CheckpointError(source.path, "an absurd alignment", _NOT_ONE)
    end = header.position
    header.align(alignment)
    names = names_of({**_first_metadata(source, metadata), **metadata})
    tensors: dict[str, TensorRef] = {}
    unread: dict[str, UnreadTensor] = {}
    seen: set[str] = set()
    spans = []
    for entry in entries:
        if entry.name in seen:
            raise CheckpointError(source.path, "a name that stands twice", _NOT_ONE, entry.name)
        seen.add(entry.name)
        spans.append(_place(source, entry, header.position, names, metadata, tensors, unread))
    _check_apart(source, sorted(spans))
    source.limits.check("key_bytes", sum(map(len, (*tensors, *unread))), source.path)
    start = source.read(0, end)
    contents = StateDictContents(tensors, unread)
    return FileContents("gguf", contents, metadata, start)


def _metadata(header: _Header, pairs: int) -> dict[str, JSON]:
    header.source.limits.check("header_values", pairs, header.source.path)
    metadata: dict[str, JSON] = {}
    for _ in range(pairs):
        key = header.text("name_bytes")
        metadata[key] = header.value(header.number("<I"))
    return metadata


def _first_metadata(source: ByteSource, metadata: dict[str, JSON]) -> dict[str, JSON]:
    """Return the metadata of the first of several files, which alone names the architecture.

    Empty where this is no later one, or the first is not beside it.
    """
    if not metadata.get("split.no") or "general.architecture" in metadata:
        return {}
    first = source.path.with_name(_NUMBER.sub(r"-00001\1", source.path.name))
    if first == source.path or not first.is_file():
        return {}
    with ByteSource(first, source.limits) as beside:
        header = _Header(beside)
        if beside.read(0, len(GGUF_MAGIC)) != GGUF_MAGIC or header.number("<I") not in _VERSIONS:
            return {}
        header.number("<Q")
        return _metadata(header, header.number("<Q"))


def _entry(header: _Header) -> _Entry:
    name = header.text("name_bytes")
    dimensions = header.number("<I")
    if dimensions > _MOST_DIMENSIONS:
        raise CheckpointError(header.source.path, "too many dimensions", _NOT_ONE, name[:80])
    sizes = [header.number("<Q") for _ in range(dimensions)]
    if any(size >= _MAX_DIMENSION for size in sizes):
        raise CheckpointError(header.source.path, "an absurd size", _NOT_ONE, name[:80])
    # the innermost dimension stands first
    return _Entry(name, tuple(reversed(sizes)), header.number("<I"), header.number("<Q"))


def _place(
    source: ByteSource,
    entry: _Entry,
    data: int,
    names: GGUFNames,
    metadata: dict[str, JSON],
    tensors: dict[str, TensorRef],
    unread: dict[str, UnreadTensor],
) -> tuple[int, int, str]:
    """Add what stands under one name of the file; return where its bytes begin and end."""
    kind = block_types().get(entry.type_number)
    named = names.of(entry.name, entry.shape)
    if kind is None:
        note = f"GGUF elements of the unknown type {entry.type_number} are not decoded"
        unread[entry.name] = UnreadTensor(Unread.DTYPE, note, None, entry.shape)
        return entry.offset, entry.offset, entry.name
    width = entry.shape[-1] if entry.shape else 1
    if width % kind.elements:
        raise CheckpointError(
            source.path,
            f"rows of {width} elements in blocks of {kind.elements}",
            _NOT_ONE,
            entry.name,
        )
    rows = math.prod(entry.shape[:-1])
    row_bytes = width // kind.elements * kind.nbytes
    begin, size = data + entry.offset, rows * row_bytes
    if begin + size > source.size:
        raise CheckpointError(
            source.path, f"cut short: {begin + size - source.size} bytes are missing",
            CUT_SHORT, entry.name,
        )  # fmt: skip
    shape = _original_shape(entry, metadata)
    path = str(source.path)
    if kind.dtype:
        whole = TensorRef(entry.name, kind.dtype, shape, path, begin)
        by_row = replace(whole, shape=(rows, width)) if len(shape) > 1 else whole
    else:
        whole = by_row = TensorRef(entry.name, "uint8", (rows, row_bytes), path, begin)
    for key, part_shape, ref in _parts(named, shape, whole, by_row):
        if key in tensors or key in unread:
            raise CheckpointError(source.path, "two tensors of one name", _NOT_ONE, key)
        if named.problem:
            unread[key] = UnreadTensor(Unread.LAYOUT, named.problem, None, part_shape, (ref,))
            continue
        if kind.dtype and not named.is_plus_one:
            found = replace(ref, key=key, shape=part_shape) if ref is whole else ref
            tensors[key] = transpose_ref(found) if named.is_transposed else found
            continue
        code = kind.name + (" plus one" if named.is_plus_one else "")
        code += " transposed" if named.is_transposed else ""
        note = f"elements of the GGUF type {code} are not decoded"
        unread[key] = UnreadTensor(Unread.DTYPE, note, code, part_shape, (ref,))
    return entry.offset, entry.offset + size, entry.name


def _parts(
    named: Named, shape: tuple[int, ...], whole: TensorRef, by_row: TensorRef
) -> Iterator[tuple[str, tuple[int, ...], TensorRef]]:
    """Yield the tensors of the model that one of the file is, with their keys and shapes."""
    if named.is_experts:
        count, rows = shape[0], shape[1]
        width = by_row.shape[-1]
        itemsize = by_row.nbytes // max(by_row.numel, 1)
        for expert in range(count):
            offset = by_row.offset + expert * rows * width * itemsize
            key = named.key.replace("{e}", str(expert))
            part = replace(by_row, key=key, shape=(rows, width), offset=offset)
            yield key, shape[1:], part
    elif named.heads:
        yield named.key, shape, apart_again(named.key, by_row, named.heads)
    elif named.by_head is not None:
        yield named.key, shape, by_head_again(named.key, by_row, *named.by_head)
    else:
        yield named.key, shape, whole


def apart_again(key: str, ref: TensorRef, heads: int) -> TensorRef:
    """Return rows in the order of the model, where the halves of each head were interleaved.

    >>> ref = TensorRef("q", "float32", (4, 8), "m.gguf", 0)
    >>> [(part.offset // 32, part.strides) for part in apart_again("q", ref, 1).parts]
    [(0, (16, 1)), (1, (16, 1))]
    """
    rows, width = ref.shape[0], math.prod(ref.shape[1:])
    size = rows // heads
    itemsize = ref.nbytes // max(ref.numel, 1)
    pieces = []
    for head in range(heads):
        for half in range(2):
            offset = ref.offset + (head * size + half) * width * itemsize
            if len(ref.shape) == 1:
                piece = replace(ref, shape=(size // 2,), strides=(2,), offset=offset)
            else:
                strides = (2 * width, 1)
                piece = replace(ref, shape=(size // 2, width), strides=strides, offset=offset)
            pieces.append(piece)
    return fuse_refs(key, pieces)


def by_head_again(key: str, ref: TensorRef, heads: int, groups: int) -> TensorRef:
    """Return the rows of query, key and value group by group of heads that share a key.

    In the file all queries stand first, then all keys, then all values.

    >>> ref = TensorRef("qkv", "float32", (6, 8), "m.gguf", 0)
    >>> [part.offset // 32 for part in by_head_again("qkv", ref, 2, 2).parts]
    [0, 2, 4, 1, 3, 5]
    """
    size = ref.shape[0] // (heads + 2 * groups)
    row_bytes = ref.nbytes // max(ref.shape[0], 1)
    shared = heads // groups  # queries that look at one key
    pieces = []
    for group in range(groups):
        places = (group * shared, heads + group, heads + groups + group)
        for place, count in zip(places, (shared, 1, 1), strict=True):
            offset = ref.offset + place * size * row_bytes
            pieces.append(replace(ref, shape=(count * size, *ref.shape[1:]), offset=offset))
    return fuse_refs(key, pieces)


def _original_shape(entry: _Entry, metadata: dict[str, JSON]) -> tuple[int, ...]:
    """Return the shape before a converter changed it, where it says so and that is possible."""
    given = metadata.get(_SHAPES + entry.name)
    if isinstance(given, list) and all(type(n) is int and n > 0 for n in given):
        sizes: Sequence[int] = given  # type: ignore[assignment]
        if math.prod(sizes) == math.prod(entry.shape):
            return tuple(sizes)
    return entry.shape


def _check_apart(source: ByteSource, spans: list[tuple[int, int, str]]) -> None:
    """Check that no two tensors share bytes."""
    position = 0
    for begin, end, name in spans:
        if begin < position:
            raise CheckpointError(source.path, "overlaps another tensor", _NOT_ONE, printable(name))
        position = end
