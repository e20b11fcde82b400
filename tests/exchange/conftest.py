"""Stores that tests of mega_cmp results share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from megasim.exchange.mega_cmp_import import import_path
from megasim.store.rows import Store


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "s.duckdb"
    Store(path, "write").close()
    return path


@pytest.fixture
def store(tmp_path: Path, empty: Path) -> Iterator[Store]:
    with Store(shutil.copy(empty, tmp_path / "s.duckdb"), "write") as opened:
        yield opened


@pytest.fixture(scope="session")
def v1(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store of the 23 published pairs."""
    with Store(tmp_path_factory.mktemp("v1") / "s.duckdb", "write") as opened:
        result = import_path(opened, shared / "published" / "v1")
        assert not result.failed
        assert not result.left_out
        assert len(result.imported) == 23
        yield opened
