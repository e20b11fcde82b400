"""What megasim says of some models, in every form in which it says it."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from markupsafe import escape

from megasim.cli import run
from megasim.findings.overview import FindingsReport, findings_report
from megasim.findings.relations import relation_sentences
from megasim.report.findings import findings_section, health_section, shared_section
from megasim.report.parts import Section, unbroken
from megasim.report.source import ReportSource
from megasim.resources import render_template
from megasim.store.rows import Store
from megasim.workspace import open_store
from tests.small_sd import compared_store


def related(folder: Path, **models: Mapping[str, torch.Tensor]) -> list[str]:
    """Return what is said of how some models are related: the same in every form."""
    return told(compared_store(folder, models))


def related_files(folder: Path, *paths: Path) -> list[str]:
    """The same of files that are there."""
    with open_store(folder / "told.duckdb") as workspace:
        assert not workspace.ingest(*paths).failed
        workspace.compare()
    return told(folder / "told.duckdb")


def told(path: Path) -> list[str]:
    """Return the sentences on how models are related, after a look at every form of them.

    Text, Markdown's neighbour HTML, the JSON of Python and of the command line, and the page of the
    report hold the same sentences.
    """
    with Store(path) as store:
        report = findings_report(store)
        sentences = [r["text"] for r in json.loads(json.dumps(report.to_json()))["relations"]]
        said = [text for _, text in relation_sentences(report.relations)]
        text, html, page = report.to_text(), report.to_html(), report_page(store)
        for sentence in said:
            assert sentence in text
            assert str(escape(sentence)) in html
            # the page may name the two models behind what it says of them
            names, _, rest = sentence.partition(": ")
            assert str(unbroken(sentence)) in page or (rest and str(unbroken(rest)) in page), names
    rows = command_json(path)
    assert set(sentences) == {text for row in rows for text in row["relations"]}
    return sentences


FINDINGS = (findings_section, shared_section, health_section)


def report_page(
    store: Store, makers: Sequence[Callable[[ReportSource], Section]] = FINDINGS
) -> str:
    """Return some sections of the page of the report."""
    source = ReportSource.of(store, None, None, None)
    sections = [make(source) for make in makers]
    return render_template(
        "report/report.html.j2",
        filters={"whole": unbroken},
        title="",
        under="",
        lead=(),
        sections=sections,
        link_to=lambda file: file.name,
        items={},
        packed_bokeh="",
        script="",
        policy="'none'",
        light="",
        dark="",
        version="",
    )


def command_json(path: Path, *models: str) -> list[dict[str, Any]]:
    """Return what `megasim findings --json` prints."""
    rows: list[dict[str, Any]] = json.loads(printed(path, "findings", *models, "--json"))
    return rows


def printed(path: Path, *arguments: str) -> str:
    """Return what a command prints of a store."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert run(["--db", str(path), *arguments]) == 0
    return out.getvalue()


def findings_of(path: Path) -> FindingsReport:
    """Return all findings of a store."""
    with Store(path) as store:
        return findings_report(store)
