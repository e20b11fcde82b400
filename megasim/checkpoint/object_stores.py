"""Objects that lie in a bucket or behind a web server: their names, versions and ranges of bytes.

Credentials come from where the tools of each provider look for them, and go nowhere else: no
message and no address that leaves this file holds any.
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol
from urllib.parse import unquote

from megasim.errors import require_extra

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta

# Of one range, beyond those that the library makes of one request.
_ATTEMPTS: Final = 6
_FIRST_PAUSE: Final = 0.1  # seconds; doubled after each attempt
_STREAMED: Final = 1 << 20  # bytes taken at a time of a range that is under way
_RETRIES: Final = {
    "max_retries": 8,
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5)},
}
# Variables of the environment that say where a store is, and who asks.
_SETTINGS: Final = (
    "AWS_",
    "AZURE_",
    "AZURITE_",
    "GOOGLE_",
    "STORAGE_EMULATOR_",
    "HF_",
    "HUGGING_FACE_",
)
_EMULATOR: Final = "STORAGE_EMULATOR_HOST"  # of Google's own tools: a server in place of theirs
CHANGED: Final = "changed while it was being read"


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """What a store says of an object. Two versions of one object differ in it.

    Attributes:
        size: bytes.
        modified_ns: time of the last change, nanoseconds since 1970; 0 where it is not told.
        tag: what stands for the content: a strong ETag, or the hash of the hub; "" without one.
        commit: of the hub: the state of the repository that is read.
    """

    size: int
    modified_ns: int
    tag: str
    commit: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies directly below a prefix: files by name, and the names of folders, sorted."""

    files: Mapping[str, ObjectVersion]
    folders: tuple[str, ...]


class ObjectStore(Protocol):
    """A place of objects, by their keys. All raise OSError, with a message fit to be printed."""

    def version(self, key: str) -> ObjectVersion | None:
        """Return the version of an object as it is now; None where there is none."""

    def listing(self, prefix: str) -> Listing:
        """Return what lies below a folder; empty where nothing does."""

    def start(self, key: str, size: int) -> tuple[ObjectVersion, bytes]:
        """Return the version of an object as it is now, and up to `size` bytes of its start."""

    def fetch(self, key: str, begin: int, target: memoryview, version: ObjectVersion) -> None:
        """Fill `target` with bytes of a version of an object, from `begin` on.

        Raises OSError, ESTALE where the object is not of that version any more.
        """


def changed(address: str) -> OSError:
    """Return the error for an object that is not what it was."""
    return OSError(errno.ESTALE, CHANGED, address)


class Bucket:
    """A bucket of S3, Google or Azure, or a web server, read with obstore."""

    def __init__(self, root: str, query: str = "", token: str | None = None) -> None:
        """Make ready to read.

        Args:
            root: address up to the bucket or the host.
            query: goes with each request. token: likewise, to a web server.
        """
        require_extra("s3", f"reading {root}")
        from obstore.store import AzureStore, from_url

        self._root = root
        self._is_web = root.startswith("http")
        client: dict[str, Any] = {"timeout": "120s", "allow_http": _is_plain(root)}
        if token:
            client["default_headers"] = {"authorization": f"Bearer {token}"}
        options: dict[str, Any] = {"client_options": client}
        if root.startswith("s3:") and (provider := _shared_credentials()) is not None:
            options["credential_provider"] = provider
        if root.startswith("az:"):
            # of the library's own URLs the first name is the container, and none is the account
            account, _, container = root.removeprefix("az://").partition("/")
            self._store: Any = AzureStore(
                container, account_name=account, retry_config=_RETRIES, **options
            )
            return
        if root.startswith("gs:") and (host := os.environ.get(_EMULATOR)):
            options["service_account_key"] = _emulated_google(host)
            client["allow_http"] = True
        url = f"{root}/?{query}" if query else root
        self._store = from_url(url, retry_config=_RETRIES, **options)

    def version(self, key: str) -> ObjectVersion | None:
        import obstore
        from obstore.exceptions import BaseError

        if not key:
            return None
        try:
            return _version_of(obstore.head(self._store, self._plain(key)))
        except FileNotFoundError:
            return None
        except BaseError as error:
            self._fail(key, error)

    def listing(self, prefix: str) -> Listing:
        import obstore
        from obstore.exceptions import BaseError

        if self._is_web:  # a web server does not say what it has
            return Listing({}, ())
        start = f"{prefix}/" if prefix else ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_FIRST_PAUSE * 2 ** (attempt - 1))
            try:
                found = obstore.list_with_delimiter(self._store, start or None)
                break
            except FileNotFoundError:
                return Listing({}, ())
            except BaseError as error:
                # the library itself asks again, but where the answer broke off
                if attempt == _ATTEMPTS - 1 or "response body" not in str(error):
                    self._fail(prefix, error)
        files = {str(meta["path"])[len(start) :]: _version_of(meta) for meta in found["objects"]}
        folders = [str(path).rstrip("/")[len(start) :] for path in found["common_prefixes"]]
        # of "a//b" no path can be made
        named = {name: files[name] for name in sorted(files) if name}
        return Listing(named, tuple(sorted(filter(None, folders))))

    def start(self, key: str, size: int) -> tuple[ObjectVersion, bytes]:
        import obstore
        from obstore.exceptions import BaseError

        problem: BaseException | None = None
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_FIRST_PAUSE * 2 ** (attempt - 1))
            try:
                found = obstore.get(self._store, self._plain(key), options={"range": (0, size)})
                return _version_of(found.meta), bytes(found.bytes())
            except FileNotFoundError:
                raise self._not_there(key) from None
            except BaseError as error:
                problem = error
                if not _may_pass(error):
                    break
        version = self.version(key)  # of an empty object there is no range
        if version is None:
            raise self._not_there(key)
        if version.size and problem is not None:
            self._fail(key, problem)
        return version, b""

    def fetch(
        self, key: str, begin: int, target: memoryview, version: ObjectVersion | None
    ) -> None:
        """See `ObjectStore`; of an object that never changes, no version need be given."""
        import obstore
        from obstore.exceptions import BaseError, PreconditionError

        done = 0
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_FIRST_PAUSE * 2 ** (attempt - 1))
            options: GetOptions = {"range": (begin + done, begin + len(target))}
            if version is not None and version.tag:
                options["if_match"] = version.tag
            try:
                found = obstore.get(self._store, self._plain(key), options=options)
                if version is not None and _version_of(found.meta) != version:
                    raise changed(f"{self._root}/{key}")
                for chunk in found.stream(min_chunk_size=_STREAMED):
                    piece = memoryview(chunk).cast("B")
                    target[done : done + len(piece)] = piece
                    done += len(piece)
                if done == len(target):
                    return
                problem = "the connection ended too soon"
            except (PreconditionError, FileNotFoundError):
                raise changed(f"{self._root}/{key}") from None
            except BaseError as error:
                if not _may_pass(error):
                    self._fail(key, error)
                problem = _reason(error)
        raise OSError(errno.EIO, problem, f"{self._root}/{key}")

    def _plain(self, key: str) -> str:
        """Return a key as the library takes it, which writes what a URL cannot hold in percents."""
        return unquote(key) if self._is_web else key

    def _not_there(self, key: str) -> FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, "there is no such object", f"{self._root}/{key}")

    def _fail(self, key: str, error: BaseException) -> NoReturn:
        """Raise an error of the library as one of the system. Its own text may hold a secret."""
        if isinstance(error, FileNotFoundError):
            raise self._not_there(key) from None
        number = errno.EACCES if isinstance(error, PermissionError) else errno.EIO
        raise OSError(number, _reason(error), f"{self._root}/{key}") from None


def _emulated_google(host: str) -> str:
    """Return what leads the library to a server in place of Google's, without credentials."""
    address = host if "://" in host else f"http://{host}"
    nobody = {"client_email": "", "private_key": "", "private_key_id": ""}
    return json.dumps({"gcs_base_url": address, "disable_oauth": True, **nobody})


def _is_plain(root: str) -> bool:
    """Whether whoever gave the address meant one that is not encrypted, as on this machine."""
    endpoints = [v for n, v in os.environ.items() if n.startswith("AWS_ENDPOINT_URL")]
    return any(address.startswith("http://") for address in (root, *endpoints))


def _version_of(meta: ObjectMeta) -> ObjectVersion:
    tag = meta["e_tag"] or ""
    modified = meta["last_modified"]
    # a weak one stands for what it shows, not for the bytes
    strong = "" if tag.startswith("W/") else tag
    if strong and not strong.startswith('"'):  # as listings of Azure have it
        strong = f'"{strong}"'
    return ObjectVersion(meta["size"], int(modified.timestamp()) * 1_000_000_000, strong)


def _may_pass(error: BaseException) -> bool:
    """Whether asking again may help: the connection was lost, or the server is busy."""
    from obstore.exceptions import (
        InvalidPathError,
        NotSupportedError,
        PermissionDeniedError,
        UnauthenticatedError,
    )

    final = (InvalidPathError, NotSupportedError, PermissionDeniedError, UnauthenticatedError)
    return not isinstance(error, (*final, FileNotFoundError))


def _reason(error: BaseException) -> str:
    """Return what went wrong, in words of our own: those of a library name URLs and their keys."""
    from obstore.exceptions import (
        InvalidPathError,
        NotSupportedError,
        PermissionDeniedError,
        UnauthenticatedError,
    )

    if isinstance(error, UnauthenticatedError):
        return "the store wants credentials, and there are none, or wrong ones"
    if isinstance(error, PermissionDeniedError):
        return "access denied"
    if isinstance(error, NotSupportedError):
        return "the server gives no ranges of a file; download it"
    if isinstance(error, InvalidPathError):
        return "no name of an object"
    text = str(error)
    status = re.search(r"\bstatus(?: code)?:?\s*\"?(\d{3})", text)
    if status is not None:
        return f"the server answers {status[1]}"
    if "credential" in text.lower():
        return "the store wants credentials, and none were found"
    return "the connection failed"


def _shared_credentials() -> Any:
    """Return the credentials of ~/.aws where the environment has none, boto3 reads them, else None.

    Those of the environment and of a machine in the cloud are found by obstore.
    """
    if "AWS_ACCESS_KEY_ID" in os.environ or "AWS_SKIP_SIGNATURE" in os.environ:
        return None
    credentials = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    config = os.environ.get("AWS_CONFIG_FILE", "~/.aws/config")
    if not any(Path(file).expanduser().exists() for file in (credentials, config)):
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider

        return Boto3CredentialProvider()
    except (ImportError, ValueError):
        return None


def settings() -> int:
    """Return a number that changes with the variables that say where a store is, and who asks."""
    return hash(tuple(sorted(i for i in os.environ.items() if i[0].startswith(_SETTINGS))))


@lru_cache(maxsize=64)
def bucket_at(root: str, query: str, settings: int) -> Bucket:
    """Return the bucket or server at an address; the same one while the `settings` are."""
    return Bucket(root, query)
