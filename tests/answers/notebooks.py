"""Notebooks run by a real kernel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="install the extra dev")
nbclient = pytest.importorskip("nbclient", reason="install the extra dev")

# What makes a kernel one without ipywidgets, though they are installed.
WITHOUT_WIDGETS = "import sys\nsys.modules['ipywidgets'] = None"


def executed(cells: Sequence[str], folder: Path, *, widgets: bool = True) -> list[Any]:
    """Run cells in a kernel that works in a folder, and return their outputs, a list for each."""
    first = [] if widgets else [WITHOUT_WIDGETS]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in (*first, *cells)]
    )
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return [cell.outputs for cell in notebook.cells[len(first) :]]
