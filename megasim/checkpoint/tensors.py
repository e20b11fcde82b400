"""Where a tensor's elements lie in a file, and how they are read: in pieces, never as a whole."""

from __future__ import annotations

import math
import mmap
import os
import stat
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from megasim.checkpoint.dtypes import STORAGE_DTYPES, AnyArray
from megasim.errors import CheckpointError

_TILE = 64
CUT_SHORT = "the file is incomplete: copy or download it again"


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Where the elements of one tensor lie. Small, picklable, holds no data.

    Attributes:
        key: the name in the state dict.
        dtype: torch's name without "torch.", one of `STORAGE_DTYPES`.
        shape: sizes, () for a 0-d tensor.
        path: the file that holds the bytes ("" when there are `parts`).
        offset: byte offset of element 0 in that file.
        strides: in elements, one for each dimension; None means contiguous and row-major.
        parts: if not empty, the elements are those of the parts, one after another.

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

    @property
    def numel(self) -> int:
        """Number of elements; 1 for a 0-d tensor."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements when laid out one after another."""
        return self.numel * STORAGE_DTYPES[self.dtype].itemsize


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
    rows, columns = ref.strides or (ref.shape[1], 1)
    shape = (ref.shape[1], ref.shape[0])
    strides = None if is_contiguous(shape, (columns, rows)) else (columns, rows)
    return replace(ref, key=ref.key if key is None else key, shape=shape, strides=strides)


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
    """A regular file, read by ranges that are checked against its size first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise CheckpointError(path, "not a regular file", "name a checkpoint file or a folder")
        self._file = path.open("rb", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> ByteSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`; CheckpointError when the file does not hold them."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise CheckpointError(
                self.path, f"cut short: {offset + size} bytes needed, {self.size} there", CUT_SHORT
            )
        data = bytearray(size)
        assert self._file is not None
        _read_into(self._file, offset, memoryview(data), self.path)
        return bytes(data)


def _read_into(file: BinaryIO, offset: int, target: memoryview, path: Path | str) -> None:
    file.seek(offset)
    while target:
        count = file.readinto(target)  # type: ignore[attr-defined]
        if not count:
            raise CheckpointError(path, "cut short, or changed while it was read", CUT_SHORT)
        target = target[count:]


class TensorReader:
    """Reads the elements of tensors. Keeps up to `max_files` files open.

    A context manager. Not safe to share between threads: make one for each.
    """

    def __init__(self, max_files: int = 64) -> None:
        self._max_files = max_files
        self._files: OrderedDict[str, BinaryIO] = OrderedDict()
        self._maps: dict[str, mmap.mmap] = {}

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
        call into the result; strided ones are gathered out of a memory map.

        Raises:
            CheckpointError: the file is gone, shorter than it was, or unreadable.
            ValueError: a range outside the tensor, or an unfit `out`.
        """
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
        try:
            file = self._open(ref.path)
            if ref.strides is None:
                target = out.view(np.uint8).data
                _read_into(file, ref.offset + start * dtype.itemsize, target, ref.path)
            else:
                _copy_range(self._view(ref, dtype), start, stop, out)
        except OSError as e:
            raise CheckpointError(
                ref.path,
                f"cannot be read: {e.strerror}",
                "check the path and its permissions",
                ref.key,
            ) from None
        return out

    def _read_parts(self, ref: TensorRef, start: int, stop: int, out: AnyArray) -> None:
        begin = 0
        for part in ref.parts:
            end = begin + part.numel
            low, high = max(start, begin), min(stop, end)
            if low < high:
                self.read(part, low - begin, high - begin, out[low - start : high - start])
            begin = end

    def _open(self, path: str) -> BinaryIO:
        if path in self._files:
            self._files.move_to_end(path)
            return self._files[path]
        if len(self._files) >= self._max_files:
            self._close_oldest()
        file = Path(path).open("rb", buffering=0)  # noqa: SIM115
        self._files[path] = file
        return file

    def _close_oldest(self) -> None:
        path, file = self._files.popitem(last=False)
        file.close()
        if path in self._maps:
            self._maps.pop(path).close()

    def _view(self, ref: TensorRef, dtype: np.dtype[np.generic]) -> AnyArray:
        """The strided tensor laid over a memory map; numpy checks that it stays inside."""
        assert ref.strides is not None
        try:
            if ref.path not in self._maps:
                number = self._files[ref.path].fileno()
                self._maps[ref.path] = mmap.mmap(number, 0, access=mmap.ACCESS_READ)
            strides = [stride * dtype.itemsize for stride in ref.strides]
            return np.ndarray(ref.shape, dtype, self._maps[ref.path], ref.offset, strides)
        except (TypeError, ValueError):
            raise CheckpointError(
                ref.path, "cut short since it was opened", CUT_SHORT, ref.key
            ) from None


def _copy_range(view: AnyArray, start: int, stop: int, out: AnyArray) -> None:
    """Copy elements `start` to `stop` of `view`, row-major, with no whole copy in between."""
    if view.ndim <= 1:
        out[:] = view[start:stop]
        return
    row = view[0].size
    first, last = -(-start // row), stop // row  # the whole rows of the range
    if first > last:  # the range lies within one row
        _copy_range(view[last], start - last * row, stop - last * row, out)
        return
    head, tail = first * row - start, stop - last * row
    if head:
        _copy_range(view[first - 1], row - head, row, out[:head])
    whole = out[head : len(out) - tail].reshape(last - first, *view.shape[1:])
    if view.ndim > 2 or view.strides[0] >= view.strides[1]:
        whole[...] = view[first:last]
    else:  # transposed: copied by tiles, as it lies, or every element would miss the cache
        for i in range(0, view.shape[1], _TILE):
            whole[:, i : i + _TILE] = view[first:last, i : i + _TILE].T.copy().T
    if tail:
        _copy_range(view[last], 0, tail, out[len(out) - tail :])
