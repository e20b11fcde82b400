"""Models in buckets of Azure and Google, on emulators of others: the store of files of a disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save

import megasim
from megasim.checkpoint import locations
from tests.cloud_emulators import Emulator, azurite, fake_gcs_server
from tests.models import random_model, write_model

VIEWS = {
    "models": "select * exclude (ingested_at, path) from models",
    "layers": "from layers",
    "layer_distances": "from layer_distances",
    "component_distances": "from component_distances",
    "sketches": "select content_hash, sketch, digest from tensor",
}
EMULATORS = {"az": azurite, "gs": fake_gcs_server}


@pytest.fixture(params=EMULATORS)
def emulator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    pytest.importorskip("obstore", reason="needs the extra [s3]")
    for memory in ("names", "listings", "queries"):
        monkeypatch.setattr(locations._Remembered, memory, {})
    monkeypatch.setattr(locations, "_SECONDS", 0.0)
    with EMULATORS[request.param]() as running:
        for name, value in running.settings.items():
            monkeypatch.setenv(name, value)
        yield running


def views(store: Any) -> dict[str, list[tuple[str, ...]]]:
    found = {}
    for name, sql in VIEWS.items():
        rows = store.store.connection.execute(f"{sql} order by all").fetchall()
        found[name] = [tuple(map(repr, row)) for row in rows]
    return found


def test_a_bucket_gives_the_store_of_a_disk(emulator: Emulator, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    for seed in range(2):
        write_model(folder / f"m{seed}.safetensors", random_model(seed, shape=(300, 300)))
    write_model(folder / "n" / "c.ckpt", random_model(7, shape=(300, 300)))
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        emulator.put(f"zoo/{path.relative_to(folder).as_posix()}", path.read_bytes())
    found = []
    for place in (str(folder), f"{emulator.address}/zoo"):
        with megasim.open_store(tmp_path / f"{len(found)}.duckdb") as store:
            result = store.ingest(place)
            assert len(result.added) == 3 and not result.failed
            again = store.ingest(place)
            assert len(again.known) == 3 and not again.added
            assert store.compare().pairs_done == 3
            found.append(views(store))
    assert found[0] == found[1]


def test_an_object_that_changed_is_read_anew(emulator: Emulator, tmp_path: Path) -> None:
    for seed in range(2):
        emulator.put(f"zoo/m{seed}.safetensors", save(random_model(seed, shape=(300, 300))))
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        assert len(store.ingest(f"{emulator.address}/zoo").added) == 2
        emulator.put("zoo/m0.safetensors", save(random_model(9, shape=(300, 300))))
        result = store.compare()
        assert result.pairs_done == 0
        assert "changed since it was fingerprinted" in str(result.failed[0].message)
        assert store.ingest(f"{emulator.address}/zoo").replaced == ["m0"]
        assert store.compare().pairs_done == 1
