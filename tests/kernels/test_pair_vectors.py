"""Runs as vectors give what the plain loop gives, and what float64 gives."""

from __future__ import annotations

import itertools

import llvmlite.binding
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megasim.kernels import pair_loops
from megasim.kernels.pair_vectors import RUN, has_vector_runs

_SCALES = (1e-22, 1e-12, 1e-3, 1.0, 1e9, 1e18)


@pytest.fixture(scope="module", autouse=True)
def _has_vectors():
    if not llvmlite.binding.get_host_cpu_features().get("avx512bw"):
        pytest.skip("this processor has no AVX-512")


@st.composite
def _chunks(draw):
    """Rows of any size, some of them equal in part, and pairs of them in any order."""
    count, columns = draw(st.integers(1, 7)), draw(st.integers(0, 3 * RUN))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    scales = np.array([draw(st.sampled_from(_SCALES)) for _ in range(count)])
    rows = (random.standard_normal((count, columns)) * scales[:, None]).astype(np.float32)
    same = random.random((count, columns)) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    rows = np.where(same, rows[:1], rows)
    rows[random.random((count, columns)) < 0.05] = draw(st.sampled_from([0.0, -0.0, 1e-45]))
    some = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1))
    pairs = draw(st.one_of(st.just([*itertools.combinations(range(count), 2)]), st.lists(some)))
    return np.ascontiguousarray(rows), np.array(pairs, dtype=np.int32).reshape(-1, 2)


def _added(loop, rows, pairs):
    counts, sums = np.ones(len(pairs), np.int64), np.full((len(pairs), 2), 0.25)
    loop(rows, 0, rows.shape[1], pairs, counts, sums)
    return counts, sums


@settings(max_examples=60, deadline=None)
@given(_chunks())
def test_groups_of_pairs_count_and_sum_as_float64(chunk) -> None:
    rows, pairs = chunk
    counts, sums = _added(pair_loops._add_columns_by_vectors, rows, pairs)
    d = rows[pairs[:, 0]].astype(np.float64) - rows[pairs[:, 1]]
    assert (counts - 1 == np.count_nonzero(d, axis=1)).all()
    assert sums[:, 0] == pytest.approx(0.25 + np.abs(d).sum(axis=1), rel=1e-6)
    assert sums[:, 1] == pytest.approx(0.25 + (d * d).sum(axis=1), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(_chunks())
def test_groups_of_pairs_give_the_bits_of_the_plain_loop(chunk) -> None:
    if not has_vector_runs() or llvmlite.binding.llvm_version_info[0] != 22:
        pytest.skip("the plain loop is used here, or compiled by another LLVM, in another order")
    found = _added(pair_loops._add_columns_by_vectors, *chunk)
    plain = _added(pair_loops._add_columns, *chunk)
    assert all(np.array_equal(a, b) for a, b in zip(found, plain, strict=True))
