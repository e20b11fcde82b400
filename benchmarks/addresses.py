"""Models in a bucket: the store that they give, bytes and requests, late answers, failing requests.

python -m benchmarks.addresses           the demo, and four files of 0.5 GB together: 3 GB of disk
python -m benchmarks.addresses --quick   the demo alone

moto's server of S3 runs in this process, on loopback, and megasim as processes of their own. All
that is written is the time on the clock, which only a quiet machine gives: take the ratios.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import megasim
from benchmarks.measure import Row
from benchmarks.tables import show_rows
from megasim.zoo.building import build_demo_zoo, build_full_size
from tests.object_servers import S3Server, s3_server, s3_settings

_LATE = 0.05  # seconds by which each answer comes later
_FAILING = 0.05  # of all requests
_AT_ONCE = 16  # requests of the plain transfer, as many as megasim makes
_VIEWS = {
    "models": "select * exclude (ingested_at, path) from models",
    "layers": "from layers",
    "layer_distances": "from layer_distances",
    "component_distances": "from component_distances",
}


def measure_addresses(folder: Path, server: S3Server, what: str) -> list[Row]:
    """Return what ingest and compare take from a bucket, beside the same files on the disk.

    Args:
        folder: holds the models, and is the name of the prefix in the bucket.
    """
    total = server.put_folder(folder, folder.name)
    count = sum(path.is_file() for path in folder.rglob("*"))
    address = f"s3://models/{folder.name}"
    environment = {**os.environ, **s3_settings(server)}
    disk = _Run(folder.parent / "disk.duckdb", environment)
    expected = disk.everything(str(folder), server)
    rows: list[Row] = [{**_row(what, "disk", count, total), **expected}]
    for name, late, failing in (
        ("bucket", 0.0, 0.0),
        ("bucket, 50 ms late", _LATE, 0.0),
        ("bucket, 5 % of requests fail", 0.0, _FAILING),
    ):
        server.traffic.late, server.traffic.failing = late, failing
        server.traffic.chance, server.traffic.failed = random.Random(1), 0
        plain = _plain_transfer(folder, environment) if not failing else float("nan")
        run = _Run(folder.parent / "bucket.duckdb", environment)
        found = run.everything(address, server)
        rows.append(
            {
                **_row(what, name, count, total),
                **found,
                "plain transfer s": plain,
                "failed requests": server.traffic.failed,
                "bytes / files": _number(found["ingest bytes"]) / total,
                "same views": _same(disk.path, run.path),
            }
        )
    server.traffic.late = server.traffic.failing = 0.0
    first, late = rows[1], rows[2]
    for column in ("ingest s", "compare s", "plain transfer s"):
        late[f"{column} / without"] = _number(late[column]) / _number(first[column])
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [{column: row.get(column, "") for column in columns} for row in rows]


class _Run:
    """A store, filled by commands."""

    def __init__(self, path: Path, environment: Mapping[str, str]) -> None:
        self.path, self._environment = path, environment
        path.unlink(missing_ok=True)

    def everything(self, models: str, server: S3Server) -> Row:
        """Ingest, ingest again and compare; return times, bytes and requests of each."""
        found: Row = {}
        for name, arguments in (
            ("ingest", ["ingest", models]),
            ("again", ["ingest", models]),
            ("compare", ["compare"]),
        ):
            server.traffic.clear()
            begun = time.perf_counter()
            self._megasim(arguments)
            found[f"{name} s"] = time.perf_counter() - begun
            found[f"{name} bytes"] = server.traffic.sent
            found[f"{name} requests"] = len(server.traffic.requests)
        return found

    def _megasim(self, arguments: Sequence[str]) -> None:
        command = [sys.executable, "-m", "megasim.cli", "--db", str(self.path), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=self._environment)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-1000:]}")


def _plain_transfer(folder: Path, environment: Mapping[str, str]) -> float:
    """Return the seconds that the files take by themselves, some at a time, each in one request."""
    names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
    keys = [f"{folder.name}/{name}" for name in names]
    command = [sys.executable, "-m", "benchmarks.addresses", "transfer", *keys]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    return float(done.stdout)


def _transfer(keys: Sequence[str]) -> float:
    import obstore
    from obstore.store import S3Store

    store = S3Store("models", client_options={"allow_http": True})
    begun = time.perf_counter()
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(lambda key: len(obstore.get(store, key).bytes()), keys))
    return time.perf_counter() - begun


def _same(one: Path, other: Path) -> str:
    """Say whether two stores have the same rows in all views, but for times and places."""
    found = []
    for path in (one, other):
        with megasim.open_store(path, "read") as store:
            connection = store.store.connection
            found.append(
                {
                    name: repr(connection.execute(f"{sql} order by all").fetchall())
                    for name, sql in _VIEWS.items()
                }
            )
    differing = [name for name in _VIEWS if found[0][name] != found[1][name]]
    return "no: " + ", ".join(differing) if differing else "yes"


def _row(what: str, where: str, files: int, size: int) -> Row:
    return {"what": f"addresses: {what}", "files from": where, "files": files, "MB": size / 1e6}


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)


def main() -> None:
    """Measure and print; or, as a process of its own, transfer objects and print the seconds."""
    if sys.argv[1:2] == ["transfer"]:
        print(_transfer(sys.argv[2:]))
        return
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.addresses",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="the demo alone")
    parser.add_argument("--folder", type=Path, help="where files are made; a temporary folder")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="megasim-addresses-", dir=given.folder) as made,
        s3_server() as server,
    ):
        here = Path(made)
        build_demo_zoo(here / "demo")
        (here / "demo" / "zoo.json").unlink()
        show_rows(measure_addresses(here / "demo", server, "demo"))
        if not given.quick:
            build_full_size(here / "large", 4, width=0.25)
            show_rows(measure_addresses(here / "large", server, "large files"))


if __name__ == "__main__":
    main()
