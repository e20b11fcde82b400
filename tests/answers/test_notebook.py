"""In a notebook: a store opens with and without ipywidgets, and answers show themselves.

`python -m tests.answers.test_notebook FOLDER` runs the notebooks of the docs again and keeps their
output; `megasim demo` was run in FOLDER before.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from megasim.wording.html import html_table
from tests.answers.notebooks import executed, notebook_tools
from tests.browser import open_browser
from tests.exchange.merged_models import merged, store_of
from tests.small_sd import TEXT, UNET, VAE, StateDict, cast, small_sd, trained

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))


def small_demo() -> dict[str, StateDict]:
    """Return small models called as those of the demo, of about the same history."""
    import torch

    base = small_sd()
    ends = [cast(trained(base, i, UNET, TEXT), torch.float16) for i in (1, 2)]
    mixes = {f"mix-{s}": merged(ends, lambda _, s=s: (1 - s / 100, s / 100)) for s in (30, 70)}
    chain = {f"chain-{i}": cast(trained(base, 10 + i, UNET), torch.float16) for i in (1, 2, 3)}
    half = cast(base, torch.float16)
    return {
        "base-fp16": half,
        "new-decoder": trained(half, 5, VAE + "decoder"),
        "mix-00": ends[0],
        "mix-100": ends[1],
        **mixes,
        **chain,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("notebook")
    (here / "demo").mkdir()
    store_of(here / "demo", small_demo()).rename(here / "demo" / "demo.duckdb")
    return here


def kinds(outputs: Iterable[Any]) -> list[list[str]]:
    """Return what a cell shows: the forms of each of its outputs."""
    return [sorted(output.get("data", {"text": ""})) for output in outputs]


@pytest.mark.parametrize("widgets", [True, False], ids=["ipywidgets", "no-ipywidgets"])
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebooks_of_the_docs_run(folder: Path, path: Path, widgets: bool) -> None:
    _, nbformat = notebook_tools()
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = executed([cell.source for cell in cells], folder, widgets=widgets)
    for cell, outputs in zip(cells, shown, strict=True):
        assert kinds(outputs) == kinds(cell.outputs), cell.source


def test_answers_show_themselves_and_are_short_in_words(folder: Path) -> None:
    answers = [
        "store",
        "store.findings('base-fp16', 'new-decoder')",
        "store.shared_components()",
        "store.changes('mix-00', 'mix-30')",
        "store.recipe('mix-30')",
        "store.matrix('unet')",
        "store.map('unet')",
        "store.lineage('unet')",
        "store.trajectory(['base-fp16', 'chain-1', 'chain-2'])",
    ]
    first = "import megasim\nstore = megasim.open_store('demo/demo.duckdb', 'read')"
    for outputs in executed([first, *answers], folder)[1:]:
        (output,) = outputs
        assert set(output["data"]) == {"text/html", "text/plain"}
        text = output["data"]["text/plain"]
        assert text.startswith("<")
        assert len(text) < 200


def test_matrices_maps_and_trees_are_pictures_that_answer(folder: Path) -> None:
    pytest.importorskip("bokeh", reason="install the extra interactive")
    first = "import megasim\nstore = megasim.open_store('demo/demo.duckdb', 'read')"
    cells = [first, "store.matrix('unet')", "store.map('unet')", "store.lineage('unet')"]
    shown = executed(cells, folder)[1:]
    with open_browser() as browser:
        for number, (output,) in enumerate(shown):
            page = folder / f"shown-{number}.html"
            page.write_text(f"<!doctype html>{output['data']['text/html']}", encoding="utf-8")
            visit = browser.visit(page)
            inner = "document.querySelector('iframe').contentDocument.querySelector('.picture')"
            for _ in range(200):
                if drawn := browser.run(f"return {inner}?.dataset.drawn"):
                    break
                time.sleep(0.05)
            assert drawn == "yes"
            assert not visit.requests


def test_without_bokeh_they_are_tables_and_figures(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from megasim.errors import MissingExtraError
    from megasim.workspace import open_store

    monkeypatch.setitem(sys.modules, "bokeh", None)
    with open_store(folder / "demo" / "demo.duckdb", "read") as store:
        matrix = store.matrix("unet")
        assert "<table" in matrix._repr_html_()
        for drawn in (store.map("unet"), store.lineage("unet")):
            assert "data:image/png" in drawn._repr_html_()
        with pytest.raises(MissingExtraError, match=r"pip install 'megasim\[interactive\]'"):
            matrix.interactive()


def test_a_store_that_is_closed_shows_that(folder: Path) -> None:
    from megasim.workspace import open_store

    store = open_store(folder / "demo" / "demo.duckdb", "read")
    assert "9 models, 36 of 36 pairs compared" in repr(store)
    store.close()
    assert "closed" in repr(store)


def test_what_a_model_is_called_is_never_markup() -> None:
    from megasim.answers.matrices import MatrixView

    matrix = MatrixView.from_values(["<script>", "b"], [[0, 1], [1, 0]])
    assert "<script>" not in matrix._repr_html_()


if __name__ == "__main__":
    for path in NOTEBOOKS:
        nbclient, nbformat = notebook_tools()
        notebook = nbformat.read(path, as_version=4)
        where = {"metadata": {"path": sys.argv[1]}}
        nbclient.NotebookClient(notebook, kernel_name="python3", resources=where).execute()
        for cell in notebook.cells:
            cell.metadata = {}
        nbformat.write(notebook, path)


def test_what_is_missing_is_a_dash_in_every_column() -> None:
    """Of whole numbers too, which keep no fraction beside a missing one."""
    frame = pd.DataFrame(
        {"n": pd.array([320, None], "Int64"), "t": ["<b>", None], "f": [0.5, None]}
    )
    table = html_table(frame)
    assert table.count("<td>–</td>") == 3
    assert "<td>320</td>" in table and "&lt;b&gt;" in table
