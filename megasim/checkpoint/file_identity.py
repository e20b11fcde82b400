"""What distinguishes one checkpoint file from another without reading all of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from blake3 import blake3

from megasim.checkpoint.byte_source import ByteSource
from megasim.checkpoint.file_stamp import FileStamp, check_unchanged, content_tag

_SAMPLES: Final = 16
_SAMPLE_BYTES: Final = 64 << 10


@dataclass(frozen=True)
class FileIdentity:
    """A checkpoint is taken as known if all three are.

    Attributes:
        size: bytes of all its files.
        mtime_ns: time of the last change of any of them, nanoseconds since 1970.
        header_hash: 64 hex digits; BLAKE3 of the bytes that describe its tensors and of 16
            pieces of 64 KiB spread evenly over the file, so that two trainings of one
            architecture differ though their headers, sizes and times may not.
        stamps: what the system said of each file before the first byte of it was read.

    Not guaranteed: that a file changed by hand between the pieces, its time set back, differs.
    """

    size: int
    mtime_ns: int
    header_hash: str
    stamps: Mapping[Path, FileStamp] = field(default_factory=dict, compare=False, repr=False)

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a file is not what it was before it was opened."""
        check_unchanged(self.stamps)


def identify(source: ByteSource, header: bytes) -> FileIdentity:
    """Return the identity of an open file whose tensors `header` describes; reads 1 MiB.

    Under an address with a tag that stands for the content, as a strong ETag or the hash of the
    hub, this takes the place of the samples, and nothing is read.
    """
    digest = blake3(len(header).to_bytes(8, "little") + header)
    digest.update(source.size.to_bytes(8, "little"))
    if tag := content_tag(source.path):
        digest.update(b"tag " + tag.encode("utf-8", "surrogateescape"))
        stamp = source.stamp
        return FileIdentity(stamp.size, stamp.mtime_ns, digest.hexdigest(), {source.path: stamp})
    span = min(_SAMPLE_BYTES, source.size)
    for i in range(_SAMPLES):
        digest.update(source.read((source.size - span) * i // (_SAMPLES - 1), span))
    stamp = source.stamp
    return FileIdentity(stamp.size, stamp.mtime_ns, digest.hexdigest(), {source.path: stamp})


def combine(parts: Mapping[str, FileIdentity]) -> FileIdentity:
    """Return the identity of a folder from those of its files, by their names within it."""
    digest = blake3()
    for name, part in sorted(parts.items()):
        raw = os.fsencode(name)
        digest.update(b"%d %b %b\n" % (len(raw), raw, part.header_hash.encode()))
    return FileIdentity(
        size=sum(part.size for part in parts.values()),
        mtime_ns=max((part.mtime_ns for part in parts.values()), default=0),
        header_hash=digest.hexdigest(),
        stamps={path: stamp for part in parts.values() for path, stamp in part.stamps.items()},
    )
