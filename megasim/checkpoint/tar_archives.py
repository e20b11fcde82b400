"""A tar file that holds one checkpoint, as NeMo packs its models: read where it lies."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from megasim.checkpoint.byte_source import ByteSource
from megasim.checkpoint.contents import FileContents
from megasim.checkpoint.folders import SUFFIXES
from megasim.errors import CheckpointError, printable

# Files of one archive that are looked at.
_MOST_MEMBERS: Final = 10_000
# Names of those among them that an error tells.
_NAMED: Final = 3
_NEMO_WEIGHTS: Final = "model_weights.ckpt"


@dataclass(frozen=True)
class Member:
    """A file within the archive, and where its bytes lie."""

    name: str
    offset: int
    size: int


class _Stream(io.RawIOBase):
    """A source as the tarfile module reads files."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}
        self._position = max(0, start[whence] + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._source.size - self._position))
        buffer[:count] = self._source.read(self._position, count) if count else b""
        self._position += count
        return count


def read_tar(
    source: ByteSource, reader: Callable[[ByteSource], Callable[[ByteSource], FileContents]]
) -> FileContents:
    """Return the contents of the one checkpoint in a tar file.

    Args:
        reader: tells what reads a file, by its first bytes.

    Raises CheckpointError where it holds none, or several, or is damaged.
    """
    members = [m for m in _members(source) if m.name.endswith(SUFFIXES)]
    weights = [m for m in members if m.name.rpartition("/")[2] == _NEMO_WEIGHTS] or members
    if len(weights) != 1:
        found = "no checkpoint" if not weights else f"{len(weights)} checkpoints"
        shown = ", ".join(printable(m.name, 80) for m in weights[:_NAMED])
        rest = f" and {len(weights) - _NAMED} more" if len(weights) > _NAMED else ""
        named = f": {shown}{rest}" if weights else ""
        raise CheckpointError(
            source.path,
            f"a tar file of {found}{named}",
            "unpack it with `tar -xf`, and name the weights in it",
        )
    (member,) = weights
    part = source.part(member.offset, member.size)
    return reader(part)(part)


def _members(source: ByteSource) -> Iterator[Member]:
    try:
        with tarfile.open(fileobj=io.BufferedReader(_Stream(source)), mode="r:") as archive:
            for count, member in enumerate(archive):
                if count >= _MOST_MEMBERS:
                    raise CheckpointError(
                        source.path, f"a tar file of more than {_MOST_MEMBERS:,} files", "unpack it"
                    )
                if member.isreg() and not member.issparse():
                    yield Member(member.name, member.offset_data, member.size)
    except (tarfile.TarError, ValueError, EOFError, RecursionError) as error:
        why = printable(error, 100)
        raise CheckpointError(source.path, f"a damaged tar file: {why}", "get it again") from None
