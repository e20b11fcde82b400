"""A tensor → norms, moments, hashes, sketch, profile, in one walk over its elements.

Four hashes tell how far two tensors are the same. `content_hash` is BLAKE3 over dtype and bytes, so
that equal hashes mean equal bytes even where somebody wishes otherwise. The hashes of the numbers
(`value_hash`, `fp16_hash`, `bf16_hash`) are NH of tiles of 1024 elements, then BLAKE3 over the
results: two tensors that differ agree by chance with a probability of at most 2⁻⁹⁶, but a forger
can make some that do. They take a third of the time of BLAKE3 over all the numbers, of which there
would have to be three.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from megasim.checkpoint.dtypes import STORAGE_DTYPES, AnyArray
from megasim.checkpoint.tensors import TensorReader, TensorRef
from megasim.fingerprint.profile import NO_NORMS, Norms, profile_lengths, relative_norms
from megasim.fingerprint.sketch import (
    DEFAULT_SIZE,
    LARGEST_FACTOR,
    plan_folding,
    sign_windows,
    wrap_sketch,
)
from megasim.kernels import loops, state
from megasim.kernels.elements import is_wide, to_double, to_single
from megasim.kernels.machine_code import Prepared, prepare
from megasim.kernels.state import PASSES, TILE, Digests, Doubles, Folding, Matrix, Singles, Walk

# Raised when any value of a fingerprint would come out otherwise; includes that of the sketch.
FINGERPRINT_VERSION = 4
# Versions whose hashes, norms and sketches are those of this one; version 3 had no profiles.
COMPARABLE_VERSIONS = frozenset({3, FINGERPRINT_VERSION})

# Elements of float16 read at a time, a multiple of TILE, and as many bytes of others: large enough
# that threads seldom wait for each other to take up Python again (a quarter of it took a twelfth
# longer), small enough that hashing and arithmetic find them in the last cache.
PIECE = 2048 * TILE


@dataclass(frozen=True, slots=True, eq=False)
class Fingerprint:
    """What megasim keeps of one tensor.

    Attributes:
        content_hash: 64 hex digits, BLAKE3 over the dtype's name and the elements' bytes, row-major
            and little-endian. The shape is not in it.
        value_hash: 32 hex digits, equal if and only if the numbers are equal, whatever the dtype;
            −0 equals 0, and all NaNs are equal. Same as `fp16_hash` or `bf16_hash` if the numbers
            fit that dtype.
        fp16_hash, bf16_hash: 32 hex digits, of the numbers rounded to that dtype, to nearest with
            ties to even; of float64 and integers by way of float32, as torch rounds them.
        dtype: torch's name. numel: number of elements.
        l1, l2, linf: norms; None where some element is NaN or inf, or l2 leaves float64's range.
            0 for an empty tensor.
        mean, std, kurtosis: of the elements as a population (ddof 0), the kurtosis as excess over
            the normal distribution's 3. None like the norms, and when empty; kurtosis also
            when the elements are all equal.
        zeros, nans, infs: how many elements are so.
        is_constant: whether all elements are equal; so with one element or none.
        sketch: (`sketch_length(numel, m)`,) float32, see `megasim.fingerprint.sketch`; empty with
            NaN or inf, or when the numbers leave the range of float32.
        row_norms, column_norms: float16, see `megasim.fingerprint.profile`; empty where none are
            kept. Unlike all else they depend on the shape.

    Norms and moments are good to about 1e-6 relative (the mean: to 1e-6 of the mean magnitude).
    """

    content_hash: str
    value_hash: str
    fp16_hash: str
    bf16_hash: str
    dtype: str
    numel: int
    l1: float | None
    l2: float | None
    linf: float | None
    mean: float | None
    std: float | None
    kurtosis: float | None
    zeros: int
    nans: int
    infs: int
    is_constant: bool
    sketch: Singles
    row_norms: Norms = field(default_factory=lambda: NO_NORMS)
    column_norms: Norms = field(default_factory=lambda: NO_NORMS)


def fingerprint_tensor(
    reader: TensorReader, ref: TensorRef, sketch_size: int = DEFAULT_SIZE
) -> Fingerprint:
    """Return the fingerprint of one tensor; for many, `fingerprint_refs` saves the preparations.

    Raises CheckpointError when the tensor cannot be read.
    """
    with np.errstate(over="ignore"):
        return _Walker(sketch_size).fingerprint(reader, ref)


def fingerprint_refs(
    refs: Sequence[TensorRef], sketch_size: int = DEFAULT_SIZE
) -> list[Fingerprint]:
    """Return the fingerprints of some tensors, in order.

    Opens what files it needs, shares nothing with other calls, and lets go of the GIL while it
    reads, hashes and computes: several calls run well side by side in threads or processes. Takes
    about 7 MB of memory for float16, bfloat16 and float32, up to 40 MB for other dtypes, and 17 MB
    more where a tensor is transposed, however large the tensors are.

    Raises CheckpointError when a tensor cannot be read.
    """
    walker = _Walker(sketch_size)
    with TensorReader() as reader, np.errstate(over="ignore"):
        return [walker.fingerprint(reader, ref) for ref in refs]


class _Walker:
    """The buffers for walking over one tensor after another."""

    def __init__(self, sketch_size: int) -> None:
        self.sketch_size = sketch_size
        block = plan_folding(0, sketch_size).block
        single = np.zeros(TILE, dtype=np.float32)
        half = np.zeros(TILE, dtype=np.uint16)
        double = np.zeros(TILE, dtype=np.float64)
        self._walk = Walk(
            keys=_hash_keys(),
            signs=sign_windows(block),
            single=single,
            single_words=single.view(np.uint64),
            half=half,
            half_words=half.view(np.uint64),
            double=double,
            double_words=double.view(np.uint64),
            packed=np.zeros(TILE // 4, dtype=np.uint64),
            moments=np.zeros(7, dtype=np.float64),
            counts=np.zeros(8, dtype=np.int64),
            folded=np.zeros(LARGEST_FACTOR * sketch_size + block, dtype=np.float32),
            sketch=np.zeros(LARGEST_FACTOR * sketch_size + block, dtype=np.float64),
        )
        self._digests = Digests(*np.zeros((5, PIECE // TILE, PASSES), dtype=np.uint64))
        self._digests_given = prepare(self._digests)
        self._walks: dict[int, tuple[Walk, Prepared]] = {}
        self._raw = np.empty(max(PIECE // 4, TILE), dtype=np.float64)
        self._words = prepare(self._raw.view(np.uint64))
        self._halves = prepare(self._raw.view(np.uint16))
        self._rows, self._columns = _Sums(np.float64), _Sums(np.float64)
        self._recent = _Sums(np.float32)

    def fingerprint(self, reader: TensorReader, ref: TensorRef) -> Fingerprint:
        numel = ref.numel
        folding = plan_folding(numel, self.sketch_size)
        room = (folding.buckets or self.sketch_size) + folding.block
        walk, given = self._walk_of(room)
        for sums in (walk.moments, walk.counts, walk.folded, walk.sketch):
            sums.fill(0)
        folding_given = _prepared(folding)
        matrix = self._matrix_of(ref.shape)
        content = blake3(f"{ref.dtype}:".encode())
        streams = {name: blake3(f"{name} {numel}:".encode()) for name in _streams(ref.dtype)}
        one_value: Any = None  # the bits that all elements so far have; None: there are two
        stored = STORAGE_DTYPES[ref.dtype]
        piece = max(2 * PIECE // max(stored.itemsize, 2) // TILE, 1) * TILE
        for start in range(0, numel, piece):
            stop = min(start + piece, numel)
            raw = self._raw.view(stored)[: stop - start]
            reader.read(ref, start, stop, raw)
            content.update(raw.view(np.uint8).data)
            bits = raw.view(f"u{raw.itemsize}")
            if start == 0:
                one_value = bits[0]
            if one_value is not None and (bits[-1] != one_value or (bits != one_value).any()):
                one_value = None
            self._take(raw, ref.dtype, given, start // TILE, folding_given, matrix)
            for name, stream in streams.items():
                rows = getattr(self._digests, name)[: -(-len(raw) // TILE)]
                stream.update(rows.view(np.uint8).data)
        counts = walk.counts.tolist()
        if counts[state.BEYOND_INT64]:  # else 2⁶⁴ − 1 would be taken for −1
            streams["integer"].update(b"unsigned")
        is_constant = numel == 0 or one_value is not None or counts[state.ZEROS] == numel
        is_finite = not (counts[state.NANS] or counts[state.INFS])
        if folding.buckets:
            sketch = wrap_sketch(walk.sketch + walk.folded, folding.buckets)
        else:
            sketch = walk.sketch[:numel].astype(np.float32)
        moments = _moments(walk.moments.tolist(), numel, is_finite, is_constant)
        rows, columns = self._profile_of(ref.shape, moments["l2"])
        return Fingerprint(
            content_hash=content.hexdigest(),
            value_hash=streams[_narrowest(ref.dtype, counts)].hexdigest(16),
            fp16_hash=streams["half"].hexdigest(16),
            bf16_hash=streams["bfloat16"].hexdigest(16),
            dtype=ref.dtype,
            numel=numel,
            **moments,
            zeros=counts[state.ZEROS],
            nans=counts[state.NANS],
            infs=counts[state.INFS],
            is_constant=is_constant,
            sketch=sketch if is_finite and np.isfinite(sketch).all() else sketch[:0].copy(),
            row_norms=rows,
            column_norms=columns,
        )

    @cached_property
    def _converted(self) -> Doubles:
        """Room for a piece of a dtype that no loop takes as it is."""
        return np.empty(PIECE, dtype=np.float64)

    def _walk_of(self, room: int) -> tuple[Walk, Prepared]:
        """Return the buffers with room for so many numbers of a sketch, and ready for the loops."""
        if room not in self._walks:
            folded, sketch = self._walk.folded[:room], self._walk.sketch[:room]
            walk = self._walk._replace(folded=folded, sketch=sketch)
            self._walks[room] = walk, prepare(walk)
        return self._walks[room]

    def _matrix_of(self, shape: Sequence[int]) -> Prepared:
        """Return empty sums for the profile of a tensor of this shape."""
        rows, columns = profile_lengths(shape)
        if not (rows or columns):
            return _NO_MATRIX
        width = math.prod(shape[1:])
        self._rows.reserve(rows)
        if columns:
            self._columns.reserve(width)
            self._recent.reserve(width)
        sums = (self._rows.given, self._columns.given, self._recent.given)
        return prepare(Matrix(*sums, width, rows > 0, columns > 0))

    def _profile_of(self, shape: Sequence[int], l2: float | None) -> tuple[Norms, Norms]:
        """Return the norms of rows and of columns, out of the sums of a walk."""
        rows, columns = profile_lengths(shape)
        if l2 is None or not (rows or columns):
            return NO_NORMS, NO_NORMS
        width = math.prod(shape[1:]) if columns else 0
        squares = self._columns.values[:width] + self._recent.values[:width]
        squares = squares.reshape(columns, -1).sum(axis=1) if columns else squares
        return relative_norms(self._rows.values[:rows], l2), relative_norms(squares, l2)

    def _take(
        self,
        raw: AnyArray,
        dtype: str,
        walk: Prepared,
        first: int,
        folding: Prepared,
        matrix: Prepared,
    ) -> None:
        """Walk over a piece that begins with tile `first`."""
        where = (walk, self._digests_given, first, folding, matrix)
        if dtype == "float16":
            loops.walk_half(self._halves.head(len(raw)), self._words, *where)
        elif dtype == "bfloat16":
            loops.walk_bfloat16(self._halves.head(len(raw)), *where)
        elif dtype == "float32":
            loops.walk_single(raw, *where)
        elif is_wide(dtype):
            doubles = self._converted[: len(raw)]
            to_double(raw, dtype, doubles)
            loops.walk_double(doubles, *where)
            if dtype in ("int64", "uint64"):
                words = raw.view(np.uint64)
                loops.hash_integers(words, dtype == "int64", walk, self._digests_given)
        else:
            singles = self._converted.view(np.float32)[: len(raw)]
            to_single(raw, dtype, singles)
            loops.walk_single(singles, *where)


class _Sums:
    """Room for the sums of a profile, as large as was needed so far."""

    def __init__(self, dtype: type[np.floating[Any]]) -> None:
        self.values: AnyArray = np.zeros(1 << 12, dtype=dtype)
        self.given: Any = prepare(self.values)

    def reserve(self, size: int) -> None:
        """Make room for `size` sums, all 0."""
        if size > len(self.values):
            self.values = np.zeros(size, dtype=self.values.dtype)
            self.given = prepare(self.values)
        else:
            self.values[:size] = 0


_NO_MATRIX = prepare(Matrix(np.zeros(1), np.zeros(1), np.zeros(1, np.float32), 0, False, False))


@lru_cache(maxsize=4096)
def _prepared(folding: Folding) -> Prepared:
    return prepare(folding)


def _hash_keys() -> npt.NDArray[np.uint64]:
    """Return the random words of the value hashes, the same everywhere and for ever."""
    data = blake3(b"megasim value hashes, version 1").digest(length=8 * (TILE + PASSES - 1))
    return np.frombuffer(data, dtype="<u8")


def _streams(dtype: str) -> tuple[str, ...]:
    """Return the fields of `Digests` that are made of a tensor of this dtype."""
    if dtype in ("float16", "bfloat16"):
        return ("half", "bfloat16")
    if not is_wide(dtype):
        return ("half", "bfloat16", "single")
    if dtype not in ("int64", "uint64"):
        return ("half", "bfloat16", "single", "double")
    return ("half", "bfloat16", "single", "double", "integer")


def _narrowest(dtype: str, counts: Sequence[int]) -> str:
    """Return the first field of `Digests` whose precision holds all elements exactly."""
    if counts[state.LOST_DOUBLE]:
        return "integer"
    if counts[state.LOST_SINGLE]:
        return "double"
    if not counts[state.LOST_HALF]:
        return "half"
    return "single" if counts[state.LOST_BFLOAT16] else "bfloat16"


def _moments(
    sums: Sequence[float], numel: int, is_finite: bool, is_constant: bool
) -> dict[str, float | None]:
    """Return l1, l2, linf, mean, std and kurtosis out of the sums of a walk."""
    mean, m2, m4 = sums[state.MEAN], sums[state.M2], sums[state.M4]
    m2 = 0.0 if is_constant else max(m2, 0.0)
    values = {
        "l1": sums[state.L1],
        "l2": math.sqrt(m2 + numel * mean * mean),
        "linf": sums[state.LINF],
        "mean": mean if numel else math.nan,
        "std": math.sqrt(m2 / numel) if numel else math.nan,
        "kurtosis": m4 / m2 / m2 * numel - 3.0 if m2 > 0 else math.nan,
    }
    return {k: v if is_finite and math.isfinite(v) else None for k, v in values.items()}
