"""The sketch: a linear map of a tensor to m numbers that keeps distances.

Definition. The elements x of a tensor, row-major, are cut into blocks of B = 256 (the largest
power of two ≤ m where m < 256). Block b is multiplied element by element by a window of B signs
r[w], …, r[w + B − 1] and by one more sign s, and added onto the m buckets from bucket o on, going
on at bucket 0 after the last. w, s and o are independent and uniform, from a hash of b and of a
seed made of the number of elements and m; r is a fixed sequence of signs of period P = 1023.
A tensor of m elements or fewer is kept as it is. Tensors of equal size share one map, so
S(a) − S(b) = S(a − b). m is the size that was asked for, times 2, 4 and 16 from 256 K, 2 M and
16 M elements on: roughly the square root of the elements, since the error of a component is that
of its few largest tensors (one of 197 is 37 % of the squared
distance of an SD1 text encoder), and they are few enough to afford it.

Error. Write ‖S(x)‖² = ‖x‖² + Σ over pairs i, j of different blocks that fall on one bucket of
σᵢσⱼxᵢxⱼ; within a block B ≤ m elements never meet. As s is independent for each block, all terms
have mean 0: ‖S(x)‖² has no bias. Offsets are uniform over all m, so i and j meet with
probability 1/m, and the squares of the terms give a variance of at most (2/m)‖x‖⁴. What remains
are products of two terms of one pair of blocks, (i, j) and (i + δ, j + δ), which meet together;
their mean is (1/m)·A(δ)², A(δ) = mean over w of r[w]r[w + δ]. With one window for all blocks A(δ)
is ±1, and a constant difference, or one whose heavy columns line up, has several times the
variance. r is a sequence of maximal length (S. Golomb, "Shift Register Sequences", 1967), so
A(δ) = −1/P for all 0 < δ < P, and these products add less than 2B/P² < 0.05 % of the variance.
Hence for every x, however structured, the relative standard error is

    √(2/m) of ‖S(x)‖²,   1/√(2m) of ‖S(x)‖: 4.4 % for m = 256.

It is no more than that for a sum over keys with independent errors; keys of one size share their
map, so that the errors of equal (not merely similarly large) differences in them are equal too.

Rounding. Sketches are stored as float32 and summed so that they are good to about 1e-7 of
‖S(a)‖: distances below some 1e-6 of the norm are lost in it.

The idea is the count sketch of M. Charikar et al., "Finding frequent items in data streams"
(2002), and of feature hashing (K. Weinberger et al., 2009), a block at a time for speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from megasim.kernels.state import TILE, Folding

Singles = npt.NDArray[np.float32]

# Raised when the map changes; sketches of two versions cannot be compared.
SKETCH_VERSION = 1
DEFAULT_SIZE = 256
_BLOCK = 256
_PERIOD = 1023
# Elements from which on a sketch holds so many times the numbers asked for, the largest first.
LENGTH_FACTORS = ((16 << 20, 16), (2 << 20, 4), (1 << 18, 2), (0, 1))
LARGEST_FACTOR = LENGTH_FACTORS[0][1]
# Additions onto one bucket in float32 before the sum goes on in float64.
_ADDITIONS = 32
_MASK = (1 << 64) - 1


def sign_sequence() -> npt.NDArray[np.int8]:
    """Return the (1023,) signs of maximal length: a shift register with x¹⁰ + x³ + 1.

    Its correlation with itself, shifted by anything, is −1.

    >>> r = sign_sequence().astype(int)
    >>> {int(r @ np.roll(r, shift)) for shift in range(1, 1023)}
    {-1}
    """
    bits = [1] * 10
    while len(bits) < _PERIOD:
        bits.append(bits[-10] ^ bits[-7])
    return (1 - 2 * np.array(bits)).astype(np.int8)


def sign_windows(block: int) -> Singles:
    """Return (2·(1023 + block),): the sequence, long enough for a window anywhere, and minus it."""
    signs = np.resize(sign_sequence(), _PERIOD + block).astype(np.float32)
    return np.concatenate([signs, -signs])


def sketch_length(numel: int, size: int) -> int:
    """Return how many numbers are kept of a tensor.

    >>> sketch_length(100, 256), sketch_length(1000, 256), sketch_length(5 << 20, 256)
    (100, 256, 1024)
    """
    factor = next(factor for large, factor in LENGTH_FACTORS if numel >= large)
    return min(numel, factor * size)


@lru_cache(maxsize=4096)
def plan_folding(numel: int, size: int) -> Folding:
    """Return how a tensor of `numel` elements is folded, where `size` numbers are asked for.

    Raises ValueError for a size below 1.
    """
    if size < 1:
        raise ValueError(f"a sketch holds at least one number, not {size}")
    block = min(_BLOCK, 1 << (size.bit_length() - 1))
    length = sketch_length(numel, size)
    return Folding(
        seed=np.uint64(_mix(_mix(_mix(SKETCH_VERSION) ^ numel) ^ size)),
        buckets=length if numel > length else 0,
        block=block,
        period=_PERIOD,
        flush=max(1, _ADDITIONS * max(length, size) // TILE),
    )


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimated L2 distance and its standard error, 0 where all tensors were kept whole."""

    l2: float
    error: float


def estimate_l2(
    sketches_a: Sequence[Singles], sketches_b: Sequence[Singles], numels: Sequence[int]
) -> Estimate:
    """Return the distance of two models over some keys, from their sketches alone.

    With dₖ = ‖S(aₖ) − S(bₖ)‖, L2 = √Σdₖ², and its standard error is √(Σ 2dₖ⁴/m) / (2 L2), where
    keys that were kept whole add nothing to the error.

    Args:
        sketches_a, sketches_b: a sketch for each key, of (min(numel, m),) each.
        numels: elements of the tensor of each key.

    Raises:
        ValueError: a pair of sketches differs in size, or holds none (a tensor with NaN or inf).

    >>> estimate_l2([np.float32([3.0, 0.0])], [np.float32([0.0, 4.0])], [2])
    Estimate(l2=5.0, error=0.0)
    """
    squared = variance = 0.0
    for a, b, numel in zip(sketches_a, sketches_b, numels, strict=True):
        if a.shape != b.shape or (numel and not a.size):
            raise ValueError(f"sketches of {a.size} and {b.size} numbers give no distance")
        difference = a.astype(np.float64) - b
        square = float(difference @ difference)
        squared += square
        if numel > a.size:
            variance += 2 * square * square / a.size
    l2 = float(np.sqrt(squared))
    return Estimate(l2, float(np.sqrt(variance) / (2 * l2)) if l2 else 0.0)


def _mix(x: int) -> int:
    """SplitMix64, one step: a number of 64 bits to another."""
    z = (x + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
