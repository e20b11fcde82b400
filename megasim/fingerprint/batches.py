"""Which tensors are walked over together, and where each lies in the buffer meanwhile."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

from megasim.checkpoint.dtypes import STORAGE_DTYPES, AnyArray
from megasim.checkpoint.tensors import TensorReader, TensorRef
from megasim.errors import CheckpointError
from megasim.fingerprint.profile import profile_lengths
from megasim.fingerprint.sketch import plan_folding, sketch_length
from megasim.kernels.elements import is_wide
from megasim.kernels.state import TILE, Folding

# Elements of float16 read at a time, a multiple of TILE, and as many bytes of others: large enough
# that threads seldom wait for each other to take up Python again (a quarter of it took a twelfth
# longer), small enough that hashing and arithmetic find them in the last cache.
PIECE = 2048 * TILE
# Tensors of up to so many bytes are walked over together; so many of them at a time, with so
# many sums for sketches, rows and columns.
SMALL = 1 << 18
MOST = 512
_MOST_SUMS = 1 << 18
# Up to this many unneeded bytes between two tensors are read along.
_GAP = 1 << 12
# Places in the buffer are multiples of a cache line.
_LINE = 64

# Dtypes that loops take as they are.
TAKEN = ("float16", "bfloat16", "float32")


class Extent(NamedTuple):
    """What follows from the shape and dtype of a tensor alone: how much there is of everything."""

    numel: int
    nbytes: int
    folding: Folding
    sketch_room: int
    sketch_length: int
    rows: int
    columns: int
    width: int  # elements of a row; 0: no norms are kept
    title: bytes  # what the content hash begins with
    streams: tuple[tuple[str, bytes], ...]  # fields of `Digests`, and what their hashes begin with

    @property
    def sums(self) -> int:
        """How many sums the sketch and the profile take."""
        return self.sketch_room + self.rows + self.width


@lru_cache(maxsize=4096)
def extent_of(shape: tuple[int, ...], dtype: str, sketch_size: int) -> Extent:
    numel = math.prod(shape)
    folding, length = plan_folding(numel, sketch_size), sketch_length(numel, sketch_size)
    rows, columns = profile_lengths(shape)
    return Extent(
        numel=numel,
        nbytes=numel * STORAGE_DTYPES[dtype].itemsize,
        folding=folding,
        sketch_room=folding.buckets + folding.block if folding.buckets else length,
        sketch_length=length,
        rows=rows,
        columns=columns,
        width=numel // shape[0] if rows or columns else 0,
        title=f"{dtype}:".encode(),
        streams=tuple((name, f"{name} {numel}:".encode()) for name in _streams_of(dtype)),
    )


def _streams_of(dtype: str) -> tuple[str, ...]:
    """Return the fields of `Digests` that are made of a tensor of this dtype."""
    if dtype in ("float16", "bfloat16"):
        return ("half", "bfloat16")
    if not is_wide(dtype):
        return ("half", "bfloat16", "single")
    if dtype not in ("int64", "uint64"):
        return ("half", "bfloat16", "single", "double")
    return ("half", "bfloat16", "single", "double", "integer")


def piece_elements(dtype: str) -> int:
    """Return how many elements of a dtype are read at a time: whole tiles."""
    return max(2 * PIECE // max(STORAGE_DTYPES[dtype].itemsize, 2) // TILE, 1) * TILE


def is_small(extent: Extent, dtype: str) -> bool:
    """Whether a tensor is walked over together with others."""
    return extent.nbytes <= SMALL and extent.numel <= piece_elements(dtype)


class Batch:
    """Small tensors, and where each is to lie in the buffer."""

    def __init__(self) -> None:
        self.places: list[int] = []
        self.refs: list[TensorRef] = []
        self.extents: list[Extent] = []
        self.begins: list[int] = []  # bytes
        self._runs: list[tuple[int, int]] = []  # tensors side by side in a file, first to last + 1
        self._end = self._sums = self._converted = 0

    def add(self, place: int, ref: TensorRef, extent: Extent, capacity: int) -> bool:
        """Take in one tensor more, unless that is too much; one alone never is.

        Args:
            place: what to call it by.
            capacity: bytes of the buffer.
        """
        begin = -(-self._end // _LINE) * _LINE
        gap = self._gap_before(ref)
        itemsize = STORAGE_DTYPES[ref.dtype].itemsize
        goes_on = 0 <= gap <= _GAP and (self._end + gap) % itemsize == 0
        if goes_on:
            begin = self._end + gap
        converted = self._converted + (0 if ref.dtype in TAKEN else extent.numel)
        sums = self._sums + extent.sums
        count = len(self.refs)
        if count and (
            begin + extent.nbytes > capacity
            or converted > PIECE
            or sums > _MOST_SUMS
            or count == MOST
        ):
            return False
        if goes_on:
            self._runs[-1] = (self._runs[-1][0], count + 1)
        else:
            self._runs.append((count, count + 1))
        self.places.append(place)
        self.refs.append(ref)
        self.extents.append(extent)
        self.begins.append(begin)
        self._end, self._sums, self._converted = begin + extent.nbytes, sums, converted
        return True

    def raw(self, i: int, data: AnyArray) -> AnyArray:
        """Return the elements of a tensor out of the bytes of the buffer."""
        begin = self.begins[i]
        return data[begin : begin + self.extents[i].nbytes].view(STORAGE_DTYPES[self.refs[i].dtype])

    def _gap_before(self, ref: TensorRef) -> int:
        """Return the bytes between the last tensor and one more; -1 where it lies elsewhere."""
        last = self.refs[-1] if self.refs else None
        if last is None or not (last.lies_whole and ref.lies_whole and last.path == ref.path):
            return -1
        return ref.offset - last.offset - self.extents[-1].nbytes

    def read(self, reader: TensorReader, data: AnyArray) -> None:
        """Read all tensors into the bytes of the buffer.

        Raises CheckpointError.
        """
        for first, end in self._runs:
            if end - first > 1:
                last = self.begins[end - 1] + self.extents[end - 1].nbytes
                ref = self.refs[first]
                with suppress(CheckpointError):  # reading one by one says which it is
                    reader.read_bytes(ref.path, ref.offset, data[self.begins[first] : last])
                    continue
            for i in range(first, end):
                reader.read(self.refs[i], 0, self.extents[i].numel, self.raw(i, data))


def batches(
    refs: Sequence[TensorRef], chosen: Sequence[int], sketch_size: int, capacity: int
) -> Iterator[Batch]:
    """Yield the chosen tensors, all small, in batches, by where they lie.

    Args:
        capacity: bytes of the buffer that a batch has to fit in.
    """
    batch = Batch()
    for i in sorted(chosen, key=lambda i: (refs[i].path, refs[i].offset)):
        ref = refs[i]
        extent = extent_of(ref.shape, ref.dtype, sketch_size)
        if not batch.add(i, ref, extent, capacity):
            yield batch
            batch = Batch()
            batch.add(i, ref, extent, capacity)
    if batch.refs:
        yield batch
