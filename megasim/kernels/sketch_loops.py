"""The compiled loops of the sketch; see `megasim.fingerprint.sketch` for what they compute."""

from __future__ import annotations

import numpy as np

from megasim.kernels.compiled import REORDER, compiled, fill_tile, inlined
from megasim.kernels.state import TILE, Doubles, Folding, Singles

_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)
_31_BITS = np.uint64(0x7FFFFFFF)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@compiled(REORDER)
def _fold_block(block: Singles, signs: Singles, out: Singles) -> None:
    for i in range(block.shape[0]):
        out[i] += block[i] * signs[i]


@compiled(REORDER)
def _fold_block_and_squares(block: Singles, signs: Singles, out: Singles, squares: Singles) -> None:
    for i in range(block.shape[0]):
        out[i] += block[i] * signs[i]
        squares[i] += block[i] * block[i]


@inlined
def fold_tile(
    x: Singles,
    tile: int,
    signs: Singles,
    folding: Folding,
    folded: Singles,
    sketch: Doubles,
    squares: Singles,
) -> None:
    """Add a tile to the sketch, block by block; see `megasim.fingerprint.sketch`.

    Args:
        squares: (TILE,) to which the squares are added, each to its own; or empty.
    """
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
        block = x[b * size : (b + 1) * size]
        window_signs, out = signs[window : window + size], folded[offset : offset + size]
        if squares.shape[0]:
            _fold_block_and_squares(block, window_signs, out, squares[b * size : (b + 1) * size])
        else:
            _fold_block(block, window_signs, out)
    if (tile + 1) % folding.flush == 0:
        for i in range(folded.shape[0]):
            sketch[i] += folded[i]
            folded[i] = 0


@inlined
def sketch_tile(
    x: Singles,
    size: int,
    tile: int,
    signs: Singles,
    folding: Folding,
    folded: Singles,
    sums: Doubles,
    squares: Singles,
) -> None:
    """Add the first `size` elements of a tile, padded with zeros, to the sketch.

    `squares` is as `fold_tile` takes it, and empty where the tensor is kept whole.
    """
    if folding.buckets:
        fold_tile(x, tile, signs, folding, folded, sums, squares)
    else:
        fill_tile(x[:size], sums[tile * TILE : tile * TILE + size])


@compiled()
def finish_sketch(folding: Folding, folded: Singles, sums: Doubles, out: Singles) -> bool:
    """Round a sketch to float32, what lies past its end put in front; whether all is finite."""
    finite = True
    for i in range(out.shape[0]):
        total = sums[i]
        if folding.buckets:
            total += np.float64(folded[i])
            if i < folding.block:
                total += sums[folding.buckets + i] + np.float64(folded[folding.buckets + i])
        out[i] = np.float32(total)
        finite &= abs(out[i]) < np.inf
    return finite
