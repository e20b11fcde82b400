"""Folded sketches: all sketches of a component in 4,096 numbers, made from the store alone.

Definition. Every number of the sketch of every key (`megasim.fingerprint.sketch`) that enters
distances and has no NaN and no inf gets a place among 4,096 and a sign, and the signed numbers are
added up by place. Place and sign of the i-th number come from SplitMix64 at i, with a seed made
of the canonical key, the canonical shape and the length of the sketch, so that all models fold one
key alike. The fold is linear like the sketch: F(a) − F(b) = F(a − b) where a and b hold the
same keys.

Error. With independent places and signs, ‖F(d)‖² has the mean ‖S(d)‖² and a variance of at most
(2/4096)‖S(d)‖⁴, whatever d (M. Charikar et al., "Finding frequent items in data streams", 2002): a
relative standard error of 1/√8192 = 1.1 % of a distance, beside the one of the sketches. A key that
only one of two models holds, or in another shape, counts with its whole norm; so a distance is
given only where both hold the same keys in the same shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from blake3 import blake3

# Raised when the fold changes; those of two versions cannot be compared.
FOLD_VERSION = 1
LENGTH = 4096
# The relative standard error of a distance, for what folding adds to that of the sketches.
RELATIVE_ERROR = 1 / math.sqrt(2 * LENGTH)

# Numbers that are hashed at a time.
_AT_ONCE = 1 << 17

Floats = npt.NDArray[np.float64]


def fold_sketches(
    keys: Sequence[str], shapes: Sequence[str], sketches: Sequence[npt.NDArray[np.float32]]
) -> Floats:
    """Return the (4096,) fold of some sketches, whatever their order but for the last digits.

    Args:
        keys, shapes: the canonical key of each sketch, and its canonical shape as text.
        sketches: of any lengths.

    >>> a = fold_sketches(["w"], ["2"], [np.float32([3, 4])])
    >>> float(np.linalg.norm(a))
    5.0
    """
    total = np.zeros(LENGTH)
    lengths = [len(x) for x in sketches]
    for some in _runs(lengths):
        places, signs = _fold_of(*(tuple(x[some]) for x in (keys, shapes, lengths)))
        values = np.concatenate(sketches[some])
        total += np.bincount(places, weights=signs * values, minlength=LENGTH)
    return total


def key_set_of(keys: Sequence[str], shapes: Sequence[str]) -> str:
    """Return 32 hex digits, equal for the same canonical keys in the same canonical shapes.

    >>> key_set_of(["a", "b"], ["2", ""]) == key_set_of(["b", "a"], ["", "2"])
    True
    """
    lines = sorted(f"{key!r} {shape}\n" for key, shape in zip(keys, shapes, strict=True))
    return blake3("".join(lines).encode("utf-8", "surrogatepass")).hexdigest(16)


# Models of one architecture fold alike.
@lru_cache(maxsize=32)
def _fold_of(
    keys: tuple[str, ...], shapes: tuple[str, ...], lengths: tuple[int, ...]
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int8]]:
    """Return the places and the signs of all numbers of some sketches, one after another."""
    seeds = [
        int.from_bytes(blake3(f"fold {FOLD_VERSION} {k} {s} {n}".encode()).digest(8), "little")
        for k, s, n in zip(keys, shapes, lengths, strict=True)
    ]
    index = np.concatenate([np.arange(n, dtype=np.uint64) for n in lengths])
    z = np.repeat(np.array(seeds, dtype=np.uint64), lengths)
    z += index * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    signs = 1 - 2 * (z >> np.uint64(63)).astype(np.int8)
    return (z & np.uint64(LENGTH - 1)).astype(np.uint16), signs


def _runs(lengths: Sequence[int]) -> list[slice]:
    """Return slices of sketches that have about `_AT_ONCE` numbers together."""
    runs, first, room = [], 0, 0
    for i, length in enumerate(lengths):
        room += length
        if room >= _AT_ONCE or i + 1 == len(lengths):
            runs.append(slice(first, i + 1))
            first, room = i + 1, 0
    return runs
