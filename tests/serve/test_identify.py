"""A file is recognised by hashes that a browser makes of it, a path, and a fingerprint file."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

import megasim
from tests.browser import Browser, open_browser
from tests.models import nudged, random_model, write_model
from tests.serve.service_fixture import client_of, small_store

pytest.importorskip("fastapi", reason="install the extra serve")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("identify"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


def answered(browser: Browser, count: int) -> list[str]:
    for _ in range(200):
        said = browser.run(
            "return [...document.querySelectorAll('#answer li')].map(l => l.innerText)"
        )
        if len(said) >= count:
            return said
        time.sleep(0.05)
    raise AssertionError(browser.run("return document.getElementById('answer').innerText"))


def test_a_file_is_hashed_in_the_browser(browser: Browser, store: Path, tmp_path: Path) -> None:
    from tests.serve.test_pages import running

    outsider = tmp_path / "outsider.safetensors"
    write_model(outsider, nudged(random_model(0), 9, "block.1.weight"))
    copy = shutil.copy(store.parent / "models" / "b.safetensors", tmp_path / "copy.safetensors")
    with running(store) as address:
        visit = browser.visit(f"{address}/identify")
        browser.choose_file("#file", Path(copy))
        assert answered(browser, 1) == [
            "This file is here as b: the same header, size and 16 samples of its bytes."
        ]
        browser.choose_file("#file", outsider)
        for _ in range(100):
            if browser.run("return !document.getElementById('tensors').hidden"):
                break
            time.sleep(0.05)
        assert answered(browser, 1) == ["No model of the store is this very file."]
        browser.run("document.getElementById('tensors').click()")
        said = answered(browser, 3)
        held = len(random_model(0))
        assert said[1] == f"{held - 1} of its {held} different tensors are in the store."
        assert not [e for e in visit.errors if "favicon" not in e]
        rows = browser.run(
            "return [...document.querySelectorAll('#answer tbody tr')].map(r => r.innerText)"
        )
        assert {row.split("\t")[0] for row in rows} == {"a", "b", "c"}


def test_the_hash_of_the_browser_is_blake3(browser: Browser, tmp_path: Path) -> None:
    from megasim.resources import package_path

    script = (package_path("serve", "static") / "blake3.js").read_text(encoding="utf-8")
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><script>{script}</script>", "utf-8")
    browser.visit(page)
    for size in (0, 1, 63, 64, 65, 1023, 1024, 1025, 2048, 3073, 7 * 1024, 65_537):
        pieces = browser.run(
            f"const b = Uint8Array.from({{length: {size}}}, (_, i) => i % 251), h = new Blake3();"
            "for (let at = 0, k = 1; at < b.length; at += k - 1, k = (3 * k) % 4099 + 1)"
            "  h.update(b.subarray(at, at + k - 1 || at + 1)), k = k === 1 ? 2 : k;"
            "return h.hex()"
        )
        whole = browser.run(
            f"const b = Uint8Array.from({{length: {size}}}, (_, i) => i % 251);"
            "return new Blake3().update(b).hex()"
        )
        assert whole == blake3(bytes(i % 251 for i in range(size))).hexdigest(), size
        assert pieces == whole, size


def test_fingerprint_files_are_looked_up_and_others_refused(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "prints.parquet"
    with megasim.open_store(store, "read") as workspace:
        workspace.export_fingerprints(file, models=["b"])
    with client_of(store) as client:
        told = client.post("/identify/fingerprints", content=file.read_bytes()).json()
        (model,) = told["models"]
        assert model["title"] == "b"
        assert {"model": "b", "held": model["rows"][0]["keys"]}.items() <= model["rows"][0].items()
        for content in (b"", b"PAR1", file.read_bytes()[:-100], json.dumps({}).encode()):
            refused = client.post("/identify/fingerprints", content=content)
            assert refused.status_code == 400
    with client_of(store, upload_bytes=1000) as client:
        assert client.post("/identify/fingerprints", content=bytes(2000)).status_code == 413


def test_a_path_is_looked_at_below_the_folders_alone(store: Path, tmp_path: Path) -> None:
    models = store.parent / "models"
    with client_of(store, models=(models,)) as client:
        assert "This file is here as a" in client.get("/identify?path=a.safetensors").text
        for path in ("../s.duckdb", "/etc/passwd", str(tmp_path)):
            assert client.get("/identify", params={"path": path}).status_code == 403
        assert client.get("/identify?path=no.safetensors").status_code == 400


@pytest.mark.parametrize("asked", [{"identity": "x"}, {"contents": ["../"]}, {"contents": "a"}, []])
def test_what_is_no_hash_is_refused(store: Path, asked: Any) -> None:
    with client_of(store) as client:
        assert client.post("/identify/contents", json=asked).status_code == 422
