"""A hook of MkDocs: the pages of the top folder become pages of the site.

README.md, CHANGELOG.md, CONTRIBUTING.md and SECURITY.md are read where a repository shows them, so
they lie beside docs/, and their links lead into it. On the site all pages lie in one folder.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

_ROOT = Path(__file__).parents[1]
# File of the top folder → page of the site.
_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
# The order in which a reader needs them; pages that are not named here follow.
_ORDER = ("index", "concepts", "commands", "sql", "api")
_ORDER += ("formats", "anatomy", "geometry", "lineage")
_LAST = ("performance", "performance-notebook", "reliability")
_LAST += ("security", "contributing", "changelog", "adr")
_LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the top folder to those of docs/."""
    for source, page in _PAGES.items():
        text = (_ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_LINK.sub(_from_docs, text)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead links of docs/ to the top folder to the pages that were made of its files."""
    depth = page.file.src_uri.count("/")
    up = "../" * (depth + 1)
    for source, name in _PAGES.items():
        markdown = markdown.replace(f"]({up}{source}", f"]({'../' * depth}{name}")
    return markdown


def on_nav(nav: Any, config: Any, files: Any) -> Any:
    """Put the pages in order, and call the decisions by their name."""
    for item in nav.items:
        if item.is_section and item.title == "Adr":
            item.title = "Decisions"
    nav.items.sort(key=_place)
    return nav


def _place(item: Any) -> tuple[int, str]:
    name = "adr" if item.is_section else Path(item.file.src_uri).stem
    if name in _LAST:
        return 1000 + _LAST.index(name), name
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER)), name


def _from_docs(link: re.Match[str]) -> str:
    target = link[1].removeprefix("./")
    return _PAGES.get(target, target.removeprefix("docs/"))
