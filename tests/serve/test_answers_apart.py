"""Pages and answers that processes of their own make: the same bytes, made once, of now or with an
age.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.serve.service_fixture import client_of, small_store

testclient = pytest.importorskip("fastapi.testclient", reason="the extra serve is missing")
pytest.importorskip("bokeh", reason="install the extra interactive")

HTML = {"accept": "text/html"}
ANSWERS = (
    "/models",
    "/model?name=a",
    "/matrix?component=all",
    "/matrix/picture.json?component=all",
    "/map?component=all",
    "/lineage?component=all",
    "/pair?a=a&b=b",
    "/pair?a=a&b=nobody",
    "/pictures/interactive.js",
    "/api/v1/findings?a=a&b=b",
    "/api/v1/matrix?component=all",
    "/api/v1/map?component=nothing",
)


@contextmanager
def client_apart(store: Path) -> Iterator[Any]:
    """Give a client of a service whose pages one process of its own makes."""
    from megasim.serve.answering_processes import AnsweringProcesses
    from megasim.serve.app import app_of
    from megasim.serve.service import Service
    from megasim.serve.settings import Settings
    from megasim.store.owner import StoreOwner

    settings = Settings(store, allow_jobs=True)
    owner = StoreOwner(store)
    processes = AnsweringProcesses(owner, settings, 1)
    app = app_of(Service(settings, owner), processes)
    with testclient.TestClient(app, base_url="http://127.0.0.1:8642") as client:
        client.processes = processes
        yield client


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a store and a copy of it, under the same name."""
    store = small_store(tmp_path_factory.mktemp("apart"), ("a", "b", "c", "d"))
    return store, Path(shutil.copy(store, tmp_path_factory.mktemp("here")))


@pytest.fixture(scope="module")
def apart(stores: tuple[Path, Path]) -> Iterator[Any]:
    with client_apart(stores[0]) as client:
        yield client


def test_answers_made_apart_are_those_made_here(apart: Any, stores: tuple[Path, Path]) -> None:
    with client_of(stores[1]) as here:
        for path in ANSWERS:
            made, expected = apart.get(path, headers=HTML), here.get(path, headers=HTML)
            assert made.status_code == expected.status_code, path
            assert made.headers["content-type"] == expected.headers["content-type"], path
            assert made.content == expected.content, path
            assert made.headers.get("etag") == expected.headers.get("etag"), path
            assert (
                made.headers["content-security-policy"]
                == (expected.headers["content-security-policy"])
            )


def test_an_answer_is_not_sent_to_who_has_it(apart: Any) -> None:
    for path in ("/models", "/api/v1/matrix?component=all", "/pictures/bokeh.js"):
        etag = apart.get(path, headers=HTML).headers["etag"]
        again = apart.get(path, headers={**HTML, "if-none-match": f'W/"x", {etag}'})
        assert (again.status_code, again.content) == (304, b""), path


def test_many_who_wait_for_an_answer_wait_for_one(apart: Any) -> None:
    asked: list[str] = []
    processes = apart.processes
    answer = processes.answer

    async def counted(what: Any) -> Any:
        asked.append(what.query)
        return await answer(what)

    processes.answer = counted
    try:
        with ThreadPoolExecutor(8) as executor:
            found = list(executor.map(apart.get, ["/pair?a=c&b=d"] * 8))
    finally:
        processes.answer = answer
    assert {one.status_code for one in found} == {200}
    assert len({one.content for one in found}) == 1
    assert asked == ["a=c&b=d"]


def test_while_jobs_save_an_answer_says_how_old_it_is(tmp_path: Path) -> None:
    store = small_store(tmp_path)
    with client_apart(store) as client:
        service = client.app.state.service
        first = client.get("/models", headers=HTML)
        assert "age" not in first.headers and b"ago" not in first.content
        service.jobs._is_busy = True
        with service.owner.writing() as writer:
            writer.rename_model(writer.model_ids()["a"], "renamed")
        old = client.get("/models", headers=HTML)
        assert "age" in old.headers and "etag" not in old.headers
        assert (
            b"seconds ago, and is being made anew" in old.content and b"renamed" not in old.content
        )
        # behind it a new one is made, and sent to who comes next
        for _ in range(600):
            new = client.get("/models", headers=HTML)
            if "age" not in new.headers:
                break
            time.sleep(0.05)
        assert b"renamed" in new.content and b"ago" not in new.content
        # so are tables, which are streamed, and made in the process that listens
        service.jobs._is_busy = False
        table = "/api/v1/models?limit=3"
        assert "age" not in client.get(table).headers
        service.jobs._is_busy = True
        with service.owner.writing() as writer:
            writer.rename_model(writer.model_ids()["renamed"], "other")
            assert "age" in client.get(table).headers
            writer.rename_model(writer.model_ids()["other"], "renamed")
        for _ in range(600):
            if "age" not in client.get(table).headers:
                break
            time.sleep(0.05)
        assert "renamed" in client.get(table).text
        # what changes nothing of the models makes no answer old
        with service.owner.writing() as writer:
            writer.rename_model(writer.model_ids()["renamed"], "renamed")
        for _ in range(600):
            same = client.get("/models", headers=HTML)
            if "age" not in same.headers:
                break
            time.sleep(0.05)
        assert same.headers["etag"] == new.headers["etag"]
        # without a job nobody gets an old one
        service.jobs._is_busy = False
        with service.owner.writing() as writer:
            writer.rename_model(writer.model_ids()["renamed"], "again")
        assert b"again" in client.get("/models", headers=HTML).content


def test_a_process_that_ends_is_started_again(tmp_path: Path) -> None:
    with client_apart(small_store(tmp_path)) as client:
        assert client.get("/models", headers=HTML).status_code == 200
        process = client.processes._processes[0]._process
        os.kill(process.pid, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        process.join(20)
        for _ in range(600):
            answer = client.get("/pair?a=a&b=b", headers=HTML)
            if answer.status_code == 200:
                break
            assert answer.status_code == 503 and b"ask again" in answer.content
            time.sleep(0.05)
        assert answer.status_code == 200


def test_jobs_change_what_processes_read(tmp_path: Path) -> None:
    """A session of a process sees what was saved before it began, and nothing later."""
    from megasim.serve.statement_pipe import PipedOwner, StatementServer
    from megasim.store.owner import StoreOwner

    store = small_store(tmp_path)
    with StoreOwner(store) as owner:
        server = StatementServer(owner, b"key")
        there = PipedOwner(store, server.address, b"key")
        before, revision = there.reading()
        with owner.writing() as writer:
            writer.rename_model(writer.model_ids()["a"], "renamed")
        assert "a" in before.model_ids()
        after, later = there.reading()
        assert later > revision
        assert "renamed" in after.model_ids()
        assert there.content_digest(after, later) != there.content_digest(before, revision)
        with pytest.raises(Exception, match="does not exist"):
            before._lease.keep().execute("select * from nowhere")
        assert "a" in before.model_ids()  # an error is no end
        with before.unsaved():
            assert before.rows("store_counts") == after.rows("store_counts")
        before.close()
        after.close()
        server.close()


def test_a_stranger_reads_nothing(tmp_path: Path) -> None:
    from multiprocessing import AuthenticationError

    from megasim.serve.statement_pipe import PipedOwner, StatementServer
    from megasim.store.owner import StoreOwner

    store = small_store(tmp_path)
    with StoreOwner(store) as owner:
        server = StatementServer(owner, b"key")
        with pytest.raises((AuthenticationError, EOFError, OSError)):
            PipedOwner(store, server.address, b"other").reading()
        read, _ = PipedOwner(store, server.address, b"key").reading()
        assert len(read.model_ids()) == 3
        read.close()
        server.close()
