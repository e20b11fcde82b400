"""Which tensors are walked over together, and where each lies in the buffer meanwhile.

Tensors go through the buffer in the order in which they lie in a file: a load of it is many
small ones, or part of a large one, and whatever lies side by side is read in one go.

Where a piece lies in the buffer, counted in bytes modulo a cache line, is where it lies in the
file. Copying out of the page cache depends on it: on a Zen 4 a gigabyte takes 0.05 s so, 0.11 s
where the buffer begins 16 bytes further on, and 0.3 s where it does by 8, because the processor's
own instruction for copying (`rep movsb`, which Linux takes) is slow for two places that are so
close to each other modulo a line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from megasim.checkpoint.dtypes import STORAGE_DTYPES, AnyArray
from megasim.checkpoint.tensors import TensorReader, TensorRef
from megasim.errors import CheckpointError
from megasim.fingerprint.profile import profile_lengths
from megasim.fingerprint.sketch import plan_folding, sketch_length
from megasim.kernels.elements import is_wide
from megasim.kernels.state import LINE, TILE, Folding

# Elements of float16 read at a time, a multiple of TILE, and as many bytes of others: large enough
# that threads seldom wait for each other to take up Python again (a quarter of it took a twelfth
# longer), small enough that hashing and arithmetic find them in the last cache.
PIECE = 2048 * TILE
# Tensors of up to so many bytes are not cut where a load of the buffer ends.
_SMALL = 1 << 18
# So many tensors are walked over together, with so many sums for sketches, rows and columns.
MOST = 512
_MOST_SUMS = 1 << 18
# Up to this many unneeded bytes between two tensors are read along.
_GAP = 1 << 12
# Bytes of a word, at a multiple of which pieces of large tensors begin, for the loops take float16
# by words.
_WORD = 8

# Dtypes that loops take as they are.
TAKEN = ("float16", "bfloat16", "float32")


class Extent(NamedTuple):
    """What follows from the shape and dtype of a tensor alone: how much there is of everything."""

    numel: int
    itemsize: int  # bytes of an element
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
    itemsize = STORAGE_DTYPES[dtype].itemsize
    return Extent(
        numel=numel,
        itemsize=itemsize,
        nbytes=numel * itemsize,
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
    """Return how many elements of a dtype are read at a time, at most: whole tiles."""
    return max(2 * PIECE // max(STORAGE_DTYPES[dtype].itemsize, 2) // TILE, 1) * TILE


def buffer_bytes() -> int:
    """Return how large the buffer is: a piece of any dtype, wherever in a cache line it begins."""
    return max(2 * PIECE, TILE * _WORD) + LINE


class BatchPart(NamedTuple):
    """Some elements of a tensor, all or from one tile on, and where they lie in the buffer."""

    tensor: int  # its place in the batch
    start: int
    stop: int
    begin: int  # bytes


class Load:
    """What the buffer holds at a time: parts of tensors."""

    def __init__(self) -> None:
        self.parts: list[BatchPart] = []
        # parts side by side in a file: the first and the last + 1
        self._runs: list[tuple[int, int]] = []
        self._last: tuple[TensorRef, int] | None = None  # and where in the file it ends
        self._end = self._converted = 0

    def add(self, place: int, ref: TensorRef, extent: Extent, start: int) -> int | None:
        """Take in a tensor from an element on, as far as there is room.

        Returns:
            the element up to which it was taken in; None where another load should begin with it.
        """
        itemsize = extent.itemsize
        at = ref.offset + start * itemsize if ref.lies_whole else 0
        gap = self._gap_before(ref, at)
        begin = self._end + gap
        # a loop takes an element at a multiple of its size, and large tensors word by word
        unit = itemsize if extent.nbytes <= _SMALL else _WORD
        goes_on = 0 <= gap <= _GAP and begin % unit == 0
        if not goes_on:
            begin = -(-self._end // LINE) * LINE + at % LINE // _WORD * _WORD
        room = (buffer_bytes() - begin) // itemsize
        if ref.dtype not in TAKEN:
            room = min(room, PIECE - self._converted)
        stop = extent.numel
        if stop - start > room:
            room = room // TILE * TILE
            is_cut = extent.nbytes > _SMALL and ref.lies_whole and room * itemsize >= _SMALL
            if self.parts and not is_cut:
                return None
            stop = start + min(room, piece_elements(ref.dtype))
        if goes_on:
            self._runs[-1] = (self._runs[-1][0], len(self.parts) + 1)
        else:
            self._runs.append((len(self.parts), len(self.parts) + 1))
        self.parts.append(BatchPart(place, start, stop, begin))
        self._end = begin + (stop - start) * itemsize
        self._last = (ref, at + (stop - start) * itemsize)
        if ref.dtype not in TAKEN:
            self._converted += stop - start
        return stop

    def _gap_before(self, ref: TensorRef, at: int) -> int:
        """Return the bytes between the last part and what follows; -1 where it lies elsewhere."""
        if self._last is None:
            return -1
        last, end = self._last
        if not (last.lies_whole and ref.lies_whole and last.path == ref.path):
            return -1
        return at - end

    def read(self, reader: TensorReader, refs: Sequence[TensorRef], data: AnyArray) -> None:
        """Read all parts into the bytes of the buffer.

        Args:
            refs: the tensors of the batch.

        Raises CheckpointError.
        """
        for first, end in self._runs:
            if end - first > 1:
                part, last = self.parts[first], self.parts[end - 1]
                ref = refs[part.tensor]
                offset = ref.offset + part.start * STORAGE_DTYPES[ref.dtype].itemsize
                stop = last.begin + _bytes_of(last, refs)
                with suppress(CheckpointError):  # reading one by one says which it is
                    reader.read_bytes(ref.path, offset, data[part.begin : stop])
                    continue
            for part in self.parts[first:end]:
                reader.read(
                    refs[part.tensor], part.start, part.stop, raw_elements(part, refs, data)
                )


def raw_elements(part: BatchPart, refs: Sequence[TensorRef], data: AnyArray) -> AnyArray:
    """Return the elements of a part out of the bytes of the buffer.

    Args:
        refs: the tensors of the batch.
    """
    found = data[part.begin : part.begin + _bytes_of(part, refs)]
    return found.view(STORAGE_DTYPES[refs[part.tensor].dtype])


def _bytes_of(part: BatchPart, refs: Sequence[TensorRef]) -> int:
    return (part.stop - part.start) * STORAGE_DTYPES[refs[part.tensor].dtype].itemsize


@dataclass
class Batch:
    """Tensors that are walked over together, and the loads of the buffer that they take."""

    places: list[int] = field(default_factory=list)  # what the caller calls them
    refs: list[TensorRef] = field(default_factory=list)
    extents: list[Extent] = field(default_factory=list)
    loads: list[Load] = field(default_factory=lambda: [Load()])
    _sums: int = 0

    def add(self, place: int, ref: TensorRef, extent: Extent) -> bool:
        """Take in one tensor more, unless that is too much; one alone never is."""
        count = len(self.refs)
        if count == MOST or (count and self._sums + extent.sums > _MOST_SUMS):
            return False
        self.places.append(place)
        self.refs.append(ref)
        self.extents.append(extent)
        self._sums += extent.sums
        done = self.loads[-1].add(count, ref, extent, 0)
        while done is None or done < extent.numel:
            self.loads.append(Load())
            done = self.loads[-1].add(count, ref, extent, done or 0)
        return True


def batches(refs: Sequence[TensorRef], extents: Sequence[Extent]) -> Iterator[Batch]:
    """Yield tensors in batches, by where they lie."""
    batch = Batch()
    for i in sorted(range(len(refs)), key=lambda i: (refs[i].path, refs[i].offset)):
        if not batch.add(i, refs[i], extents[i]):
            yield batch
            batch = Batch()
            batch.add(i, refs[i], extents[i])
    if batch.refs:
        yield batch
