"""The change that an adapter makes is the one that the library that wrote it makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from megasim.answers.adapter_files import open_adapter
from megasim.answers.adapter_places import fit_of, weights_in_file
from megasim.checkpoint.opening import TensorReader
from megasim.representation.adapter_algebra import (
    distance_of,
    norm_of,
    product_of,
    rank_of,
    stacked,
    transposed,
)
from megasim.representation.adapter_changes import BadFactors, LowRankChange, WholeChange
from megasim.representation.adapter_factors import change_of
from megasim.representation.opening import open_model

GOLDEN = Path(__file__).parents[1] / "golden" / "adapters"
FOLDERS = sorted(p.name for p in GOLDEN.iterdir() if p.is_dir())


@pytest.mark.parametrize("name", FOLDERS)
def test_a_change_is_the_one_that_its_library_makes(name: str) -> None:
    base = "llama" if name.startswith("peft") else "net"
    adapter = open_adapter(next((GOLDEN / name).glob("adapter*.safetensors")))
    weights = weights_in_file(open_model(GOLDEN / f"{base}.safetensors"), base)
    before = load_file(GOLDEN / f"{base}.safetensors")
    merged = load_file(GOLDEN / name / "merged.safetensors")
    fit = fit_of(adapter, weights)
    assert fit.is_whole
    assert not adapter.unread
    changed = {p.weight.key for p in fit.placed}
    assert {key for key in merged if key.endswith("weight")} <= changed
    with TensorReader() as reader:
        for placed in fit.placed:
            key = placed.weight.key
            if key not in merged:
                continue
            weight = before[key].reshape(len(before[key]), -1).astype(np.float64)
            change = change_of(adapter.load(reader, placed.touched), weight)
            expected = merged[key].reshape(weight.shape) - weight
            found = change.block(0, change.rows)
            assert np.abs(expected).max() > 1e-4
            np.testing.assert_allclose(found, expected, atol=1e-6)


sizes = st.integers(1, 9)


@given(st.integers(0, 2**32 - 1), sizes, sizes, sizes, sizes)
def test_of_low_rank_all_is_told_from_the_factors(
    seed: int, rows: int, columns: int, rank_a: int, rank_b: int
) -> None:
    rng = np.random.default_rng(seed)
    a, b = (
        LowRankChange(rng.standard_normal((rows, r)), rng.standard_normal((r, columns)))
        for r in (rank_a, rank_b)
    )
    dense_a, dense_b = a.up @ a.down, b.up @ b.down
    assert norm_of(a) == pytest.approx(np.linalg.norm(dense_a))
    assert distance_of(a, b) == pytest.approx(np.linalg.norm(dense_a - dense_b))
    assert product_of(a, b) == pytest.approx((dense_a * dense_b).sum(), abs=1e-9)
    assert rank_of(a) == rank_of(WholeChange(dense_a)) == np.linalg.matrix_rank(dense_a, 1e-9)
    np.testing.assert_allclose(transposed(a).block(0, columns), dense_a.T)
    both = stacked([a, None, b], [rows, 2, rows], columns)
    np.testing.assert_allclose(
        both.block(0, 2 * rows + 2), np.vstack([dense_a, np.zeros((2, columns)), dense_b])
    )


def test_other_factors_of_one_change_are_no_distance() -> None:
    """(B·R)·(R⁻¹·A) is B·A, however far the factors are apart."""
    rng = np.random.default_rng(0)
    up, down, mix = (rng.standard_normal(s) for s in ((300, 8), (8, 200), (8, 8)))
    one = LowRankChange(up, down)
    other = LowRankChange(up @ mix, np.linalg.solve(mix, down))
    assert np.linalg.norm(other.up - one.up) > 10
    assert distance_of(one, other) < 1e-12 * norm_of(one)


def test_changes_of_other_shapes_have_no_distance() -> None:
    one, other = WholeChange(np.zeros((2, 3))), WholeChange(np.zeros((3, 2)))
    with pytest.raises(BadFactors):
        distance_of(one, other)
