"""Reports of simulated stores, and what a test wants to know of their pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from megasim.report.page import ReportResult, write_report
from megasim.store.rows import Store
from megasim.zoo.architectures import sd1_shapes
from tests.simulated_store import Shapes, simulate_store

GOLDEN = Path(__file__).parents[1] / "golden"
VIEWS = {"models", "layers", "layer_distances", "component_distances"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "it's; drop table model; --",
    "\x1b[31mred\x1b[0m\x07",
    "right\u202eto left",
    "עברית-v1",
    "{{ 1234 * 5678 }}{% raw %}",
    "$HOME `id` $x^2$ \\frac",
    "../../../etc/passwd",
    "two\nlines\r\n",
    "x" * 300,
    "base00",
]


@dataclass
class Page(HTMLParser):
    """What a test wants to know of a page."""

    queries: dict[str, str] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)
    handlers: list[str] = field(default_factory=list)
    figures: int = 0
    headings: list[str] = field(default_factory=list)
    text: str = ""
    _file: str = ""
    _tag: str = ""

    @classmethod
    def of(cls, path: Path) -> Page:
        page = cls()
        HTMLParser.__init__(page)
        page.feed(path.read_text(encoding="utf-8"))
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._tag = tag
        self.tags.add(tag)
        self.handlers += [name for name in values if name.startswith("on")]
        self._file = values.get("data-file", "")
        if self._file:
            self.queries[self._file] = ""
        if "href" in values:
            self.links.append(values["href"])
        if "src" in values:
            self.sources.append(values["src"])
        self.figures += tag in ("img", "svg")
        if tag == "h2":
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        self._file = self._tag = ""

    def handle_data(self, data: str) -> None:
        if self._file:
            self.queries[self._file] += data
        elif self._tag == "h2":
            self.headings[-1] += data
        if self._tag != "style":
            self.text += data


def few_shapes() -> Shapes:
    """Return a small part of SD1 with every component, and several blocks and roles."""
    wanted = ("input_blocks.0.", "input_blocks.1.", "middle_block.1.", "output_blocks.9.", ".out.")
    wanted += ("text_model.encoder.layers.0.", "text_model.encoder.layers.11.", "quant_conv")
    wanted += ("encoder.mid.block_1", "decoder.mid.block_1")
    return {
        key: shape
        for key, shape in sd1_shapes(1 / 16).items()
        if any(part in key for part in wanted) and "skip" not in key
    }


def simulated(path: Path, names: Sequence[str], *, compared: bool = True) -> Path:
    simulate_store(path, names, few_shapes(), compared=compared)
    return path


@dataclass(frozen=True)
class Written:
    """A report and the store it was made of."""

    store: Path
    folder: Path
    result: ReportResult

    @property
    def page(self) -> Page:
        return Page.of(self.result.page)


def written(store_path: Path, folder: Path, components: Sequence[str] | None = None) -> Written:
    with Store(store_path, "read") as store:
        return Written(store_path, folder, write_report(store, folder, components=components))
