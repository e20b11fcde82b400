"""Who is let in, and what an answer may do in a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from megasim.errors import UsageError
from tests.serve.service_fixture import TOKEN, client_of, small_store

HTML = {"accept": "text/html"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def open_service(store: Path) -> Iterator[Any]:
    with client_of(store) as client:
        yield client


@pytest.fixture
def guarded(store: Path, tmp_path: Path) -> Iterator[Any]:
    copy = tmp_path / "s.duckdb"
    shutil.copy(store, copy)
    with client_of(copy, token=TOKEN) as client:
        yield client


def test_the_first_page_leads_to_the_models(open_service: Any) -> None:
    assert open_service.get("/").headers["location"] == "/models"
    shown = open_service.get("/models", headers=HTML)
    assert shown.status_code == 200
    assert all(f">{name}<" in shown.text for name in "abc")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.7", ""])
def test_a_foreign_host_is_refused(open_service: Any, host: str) -> None:
    refused = open_service.get("/models", headers={"host": host})
    assert refused.status_code == 421
    assert refused.headers["content-type"] == "application/problem+json"
    assert "--host-name" in refused.json()["remedy"]


@pytest.mark.parametrize("host", ["localhost:8642", "127.0.0.1", "[::1]:8642"])
def test_its_own_names_are_accepted(open_service: Any, host: str) -> None:
    assert open_service.get("/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
    ],
)
def test_a_page_of_another_site_is_refused(open_service: Any, headers: dict[str, str]) -> None:
    assert open_service.get("/models", headers=headers).status_code == 403


def test_its_own_pages_and_links_that_people_follow_are_let_in(open_service: Any) -> None:
    own = {"origin": "http://127.0.0.1:8642", "sec-fetch-site": "same-origin"}
    followed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert open_service.get("/models", headers=own).status_code == 200
    assert open_service.get("/models", headers=followed).status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer wrong"}, {"cookie": "megasim=x"}]
)
def test_without_the_token_nothing_is_told(guarded: Any, headers: dict[str, str]) -> None:
    for path in ("/models", "/", "/nothing", "/api/v1/openapi.json", "/models?token=wrong"):
        refused = guarded.get(path, headers=headers)
        assert refused.status_code == 401, path
        assert refused.headers["www-authenticate"] == "Bearer"
        assert "token" in refused.json()["detail"]


def test_a_program_sends_the_token_as_a_bearer(guarded: Any) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert guarded.get("/models", headers=headers).status_code == 200


def test_a_browser_gets_a_cookie_for_the_token(guarded: Any) -> None:
    asked = guarded.get("/models", headers=HTML)
    assert asked.status_code == 401 and 'name="token"' in asked.text
    entered = guarded.get("/models", params={"q": "a", "token": TOKEN}, headers=HTML)
    assert entered.status_code == 303
    assert entered.headers["location"] == "/models?q=a"
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie and TOKEN not in cookie
    assert guarded.get("/models", headers=HTML).status_code == 200  # the client keeps the cookie


def test_the_way_back_stays_on_this_service(guarded: Any) -> None:
    moved = guarded.get(
        "http://127.0.0.1:8642//evil.example/x", params={"token": TOKEN}, headers=HTML
    )
    assert moved.headers["location"] == "/evil.example/x"


def test_whether_it_runs_is_told_to_all(guarded: Any) -> None:
    told = guarded.get("/healthz")
    assert (told.status_code, told.text) == (200, "ok\n")


def test_an_answer_runs_nothing_but_what_the_service_brings(open_service: Any) -> None:
    for path in ("/models", "/nothing", "/static/megasim.css"):
        headers = open_service.get(path, headers=HTML).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'self';") and "unsafe-eval" not in policy
        assert "script-src" not in policy  # so that it is what default-src says
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../settings.py",
        "/static/%2e%2e/settings.py",
        "/static/..%2fsettings.py",
        "/static//etc/passwd",
    ],
)
def test_no_file_beside_the_static_ones_is_sent(open_service: Any, path: str) -> None:
    assert open_service.get(path).status_code == 404


def test_a_page_is_not_sent_twice(open_service: Any) -> None:
    first = open_service.get("/models", headers=HTML)
    again = open_service.get("/models", headers=HTML | {"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = open_service.get("/models?q=a", headers=HTML | {"if-none-match": first.headers["etag"]})
    assert other.status_code == 200


def test_another_address_needs_a_token_that_is_not_guessed(store: Path) -> None:
    settings = pytest.importorskip("megasim.serve.settings")
    with pytest.raises(UsageError, match="needs a token"):
        settings.Settings(store, host="0.0.0.0")
    with pytest.raises(UsageError, match="16"):
        settings.Settings(store, host="0.0.0.0", token="short")
    assert settings.Settings(store, host="0.0.0.0", token=TOKEN).is_own_host("10.0.0.7:8642")
    assert not settings.Settings(store, host="0.0.0.0", token=TOKEN).is_own_host("evil.example")


def test_metrics_count_requests_by_route_and_need_the_token(guarded: Any) -> None:
    assert guarded.get("/metrics").status_code == 401
    headers = {"authorization": f"Bearer {TOKEN}"}
    for path in ("/models", "/nothing/a", "/nothing/b"):
        guarded.get(path, headers=headers)
    text = guarded.get("/metrics", headers=headers).text
    assert 'megasim_requests_total{method="GET",route="/models",status="200"} 1.0' in text
    assert 'route="other",status="404"} 2.0' in text and "nothing" not in text
    assert 'megasim_jobs{state="running"} 0.0' in text


def test_the_access_log_holds_no_token_and_nothing_that_a_terminal_obeys(
    guarded: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "megasim.serve.access"):
        guarded.get("/models", params={"token": TOKEN, "q": "\x1b[31m"})
        guarded.get("/%1b]0;x", headers={"authorization": f"Bearer {TOKEN}"})
    lines = [record.getMessage() for record in caplog.records if "ms" in record.getMessage()]
    assert len(lines) >= 2
    assert all(TOKEN not in line and "\x1b" not in line for line in lines)
    assert "token=hidden" in lines[0]
