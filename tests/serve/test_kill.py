"""A service that is killed in the middle of a job, or of a request: nothing is lost."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.models import random_model, write_model
from tests.serve.service_fixture import small_store
from tests.serve.test_command_line import Running, command, running

pytest.importorskip("fastapi", reason="the extra serve is missing")
if sys.platform == "win32":
    pytest.skip("nobody is killed there", allow_module_level=True)

MODELS = 24
# Several parts of the work, and after each a moment in which it may be killed.
SLOW = """
import time
from megasim.serve import job_progress
advance = job_progress.JobProgress.advance
def slowly(progress, amount):
    advance(progress, amount)
    time.sleep(0.2)
job_progress.JobProgress.advance = slowly
"""


def test_a_job_goes_on_after_the_service_was_killed_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = small_store(tmp_path)
    for i in range(MODELS):
        write_model(tmp_path / "new" / f"n{i}.safetensors", random_model(100 + i, keys=2))
    (tmp_path / "slow" / "sitecustomize.py").parent.mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW)
    options = ("--models", "new", "--allow-jobs", "--workers", "1")
    with monkeypatch.context() as slow:
        slow.setenv("PYTHONPATH", str(tmp_path / "slow"))
        service = Running(store, *options)
        asked = {"kind": "ingest", "paths": ["."]}
        job = httpx.post(f"{service.address}api/v1/jobs", json=asked).json()
        path = f"api/v1/jobs/{job['id']}"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            told = httpx.get(service.address + path).json()
            if told["progress"] and told["progress"]["done"]:
                break
            time.sleep(0.05)
        assert told["state"] == "running"
        service.end(signal.SIGKILL)
    # the command line works in between, on what was saved
    between = command(store, "sql", "select count(*) from models", "--csv")
    assert between.returncode == 0, between.stderr
    saved = int(between.stdout.split()[-1])
    assert 3 <= saved < 3 + MODELS
    with running(store, *options) as service:
        with httpx.stream("GET", service.address + path + "/events", timeout=120) as events:
            lines = [line for line in events.iter_lines() if line.startswith("data: ")]
        again = httpx.get(service.address + path).json()
        assert (again["state"], again["attempts"]) == ("done", 2), lines[-1]
        names = httpx.get(f"{service.address}api/v1/models").json()["rows"]
        assert len(names) == 3 + MODELS
    sound = command(store, "doctor")
    assert sound.returncode == 0, sound.stdout
