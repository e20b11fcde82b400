"""A store that version 0.1.0 wrote: it is refused until it is migrated, and then says the same.

`release_0_1_0` has a store of five small models (one of them in half precision, one with a NaN, one
with renamed keys), and what two views of it gave then.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from megasim import open_store
from megasim.commands.console import csv_text
from megasim.errors import StoreTooOldError
from megasim.store.connection import migrations
from megasim.workspace.jobs import migrate

RELEASE = Path(__file__).with_name("release_0_1_0")


@pytest.fixture
def old_store(tmp_path: Path) -> Path:
    path = tmp_path / "s.duckdb"
    path.write_bytes(gzip.decompress((RELEASE / "store.duckdb.gz").read_bytes()))
    return path


def test_it_is_not_read_before_it_is_migrated(old_store: Path) -> None:
    before = old_store.read_bytes()
    with pytest.raises(StoreTooOldError, match="run `megasim migrate`"):
        open_store(old_store, "read").models()
    assert old_store.read_bytes() == before


def test_it_gives_the_same_answers_once_it_is_migrated(old_store: Path) -> None:
    assert migrate(old_store) == [name for number, name, _ in migrations() if number > 1]
    with open_store(old_store, "read") as store:
        assert store.models()["name"].tolist() == ["base", "half", "tuned", "broken", "merge"]
        for view in ("layer_distances", "component_distances"):
            then = (RELEASE / f"{view}.csv").read_text(encoding="utf-8").rstrip("\n")
            columns = then.partition("\n")[0]
            now = store.sql(f"select {columns} from {view} order by all")
            assert csv_text(now) == then, view
        assert {f.verdict for f in store.pair_findings("base", "half")} == {"same_at_fp16"}
        verdicts = {f.component: f.verdict for f in store.pair_findings("tuned", "broken")}
        assert verdicts["embed"] == verdicts["head"] == "identical"
        assert store.matrix("layers").values[0, 1] > 0
