"""The matrix of a thousand models in a real Chromium: how soon it is there, how smoothly it moves.

    python -m benchmarks.pictures                1,000 models of SD1
    python -m benchmarks.pictures --models 118

A service is started as a process of its own. From the page of models the link to the matrix is
clicked, and time taken until the picture answers the pointer. Then the wheel zooms and the pointer
moves over cells, while each frame that the browser shows is counted. The first click is also
measured on a service that has just been started, which has made nothing yet. Prints JSON; `-o`
writes it, `--screenshot` the picture.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megasim.zoo.architectures import sd1_shapes
from tests.browser import Browser, open_browser
from tests.simulated_store import model_names, simulate_store

_SECONDS = 3.0  # of zooming, and of moving
_LONGEST = 60.0
_COUNT_FRAMES = """
window.frames = [];
const tick = at => { window.frames.push(at); window.counting = requestAnimationFrame(tick); };
window.counting = requestAnimationFrame(tick);
"""
_FRAMES = "cancelAnimationFrame(window.counting); return window.frames"
_TITLE = "document.querySelector('.picture')"


def main() -> int:
    """Run, and print what was measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pictures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="where files are made; a temporary folder")
    parser.add_argument("-o", "--output", type=Path, help="results as JSON")
    parser.add_argument("--screenshot", type=Path, help="the picture as PNG")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="megasim-bench-", dir=options.folder) as folder:
        db = Path(folder) / "s.duckdb"
        names = model_names(options.models)
        # a matrix is of components: with a part of the keys a thousand models are soon written
        shapes = list(sd1_shapes().items())[:: 1 if options.models <= 150 else 16]
        simulate_store(db, names, dict(shapes), layers=options.models <= 150)
        found = measure_matrix(db, options.screenshot)
    found = {"models": options.models, **found}
    print(json.dumps(found, indent=2))
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


def measure_matrix(db: Path, screenshot: Path | None) -> dict[str, Any]:
    """Return seconds until the matrix is usable, and frames a second of zooming and moving."""
    with open_browser() as browser:
        with _served(db) as address:
            at_once = _click(browser, address)
        with _served(db) as address:
            browser.visit(f"{address}models")
            time.sleep(5)  # as long as somebody looks at the models
            after = _click(browser, address)
            zoomed = _frames(browser, "mouseWheel")
            moved = _frames(browser, "mouseMoved")
            if screenshot:
                browser.screenshot(screenshot)
    return {
        "first_click_of_a_new_service_seconds": round(at_once, 2),
        "click_after_looking_at_models_seconds": round(after, 2),
        "zoom_frames_a_second": round(zoomed, 1),
        "hover_frames_a_second": round(moved, 1),
    }


@contextmanager
def _served(db: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "megasim.cli", "--db", str(db), "serve", "--port", "0"]
    service = subprocess.Popen(
        [*command, "--no-access-log"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert service.stdout is not None
        yield service.stdout.readline().strip()
    finally:
        service.terminate()
        service.wait(60)


def _click(browser: Browser, address: str) -> float:
    """Return the seconds from a click on the link to the matrix until the picture is drawn."""
    browser.visit(f"{address}models")
    began = time.perf_counter()
    browser.run("document.querySelector('nav a[href=\"/matrix\"]').click()")
    while time.perf_counter() - began < _LONGEST:
        if browser.run(f"return location.pathname === '/matrix' && {_TITLE}?.dataset.drawn"):
            return time.perf_counter() - began
        time.sleep(0.01)
    raise SystemExit("the matrix was not drawn")


def _frames(browser: Browser, kind: str) -> float:
    """Return the frames a second that the browser shows while the pointer is used."""
    box = browser.run(
        f"{_TITLE}.scrollIntoView(); const b = {_TITLE}.getBoundingClientRect();"
        "return [b.x, b.y, b.width, Math.min(b.height, innerHeight - b.y)]"
    )
    x, y, width, height = box
    browser.run(_COUNT_FRAMES)
    began, i = time.perf_counter(), 0
    while time.perf_counter() - began < _SECONDS:
        share = (i % 40) / 40
        place = (x + width * (0.2 + 0.6 * share), y + height * (0.2 + 0.6 * share))
        if kind == "mouseWheel":
            place = (x + width / 2, y + height / 2)
        browser.point(kind, place, wheel=-60 if i % 40 < 20 else 60)
        i += 1
    frames = browser.run(_FRAMES)
    return 1000 * (len(frames) - 1) / (frames[-1] - frames[0])


if __name__ == "__main__":
    sys.exit(main())
