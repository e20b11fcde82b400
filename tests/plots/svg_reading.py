"""What an SVG of matplotlib shows where: its texts, and the colour that lies behind each."""

from __future__ import annotations

import io
import re
from base64 import b64decode
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import numpy.typing as npt
from matplotlib.path import Path
from matplotlib.transforms import Affine2D

from megasim.plots.labels import text_extent
from megasim.plots.style import luminance

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?|[MLQCz]")
_POINTS = {"M": 1, "L": 1, "Q": 2, "C": 3}
_CODES = {"M": Path.MOVETO, "L": Path.LINETO, "Q": Path.CURVE3, "C": Path.CURVE4}
_PIXELS = 4 / 3  # of a typographic point on a page

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SvgText:
    """A text of a figure.

    Attributes:
        pixels: its size on a page that shows the figure at its full size.
        contrast: the least one with what lies behind it, over points along the text.
        inside: whether all of it is within the figure.
    """

    text: str
    pixels: float
    contrast: float
    inside: bool


@dataclass(frozen=True)
class _Area:
    """Something that is filled: a path with one colour, or an image."""

    path: Path
    clip: Floats
    fill: str = ""
    pixels: npt.NDArray[Any] | None = None
    to_pixels: Affine2D | None = None

    @cached_property
    def box(self) -> Floats:
        return np.asarray(self.path.get_extents().extents)

    def colour_at(self, point: Floats) -> Any:
        """Return the colour here, or None where there is none."""
        for left, top, right, bottom in (self.box, self.clip):
            if not (left <= point[0] <= right and top <= point[1] <= bottom):
                return None
        if self.pixels is None or self.to_pixels is None:
            return self.fill if self.path.contains_point(point.tolist()) else None
        x, y = self.to_pixels.transform(point)
        rows, columns = self.pixels.shape[:2]
        pixel = self.pixels[min(int(y * rows), rows - 1), min(int(x * columns), columns - 1)]
        return pixel[:3] if len(pixel) < 4 or pixel[3] > 0.5 else None


def read_texts(svg: bytes) -> list[SvgText]:
    """Return the texts of a figure, each against what was drawn before it."""
    root = ElementTree.fromstring(svg)
    size = [float(x) for x in root.attrib["viewBox"].split()[2:]]
    defined = {e.attrib["id"]: e for e in root.iter() if "id" in e.attrib}
    parents = {child: parent for parent in root.iter() for child in parent}
    areas: list[_Area] = []
    found = []
    for element in root.iter():
        tag = element.tag.removeprefix(_SVG)
        if _is_definition(element, parents):
            continue
        if tag in ("path", "use"):
            areas += _filled(element, defined, _clip(element, defined, parents))
        elif tag == "image":
            areas.append(_image(element, _clip(element, defined, parents)))
        elif tag == "text":
            found.append(_text(element, areas, size))
    return found


def _is_definition(element: Any, parents: dict[Any, Any]) -> bool:
    while element in parents:
        element = parents[element]
        if element.tag == f"{_SVG}defs":
            return True
    return False


def _clip(element: Any, defined: dict[str, Any], parents: dict[Any, Any]) -> Floats:
    """Return left, top, right, bottom of what is shown of an element."""
    while "clip-path" not in element.attrib and element in parents:
        element = parents[element]
    named = element.attrib.get("clip-path", "")
    if not named:
        return np.array([-np.inf, -np.inf, np.inf, np.inf])
    box = defined[named[5:-1]].find(f"{_SVG}rect").attrib
    left, top, width, height = (float(box[k]) for k in ("x", "y", "width", "height"))
    return np.array([left, top, left + width, top + height])


def _style(element: Any) -> dict[str, str]:
    pairs = (part.split(":", 1) for part in element.attrib.get("style", "").split(";"))
    return {p[0].strip(): p[1].strip() for p in pairs if len(p) == 2}


def _filled(element: Any, defined: dict[str, Any], clip: Floats) -> list[_Area]:
    style, place = _style(element), Affine2D()
    drawn = element
    if _LINK in element.attrib:
        drawn = defined[element.attrib[_LINK].removeprefix("#")]
        place = Affine2D().translate(*(float(element.attrib[k]) for k in ("x", "y")))
        style = _style(drawn) | style
    fill = style.get("fill", "#000000")
    if fill == "none" or float(style.get("opacity", 1)) == 0:
        return []
    if fill.startswith("url("):
        fill = defined[fill[5:-1]].find(f"{_SVG}rect").attrib["fill"]
    return [_Area(place.transform_path(_path(drawn.attrib["d"])), clip, fill)]


def _path(drawn: str) -> Path:
    points: list[tuple[float, float]] = []
    codes: list[Any] = []
    words = _NUMBER.findall(drawn)
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "z":
            points.append((0.0, 0.0))
            codes.append(Path.CLOSEPOLY)
            continue
        for _ in range(_POINTS[word]):
            points.append((float(words[at]), float(words[at + 1])))
            codes.append(_CODES[word])
            at += 2
    return Path(points, codes)


def _image(element: Any, clip: Floats) -> _Area:
    content = element.attrib[_LINK].split("base64,", 1)[1]
    pixels = matplotlib.image.imread(io.BytesIO(b64decode(content)))
    width, height = (float(element.attrib[k]) for k in ("width", "height"))
    place = Affine2D().scale(width, height)
    place.translate(*(float(element.attrib.get(k, 0)) for k in ("x", "y")))
    for name, inner in reversed(re.findall(r"(\w+)\(([^)]*)\)", element.get("transform", ""))):
        numbers = [float(x) for x in re.split(r"[\s,]+", inner.strip())]
        step = {"matrix": Affine2D.from_values, "translate": Affine2D().translate}.get(name)
        place += step(*numbers) if step else Affine2D().scale(*numbers)
    corners = place.transform([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)])
    return _Area(Path(corners), clip, pixels=pixels, to_pixels=place.inverted())


def _text(element: Any, areas: list[_Area], size: list[float]) -> SvgText:
    style = _style(element)
    font = float(style["font-size"].removesuffix("px"))
    text = "".join(element.itertext())
    width = text_extent(text, font, "bold" in style.get("font-weight", ""))[0] / 1.08
    turned = dict(re.findall(r"(\w+)\(([^)]*)\)", element.attrib.get("transform", "")))
    angle = np.deg2rad(float(turned.get("rotate", "0").split()[0]))
    if "translate" in turned:
        origin = np.array([float(x) for x in turned["translate"].split()])
    else:
        origin = np.array([float(element.attrib[k]) for k in ("x", "y")])
    along = np.array([np.cos(angle), np.sin(angle)])
    down = np.array([-along[1], along[0]])
    start = {"middle": -0.5, "end": -1.0}.get(style.get("text-anchor", "start"), 0.0) * width
    # the middle of small letters lies a third of their size above the line
    points = [
        origin + along * (start + share * width) - 0.33 * font * down
        for share in (0.04, 0.27, 0.5, 0.73, 0.96)
    ]
    ink = style.get("fill", "#000000")
    contrasts = []
    for point in points:
        behind = (area.colour_at(point) for area in reversed(areas))
        colour = next((c for c in behind if c is not None), "#ffffff")
        one, other = sorted((luminance(ink), luminance(colour)))
        contrasts.append((other + 0.05) / (one + 0.05))
    ends = np.array([points[0], points[-1]])
    inside = bool((ends >= -1).all() and (ends <= np.array(size) + 1).all())
    return SvgText(text, font * _PIXELS, min(contrasts), inside)
