"""Repositories of the Hugging Face hub: their files at one commit, each known by its hash."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote

from megasim.checkpoint.object_stores import Bucket, Listing, ObjectStore, ObjectVersion
from megasim.errors import UsageError, require_extra

# What the hub said of a repository a moment ago is not asked again. Reading it meanwhile is safe:
# a commit never changes.
_SECONDS: Final = 30.0
_KINDS: Final = {"datasets": "dataset", "spaces": "space", "models": "model"}


class HubRepository:
    """A repository at a revision: a branch, a tag or a commit."""

    def __init__(self, name: str, revision: str | None, kind: str) -> None:
        require_extra("hub", f"reading hf://{name}")
        from huggingface_hub import constants, get_token

        self._name, self._revision, self._kind = name, revision, kind
        self._endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")
        self._token = get_token()
        self._files = Bucket(self._endpoint, token=self._token)
        self._known: dict[str, ObjectVersion] = {}
        self._asked = float("-inf")

    def version(self, key: str) -> ObjectVersion | None:
        return self._versions().get(key)

    def listing(self, prefix: str) -> Listing:
        start = f"{prefix}/" if prefix else ""
        below = {k[len(start) :]: v for k, v in self._versions().items() if k.startswith(start)}
        files = {name: v for name, v in sorted(below.items()) if "/" not in name}
        folders = {name.partition("/")[0] for name in below if "/" in name}
        return Listing(files, tuple(sorted(folders)))

    def start(self, key: str, size: int) -> tuple[ObjectVersion, bytes]:
        version = self.version(key)
        if version is None:
            where = f"hf://{self._name}/{key}"
            raise FileNotFoundError(errno.ENOENT, "there is no such file", where)
        data = bytearray(min(size, version.size))
        if data:
            self.fetch(key, 0, memoryview(data), version)
        return version, bytes(data)

    def fetch(self, key: str, begin: int, target: memoryview, version: ObjectVersion) -> None:
        # by its commit: of that, no file ever changes
        prefix = "" if self._kind == "model" else f"{self._kind}s/"
        place = f"{prefix}{self._name}/resolve/{version.commit}/{quote(key)}"
        self._files.fetch(place, begin, target, None)

    def _versions(self) -> dict[str, ObjectVersion]:
        """Return all files of the repository."""
        if time.monotonic() - self._asked < _SECONDS:
            return self._known
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        api = HfApi(endpoint=self._endpoint, token=self._token or False)
        where = f"hf://{self._name}"
        try:
            found = api.repo_info(
                self._name, revision=self._revision, repo_type=self._kind, files_metadata=True
            )
        except HFValidationError:
            raise FileNotFoundError(errno.ENOENT, "no name of a repository", where) from None
        except HfHubHTTPError as error:
            number, problem = _refusal(error, self._revision)
            raise OSError(number, problem, where) from None
        except Exception as error:  # of whatever library asks for it, with addresses in its text
            kind = type(error).__name__
            raise OSError(errno.EIO, f"the hub did not answer ({kind})", where) from None
        commit = found.sha or ""
        self._known = {
            file.rfilename: ObjectVersion(
                (file.lfs.size if file.lfs else file.size) or 0,
                0,
                (file.lfs.sha256 if file.lfs else file.blob_id) or f"{commit} {file.rfilename}",
                commit,
            )
            for file in found.siblings or ()
        }
        self._asked = time.monotonic()
        return self._known


def _refusal(error: Exception, revision: str | None) -> tuple[int, str]:
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return errno.EACCES, "its authors ask for an agreement first: accept it, and log in"
    if isinstance(error, RepositoryNotFoundError):
        return errno.ENOENT, "there is no such repository, or it is private: `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        return errno.ENOENT, f"it has no revision {revision!r}"
    status = getattr(getattr(error, "response", None), "status_code", "an error")
    if status == 404:
        return errno.ENOENT, "there is no such repository"
    return errno.EIO, f"the hub answers {status}"


def repository_at(parts: Sequence[str], settings: int) -> tuple[ObjectStore, str]:
    """Return the repository that the parts of an address name, and the key in it.

    Raises:
        UsageError: they name none.
    """
    kind = _KINDS.get(parts[0], "model") if parts else "model"
    rest = list(parts[1:] if parts and parts[0] in _KINDS else parts)
    if len(rest) < 2:
        raise UsageError(
            f"hf://{'/'.join(parts)} names no repository", "write hf://user/repo[@revision]/file"
        )
    name, _, revision = rest[1].partition("@")
    repository = _repository(f"{rest[0]}/{name}", unquote(revision) or None, kind, settings)
    return repository, "/".join(rest[2:])


@lru_cache(maxsize=64)
def _repository(name: str, revision: str | None, kind: str, settings: int) -> HubRepository:
    return HubRepository(name, revision, kind)
