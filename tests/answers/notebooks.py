"""Notebooks run by a real kernel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

# What makes a kernel one without ipywidgets, though they are installed.
WITHOUT_WIDGETS = "import sys\nsys.modules['ipywidgets'] = None"


def notebook_tools() -> tuple[Any, Any]:
    """Return nbclient and nbformat; without them the test that asks is skipped, and no other."""
    return tuple(
        pytest.importorskip(name, reason="install the extra dev")
        for name in ("nbclient", "nbformat")
    )


def executed(cells: Sequence[str], folder: Path, *, widgets: bool = True) -> list[Any]:
    """Run cells in a kernel that works in a folder, and return their outputs, a list for each."""
    nbclient, nbformat = notebook_tools()
    first = [] if widgets else [WITHOUT_WIDGETS]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in (*first, *cells)]
    )
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return [cell.outputs for cell in notebook.cells[len(first) :]]
