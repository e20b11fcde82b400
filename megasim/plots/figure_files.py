"""Figures into files, without a date or anything else that differs from run to run."""

from __future__ import annotations

import io
import re
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from megasim.output_files import write_file
from megasim.plots.style import DARK, LIGHT

FIGURE_ENDINGS = (".png", ".svg", ".pdf")
_NO_DATES: dict[str, dict[str, str | None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": "megasim"},
    "pdf": {"CreationDate": None, "Creator": "megasim"},
}
_HOVER = "hover: "
_HOVERS = re.compile(rf'<g id="{_HOVER}([^"]*)">')
_IDS = re.compile(r'<g id="[a-zA-Z0-9_.]+">')
_METADATA = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)
_FAMILY = re.compile(r"font-family: [^;\"]*; ?")
_TAGS = re.compile(r"<[^>]+>")
_OPENING = re.compile(r"<svg [^>]*>")


def figure_bytes(figure: Figure, form: str, dpi: int = 130) -> bytes:
    """Return a figure as PNG, SVG or PDF: the same figure gives the same bytes.

    In an SVG text stays text, and what has a `hover` text shows it.
    """
    out = io.BytesIO()
    settings: Any = {"svg.hashsalt": "megasim", "svg.fonttype": "none", "pdf.fonttype": 42}
    # who reads an SVG may lack the first of these; the second is as wide
    settings["font.sans-serif"] = ["DejaVu Sans", "Verdana", "Arial"]
    with matplotlib.rc_context(settings):
        figure.savefig(
            out,
            format=form,
            dpi=dpi,
            metadata=_NO_DATES[form],
            facecolor=figure.get_facecolor(),
        )
    if form != "svg":
        return out.getvalue()
    return _HOVERS.sub(r"<g><title>\1</title>", out.getvalue().decode("utf-8")).encode("utf-8")


def save_figure(figure: Figure, path: Path, dpi: int = 130) -> None:
    """Write a figure; the ending of `path`, one of `FIGURE_ENDINGS`, decides the form."""
    write_file(path, figure_bytes(figure, path.suffix.lower().removeprefix("."), dpi))


def set_hover(artist: Artist, text: str) -> None:
    """Let an artist show a text where the pointer rests on it, in an SVG."""
    artist.set_gid(_HOVER + text)


def inline_svg(svg: bytes, label: str) -> str:
    """Return a figure of the light theme as an element of a page, in colours of the page.

    Each colour that depends on the theme becomes a variable: see `figure_variables`.

    Args:
        label: what it shows, for those who cannot see it.
    """
    text = _METADATA.sub("", svg.decode("utf-8"))
    text = text[_OPENING.search(text).start() :]  # type: ignore[union-attr]
    text = _IDS.sub("<g>", text)
    text = _TAGS.sub(_with_variables, text)
    # each text repeats the font, which the whole has just as well
    text = _FAMILY.sub("", text)
    font = "font-family: DejaVu Sans, Verdana, Arial, sans-serif"
    named = f'<svg role="img" aria-label="{escape(label)}" style="{font}" '
    return re.sub(r"\n\s*", "\n", text.replace("<svg ", named, 1))


def _with_variables(tag: re.Match[str]) -> str:
    found = tag[0]
    if "#" in found:
        for colour, name in LIGHT.named_colours().items():
            found = found.replace(colour, f"var(--figure-{name})")
    return found


def figure_variables(*, dark: bool) -> str:
    """Return CSS that gives the colours of inline figures their values."""
    theme = DARK if dark else LIGHT
    return " ".join(f"--figure-{name}: {c};" for c, name in theme.named_colours().items())
