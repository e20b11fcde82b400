"""Files of an object store, read by ranges: the same bytes, each fetched once."""

from __future__ import annotations

import itertools
import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megasim.checkpoint import range_reads
from megasim.checkpoint.object_stores import Listing, ObjectVersion
from megasim.checkpoint.range_reads import RemoteFile


class Memory:
    """A store of one object, which notes what is fetched."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.fetched: list[tuple[int, int]] = []
        self.lock = threading.Lock()
        self.version_now = ObjectVersion(len(data), 0, f"tag {id(self)} {len(data)}")

    def version(self, key: str) -> ObjectVersion | None:
        return self.version_now

    def listing(self, prefix: str) -> Listing:
        return Listing({}, ())

    def start(self, key: str, size: int) -> tuple[ObjectVersion, bytes]:
        return self.version_now, self.data[:size]

    def fetch(self, key: str, begin: int, target: memoryview, version: ObjectVersion) -> None:
        with self.lock:
            self.fetched.append((begin, begin + len(target)))
        target[:] = self.data[begin : begin + len(target)]


def open_memory(store: Memory) -> RemoteFile:
    return RemoteFile(store, "key", f"memory://{id(store)}", store.version_now)


def read_at(file: RemoteFile, begin: int, size: int) -> bytes:
    file.seek(begin)
    target = bytearray(size)
    done = 0
    while done < size:
        count = file.readinto(memoryview(target)[done:])
        assert count > 0
        done += count
    return bytes(target)


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes a thousandth of the real ones, so that kilobytes exercise what gigabytes do."""
    for name, value in {
        "LARGEST_RANGE": 1 << 12,
        "_SMALLEST_RANGE": 1 << 9,
        "_SMALL_FILE": 1 << 8,
        "_BLOCK": 32,
        "_LARGEST_BLOCK": 256,
    }.items():
        monkeypatch.setattr(range_reads, name, value)


@given(
    size=st.integers(300, 60_000),
    cuts=st.lists(st.integers(0, 60_000), max_size=30),
    dropped=st.sets(st.integers(0, 31), max_size=10),
    memory=st.integers(1 << 11, 1 << 16),
    seed=st.integers(0, 5),
)
def test_what_is_announced_is_fetched_once_in_any_order(
    size: int, cuts: list[int], dropped: set[int], memory: int, seed: int
) -> None:
    data = random.Random(seed).randbytes(size)
    store = Memory(data)
    edges = sorted({0, size, *(cut for cut in cuts if cut < size)})
    spans = [
        (begin, end - begin)
        for i, (begin, end) in enumerate(itertools.pairwise(edges))
        if i not in dropped
    ]
    with open_memory(store) as file:
        file.expect(spans, memory, gap=16)
        for begin, n in random.Random(seed).sample(spans, len(spans)):
            assert read_at(file, begin, n) == data[begin : begin + n]
    wanted = sum(n for _, n in spans)
    fetched = sum(end - begin for begin, end in store.fetched)
    # a gap of a few bytes costs less than a request
    assert fetched <= wanted + 16 * len(edges)
    assert all(end - begin <= 1 << 12 for begin, end in store.fetched)


@given(reads=st.lists(st.tuples(st.integers(0, 4999), st.integers(1, 700)), max_size=20))
def test_what_nobody_announced_is_read_too(reads: list[tuple[int, int]]) -> None:
    data = random.Random(1).randbytes(5000)
    with open_memory(Memory(data)) as file:
        file.expect([(1000, 500), (3000, 10)])
        for begin, n in reads:
            n = min(n, 5000 - begin)
            assert read_at(file, begin, n) == data[begin : begin + n]
        assert file.seek(0, 2) == 5000 and file.read(1) == b""


def test_ranges_come_ahead_within_their_memory() -> None:
    store = Memory(bytes(1 << 16))
    with open_memory(store) as file:
        file.expect([(0, 1 << 16)], memory=1 << 14)
        read_at(file, 0, 10)
        assert sum(held.size for held in file._ranges[: file._begun]) == 1 << 14
        for begin in range(10, 1 << 16, 1000):
            read_at(file, begin, min(1000, (1 << 16) - begin))
            held = sum(r.size for r in file._ranges if r.data is not None or r.coming is not None)
            assert held <= 1 << 14
    assert sum(end - begin for begin, end in store.fetched) == 1 << 16


def test_a_range_that_is_wanted_again_is_fetched_again() -> None:
    data = random.Random(2).randbytes(1 << 13)
    store = Memory(data)
    with open_memory(store) as file:
        file.expect([(0, 1 << 13)])
        for _ in range(2):
            assert read_at(file, 0, 1 << 13) == data
    assert sum(end - begin for begin, end in store.fetched) == 2 << 13


def test_headers_of_small_reads_cost_few_requests() -> None:
    store = Memory(bytes(1 << 15))
    with open_memory(store) as file:
        for begin in range(0, 2000, 10):
            read_at(file, begin, 10)
    # blocks grow while one follows the other
    assert len(store.fetched) <= 12 and max(end for _, end in store.fetched) <= 2400
