"""The whole way of the data on a small family of models of known history."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from megasim.matrix.files import write_matrix
from megasim.output_files import write_if_new
from megasim.plots.figure_files import figure_bytes
from megasim.progress import NO_PROGRESS, Progress
from megasim.resources import code_digest
from megasim.workspace import Workspace, open_store
from megasim.zoo.building import build_demo_zoo, build_networks

_FILES = ("report/index.html", "findings.md", "unet.png", "unet.csv", "demo.duckdb")
_STATE = "drawn.json"  # of which store, by which code; written when all else is there


@dataclass(frozen=True)
class DemoResult:
    """What the demo found, in sentences, and where the rest lies."""

    sentences: tuple[str, ...]
    files: tuple[Path, ...]


def demo(folder: Path, *, progress: Progress = NO_PROGRESS) -> DemoResult:
    """Build the zoo in `folder`, and ingest, compare, judge, draw and report it.

    Run again, it changes nothing: models are known, distances are there, and what was drawn of
    the same store by the same code is not drawn again.

    Raises:
        MissingExtraError: the models cannot be written, because torch is not installed.
    """
    build_demo_zoo(folder / "models", progress=progress)
    build_networks(folder / "networks", progress=progress)
    with open_store(folder / "demo.duckdb") as store:
        store.ingest(folder / "models", folder / "networks", progress=progress)
        compared = store.compare(progress=progress)
        models = len(store.store.model_ids())
    files = tuple(folder / name for name in _FILES)
    counts = (
        f"{models} models, {compared.pairs_asked} pairs, "
        f"{compared.pairs_known} of them known before."
    )
    with open_store(folder / "demo.duckdb", "read") as store:
        state = {"code": code_digest(), "store": store.store.content_digest()}
        lead = _lead_of(folder / _STATE, state) if all(path.exists() for path in files) else None
        if lead is None:
            lead = _draw(store, folder, redo=bool(compared.pairs_done), progress=progress)
            content = json.dumps({**state, "lead": lead}, ensure_ascii=False, indent=1)
            write_if_new(folder / _STATE, content.encode())
    return DemoResult((counts, *lead), files)


def _draw(store: Workspace, folder: Path, *, redo: bool, progress: Progress) -> list[str]:
    """Write all answers of a store, and return what was found in sentences."""
    report = store.findings()
    write_if_new(folder / "findings.md", report.to_markdown().encode())
    matrix = store.matrix("unet")
    csv = folder / "unet.csv"
    if redo or not csv.exists():
        write_matrix(matrix, csv)
    write_if_new(folder / "unet.png", figure_bytes(matrix.heatmap(), "png"))
    return list(store.report(folder / "report", progress=progress).lead)


def _lead_of(path: Path, state: dict[str, str]) -> list[str] | None:
    """Return the sentences that an earlier run found of the same state, or None."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return list(found["lead"]) if found | state == found else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
