"""Install mergekit and sd-mecha beside the project, and run the tests that need them.

    .venv/bin/python -m tests.exchange.merge_tools [FOLDER]

FOLDER keeps the two environments (1.5 GB, with torch for the CPU); a temporary one by default.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

TOOLS = {"mergekit": "mergekit==0.1.5", "mecha": "sd-mecha==1.1.8"}
TORCH = "torch==2.13.0"
# Where the tests look for the environments.
VARIABLE = "MEGASIM_MERGE_TOOLS"


def program(folder: Path, tool: str, name: str) -> Path:
    """Return a program in the environment of a tool."""
    return folder / tool / "bin" / name


def install(folder: Path) -> None:
    """Make an environment for each tool: what they need of the same packages differs."""
    for tool, package in TOOLS.items():
        if not program(folder, tool, "python").exists():
            venv.create(folder / tool, with_pip=True)
        pip = [program(folder, tool, "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, TORCH, package], check=True)


def main(folder: Path) -> int:
    """Install the tools, run the tests, and return the exit code of pytest."""
    install(folder)
    tests = ["tests/exchange/test_merge_tools.py", "-m", "merge_tools", "-n", "0", "-rs"]
    environment = {**os.environ, VARIABLE: str(folder)}
    return subprocess.run([sys.executable, "-m", "pytest", *tests], env=environment).returncode


if __name__ == "__main__":
    if len(sys.argv) > 1:
        raise SystemExit(main(Path(sys.argv[1]).absolute()))
    with tempfile.TemporaryDirectory() as temporary:
        raise SystemExit(main(Path(temporary)))
