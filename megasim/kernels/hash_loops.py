"""The compiled loops of the hashes of values: a tile → words of NH."""

from __future__ import annotations

import numpy as np

from megasim.kernels.compiled import compiled, fill_tile, inlined
from megasim.kernels.hash_vectors import hash_halves_as_vectors, rounds_to_bfloat16
from megasim.kernels.state import (
    BEYOND_INT64,
    LOST_DOUBLE,
    TILE,
    Counts,
    Words,
)

_LOW, _16, _32 = np.uint64(0xFFFFFFFF), np.uint64(16), np.uint64(32)
# All bits but the sign, of each 16, 32 or 64-bit lane of a word.
HALF_LANES = np.uint64(0x7FFF7FFF7FFF7FFF)
SINGLE_LANES = np.uint64(0x7FFFFFFF7FFFFFFF)
DOUBLE_LANES = np.uint64(0x7FFFFFFFFFFFFFFF)
_ALL_BITS = np.uint64(0xFFFFFFFFFFFFFFFF)
_TOP_HALVES, _LOWEST = np.uint64(0xFFFF0000FFFF0000), np.uint64(0x0000000100000001)
_BELOW_HALF = np.uint64(0x00007FFF00007FFF)


@compiled()
def hash_words(words: Words, lanes: np.uint64, keys: Words, out: Words) -> None:
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
    s0 = s1 = s2 = np.uint64(0)
    for i in range(words.shape[0]):
        w = words[i]
        a, b, c = w + keys[i], w + keys[i + 1], w + keys[i + 2]
        s0 += (a & _LOW) * (a >> _32)
        s1 += (b & _LOW) * (b >> _32)
        s2 += (c & _LOW) * (c >> _32)
    out[0], out[1], out[2] = s0, s1, s2


@inlined
def _round_to_bfloat16(low: np.uint64, high: np.uint64) -> np.uint64:
    """Return four float32, two to a word, rounded to bfloat16, ties to even, in one word.

    A finite float32 cannot carry into its neighbour, nor can inf or the one NaN of `_mark`.
    """
    a = low + _BELOW_HALF + ((low >> _16) & _LOWEST)
    b = high + _BELOW_HALF + ((high >> _16) & _LOWEST)
    return (a & _TOP_HALVES) | ((b & _TOP_HALVES) >> _16)


@compiled()
def hash_bfloat16(words: Words, packed: Words, keys: Words, out: Words) -> None:
    """Hash a tile of float32, two to a word, rounded to bfloat16, in the room of `packed`."""
    low, high = words[: packed.shape[0]], words[packed.shape[0] :]
    for i in range(packed.shape[0]):
        packed[i] = _round_to_bfloat16(low[i], high[i])
    hash_words(packed, HALF_LANES, keys, out)


@compiled()
def _hash_halves(
    halves: Words, singles: Words, keys: Words, half_out: Words, bfloat16_out: Words
) -> None:
    """Hash a tile of finite float16, and the same as float32 rounded to bfloat16; none is 0."""
    low, high = singles[: halves.shape[0]], singles[halves.shape[0] :]
    r0 = r1 = r2 = s0 = s1 = s2 = np.uint64(0)
    for i in range(halves.shape[0]):
        w, v = halves[i], _round_to_bfloat16(low[i], high[i])
        k0, k1, k2 = keys[i], keys[i + 1], keys[i + 2]
        a, b, c = w + k0, w + k1, w + k2
        r0 += (a & _LOW) * (a >> _32)
        r1 += (b & _LOW) * (b >> _32)
        r2 += (c & _LOW) * (c >> _32)
        a, b, c = v + k0, v + k1, v + k2
        s0 += (a & _LOW) * (a >> _32)
        s1 += (b & _LOW) * (b >> _32)
        s2 += (c & _LOW) * (c >> _32)
    half_out[0], half_out[1], half_out[2] = r0, r1, r2
    bfloat16_out[0], bfloat16_out[1], bfloat16_out[2] = s0, s1, s2


if rounds_to_bfloat16():

    @compiled()
    def hash_halves(
        halves: Words, singles: Words, keys: Words, half_out: Words, bfloat16_out: Words
    ) -> None:
        """As `_hash_halves`, by vectors."""
        hash_halves_as_vectors(halves, singles, keys, half_out, bfloat16_out)

else:
    hash_halves = _hash_halves


@compiled()
def hash_integer_tiles(
    raw: Words, signed: bool, keys: Words, scratch: Words, counts: Counts, out: Words
) -> None:
    """Hash a piece of an int64 or uint64 tensor, and mark what float64 cannot hold.

    A number is a float64 if no more than 53 bits lie between its highest and its lowest set bit.

    Args:
        scratch: (TILE,) room for a tile.
        out: (tiles, PASSES).
    """
    for t in range((raw.shape[0] + TILE - 1) // TILE):
        part = raw[t * TILE : (t + 1) * TILE]
        fill_tile(part, scratch)
        hash_words(scratch, _ALL_BITS, keys, out[t])
        for i in range(part.shape[0]):
            magnitude = part[i]
            if magnitude >> np.uint64(63):
                if signed:
                    magnitude = ~magnitude + np.uint64(1)
                else:
                    counts[BEYOND_INT64] = 1
            lowest = magnitude & (~magnitude + np.uint64(1))
            if magnitude and magnitude >> np.uint64(53) >= lowest:
                counts[LOST_DOUBLE] = 1
