"""What the system says about a file; checked again after reading, to see that it did not change."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Final

from megasim.checkpoint.locations import RemotePath, located, version_number
from megasim.checkpoint.object_stores import ObjectVersion
from megasim.errors import CheckpointError

# Times are kept in steps: of some milliseconds, or of two seconds where they are whole seconds. A
# change within the step of the one before cannot be seen.
_STEP_NS: Final = 20_000_000
_COARSE_STEP_NS: Final = 2_000_000_000


@dataclass(frozen=True, slots=True)
class FileStamp:
    """A file is unchanged while all four are equal.

    Nobody can set the time of the last change of state, `ctime_ns`, back; a rename, a new link and
    new permissions raise it too.
    """

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


# Of an object under which no tag stands for the content, it is never known how old it is.
_NOBODY_KNOWS: Final = 1 << 62


def open_stamped(path: Path) -> tuple[RawIOBase, FileStamp, Path]:
    """Open a file; return it with its stamp, and its path. It may be under an address.

    Such a path stays with the version that was opened: whatever is read under it, or under its
    text, is of that version. So `check_unchanged` need not ask for it, where it has a tag.
    """
    if isinstance(path, RemotePath):
        remote = path.open("rb", buffering=0)
        pinned = located(str(path))
        assert isinstance(pinned, RemotePath)
        pinned.pin(remote.version)
        return remote, _stamp_of_version(remote.version), pinned
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
        raise CheckpointError(path, "not a regular file", "name a checkpoint file or a folder")
    file = path.open("rb", buffering=0)
    return file, stamp_of(file.fileno()), path


def content_tag(path: Path) -> str:
    """Return what stands for the content of a file that was opened under an address, else ""."""
    return path.version.tag if isinstance(path, RemotePath) and path.version else ""


def _stamp_of_version(version: ObjectVersion) -> FileStamp:
    changed = 0 if version.tag else _NOBODY_KNOWS
    return FileStamp(version_number(version), version.size, version.modified_ns, changed)


def stamp_of(handle: int) -> FileStamp:
    """Return the stamp of an open file, once the last change of it is old enough to be told apart
    from a next one.
    """
    stamp = _stamp(os.fstat(handle))
    step = _STEP_NS if stamp.ctime_ns % 1_000_000_000 else _COARSE_STEP_NS
    age = time.time_ns() - stamp.ctime_ns
    if 0 <= age < step:
        time.sleep((step - age) / 1e9)
        stamp = _stamp(os.fstat(handle))
    return stamp


def check_unchanged(stamps: Mapping[Path, FileStamp]) -> None:
    """Raise CheckpointError for the first file that is not what it was when its stamp was taken."""
    for path, stamp in stamps.items():
        if content_tag(path):
            continue  # every request asked for this version
        try:
            same = _stamp_now(path) == stamp
        except OSError:
            same = False
        if not same:
            raise CheckpointError(
                path,
                "changed while it was being read; nothing of it was saved",
                "run the command again when nothing writes to it any more",
            )


def _stamp_now(path: Path) -> FileStamp:
    if not isinstance(path, RemotePath):
        return _stamp(path.stat())
    # of the address alone, which no version is tied to
    file, stamp, _ = open_stamped(located(str.__str__(str(path))))
    file.close()
    return stamp


def _stamp(status: os.stat_result) -> FileStamp:
    return FileStamp(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
