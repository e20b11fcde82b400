"""Known tiles: for each loop small arguments, and the hash of what it makes of them.

Elements are small integers whose sums over a tile are 0, so that every sum is exact in whatever
order a processor takes it: the hashes hold on all machines. A loop that is changed so that it
makes something else gets another hash (`digest_of` in `machine_code` tells it), and where what
is stored changes by it, FINGERPRINT_VERSION or METRIC_VERSION goes up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from megasim.kernels.state import (
    COUNT,
    COUNTED,
    COUNTS,
    M2,
    MOMENTS,
    PASSES,
    TILE,
    At,
    Digests,
    Jobs,
    Kept,
    Scratch,
    Sums,
)

# A tile and a part of one, seen as a matrix whose rows begin anywhere in it.
_SIZE, _WIDTH = TILE + 476, 50
_ROWS = _SIZE // _WIDTH
_BLOCK, _BUCKETS, _PERIOD = 256, 300, 1023


def _elements(dtype: str) -> npt.NDArray[Any]:
    """Return (_SIZE,) elements: 1, −1, 2, −2 … up to 9, with some zeros."""
    i = np.arange(_SIZE)
    return ((i // 2 % 10) * (1 - 2 * (i % 2))).astype(dtype)


def _job() -> Jobs:
    """Return a tensor of one piece that begins with the fifth element of a buffer."""
    fields = dict.fromkeys(At._fields, 0)
    fields.update(BEGIN=4, SIZE=_SIZE, SEED=-(2**62), BUCKETS=_BUCKETS, BLOCK=_BLOCK)
    fields.update(PERIOD=_PERIOD, FLUSH=1, SKETCH_ROOM=_BUCKETS + _BLOCK, SKETCH_LENGTH=_BUCKETS)
    fields.update(ROWS=_ROWS, COLUMNS=_WIDTH, WIDTH=_WIDTH, SIGNED=1)
    return np.array([list(fields.values())], dtype=np.int64)


def _scratch() -> Scratch:
    words = np.arange(1, TILE + PASSES, dtype=np.uint64)
    signs = np.where(np.arange(_PERIOD + _BLOCK) % 3 < 2, 1, -1).astype(np.float32)
    single, half, double = np.zeros(TILE, "f4"), np.zeros(TILE, "u2"), np.zeros(TILE)
    return Scratch(
        keys=words * np.uint64(0x9E3779B97F4A7C15),
        signs=np.concatenate([signs, -signs]),
        single=single,
        single_words=single.view(np.uint64),
        half=half,
        half_words=half.view(np.uint64),
        double=double,
        double_words=double.view(np.uint64),
        packed=np.zeros(TILE // 4, np.uint64),
    )


def _sums() -> Sums:
    room = _BUCKETS + _BLOCK
    return Sums(
        moments=np.zeros((1, MOMENTS)),
        counts=np.zeros((1, COUNTS), np.int64),
        folded=np.zeros(room, np.float32),
        sketch=np.zeros(room),
        rows=np.zeros(_ROWS),
        columns=np.zeros(_WIDTH),
        recent=np.zeros(_WIDTH, np.float32),
    )


def _walk(raw: npt.NDArray[Any]) -> tuple[Any, ...]:
    digests = Digests(*np.zeros((len(Digests._fields), 2, PASSES), np.uint64))
    return raw, _job(), _scratch(), _sums(), digests


def _buffer(dtype: str) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(4, dtype), _elements(dtype)])


def walk_halves() -> tuple[Any, ...]:
    """Return the arguments for a known tile of the loop of this name, as all below do."""
    raw = _buffer("f2").view(np.uint16)
    _, *rest = _walk(raw)
    return raw, raw.view(np.uint64), *rest


def walk_bfloat16s() -> tuple[Any, ...]:
    return _walk((_buffer("f4").view(np.uint32) >> 16).astype(np.uint16))


def walk_singles() -> tuple[Any, ...]:
    return _walk(_buffer("f4"))


def walk_doubles() -> tuple[Any, ...]:
    return _walk(_buffer("f8"))


def hash_integers() -> tuple[Any, ...]:
    return _walk(_buffer("i8").view(np.uint64))


def finish_walks() -> tuple[Any, ...]:
    sums = _sums()
    arrays: tuple[npt.NDArray[Any], ...] = sums[2:]
    for i, values in enumerate(arrays):
        values[:] = (np.arange(len(values)) + i) % 7
    sums.moments[0, [COUNT, M2]] = _SIZE, 4096
    kept = Kept(
        np.zeros(_BUCKETS, np.float32), np.zeros(_ROWS, np.uint16), np.zeros(_WIDTH, np.uint16)
    )
    return _job(), sums, kept


def _conversion(elements: npt.NDArray[Any]) -> tuple[Any, ...]:
    return elements, np.zeros(len(elements), np.float32)


def half_to_single() -> tuple[Any, ...]:
    return _conversion(_elements("f2").view(np.uint16))


def bfloat16_to_single() -> tuple[Any, ...]:
    return _conversion((_elements("f4").view(np.uint32) >> 16).astype(np.uint16))


def _blocks(size: int, elements: int, scales: int) -> tuple[Any, ...]:
    """Return three blocks of so many bytes, their scales, and room for their elements."""
    codes = (np.arange(3 * size) * 37 % 251).astype(np.uint8)
    return codes, *(np.array([1, 2, -1], "f4"),) * scales, np.zeros(3 * elements, "f4")


def decode_q8_0() -> tuple[Any, ...]:
    return _blocks(34, 32, 1)


def decode_q4_0() -> tuple[Any, ...]:
    return _blocks(18, 32, 1)


def decode_q4_k() -> tuple[Any, ...]:
    return _blocks(144, 256, 2)


def decode_q5_k() -> tuple[Any, ...]:
    return _blocks(176, 256, 2)


def decode_q6_k() -> tuple[Any, ...]:
    return _blocks(210, 256, 1)


def _rows(dtype: str) -> npt.NDArray[Any]:
    """Return (3, _SIZE): the elements, these moved by five places, and their negative."""
    x = _elements(dtype)
    return np.stack([x, np.roll(x, 5), -x])


def _pairs() -> npt.NDArray[np.int32]:
    return np.array([[0, 1], [0, 2], [1, 2], [1, 1]], np.int32)


def _distances(rows: npt.NDArray[Any]) -> tuple[Any, ...]:
    return rows, _pairs(), np.zeros(4, np.int64), np.zeros((4, 2))


def add_singles() -> tuple[Any, ...]:
    return _distances(_rows("f4"))


def add_doubles() -> tuple[Any, ...]:
    return _distances(_rows("f8"))


def add_halves() -> tuple[Any, ...]:
    rows = _rows("f2").view(np.uint16)
    rows[1] = _rows("f4").view(np.uint32)[1] >> 16
    tile = np.zeros((3, TILE), np.float32)
    return rows, np.array([False, True, False]), tile, *_distances(rows)[1:]


def raise_singles() -> tuple[Any, ...]:
    return _rows("f4"), _pairs(), np.ones(4)


def raise_doubles() -> tuple[Any, ...]:
    return _rows("f8"), _pairs(), np.ones(4)


def add_products_of_singles() -> tuple[Any, ...]:
    return _rows("f4"), _pairs(), np.ones((4, _WIDTH))


def add_products_of_doubles() -> tuple[Any, ...]:
    return _rows("f8"), _pairs(), np.ones((4, _WIDTH))


def _sketches() -> npt.NDArray[np.float32]:
    return np.stack([np.roll(_elements("f4")[:64], i) for i in range(4)])


def squared_differences() -> tuple[Any, ...]:
    return _sketches(), np.array([True, True, False, True]), np.zeros((4, 4))


def tally_key() -> tuple[Any, ...]:
    """Two models of the rows against six, whose pairs have every status but one."""
    rows, first = np.array([0, 2]), np.array([True, False, True, False, False, False])
    place = np.array([0, 1, 2, 3, -1, 0], np.int32)
    name = np.array([0, 0, 1, 0, 0, 0], np.int32)
    codes = np.array([[0, 0, 0, 0], [0, 1, 0, 1], [0, 2, 2, 1], [1, 3, 3, 3]], np.int32)
    finite, measured = np.array([True, True, True, True]), np.array([True, True, True, False])
    sums = np.zeros((2, 6)), np.zeros((2, 6))
    return (
        *(rows, first, place, name, codes, finite, measured),
        *(_sketches(), np.full(4, 0.5), *sums, np.zeros((2, 6, len(COUNTED)), np.int32)),
    )


def look_up() -> tuple[Any, ...]:
    codes = (np.arange(_SIZE) * 7 % 256).astype(np.uint8)
    return codes, np.arange(256, dtype=np.float32) - 128, np.zeros(_SIZE, np.float32)


def look_up_pairs() -> tuple[Any, ...]:
    codes = (np.arange(_SIZE) * 7 % 256).astype(np.uint8)
    table = np.arange(256, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return codes, table, np.zeros(_SIZE, np.uint64)
