"""Real weights that others made, out of packages of the Python registry."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest


def fetch(package: str) -> Path:
    """Return the folder of an unpacked wheel, e.g. of "rxnfp==0.1.0".

    The wheel is fetched with pip once and kept in `MEGASIM_TEST_CACHE`, or in `.cache` beside
    the tests. Nothing of it is installed or run. Skips the test, saying why, where pip cannot
    get it.
    """
    default = Path(__file__).parents[1] / ".cache" / "weights"
    cache = Path(os.environ.get("MEGASIM_TEST_CACHE", default))
    folder = cache / package.replace("==", "-")
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        done = subprocess.run(
            [*command, "--only-binary=:all:", "--dest", temporary, package],
            capture_output=True,
            text=True,
            check=False,
        )
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
            pytest.skip(f"{package} cannot be fetched: {reason}")
        unpacked = Path(temporary) / "unpacked"
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(unpacked)
        try:
            unpacked.rename(folder)
        except OSError:  # another test run was faster
            shutil.rmtree(unpacked)
    return folder
