"""Reports that several test files look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from megasim.exchange.mega_cmp_import import import_path
from megasim.store.rows import Store
from tests.browser import Browser, open_browser
from tests.report.written_reports import HOSTILE, Written, simulated, written
from tests.simulated_store import model_names


@pytest.fixture(scope="session")
def seventeen(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("seventeen")
    return written(simulated(folder / "s.duckdb", model_names(17)), folder / "report")


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Written:
    folder = tmp_path_factory.mktemp("published")
    with Store(folder / "s.duckdb", "write") as store:
        import_path(store, shared / "published" / "v1")
    return written(folder / "s.duckdb", folder / "report")


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("hostile")
    return written(simulated(folder / "s.duckdb", HOSTILE), folder / "report", ["unet"])


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened
