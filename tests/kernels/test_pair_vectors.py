"""A run as vectors gives what the plain loop gives, and what float64 gives."""

from __future__ import annotations

import llvmlite.binding
import numba
import numpy as np
import pytest

from megasim.kernels import pair_loops
from megasim.kernels.pair_vectors import RUN, has_vector_runs, vector_run


@pytest.fixture(scope="module")
def as_vectors():
    known = llvmlite.binding.get_host_cpu_features()
    if not known.get("avx512bw"):
        pytest.skip("this processor has no AVX-512")

    @numba.njit(error_model="numpy")
    def run(a, b):
        return vector_run(a, b)

    return run


def _runs():
    random = np.random.default_rng(0)
    for scale in (1e-12, 1e-3, 1.0, 1e9):
        a = (random.standard_normal(RUN) * scale).astype(np.float32)
        b = np.where(random.random(RUN) < 0.3, a, a * np.float32(1.01)).astype(np.float32)
        yield a, b
    zeros = np.zeros(RUN, np.float32)
    yield zeros, -zeros  # −0 equals 0
    yield zeros, zeros + np.float32(1e-45)  # the smallest number there is counts
    yield zeros, (np.arange(RUN) == RUN - 1).astype(np.float32)


def test_a_run_counts_and_sums_as_float64(as_vectors) -> None:
    for a, b in _runs():
        d = a.astype(np.float64) - b
        count, size, square = as_vectors(a, b)
        assert count == np.count_nonzero(d)
        assert size == pytest.approx(np.abs(d).sum(), rel=1e-6)
        assert square == pytest.approx((d * d).sum(), rel=1e-6, abs=1e-37)


def test_a_run_gives_the_bits_of_the_plain_loop(as_vectors) -> None:
    if not has_vector_runs() or llvmlite.binding.llvm_version_info[0] != 22:
        pytest.skip("the plain loop is used here, or compiled by another LLVM, in another order")
    for a, b in _runs():
        assert as_vectors(a, b) == pair_loops._run_singles(a, b)
