"""What a file is by its first bytes, what reads it, and why a file is not a checkpoint."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from megasim.checkpoint.byte_source import CUT_SHORT, ByteSource
from megasim.checkpoint.contents import FileContents
from megasim.checkpoint.folders import DISTRIBUTED, FOREIGN_ENDINGS, SUFFIXES
from megasim.checkpoint.safetensors_format import is_safetensors, read_safetensors
from megasim.errors import CheckpointError, ForeignFileError, printable

NOT_WEIGHTS: Final = "name a file of weights: " + " ".join(SUFFIXES)

# What becomes a checkpoint once it is fetched or unpacked, by the first bytes.
_PACKED = {
    b"version https://git-lfs.github.com": (
        "a git-lfs pointer: the weights themselves were not downloaded",
        "run `git lfs pull` in its repository",
    ),
    b"\x1f\x8b": ("a gzip file", "unpack it first"),
    b"7z\xbc\xaf": ("a 7z file", "unpack it first"),
    b"Rar!": ("a rar file", "unpack it first"),
    b"PK\x05\x06": ("an empty zip file", CUT_SHORT),
}
# What else people have under these names.
_FOREIGN = {
    b"\x89HDF": "an HDF5 file",
}
# Whatever a file with one of these endings holds, it was meant to be a checkpoint.
_MEANT = (".safetensors", ".ckpt")
# What stands in folders and is no file.
_SPECIAL: Final = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def why_foreign(path: Path) -> ForeignFileError | None:
    """Return why what a folder holds is no checkpoint; None where it is one, or a broken one."""
    if path.is_dir() or path.suffix in _MEANT:
        return None
    try:
        with ByteSource(path) as source:
            format_reader(source)
    except ForeignFileError as error:
        return error
    except (CheckpointError, OSError):  # opening it will say why
        return None
    return None


def why_beyond_reach(path: Path) -> CheckpointError | None:
    """Return why what a folder names like a checkpoint cannot be opened at all, else None.

    A link whose target is missing was to be a checkpoint; a pipe, a socket or a device is none.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return CheckpointError(
            path,
            f"a link to {printable(path.readlink(), 200)}, which is not there",
            "download it again; in the cache of the hub, its blob is missing",
        )
    except OSError:  # opening it will say why
        return None
    what = next((what for is_kind, what in _SPECIAL if is_kind(mode)), None)
    return None if what is None else ForeignFileError(path, f"{what}, not a file", NOT_WEIGHTS)


def format_reader(source: ByteSource) -> Callable[[ByteSource], FileContents]:
    """Return what reads a file, told from its first bytes.

    Raises ForeignFileError where it is no checkpoint, and CheckpointError where it was to be one.
    """
    start = source.read(0, min(source.size, 512))
    if not start:
        raise CheckpointError(source.path, "an empty file", CUT_SHORT)
    if is_safetensors(start):
        return read_safetensors
    # The others are imported for who has such files: they are a twentieth of the start.
    from megasim.checkpoint.gguf_format import GGUF_MAGIC, read_gguf
    from megasim.checkpoint.numpy_format import NPY_MAGIC, read_npy
    from megasim.checkpoint.torch_format import read_torch_legacy, read_torch_zip

    for magic, (problem, remedy) in _PACKED.items():
        if start.startswith(magic):
            raise CheckpointError(source.path, problem, remedy)
    for magic, problem in _FOREIGN.items():
        if start.startswith(magic):
            raise ForeignFileError(source.path, problem, NOT_WEIGHTS)
    if start.startswith(GGUF_MAGIC):
        return read_gguf
    if start.startswith(NPY_MAGIC):
        return read_npy
    if source.path.suffix == ".distcp":
        raise CheckpointError(source.path, *DISTRIBUTED)
    if start.startswith(b"PK\x03\x04"):
        return read_torch_zip
    if start[257:262] == b"ustar":
        if start.startswith(b"sys_info\0"):
            raise CheckpointError(
                source.path,
                "a tar file, as torch wrote before version 0.2",
                "load it in an old torch and save it again",
            )
        return read_packed
    # a pickle, and the version of its protocol
    if start[0] == 0x80 and b"\2" <= start[1:2] <= b"\5":
        return read_torch_legacy
    if start[8:9] == b"{":
        return read_safetensors  # which says that the header is too large
    if start.lstrip()[:5].lower() in (b"<!doc", b"<html", b"<?xml"):
        raise CheckpointError(
            source.path,
            "a web page, not a checkpoint: the download met an error or a login page",
            "download it again, logged in if the site asks for it",
        )
    if _is_text(start):
        raise ForeignFileError(source.path, "a text file, not a checkpoint", NOT_WEIGHTS)
    if not any(start):
        raise CheckpointError(
            source.path,
            "not a checkpoint: it begins with zeros, perhaps an interrupted download",
            CUT_SHORT,
        )
    what, remedy = FOREIGN_ENDINGS.get(
        source.path.suffix, ("not a checkpoint of a known format", "")
    )
    raise ForeignFileError(source.path, what, remedy or NOT_WEIGHTS)


def read_packed(source: ByteSource) -> FileContents:
    """Return the contents of the one checkpoint in a tar file. See `tar_archives`."""
    from megasim.checkpoint.tar_archives import read_tar

    return read_tar(source, format_reader)


def _is_text(start: bytes) -> bool:
    """Whether the first bytes of a file are printable ASCII.

    >>> _is_text(b"hello\\n"), _is_text(b"\\x00\\x01")
    (True, False)
    """
    return all(32 <= byte < 127 or byte in b"\t\n\r" for byte in start)
