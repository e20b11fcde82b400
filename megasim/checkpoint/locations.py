"""Where a checkpoint lies: on a disk, or under an address of an object store.

An address is a path like any other to everything above: it has a name, a parent, a size, and is
opened and read by ranges. Nothing but this file and the two below it knows that a network is
between.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import threading
import time
from collections.abc import Generator, Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PosixPath, PurePath
from typing import Any, Final, Self

from blake3 import blake3

from megasim.checkpoint.hub_repositories import repository_at
from megasim.checkpoint.object_stores import (
    Listing,
    ObjectStore,
    ObjectVersion,
    bucket_at,
    settings,
)
from megasim.checkpoint.range_reads import FIRST_BYTES, RemoteFile, keep_block
from megasim.errors import UsageError

SCHEMES: Final = ("s3", "gs", "az", "https", "http", "hf")
# Of a path, which has joined the slashes, as of an address.
_ADDRESS = re.compile(rf"({'|'.join(SCHEMES)}):/+([^/].*)", re.DOTALL)
# What was asked of names a moment ago is not asked again. What is opened is always asked for.
_SECONDS = 5.0
_NUMBER = 8  # bytes of a hash that stand for a version where a file has the number of its inode


class PinnedAddress(str):
    """An address, and the version of the object under it that was opened.

    Wherever it is opened again, in a worker of another machine too, it is that version or none.
    """

    version: ObjectVersion

    def __new__(cls, address: str, version: ObjectVersion) -> Self:
        """Return the address as a text that knows the version."""
        pinned = super().__new__(cls, address)
        pinned.version = version
        return pinned

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what it is made of again, elsewhere."""
        return PinnedAddress, (str.__str__(self), self.version)


def is_address(path: str) -> bool:
    """Whether a text is an address, and no path of the disk.

    >>> is_address("s3://bucket/a.safetensors"), is_address("models/s3.safetensors")
    (True, False)
    """
    return _ADDRESS.fullmatch(path) is not None


def located(path: str | os.PathLike[str]) -> Path:
    """Return the path that a text says, be it an address or a place on a disk.

    What follows a "?" in an address of the web is kept by this process for its requests, and is no
    part of the path: it often is a key.

    Raises:
        UsageError: the address holds a password.

    >>> located("s3://bucket/a/model.safetensors").parent.name
    'a'
    >>> str(located(Path("hf://user/repo")))
    'hf://user/repo'
    """
    if isinstance(path, RemotePath):
        return path
    text = os.fspath(path)
    found = _ADDRESS.fullmatch(text)
    if found is None:
        return Path(path)
    scheme, rest = found.groups()
    if scheme.startswith("http"):
        rest, _, query = rest.partition("?")
        if "@" in rest.partition("/")[0]:
            raise UsageError(
                "the address holds the name of a user or a password, which are not taken",
                "leave out what stands before the @",
            )
        if query:
            _Remembered.queries[f"{scheme}://{rest}"] = query
    here = RemotePath(f"{scheme}:", rest)
    if isinstance(path, PinnedAddress):
        here.pin(path.version)
    return here


class _Remembered:
    """What this process was told of addresses."""

    lock = threading.Lock()
    queries: dict[str, str] = {}  # noqa: RUF012 - there is one
    names: dict[str, tuple[float, ObjectVersion | None]] = {}  # noqa: RUF012
    listings: dict[str, tuple[float, Listing]] = {}  # noqa: RUF012


class RemotePath(PosixPath):
    """An address, used as the path of a file or a folder.

    What it says of what is there may be some seconds old; what it opens is what is there now. But a
    path that was opened, and its text, stay with that version.
    """

    _version: ObjectVersion | None = None

    def __str__(self) -> str:
        address = str.__str__(PosixPath.__str__(self)).replace(":/", "://", 1)
        return address if self._version is None else PinnedAddress(address, self._version)

    def __fspath__(self) -> str:
        return str(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PurePath) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(PosixPath(*self.parts))

    def __reduce__(self) -> tuple[Any, ...]:
        return located, (str(self),)

    def pin(self, version: ObjectVersion) -> None:
        """Stay with one version of the object."""
        self._version = version

    @property
    def version(self) -> ObjectVersion | None:
        """The version that was opened; None before."""
        return self._version

    # Its place in a store

    @property
    def _address(self) -> str:
        return str.__str__(str(self))

    def _place(self) -> tuple[ObjectStore, str]:
        """Return the store that the address names, and the key in it."""
        scheme, parts = self.parts[0][:-1], self.parts[1:]
        if scheme == "hf":
            return repository_at(parts, settings())
        # of Azure, an account and a container
        depth = 2 if scheme == "az" else 1
        query = _Remembered.queries.get(self._address, "")
        root = f"{scheme}://{'/'.join(parts[:depth])}"
        return bucket_at(root, query, settings()), "/".join(parts[depth:])

    def _now(self) -> ObjectVersion | None:
        """Return the version that is there now; None where there is no such object."""
        store, key = self._place()
        found = store.version(key)
        self._remember(found)
        return found

    def _remember(self, version: ObjectVersion | None) -> None:
        with _Remembered.lock:
            _Remembered.names[self._address] = time.monotonic(), version

    def _lately(self) -> ObjectVersion | None:
        if self._version is not None:
            return self._version
        when, found = _Remembered.names.get(self._address, (-_SECONDS, None))
        return found if time.monotonic() - when < _SECONDS else self._now()

    def _listing(self) -> Listing:
        address = self._address
        when, found = _Remembered.listings.get(address, (-_SECONDS, Listing({}, ())))
        if time.monotonic() - when < _SECONDS:
            return found
        store, key = self._place()
        found = store.listing(key)
        now = time.monotonic()
        with _Remembered.lock:
            _Remembered.listings[address] = now, found
            _Remembered.names |= {f"{address}/{n}": (now, v) for n, v in found.files.items()}
            _Remembered.names |= {f"{address}/{name}": (now, None) for name in found.folders}
        return found

    def _may_be_there(self) -> bool:
        """False where a listing of its folder, some seconds old at most, does not name it."""
        when, found = _Remembered.listings.get(str.__str__(str(self.parent)), (-_SECONDS, None))
        if found is None or time.monotonic() - when >= _SECONDS or len(self.parts) <= 2:
            return True
        return self.name in found.files or self.name in found.folders

    # As pathlib.Path

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return kind, size and time; the number of the inode stands for the version."""
        version = self._lately()
        if version is not None:
            return _status(stat.S_IFREG, version_number(version), version.size, version.modified_ns)
        if self.is_dir():
            return _status(stat.S_IFDIR, _number(str(self)), 0, 0)
        raise FileNotFoundError(errno.ENOENT, "there is no such object", str(self))

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        try:
            return self.is_file() or self.is_dir()
        except FileNotFoundError:  # there is no such bucket, or repository
            return False

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return self._may_be_there() and self._lately() is not None

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        if self._version is not None or not self._may_be_there():
            return False
        if self._lately() is not None:
            return False
        found = self._listing()
        return bool(found.files or found.folders)

    def is_symlink(self) -> bool:
        return False

    def is_absolute(self) -> bool:
        return True

    def absolute(self) -> Self:
        return self

    def resolve(self, strict: bool = False) -> Self:
        return self

    def iterdir(self) -> Generator[Self]:
        found = self._listing()
        for name in sorted([*found.files, *found.folders]):
            yield self / name

    def glob(self, pattern: str, **_: Any) -> Iterator[Self]:  # type: ignore[override]
        return (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def rglob(self, pattern: str, **_: Any) -> Iterator[Self]:  # type: ignore[override]
        for path in self.iterdir():
            if fnmatchcase(path.name, pattern):
                yield path
            if path.is_dir():
                yield from path.rglob(pattern)

    def open(self, mode: str = "r", buffering: int = -1, *_: Any, **__: Any) -> Any:
        """Open the object for reading, as bytes; unbuffered unless asked for."""
        if mode != "rb":
            raise OSError(errno.EROFS, "addresses are only read", str(self))
        address, version = self._address, self._version
        store, key = self._place()
        if version is None:
            version, start = store.start(key, FIRST_BYTES)
            keep_block(address, version, 0, start)
            self._remember(version)
        raw = RemoteFile(store, key, address, version)
        return raw if buffering == 0 else io.BufferedReader(raw)


def version_number(version: ObjectVersion) -> int:
    """Return a number that stands for a version, as that of an inode does for a file."""
    return _number(f"{version.tag} {version.size} {version.modified_ns}")


def _number(text: str) -> int:
    return int.from_bytes(blake3(text.encode("utf-8", "surrogateescape")).digest(_NUMBER)) >> 1


def _status(mode: int, number: int, size: int, modified_ns: int) -> os.stat_result:
    seconds = modified_ns / 1e9
    values = (mode | 0o444, number, 0, 1, 0, 0, size, int(seconds), int(seconds), 0)
    times = {"st_mtime_ns": modified_ns, "st_ctime_ns": 0, "st_mtime": seconds}
    return os.stat_result(values, times)
