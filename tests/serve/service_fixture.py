"""A service over a small store, as tests ask it: without a network, or as a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import megasim
from tests.models import nudged, random_model, write_model

TOKEN = "a-token-that-only-tests-know"


def small_store(folder: Path, names: tuple[str, ...] = ("a", "b", "c")) -> Path:
    """Return a store of a few small models, compared."""
    base = random_model(0)
    for i, name in enumerate(names):
        model = nudged(base, i, "block.1.weight") if i else base
        write_model(folder / "models" / f"{name}.safetensors", model)
    path = folder / "s.duckdb"
    with megasim.open_store(path) as store:
        store.ingest(folder / "models", workers=1)
        store.compare(workers=1)
    return path


@contextmanager
def client_of(store: Path, **settings: Any) -> Iterator[Any]:
    """Give a client of a service over a store, in this process."""
    testclient = pytest.importorskip("fastapi.testclient", reason="the extra serve is missing")
    from megasim.serve.app import create_app
    from megasim.serve.settings import Settings

    app = create_app(Settings(store, **settings))
    with testclient.TestClient(
        app, base_url="http://127.0.0.1:8642", follow_redirects=False
    ) as client:
        yield client
