"""Servers of objects on this machine: one of S3, one of the web, and one that answers as the hub.

Each counts what it sends, and may be told to fail now and then, or to answer late.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest


@dataclass
class Traffic:
    """What a server was asked for: methods and paths, and how many bytes of objects it sent.

    `failing` of all requests fail, by a generator of its own: half of them with an error, half
    when half of the bytes are sent. Each answer comes `late` by so many seconds.
    Requests for objects that are models wait for each other at a `meeting`.
    """

    requests: list[tuple[str, str]] = field(default_factory=list)
    sent: int = 0
    failing: float = 0.0
    failed: int = 0
    late: float = 0.0
    meeting: threading.Barrier | None = None
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def failure(self) -> str:
        """Return how a request is to fail: "", "error" or "cut"."""
        with self.lock:
            fails, cut = self.chance.random() < self.failing, self.chance.random() < 0.5
            self.failed += fails
        return ("cut" if cut else "error") if fails else ""

    def count(self, method: str, path: str, size: int) -> None:
        with self.lock:
            self.requests.append((method, path))
            self.sent += size

    def clear(self) -> None:
        self.requests.clear()
        self.sent = 0


class _Counted:
    """A WSGI application whose traffic is counted, and that fails where it is told to."""

    def __init__(self, app: Any, traffic: Traffic) -> None:
        self.app, self.traffic = app, traffic

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if self.traffic.late:
            time.sleep(self.traffic.late)
        if self.traffic.meeting and method == "GET" and path.endswith(".safetensors"):
            self.traffic.meeting.wait(120.0)
        how = self.traffic.failure() if method in ("GET", "HEAD") else ""
        if how == "error" or (how and method == "HEAD"):
            start("503 Service Unavailable", [("Content-Length", "0")])
            return [b""]
        body = b"".join(self.app(environ, start))
        self.traffic.count(method, path, len(body))
        return [body[: len(body) // 2]] if how == "cut" else [body]


@dataclass
class S3Server:
    """A server of S3 at `url`, with a bucket called "models"."""

    url: str
    traffic: Traffic

    def put(self, key: str, data: bytes) -> None:
        """Store an object."""
        from obstore.store import S3Store

        store = S3Store(
            "models",
            endpoint=self.url,
            region="us-east-1",
            access_key_id="an-access-key",
            secret_access_key="a-secret-access-key",
            client_options={"allow_http": True},
        )
        store.put(key, data)

    def put_for_all(self, key: str, data: bytes) -> None:
        """Store an object that is given to whoever asks, without any signature."""
        headers = {"x-amz-acl": "public-read", "Content-Type": "application/octet-stream"}
        address = f"{self.url}/models/{key}"
        asked = urllib.request.Request(address, data=data, headers=headers, method="PUT")
        urllib.request.urlopen(asked).close()

    def put_folder(self, folder: Path, prefix: str) -> int:
        """Store the files of a folder; return how many bytes they have."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in files:
            self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return sum(path.stat().st_size for path in files)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run moto's server of S3."""
    pytest.importorskip("obstore", reason="needs the extra [s3]")
    pytest.importorskip("moto.server", reason="needs moto, which the extra [dev] brings")
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: object) -> None:
            pass

    traffic = Traffic()
    app = _Counted(DomainDispatcherApplication(create_backend_app), traffic)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        found = S3Server(f"http://127.0.0.1:{server.server_port}", traffic)
        bucket = urllib.request.Request(f"{found.url}/models", method="PUT")
        urllib.request.urlopen(bucket).close()
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def s3_settings(server: S3Server) -> dict[str, str]:
    """Return the variables of the environment that lead to a server."""
    return {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "an-access-key",
        "AWS_SECRET_ACCESS_KEY": "a-secret-access-key",
    }


@dataclass
class WebServer:
    """A web server at `url`: path to content. Refuses requests without `key`, if one is set."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)
    key: str = ""
    tagged: bool = True
    ranged: bool = True

    def publish(self, name: str, files: dict[str, bytes], commit: str) -> None:
        """Answer as the hub does of a repository at its branch main."""
        siblings = []
        for path, data in files.items():
            digest = hashlib.sha256(data).hexdigest()
            siblings.append(
                {
                    "rfilename": path,
                    "size": len(data),
                    "blobId": digest[:40],
                    "lfs": {"sha256": digest, "size": len(data), "pointerSize": 130},
                }
            )
            # as there: an address that names the commit leads to one that names the content
            self.redirects[f"/{name}/resolve/{commit}/{path}"] = f"/cdn/{digest}"
            self.files[f"/cdn/{digest}"] = data
        about = {"id": name, "sha": commit, "siblings": siblings, "private": False}
        for place in ("", "/revision/main", f"/revision/{commit}"):
            self.files[f"/api/models/{name}{place}"] = json.dumps(about).encode()


@contextmanager
def web_server() -> Iterator[WebServer]:
    """Run a web server that gives ranges of files."""
    pytest.importorskip("obstore", reason="needs the extra [s3]")
    site = WebServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _empty(self, status: int, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _answer(self, with_body: bool) -> None:
            path, _, query = self.path.partition("?")
            path = unquote(path)
            given = f"{query} {self.headers.get('Authorization', '')}"
            if site.key and site.key not in given and not path.startswith("/cdn/"):
                return self._empty(403)
            if path in site.redirects:
                site.traffic.count("302", path, 0)
                return self._empty(302, Location=site.url + site.redirects[path])
            data = site.files.get(path)
            if data is None:
                return self._empty(404, **{"X-Error-Code": "RepoNotFound"})
            tag = f'"{hashlib.sha256(data).hexdigest()}"'
            wanted = self.headers.get("If-Match")
            if wanted not in (None, tag):
                return self._empty(412)
            found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            begin, end = 0, len(data)
            if found and site.ranged:
                begin, end = int(found[1]), min(int(found[2] or len(data)) + 1, len(data))
            if begin >= len(data) > 0:
                return self._empty(416)
            self.send_response(206 if found and site.ranged else 200)
            if found and site.ranged:
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
            if site.tagged:
                self.send_header("ETag", tag)
            self.send_header("Last-Modified", "Sat, 28 Nov 2020 12:00:00 GMT")
            self.send_header("Content-Length", str(end - begin))
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            if with_body:
                self.wfile.write(data[begin:end])
            site.traffic.count(self.command, path, end - begin if with_body else 0)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
