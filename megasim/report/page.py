"""Results → one page that opens from disk, and the data behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from markupsafe import Markup

from megasim.errors import printable, require_extra
from megasim.output_files import write_if_new
from megasim.plots.figure_files import figure_variables
from megasim.plots.interactive import bokeh_script, packed, picture_script, script_policy
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
from megasim.report.parts import DataFile, Picture, Section, unbroken
from megasim.report.source import ReportSource
from megasim.report.trust import trust_section
from megasim.resources import __version__, render_template
from megasim.store.rows import Store
from megasim.wording.sentences import counted

_LEAD = 6  # sections that have a say at the top
_TELLING = ("lineage", "shared", "findings", "trust", "health", "map", "distances")  # most first
_FOLDER = "data"
MOST_PACKED = 14_000_000  # characters that pictures to zoom into add: the page stays below 20 MB


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
    lineage_section,
    shared_section,
    findings_section,
    heatmap_section,
    map_section,
    where_section,
    trajectory_section,
    health_section,
    models_section,
    trust_section,
)


def write_report(
    store: Store,
    folder: Path,
    *,
    models: Sequence[str] | None = None,
    components: Sequence[str] | None = None,
    path: Sequence[str] | None = None,
    one_file: bool = False,
    interactive: bool = False,
    progress: Progress = NO_PROGRESS,
) -> ReportResult:
    """Write `index.html`, which needs nothing else, and a folder `data` beside it.

    The same store gives the same bytes; a file that would become what it is stays untouched.

    Args:
        folder: made where it is not there; files of other names in it are left alone.
        models: names; all of the store when None.
        components: those that get figures; the ones that make images when None.
        one_file: keep the data within the page, so that it can be mailed; `folder` may then be
            the file to write, a name that ends in .html.
        interactive: let matrices, maps and the tree be zoomed into, as long as that adds less than
            `MOST_PACKED` bytes. The page then has scripts, its own alone.
        path: models in their order, for the map and the trajectory; series of epochs or versions
            are found by their names when None.

    Raises:
        UsageError: an unknown model or component, or a path that is none.
        MissingExtraError: `interactive` without the extra of that name.
        OSError: the folder cannot be written to; raised before the work.
    """
    if interactive:
        require_extra("interactive", "report --interactive")
    source = ReportSource.of(store, models, components, path, interactive)
    page = folder / "index.html"
    if one_file and folder.suffix.lower() == ".html":
        page = folder
    where = page.parent if one_file else page.parent / _FOLDER
    where.mkdir(parents=True, exist_ok=True)
    # a folder that cannot be written to is an error before the work
    with TemporaryFile(dir=where):
        pass
    sections = []
    progress.start("Writing the report", len(_SECTIONS), "sections")
    try:
        with _one_thread():
            for section in _SECTIONS:
                sections.append(section(source))
                progress.advance(1)
    finally:
        progress.finish()
    leading = sorted((s for s in sections if s.lead), key=lambda s: _TELLING.index(s.slug))[:_LEAD]
    lead = tuple(sentence for section in leading for sentence in section.lead)
    return _write(page, source, sections, lead, one_file)


def _one_thread() -> AbstractContextManager[object]:
    """Let BLAS take one thread: the lineage decomposes small matrices by the hundred.

    Two threads wait for each other at every step of one, and on busy cores take 25 times as much
    of them.
    """
    import scipy.linalg  # noqa: F401 - has a BLAS of its own, which is limited once it is loaded
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    limited: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limited


def _write(
    page: Path,
    source: ReportSource,
    sections: Sequence[Section],
    lead: tuple[str, ...],
    one_file: bool,
) -> ReportResult:
    data = page.parent / _FOLDER
    contents: dict[Path, bytes] = {}
    if not one_file:
        contents = {data / file.name: file.content for s in sections for file in s.files()}
    # the page last: where it is new, all that it points to is there
    contents[page] = _page(source, sections, lead, one_file).encode("utf-8")
    for path, content in contents.items():
        write_if_new(path, content)
    return ReportResult(
        page=page,
        files=(page, *sorted(path for path in contents if path != page)),
        bytes=sum(map(len, contents.values())),
        lead=lead,
    )


def _page(
    source: ReportSource, sections: Sequence[Section], lead: tuple[str, ...], one_file: bool
) -> str:
    n = len(source.models)
    title = "An empty store" if n == 0 else f"What changed between {counted(n, 'model')}"
    held: set[str] = set()

    def link_to(file: DataFile) -> Markup:
        """Return a link to a file; within one page, each is kept where it is named first."""
        if not one_file:
            return Markup('<a href="{}/{}">{}</a>').format(_FOLDER, file.name, file.name)
        if file.name in held:
            return Markup('<a href="#{}">{}</a>').format(file.name, file.name)
        held.add(file.name)
        name, address = file.within()
        return Markup('<a id="{}" download="{}" href="{}">{}</a>').format(
            file.name, name, Markup(address), name
        )

    return (
        render_template(
            "report/report.html.j2",
            filters={"whole": unbroken},
            title="One model" if n == 1 else title,
            under=_under(source),
            lead=lead,
            sections=sections,
            link_to=link_to,
            items=_packed_items(sections),
            packed_bokeh=packed(bokeh_script()) if source.interactive else "",
            script=picture_script() if source.interactive else "",
            policy=script_policy() if source.interactive else "'none'",
            light=figure_variables(dark=False),
            dark=figure_variables(dark=True),
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


def _packed_items(sections: Sequence[Section]) -> dict[str, str]:
    """Return the pictures to zoom into by name, packed, those that are left out as ""."""
    left = MOST_PACKED
    items = {}
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Picture) and block.item:
                text = packed(block.item.encode())
                items[block.name] = text if len(text) <= left else ""
                left -= len(items[block.name])
    return items
