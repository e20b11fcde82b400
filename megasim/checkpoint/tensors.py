"""Where a tensor's elements lie in a file, and how they are read: in pieces, never as a whole."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from io import RawIOBase
from pathlib import Path

import numpy as np

from megasim.checkpoint.decoder import Decoder
from megasim.checkpoint.dtypes import STORAGE_DTYPES, AnyArray
from megasim.checkpoint.file_stamp import open_stamped
from megasim.checkpoint.limits import DEFAULT_LIMITS, Limits
from megasim.checkpoint.locations import PinnedAddress, located
from megasim.checkpoint.range_reads import DEFAULT_AHEAD, RemoteFile
from megasim.checkpoint.sparse_elements import SparseElements
from megasim.errors import CheckpointError
from megasim.interrupts import stop_if_asked

# Strided elements are gathered out of pieces of this many bytes, which stay in a core's cache.
_PIECE = 1 << 18
# Up to this many unneeded bytes are read along: a read of its own would cost more.
_GAP = 1 << 13
# Bytes gathered at once of a transposed tensor that is read from end to end: each gathering passes
# over all rows of the file, and the more of each it takes, the fewer reads there are.
_AHEAD = 1 << 24
# Times that something is said to be read that is to be kept as long as its file is open.
_KEPT = 100
CUT_SHORT = "the file is incomplete: copy or download it again"


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
        return self.decoder is not None or any(part.is_decoded for part in self.parts)

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


def _extent(ref: TensorRef) -> tuple[int, int]:
    """Return where the bytes of a plain tensor begin in its file, and how many there are."""
    if ref.strides is None or not ref.numel:
        return ref.offset, ref.nbytes
    itemsize = STORAGE_DTYPES[ref.dtype].itemsize
    last = sum((n - 1) * stride for n, stride in zip(ref.shape, ref.strides, strict=True))
    return ref.offset, (last + 1) * itemsize


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


class ByteSource:
    """A regular file, or an object under an address, read by ranges within its size.

    `limits` are what the file may cost. `base` is where its first byte lies in the file: 0, or
    where a file within an archive begins.
    """

    base = 0

    def __init__(self, path: Path, limits: Limits = DEFAULT_LIMITS) -> None:
        self.path = path
        self.limits = limits
        self._file: RawIOBase | None = None
        self._file, self.stamp, self.path = open_stamped(path)
        self.size = self.stamp.size

    def __enter__(self) -> ByteSource:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()

    def expect(self, spans: Iterable[tuple[int, int]]) -> None:
        """Say which small pieces, as (offset, size), will be read next, each once."""
        if isinstance(self._file, RemoteFile):
            self._file.expect([(self.base + begin, size) for begin, size in spans], gap=512)

    def expect_all(self) -> None:
        """Say that all of it will be read, from the first byte to the last."""
        if isinstance(self._file, RemoteFile):
            self._file.expect([(self.base, self.size)])

    def part(self, begin: int, size: int) -> ByteSource:
        """Return a part of the file as a source of its own, as a file within an archive.

        It reads from the file that is open here. CheckpointError when the file does not hold it.
        """
        if begin < 0 or size < 0 or begin + size > self.size:
            raise CheckpointError(self.path, "cut short: what it lists is not in it", CUT_SHORT)
        part = ByteSource.__new__(ByteSource)
        part.path, part.limits, part.stamp = self.path, self.limits, self.stamp
        part.base, part.size, part._file = self.base + begin, size, self._file
        return part

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`; CheckpointError when the file does not hold them."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise CheckpointError(
                self.path, f"cut short: {offset + size} bytes needed, {self.size} there", CUT_SHORT
            )
        data = bytearray(size)
        assert self._file is not None
        _read_into(self._file, self.base + offset, memoryview(data), self.path)
        return bytes(data)


def _read_into(
    file: RawIOBase, offset: int, target: memoryview, path: Path | str, key: str = ""
) -> None:
    file.seek(offset)
    while target:
        count = file.readinto(target)
        if not count:
            raise CheckpointError(path, "cut short, or changed while it was read", CUT_SHORT, key)
        target = target[count:]


def _unreadable(path: str, error: OSError, key: str = "") -> CheckpointError:
    problem = f"cannot be read: {error.strerror}"
    return CheckpointError(path, problem, "check the path and its permissions", key)


class TensorReader:
    """Reads the elements of tensors. Keeps up to `max_files` files open.

    A context manager. Not safe to share between threads: make one for each.
    """

    def __init__(self, max_files: int = 64) -> None:
        self._max_files = max_files
        self._files: OrderedDict[str, RawIOBase] = OrderedDict()
        self._piece = memoryview(bytearray(_PIECE))
        self._last: tuple[TensorRef, int] | None = None  # what was read last, and up to where
        self._ahead: tuple[int, AnyArray] | None = None  # and what follows, from an element on
        self._sparse: tuple[TensorRef, SparseElements] | None = None  # what the last one stores

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files. The reader may be used again."""
        while self._files:
            self._close_oldest()

    def read(
        self, ref: TensorRef, start: int = 0, stop: int | None = None, out: AnyArray | None = None
    ) -> AnyArray:
        """Return elements `start` to `stop` of the tensor in row-major order.

        Args:
            ref: which tensor.
            start, stop: 0 <= start <= stop <= ref.numel; `stop` None means to the end.
            out: (stop - start,), contiguous, of the dtype returned; filled and returned if given.

        Returns:
            (stop - start,) of `STORAGE_DTYPES[ref.dtype]`: bfloat16 comes as its bits in uint16,
            float8 and bool as theirs in uint8 (a bool may hold other values than 0 and 1),
            all else as numpy's own type. Files are little-endian, as is every machine supported.

        Memory beyond the result does not grow with the tensor. Contiguous elements take one read
        call into the result; strided ones are gathered out of small pieces, and ahead, up to 16 MB,
        where a read goes on from where the last one ended. Of a sparse tensor, what it stores is
        kept until the next one is read, never its dense values. Nothing is mapped into memory: a
        file that is cut short meanwhile would end the process.

        Raises:
            CheckpointError: the file is gone, shorter than it was, or unreadable.
            ValueError: a range outside the tensor, or an unfit `out`.
            KeyboardInterrupt: a signal asked for the end, in whatever thread this is.
        """
        stop_if_asked()
        stop = ref.numel if stop is None else stop
        if not 0 <= start <= stop <= ref.numel:
            raise ValueError(f"{ref.key} has no elements {start}:{stop}")
        dtype = STORAGE_DTYPES[ref.dtype]
        if out is None:
            out = np.empty(stop - start, dtype)
        elif out.shape != (stop - start,) or out.dtype != dtype or not out.flags.c_contiguous:
            raise ValueError(f"out must be a contiguous ({stop - start},) array of {dtype}")
        if start == stop:
            return out
        if ref.parts:
            self._read_parts(ref, start, stop, out)
            return out
        if ref.data is not None:
            out[:] = np.frombuffer(ref.data, dtype)[start:stop]
            return out
        if ref.sparse is not None:
            self._stored(ref, ref.sparse).read(start, stop, out)
            return out
        if ref.decoder is not None:
            ref.decoder.read(self, start, stop, out)
            return out
        try:
            file = self._open(ref.path)
            if ref.strides is None:
                target = out.view(np.uint8).data
                _read_into(file, ref.offset + start * dtype.itemsize, target, ref.path, ref.key)
            else:
                self._gather(file, ref, start, stop, out)
        except OSError as e:
            raise _unreadable(ref.path, e, ref.key) from None
        return out

    def read_bytes(self, path: str, offset: int, out: AnyArray) -> None:
        """Fill a contiguous array of bytes from a file, as for tensors that lie side by side.

        Raises CheckpointError as `read` does.
        """
        try:
            _read_into(self._open(path), offset, out.data, path)
        except OSError as e:
            raise _unreadable(path, e) from None

    def _gather(
        self, file: RawIOBase, ref: TensorRef, start: int, stop: int, out: AnyArray
    ) -> None:
        """Fill `out` with strided elements, which may have been gathered ahead."""
        goes_on, self._last = self._last == (ref, start), (ref, stop)
        if not (goes_on and _is_scattered(ref)):
            self._ahead = None
        elif self._ahead is None or stop > self._ahead[0] + len(self._ahead[1]):
            self._ahead = None
            end = min(ref.numel, start + _AHEAD // out.itemsize)
            if stop < end:
                window = np.empty(end - start, out.dtype)
                _Gather(file, ref, self._piece).read(start, end, window)
                self._ahead = (start, window)
        if self._ahead is None:
            _Gather(file, ref, self._piece).read(start, stop, out)
        else:
            begin, window = self._ahead
            out[:] = window[start - begin : stop - begin]
            if stop == ref.numel:
                self._ahead = None

    def _read_parts(self, ref: TensorRef, start: int, stop: int, out: AnyArray) -> None:
        begin = 0
        for part in ref.parts:
            end = begin + part.numel
            low, high = max(start, begin), min(stop, end)
            if low < high:
                self.read(part, low - begin, high - begin, out[low - start : high - start])
            begin = end

    def _stored(self, ref: TensorRef, parts: SparseParts) -> SparseElements:
        """Return what a sparse tensor stores, in the order of its dense elements."""
        if self._sparse is None or self._sparse[0] is not ref:
            self._sparse = None
            indices = [self.read(index).reshape(index.shape) for index in parts.indices]
            values = self.read(parts.values).reshape(parts.values.shape)
            try:
                shape = ref.shape[::-1] if parts.transposed else ref.shape
                found = SparseElements(parts.layout, shape, indices, values)
                found = found.transposed(*shape) if parts.transposed else found
            except ValueError as e:
                raise CheckpointError(
                    ref.path, str(e), "the file is damaged: get it again", ref.key
                ) from None
            self._sparse = ref, found
        return self._sparse[1]

    def _open(self, path: str) -> RawIOBase:
        if path in self._files:
            self._files.move_to_end(path)
            return self._files[path]
        if len(self._files) >= self._max_files:
            self._close_oldest()
        file = located(path).open("rb", buffering=0)
        self._files[path] = file
        return file

    def expect(self, refs: Iterable[TensorRef], memory: int = DEFAULT_AHEAD) -> None:
        """Say which tensors will be read next, each once from end to end.

        Those that lie under addresses are fetched ahead, in large ranges, several at a time.

        Args:
            memory: bytes of what may be fetched before it is read, of all files together.
        """
        extents: dict[str, list[tuple[int, int]]] = {}
        for ref in refs:
            # codes and scales are read piece by piece, again and again: they are kept to the end
            times = _KEPT if ref.is_decoded else 1
            for stored in stored_tensors(ref):
                if isinstance(stored.path, PinnedAddress):
                    extents.setdefault(stored.path, []).extend([_extent(stored)] * times)
        self._max_files = max(self._max_files, len(extents))
        for path, spans in extents.items():
            with suppress(OSError):  # reading says what is wrong
                file = self._open(path)
                if isinstance(file, RemoteFile):
                    file.expect(spans, memory // len(extents))

    def _close_oldest(self) -> None:
        _, file = self._files.popitem(last=False)
        file.close()


def _is_scattered(ref: TensorRef) -> bool:
    """Whether elements that follow each other lie all over the tensor, as in a transpose."""
    strides = [s for n, s in zip(ref.shape, ref.strides or (), strict=True) if n > 1]
    return strides[:1] < [max(strides, default=0)]


class _Gather:
    """Reads a strided tensor by ranges of its row-major order."""

    def __init__(self, file: RawIOBase, ref: TensorRef, piece: memoryview) -> None:
        assert ref.strides is not None
        itemsize = STORAGE_DTYPES[ref.dtype].itemsize
        self._file = file
        self._ref = ref
        self._strides = tuple(stride * itemsize for stride in ref.strides)
        self._piece = piece

    def read(self, start: int, stop: int, out: AnyArray) -> None:
        """Fill `out`, of one dimension, with elements `start` to `stop`."""
        self._range(0, self._ref.offset, start, stop, out)

    def _range(self, level: int, offset: int, start: int, stop: int, out: AnyArray) -> None:
        """Split a range of the dimensions from `level` on into boxes: head, whole rows, tail."""
        shape, strides = self._ref.shape[level:], self._strides[level:]
        row = math.prod(shape[1:])
        first, last = -(-start // row), stop // row  # the whole rows of the range
        if first > last:  # the range lies within one row
            offset += last * strides[0]
            self._range(level + 1, offset, start - last * row, stop - last * row, out)
            return
        head, tail = first * row - start, stop - last * row
        if head:
            before = offset + (first - 1) * strides[0]
            self._range(level + 1, before, row - head, row, out[:head])
        if last > first:
            whole = out[head : len(out) - tail].reshape(last - first, *shape[1:])
            order = sorted(range(len(shape)), key=lambda i: -strides[i])  # as it lies in the file
            lying = [strides[i] for i in order]
            self._box(offset + first * strides[0], lying, whole.transpose(order))
        if tail:
            self._range(level + 1, offset + last * strides[0], 0, tail, out[len(out) - tail :])

    def _box(self, offset: int, strides: Sequence[int], out: AnyArray) -> None:
        """Fill `out` with elements that lie at `strides`, in bytes, the largest first."""
        step, inner = strides[0], strides[1:]
        run = out.itemsize + sum((n - 1) * s for n, s in zip(out.shape[1:], inner, strict=True))
        if run > _PIECE and inner:
            for i in range(len(out)):
                self._box(offset + i * step, inner, out[i])
            return
        pitch = step if step - run <= _GAP else run  # bytes from row to row in the piece
        count = max(1, (_PIECE - run) // max(pitch, 1) + 1)
        for i in range(0, len(out), count):
            target = out[i : i + count]
            size = (len(target) - 1) * pitch + run
            ends = [size] if pitch == step else range(run, size + 1, run)
            begin = 0
            for row, end in enumerate(ends):
                self._read_run(offset + (i + row) * step, self._piece[begin:end])
                begin = end
            target[...] = np.ndarray(target.shape, out.dtype, self._piece, 0, (pitch, *inner))

    def _read_run(self, offset: int, target: memoryview) -> None:
        _read_into(self._file, offset, target, self._ref.path, self._ref.key)
