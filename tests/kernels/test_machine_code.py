"""Loops kept as machine code: the same numbers as compiled ones, and nothing damaged is run."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from megasim.kernels import machine_code, pair_loops
from megasim.kernels.machine_code import Loop


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for what is compiled."""
    monkeypatch.setattr(machine_code, "_folders", lambda: [tmp_path])
    return tmp_path


def widened(loop: Loop) -> list[float]:
    single = np.zeros(3, np.float32)
    loop(np.array([0.5, -2, 65504], np.float16).view(np.uint16), single)
    return single.tolist()


def test_a_damaged_file_is_compiled_anew(kept: Path) -> None:
    assert widened(Loop("compiled", "half_to_single")) == [0.5, -2, 65504]
    (file,) = kept.glob("*.o")
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:40], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(damaged)
        assert widened(Loop("compiled", "half_to_single")) == [0.5, -2, 65504]
        assert file.read_bytes() != damaged


def test_sums_are_those_of_the_compiled_function(kept: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((4, 5000)).astype(np.float32)
    pairs = np.array([[0, 1], [2, 3], [1, 3]], np.int32)
    loop = Loop("pair_loops", "add_singles")
    sums = []
    for add in (pair_loops.add_singles, loop, Loop("pair_loops", "add_singles")):  # made, loaded
        counts, totals = np.zeros(3, np.int64), np.zeros((3, 2))
        add(rows, pairs, counts, totals)
        sums.append((counts.tolist(), totals.tolist()))
    assert sums[0] == sums[1] == sums[2]


def test_each_type_of_array_has_its_own_code(kept: Path) -> None:
    loop = Loop("pair_loops", "add_products")
    pairs = np.array([[0, 1]], np.int32)
    for dtype in (np.float32, np.float64):
        products = np.zeros((1, 2))
        loop(np.array([[1, 2, 3, 4], [5, 6, 7, 8]], dtype), pairs, products)
        assert products.tolist() == [[1 * 5 + 3 * 7, 2 * 6 + 4 * 8]]
    assert len(list(kept.glob("*add_products*.o"))) == 2


def test_threads_may_call_a_loop_for_the_first_time_together(kept: Path) -> None:
    loop = Loop("compiled", "half_to_single")
    found: list[list[float]] = []
    threads = [threading.Thread(target=lambda: found.append(widened(loop))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[0.5, -2, 65504]] * 4


def test_only_contiguous_arrays_are_taken() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        Loop("compiled", "half_to_single")(np.zeros((4, 2), np.uint16)[:, 0], np.zeros(4))
