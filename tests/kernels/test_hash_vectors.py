"""Hashes of float16 by vectors are those of the plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from megasim.kernels import hash_loops
from megasim.kernels.hash_vectors import rounds_to_bfloat16
from megasim.kernels.state import PASSES, TILE

# All finite float16 but the two zeros, subnormal ones among them.
_FINITE = np.arange(1, 0x7C00)
_HALVES = np.concatenate([_FINITE, _FINITE | 0x8000]).astype(np.uint16)


@pytest.fixture(scope="module", autouse=True)
def _has_vectors():
    if not rounds_to_bfloat16():
        pytest.skip("this processor does not round to bfloat16 by itself")


def _hashes(loop, halves, keys):
    singles = halves.view(np.float16).astype(np.float32)
    outs = np.zeros((2, PASSES), np.uint64)
    loop(halves.view(np.uint64), singles.view(np.uint64), keys, outs[0], outs[1])
    return outs


def _keys(seed):
    random = np.random.default_rng(seed)
    return random.integers(0, 1 << 64, TILE + PASSES - 1, dtype=np.uint64, endpoint=False)


@pytest.mark.parametrize("tile", range(-(-len(_HALVES) // TILE)))
def test_every_float16_hashes_the_same(tile) -> None:
    halves = np.resize(_HALVES[tile * TILE : (tile + 1) * TILE], TILE)
    keys = _keys(tile)
    expected = _hashes(hash_loops._hash_halves, halves, keys)
    assert np.array_equal(_hashes(hash_loops.hash_halves, halves, keys), expected)


@settings(max_examples=30, deadline=None)
@given(arrays.arrays(np.int64, TILE, elements=st.integers(0, len(_HALVES) - 1)), st.integers(0, 99))
def test_a_tile_hashes_the_same(places, seed) -> None:
    halves, keys = _HALVES[places], _keys(seed)
    expected = _hashes(hash_loops._hash_halves, halves, keys)
    assert np.array_equal(_hashes(hash_loops.hash_halves, halves, keys), expected)
