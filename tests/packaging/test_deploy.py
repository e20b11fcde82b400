"""The files of `deploy/` say what works: their commands are run as they are, in other places."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="install the extra serve")
DEPLOY = Path(__file__).parents[2] / "deploy"
if not DEPLOY.is_dir():
    pytest.skip("deploy/ is in the source distribution alone", allow_module_level=True)
if sys.platform == "win32":
    pytest.skip("neither systemd nor containers are there", allow_module_level=True)

TOKEN = "a-token-that-only-tests-know"


def unit() -> dict[str, dict[str, list[str]]]:
    """Return the unit of systemd: section → name → values, lines that go on joined."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    section = ""
    text = (DEPLOY / "megasim.service").read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if not line.strip() or line.startswith(("#", ";")):
            continue
        if head := re.fullmatch(r"\[(\w+)\]", line.strip()):
            section = head[1]
            continue
        name, is_set, value = line.partition("=")
        assert is_set and name.strip().isalnum(), line
        found[section][name.strip()].append(value.strip())
    return found


def container() -> dict[str, list[str]]:
    """Return the instructions of the Containerfile: name → what follows each time."""
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found: dict[str, list[str]] = defaultdict(list)
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            assert name in INSTRUCTIONS, line
            found[name].append(rest.strip())
    return found


INSTRUCTIONS = {
    *("FROM", "COPY", "RUN", "USER", "WORKDIR", "VOLUME", "EXPOSE", "ENV", "ENTRYPOINT"),
    *("CMD", "HEALTHCHECK"),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with a token, models, and `megasim` as a program."""
    from tests.models import random_model, write_model

    write_model(tmp_path / "models" / "a.safetensors", random_model(0))
    (tmp_path / "token").write_text(TOKEN + "\n")
    program = tmp_path / "bin" / "megasim"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m megasim.cli "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return tmp_path


@contextmanager
def running(command: Sequence[str], place: Path, port: int, **env: str) -> Iterator[str]:
    """Run a command until the service answers; give its address; end it as both files do."""
    path = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    with (place / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command, cwd=place, env={**os.environ, "PATH": path, **env}, stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            assert process.poll() is None, (place / "log.txt").read_text()
            try:
                assert urllib.request.urlopen(f"{address}/healthz", timeout=60).read() == b"ok\n"
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (place / "log.txt").read_text()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def check_token(address: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{address}/api/v1/models", timeout=60)
    headers = {"authorization": f"Bearer {TOKEN}"}
    asked = urllib.request.Request(f"{address}/api/v1/models", headers=headers)
    with urllib.request.urlopen(asked, timeout=60) as answer:
        assert [row["name"] for row in json.load(answer)["rows"]] == ["a"]


def test_the_unit_starts_the_service_and_ends_it(place: Path) -> None:
    settings = unit()["Service"]
    (line,) = settings["ExecStart"]
    folders = {
        "/opt/megasim/bin/megasim": str(place / "bin" / "megasim"),
        "/var/lib/megasim": str(place),
        "/srv/models": str(place / "models"),
        "%d": str(place),
    }
    for there, here in folders.items():
        assert there in line
        line = line.replace(there, here)
    assert "%" not in line
    command = shlex.split(line)
    store = command[command.index("--db") + 1]
    subprocess.run([command[0], "--db", store, "ingest", str(place / "models")], check=True)
    port = free_port()
    with running([*command, "--port", str(port)], place, port) as address:
        check_token(address)
    # it writes where the unit lets it, and listens with what the unit leaves it
    assert settings["StateDirectory"] == ["megasim"]
    assert settings["KillSignal"] == ["SIGTERM"]
    assert int(settings["TimeoutStopSec"][0]) > 30
    assert {"AF_INET", "AF_INET6", "AF_UNIX"} == set(settings["RestrictAddressFamilies"][0].split())
    assert settings["LoadCredential"][0].startswith("token:")


def test_systemd_finds_no_fault_in_the_unit() -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    told = subprocess.run(
        [analyze, "verify", "--man=no", str(DEPLOY / "megasim.service")],
        capture_output=True,
        text=True,
    )
    # the program itself is where the unit says, on the machine of the service
    faults = [line for line in told.stderr.splitlines() if "megasim" in line]
    assert all("is not executable" in line for line in faults), told.stderr


def test_the_container_makes_a_store_and_serves_it(place: Path) -> None:
    said = container()
    (entry,), (more,) = map(json.loads, said["ENTRYPOINT"]), map(json.loads, said["CMD"])
    port = free_port()
    script = entry[2]
    for there, here in {
        "/models": str(place / "models"),
        "/run/token": str(place / "token"),
        "--host 0.0.0.0": f"--host 0.0.0.0 --port {port}",
    }.items():
        assert there in script
        script = script.replace(there, here)
    command = [*entry[:2], script, *entry[3:], *more]
    names = dict(one.split("=", 1) for line in said["ENV"] for one in line.split())
    assert names["MEGASIM_DB"].startswith("/store/") and said["VOLUME"] == ["/store"]
    store = place / "new.duckdb"
    with running(command, place, port, MEGASIM_DB=str(store)) as address:
        check_token(address)
        _, _, check = said["HEALTHCHECK"][0].partition("CMD ")
        health = [part.replace("127.0.0.1:8642", f"127.0.0.1:{port}") for part in json.loads(check)]
        subprocess.run([sys.executable, *health[1:]], check=True, timeout=60)
    assert store.exists()
    # nobody is root, and nothing is installed that the lock does not name
    assert said["USER"] == ["megasim"] and said["EXPOSE"] == ["8642"]
    assert "--require-hashes" in said["RUN"][0]
