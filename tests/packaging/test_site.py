"""The documentation builds as a site, every link in it leads somewhere, and it asks for nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import megasim
from tests.packaging.installed import ROOT

pytest.importorskip("mkdocs", reason="the tools of the documentation are not installed")


class Page(HTMLParser):
    """The links of a page, what it loads by itself, and the names that links can lead to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.names: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        self.names |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in ("script", "img", "source", "iframe") and "src" in given:
            self.loaded.append(given["src"])
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """Every page of the site, built with no way out: a proxy that is not there."""
    folder = tmp_path_factory.mktemp("site")
    nowhere = "http://127.0.0.1:9"
    ran = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "-d", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            **dict.fromkeys(("http_proxy", "https_proxy"), nowhere),
            "NO_MKDOCS_2_WARNING": "1",
        },
    )
    assert ran.returncode == 0, ran.stderr
    return {path: Page(path) for path in folder.rglob("*.html")}


def test_every_link_leads_somewhere(site: dict[Path, Page]) -> None:
    broken = []
    for path, page in site.items():
        if path.name == "404.html":  # its links start at the root of a server
            continue
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            name = unquote(parts.fragment)
            if not target.exists() or (name and name not in site[target].names):
                broken.append(f"{path.name}: {link}")
    assert not broken


def test_no_page_loads_anything_from_elsewhere(site: dict[Path, Page]) -> None:
    loaded = {link for page in site.values() for link in page.loaded}
    assert loaded
    assert not [link for link in loaded if urlsplit(link).netloc]


def test_every_page_of_the_folder_is_there(site: dict[Path, Page]) -> None:
    built = {path.name for path in site}
    pages = {path.with_suffix(".html").name for path in (ROOT / "docs").glob("*.md")}
    assert pages | {"index.html", "changelog.html", "contributing.html"} <= built


def test_the_reference_has_all_that_is_public(site: dict[Path, Page]) -> None:
    (reference,) = (page for path, page in site.items() if path.name == "api.html")
    workspace = "megasim.workspace"
    public = {f"{workspace}.open_store", f"{workspace}.Workspace", "megasim.errors.MegasimError"}
    public.add("megasim.serve.client.connect")
    methods = {name for name in dir(megasim.Workspace) if not name.startswith("_")}
    exported = {"MegasimError", "Workspace", "__version__", "connect", "open_store"}
    assert set(megasim.__all__) == exported
    assert {"ingest", "compare", "findings", "matrix"} <= methods
    missing = (public | {f"{workspace}.Workspace.{name}" for name in methods}) - reference.names
    assert not missing


def test_the_addresses_of_the_pages_are_written_out_in_full() -> None:
    """A link that wraps a line, or has a space, is shown as text: neither checker would see it."""
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"\]\([^)\n]*[ \n][^)]*\)", text), page


def test_examples_of_docstrings_are_shown_as_code(site: dict[Path, Page]) -> None:
    (reference,) = (path for path in site if path.name == "api.html")
    text = reference.read_text(encoding="utf-8")
    assert text.count('<span class="gp">&gt;&gt;&gt; </span>') > 10
    assert "<blockquote>" not in text
