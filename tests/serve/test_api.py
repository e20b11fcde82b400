"""The API: all that the views hold, in every format, page by page; SQL that can only read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import megasim
from tests.serve.service_fixture import client_of, small_store

pa = pytest.importorskip("pyarrow", reason="the extra serve is missing")
pq = pytest.importorskip("pyarrow.parquet")

VIEWS = ("models", "layers", "layer_distances", "component_distances")
# What a stranger may call a model or a key.
HOSTILE = (
    "<script>alert(1)</script>",
    "'; drop table model; --",
    '" onmouseover="alert(1)',
    "a\x1b[31mred\u202egnirts",
    "=cmd|' /C calc'!A0",
    "{{ 7 * 7 }}{% for x in y %}",
    "</script><!--",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("store"), ("a", "b", "c", "d"))


@pytest.fixture(scope="module")
def service(store: Path) -> Iterator[Any]:
    with client_of(store, sql_seconds=600.0, sql_rows=50, sql_memory=32 << 20) as client:
        yield client


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = small_store(tmp_path_factory.mktemp("impatient"))
    with client_of(path, sql_seconds=1.0, sql_rows=50) as client:
        yield client


def of_json(service: Any, path: str) -> dict[str, Any]:
    answer = service.get(path)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.mark.parametrize("view", VIEWS)
def test_every_format_holds_the_same_rows(service: Any, view: str) -> None:
    rows = of_json(service, f"/api/v1/{view}?limit=100000")["rows"]
    assert rows
    text = service.get(f"/api/v1/{view}.csv").text
    assert len(list(csv.DictReader(io.StringIO(text)))) == len(rows)
    stream = service.get(f"/api/v1/{view}.arrow").content
    assert pa.ipc.open_stream(stream).read_all().num_rows == len(rows)
    table = pq.read_table(io.BytesIO(service.get(f"/api/v1/{view}.parquet").content))
    names = [name for name in table.schema.names if table.schema.field(name).type == "string"]
    assert [[r[n] for n in names] for r in table.to_pylist()] == [
        [r[n] for n in names] for r in rows
    ]


def test_the_format_is_that_of_accept(service: Any) -> None:
    def kind(accept: str) -> str:
        answer = service.get("/api/v1/models", headers={"accept": accept})
        return str(answer.headers["content-type"]).partition(";")[0]

    assert kind("text/csv") == "text/csv"
    assert kind("text/csv;q=0.1, application/json") == "application/json"
    assert kind("*/*") == "application/json"
    assert kind("application/vnd.apache.parquet") == "application/vnd.apache.parquet"
    assert kind("image/png") == "application/problem+json"


@pytest.mark.parametrize("view", VIEWS)
def test_pages_follow_each_other_and_miss_no_row(service: Any, view: str) -> None:
    whole = of_json(service, f"/api/v1/{view}?limit=100000")
    assert whole["next"] is None
    rows, path = [], f"/api/v1/{view}?limit=2"
    while path:
        page = of_json(service, path)
        assert len(page["rows"]) <= 2
        rows += page["rows"]
        path = page["next"]
    assert rows == whole["rows"]


def test_a_mark_that_was_made_up_is_refused(service: Any) -> None:
    for mark in ("x", "bm90IGpzb24", "WzFd", "W10"):
        refused = service.get("/api/v1/models", params={"after": mark})
        assert refused.status_code == 400, mark


def test_filters_are_conditions_of_the_query_that_is_shown(service: Any) -> None:
    pairs = of_json(service, "/api/v1/component_distances?model=b")
    assert {"b"} <= {*pairs["rows"][0].values()}
    assert all("b" in (row["model_a"], row["model_b"]) for row in pairs["rows"])
    again = service.post("/api/v1/sql", json={"query": pairs["sql"]}).json()
    assert again["rows"] == pairs["rows"]
    assert of_json(service, "/api/v1/models?q=ZZZ")["rows"] == []
    assert len(of_json(service, "/api/v1/models?name=a&name=c")["rows"]) == 2


def test_answers_are_those_of_the_workspace(service: Any, store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "s.duckdb"
    copy.write_bytes(store.read_bytes())
    with megasim.open_store(copy, "read") as workspace:
        from megasim.matrix.files import matrix_to_json

        told = {
            "/api/v1/matrix?component=all": matrix_to_json(workspace.matrix("all")),
            "/api/v1/findings?a=a&b=b": [f.to_json() for f in workspace.pair_findings("a", "b")],
            "/api/v1/why?a=a&b=b": workspace.why("a", "b").to_json(),
            "/api/v1/map?component=all": workspace.map("all").to_json(),
            "/api/v1/changes?a=a&b=b": workspace.changes("a", "b").to_json(),
            "/api/v1/shared": [group.to_json() for group in workspace.shared_components()],
        }
    for path, expected in told.items():
        answer = service.get(path)
        assert answer.status_code == 200, answer.text
        assert answer.json() == json.loads(json.dumps(expected)), path


def test_an_error_says_what_to_do(service: Any) -> None:
    unknown = service.get("/api/v1/why?a=a&b=nobody")
    assert unknown.status_code == 400
    assert unknown.headers["content-type"] == "application/problem+json"
    assert unknown.json()["status"] == 400
    assert "nobody" in unknown.json()["detail"] and unknown.json()["remedy"]
    assert service.get("/api/v1/nothing").status_code == 404
    assert service.get("/api/v1/models?limit=x").status_code == 422
    assert service.delete("/api/v1/models").status_code == 405


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("/api/v1/models?familly=SD1", "family"),
        ("/api/v1/models.csv?familly=SD1&limit=1", "family"),
        ("/api/v1/layer_distances?mode1=a", "model_a"),
        ("/api/v1/matrix?metrics=l1", "metric"),
        ("/api/v1/jobs?first=1", "limit"),
        ("/api/v1/sql?query=select 1&seconds=9", "query"),
        ("/api/v1/shared?a=b", ""),
    ],
)
def test_a_parameter_that_is_not_described_is_refused(service: Any, path: str, known: str) -> None:
    refused = service.get(path)
    assert refused.status_code == 422
    assert refused.headers["content-type"] == "application/problem+json"
    told = refused.json()
    assert "no parameter is called" in told["detail"]
    assert known in told["remedy"]


# SQL


def ask(service: Any, query: str) -> Any:
    return service.post("/api/v1/sql", json={"query": query})


@pytest.mark.parametrize(
    "query",
    [
        "select count(*) as n from layers",
        "from models",
        "with m as (select name from models) select * from m order by name",
        "describe layer_distances",
        "summarize models",
        "select * from range(3)",
        "select unnest(components) from models",
    ],
)
def test_a_query_that_reads_is_answered(service: Any, query: str) -> None:
    answer = ask(service, query)
    assert answer.status_code == 200, answer.text
    assert answer.json()["rows"]
    assert service.get("/api/v1/sql.csv", params={"query": query}).text.count("\n") > 1


@pytest.mark.parametrize(
    "query",
    [
        "drop table model",
        "delete from model",
        "update model set name = 'x'",
        "insert into model_pair values (1, 2, true, true, true, 1, 1)",
        "create table x as select 1",
        "create temp table x as select 1",
        "select 1; drop table model",
        "copy model to '{folder}/out.csv'",
        "copy (select 1) to '{folder}/out.csv'",
        "export database '{folder}/out.csv'",
        "attach '{folder}/out.csv'",
        "install httpfs",
        "load httpfs",
        "set memory_limit = '100GB'",
        "pragma version",
        "call pragma_version()",
        "vacuum",
        "checkpoint",
        "begin",
        "explain analyze delete from model",
        "select * from '{folder}/secret.csv'",
        "select * from read_csv('{folder}/secret.csv')",
        "select * from read_text('{folder}/secret.csv')",
        "select * from (select * from read_blob('{folder}/secret.csv'))",
        "select (select content from read_text('{folder}/secret.csv'))",
        "with x as (from read_csv('{folder}/secret.csv')) from x",
        "select * from glob('/*')",
        "select * from query('select 1')",
        "select * from duckdb_secrets()",
        "select * from settings",
        "select * from service",
        "",
        ";",
        "selec 1",
    ],
)
def test_a_query_that_does_anything_else_is_refused(
    service: Any, tmp_path: Path, query: str
) -> None:
    (tmp_path / "secret.csv").write_text("word\nsesame\n")
    before = ask(service, "select count(*) as n from models").json()["rows"]
    answer = ask(service, query.format(folder=tmp_path))
    assert answer.status_code == 400, answer.text
    assert "sesame" not in answer.text
    assert not (tmp_path / "out.csv").exists()
    assert ask(service, "select count(*) as n from models").json()["rows"] == before


@pytest.mark.parametrize(
    "query",
    [
        "select * from read_text('{folder}/secret.csv')",
        "from '{folder}/secret.csv'",
        "copy model to '{folder}/out.csv'",
        "attach '{folder}/out.csv' as other",
        "drop table model",
        "set memory_limit = '100GB'",
    ],
)
def test_behind_the_parser_the_database_refuses_it_too(
    service: Any, tmp_path: Path, query: str
) -> None:
    import duckdb

    (tmp_path / "secret.csv").write_text("word\nsesame\n")
    with service.app.state.service.reading() as workspace, pytest.raises(duckdb.Error):
        workspace.store.connection.execute(query.format(folder=tmp_path)).fetchall()
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    "query",
    [
        "with recursive a(i) as (select 1 union all select i + 1 from a) select count(*) from a",
        "select count(*) from range(100000000) a, range(100000000) b where a.range = -b.range - 1",
        "select * from range(1000000000000)",
    ],
)
def test_a_query_that_never_ends_is_stopped(impatient: Any, query: str) -> None:
    assert ask(impatient, query + " limit 1").status_code in (200, 408)
    # the rest of a result that has begun is missing, which a client of HTTP sees
    endless = impatient.get("/api/v1/sql", params={"query": query})
    if endless.status_code == 200:
        assert endless.json()["truncated"]
        with pytest.raises(RuntimeError, match="response already started"):
            impatient.get("/api/v1/sql.csv", params={"query": query})
    else:
        assert endless.status_code == 408
        assert "1 seconds" in endless.json()["detail"]


def test_a_query_that_needs_too_much_memory_is_refused(service: Any) -> None:
    hungry = ask(service, "select len(string_agg(repeat('x', 100000), '')) from range(100000)")
    assert hungry.status_code in (400, 413), hungry.text
    assert ask(service, "select 1 as one").json()["rows"] == [{"one": 1}]


def test_json_holds_some_rows_and_says_so(service: Any) -> None:
    some = ask(service, "select * from range(51)").json()
    assert (len(some["rows"]), some["truncated"]) == (50, True)
    all_of_them = ask(service, "select * from range(50)").json()
    assert (len(all_of_them["rows"]), all_of_them["truncated"]) == (50, False)
    assert len(service.get("/api/v1/sql.csv?query=from range(51)").text.splitlines()) == 52


# Names that strangers give


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from tests.models import random_model, write_model

    folder = tmp_path_factory.mktemp("hostile")
    paths = {}
    for i, name in enumerate(HOSTILE):
        model = {f"{name}.{key}": value for key, value in random_model(i, keys=2).items()}
        paths[name] = write_model(folder / f"{i}.safetensors", model, note=name)
    with megasim.open_store(folder / "s.duckdb") as store:
        store.ingest(names=paths, workers=1)
        store.compare(workers=1)
    with client_of(folder / "s.duckdb") as client:
        yield client


def test_hostile_names_come_through_every_format(hostile: Any) -> None:
    names = {row["name"] for row in of_json(hostile, "/api/v1/models")["rows"]}
    assert names == set(HOSTILE)
    text = hostile.get("/api/v1/models.csv").text
    assert {row["name"] for row in csv.DictReader(io.StringIO(text, newline=""))} == names
    for name in HOSTILE:
        found = hostile.get("/api/v1/models", params={"name": name}).json()
        assert [row["name"] for row in found["rows"]] == [name]
        assert hostile.post("/api/v1/sql", json={"query": found["sql"]}).json()["rows"]


def test_hostile_names_are_escaped_in_json_of_every_view(hostile: Any) -> None:
    for view in VIEWS:
        raw = hostile.get(f"/api/v1/{view}").text
        assert "<" not in raw and "\x1b" not in raw and "\u202e" not in raw


def test_hostile_names_are_escaped_on_every_page(hostile: Any) -> None:
    from megasim.serve.pages import PAGES

    for path, _ in PAGES:
        for query in ({}, *({"q": name} for name in HOSTILE)):
            shown = hostile.get(path, params=query, headers={"accept": "text/html"})
            assert shown.status_code in (200, 404, 422), path  # some ask for more
            for raw in ("<script>alert", 'onmouseover="alert', "\x1b", "\u202e", "<!--"):
                assert raw not in shown.text, (path, raw)


def test_a_revision_of_the_store_has_a_tag_of_its_own(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "s.duckdb"
    copy.write_bytes(store.read_bytes())
    tags = []
    for _ in range(2):
        with client_of(copy) as client:
            tags.append(client.get("/api/v1/models").headers["etag"])
            unchanged = client.get("/api/v1/models", headers={"if-none-match": tags[-1]})
            assert unchanged.status_code == 304
    assert tags[0] == tags[1]  # whichever process says so
    with megasim.open_store(copy) as workspace:
        workspace.forget("d")
    with client_of(copy) as client:
        assert client.get("/api/v1/models").headers["etag"] != tags[0]


def test_an_answer_is_made_once_until_somebody_saves(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "s.duckdb"
    copy.write_bytes(store.read_bytes())
    with client_of(copy) as client:
        owner = client.app.state.service.owner
        first = client.get("/api/v1/models?limit=1")
        cursors: list[int] = []
        cursor = owner.cursor
        owner.cursor = lambda: cursors.append(1) or cursor()
        again = client.get("/api/v1/models?limit=1")
        assert (again.content, again.headers["etag"]) == (first.content, first.headers["etag"])
        assert cursors == []
        other = client.get("/api/v1/models?limit=1", headers={"accept": "text/csv"})
        assert other.headers["content-type"].startswith("text/csv") and cursors == [1]
        with owner.writing() as writer:
            writer.rename_model(writer.model_ids()["a"], "renamed")
        assert client.get("/api/v1/models?name=renamed&limit=1").json()["rows"]
        changed = client.get("/api/v1/models?limit=1")
        assert changed.headers["etag"] != first.headers["etag"]
        assert "age" not in changed.headers
