"""Pictures that are zoomed and asked: what Bokeh draws, with the script that answers the pointer.

One picture has three homes: a notebook and a file hold all they need, a page of the service loads
it. Nothing comes from another host, and no text is run as code: the scripts are named by their
hashes in the policy of the page.
"""

from __future__ import annotations

import gzip
import html
import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np

from megasim.errors import require_extra
from megasim.output_files import write_file
from megasim.plots.style import DARK, LIGHT, THEMES, Theme
from megasim.resources import render_template

if TYPE_CHECKING:
    from bokeh.model import Model
    from bokeh.models import Plot

_SCRIPTS = ("picture", "matrix", "points", "start")  # parts of one script, in their order
_FRAME = 190  # CSS pixels that a notebook gives to what stands around the plot
_STEPS = 256  # colours of a scale


@dataclass(frozen=True)
class InteractivePicture:
    """A picture that is zoomed, and that answers the pointer and the keyboard.

    Attributes:
        title: what it shows.
        caption: how to read it, a sentence each.
        item: what BokehJS and `picture_script` need, as JSON: the same picture gives the same text.
        height: of the plot in a notebook, in CSS pixels.
    """

    title: str
    caption: tuple[str, ...]
    item: str = field(repr=False)
    height: int = 600

    def page(self) -> str:
        """Return one page that needs nothing else, light or dark as its reader is."""
        return render_template(
            "plots/interactive.html.j2",
            title=self.title,
            caption=self.caption,
            item=packed(self.item.encode()),
            bokeh=packed(bokeh_script()),
            script=picture_script(),
            policy=script_policy(),
        )

    def save(self, path: Path | str) -> None:
        """Write the page to a file."""
        write_file(Path(path), self.page())

    def _repr_html_(self) -> str:
        # a frame of its own: no script of the notebook is touched, and it is seen anywhere
        return (
            f'<iframe title="{html.escape(self.title)}" srcdoc="{html.escape(self.page())}" '
            f'style="width:100%;height:{self.height + _FRAME}px;border:0" loading="lazy">'
            f"{html.escape(self.title)}. Run the cell again, or trust the notebook, to see it."
            "</iframe>"
        )


def interactive_picture(
    plot: Plot,
    *,
    kind: str,
    title: str,
    caption: tuple[str, ...],
    asked: Mapping[str, Any],
    height: int = 600,
) -> InteractivePicture:
    """Return a plot with what `picture_script` needs to answer for it.

    Args:
        kind: "matrix", "map" or "lineage".
        asked: plain values that the script reads, by the names that it knows them by.
    """
    from bokeh.core.json_encoder import serialize_json
    from bokeh.embed import json_item

    drawn = json.loads(serialize_json(json_item(plot, "")))
    item = {
        "kind": kind,
        "title": title,
        "themes": {theme.name: _colours(theme) for theme in (LIGHT, DARK)},
        "bokeh": _numbered(drawn),
        **asked,
    }
    text = json.dumps(item, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return InteractivePicture(title, caption, text, height)


def themed(model: Model, **colours: str) -> Any:
    """Give properties of a model the colours of a theme, so that a page can swap them.

    Args:
        colours: property → name of a colour, an attribute of `Theme`.
    """
    for name, colour in colours.items():
        setattr(model, name, getattr(LIGHT, colour))
    model.tags = [*model.tags, *([name, colour] for name, colour in colours.items())]
    return model


def colours_of(name: str) -> list[str]:
    """Return a colour map of matplotlib as so many hexadecimal colours as a scale has steps."""
    rgba = matplotlib.colormaps[name](np.linspace(0, 1, _STEPS))
    return [matplotlib.colors.to_hex(colour) for colour in rgba]


def plane(values: Any) -> dict[str, Any]:
    """Return an array as the script reads it: one number where all are alike.

    Numbers that are missing are NaN, never 0. Single precision, as a hover shows four digits.
    """
    array = np.asarray(values)
    kind = "uint8" if array.dtype == np.uint8 else "float32"
    flat = array.astype(kind).ravel()
    same = len(flat) > 0 and (
        bool((flat == flat[0]).all()) or (kind == "float32" and bool(np.isnan(flat).all()))
    )
    held = flat[:1] if same else flat
    return {"same": same, "type": kind, "data": packed(held.tobytes())}


def packed(content: bytes) -> str:
    """Return bytes as gzip in base64: the same bytes give the same text."""
    return b64encode(gzip.compress(content, mtime=0)).decode("ascii")


@cache
def bokeh_script() -> bytes:
    """Return BokehJS out of Bokeh's own package.

    Raises:
        MissingExtraError: Bokeh is not installed.
    """
    require_extra("interactive", "an interactive picture")
    import bokeh

    path = Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.min.js"
    return path.read_bytes()


@cache
def picture_script() -> str:
    """Return the script that makes pictures of a page answer."""
    folder = Path(__file__).parent
    parts = [(folder / f"interactive_{name}.js").read_text("utf-8") for name in _SCRIPTS]
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


@cache
def script_policy() -> str:
    """Return what scripts a page with pictures allows: these two, by their hashes."""
    scripts = (picture_script().encode(), bokeh_script())
    return " ".join(f"'sha256-{b64encode(sha256(s).digest()).decode()}'" for s in scripts)


def _colours(theme: Theme) -> dict[str, str]:
    named = {name.replace("-", "_"): colour for colour, name in theme.named_colours().items()}
    assert theme is THEMES[theme.name]
    return named


def _numbered(item: Any) -> Any:
    """Return a document of Bokeh with the ids of its models counted from 1.

    Bokeh counts on through a process, so that the same plot would be another text each time.
    """
    order: dict[str, str] = {}

    def new(name: str) -> str:
        return order.setdefault(name, f"m{len(order) + 1}")

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: new(inner)
                if key in ("id", "root_id") and isinstance(inner, str)
                else walk(inner)
                for key, inner in value.items()
            }
        return [walk(inner) for inner in value] if isinstance(value, list) else value

    return walk(item)
