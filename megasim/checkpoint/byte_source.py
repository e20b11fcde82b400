"""A file, or an object under an address, read by ranges that are checked against its size."""

from __future__ import annotations

from collections.abc import Iterable
from io import RawIOBase
from pathlib import Path

from megasim.checkpoint.file_stamp import open_stamped
from megasim.checkpoint.limits import DEFAULT_LIMITS, Limits
from megasim.checkpoint.range_reads import RemoteFile
from megasim.errors import CheckpointError

CUT_SHORT = "the file is incomplete: copy or download it again"


class ByteSource:
    """A regular file, or an object under an address, read by ranges within its size.

    `limits` are what the file may cost. `base` is where its first byte lies in the file: 0, or
    where a file within an archive begins.
    """

    base = 0

    def __init__(self, path: Path, limits: Limits = DEFAULT_LIMITS) -> None:
        self.path = path
        self.limits = limits
        self._file: RawIOBase | None = None
        self._file, self.stamp, self.path = open_stamped(path)
        self.size = self.stamp.size

    def __enter__(self) -> ByteSource:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()

    def expect(self, spans: Iterable[tuple[int, int]]) -> None:
        """Say which small pieces, as (offset, size), will be read next, each once."""
        if isinstance(self._file, RemoteFile):
            self._file.expect([(self.base + begin, size) for begin, size in spans], gap=512)

    def expect_all(self) -> None:
        """Say that all of it will be read, from the first byte to the last."""
        if isinstance(self._file, RemoteFile):
            self._file.expect([(self.base, self.size)])

    def part(self, begin: int, size: int) -> ByteSource:
        """Return a part of the file as a source of its own, as a file within an archive.

        It reads from the file that is open here. CheckpointError when the file does not hold it.
        """
        if begin < 0 or size < 0 or begin + size > self.size:
            raise CheckpointError(self.path, "cut short: what it lists is not in it", CUT_SHORT)
        part = ByteSource.__new__(ByteSource)
        part.path, part.limits, part.stamp = self.path, self.limits, self.stamp
        part.base, part.size, part._file = self.base + begin, size, self._file
        return part

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`; CheckpointError when the file does not hold them."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise CheckpointError(
                self.path, f"cut short: {offset + size} bytes needed, {self.size} there", CUT_SHORT
            )
        data = bytearray(size)
        assert self._file is not None
        read_into(self._file, self.base + offset, memoryview(data), self.path)
        return bytes(data)


def read_into(
    file: RawIOBase, offset: int, target: memoryview, path: Path | str, key: str = ""
) -> None:
    """Fill `target` with the bytes of an open file from `offset` on.

    Raises CheckpointError, which names `path` and `key`, where the file ends before.
    """
    file.seek(offset)
    while target:
        count = file.readinto(target)
        if not count:
            raise CheckpointError(path, "cut short, or changed while it was read", CUT_SHORT, key)
        target = target[count:]


def unreadable(path: str, error: OSError, key: str = "") -> CheckpointError:
    """Return the error that says why the system did not let a file be read."""
    problem = f"cannot be read: {error.strerror}"
    return CheckpointError(path, problem, "check the path and its permissions", key)
