"""The whole way of the data on a small family of models of known history."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megasim.matrix_files import write_matrix
from megasim.plots.figure_files import figure_bytes
from megasim.progress import NO_PROGRESS, Progress
from megasim.workspace import open_store
from megasim.zoo.building import build_demo_zoo

CHAIN = ("chain-1", "chain-2", "chain-3", "chain-4", "chain-5")


@dataclass(frozen=True)
class DemoResult:
    """What the demo found, in sentences, and where the rest lies."""

    sentences: tuple[str, ...]
    files: tuple[Path, ...]


def run_demo(folder: Path, *, progress: Progress = NO_PROGRESS) -> DemoResult:
    """Build the zoo in `folder`, and ingest, compare, judge, draw and report it.

    Run again, it changes nothing: models are known, distances are there, and files that would
    become the same are not touched.
    """
    models = build_demo_zoo(folder / "models", progress=progress)
    with open_store(folder / "demo.duckdb") as store:
        store.ingest(folder / "models", progress=progress)
        compared = store.compare(progress=progress)
    with open_store(folder / "demo.duckdb", "read") as store:
        report = store.findings()
        write_if_new(folder / "findings.md", report.to_markdown().encode())
        matrix = store.matrix("unet")
        csv = folder / "unet.csv"
        if compared.pairs_done or not csv.exists():
            write_matrix(matrix, csv)
        write_if_new(folder / "unet.png", figure_bytes(matrix.heatmap(), "png"))
        told = store.report(folder / "report", progress=progress)
        sentences = (
            f"{len(models)} models, {compared.pairs_asked} pairs, "
            f"{compared.pairs_known} of them known before.",
            *told.lead,
        )
    names = ("report/index.html", "findings.md", "unet.png", "unet.csv", "demo.duckdb")
    return DemoResult(sentences, tuple(folder / name for name in names))


def write_if_new(path: Path, content: bytes) -> None:
    """Write a file, unless it holds just that already."""
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)
