"""Loops kept as machine code: the same numbers as compiled ones, and nothing damaged is run."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import pytest

from megasim.kernels import loops, machine_code, pair_loops
from megasim.kernels.machine_code import KnownTile, Loop, digest_of, prepare


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for what is compiled."""
    monkeypatch.setattr(machine_code, "_folders", lambda: [tmp_path])
    return tmp_path


def new(loop: Loop) -> Loop:
    """The same loop, not loaded yet."""
    return Loop(loop.module, loop.name, *loop.known)


def widened(loop: Loop) -> list[float]:
    single = np.zeros(3, np.float32)
    loop(np.array([0.5, -2, 65504], np.float16).view(np.uint16), single)
    return single.tolist()


def test_a_damaged_file_is_compiled_anew(kept: Path) -> None:
    assert widened(new(loops.half_to_single)) == [0.5, -2, 65504]
    (file,) = kept.glob("*.o")
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:40], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(damaged)
        assert widened(new(loops.half_to_single)) == [0.5, -2, 65504]
        assert file.read_bytes() != damaged


def test_sums_are_those_of_the_compiled_function(kept: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((4, 5000)).astype(np.float32)
    pairs = np.array([[0, 1], [2, 3], [1, 3]], np.int32)
    loop = new(loops.add_singles)
    sums = []
    for add in (pair_loops.add_singles, loop, new(loops.add_singles)):  # made, loaded
        counts, totals = np.zeros(3, np.int64), np.zeros((3, 2))
        add(rows, pairs, counts, totals)
        sums.append((counts.tolist(), totals.tolist()))
    assert sums[0] == sums[1] == sums[2]


def test_each_type_of_array_has_its_own_code(kept: Path) -> None:
    loop = new(loops.add_products)
    pairs = np.array([[0, 1]], np.int32)
    for dtype in (np.float32, np.float64):
        products = np.zeros((1, 2))
        loop(np.array([[1, 2, 3, 4], [5, 6, 7, 8]], dtype), pairs, products)
        assert products.tolist() == [[1 * 5 + 3 * 7, 2 * 6 + 4 * 8]]
    assert len(list(kept.glob("*add_products*.o"))) == 2


def test_threads_may_call_a_loop_for_the_first_time_together(kept: Path) -> None:
    loop = new(loops.half_to_single)
    found: list[list[float]] = []
    threads = [threading.Thread(target=lambda: found.append(widened(loop))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[0.5, -2, 65504]] * 4


def test_only_contiguous_arrays_are_taken() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        new(loops.half_to_single)(np.zeros((4, 2), np.uint16)[:, 0], np.zeros(4))


ALL_LOOPS = {name: loop for name, loop in vars(loops).items() if isinstance(loop, Loop)}


@pytest.mark.parametrize("name", ALL_LOOPS)
def test_every_loop_makes_of_its_known_tiles_what_it_should(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    loop = new(ALL_LOOPS[name])
    assert (loop.name, bool(loop.known)) == (name, True)
    for tile in loop.known:
        before, given = (digest_of(prepare(tile.arguments())) for _ in range(2))
        assert before == given != tile.digest  # the same each time, and changed by the loop
        given = prepare(tile.arguments())
        loop(*given.original)
        assert digest_of(given) == tile.digest
    assert not caplog.records


def sums_of(loop: Loop) -> list[list[float]]:
    rows = np.array([[1, 2, 3], [2, 2, -1]], np.float32)
    counts, sums = np.zeros(1, np.int64), np.zeros((1, 2))
    loop(rows, np.array([[0, 1]], np.int32), counts, sums)
    return [counts.tolist(), sums.tolist()]


@pytest.mark.parametrize("fault", ["another result", "no tile of these types", "another order"])
def test_what_does_not_pass_is_left_to_numba(
    kept: Path, fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known = loops.add_singles.known
    if fault == "another result":
        known = (KnownTile(known[0].arguments, "0" * 16),)
    elif fault == "no tile of these types":
        known = loops.add_doubles.known
    else:
        parts = machine_code._parts_of_arrays()[::-1]
        monkeypatch.setattr(machine_code, "_parts_of_arrays", lambda: parts)
    loop = Loop("pair_loops", "add_singles", *known)
    with caplog.at_level(logging.WARNING):
        assert sums_of(loop) == sums_of(loop) == [[2], [[5, 17]]]
    (record,) = caplog.records
    assert "the loop add_singles is left to numba" in record.getMessage()


def test_a_source_below_makes_other_machine_code(tmp_path: Path) -> None:
    assert {"walk_loops", "hash_loops", "compiled", "state"} <= set(
        machine_code._sources("walk_loops")
    )
    assert "pair_loops" not in machine_code._sources("walk_loops")
