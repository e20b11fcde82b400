"""Results → one page that opens from disk, and the data behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from megasim.errors import printable
from megasim.output_files import write_if_new
from megasim.progress import NO_PROGRESS, Progress
from megasim.report.distances import heatmap_section, where_section
from megasim.report.findings import (
    findings_section,
    health_section,
    models_section,
    shared_section,
)
from megasim.report.geometry import map_section, trajectory_section
from megasim.report.lineage import lineage_section
from megasim.report.parts import Section
from megasim.report.source import ReportSource
from megasim.resources import __version__, render_template
from megasim.store.rows import Store
from megasim.wording import counted

_LEAD = 5  # sentences at the top
_TELLING = ("findings", "shared", "health", "lineage", "map", "distances")  # the most first


@dataclass(frozen=True)
class ReportResult:
    """What was written.

    Attributes:
        page: the page; `data` beside it holds the rest.
        files: all files, the page first.
        bytes: of all of them together.
        lead: what was found, in a few sentences.
    """

    page: Path
    files: tuple[Path, ...]
    bytes: int
    lead: tuple[str, ...]


_SECTIONS: tuple[Callable[[ReportSource], Section], ...] = (
    findings_section,
    shared_section,
    health_section,
    heatmap_section,
    map_section,
    where_section,
    trajectory_section,
    lineage_section,
    models_section,
)


def write_report(
    store: Store,
    folder: Path,
    *,
    models: Sequence[str] | None = None,
    components: Sequence[str] | None = None,
    path: Sequence[str] | None = None,
    progress: Progress = NO_PROGRESS,
) -> ReportResult:
    """Write `index.html`, which needs nothing else, and a folder `data` beside it.

    The same store gives the same bytes; a file that would become what it is stays untouched.

    Args:
        folder: made where it is not there; files of other names in it are left alone.
        models: names; all of the store when None.
        components: those that get figures; the ones that make images when None.
        path: models in their order, for the map and the trajectory; series of epochs or versions
            are found by their names when None.

    Raises:
        UsageError: an unknown model or component, or a path that is none.
        OSError: the folder cannot be written to; raised before the work.
    """
    source = ReportSource.of(store, models, components, path)
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    # a folder that cannot be written to is an error before the work
    with TemporaryFile(dir=data):
        pass
    sections = []
    progress.start("Writing the report", len(_SECTIONS), "sections")
    try:
        for section in _SECTIONS:
            sections.append(section(source))
            progress.advance(1)
    finally:
        progress.finish()
    leading = sorted((s for s in sections if s.lead), key=lambda s: _TELLING.index(s.slug))[:_LEAD]
    lead = tuple(
        sentence for section in sections if section in leading for sentence in section.lead
    )
    return _write(folder, source, sections, lead)


def _write(
    folder: Path, source: ReportSource, sections: Sequence[Section], lead: tuple[str, ...]
) -> ReportResult:
    data = folder / "data"
    contents = {data / file.name: file.content for s in sections for file in s.files()}
    # the page last: where it is new, all that it points to is there
    page = folder / "index.html"
    contents[page] = _page(source, sections, lead).encode("utf-8")
    for path, content in contents.items():
        write_if_new(path, content)
    return ReportResult(
        page=page,
        files=(page, *sorted(path for path in contents if path != page)),
        bytes=sum(map(len, contents.values())),
        lead=lead,
    )


def _page(source: ReportSource, sections: Sequence[Section], lead: tuple[str, ...]) -> str:
    n = len(source.models)
    title = "An empty store" if n == 0 else f"What changed between {counted(n, 'model')}"
    return (
        render_template(
            "report/report.html.j2",
            title="One model" if n == 1 else title,
            under=_under(source),
            lead=lead,
            sections=sections,
            version=__version__,
        )
        + "\n"
    )


def _under(source: ReportSource) -> str:
    """Return in a line what the report is about: families, and how much was compared."""
    n = len(source.models)
    if not n:
        return "Run megasim ingest to add models."
    chosen = set(source.models)
    models = [model for model in source.store.models() if model.name in chosen]
    families = Counter(model.family or "published distances" for model in models)
    parts = [f"{count} {name}" for name, count in families.most_common()]
    if n > 1:
        parts.append(f"{len(source.pairs):,} of {counted(n * (n - 1) // 2, 'pair')} known")
    return " · ".join(map(printable, parts))
