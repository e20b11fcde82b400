"""Tensors → what the compiled walks make of them: sums, digests, sketches, profiles.

They are read through one buffer, those that lie side by side in one go, and each load of it is
walked over in one call for all tensors of a dtype. Of a file of many small tensors, Python's share
is a few microseconds each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from megasim.checkpoint.tensors import TensorReader, TensorRef
from megasim.fingerprint.batches import (
    MOST,
    TAKEN,
    Batch,
    BatchPart,
    Extent,
    batches,
    buffer_bytes,
    extent_of,
    piece_elements,
    raw_elements,
)
from megasim.fingerprint.sketch import plan_folding, sign_windows
from megasim.fingerprint.table import FingerprintTable
from megasim.fingerprint.tensor_hashes import TensorHashes
from megasim.kernels import loops, state
from megasim.kernels.elements import is_wide, to_double, to_single
from megasim.kernels.machine_code import prepare
from megasim.kernels.state import (
    COUNTS,
    LINE,
    MOMENTS,
    PASSES,
    TILE,
    At,
    Digests,
    Doubles,
    Jobs,
    Kept,
    Scratch,
    Sums,
    on_a_line,
)

# Sums of a tensor begin with a cache line: this many float32.
_LANES = LINE // 4


class Walker:
    """The buffers for walking over one tensor after another. Not to be shared by threads."""

    def __init__(self, sketch_size: int) -> None:
        self.sketch_size = sketch_size
        single, half, double = (on_a_line((TILE,), dtype) for dtype in ("f4", "u2", "f8"))
        self._scratch = prepare(
            Scratch(
                keys=_on_a_line_of(_hash_keys()),
                signs=_on_a_line_of(sign_windows(plan_folding(0, sketch_size).block)),
                single=single,
                single_words=single.view(np.uint64),
                half=half,
                half_words=half.view(np.uint64),
                double=double,
                double_words=double.view(np.uint64),
                packed=on_a_line((TILE // 4,), "u8"),
            )
        )
        self._piece = piece_elements("float16")
        rows = self._piece // TILE + MOST
        self._digests = Digests(*np.zeros((len(Digests._fields), rows, PASSES), dtype=np.uint64))
        self._digests_given = prepare(self._digests)
        self._digest_bytes = {
            name: memoryview(rows.reshape(-1).view(np.uint8))
            for name, rows in self._digests._asdict().items()
        }
        self._buffer = on_a_line((buffer_bytes(),), "u1")
        self._halves = prepare(self._buffer.view(np.uint16))
        self._singles = prepare(self._buffer.view(np.float32))
        self._words = prepare(self._buffer.view(np.uint64))
        self._arenas = _Arenas()

    def walk(self, reader: TensorReader, refs: Sequence[TensorRef]) -> FingerprintTable:
        """Return the fingerprints of some tensors, in order.

        Raises CheckpointError when a tensor cannot be read.
        """
        extents = [extent_of(ref.shape, ref.dtype, self.sketch_size) for ref in refs]
        table = FingerprintTable(
            [ref.dtype for ref in refs],
            [e.numel for e in extents],
            [e.sketch_length for e in extents],
            [e.rows for e in extents],
            [e.columns for e in extents],
        )
        for batch in batches(refs, extents):
            self._walk_batch(reader, batch, table)
        return table

    def _walk_batch(self, reader: TensorReader, batch: Batch, table: FingerprintTable) -> None:
        jobs = self._jobs([ref.dtype for ref in batch.refs], batch.extents)
        arenas, count = self._arenas, len(batch.refs)
        counts = arenas.counts[:count]
        hashes = TensorHashes(batch)
        for load, pieces in zip(batch.loads, _jobs_of_loads(batch, jobs), strict=True):
            load.read(reader, batch.refs, self._buffer)
            hashes.add_bytes(load, self._buffer)
            for dtype, chosen, parts in pieces:
                self._take(dtype, chosen, batch, parts)
            hashes.add_digests(load, self._digest_bytes, counts)
        self._finish(jobs)
        one_value = np.array(hashes.is_one_value) & (counts[:, state.VARIES] < 2)
        arenas.save(table, batch.places, jobs)
        table.take_sums(batch.places, arenas.moments[:count], counts, one_value)
        table.take_hashes(batch.places, hashes.found(reader, counts))

    def _jobs(self, dtypes: Sequence[str], extents: Sequence[Extent]) -> Jobs:
        """Return a job for each tensor, as a whole, and empty sums for all."""
        rows = []
        sketch = row = column = 0
        for slot, (dtype, e) in enumerate(zip(dtypes, extents, strict=True)):
            seed, *folding = e.folding
            rows.append(
                (
                    *(0, e.numel, 0, slot, 0, _signed(int(seed)), *folding),
                    *(sketch, e.sketch_room, e.sketch_length),
                    *(row, e.rows, column, e.columns, e.width, dtype == "int64"),
                )
            )
            sketch += -(-e.sketch_room // _LANES) * _LANES
            row += e.rows
            column += -(-e.width // _LANES) * _LANES if e.columns else 0
        self._arenas.empty(len(extents), sketch, row, column)
        return np.array(rows, dtype=np.int64)

    def _take(self, dtype: str, jobs: Jobs, batch: Batch, parts: Sequence[BatchPart]) -> None:
        """Walk over parts of one dtype, which lie in the buffer, all of them in one call."""
        if dtype in TAKEN:
            where = self._where(jobs)
            if dtype == "float16":
                loops.walk_halves(self._halves, self._words, *where)
            elif dtype == "bfloat16":
                loops.walk_bfloat16s(self._halves, *where)
            else:
                loops.walk_singles(self._singles, *where)
            return
        if dtype in ("int64", "uint64"):
            loops.hash_integers(self._words, *self._where(jobs))
        jobs = jobs.copy()
        jobs[:, At.BEGIN] = np.cumsum(jobs[:, At.SIZE]) - jobs[:, At.SIZE]
        singles = self._converted.view(np.float32)
        raws = [raw_elements(part, batch.refs, self._buffer) for part in parts]
        for begin, raw in zip(jobs[:, At.BEGIN].tolist(), raws, strict=True):
            if is_wide(dtype):
                to_double(raw, dtype, self._converted[begin:])
            else:
                to_single(raw, dtype, singles[begin:])
        if is_wide(dtype):
            loops.walk_doubles(self._converted, *self._where(jobs))
        else:
            loops.walk_singles(singles, *self._where(jobs))

    def _where(self, jobs: Jobs) -> tuple[Any, ...]:
        """Return what all walks take, beside the elements."""
        return prepare(jobs), self._scratch, self._arenas.sums, self._digests_given

    def _finish(self, jobs: Jobs) -> None:
        """Make the sketches and profiles, after all parts were taken."""
        loops.finish_walks(prepare(jobs), self._arenas.sums, self._arenas.kept)

    @cached_property
    def _converted(self) -> Doubles:
        """Room for a piece of a dtype that no loop takes as it is."""
        return np.empty(self._piece, dtype=np.float64)


def _jobs_of_loads(
    batch: Batch, jobs: Jobs
) -> Iterator[list[tuple[str, Jobs, Sequence[BatchPart]]]]:
    """Yield for each load its dtypes, and of each the jobs and parts that are walked over.

    They are made for all loads at once, for Python takes long where a walk has emptied the caches.

    Args:
        jobs: of the tensors of the batch, as a whole.
    """
    every = np.array([part for load in batch.loads for part in load.parts], dtype=np.int64)
    tensors, start, stop, begin = every.T
    chosen = jobs[tensors]
    tiles = -(-(stop - start) // TILE)
    ends = np.cumsum([len(load.parts) for load in batch.loads])
    before = np.cumsum(tiles) - tiles
    chosen[:, At.SIZE] = stop - start
    chosen[:, At.TILE] = start // TILE
    chosen[:, At.BEGIN] = begin // np.array([e.itemsize for e in batch.extents])[tensors]
    dtypes = [ref.dtype for ref in batch.refs]
    first = 0
    for load, end in zip(batch.loads, ends.tolist(), strict=True):
        chosen[first:end, At.DIGEST] = before[first:end] - before[first]
        own = [dtypes[part.tensor] for part in load.parts]
        kinds = list(dict.fromkeys(own))
        if len(kinds) == 1:
            yield [(kinds[0], chosen[first:end], load.parts)]
        else:
            places = [[i for i, other in enumerate(own) if other == dtype] for dtype in kinds]
            yield [
                (dtype, chosen[first:end][these], [load.parts[i] for i in these])
                for dtype, these in zip(kinds, places, strict=True)
            ]
        first = end


class _Arenas:
    """Room for the sums of many tensors one after another, as large as was needed so far."""

    def __init__(self) -> None:
        self._make(1, 1 << 12, 1 << 12, 1 << 12)

    def empty(self, tensors: int, sketch: int, rows: int, columns: int) -> None:
        """Make room for as many tensors, and as many sums of each kind, all 0."""
        t, s, r, c = self._sizes
        if tensors > t or sketch > s or rows > r or columns > c:
            self._make(max(tensors, t), max(sketch, s), max(rows, r), max(columns, c))
            return
        self.moments[:tensors] = 0
        self.counts[:tensors] = 0
        for sums, size in (
            *((self._sums.folded, sketch), (self._sums.sketch, sketch), (self._sums.rows, rows)),
            *((self._sums.columns, columns), (self._sums.recent, columns)),
        ):
            sums[:size] = 0

    def _make(self, tensors: int, sketch: int, rows: int, columns: int) -> None:
        self._sizes = (tensors, sketch, rows, columns)
        self.moments = np.zeros((tensors, MOMENTS), dtype=np.float64)
        self.counts = np.zeros((tensors, COUNTS), dtype=np.int64)
        self._sums = Sums(
            moments=self.moments,
            counts=self.counts,
            folded=on_a_line((sketch,), "f4"),
            sketch=on_a_line((sketch,), "f8"),
            rows=on_a_line((rows,), "f8"),
            columns=on_a_line((columns,), "f8"),
            recent=on_a_line((columns,), "f4"),
        )
        self._kept = Kept(
            sketch=np.zeros(sketch, dtype=np.float32),
            row_norms=np.zeros(rows, dtype=np.uint16),
            column_norms=np.zeros(columns, dtype=np.uint16),
        )
        self.sums, self.kept = prepare(self._sums), prepare(self._kept)

    def save(self, table: FingerprintTable, places: Sequence[int], jobs: Jobs) -> None:
        """Copy sketches and profiles into their rows of a table."""
        kept = self._kept
        for lists, made, first, length in (
            (table.sketches, kept.sketch, At.SKETCH, At.SKETCH_LENGTH),
            (table.row_norms, kept.row_norms.view(np.float16), At.ROW, At.ROWS),
            (table.column_norms, kept.column_norms.view(np.float16), At.COLUMN, At.COLUMNS),
        ):
            starts = lists.starts[np.array(places, dtype=np.int64)].tolist()
            for begin, size, start in zip(
                jobs[:, first].tolist(), jobs[:, length].tolist(), starts, strict=True
            ):
                if size:
                    lists.values[start : start + size] = made[begin : begin + size]


def _on_a_line_of(values: npt.NDArray[Any]) -> Any:
    """Return a copy of an array that begins with a cache line."""
    found = on_a_line(values.shape, values.dtype)
    found[:] = values
    return found


def _signed(word: int) -> int:
    """Return a 64-bit word as the signed integer of the same bits."""
    return word - (1 << 64) if word >> 63 else word


def _hash_keys() -> npt.NDArray[np.uint64]:
    """Return the random words of the value hashes, the same everywhere and for ever."""
    data = blake3(b"megasim value hashes, version 1").digest(length=8 * (TILE + PASSES - 1))
    return np.frombuffer(data, dtype="<u8")
