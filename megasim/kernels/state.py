"""What the compiled loops read and write beside the elements; no compiler is imported for it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Halves = npt.NDArray[np.uint16]
Singles = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]
Pairs = npt.NDArray[np.int32]
Jobs = npt.NDArray[np.int64]

# Elements of a tile, of one tensor or of each of those compared: 4 KB of float32.
TILE = 1024
# Bytes of a cache line.
LINE = 64
# 64-bit results of NH for each tile; see `_hash_words`.
PASSES = 3
# Where sums are kept in `Sums.moments` and `Sums.counts`.
COUNT, MEAN, M2, M3, M4, L1, LINF, SQUARES = range(8)
MOMENTS = 8
ZEROS, NANS, INFS = range(3)
# Nonzero in `Sums.counts` where some element is not a number of that precision.
LOST_HALF, LOST_BFLOAT16, LOST_SINGLE, LOST_DOUBLE, BEYOND_INT64 = range(3, 8)
# Whether elements differ, 0: none was seen, 1: not yet, 2: they do; the bits of the first; and
# whether the sketch leaves the range of float32.
VARIES, ONE_VALUE, UNFIT_SKETCH = range(8, 11)
COUNTS = 11

# The order of the statuses in the last axis of the counts of `tally_key`. What is "changed" is not
# counted: it is what is left of the keys that both models hold, and most pairs of most keys are.
COUNTED = (
    *("identical", "same_values", "same_at_fp16", "same_at_bf16", "shape_mismatch"),
    *("non_finite", "renamed", "keys_measured"),
)


def on_a_line(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
    """Return zeros of a shape that begin with a cache line.

    Vectors of 512 bits that begin elsewhere lie in two lines each, and take twice as long.

    >>> on_a_line((3, 16), "f4").ctypes.data % LINE
    0
    """
    kind = np.dtype(dtype)
    nbytes = math.prod(shape) * kind.itemsize
    room = np.zeros(nbytes + LINE, dtype=np.uint8)
    begin = -room.__array_interface__["data"][0] % LINE
    return room[begin : begin + nbytes].view(kind).reshape(shape)


class JobFields(NamedTuple):
    """The fields of a job: what of a tensor to take, and where its results go."""

    BEGIN: int  # first element in the buffer
    SIZE: int  # elements
    TILE: int  # number of the first tile in the tensor
    SLOT: int  # row of moments and counts
    DIGEST: int  # first row of the digests
    SEED: int  # of the sketch, as the same bits signed; with the next four, a `Folding`
    BUCKETS: int
    BLOCK: int
    PERIOD: int
    FLUSH: int
    SKETCH: int  # first place in the sums of sketches
    SKETCH_ROOM: int  # and how many there are
    SKETCH_LENGTH: int  # numbers of the finished sketch
    ROW: int  # first place in the sums of rows
    ROWS: int  # rows whose norms are kept
    COLUMN: int  # first place in the sums of columns
    COLUMNS: int  # columns whose norms are kept
    WIDTH: int  # elements of a row; 0: no norms are kept
    SIGNED: int  # whether integers are


At = JobFields(*range(len(JobFields._fields)))


class Scratch(NamedTuple):
    """What walks need beside the elements and the results: constants, and room for a tile."""

    keys: Words  # (TILE + PASSES - 1,) random words of the hashes
    signs: Singles  # (2, period + block) of the sketch, flattened: a sign sequence and its negative
    single: Singles  # (TILE,) the tile as float32
    single_words: Words  # the same memory
    half: Halves  # (TILE,) the tile rounded to float16
    half_words: Words  # the same memory
    double: Doubles  # (TILE,) the tile as float64, where needed
    double_words: Words  # the same memory
    packed: Words  # (TILE / 4,) the tile rounded to bfloat16


class Sums(NamedTuple):
    """What walks add up, of many tensors one after another: `At` says which has what."""

    moments: Doubles  # (T, 8) count, mean, central sums 2 to 4, sum and maximum of magnitudes,
    # and the sum of squares of the last tile
    counts: Counts  # (T, 11) zeros, NaNs, infs; and the marks named above
    folded: Singles  # the sketches of the last tiles
    sketch: Doubles  # and of those before
    rows: Doubles  # sums of squares, see `Matrix`
    columns: Doubles
    recent: Singles


class Kept(NamedTuple):
    """What is made of the sums, at the same places."""

    sketch: Singles
    row_norms: Halves  # the bits of float16
    column_norms: Halves


class Digests(NamedTuple):
    """(tiles, PASSES) NH results of a piece rounded to each precision."""

    half: Words
    bfloat16: Words
    single: Words
    double: Words
    integer: Words  # int64 and uint64, as they are


class Folding(NamedTuple):
    """How a tensor is folded into its sketch; see `sketch`."""

    seed: np.uint64
    buckets: int  # 0: the tensor is kept whole
    block: int  # a power of two, at most `buckets`
    period: int  # of the sign sequence
    flush: int  # tiles between two additions in float64


class Matrix(NamedTuple):
    """Where the squares of a tensor are added up, seen as rows of `width` elements each."""

    rows: Doubles  # (rows or more,) sums over each row
    columns: Doubles  # (width or more,) sums over each place in a row
    recent: Singles  # (width or more,) of the last rows, not yet in `columns`
    width: int  # 0: neither is wanted
    has_rows: bool
    has_columns: bool
