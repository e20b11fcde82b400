"""The hashes under which catalogues know the files of models."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from megasim.checkpoint.byte_source import ByteSource
from megasim.checkpoint.file_stamp import check_unchanged
from megasim.checkpoint.locations import located
from megasim.checkpoint.safetensors_format import is_safetensors
from megasim.errors import CheckpointError
from megasim.interrupts import stop_if_asked

_AT_ONCE = 8 << 20
_LENGTH_BYTES = 8  # of the header of a .safetensors file, before it


@dataclass(frozen=True)
class FileHashes:
    """SHA-256 of a file.

    Attributes:
        size: bytes of the file.
        sha256: 64 hex digits, of all of it.
        data_sha256: the same of a .safetensors file without its header, so that another title or
            other notes in it change nothing, nor do other keys, shapes or dtypes; None for other
            files.
    """

    size: int
    sha256: str
    data_sha256: str | None

    @property
    def autov2(self) -> str:
        """What catalogues of Stable Diffusion models call AutoV2: the first 10 digits.

        >>> FileHashes(0, "e3b0c44298fc1c14", None).autov2
        'E3B0C44298'
        """
        return self.sha256[:10].upper()

    @property
    def autov3(self) -> str | None:
        """What they call AutoV3: the first 12 digits of the hash without the header."""
        return None if self.data_sha256 is None else self.data_sha256[:12].upper()


def hash_file(path: str) -> FileHashes:
    """Return the hashes of a file, which is read once.

    Raises:
        CheckpointError: it cannot be read, or changed meanwhile.
    """
    try:
        with ByteSource(located(path)) as source:
            start = source.read(0, min(source.size, 512))
            header = _LENGTH_BYTES + int.from_bytes(start[:_LENGTH_BYTES], "little")
            has_header = is_safetensors(start) and header <= source.size
            source.expect_all()
            whole, data = hashlib.sha256(), hashlib.sha256()
            for offset in range(0, source.size, _AT_ONCE):
                stop_if_asked()
                piece = source.read(offset, min(_AT_ONCE, source.size - offset))
                whole.update(piece)
                if has_header:
                    data.update(memoryview(piece)[min(max(header - offset, 0), len(piece)) :])
            check_unchanged({source.path: source.stamp})
            size = source.size
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        raise CheckpointError(path, problem, "check the path and its permissions") from None
    return FileHashes(size, whole.hexdigest(), data.hexdigest() if has_header else None)
