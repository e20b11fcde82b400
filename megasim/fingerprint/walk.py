"""Tensors → what the compiled walks make of them: sums, digests, sketches, profiles.

Large tensors are read and walked over piece by piece, each once. Small ones are read into one
buffer, those that lie side by side in one go, and walked over in one call: of a file of many
small tensors, Python's share is a few microseconds each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from megasim.checkpoint.dtypes import STORAGE_DTYPES, AnyArray
from megasim.checkpoint.tensors import TensorReader, TensorRef
from megasim.fingerprint.batches import (
    MOST,
    TAKEN,
    Batch,
    Extent,
    batches,
    extent_of,
    is_small,
    piece_elements,
)
from megasim.fingerprint.sketch import plan_folding, sign_windows
from megasim.fingerprint.stored_bytes import stored_hash
from megasim.fingerprint.table import HASHES, FingerprintTable
from megasim.kernels import loops, state
from megasim.kernels.elements import is_wide, to_double, to_single
from megasim.kernels.machine_code import prepare
from megasim.kernels.state import (
    COUNTS,
    MOMENTS,
    PASSES,
    TILE,
    At,
    Counts,
    Digests,
    Doubles,
    Jobs,
    Kept,
    Scratch,
    Sums,
)

_DIGEST_BYTES = 8 * PASSES
# Follows the digests of a uint64 tensor that int64 could not hold: else 2⁶⁴ − 1 would be −1.
_BEYOND_INT64 = b"unsigned"


class Walker:
    """The buffers for walking over one tensor after another. Not to be shared by threads."""

    def __init__(self, sketch_size: int) -> None:
        self.sketch_size = sketch_size
        single = np.zeros(TILE, dtype=np.float32)
        half = np.zeros(TILE, dtype=np.uint16)
        double = np.zeros(TILE, dtype=np.float64)
        self._scratch = prepare(
            Scratch(
                keys=_hash_keys(),
                signs=sign_windows(plan_folding(0, sketch_size).block),
                single=single,
                single_words=single.view(np.uint64),
                half=half,
                half_words=half.view(np.uint64),
                double=double,
                double_words=double.view(np.uint64),
                packed=np.zeros(TILE // 4, dtype=np.uint64),
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
        self._buffer = np.empty(max(self._piece // 4, TILE), dtype=np.float64)
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
        small = []
        for i, (ref, extent) in enumerate(zip(refs, extents, strict=True)):
            if is_small(extent, ref.dtype):
                small.append(i)
            else:
                self._walk_large(reader, ref, extent, table, i)
        for batch in batches(refs, small, self.sketch_size, self._buffer.nbytes):
            self._walk_batch(reader, batch, table)
        return table

    # One large tensor

    def _walk_large(
        self, reader: TensorReader, ref: TensorRef, extent: Extent, table: FingerprintTable, i: int
    ) -> None:
        jobs = self._jobs([ref.dtype], [extent])
        job = jobs[0]
        content = blake3(extent.title)
        streams = {name: blake3(title) for name, title in extent.streams}
        one_value: Any = None  # the bits that all elements so far have
        is_one_value = True
        dtype = STORAGE_DTYPES[ref.dtype]
        step = piece_elements(ref.dtype)
        for start in range(0, extent.numel, step):
            raw = self._buffer.view(dtype)[: min(step, extent.numel - start)]
            reader.read(ref, start, start + len(raw), raw)
            if not ref.is_decoded:
                content.update(raw.view(np.uint8).data)
            if is_wide(ref.dtype):
                bits = raw.view(f"u{raw.itemsize}")
                one_value = bits[0] if start == 0 else one_value
                is_one_value = is_one_value and bool((bits == one_value).all())
            job[At.SIZE], job[At.TILE] = len(raw), start // TILE
            self._take(ref.dtype, jobs, [raw])
            end = -(-len(raw) // TILE) * _DIGEST_BYTES
            for name, stream in streams.items():
                stream.update(self._digest_bytes[name][:end])
        self._finish(jobs)
        if self._arenas.counts[0, state.BEYOND_INT64]:
            streams["integer"].update(_BEYOND_INT64)
        stored = bytes.fromhex(stored_hash(reader, ref)) if ref.is_decoded else content.digest()
        self._save(table, [i], jobs, [is_one_value], [stored], lambda _, name: streams[name])

    # Many small tensors

    def _walk_batch(self, reader: TensorReader, batch: Batch, table: FingerprintTable) -> None:
        data = self._buffer.view(np.uint8)
        batch.read(reader, data)
        memory = data.data
        # before the walk, which may make −0 a 0 where it lies
        contents = [
            bytes.fromhex(stored_hash(reader, ref))
            if ref.is_decoded
            else blake3(extent.title).update(memory[begin : begin + extent.nbytes]).digest()
            for ref, extent, begin in zip(batch.refs, batch.extents, batch.begins, strict=True)
        ]
        dtypes = [ref.dtype for ref in batch.refs]
        jobs = self._jobs(dtypes, batch.extents)
        jobs[:, At.BEGIN] = batch.begins
        jobs[:, At.BEGIN] //= [STORAGE_DTYPES[dtype].itemsize for dtype in dtypes]
        tiles = -(-jobs[:, At.SIZE] // TILE)
        jobs[:, At.DIGEST] = np.cumsum(tiles) - tiles
        one_values = [True] * len(dtypes)
        for dtype in dict.fromkeys(dtypes):
            chosen = [i for i, other in enumerate(dtypes) if other == dtype]
            raws: list[AnyArray] = []
            if dtype not in TAKEN:
                raws = [batch.raw(i, data) for i in chosen]
            if is_wide(dtype):
                for i, raw in zip(chosen, raws, strict=True):
                    one_values[i] = bool((raw == raw[:1]).all())
            self._take(dtype, jobs[chosen], raws)
        self._finish(jobs)
        firsts = (jobs[:, At.DIGEST] * _DIGEST_BYTES).tolist()
        ends = ((jobs[:, At.DIGEST] + tiles) * _DIGEST_BYTES).tolist()
        beyond = self._arenas.counts[: len(dtypes), state.BEYOND_INT64].tolist()
        titles = [dict(extent.streams) for extent in batch.extents]

        def stream(i: int, name: str) -> blake3:
            digest = titles[i][name] + bytes(self._digest_bytes[name][firsts[i] : ends[i]])
            return blake3(digest + _BEYOND_INT64 if name == "integer" and beyond[i] else digest)

        self._save(table, batch.places, jobs, one_values, contents, stream)

    # Both

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
            sketch += e.sketch_room
            row += e.rows
            column += e.width if e.columns else 0
        self._arenas.empty(len(extents), sketch, row, column)
        return np.array(rows, dtype=np.int64)

    def _take(self, dtype: str, jobs: Jobs, raws: Sequence[AnyArray]) -> None:
        """Walk over pieces of one dtype, which lie in the buffer."""
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

    @cached_property
    def _converted(self) -> Doubles:
        """Room for a piece of a dtype that no loop takes as it is."""
        return np.empty(self._piece, dtype=np.float64)

    def _finish(self, jobs: Jobs) -> None:
        """Make the sketches and profiles, after all pieces were taken."""
        loops.finish_walks(prepare(jobs), self._arenas.sums, self._arenas.kept)

    def _save(
        self,
        table: FingerprintTable,
        places: Sequence[int],
        jobs: Jobs,
        is_one_value: Sequence[bool],
        contents: Sequence[bytes],
        stream: Callable[[int, str], blake3],
    ) -> None:
        """Write what a walk found of some tensors into their rows of the table.

        Args:
            places: the rows, one for each of the jobs.
            contents: their content hashes.
            stream: gives the hash of the numbers of the i-th in a precision.
        """
        arenas, count = self._arenas, len(places)
        counts = arenas.counts[:count]
        one_value = np.array(is_one_value) & (counts[:, state.VARIES] < 2)
        arenas.save(table, places, jobs)
        table.take_sums(places, arenas.moments[:count], counts, one_value)
        hashes = []
        for i, narrowest in enumerate(_narrowest(counts)):
            half, bfloat16 = (stream(i, name).digest(16) for name in ("half", "bfloat16"))
            known = {"half": half, "bfloat16": bfloat16}
            value = known.get(narrowest) or stream(i, narrowest).digest(16)
            hashes.append(contents[i] + value + half + bfloat16)
        together = np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(count, -1)
        where, begin = np.array(places, dtype=np.int64), 0
        for name, size in HASHES.items():
            table.hashes[name][where] = together[:, begin : begin + size]
            begin += size


def _narrowest(counts: Counts) -> list[str]:
    """Return the first field of `Digests` whose precision holds all elements exactly, of each."""
    lost = counts[:, [state.LOST_DOUBLE, state.LOST_SINGLE]] != 0
    fits = counts[:, [state.LOST_HALF, state.LOST_BFLOAT16]] == 0
    conditions = [lost[:, 0], lost[:, 1], fits[:, 0], fits[:, 1]]
    found: list[str] = np.select(
        conditions, ["integer", "double", "half", "bfloat16"], "single"
    ).tolist()
    return found


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
            folded=np.zeros(sketch, dtype=np.float32),
            sketch=np.zeros(sketch, dtype=np.float64),
            rows=np.zeros(rows, dtype=np.float64),
            columns=np.zeros(columns, dtype=np.float64),
            recent=np.zeros(columns, dtype=np.float32),
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


def _signed(word: int) -> int:
    """Return a 64-bit word as the signed integer of the same bits."""
    return word - (1 << 64) if word >> 63 else word


def _hash_keys() -> npt.NDArray[np.uint64]:
    """Return the random words of the value hashes, the same everywhere and for ever."""
    data = blake3(b"megasim value hashes, version 1").digest(length=8 * (TILE + PASSES - 1))
    return np.frombuffer(data, dtype="<u8")
