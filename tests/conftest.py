"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from megasim.checkpoint import file_stamp

# The same examples on every run, and no test that fails because the machine is busy.
settings.register_profile(
    "megasim", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("megasim")

os.environ.pop("MEGASIM_DB", None)  # tests keep to stores of their own

# A caller such as nohup has signals ignored, and processes inherit that: those that tests start and
# stop must not.
for _signal in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(_signal) == signal.SIG_IGN:
        signal.signal(_signal, signal.SIG_DFL)

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of published results and architectures beside the project."""
    if not (SHARED / "published").is_dir():
        pytest.skip("the folder ../shared with the published results is not here")
    return SHARED


@pytest.fixture(scope="module")
def old_files() -> Iterator[None]:
    """Take files as if they were written a while ago: opening one that is new waits until a next
    change of it could be told. For tests that write thousands of files of which none changes.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_stamp, "_STEP_NS", 0)
        yield
