"""Arrays as numpy.save and numpy.savez write them: .npy files, and uncompressed zips of them.

Source: numpy/lib/_format_impl.py. The headers are parsed by numpy itself, which takes a literal and
runs nothing; an array of Python objects is never unpickled.
"""

from __future__ import annotations

import io
import math
from tokenize import TokenError
from typing import Final

import numpy as np

from megasim.checkpoint.byte_source import CUT_SHORT, ByteSource
from megasim.checkpoint.contents import (
    FileContents,
    StateDictContents,
    UnreadTensor,
    storable,
)
from megasim.checkpoint.dtypes import COMPLEX_PARTS, NUMPY_DTYPES, STORAGE_DTYPES
from megasim.checkpoint.tensors import TensorRef
from megasim.checkpoint.zip_directory import ZipDirectory
from megasim.errors import CheckpointError, printable
from megasim.words import Unread

NPY_MAGIC: Final = b"\x93NUMPY"
_MAX_HEADER = 10_000
# What numpy raises; it reads a damaged header again with Python's tokenizer.
_BAD_HEADER = (
    KeyError,
    ValueError,
    SyntaxError,
    TypeError,
    RecursionError,
    MemoryError,
    TokenError,
)
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npy(source: ByteSource) -> FileContents:
    """Return where the elements of a .npy file lie, under the key "array".

    Raises CheckpointError if its header is damaged, or the file is cut short.
    """
    found, head = _array(source, "array", 0, source.size)
    return _contents("npy", {"array": found}, head)


def read_npz(source: ByteSource, directory: ZipDirectory) -> FileContents:
    """Return where the arrays of a zip of .npy files lie, each under its name.

    Raises CheckpointError if it is compressed, damaged, or cut short.
    """
    found: dict[str, TensorRef | UnreadTensor] = {}
    source.limits.check("tensors", len(directory.entries), source.path)
    for name, entry in directory.entries.items():
        if name.endswith(".npy"):
            key = storable(name.removesuffix(".npy"))
            if entry.packed != entry.size:
                raise CheckpointError(
                    source.path,
                    "its arrays are compressed",
                    "save them with numpy.savez, which does not compress",
                    key,
                )
            offset = directory.data_offset(source, name)
            found[key], _ = _array(source, key, offset, entry.size)
    return _contents("npz", found, directory.raw)


def _contents(kind: str, found: dict[str, TensorRef | UnreadTensor], header: bytes) -> FileContents:
    tensors = {key: ref for key, ref in found.items() if isinstance(ref, TensorRef)}
    unread = {key: odd for key, odd in found.items() if isinstance(odd, UnreadTensor)}
    return FileContents(kind, StateDictContents(tensors, unread), {}, header)


def _array(
    source: ByteSource, key: str, offset: int, size: int
) -> tuple[TensorRef | UnreadTensor, bytes]:
    """Return where an array of `size` bytes with its header lies, and the header."""
    head = source.read(offset, min(size, _MAX_HEADER + 16))
    stream = io.BytesIO(head)
    try:
        parse = _HEADERS[np.lib.format.read_magic(stream)]
        shape, by_columns, dtype = parse(stream, max_header_size=_MAX_HEADER)
        sizes = tuple(int(n) for n in shape)
        if any(not 0 <= n < 1 << 62 for n in sizes):
            raise ValueError
    except _BAD_HEADER:
        raise CheckpointError(
            source.path, "a bad header of a numpy array", "get the file again", key
        ) from None
    source.limits.check("dimensions", len(sizes), source.path, key)
    begin = stream.tell()
    code = f"{dtype.kind}{dtype.itemsize}"
    name = NUMPY_DTYPES.get(code)
    if dtype.hasobject:
        note = "a numpy array of Python objects"
        return UnreadTensor(Unread.OBJECT, note, "object", sizes), head[:begin]
    nbytes = math.prod(sizes) * dtype.itemsize
    if begin + nbytes > size:
        raise CheckpointError(
            source.path, f"cut short: {begin + nbytes} bytes needed, {size} there", CUT_SHORT, key
        )
    place = str(source.path), offset + begin
    if name is None or dtype.byteorder == ">":
        stored = TensorRef(key, "uint8", (nbytes,), *place)
        note = f"a numpy array of type {printable(dtype.str, 40)}, which is not decoded"
        said = "by columns" if by_columns else ""
        odd = UnreadTensor(Unread.DTYPE, note, f"numpy {code}", sizes, (stored,), said)
        return odd, head[:begin]
    strides = [1] * len(sizes)
    order = range(1, len(sizes)) if by_columns else range(len(sizes) - 2, -1, -1)
    for i in order:
        near = i - 1 if by_columns else i + 1
        strides[i] = strides[near] * sizes[near]
    if name in COMPLEX_PARTS:
        name, sizes = COMPLEX_PARTS[name], (*sizes, 2)
        strides = [2 * stride for stride in strides] + [1]
    assert name in STORAGE_DTYPES
    lying = tuple(strides) if by_columns and len(strides) > 1 else None
    return TensorRef(key, name, sizes, *place, lying), head[:begin]
