"""A page of findings as plain text, Markdown and HTML."""

from __future__ import annotations

import re
from dataclasses import dataclass

from megasim.resources import render_template

_MARKUP = re.compile(r"([\\`*<>\[\]|~]|(?<!\w)_|_(?!\w)|^[#+-](?=\s))")


@dataclass(frozen=True, slots=True)
class FindingsSection:
    """A heading and the sentences below it."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CountTable:
    """Numbers as text: a title, the names of the columns, and (name, cells) of each row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class FindingsPage:
    """What is written: one line on what it is about, sections, and a table or none."""

    headline: str
    sections: tuple[FindingsSection, ...]
    table: CountTable | None


def render_text(page: FindingsPage) -> str:
    """Return plain text, two spaces before each line of a section."""
    blocks = [page.headline]
    blocks += [
        "\n".join([section.title, *(f"  {line}" for line in section.lines)])
        for section in page.sections
    ]
    if page.table is not None:
        rows = [("", page.table.columns), *page.table.rows]
        width = max(len(name) for name, _ in rows)
        widths = [
            max(map(len, column)) for column in zip(*(cells for _, cells in rows), strict=True)
        ]
        lines = [
            "  ".join([f"  {name:<{width}}", *map(str.rjust, cells, widths)]).rstrip()
            for name, cells in rows
        ]
        blocks.append("\n".join([page.table.title, *lines]))
    return "\n\n".join(blocks) + "\n"


def render_markdown(page: FindingsPage) -> str:
    """Return Markdown in which nothing that a model says is markup."""
    blocks = ["# Findings", _escaped(page.headline) + "."]
    for section in page.sections:
        lines = [f"- {_escaped(line)}" for line in section.lines]
        blocks += [f"## {_escaped(section.title)}", "\n".join(lines)]
    if page.table is not None:
        head = f"| component | {' | '.join(page.table.columns)} |"
        rule = "|---|" + "---:|" * len(page.table.columns)
        rows = [f"| {_escaped(name)} | {' | '.join(cells)} |" for name, cells in page.table.rows]
        blocks += [f"## {page.table.title}", "\n".join([head, rule, *rows])]
    return "\n\n".join(blocks) + "\n"


def render_html(page: FindingsPage) -> str:
    """Return one page; the template escapes all that a model says."""
    return render_template("findings/findings.html.j2", page=page)


def _escaped(text: str) -> str:
    """Return text in which Markdown sees no markup.

    >>> _escaped("a*b_c_ <i>|")
    'a\\\\*b_c\\\\_ \\\\<i\\\\>\\\\|'
    """
    return _MARKUP.sub(r"\\\1", text)
