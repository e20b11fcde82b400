"""The demo zoo, made once, and its models."""

from __future__ import annotations

from pathlib import Path

import pytest

from megasim.zoo.building import (
    TRUTH,
    build_demo_zoo,
)
from tests.zoo.zoo_files import Arrays, read


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    assert build_demo_zoo(folder) == list(TRUTH)
    return folder


@pytest.fixture(scope="session")
def arrays(demo: Path) -> dict[str, Arrays]:
    """Every model of the demo zoo under LDM keys, as stored."""
    return {planned.name: read(demo, planned) for planned in TRUTH}
