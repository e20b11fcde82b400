"""What a service is started with."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from megasim.errors import UsageError, printable

DEFAULT_PORT = 8642
LOOPBACK = "127.0.0.1"
# A token that is shorter could be guessed.
_LEAST_TOKEN = 16


@dataclass(frozen=True)
class Settings:
    """How a service runs.

    Attributes:
        store: the DuckDB file.
        models: folders whose checkpoints may be ingested.
        host: address to listen at; another than this machine's own needs a token.
        port: 0 for any that is free.
        token: what everybody has to know; nobody has to know anything when empty.
        allow_jobs: whether those who know the token may start jobs.
        host_names: names beside the address under which browsers reach the service.
        memory: bytes that queries may use together; they use the disk beyond that.
        job_memory: bytes for the buffers of a job, in processes of its own.
        workers: processes that read checkpoints for a job.
        answering: processes that make pages and answers; as many as suit the machine when None.
        sql_seconds: how long one query of a user may take.
        sql_memory: bytes that one query of a user may use.
        sql_rows: rows that a page or JSON holds at most; Arrow and CSV are streamed whole.
        upload_bytes: how large an uploaded file may be.
    """

    store: Path
    models: tuple[Path, ...] = ()
    host: str = LOOPBACK
    port: int = DEFAULT_PORT
    token: str = field(default="", repr=False)
    allow_jobs: bool = False
    host_names: tuple[str, ...] = ()
    memory: int = 512 << 20
    job_memory: int = 1 << 30
    workers: int | None = None
    answering: int | None = None
    sql_seconds: float = 30.0
    sql_memory: int = 256 << 20
    sql_rows: int = 10_000
    upload_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        """Refuse what would let strangers in.

        Raises:
            UsageError: another address than loopback without a token, or a token that is guessed.
        """
        if not self.is_loopback and not self.token:
            raise UsageError(
                f"{printable(self.host)} can be reached from other machines, and needs a token",
                "give one with --token-file, or leave --host out",
            )
        if self.token and (len(self.token) < _LEAST_TOKEN or not self.token.isascii()):
            raise UsageError(
                f"a token has {_LEAST_TOKEN} ASCII characters or more",
                "make one with `openssl rand -hex 32`",
            )

    @property
    def job_folder(self) -> Path:
        """Where jobs keep the files they are given and write: beside the store."""
        return self.store.with_name(f"{self.store.name}.jobs")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address.

        >>> Settings(Path("s"), host="::1").is_loopback, Settings(Path("s")).is_loopback
        (True, True)
        """
        return is_loopback(self.host)

    def is_own_host(self, host: str) -> bool:
        """Whether a Host header names this service, and not a name that a stranger points here.

        A name that anybody can register may be pointed at this machine, so that a page of theirs
        seems to be one of ours; an address cannot.

        >>> local = Settings(Path("s"), port=80)
        >>> local.is_own_host("localhost"), local.is_own_host("evil.example")
        (True, False)
        >>> local.is_own_host("127.0.0.1:80"), local.is_own_host("10.0.0.7")
        (True, False)
        """
        name = host_name(host)
        if name in {own.lower() for own in self.host_names} or name == self.host.lower():
            return True
        if self.is_loopback:
            return name == "localhost" or is_loopback(name)
        return name == "localhost" or _is_address(name)


def host_name(host: str) -> str:
    """Return a Host header without its port.

    >>> host_name("[::1]:80"), host_name("LocalHost:80"), host_name("::1")
    ('::1', 'localhost', '::1')
    """
    text = host.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.rpartition(":")[0] if text.count(":") == 1 else text


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    """Whether a name or address is this machine, for itself alone."""
    return name == "localhost" or (_is_address(name) and ipaddress.ip_address(name).is_loopback)
