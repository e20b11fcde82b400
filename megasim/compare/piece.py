"""One piece of the pair pass: positions of the models → distances of pairs of contents.

A piece needs nothing but its own description and the files, so any executor can run it. At one
position all contents are read chunk by chunk, side by side, and each is read once for all the
pairs it takes part in. Memory does not grow with the size of the tensors.

A pair of which either tensor is float64, integer or bool is compared in float64, any other in
float32; sums are kept in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from megasim.checkpoint.dtypes import STORAGE_DTYPES
from megasim.checkpoint.tensors import TensorReader, TensorRef
from megasim.interrupts import stop_if_asked
from megasim.kernels import loops
from megasim.kernels.elements import is_wide, to_double, to_single
from megasim.kernels.state import LINE, TILE, Counts, Doubles, Pairs, on_a_line
from megasim.representation.logical import is_coded

if TYPE_CHECKING:
    from megasim.representation.rounding import Rounding

# Elements of a content read at a time, at most: Python's share is then a few per cent.
MAX_CHUNK = 256 * TILE
# Bytes of the rows that a loop goes over at a time, of many contents: they stay in the cache.
_CACHED = 8 << 20
_FEWEST = 16 * TILE  # elements of each, for fewer cost more to read
# A GPU is given more at a time, to be worth the call, out of buffers of so many bytes a worker.
_DEVICE_CHUNK = 8 << 20
_DEVICE_MEMORY = 1 << 26
# By how much buffers are longer to begin at any place in a cache line.
_SLACK = 2 * LINE
# Pairs of elements that a loop takes without looking for a signal.
_STEP = 1 << 32
# Norms count as this at least in cossim, as in torch.
EPS = 1e-8

Rows = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Position:
    """The contents that stand under one key, and the pairs of them that are wanted.

    Attributes:
        refs: N contents of equal size, all finite.
        pairs: (P, 2) int32 indices into `refs`.
        rows: the first dimension of the shape, for cossim; 1 for a scalar.
        metrics: of l0, l1, l2, linf, cossim. The first three cost the same as one of them.
    """

    refs: tuple[TensorRef, ...]
    pairs: Pairs
    rows: int
    metrics: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class PairPiece:
    """Some positions, the bytes of buffers they may take, and a torch device or None."""

    positions: tuple[Position, ...]
    memory: int
    device: str | None = None


@dataclass(frozen=True, eq=False)
class PairDistances:
    """(P,) arrays of one position, in the order of its pairs; None where not asked for.

    Attributes:
        rows: as in the position.
        l0: how many elements differ (−0 equals 0).
        l1, l2, linf: of the difference; 0 for empty tensors.
        cossim: mean over columns of `torch.cosine_similarity(a, b, dim=0)` with eps 1e-8, where a
            tensor has `rows` rows and numel / rows columns; NaN for empty tensors.
        roundings: of the pairs of a quantised tensor and a plain one, by their place among the
            pairs: how the plain one lies to the codes. Taken with l2.
    """

    rows: int
    l0: Counts | None = None
    l1: Doubles | None = None
    l2: Doubles | None = None
    linf: Doubles | None = None
    cossim: Doubles | None = None
    roundings: Mapping[int, Rounding] = field(default_factory=dict)


class Arithmetic(Protocol):
    """The inner loops, over a chunk of (N, n) rows and (P, 2) pairs of them.

    Attributes:
        takes_halves: whether `add_distances` takes rows of float16 and bfloat16 as their bits.
    """

    takes_halves: bool

    def add_distances(self, rows: Rows, pairs: Pairs, counts: Counts, sums: Doubles) -> None:
        """Add to the (P,) counts of differing elements and the (P, 2) sums of |d| and d²."""

    def raise_to_largest(self, rows: Rows, pairs: Pairs, linf: Doubles) -> None:
        """Raise the (P,) maxima of |d|."""

    def add_products(self, rows: Rows, pairs: Pairs, products: Doubles) -> None:
        """Add the products of the pairs to (P, C) sums by column, over whole lines of C."""


class _Compiled:
    """The compiled loops. Rows of uint16 are the bits of float16 or bfloat16."""

    takes_halves = True

    def __init__(self, refs: Sequence[TensorRef]) -> None:
        self._is_bfloat16 = np.array([ref.dtype == "bfloat16" for ref in refs])
        self._tile = on_a_line((len(refs), TILE), np.float32)

    def add_distances(self, rows: Rows, pairs: Pairs, counts: Counts, sums: Doubles) -> None:
        if rows.dtype == np.uint16:
            loops.add_halves(rows, self._is_bfloat16, self._tile, pairs, counts, sums)
        elif rows.dtype == np.float32:
            loops.add_singles(rows, pairs, counts, sums)
        else:
            loops.add_doubles(rows, pairs, counts, sums)

    def raise_to_largest(self, rows: Rows, pairs: Pairs, linf: Doubles) -> None:
        if rows.dtype == np.float32:
            loops.raise_singles(rows, pairs, linf)
        else:
            loops.raise_doubles(rows, pairs, linf)

    def add_products(self, rows: Rows, pairs: Pairs, products: Doubles) -> None:
        loops.add_products(rows, pairs, products)


def _arithmetic_of(piece: PairPiece, refs: Sequence[TensorRef]) -> Arithmetic:
    """Return the loops for a piece: one kernel for a GPU, plain torch for any other device."""
    if piece.device is None:
        return _Compiled(refs)
    if piece.device.startswith("cuda") and find_spec("triton"):
        from megasim.kernels.triton_pairs import TritonArithmetic

        is_bfloat16 = np.array([ref.dtype == "bfloat16" for ref in refs])
        return TritonArithmetic(piece.device, piece.memory, is_bfloat16)
    from megasim.kernels.torch_pairs import TorchArithmetic

    return TorchArithmetic(piece.device, piece.memory)


def _parts(pairs: int, width: int) -> Iterator[slice]:
    """Cut pairs into parts that a loop is through with in about a second, and may be stopped."""
    size = max(1, _STEP // max(width, 1))
    return (slice(start, start + size) for start in range(0, pairs, size))


def run_pair_piece(piece: PairPiece) -> list[PairDistances]:
    """Return the distances of each position of a piece, good to 1e-6 relative.

    What lies under addresses is fetched ahead into as many bytes again. Buffers take at most
    `piece.memory` bytes: mostly far less, what `MAX_CHUNK` elements of all
    contents of a position need at 2 bytes each (float16 and bfloat16), 4 or 8; and more only
    where 1024 elements of every content do not fit. The values depend neither on what else is in
    the piece nor on the memory (but for the last digit of cossim, on the latter).

    Raises:
        CheckpointError: a content cannot be read.
    """
    memory = piece.memory if piece.device is None else max(piece.memory, _DEVICE_MEMORY)
    rooms = [_room(len(position.refs), memory, piece.device) for position in piece.positions]
    buffer = _buffer(max(rooms, default=0) + _SLACK, piece.device)
    with TensorReader() as reader:
        reader.expect((ref for p in piece.positions for ref in p.refs), piece.memory)
        return [
            _compare(reader, buffer[: room + _SLACK], piece, position)
            for room, position in zip(rooms, piece.positions, strict=True)
        ]


def _room(contents: int, memory: int, device: str | None) -> int:
    """Return the bytes of the buffer of a position: they set the order of sums in cossim."""
    most = MAX_CHUNK if device is None else _DEVICE_CHUNK
    return max(min(memory, (contents + 1) * most * 8), (contents + 1) * TILE * 8)


def _buffer(size: int, device: str | None) -> npt.NDArray[np.uint8]:
    """Return room for rows: for a GPU in pinned memory, out of which it copies by itself."""
    if device is None or not device.startswith("cuda"):
        return np.empty(size, dtype=np.uint8)
    import torch

    if not torch.cuda.is_available():  # which is said by the arithmetic
        return np.empty(size, dtype=np.uint8)
    return np.asarray(torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy())


def _compare(
    reader: TensorReader, buffer: npt.NDArray[np.uint8], piece: PairPiece, position: Position
) -> PairDistances:
    """Compare the pairs of a position, those in float32 and those in float64 by themselves."""
    found: dict[str, Any] = {
        metric: np.zeros(len(position.pairs), dtype=np.int64 if metric == "l0" else np.float64)
        for metric in position.metrics
    }
    wide = np.array([is_wide(ref.dtype) for ref in position.refs], dtype=np.bool_)
    in_double = wide[position.pairs].any(axis=1)
    for double in (False, True):
        (chosen,) = np.nonzero(in_double == double)
        if not len(chosen):
            continue
        used, index = np.unique(position.pairs[chosen], return_inverse=True)
        group = _Group(reader, buffer, piece, [position.refs[i] for i in used.tolist()], double)
        pairs: Pairs = index.reshape(-1, 2).astype(np.int32)
        for metric, values in group.distances(pairs, position.metrics).items():
            found[metric][chosen] = values
        if "cossim" in found:
            found["cossim"][chosen] = group.cossim(pairs, position.rows, piece.memory // 2)
    return PairDistances(position.rows, **found, roundings=_roundings(reader, position))


def _roundings(reader: TensorReader, position: Position) -> dict[int, Rounding]:
    """Return how plain tensors lie to the codes of quantised ones, where one of a pair is that."""
    coded = [is_coded(ref) for ref in position.refs]
    if "l2" not in position.metrics or not any(coded):
        return {}
    from megasim.representation.rounding import measure_rounding

    found = {}
    for place, (a, b) in enumerate(position.pairs.tolist()):
        if coded[a] == coded[b]:
            continue
        first, second = (a, b) if coded[a] else (b, a)
        rounding = measure_rounding(reader, position.refs[first], position.refs[second])
        if rounding is not None:
            found[place] = rounding
    return found


class _Group:
    """Contents that are compared in one precision, read side by side into the rows of an array."""

    def __init__(
        self,
        reader: TensorReader,
        buffer: npt.NDArray[np.uint8],
        piece: PairPiece,
        refs: Sequence[TensorRef],
        double: bool,
    ) -> None:
        self._reader, self._buffer, self._refs = reader, buffer, refs
        self._numel = refs[0].numel
        self._dtype = np.dtype(np.float64 if double else np.float32)
        self._arithmetic = _arithmetic_of(piece, refs)
        only_halves = {ref.dtype for ref in refs} <= {"float16", "bfloat16"}
        self._narrow = only_halves and self._arithmetic.takes_halves
        self._in_cache = piece.device is None

    def distances(self, pairs: Pairs, metrics: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Return l0, l1, l2 and linf, those that are among the metrics."""
        counts = np.zeros(len(pairs), dtype=np.int64)
        sums = np.zeros((len(pairs), 2), dtype=np.float64)
        linf = np.zeros(len(pairs), dtype=np.float64)
        with_sums, with_linf = bool({"l0", "l1", "l2"} & set(metrics)), "linf" in metrics
        if not (with_sums or with_linf):
            return {}
        # float16 rows stay as they are: the compiled loop converts them in the cache
        dtype = np.dtype(np.uint16) if self._narrow and not with_linf else self._dtype
        most = _DEVICE_CHUNK
        if self._in_cache:
            most = max(_CACHED // (len(self._refs) * dtype.itemsize), _FEWEST)
            most = min(most, MAX_CHUNK)
        chunk = min(self._columns(dtype), most) // TILE * TILE
        for start in range(0, self._numel, chunk):
            rows = self._read(dtype, [(start, min(start + chunk, self._numel))])
            for part in _parts(len(pairs), rows.shape[1]):
                if with_sums:
                    self._arithmetic.add_distances(rows, pairs[part], counts[part], sums[part])
                if with_linf:
                    self._arithmetic.raise_to_largest(rows, pairs[part], linf[part])
                stop_if_asked()
        found = {"l0": counts, "l1": sums[:, 0], "l2": np.sqrt(sums[:, 1]), "linf": linf}
        return {metric: values for metric, values in found.items() if metric in metrics}

    def cossim(self, pairs: Pairs, lines: int, memory: int) -> Doubles:
        """Return the mean over columns of the cosine similarity.

        Sums of products are kept for as many columns at a time as fit in `memory` bytes.
        """
        columns = self._numel // lines if lines else 0
        if not columns:
            return np.full(len(pairs), np.nan)
        selves = np.arange(len(self._refs), dtype=np.int32)
        both = np.concatenate([pairs, np.stack([selves, selves], axis=1)])
        total = np.zeros(len(pairs), dtype=np.float64)
        width = max(1, min(columns, memory // (8 * len(both)), self._columns(self._dtype)))
        height = max(1, min(self._columns(self._dtype), MAX_CHUNK) // width)
        for left in range(0, columns, width):
            right = min(left + width, columns)
            products = np.zeros((len(both), right - left), dtype=np.float64)
            for top in range(0, lines, height):
                bottom = min(top + height, lines)
                ranges = [(i * columns + left, i * columns + right) for i in range(top, bottom)]
                if right - left == columns:
                    ranges = [(top * columns, bottom * columns)]
                rows = self._read(self._dtype, ranges)
                self._arithmetic.add_products(rows, both, products)
            norms = np.maximum(np.sqrt(products[len(pairs) :]), EPS)
            # of either order of a pair the same, to the last digit
            cosines = products[: len(pairs)] / (norms[pairs[:, 0]] * norms[pairs[:, 1]])
            total += cosines.sum(axis=1)
        return total / columns

    def _columns(self, dtype: np.dtype[Any]) -> int:
        """How many elements of every content, and of one more before conversion, have room."""
        return (len(self._buffer) - _SLACK) // (len(self._refs) * dtype.itemsize + 8)

    def _read(self, dtype: np.dtype[Any], ranges: Sequence[tuple[int, int]]) -> Rows:
        """Return (N, n) elements of some ranges, n in all; valid until the next call."""
        n = sum(stop - start for start, stop in ranges)
        begin = self._begin(dtype, ranges[0][0])
        end = begin + len(self._refs) * n * dtype.itemsize
        rows = self._buffer[begin:end].view(dtype).reshape(len(self._refs), n)
        spare = self._buffer[-(-end // 8) * 8 :]
        for ref, row in zip(self._refs, rows, strict=True):
            begin = 0
            for start, stop in ranges:
                self._fill(ref, start, stop, row[begin : begin + stop - start], spare)
                begin += stop - start
        return rows

    def _begin(self, dtype: np.dtype[Any], start: int) -> int:
        """Return where in the buffer rows begin: at the place in a cache line that they have in
        their files, where the first is read as it is: see "Copying" in docs/performance.md.
        """
        ref = self._refs[0]
        size = STORAGE_DTYPES[ref.dtype].itemsize
        if not ref.lies_whole or size != dtype.itemsize:
            return 0
        address = self._buffer.__array_interface__["data"][0]
        return int((ref.offset + start * size - address) % LINE // size * size)

    def _fill(
        self,
        ref: TensorRef,
        start: int,
        stop: int,
        out: Rows,
        spare: npt.NDArray[np.uint8],
    ) -> None:
        """Read a range of a content as numbers of the dtype of `out`."""
        stored = STORAGE_DTYPES[ref.dtype]
        if out.dtype == np.uint16 or stored == out.dtype:
            self._reader.read(ref, start, stop, out.view(stored))
            return
        raw = spare[: (stop - start) * stored.itemsize].view(stored)
        self._reader.read(ref, start, stop, raw)
        if out.dtype == np.float32:
            to_single(raw, ref.dtype, out)
        else:
            to_double(raw, ref.dtype, out)
