"""Jobs: done one after another, watched, cancelled with what is done kept, and none of it lost."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import megasim
from tests.models import random_model, write_model
from tests.serve.service_fixture import client_of, small_store

pytest.importorskip("fastapi", reason="the extra serve is missing")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_store(tmp_path)
    write_model(tmp_path / "new" / "d.safetensors", random_model(7))
    write_model(tmp_path / "new" / "e.safetensors", random_model(8))
    write_model(tmp_path / "elsewhere" / "f.safetensors", random_model(9))
    return tmp_path


@pytest.fixture
def service(folder: Path) -> Iterator[Any]:
    settings = {"models": (folder / "new", folder / "models"), "workers": 1}
    with client_of(folder / "s.duckdb", allow_jobs=True, **settings) as client:
        yield client


def ask(service: Any, **asked: Any) -> int:
    answer = service.post("/api/v1/jobs", json=asked)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/api/v1/jobs/{answer.json()['id']}"
    return int(answer.json()["id"])


def ended(service: Any, job_id: int) -> dict[str, Any]:
    """Return a job once it is over, as its events tell it."""
    with service.stream("GET", f"/api/v1/jobs/{job_id}/events") as told:
        lines = [line for line in told.iter_lines() if line.startswith("data: ")]
    return dict(json.loads(lines[-1].removeprefix("data: ")))


def names(service: Any) -> set[str]:
    return {row["name"] for row in service.get("/api/v1/models").json()["rows"]}


def test_files_are_ingested_and_compared_while_others_read(service: Any) -> None:
    tag = service.get("/api/v1/models").headers["etag"]
    ingest = ended(service, ask(service, kind="ingest", paths=["."]))
    assert (ingest["state"], ingest["error"]) == ("done", None)
    assert sorted(ingest["result"]["added"]) == ["d", "e"]
    assert names(service) == {"a", "b", "c", "d", "e"}
    assert service.get("/api/v1/models").headers["etag"] != tag
    compare = ended(service, ask(service, kind="compare"))
    assert compare["result"]["pairs_done"] == 7  # of ten pairs three were known
    pairs = service.get("/api/v1/component_distances?limit=100").json()["rows"]
    assert len({(row["model_a"], row["model_b"]) for row in pairs}) == 10


def test_a_header_is_read_where_no_more_is_asked_for(service: Any) -> None:
    first = ended(service, ask(service, kind="ingest", paths=["d.safetensors"], header=True))
    assert (first["state"], first["result"]["bytes_read"]) == ("done", 0)
    rows = service.get("/api/v1/models").json()["rows"]
    assert {row["name"]: row["tier"] for row in rows}["d"] == "header"
    second = ended(service, ask(service, kind="ingest", paths=["d.safetensors"], sample="1M"))
    assert second["result"]["raised"] == ["d"]


@pytest.mark.parametrize(
    "path", ["../elsewhere", "{folder}/elsewhere", "/etc", "../elsewhere/f.safetensors", "~"]
)
def test_only_the_folders_that_were_given_are_read(service: Any, folder: Path, path: str) -> None:
    path = path.format(folder=folder)
    for asked in (
        {"kind": "ingest", "paths": [path]},
        {"kind": "ingest", "names": {"x": path}},
        {"kind": "import", "paths": [path]},
    ):
        refused = service.post("/api/v1/jobs", json=asked)
        assert refused.status_code in (400, 403), asked
        assert refused.json()["remedy"]
    # whether something is there is not told
    there, not_there = ("../elsewhere/f.safetensors", "../elsewhere/nothing.safetensors")
    answers = [
        service.post("/api/v1/jobs", json={"kind": "ingest", "paths": [one]}).json()
        for one in (there, not_there)
    ]
    assert {answer["status"] for answer in answers} == {403}


def test_a_link_out_of_the_folder_is_not_followed_by_its_path(service: Any, folder: Path) -> None:
    (folder / "new" / "link").symlink_to(folder / "elsewhere")
    refused = service.post("/api/v1/jobs", json={"kind": "ingest", "paths": ["link"]})
    assert refused.status_code in (400, 403)


@pytest.mark.parametrize(
    "asked",
    [
        {"kind": "nothing"},
        {"kind": "ingest"},
        {"kind": "ingest", "paths": ["a\0b"]},
        {"kind": "compare", "metrics": ["l7"]},
        {"kind": "compare", "device": "cuda"},
        {"kind": "report", "folder": "/tmp/x"},
        {},
    ],
)
def test_a_job_that_cannot_be_asked_for_is_refused(service: Any, asked: dict[str, Any]) -> None:
    assert service.post("/api/v1/jobs", json=asked).status_code in (400, 422)
    assert service.get("/api/v1/jobs").json()["jobs"] == []


def test_without_leave_people_only_read(folder: Path) -> None:
    with client_of(folder / "s.duckdb", models=(folder / "new",)) as service:
        for answer in (
            service.post("/api/v1/jobs", json={"kind": "compare"}),
            service.delete("/api/v1/jobs/1"),
            service.post("/api/v1/fingerprints", content=b"PAR1"),
        ):
            assert answer.status_code == 403
            assert "--allow-jobs" in answer.json()["remedy"]


def test_what_takes_away_is_for_the_owner(service: Any) -> None:
    for asked in ({"kind": "forget", "models": ["a"]}, {"kind": "unknow", "name": "x"}):
        assert service.post("/api/v1/jobs", json=asked).status_code == 403
    owner = {"authorization": f"Bearer {service.app.state.service.owner_token}"}
    asked = {"kind": "forget", "models": ["a"]}
    job = service.post("/api/v1/jobs", json=asked, headers=owner).json()
    assert ended(service, job["id"])["state"] == "done"
    assert names(service) == {"b", "c"}


def test_a_job_that_fails_says_why(service: Any) -> None:
    failed = ended(service, ask(service, kind="compare", models=["a", "nobody"]))
    assert failed["state"] == "failed"
    assert "nobody" in failed["error"] and failed["remedy"]


def test_a_broken_checkpoint_leaves_the_others(service: Any, folder: Path) -> None:
    (folder / "new" / "broken.safetensors").write_bytes(b"\xff" * 100)
    found = ended(service, ask(service, kind="ingest", paths=["."]))
    assert found["state"] == "done"
    assert len(found["result"]["failed"]) + len(found["result"]["passed_over"]) == 1
    assert {"d", "e"} <= names(service)


def test_a_report_is_fetched_from_its_job(service: Any) -> None:
    job_id = ask(service, kind="report")
    assert ended(service, job_id)["state"] == "done"
    page = service.get(f"/api/v1/jobs/{job_id}/report")
    assert page.text.startswith("<!doctype html>")
    assert page.headers["content-disposition"].startswith("attachment")
    assert service.get("/api/v1/jobs/999/report").status_code == 404


def test_fingerprints_are_uploaded(service: Any, folder: Path) -> None:
    kind = {"content-type": "application/vnd.apache.parquet"}
    with megasim.open_store(folder / "other.duckdb") as other:
        other.ingest(folder / "elsewhere", workers=1)
        other.export_fingerprints(folder / "f.parquet")
    sent = service.post(
        "/api/v1/fingerprints", content=(folder / "f.parquet").read_bytes(), headers=kind
    )
    assert sent.status_code == 201, sent.text
    assert ended(service, sent.json()["id"])["result"]["models"] == ["f"]
    assert "f" in names(service)
    assert [p for p in (folder / "s.duckdb.jobs").rglob("*") if p.is_file()] == []


def test_an_upload_that_is_no_fingerprint_file_changes_nothing(service: Any, folder: Path) -> None:
    kind = {"content-type": "application/vnd.apache.parquet"}
    checkpoint = (folder / "new" / "d.safetensors").read_bytes()
    assert service.post("/api/v1/fingerprints", content=checkpoint).status_code == 415
    refused = service.post("/api/v1/fingerprints", content=checkpoint, headers=kind)
    assert refused.status_code == 400
    cut = service.post("/api/v1/fingerprints", content=b"PAR1" + bytes(99), headers=kind)
    assert ended(service, cut.json()["id"])["result"]["failed"]
    assert names(service) == {"a", "b", "c"}


def test_an_upload_that_is_too_large_is_refused(folder: Path) -> None:
    kind = {"content-type": "application/vnd.apache.parquet"}
    with client_of(folder / "s.duckdb", allow_jobs=True, upload_bytes=1000) as service:
        refused = service.post("/api/v1/fingerprints", content=b"PAR1" * 300, headers=kind)
        assert refused.status_code == 413
    assert [p for p in (folder / "s.duckdb.jobs").rglob("*") if p.is_file()] == []


class _Held:
    """A job that waits within its work until it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from megasim.serve.job_progress import JobProgress

        self.begun, self.go_on = threading.Event(), threading.Event()
        advance = JobProgress.advance

        def held(progress: JobProgress, amount: int) -> None:
            advance(progress, amount)
            self.begun.set()
            self.go_on.wait(60)

        monkeypatch.setattr(JobProgress, "advance", held)


def test_a_job_that_is_cancelled_keeps_what_is_done(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = _Held(monkeypatch)
    running = ask(service, kind="ingest", paths=["d.safetensors", "e.safetensors"])
    waiting = ask(service, kind="compare")
    assert held.begun.wait(60)
    told = service.get(f"/api/v1/jobs/{running}").json()
    assert told["state"] == "running"
    assert told["progress"]["unit"] == "bytes" and told["progress"]["done"] > 0
    assert names(service) == {"a", "b", "c"}  # readers do not wait for it
    assert service.delete(f"/api/v1/jobs/{waiting}").json()["state"] == "cancelled"
    assert service.delete(f"/api/v1/jobs/{running}").status_code == 202
    held.go_on.set()
    assert ended(service, running)["state"] == "cancelled"
    assert service.delete(f"/api/v1/jobs/{running}").status_code == 409
    assert names(service) < {"a", "b", "c", "d", "e"}
    assert ended(service, ask(service, kind="ingest", paths=["."]))["state"] == "done"
    assert names(service) == {"a", "b", "c", "d", "e"}


def test_a_service_that_ends_in_good_order_goes_on_with_its_job(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"models": (folder / "new",), "workers": 1, "allow_jobs": True}
    held = _Held(monkeypatch)
    with client_of(folder / "s.duckdb", **settings) as service:
        job_id = ask(service, kind="ingest", paths=["."])
        assert held.begun.wait(60)
        threading.Timer(0.2, held.go_on.set).start()
    with client_of(folder / "s.duckdb", **settings) as service:
        again = ended(service, job_id)
        assert (again["state"], again["attempts"]) == ("done", 2)
        assert names(service) == {"a", "b", "c", "d", "e"}


def test_a_job_that_ends_the_service_again_and_again_is_given_up(folder: Path) -> None:
    store = folder / "s.duckdb"
    with client_of(store, allow_jobs=True) as service:
        job_id = ask(service, kind="compare")
        ended(service, job_id)
    with megasim.open_store(store, "update") as workspace:
        workspace.store.query(f"update job set state = 'running', attempts = 3 where id = {job_id}")
    with client_of(store) as service:
        given_up = service.get(f"/api/v1/jobs/{job_id}").json()
        assert given_up["state"] == "interrupted"
        assert "3 times" in given_up["error"]


def test_jobs_that_were_over_long_ago_are_forgotten_with_what_they_wrote(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = folder / "s.duckdb"
    with client_of(store, allow_jobs=True) as service:
        for _ in range(4):
            assert ended(service, ask(service, kind="report"))["state"] == "done"
        written = [service.app.state.service.jobs.folder_of(i) for i in (1, 2, 3, 4)]
        assert all(place.exists() for place in written)
    with megasim.open_store(store, "update") as workspace:
        workspace.store.query(
            "update job set ended_at = ended_at - interval 31 day where id in (1, 4)"
        )
    monkeypatch.setattr("megasim.serve.jobs._MOST_KEPT", 3)
    with client_of(store, allow_jobs=True) as service:
        # the first is old; the last is too, but keeps its number from being given again
        assert [job["id"] for job in service.get("/api/v1/jobs").json()["jobs"]] == [4, 3, 2]
        assert [place.exists() for place in written] == [False, True, True, True]
        assert service.get("/api/v1/jobs/1").status_code == 404
        assert ended(service, ask(service, kind="compare"))["id"] == 5
        # of those that are over the newest three are kept, unless they are old
        assert [job["id"] for job in service.get("/api/v1/jobs").json()["jobs"]] == [5, 3]
        assert [place.exists() for place in written] == [False, False, True, False]


def test_progress_says_how_fast_and_how_long() -> None:
    from megasim.serve.job_progress import JobProgress

    progress = JobProgress()
    assert progress.to_json()["rate"] is None
    progress.start("Ingesting", 100, "bytes")
    progress.advance(25)
    time.sleep(0.01)
    told = progress.to_json()
    assert told["rate"] > 0 and told["seconds_left"] >= 0
    assert (told["done"], told["total"]) == (25, 100)


def test_the_page_of_jobs_asks_for_one_and_shows_what_came_of_it(service: Any) -> None:
    asked = service.post("/jobs", data={"kind": "ingest", "paths": "d.safetensors\n"})
    assert (asked.status_code, asked.headers["location"]) == (303, "/jobs")
    (job,) = service.get("/api/v1/jobs").json()["jobs"]
    assert 'data-job="1"' in service.get("/jobs").text
    ended(service, job["id"])
    shown = service.get("/jobs").text
    assert ">done<" in shown and "data-watched" not in shown
    assert "d" in names(service)
    for wrong, status in (
        ({"kind": "forget", "models": "a"}, 400),
        ({"kind": "ingest", "paths": "../elsewhere"}, 403),
        ({"kind": "ingest"}, 400),
        ({}, 422),
    ):
        assert service.post("/jobs", data=wrong).status_code == status, wrong
    assert service.post("/jobs/1/cancel").status_code == 409
    foreign = {"origin": "http://evil.example"}
    assert service.post("/jobs", data={"kind": "compare"}, headers=foreign).status_code == 403
