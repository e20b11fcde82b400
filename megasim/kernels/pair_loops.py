"""The compiled inner loops of the pair pass, and nothing else.

Rows are contents, columns are elements. Tiles of `TILE` columns of all rows stay in the cache while
all pairs go over them; sums run in float32 over `RUN` elements (relative error below 1e-6, mostly
below 1e-7) and go on in float64. Sums come out the same however the columns were cut into
chunks, as long as all chunks but the last are whole tiles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from megasim.kernels.compiled import (
    REORDER,
    bfloat16_to_single,
    bits_of,
    compiled,
    count_if,
    half_to_single,
    inlined,
    larger,
    single_of,
)
from megasim.kernels.pair_vectors import (
    HUGE,
    MOST_AT_ONCE,
    RUN,
    TINY,
    add_four,
    add_one,
    add_three,
    add_two,
    has_vector_runs,
)
from megasim.kernels.state import TILE, Counts, Doubles, Halves, Pairs, Singles


@compiled(REORDER)
def _run_singles(a: Singles, b: Singles) -> tuple[np.int64, np.float64, np.float64]:
    """Number of differences, and sums of their magnitudes and squares."""
    count = np.int32(0)
    size, square = np.float32(0), np.float32(0)
    for i in range(a.shape[0]):
        d = a[i] - b[i]
        count = count_if(count, d != 0)
        size += abs(d)
        square += d * d
    return np.int64(count), np.float64(size), np.float64(square)


@compiled(REORDER)
def _run_doubles(a: Any, b: Any) -> tuple[np.int64, np.float64, np.float64]:
    """As `_run_singles`, in float64; of float32 where those leave its range."""
    count = 0
    size, square = 0.0, 0.0
    for i in range(a.shape[0]):
        d = np.float64(a[i]) - np.float64(b[i])
        count += d != 0
        size += abs(d)
        square += d * d
    return np.int64(count), np.float64(size), np.float64(square)


@compiled()
def _add_run(a: Singles, b: Singles, p: int, counts: Counts, sums: Doubles) -> None:
    """Add up to `RUN` elements of a pair of rows to its count and sums."""
    count, size, square = _run_singles(a, b)
    if count and not TINY < square < HUGE:
        count, size, square = _run_doubles(a, b)
    counts[p] += count
    sums[p, 0] += size
    sums[p, 1] += square


@compiled()
def _add_columns(
    rows: Singles, begin: int, end: int, pairs: Pairs, counts: Counts, sums: Doubles
) -> None:
    """Add some columns of float32 rows to the sums of all pairs, run by run."""
    for p in range(pairs.shape[0]):
        a, b = rows[pairs[p, 0]], rows[pairs[p, 1]]
        for start in range(begin, end, RUN):
            stop = min(start + RUN, end)
            _add_run(a[start:stop], b[start:stop], p, counts, sums)


@inlined
def _others(pairs: Pairs, p: int) -> int:
    """Return how many pairs from p on have its first row, at most `MOST_AT_ONCE`."""
    size = 1
    while size < MOST_AT_ONCE and p + size < pairs.shape[0] and pairs[p + size, 0] == pairs[p, 0]:
        size += 1
    return size


@compiled()
def _add_each(
    rows: Singles, start: int, p: int, size: int, pairs: Pairs, counts: Counts, sums: Doubles
) -> None:
    """Add a run of some pairs, one by one."""
    for i in range(p, p + size):
        a, b = rows[pairs[i, 0]], rows[pairs[i, 1]]
        _add_run(a[start : start + RUN], b[start : start + RUN], i, counts, sums)


@compiled()
def _add_columns_by_vectors(
    rows: Singles, begin: int, end: int, pairs: Pairs, counts: Counts, sums: Doubles
) -> None:
    """As `_add_columns`; pairs that follow each other and have one first row are taken together."""
    whole = begin + (end - begin) // RUN * RUN
    p = 0
    while p < pairs.shape[0]:
        size = _others(pairs, p)
        for start in range(begin, whole, RUN):
            if size == 1:
                done = add_one(rows, start, pairs, p, counts, sums)
            elif size == 2:
                done = add_two(rows, start, pairs, p, counts, sums)
            elif size == 3:
                done = add_three(rows, start, pairs, p, counts, sums)
            else:
                done = add_four(rows, start, pairs, p, counts, sums)
            if not done:
                _add_each(rows, start, p, size, pairs, counts, sums)
        p += size
    if whole < end:
        _add_columns(rows, whole, end, pairs, counts, sums)


_add_tile = _add_columns_by_vectors if has_vector_runs() else _add_columns


@compiled()
def add_singles(rows: Singles, pairs: Pairs, counts: Counts, sums: Doubles) -> None:
    """Add a chunk of float32 elements to the sums of all pairs.

    Args:
        rows: (N, n) finite numbers.
        pairs: (P, 2) rows to compare.
        counts: (P,) numbers of differing elements, added to.
        sums: (P, 2) sums of |a − b| and of (a − b)², added to.
    """
    for start in range(0, rows.shape[1], TILE):
        _add_tile(rows, start, min(start + TILE, rows.shape[1]), pairs, counts, sums)


@compiled()
def add_halves(
    rows: Halves,
    is_bfloat16: npt.NDArray[np.bool_],
    tile: Singles,
    pairs: Pairs,
    counts: Counts,
    sums: Doubles,
) -> None:
    """As `add_singles`, of float16 and bfloat16 rows given as their bits.

    They are converted tile by tile in the cache, which halves the traffic to memory.

    Args:
        is_bfloat16: (N,) which rows are bfloat16.
        tile: (N, TILE) room for the converted rows.
    """
    for start in range(0, rows.shape[1], TILE):
        stop = min(start + TILE, rows.shape[1])
        for r in range(rows.shape[0]):
            if is_bfloat16[r]:
                bfloat16_to_single(rows[r, start:stop], tile[r])
            else:
                half_to_single(rows[r, start:stop], tile[r])
        _add_tile(tile, 0, stop - start, pairs, counts, sums)


@compiled()
def add_doubles(rows: Doubles, pairs: Pairs, counts: Counts, sums: Doubles) -> None:
    """As `add_singles`, of float64 rows."""
    for start in range(0, rows.shape[1], TILE):
        for p in range(pairs.shape[0]):
            a = rows[pairs[p, 0], start : start + TILE]
            b = rows[pairs[p, 1], start : start + TILE]
            count, size, square = _run_doubles(a, b)
            counts[p] += count
            sums[p, 0] += size
            sums[p, 1] += square


@compiled(REORDER)
def _largest_single(a: Singles, b: Singles) -> np.float64:
    largest = np.uint32(0)
    for i in range(a.shape[0]):
        largest = larger(largest, bits_of(abs(a[i] - b[i])))
    return np.float64(single_of(largest))


@compiled()
def _largest_double(a: Any, b: Any) -> np.float64:
    largest = np.float64(0)
    for i in range(a.shape[0]):
        largest = max(largest, abs(np.float64(a[i]) - np.float64(b[i])))
    return largest


@compiled()
def raise_singles(rows: Singles, pairs: Pairs, linf: Doubles) -> None:
    """Raise the (P,) maxima of |a − b| to those of a chunk of (N, n) float32 rows."""
    for start in range(0, rows.shape[1], TILE):
        for p in range(pairs.shape[0]):
            a = rows[pairs[p, 0], start : start + TILE]
            b = rows[pairs[p, 1], start : start + TILE]
            largest = _largest_single(a, b)
            if largest == np.inf:
                largest = _largest_double(a, b)
            linf[p] = max(linf[p], largest)


@compiled()
def raise_doubles(rows: Doubles, pairs: Pairs, linf: Doubles) -> None:
    """As `raise_singles`, of float64 rows."""
    for p in range(pairs.shape[0]):
        linf[p] = max(linf[p], _largest_double(rows[pairs[p, 0]], rows[pairs[p, 1]]))


@compiled(REORDER)
def _add_line(a: Any, b: Any, out: Doubles) -> None:
    for i in range(out.shape[0]):
        out[i] += np.float64(a[i]) * np.float64(b[i])


@compiled()
def add_products(rows: Any, pairs: Pairs, products: Doubles) -> None:
    """Add the products of pairs of rows, column by column, over lines of C columns.

    Args:
        rows: (N, k·C) k lines of C columns each, float32 or float64.
        pairs: (P, 2); a row with itself gives its squares.
        products: (P, C) float64, added to.
    """
    columns = products.shape[1]
    for p in range(pairs.shape[0]):
        a, b = rows[pairs[p, 0]], rows[pairs[p, 1]]
        for start in range(0, rows.shape[1], columns):
            _add_line(a[start : start + columns], b[start : start + columns], products[p])
