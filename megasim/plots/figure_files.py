"""Figures into files, without a date or anything else that differs from run to run."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from megasim.output_files import write_file

FIGURE_ENDINGS = (".png", ".svg", ".pdf")
_NO_DATES: dict[str, dict[str, str | None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": "megasim"},
    "pdf": {"CreationDate": None, "Creator": "megasim"},
}


def figure_bytes(figure: Figure, form: str, dpi: int = 130) -> bytes:
    """Return a figure as PNG, SVG or PDF: the same figure gives the same bytes."""
    out = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "megasim", "svg.fonttype": "path"}):
        figure.savefig(out, format=form, dpi=dpi, metadata=_NO_DATES[form], facecolor="white")
    return out.getvalue()


def save_figure(figure: Figure, path: Path, dpi: int = 130) -> None:
    """Write a figure; the ending of `path`, one of `FIGURE_ENDINGS`, decides the form."""
    write_file(path, figure_bytes(figure, path.suffix.lower().removeprefix("."), dpi))
