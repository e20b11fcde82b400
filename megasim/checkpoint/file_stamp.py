"""What the system says about a file; checked again after reading, to see that it did not change."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

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
        try:
            same = _stamp(path.stat()) == stamp
        except OSError:
            same = False
        if not same:
            raise CheckpointError(
                path,
                "changed while it was being read; nothing of it was saved",
                "run the command again when nothing writes to it any more",
            )


def _stamp(status: os.stat_result) -> FileStamp:
    return FileStamp(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
