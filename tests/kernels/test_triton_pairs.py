"""The kernel of a GPU, run by Triton's interpreter on the CPU in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

_PROGRAM = Path(__file__).with_name("check_triton_pairs.py")


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("case", ["halves", "singles", "beyond", "some"])
def test_the_kernel_sums_as_float64(case: str) -> None:
    done = subprocess.run(
        [sys.executable, str(_PROGRAM), case],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "agrees"
