"""Every page in a real Chromium: light, dark, on a phone, by keyboard; nothing from elsewhere."""

from __future__ import annotations

import html
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from megasim.store.statements import named_statements, purpose_of
from tests.browser import Browser, open_browser
from tests.report.written_reports import HOSTILE, simulated

pytest.importorskip("fastapi", reason="install the extra serve")
pytest.importorskip("bokeh", reason="install the extra interactive")

PLAIN = "base00"
MARKUP = HOSTILE[0]
NAMES = [*HOSTILE, *(f"run-e{n:03}" for n in (10, 20, 30))]
PAIR = "/pair?" + urlencode({"a": PLAIN, "b": MARKUP})
PAGES = {
    "models": "/models",
    "matrix": "/matrix",
    "map": "/map?" + urlencode({"path": "base00\nrun-e010\nrun-e020"}),
    "lineage": "/lineage",
    "pair": PAIR,
    "pairs": "/pair",
    "model": f"/model?name={quote(MARKUP, safe='')}",
    "identify": "/identify",
    "sql": "/sql?example=closest_models",
    "jobs": "/jobs",
    "problem": "/nowhere",
}


@contextmanager
def running(store: Path) -> Iterator[str]:
    """Serve a store in a thread of this process; give its address."""
    import uvicorn

    from megasim.serve.app import create_app
    from megasim.serve.settings import Settings

    config = uvicorn.Config(create_app(Settings(store)), port=0, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("pages")
    with running(simulated(folder / "s.duckdb", NAMES)) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def get(address: str) -> Any:
    httpx = pytest.importorskip("httpx")
    with httpx.Client(base_url=address, timeout=120) as client:
        yield client.get


def drawn(browser: Browser) -> None:
    """Wait until every picture of the page is drawn."""
    for _ in range(400):
        states = browser.run(
            "return [...document.querySelectorAll('.picture')].map(p => p.dataset.drawn)"
        )
        if all(states):
            assert set(states) <= {"yes"}
            return
        time.sleep(0.05)
    raise AssertionError("a picture is not drawn")


@pytest.mark.parametrize(
    ("width", "dark"), [(1280, False), (1280, True), (375, False)], ids=["light", "dark", "phone"]
)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_without_a_fault(
    browser: Browser, address: str, name: str, width: int, dark: bool
) -> None:
    visit = browser.visit(address + PAGES[name], width=width, dark=dark)
    drawn(browser)
    errors = [e for e in visit.errors if "document idle" not in e and "404" not in e]
    assert not errors
    assert all(url.startswith(f"{address}/") for url in visit.requests)
    assert not visit.broken_images
    assert visit.overflow <= 0
    # a stranger's words are text
    assert browser.run("return document.querySelectorAll('img[src=x], main script').length") == 0
    text = browser.run("return document.body.innerText")
    assert "7006652" not in text
    assert not set("\x1b\x07\u202e") & set(text)
    if width > 1000:
        check_access(browser)


def check_access(browser: Browser) -> None:
    """Fail for serious faults that axe finds, which tells what a screen reader would meet."""
    axe = pytest.importorskip("axe_core_python", reason="install the extra dev")
    browser.run((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    found = browser.run_async(
        "axe.run({resultTypes: ['violations']}).then(r => done(r.violations"
        ".map(v => [v.impact, v.id, v.nodes[0].html.slice(0, 200)])))"
    )
    assert [v for v in found if v[0] in ("serious", "critical")] == []


def test_all_pages_are_reached_and_left_by_keyboard(browser: Browser, address: str) -> None:
    browser.visit(f"{address}/models")
    seen = []
    for _ in range(12):
        browser.press("Tab")
        seen.append(browser.run("return document.activeElement.innerText"))
    assert seen[0] == "Skip to the content"
    assert {"Models", "Matrix", "Map", "Lineage", "Pair", "Identify", "SQL", "Jobs"} <= set(seen)
    browser.visit(f"{address}/matrix")
    drawn(browser)
    browser.run("document.querySelector('.picture').focus()")
    for key in ("ArrowDown", "ArrowRight", "s", "Enter"):
        browser.press(key)
    for _ in range(100):
        if browser.run("return location.pathname") == "/pair":
            break
        time.sleep(0.05)
    assert browser.run("return location.pathname") == "/pair"


# Numbers what a person may use, and notes where the focus goes and whether that can be seen.
WATCH_FOCUS = """
const kinds = 'a[href], button, input:not([type=hidden]), select, textarea, summary, ' +
  '[tabindex="0"]';
const all = [...document.querySelectorAll(kinds)].filter(e => !e.disabled && e.checkVisibility());
all.forEach((e, i) => { e.dataset.place = i; });
window.focused = [];
document.addEventListener('focusin', e => {
  const inner = e.composedPath()[0];  // the tools of a picture are in a tree of its own
  const style = getComputedStyle(inner);
  const ring = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;
  window.focused.push([Number(e.target.dataset.place ?? -1), ring, inner.outerHTML.slice(0, 90)]);
});
return all.length;
"""


@pytest.mark.parametrize("name", PAGES)
def test_all_of_a_page_is_reached_and_seen_by_keyboard(
    browser: Browser, address: str, name: str
) -> None:
    browser.visit(address + PAGES[name])
    drawn(browser)
    count = browser.run(WATCH_FOCUS)
    assert count > 9  # the navigation is part of every page
    browser.press("Tab", times=count + 12)  # some more: what holds the focus lets it go again
    focused = browser.run("return window.focused")
    places = [place for place, _, _ in focused if place >= 0]
    assert set(places) == set(range(count))
    assert places[:count] == sorted(places[:count])  # in the order in which a page is read
    assert not [shown for _, ring, shown in focused if not ring]


def test_each_form_is_used_by_keyboard_alone(browser: Browser, address: str) -> None:
    def focus(selector: str) -> None:
        """Press Tab until an element has the focus."""
        for _ in range(200):
            browser.press("Tab")
            if browser.run(f"return document.activeElement.matches({selector!r})"):
                return
        raise AssertionError(selector)

    def arrives(part: str) -> None:
        for _ in range(200):
            if part in browser.run("return location.pathname + location.search"):
                return
            time.sleep(0.05)
        raise AssertionError(browser.run("return location.href"))

    browser.visit(f"{address}/models")
    focus("#q")
    browser.type_text("base00")
    browser.press("Enter")
    arrives("q=base00")
    browser.visit(f"{address}/models")
    for name in ("base00", "run-e010"):
        focus(f"input[type=checkbox][value={name}]")
        browser.press(" ")
    browser.run("document.querySelector('button[formaction=\"/matrix\"]').focus()")
    browser.press("Enter")
    arrives("/matrix?models=")
    drawn(browser)
    focus("select[name=metric]")
    browser.press("ArrowDown")
    focus("form button")
    browser.press("Enter")
    arrives("metric=")
    browser.visit(f"{address}/pair")
    for field, name in (("a", "base00"), ("b", "run-e010")):
        focus(f"[name={field}]")
        browser.type_text(name)
    browser.press("Enter")
    arrives("b=run-e010")
    browser.visit(f"{address}/sql")
    focus("textarea")
    browser.type_text("select 41 + 1 as answer")
    focus("form button")
    browser.press("Enter")
    arrives("query=select")
    assert "42" in browser.run("return document.querySelector('main').innerText")


def test_the_histogram_is_fetched_once_it_is_looked_at(browser: Browser, address: str) -> None:
    visit = browser.visit(address + PAIR, height=300)
    assert not any("/pair/histogram?" in url for url in visit.requests)
    browser.run("document.querySelector('.later').scrollIntoView()")
    for _ in range(400):
        if browser.run("return document.querySelector('.later').dataset.filled"):
            break
        time.sleep(0.05)
    assert browser.run("return document.querySelectorAll('.later svg[role=img]').length") == 1
    assert "L2 = " in browser.run("return document.querySelector('.later').textContent")


def test_a_selected_set_goes_along_to_other_pages(browser: Browser, address: str) -> None:
    browser.visit(f"{address}/matrix?order=name")
    drawn(browser)
    browser.run("document.querySelector('.picture').picture.chose([0, 1, 2])")
    links = browser.run(
        "return [...document.querySelectorAll('.picture-set a')].map(a => [a.innerText, a.href])"
    )
    assert [words for words, _ in links] == ["Matrix", "Map", "Lineage", "Models"]
    for _, href in links:
        browser.visit(href)
        drawn(browser)
        assert "3 " in browser.run("return document.querySelector('main').innerText")


def test_numbers_of_a_page_are_those_of_its_data(get: Any) -> None:
    page = get(PAIR).text
    addresses = {html.unescape(a) for a in re.findall(r'href="(/api/v1/[^"]+)"', page)}
    assert {a.partition("?")[0].rpartition(".")[2] for a in addresses} >= {"json", "csv", "parquet"}
    for one in sorted(addresses):
        answer = get(one)
        assert answer.status_code == 200, one
    (row,) = (
        r
        for r in get(
            "/api/v1/component_distances", params={"component": "unet", "model": PLAIN}
        ).json()["rows"]
        if MARKUP in (r["model_a"], r["model_b"])
    )
    assert f"L2 {row['l2']:.4g}" in page
    item = get("/matrix/picture.json?order=name").json()
    values = get("/api/v1/matrix").json()
    assert sorted(item["models"]) == sorted(values["models"])


@pytest.mark.parametrize("name", ["matrix", "map", "lineage", "pair", "models", "model"])
def test_every_link_of_a_page_leads_somewhere(get: Any, name: str) -> None:
    page = get(PAGES[name]).text
    links = {html.unescape(a) for a in re.findall(r'(?:href|data-source)="(/[^"]*)"', page)}
    assert links
    for link in sorted(links)[:25]:
        assert get(link, follow_redirects=True).status_code == 200, link


def test_facets_and_search_find_models(get: Any) -> None:
    assert ">base00<" in get("/models?q=BASE0").text
    assert "1 of 15 models" in get("/models?q=base0").text
    assert "0 of 15 models" in get("/models?family=Llama").text
    assert "15 of 15 models" in get("/models?component=UNet").text
    assert "2 of 15 models" in get("/models", params={"models": [PLAIN, MARKUP]}).text


def test_layers_are_sorted_and_found(get: Any) -> None:
    def first(**asked: str) -> str:
        text = get(PAIR + "&" + urlencode({"component": "unet", **asked})).text
        table = text[text.index("Layers of") :]
        return html.unescape(re.findall(r"<td[^>]*><bdi>([^<]*)", table)[0])

    names = [first(sort="canonical_key", descending=d) for d in ("false", "true")]
    assert names[0] < names[1]
    assert "middle_block" in first(q="MIDDLE_block")
    most = get(
        "/api/v1/sql.json",
        params={
            "query": "select canonical_key from layer_distances where component = 'unet' and "
            f"'{PLAIN}' in (model_a, model_b) and '{MARKUP}' in (model_a, model_b) "
            "order by l2 desc limit 1"
        },
    ).json()["rows"][0]["canonical_key"]
    assert first() == most


def test_sql_that_is_refused_stays_to_be_mended(get: Any) -> None:
    answer = get("/sql", params={"query": "drop table model"})
    assert answer.status_code == 400
    assert 'role="alert"' in answer.text and "drop table model</textarea>" in answer.text
    assert get("/sql?example=no").status_code == 404
    rows = get("/sql", params={"query": "select name from models order by name"}).text
    assert html.escape(MARKUP) in rows and "15 rows" in rows


def test_questions_without_an_answer_say_the_remedy(get: Any) -> None:
    for path, status in {
        "/pair?a=base00&b=nobody": 400,
        "/matrix?component=nothing": 404,
        "/matrix?order=size": 422,
        "/map?path=base00": 400,
        "/model?name=nobody": 400,
    }.items():
        answer = get(path, headers={"accept": "text/html"})
        assert answer.status_code == status, path
        assert "<h1>" in answer.text
    picture = get("/matrix/picture.json?component=nothing")
    assert picture.status_code == 404


def test_a_service_that_only_reads_says_so_of_jobs(get: Any, address: str) -> None:
    import httpx

    assert "only reads" in get("/jobs").text
    assert httpx.post(f"{address}/jobs", data={"kind": "compare"}).status_code == 403


def test_pictures_hold_names_as_they_are(get: Any) -> None:
    text = get("/lineage/picture.json").text
    assert text.isascii()
    assert set(json.loads(text)["models"]) == set(NAMES)


def test_queries_that_are_shown_ask_the_public_views_alone_and_say_what_for() -> None:
    views = {"models", "layers", "layer_distances", "component_distances", "held"}
    for name, sql in named_statements("pages.sql").items():
        assert name.startswith("page_")
        assert purpose_of(sql).endswith(".")
        asked = set(re.findall(r"\b(?:from|join)\s+(\w+)", re.sub(r"--.*", "", sql)))
        assert asked and asked <= views, name
