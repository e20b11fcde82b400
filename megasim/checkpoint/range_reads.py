"""A file in an object store, read as one of the disk is: in few, large ranges that come ahead.

What will be read is said before; it is fetched in the order of its places, several ranges at a
time, and kept until it has been read. What nobody announced, as a header, is read in small blocks.
"""

from __future__ import annotations

import bisect
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final

from megasim.checkpoint.object_stores import ObjectStore, ObjectVersion
from megasim.interrupts import stop_if_asked

# A range is of so many bytes, and less only where memory or what is wanted is less.
LARGEST_RANGE: Final = 16 << 20
_SMALLEST_RANGE: Final = 1 << 20
# What is fetched ahead and not read yet, of one reader, where nobody says how much it may be.
DEFAULT_AHEAD: Final = 64 << 20
# Up to so many unneeded bytes are fetched along: a request of its own would cost more.
_GAP: Final = 1 << 12
# Of a file that is opened, at once: the header of most, and all of a small one.
FIRST_BYTES: Final = 1 << 15
_SMALL_FILE: Final = 1 << 22  # is kept whole
_BLOCK: Final = 1 << 14
_LARGEST_BLOCK: Final = 1 << 20
_KEPT_BYTES: Final = 128 << 20  # of blocks, of all files
_AT_ONCE: Final = 16  # requests


class _Fetching:
    """The threads of this process that wait for ranges; none of them computes."""

    lock = threading.Lock()
    pool: ThreadPoolExecutor | None = None

    @classmethod
    def threads(cls) -> ThreadPoolExecutor:
        with cls.lock:
            if cls.pool is None:
                cls.pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="megasim-range")
            return cls.pool

    @classmethod
    def forget(cls) -> None:
        cls.lock, cls.pool = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Fetching.forget)


class _Blocks:
    """Small pieces of files that were read, by file and version; the oldest go first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, ObjectVersion], list[tuple[int, bytes]]] = OrderedDict()
        self._bytes = 0

    def add(self, file: tuple[str, ObjectVersion], begin: int, data: bytes) -> None:
        with self._lock:
            self._kept.setdefault(file, []).append((begin, data))
            self._kept.move_to_end(file)
            self._bytes += len(data)
            while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= sum(len(piece) for _, piece in dropped)

    def find(self, file: tuple[str, ObjectVersion], place: int) -> tuple[int, bytes] | None:
        """Return a piece that holds a place, and where it begins."""
        with self._lock:
            for begin, data in self._kept.get(file, ()):
                if begin <= place < begin + len(data):
                    return begin, data
        return None


_blocks = _Blocks()


def keep_block(address: str, version: ObjectVersion, begin: int, data: bytes) -> None:
    """Keep a piece of a file for whoever reads it next, where a tag stands for the content."""
    if data and version.tag:
        _blocks.add((address, version), begin, data)


class _Range:
    """A range to be fetched, of which `left` bytes are still to be read, but perhaps `gaps`."""

    __slots__ = ("begin", "coming", "data", "end", "gaps", "left", "wanted", "was_read")

    def __init__(self, begin: int, end: int, wanted: int, gaps: int) -> None:
        self.begin, self.end, self.wanted, self.gaps = begin, end, wanted, gaps
        self.left = wanted + gaps
        self.was_read = False
        self.data: bytearray | None = None
        self.coming: Future[bytearray] | None = None

    @property
    def size(self) -> int:
        return self.end - self.begin

    def is_read(self, place: int) -> bool:
        """Whether nothing of it is needed any more, once it was read up to a place."""
        return self.left <= 0 or (place == self.end and self.left <= self.gaps)


class RemoteFile(io.RawIOBase):
    """One version of an object, open for reading. Of one thread, as a file of the disk here is.

    Every byte that it gives is of that version: OSError (ESTALE) once the object is another.

    `small_as_a_whole`: whether a small file in which somebody jumps about is fetched whole.
    """

    small_as_a_whole = True

    def __init__(self, store: ObjectStore, key: str, address: str, version: ObjectVersion) -> None:
        self._store, self._key, self.version = store, key, version
        self._file = (address, version)
        self._place = 0
        self._block = _BLOCK
        # what no tag stands for is read again each time, to be sure of it
        self._blocks = _blocks if version.tag else _Blocks()
        found = self._blocks.find(self._file, 0)
        self._last_end = len(found[1]) if found else -1
        self._ranges: list[_Range] = []
        self._begins: list[int] = []
        self._held = self._begun = 0  # bytes; ranges that were begun in their order
        self._most = DEFAULT_AHEAD

    # As io.RawIOBase

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.version.size}[whence]
        self._place = base + offset
        return self._place

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]
        """Fill some of `target`; 0 at the end of the file."""
        into = memoryview(target).cast("B")
        size = min(len(into), self.version.size - self._place)
        if size <= 0:
            return 0
        count = self._from_range(into[:size]) or self._from_block(into[:size])
        self._place += count
        return count

    def close(self) -> None:
        for held in self._ranges:
            if held.coming is not None:
                held.coming.cancel()
        self._ranges, self._begins = [], []
        super().close()

    # Ranges

    def expect(
        self, extents: Iterable[tuple[int, int]], memory: int = DEFAULT_AHEAD, gap: int = _GAP
    ) -> None:
        """Say which bytes will be read next, as (begin, size), and begin to fetch them.

        Args:
            gap: up to so many unneeded bytes between two of them are fetched along.
            memory: bytes that may be fetched before they are read; what was fetched along with a
                byte that is read out of their order comes on top.
        """
        self._most = memory
        largest = max(min(LARGEST_RANGE, memory // 4), _SMALLEST_RANGE)
        spans = [(self._kept_from(b, b + n), b + n) for b, n in extents]
        self._ranges = _merged(spans, largest, gap, self.version.size)
        self._begins = [held.begin for held in self._ranges]
        self._held = self._begun = 0
        self._fetch_ahead()

    def _kept_from(self, begin: int, end: int) -> int:
        """Return up to where a span lies in blocks that are kept."""
        while begin < end and (found := self._blocks.find(self._file, begin)) is not None:
            begin = min(found[0] + len(found[1]), end)
        return begin

    def _from_range(self, into: memoryview) -> int:
        """Fill what the range at this place has of it; 0 where nobody announced the place."""
        i = bisect.bisect_right(self._begins, self._place) - 1
        if i < 0 or self._place >= self._ranges[i].end:
            return 0
        held = self._ranges[i]
        if held.data is None:
            if held.coming is None:
                self._begin(held)
            self._fetch_ahead()
            held.data = self._awaited(held)
        start = self._place - held.begin
        count = min(len(into), held.end - self._place)
        into[:count] = memoryview(held.data)[start : start + count]
        held.left -= count
        if held.is_read(self._place + count):  # whoever comes again has it fetched again
            held.data, held.left, held.was_read = None, held.wanted + held.gaps, True
            self._held -= held.size
            self._fetch_ahead()
        return count

    def _fetch_ahead(self) -> None:
        """Begin to fetch the next ranges, as far as there is room."""
        while self._begun < len(self._ranges):
            held = self._ranges[self._begun]
            if held.coming is None and held.data is None and not held.was_read:
                if self._held and self._held + held.size > self._most:
                    return
                self._begin(held)
            self._begun += 1

    def _begin(self, held: _Range) -> None:
        self._held += held.size
        store, key, version = self._store, self._key, self.version
        begin, end = held.begin, held.end

        def fetch() -> bytearray:
            data = bytearray(end - begin)
            store.fetch(key, begin, memoryview(data), version)
            return data

        held.coming = _Fetching.threads().submit(fetch)

    def _awaited(self, held: _Range) -> bytearray:
        assert held.coming is not None
        coming, held.coming = held.coming, None
        while not coming.done():
            wait([coming], timeout=0.2)
            stop_if_asked()
        return coming.result()

    # Blocks

    def _from_block(self, into: memoryview) -> int:
        """Fill what a small block has of it, which is fetched where none was kept."""
        found = self._blocks.find(self._file, self._place) or self._fetched_block(len(into))
        begin, kept = found
        start = self._place - begin
        count = min(len(into), len(kept) - start)
        into[:count] = memoryview(kept)[start : start + count]
        return count

    def _fetched_block(self, wanted: int) -> tuple[int, bytes]:
        """Fetch a block that holds this place; more each time where one follows the other.

        Who jumps about in a small file gets all of it: its parts would take as long one by one.
        """
        size, begin = self.version.size, self._place
        goes_on = begin == self._last_end
        if self.small_as_a_whole and size <= _SMALL_FILE and not goes_on:
            begin = self._kept_from(0, size)
            begin, end = (begin, size) if begin <= self._place else (self._place, size)
        else:
            self._block = min(2 * self._block, _LARGEST_BLOCK) if goes_on else _BLOCK
            end = min(size, begin + max(min(wanted, LARGEST_RANGE), self._block))
        data = bytearray(end - begin)
        self._store.fetch(self._key, begin, memoryview(data), self.version)
        self._last_end = end
        if len(data) <= max(_LARGEST_BLOCK, _SMALL_FILE):
            self._blocks.add(self._file, begin, bytes(data))
        return begin, bytes(data)


def _merged(spans: list[tuple[int, int]], largest: int, gap: int, size: int) -> list[_Range]:
    """Return ranges that cover some spans of a file, in the order of their places."""
    spans = sorted((begin, min(end, size)) for begin, end in spans if begin < min(end, size))
    joined: list[tuple[int, int]] = []
    for begin, end in spans:
        if joined and begin <= joined[-1][1] + gap:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((begin, end))
    cut = [(i, min(i + largest, end)) for begin, end in joined for i in range(begin, end, largest)]
    begins = [begin for begin, _ in cut]
    wanted, covered, reached = [0] * len(cut), [0] * len(cut), 0
    for begin, end in spans:
        i = bisect.bisect_right(begins, begin) - 1
        while i < len(cut) and cut[i][0] < end:
            low, high = max(begin, cut[i][0]), min(end, cut[i][1])
            wanted[i] += high - low
            covered[i] += max(0, high - max(low, reached))
            i += 1
        reached = max(reached, end)
    return [
        _Range(begin, end, n, end - begin - c)
        for (begin, end), n, c in zip(cut, wanted, covered, strict=True)
    ]
