"""What the compiled loops read and write beside the elements; no compiler is imported for it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Halves = npt.NDArray[np.uint16]
Singles = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]
Pairs = npt.NDArray[np.int32]

# Elements of a tile, of one tensor or of each of those compared: 4 KB of float32.
TILE = 1024
# 64-bit results of NH for each tile; see `_hash_words`.
PASSES = 3
# Where sums are kept in `Walk.moments` and `Walk.counts`.
COUNT, MEAN, M2, M3, M4, L1, LINF = range(7)
ZEROS, NANS, INFS = range(3)
# Nonzero in `Walk.counts` where some element is not a number of that precision.
LOST_HALF, LOST_BFLOAT16, LOST_SINGLE, LOST_DOUBLE, BEYOND_INT64 = range(3, 8)


class Walk(NamedTuple):
    """What a walk over one tensor reads and writes, beside the elements."""

    keys: Words  # (TILE + PASSES - 1,) random words of the hashes
    signs: Singles  # (2, period + block) of the sketch, flattened: a sign sequence and its negative
    single: Singles  # (TILE,) the tile as float32
    single_words: Words  # the same memory
    half: Halves  # (TILE,) the tile rounded to float16
    half_words: Words  # the same memory
    double: Doubles  # (TILE,) the tile as float64, where needed
    double_words: Words  # the same memory
    packed: Words  # (TILE / 4,) the tile rounded to bfloat16
    moments: Doubles  # (7,) count, mean, central sums 2 to 4, sum and maximum of magnitudes
    counts: Counts  # (8,) zeros, NaNs, infs; and the marks named above
    folded: Singles  # (buckets + block,) the sketch of the last tiles
    sketch: Doubles  # (buckets + block,) and of those before


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
