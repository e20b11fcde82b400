"""A findings report as plain text, Markdown and HTML."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined

from megasim import identity
from megasim.anatomy import component_title
from megasim.component_groups import listed
from megasim.errors import printable
from megasim.pair_relations import Relation
from megasim.pair_sentences import VERDICT_WORDS
from megasim.resources import resource_path

if TYPE_CHECKING:
    from megasim.findings_report import FindingsReport, PairReport

_SOURCES = {"imported": "published distances", "estimated": "estimated distances"}
_MOST_GROUPS = 20
_MOST_CLAIMS = 30
_MOST_PAIRS = 8
_MARKUP = re.compile(r"([\\`*<>\[\]|~]|(?<!\w)_|_(?!\w)|^[#+-](?=\s))")

Escape = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and lines below it; the lines of a pair are sentences about its components."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VerdictTable:
    """How many pairs have which verdict, a row for each component; "" where there are none."""

    verdicts: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def headline(report: FindingsReport) -> str:
    """Return e.g. "35 models, 595 pairs"."""
    return f"{_count(len(report.models), 'model')}, {_count(report.pair_count, 'pair')}"


def sections(report: FindingsReport) -> list[Section]:
    """Return what a report says, what is shared and what is odd first where pairs are many."""
    relations = [relation.text for relation in report.relations]
    if not report.pairs:
        relations = _condensed(report.relations)
    groups = [group.sentence() for group in report.groups]
    related = Section("How they are related", tuple(relations))
    shared = [
        Section("Shared components", _most(groups, _MOST_GROUPS, "groups")),
        Section("What is odd", tuple(report.health_lines())),
    ]
    claims = _most(report.claim_lines(), _MOST_CLAIMS, "models")
    pairs = [_pair_section(pair) for pair in report.pairs]
    parts = [*pairs, related, *shared] if pairs else [*shared, related]
    parts.append(Section("What their metadata claims", claims))
    return [part for part in parts if part.lines]


def verdict_table(report: FindingsReport) -> VerdictTable | None:
    """Return the counts over all pairs; None where each pair is told by itself."""
    if report.pairs or not report.verdicts:
        return None
    counts = {(component, verdict): count for component, verdict, count in report.verdicts}
    used = {verdict for _, verdict in counts}
    verdicts = [verdict for verdict in identity.VERDICTS if verdict in used]
    rows = tuple(
        (
            component_title(component),
            tuple(
                f"{counts[component, v]:,}" if (component, v) in counts else "" for v in verdicts
            ),
        )
        for component in dict.fromkeys(component for component, _ in counts)
    )
    words = {**VERDICT_WORDS, identity.ABSENT: "not in both"}
    return VerdictTable(tuple(words[verdict] for verdict in verdicts), rows)


def render_text(report: FindingsReport) -> str:
    """Return plain text, two spaces before each line of a section."""
    blocks = [headline(report)]
    blocks += [
        "\n".join([section.title, *(f"  {line}" for line in section.lines)])
        for section in sections(report)
    ]
    table = verdict_table(report)
    if table is not None:
        rows = [("", table.verdicts), *table.rows]
        widths = [max(len(name) for name, _ in rows)]
        widths += [max(len(cells[i]) for _, cells in rows) for i in range(len(table.verdicts))]
        lines = [
            "  ".join(
                [f"  {name:<{widths[0]}}"]
                + [f"{c:>{w}}" for c, w in zip(cells, widths[1:], strict=True)]
            )
            for name, cells in rows
        ]
        blocks.append("\n".join(["Over all pairs", *(line.rstrip() for line in lines)]))
    return "\n\n".join(blocks) + "\n"


def render_markdown(report: FindingsReport) -> str:
    """Return Markdown in which nothing that a model says is markup."""
    blocks = ["# Findings", _escaped(headline(report)) + "."]
    for section in sections(report):
        lines = [f"- {_escaped(line)}" for line in section.lines]
        blocks += [f"## {_escaped(section.title)}", "\n".join(lines)]
    table = verdict_table(report)
    if table is not None:
        head = f"| component | {' | '.join(table.verdicts)} |"
        rule = "|---|" + "---:|" * len(table.verdicts)
        rows = [f"| {_escaped(name)} | {' | '.join(cells)} |" for name, cells in table.rows]
        blocks += ["## Over all pairs", "\n".join([head, rule, *rows])]
    return "\n\n".join(blocks) + "\n"


def render_html(report: FindingsReport) -> str:
    """Return one page; the template escapes all that a model says."""
    template = resource_path("templates", "findings.html.j2").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(template).render(
        headline=headline(report), sections=sections(report), table=verdict_table(report)
    )


def _pair_section(pair: PairReport) -> Section:
    title = f"{printable(pair.model_a, 80)} → {printable(pair.model_b, 80)}"
    if pair.source in _SOURCES:
        title += f" ({_SOURCES[pair.source]})"
    return Section(title, pair.sentences)


def _condensed(relations: Iterable[Relation]) -> list[str]:
    """Return relations of many models: what changed between several pairs is said once."""
    told = [relation.text for relation in relations if not relation.what]
    pairs: dict[str, list[str]] = defaultdict(list)
    for relation in relations:
        if relation.what:
            pairs[relation.what].append(f"{relation.other} – {relation.model}")
    for what, between in pairs.items():
        told.append(f"{what}, between nearest models: {listed(between, _MOST_PAIRS)}")
    return told


def _most(lines: Iterable[str], limit: int, noun: str) -> tuple[str, ...]:
    every = tuple(lines)
    if len(every) <= limit:
        return every
    return (*every[:limit], f"and {len(every) - limit:,} {noun} more")


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _escaped(text: str) -> str:
    """Return text in which Markdown sees no markup.

    >>> _escaped("a*b_c_ <i>|")
    'a\\\\*b_c\\\\_ \\\\<i\\\\>\\\\|'
    """
    return _MARKUP.sub(r"\\\1", text)
