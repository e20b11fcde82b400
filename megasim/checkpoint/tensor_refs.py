"""Where the elements of a tensor lie: in a file, in parts of several, or made of other tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from megasim.checkpoint.dtypes import STORAGE_DTYPES, AnyArray, Singles


@dataclass(frozen=True, slots=True)
class SparseParts:
    """Where a sparse tensor keeps what it stores; all elements that it does not store are 0.

    Attributes:
        layout: "coo", "csr", "csc", "bsr" or "bsc", as torch names them.
        indices: coo: one of (dimensions, stored), else the compressed and the plain indices.
        values: what is stored, blocks and dense dimensions behind the first one.
        transposed: whether the matrix meant is the transpose of the one stored.
    """

    layout: str
    indices: tuple[TensorRef, ...]
    values: TensorRef
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Where the elements of one tensor lie. Picklable, and small: it holds data of arrays only
    that stand within a pickle, whose bytes lie nowhere as they are.

    Attributes:
        key: the name in the state dict.
        dtype: torch's name without "torch.", one of `STORAGE_DTYPES`.
        shape: sizes, () for a 0-d tensor.
        path: the file that holds the bytes ("" when there are `parts`).
        offset: byte offset of element 0 in that file.
        strides: in elements, one for each dimension; None means contiguous and row-major.
        parts: if not empty, the elements are those of the parts, one after another.
        data: if not None, the bytes of the elements themselves, row-major and little-endian.
        sparse: if not None, what a sparse tensor stores; it is read as its dense values.
        decoder: if not None, how the values are made of other tensors; the dtype is float32.

    >>> TensorRef("w", "float16", (2, 3), "m.ckpt", 64).nbytes
    12
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    path: str
    offset: int
    strides: tuple[int, ...] | None = None
    parts: tuple[TensorRef, ...] = ()
    data: bytes | None = field(default=None, repr=False)
    sparse: SparseParts | None = None
    decoder: Decoder | None = None

    @property
    def numel(self) -> int:
        """Number of elements; 1 for a 0-d tensor."""
        return math.prod(self.shape)

    @property
    def lies_whole(self) -> bool:
        """Whether its elements lie one after another, row-major, in one place of a file."""
        elsewhere = self.parts or self.sparse or self.decoder
        return self.strides is None and self.data is None and not elsewhere

    @property
    def is_decoded(self) -> bool:
        """Whether any of its values are made of codes, scales and the like."""
        if not self.parts:
            return self.decoder is not None
        return any(part.is_decoded for part in self.parts)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements when laid out one after another."""
        return self.numel * STORAGE_DTYPES[self.dtype].itemsize

    @property
    def bytes_in_file(self) -> int:
        """Bytes that are read for the elements; of decoded ones those of codes, scales ….

        Never more than `nbytes`: several decoded tensors may share what is stored.
        """
        if self.decoder is not None:
            return min(self.nbytes, sum(ref.nbytes for ref in self.decoder.stored))
        return sum(part.bytes_in_file for part in self.parts) if self.parts else self.nbytes


class ElementReader(Protocol):
    """What reads the elements of tensors; `TensorReader` of `tensors` does."""

    def read(
        self, ref: TensorRef, start: int = 0, stop: int | None = None, out: AnyArray | None = None
    ) -> AnyArray:
        """Return elements `start` to `stop` of a tensor, (stop - start,), in row-major order."""


class Decoder(Protocol):
    """How the float32 values of a tensor are made of what a file stores: codes, scales, ….

    A `TensorRef` that holds one is a *logical tensor*: `TensorReader.read` gives its values, and
    all that reads tensors works on it unchanged. Decoders are small, frozen, hashable and
    picklable, and hold no data of arrays. The room `representation` makes them.
    """

    @property
    def scheme(self) -> str:
        """What the representation is called, e.g. "bitsandbytes nf4"; shown to users."""

    @property
    def identity(self) -> str:
        """A text that changes with everything but the stored bytes that the values depend on."""

    @property
    def stored(self) -> tuple[TensorRef, ...]:
        """The tensors of the file that the values are made of, always in the same order.

        Equal `identity` and equal bytes of these mean equal values.
        """

    def read(self, reader: ElementReader, start: int, stop: int, out: AnyArray) -> None:
        """Fill `out`, (stop - start,) float32, with the values of a range in row-major order.

        Takes memory for a few pieces, however large the tensor is.

        Raises CheckpointError when what is stored cannot be read.
        """

    def intervals(
        self, reader: ElementReader, start: int, stop: int
    ) -> tuple[Singles, Singles] | None:
        """Return the ends of the interval that the codes of a range of values stand for.

        Quantising any number in it gives the code, as far as that is sure: where the scale was
        rounded when it was stored, the interval is wider by as much. None where it is not known.
        """

    def transposed(self) -> Decoder:
        """Return the decoder of the transposed values, of a tensor of two dimensions."""


def fuse_refs(key: str, refs: Sequence[TensorRef]) -> TensorRef:
    """Return the tensor that `torch.cat(refs, dim=0)` would give; nothing is read.

    Raises ValueError unless all have one dtype, at least one dimension, and equal sizes in all
    dimensions but the first.

    >>> q = TensorRef("q", "float32", (2, 3), "m", 0)
    >>> fuse_refs("qk", [q, TensorRef("k", "float32", (4, 3), "m", 24)]).shape
    (6, 3)
    """
    if not refs:
        raise ValueError("nothing to fuse")
    first = refs[0]
    for ref in refs:
        if ref.dtype != first.dtype or not ref.shape or ref.shape[1:] != first.shape[1:]:
            raise ValueError(f"{ref.key} cannot be joined to {first.key} along dimension 0")
    parts = tuple(piece for ref in refs for piece in (ref.parts or (ref,)))
    shape = (sum(ref.shape[0] for ref in refs), *first.shape[1:])
    return TensorRef(key, first.dtype, shape, "", 0, parts=parts)


def transpose_ref(ref: TensorRef, key: str | None = None) -> TensorRef:
    """Return the transpose of a tensor of two dimensions; nothing is read.

    Raises ValueError for other numbers of dimensions, and for a fused tensor.

    >>> transpose_ref(TensorRef("w", "float32", (2, 3), "m", 0)).strides
    (1, 3)
    """
    if len(ref.shape) != 2 or ref.parts:
        raise ValueError(f"{ref.key} cannot be transposed")
    if ref.sparse is not None or ref.data is not None or ref.decoder is not None:
        return _transpose_held(ref, ref.key if key is None else key)
    rows, columns = ref.strides or (ref.shape[1], 1)
    shape = (ref.shape[1], ref.shape[0])
    strides = None if is_contiguous(shape, (columns, rows)) else (columns, rows)
    return replace(ref, key=ref.key if key is None else key, shape=shape, strides=strides)


def _transpose_held(ref: TensorRef, key: str) -> TensorRef:
    """Transpose an array that is held in memory, what a sparse tensor stores, or a decoder."""
    rows, columns = ref.shape
    if ref.decoder is not None:
        return replace(ref, key=key, shape=(columns, rows), decoder=ref.decoder.transposed())
    if ref.data is not None:
        array = np.frombuffer(ref.data, STORAGE_DTYPES[ref.dtype]).reshape(rows, columns)
        return replace(ref, key=key, shape=(columns, rows), data=array.T.tobytes())
    assert ref.sparse is not None
    turned = replace(ref.sparse, transposed=not ref.sparse.transposed)
    return replace(ref, key=key, shape=(columns, rows), sparse=turned)


def file_paths(ref: TensorRef) -> set[str]:
    """Return the files that the elements of a tensor lie in.

    >>> file_paths(TensorRef("w", "float32", (2, 3), "m", 0))
    {'m'}
    """
    if ref.sparse is not None:
        return set().union(*map(file_paths, (*ref.sparse.indices, ref.sparse.values)))
    if ref.decoder is not None:
        return set().union(*map(file_paths, ref.decoder.stored))
    return set().union(*map(file_paths, ref.parts)) if ref.parts else {ref.path}


def stored_tensors(ref: TensorRef) -> Iterator[TensorRef]:
    """Yield the plain tensors whose bytes are read for one: itself, or what it is made of."""
    if ref.sparse is not None:
        inner: tuple[TensorRef, ...] = (*ref.sparse.indices, ref.sparse.values)
    elif ref.decoder is not None:
        inner = tuple(ref.decoder.stored)
    else:
        inner = ref.parts
    if not inner and ref.data is None:
        yield ref
    for part in inner:
        yield from stored_tensors(part)


def extent_of(ref: TensorRef) -> tuple[int, int]:
    """Return where the bytes of a plain tensor begin in its file, and how many there are."""
    if ref.strides is None or not ref.numel:
        return ref.offset, ref.nbytes
    itemsize = STORAGE_DTYPES[ref.dtype].itemsize
    last = sum((n - 1) * stride for n, stride in zip(ref.shape, ref.strides, strict=True))
    return ref.offset, (last + 1) * itemsize


def element_extents(
    ref: TensorRef, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]
) -> dict[str, list[tuple[int, int]]] | None:
    """Return where the bytes of ranges of elements lie, (offset, size) by file.

    None where its elements do not lie one after another, row-major.

    >>> ref = TensorRef("w", "float16", (4, 8), "m", 64)
    >>> element_extents(ref, np.array([0, 16]), np.array([4, 24]))
    {'m': [(64, 8), (96, 16)]}
    """
    found: dict[str, list[tuple[int, int]]] = {}
    begin = 0
    for part in ref.parts or (ref,):
        if not part.lies_whole:
            return None
        itemsize = STORAGE_DTYPES[part.dtype].itemsize
        low = np.clip(starts - begin, 0, part.numel)
        high = np.clip(stops - begin, 0, part.numel)
        held = high > low
        spans = zip(
            (part.offset + low[held] * itemsize).tolist(),
            ((high - low)[held] * itemsize).tolist(),
            strict=True,
        )
        found.setdefault(part.path, []).extend(spans)
        begin += part.numel
    return found


def is_contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether the elements lie one after another in row-major order.

    The stride of a dimension of size 1 does not matter, and an empty tensor is contiguous.

    >>> is_contiguous((1, 3), (99, 1)), is_contiguous((3, 2), (1, 3))
    (True, False)
    """
    if 0 in shape:
        return True
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
