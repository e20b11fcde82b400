"""How the elements of tensors are read: in pieces, never as a whole."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from io import RawIOBase

import numpy as np
import numpy.typing as npt

from megasim.checkpoint.byte_source import read_into, unreadable
from megasim.checkpoint.dtypes import STORAGE_DTYPES, AnyArray
from megasim.checkpoint.locations import PinnedAddress, located
from megasim.checkpoint.range_reads import DEFAULT_AHEAD, RemoteFile
from megasim.checkpoint.sparse_elements import SparseElements
from megasim.checkpoint.strided_elements import PIECE, StridedElements, is_scattered
from megasim.checkpoint.tensor_refs import (
    SparseParts,
    TensorRef,
    element_extents,
    extent_of,
    file_paths,
    fuse_refs,
    is_contiguous,
    stored_tensors,
    transpose_ref,
)
from megasim.errors import CheckpointError
from megasim.interrupts import stop_if_asked

__all__ = [
    "SparseParts",
    "TensorReader",
    "TensorRef",
    "file_paths",
    "fuse_refs",
    "is_contiguous",
    "stored_tensors",
    "transpose_ref",
]

Integers = npt.NDArray[np.int64]

# Bytes gathered at once of a transposed tensor that is read from end to end: each gathering passes
# over all rows of the file, and the more of each it takes, the fewer reads there are.
_AHEAD = 1 << 24
# Times that something is said to be read that is to be kept as long as its file is open.
_KEPT = 100


class TensorReader:
    """Reads the elements of tensors. Keeps up to `max_files` files open.

    A context manager. Not safe to share between threads: make one for each.
    """

    def __init__(self, max_files: int = 64) -> None:
        self._max_files = max_files
        self._files: OrderedDict[str, RawIOBase] = OrderedDict()
        self._piece = memoryview(bytearray(PIECE))
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
                read_into(file, ref.offset + start * dtype.itemsize, target, ref.path, ref.key)
            else:
                self._gather(file, ref, start, stop, out)
        except OSError as e:
            raise unreadable(ref.path, e, ref.key) from None
        return out

    def read_bytes(self, path: str, offset: int, out: AnyArray) -> None:
        """Fill a contiguous array of bytes from a file, as for tensors that lie side by side.

        Raises as `read` does.
        """
        stop_if_asked()
        try:
            read_into(self._open(path), offset, out.data, path)
        except OSError as e:
            raise unreadable(path, e) from None

    def _gather(
        self, file: RawIOBase, ref: TensorRef, start: int, stop: int, out: AnyArray
    ) -> None:
        """Fill `out` with strided elements, which may have been gathered ahead."""
        goes_on, self._last = self._last == (ref, start), (ref, stop)
        if not (goes_on and is_scattered(ref)):
            self._ahead = None
        elif self._ahead is None or stop > self._ahead[0] + len(self._ahead[1]):
            self._ahead = None
            end = min(ref.numel, start + _AHEAD // out.itemsize)
            if stop < end:
                window = np.empty(end - start, out.dtype)
                StridedElements(file, ref, self._piece).read(start, end, window)
                self._ahead = (start, window)
        if self._ahead is None:
            StridedElements(file, ref, self._piece).read(start, stop, out)
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

    def expect(
        self,
        refs: Iterable[TensorRef],
        memory: int = DEFAULT_AHEAD,
        beside: Mapping[str, Sequence[tuple[int, int]]] | None = None,
    ) -> None:
        """Say which tensors will be read next, each once from end to end.

        Those that lie under addresses are fetched ahead, in large ranges, several at a time.

        Args:
            memory: bytes of what may be fetched before it is read, of all files together.
            beside: address to further (offset, size) that will be read.
        """
        extents = {path: list(spans) for path, spans in (beside or {}).items()}
        for ref in refs:
            if ref.lies_whole and not isinstance(ref.path, PinnedAddress):
                continue  # of most files all: asked without the steps below
            # codes and scales are read piece by piece, again and again: they are kept to the end
            times = _KEPT if ref.is_decoded else 1
            for stored in stored_tensors(ref):
                if isinstance(stored.path, PinnedAddress):
                    extents.setdefault(stored.path, []).extend([extent_of(stored)] * times)
        self._max_files = max(self._max_files, len(extents))
        for path, spans in extents.items():
            with suppress(OSError):  # reading says what is wrong
                file = self._open(path)
                if isinstance(file, RemoteFile):
                    file.expect(spans, memory // len(extents))

    def expect_elements(
        self,
        parts: Iterable[tuple[TensorRef, Integers, Integers]],
        memory: int = DEFAULT_AHEAD,
    ) -> None:
        """Say which elements of tensors will be read next, as (tensor, starts, stops) of ranges.

        As `expect`; of tensors that do not lie row-major in their files, all is fetched.
        """
        extents: dict[str, list[tuple[int, int]]] = {}
        whole = []
        for ref, starts, stops in parts:
            ranges = element_extents(ref, starts, stops)
            if ranges is None:
                whole.append(ref)
            for path, spans in (ranges or {}).items():
                if isinstance(path, PinnedAddress):
                    extents.setdefault(path, []).extend(spans)
        self.expect(whole, memory, extents)

    def _close_oldest(self) -> None:
        _, file = self._files.popitem(last=False)
        file.close()
