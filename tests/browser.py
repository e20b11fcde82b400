"""A headless browser that opens a page from disk and tells what went wrong with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--no-first-run", "--hide-scrollbars"),
)

_KEY_CODES = {"Tab": 9, "Enter": 13, " ": 32, "ArrowDown": 40, "ArrowRight": 39}


@dataclass(frozen=True)
class Visit:
    """What a page did when it was opened.

    Attributes:
        errors: messages of the console at the level of an error or a warning.
        broken_images: the alternative texts of images that did not load.
        images: how many images there are.
        requests: addresses that were asked for, other than the page and what is within it.
        overflow: by how many CSS pixels the page is wider than the window.
    """

    errors: list[str]
    broken_images: list[str]
    images: int
    requests: list[str]
    overflow: int


class Browser:
    """An open browser; one page at a time."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def visit(
        self, page: Path | str, *, width: int = 1280, height: int = 900, dark: bool = False
    ) -> Visit:
        """Open a page, a file or an address, and let it load."""
        driver = self._driver
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        for log in ("browser", "performance"):  # what an earlier page left
            driver.get_log(log)
        own = page if isinstance(page, str) else page.resolve().as_uri()
        driver.get(own)
        errors = [entry["message"] for entry in driver.get_log("browser")]
        sent = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
        asked = [
            message["params"]["request"]["url"]
            for message in sent
            if message["method"] == "Network.requestWillBeSent"
        ]
        return Visit(
            errors=errors,
            broken_images=self.run(
                "return [...document.images].filter(i => !i.complete || !i.naturalWidth)"
                ".map(i => i.alt || i.src.slice(0, 80))"
            ),
            images=self.run("return document.images.length"),
            requests=[url for url in asked if url != own and not url.startswith("data:")],
            overflow=self.run("return document.documentElement.scrollWidth - window.innerWidth"),
        )

    def run(self, script: str) -> Any:
        """Return the result of a script on the page that is open."""
        return self._driver.execute_script(script)

    def run_async(self, script: str) -> Any:
        """Return what a script on the page that is open hands to `done`."""
        return self._driver.execute_async_script(f"const done = arguments[0]; {script}")

    def choose_file(self, selector: str, path: Path) -> None:
        """Choose a file in an input of the page that is open."""
        self._driver.find_element("css selector", selector).send_keys(str(path))

    def press(self, key: str, *, times: int = 1) -> None:
        """Press a key, named as a script names it."""
        values: dict[str, Any] = {"key": key, "code": "Space" if key == " " else key}
        if key in _KEY_CODES:
            values["windowsVirtualKeyCode"] = _KEY_CODES[key]
        if key == "Enter":
            values["text"] = "\r"
        elif len(key) == 1:
            values["text"] = key
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                self._driver.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": kind, **values})

    def type_text(self, text: str) -> None:
        """Type into what has the focus."""
        self._driver.execute_cdp_cmd("Input.insertText", {"text": text})

    def point(self, kind: str, place: Sequence[float], *, wheel: float = 0.0) -> None:
        """Move the pointer to a place of the window, or turn the wheel there with Ctrl held."""
        values: dict[str, Any] = {"type": kind, "x": place[0], "y": place[1]}
        if kind == "mouseWheel":
            values |= {"deltaX": 0, "deltaY": wheel, "modifiers": 2}
        self._driver.execute_cdp_cmd("Input.dispatchMouseEvent", values)

    def drag(self, start: Sequence[float], end: Sequence[float]) -> None:
        """Press the button of the mouse at one place of the window and let go at another."""
        steps = [
            start,
            *([a + (b - a) * k / 4 for a, b in zip(start, end, strict=True)] for k in range(5)),
        ]
        for i, (x, y) in enumerate(steps):
            kind = "mousePressed" if i == 1 else "mouseMoved"
            values = {"type": kind, "x": x, "y": y, "button": "left", "buttons": int(i > 0)}
            self._driver.execute_cdp_cmd("Input.dispatchMouseEvent", {**values, "clickCount": 1})
        x, y = end
        values = {"type": "mouseReleased", "x": x, "y": y, "button": "left", "clickCount": 1}
        self._driver.execute_cdp_cmd("Input.dispatchMouseEvent", values)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Save what the window shows, or the whole page, as PNG."""
        import base64

        values = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            size = self._driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
            values["clip"] = {**size, "scale": 1}
        shot = self._driver.execute_cdp_cmd("Page.captureScreenshot", values)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Open a browser with a profile of its own; skip the test where there is none."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.chrome.service import Service

    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("there is no Chromium with its chromedriver on this machine")
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = selenium.ChromeOptions()
        options.binary_location = program
        for argument in (*_QUIET, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        try:
            started = selenium.Chrome(options=options, service=Service(driver))
        except WebDriverException as error:
            pytest.skip(f"Chromium does not start here: {str(error.msg).splitlines()[0]}")
        try:
            yield Browser(started)
        finally:
            started.quit()
