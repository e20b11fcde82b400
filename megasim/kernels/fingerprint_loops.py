"""The compiled inner loops of the fingerprint pass, and nothing else.

A tensor comes in pieces of whole tiles (the last may end within one), and a tile stays in the
first-level cache while everything is made of it: conversion, sums, rounding, hashes, sketch.
Results depend on the elements alone, not on how they were cut into pieces. They may differ
between kinds of processor in the last digits of the sums, never in the hashes.

Sums run in float32 over a tile, in vector lanes of a few dozen elements, and go on in float64: the
relative error stays near 1e-7. A tile whose powers leave the range of float32 is summed in
float64 from the start.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from megasim.kernels.compiled import (
    REORDER,
    SINGLE_INF,
    bfloat16_to_single,
    bits_of,
    compiled,
    count_if,
    half_to_single,
    larger,
    round_to_half,
    single_of,
)
from megasim.kernels.profile_loops import profile_doubles, profile_singles
from megasim.kernels.state import (
    BEYOND_INT64,
    COUNT,
    INFS,
    L1,
    LINF,
    LOST_BFLOAT16,
    LOST_DOUBLE,
    LOST_HALF,
    LOST_SINGLE,
    M2,
    M3,
    M4,
    MEAN,
    NANS,
    TILE,
    ZEROS,
    Counts,
    Digests,
    Doubles,
    Folding,
    Halves,
    Matrix,
    Singles,
    Walk,
    Words,
)

# How a tile was summed.
_NOT_FINITE, _IN_SINGLE, _IN_DOUBLE = range(3)

# Sums of fourth powers between these lost nothing to the range of float32.
_TINY, _HUGE = 1e-24, 1e30

_LOW, _16, _32 = np.uint64(0xFFFFFFFF), np.uint64(16), np.uint64(32)
# All bits but the sign, of each 16, 32 or 64-bit lane of a word.
_HALF_LANES = np.uint64(0x7FFF7FFF7FFF7FFF)
_SINGLE_LANES = np.uint64(0x7FFFFFFF7FFFFFFF)
_DOUBLE_LANES = np.uint64(0x7FFFFFFFFFFFFFFF)
_ALL_BITS = np.uint64(0xFFFFFFFFFFFFFFFF)
_TOP_HALVES, _LOWEST = np.uint64(0xFFFF0000FFFF0000), np.uint64(0x0000000100000001)
_BELOW_HALF = np.uint64(0x00007FFF00007FFF)
_31_BITS = np.uint64(0x7FFFFFFF)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@compiled()
def _fill(part: Any, tile: Any) -> None:
    """Copy to the front of a tile, and fill the rest with zeros.

    Loops, for an assignment to a slice is not compiled to vector instructions.
    """
    for i in range(part.shape[0]):
        tile[i] = part[i]
    for i in range(part.shape[0], tile.shape[0]):
        tile[i] = 0


# --- rounding ----------------------------------------------------------------------------------


@compiled()
def _below_bfloat16(single: Singles) -> np.uint32:
    """Return nonzero if any element is not a bfloat16."""
    lost = np.uint32(0)
    for i in range(single.shape[0]):
        lost |= bits_of(single[i]) & np.uint32(0xFFFF)
    return lost


# --- sums --------------------------------------------------------------------------------------


@compiled(REORDER)
def _survey(x: Singles) -> tuple[np.float64, np.float64, np.int64, np.uint32]:
    """Sum, sum of magnitudes, number of zeros, and the bits of the largest magnitude."""
    total, size = np.float32(0), np.float32(0)
    zeros, largest = np.int32(0), np.uint32(0)
    for i in range(x.shape[0]):
        magnitude = abs(x[i])
        total += x[i]
        size += magnitude
        zeros = count_if(zeros, magnitude == np.float32(0))
        largest = larger(largest, bits_of(magnitude))
    return np.float64(total), np.float64(size), np.int64(zeros), largest


@compiled(REORDER)
def _central(x: Any, centre: Any) -> tuple[float, float, float, float]:
    """Sums of the first four powers of x − centre, in the precision of both."""
    first = second = third = fourth = centre - centre  # a zero of the same precision
    for i in range(x.shape[0]):
        d = x[i] - centre
        square = d * d
        first += d
        second += square
        third += square * d
        fourth += square * square
    return np.float64(first), np.float64(second), np.float64(third), np.float64(fourth)


@compiled()
def _merge(m: Doubles, n: float, centre: float, sums: tuple[float, float, float, float]) -> None:
    """Add n elements, given their sums of powers about `centre`, to the moments.

    P. Pébay, "Formulas for robust, one-pass parallel computation of covariances and
    arbitrary-order statistical moments", SAND2008-6212.
    """
    shift = sums[0] / n
    mean = centre + shift
    m2 = sums[1] - n * shift * shift
    m3 = sums[2] - 3 * shift * sums[1] + 2 * n * shift**3
    m4 = sums[3] - 4 * shift * sums[2] + 6 * shift * shift * sums[1] - 3 * n * shift**4
    k = m[COUNT]
    total = k + n
    d = mean - m[MEAN]
    d2 = d * d
    m[M4] += (
        m4
        + d2 * d2 * k * n * (k * k - k * n + n * n) / (total * total * total)
        + 6 * d2 * (k * k * m2 + n * n * m[M2]) / (total * total)
        + 4 * d * (k * m3 - n * m[M3]) / total
    )
    m[M3] += m3 + d2 * d * k * n * (k - n) / (total * total) + 3 * d * (k * m2 - n * m[M2]) / total
    m[M2] += m2 + d2 * k * n / total
    m[MEAN] += d * n / total
    m[COUNT] = total


@compiled()
def _mark(x: Any, counts: Counts) -> bool:
    """Count zeros, NaNs and infs, and give all NaNs one bit pattern; whether there were any."""
    found = False
    for i in range(x.shape[0]):
        if x[i] != x[i]:
            x[i] = np.nan
            counts[NANS] += 1
            found = True
        elif abs(x[i]) == np.inf:
            counts[INFS] += 1
            found = True
        elif x[i] == 0:
            counts[ZEROS] += 1
    return found


@compiled()
def _add_double(x: Doubles, moments: Doubles, counts: Counts) -> bool:
    """Add elements to the sums; whether all are finite."""
    n = x.shape[0]
    if _mark(x, counts):
        return False
    total = size = largest = 0.0
    for i in range(n):
        total += x[i]
        size += abs(x[i])
        largest = max(largest, abs(x[i]))
    moments[L1] += size
    moments[LINF] = max(moments[LINF], largest)
    centre = total / n
    _merge(moments, np.float64(n), centre, _central(x, centre))
    return True


@compiled()
def _add_single(x: Singles, scratch: Doubles, moments: Doubles, counts: Counts) -> int:
    """Add elements to the sums, no more than `scratch` holds; returns how they were summed."""
    n = x.shape[0]
    total, size, zeros, largest = _survey(x)
    if largest >= SINGLE_INF:
        _mark(x, counts)
        return _NOT_FINITE
    centre = np.float32(total / n)
    sums = _central(x, centre)
    if largest > 0 and not _TINY < sums[3] < _HUGE:
        _fill(x, scratch)
        _add_double(scratch[:n], moments, counts)
        return _IN_DOUBLE
    counts[ZEROS] += zeros
    moments[L1] += size
    moments[LINF] = max(moments[LINF], np.float64(single_of(largest)))
    _merge(moments, np.float64(n), np.float64(centre), sums)
    return _IN_SINGLE


# --- hashes ------------------------------------------------------------------------------------


@compiled()
def _hash_words(words: Words, lanes: np.uint64, keys: Words, out: Words) -> None:
    """Compress a tile to `PASSES` words by NH, once −0 is made 0 in every lane, in place.

    NH sums, modulo 2⁶⁴, over the words w with keys k the product of the lower and the upper half
    of w + k (J. Black et al., "UMAC", CRYPTO 1999; RFC 4418). Two tiles that differ give the same
    sum for at most 2⁻³² of all keys, and the same `PASSES` sums, with keys shifted by one word
    each time (Toeplitz), for at most 2⁻⁹⁶. The proof takes the carry of a 64-bit addition as
    well as two separate ones: it is a constant once the lower halves are fixed. The keys are
    public, so a collision can be made on purpose; by chance there is none.
    """
    for i in range(words.shape[0]):
        w = words[i]
        words[i] = w & (((w & lanes) + lanes) | lanes)  # a sign stays if another bit is set
    _hash_nonzero(words, keys, out)


@compiled()
def _hash_nonzero(words: Words, keys: Words, out: Words) -> None:
    """As `_hash_words`, of a tile that has no −0."""
    s0 = s1 = s2 = np.uint64(0)
    for i in range(words.shape[0]):
        w = words[i]
        a = w + keys[i]
        b = w + keys[i + 1]
        c = w + keys[i + 2]
        s0 += (a & _LOW) * (a >> _32)
        s1 += (b & _LOW) * (b >> _32)
        s2 += (c & _LOW) * (c >> _32)
    out[0], out[1], out[2] = s0, s1, s2


@compiled()
def _hash_bfloat16(words: Words, packed: Words, keys: Words, is_nonzero: bool, out: Words) -> None:
    """Hash a tile of float32, two to a word, rounded to bfloat16, ties to even.

    A finite float32 cannot carry into its neighbour, nor can inf or the one NaN of `_mark`.
    `is_nonzero` says that nothing rounds to −0.
    """
    low, high = words[: packed.shape[0]], words[packed.shape[0] :]
    for i in range(packed.shape[0]):
        a = low[i] + _BELOW_HALF + ((low[i] >> _16) & _LOWEST)
        b = high[i] + _BELOW_HALF + ((high[i] >> _16) & _LOWEST)
        packed[i] = (a & _TOP_HALVES) | ((b & _TOP_HALVES) >> _16)
    if is_nonzero:
        _hash_nonzero(packed, keys, out)
    else:
        _hash_words(packed, _HALF_LANES, keys, out)


@compiled()
def hash_integers(raw: Words, signed: bool, walk: Walk, digests: Digests) -> None:
    """Hash a piece of an int64 or uint64 tensor, and mark what float64 cannot hold.

    A number is a float64 if no more than 53 bits lie between its highest and its lowest set bit.
    """
    for t in range((raw.shape[0] + TILE - 1) // TILE):
        part = raw[t * TILE : (t + 1) * TILE]
        n = part.shape[0]
        _fill(part, walk.double_words)
        _hash_words(walk.double_words, _ALL_BITS, walk.keys, digests.integer[t])
        for i in range(n):
            magnitude = part[i]
            if magnitude >> np.uint64(63):
                if signed:
                    magnitude = ~magnitude + np.uint64(1)
                else:
                    walk.counts[BEYOND_INT64] = 1
            lowest = magnitude & (~magnitude + np.uint64(1))
            if magnitude and magnitude >> np.uint64(53) >= lowest:
                walk.counts[LOST_DOUBLE] = 1


# --- sketch ------------------------------------------------------------------------------------


@compiled(REORDER)
def _fold_block(block: Singles, signs: Singles, out: Singles) -> None:
    for i in range(block.shape[0]):
        out[i] += block[i] * signs[i]


@compiled()
def _fold(
    x: Singles, tile: int, signs: Singles, folding: Folding, folded: Singles, sketch: Doubles
) -> None:
    """Add a tile to the sketch, block by block; see `sketch`."""
    size = folding.block
    per_tile = TILE // size
    for b in range(per_tile):
        # SplitMix64: G. Steele et al., "Fast splittable pseudorandom number generators", 2014
        z = folding.seed + np.uint64(tile * per_tile + b) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * _MIX1
        z = (z ^ (z >> np.uint64(27))) * _MIX2
        z ^= z >> np.uint64(31)
        offset = np.int64(((z & _LOW) * np.uint64(folding.buckets)) >> _32)
        window = np.int64(((z >> _32 & _31_BITS) * np.uint64(folding.period)) >> np.uint64(31))
        if z >> np.uint64(63):
            window += signs.shape[0] // 2
        _fold_block(
            x[b * size : (b + 1) * size],
            signs[window : window + size],
            folded[offset : offset + size],
        )
    if (tile + 1) % folding.flush == 0:
        for i in range(folded.shape[0]):
            sketch[i] += folded[i]
            folded[i] = 0


# --- the walks ---------------------------------------------------------------------------------


@compiled()
def _sketch_tile(walk: Walk, tile: int, n: int, folding: Folding, matrix: Matrix, how: int) -> None:
    """Add a finite tile to the sketch and the profile."""
    if folding.buckets:
        _fold(walk.single, tile, walk.signs, folding, walk.folded, walk.sketch)
    else:
        _fill(walk.single[:n], walk.sketch[tile * TILE :])
    if matrix.width:
        if how == _IN_SINGLE:
            profile_singles(walk.single[:n], tile, matrix)
        else:
            profile_doubles(walk.double[:n], tile, matrix)


@compiled()
def walk_half(
    raw: Halves,
    words: Words,
    walk: Walk,
    digests: Digests,
    first: int,
    folding: Folding,
    matrix: Matrix,
) -> None:
    """Take in a piece of a float16 tensor, given as its bits.

    Args:
        raw: (n,) elements; n is a multiple of `TILE` but for the last piece.
        words: the same memory, four elements to a word; may be longer.
        digests: filled, a row for each tile begun.
        first: number of the first tile in the tensor.
    """
    single, half, keys, counts = walk.single, walk.half, walk.keys, walk.counts
    for t in range((raw.shape[0] + TILE - 1) // TILE):
        part = raw[t * TILE : (t + 1) * TILE]
        tile = words[t * TILE // 4 : (t + 1) * TILE // 4]
        n = part.shape[0]
        if n < TILE:
            _fill(part, half)
            half_to_single(half, single)
            tile = walk.half_words
        else:
            half_to_single(part, single)
        zeros = counts[ZEROS]
        how = _add_single(single[:n], walk.double, walk.moments, counts)
        if how:
            _sketch_tile(walk, first + t, n, folding, matrix, how)
            is_nonzero = zeros == counts[ZEROS]
        else:
            round_to_half(single, half)
            tile = walk.half_words
            is_nonzero = False
        # no float16 rounds to a zero of bfloat16, so what holds of one holds of the other
        if is_nonzero:
            _hash_nonzero(tile, keys, digests.half[t])
        else:
            _hash_words(tile, _HALF_LANES, keys, digests.half[t])
        _hash_bfloat16(walk.single_words, walk.packed, keys, is_nonzero, digests.bfloat16[t])


@compiled()
def walk_bfloat16(
    raw: Halves, walk: Walk, digests: Digests, first: int, folding: Folding, matrix: Matrix
) -> None:
    """Take in a piece of a bfloat16 tensor, given as its bits; as `walk_half`."""
    single, half, keys, counts = walk.single, walk.half, walk.keys, walk.counts
    for t in range((raw.shape[0] + TILE - 1) // TILE):
        part = raw[t * TILE : (t + 1) * TILE]
        n = part.shape[0]
        _fill(part, half)
        bfloat16_to_single(half, single)
        how = _add_single(single[:n], walk.double, walk.moments, counts)
        if how:
            _sketch_tile(walk, first + t, n, folding, matrix, how)
        counts[LOST_HALF] |= round_to_half(single, half)
        _hash_words(walk.half_words, _HALF_LANES, keys, digests.half[t])
        _hash_bfloat16(walk.single_words, walk.packed, keys, False, digests.bfloat16[t])


@compiled()
def walk_single(
    raw: Singles, walk: Walk, digests: Digests, first: int, folding: Folding, matrix: Matrix
) -> None:
    """Take in a piece of a float32 tensor; as `walk_half`."""
    single, half, keys, counts = walk.single, walk.half, walk.keys, walk.counts
    for t in range((raw.shape[0] + TILE - 1) // TILE):
        part = raw[t * TILE : (t + 1) * TILE]
        n = part.shape[0]
        _fill(part, single)
        how = _add_single(single[:n], walk.double, walk.moments, counts)
        if how:
            _sketch_tile(walk, first + t, n, folding, matrix, how)
        counts[LOST_HALF] |= round_to_half(single, half)
        counts[LOST_BFLOAT16] |= _below_bfloat16(single)
        _hash_words(walk.half_words, _HALF_LANES, keys, digests.half[t])
        _hash_bfloat16(walk.single_words, walk.packed, keys, False, digests.bfloat16[t])
        _hash_words(walk.single_words, _SINGLE_LANES, keys, digests.single[t])


@compiled()
def walk_double(
    raw: Doubles, walk: Walk, digests: Digests, first: int, folding: Folding, matrix: Matrix
) -> None:
    """Take in a piece of a float64 tensor; as `walk_half`.

    The roundings to float16 and bfloat16, and the sketch, are those of the values rounded to
    float32, as `torch.Tensor.half` makes them.
    """
    single, half, double = walk.single, walk.half, walk.double
    keys, counts = walk.keys, walk.counts
    for t in range((raw.shape[0] + TILE - 1) // TILE):
        part = raw[t * TILE : (t + 1) * TILE]
        n = part.shape[0]
        _fill(part, double)
        finite = _add_double(double[:n], walk.moments, counts)
        for i in range(TILE):
            single[i] = double[i]
            if single[i] != double[i] and double[i] == double[i]:
                counts[LOST_SINGLE] = 1
        if finite:
            _sketch_tile(walk, first + t, n, folding, matrix, _IN_DOUBLE)
        counts[LOST_HALF] |= round_to_half(single, half)
        counts[LOST_BFLOAT16] |= _below_bfloat16(single)
        _hash_words(walk.half_words, _HALF_LANES, keys, digests.half[t])
        _hash_bfloat16(walk.single_words, walk.packed, keys, False, digests.bfloat16[t])
        _hash_words(walk.single_words, _SINGLE_LANES, keys, digests.single[t])
        _hash_words(walk.double_words, _DOUBLE_LANES, keys, digests.double[t])
