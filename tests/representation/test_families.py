"""Copies of other architectures by real libraries: each is its original, quantised.

And none is the model one small training step away. `write_families` wrote them.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

import megasim
from megasim.findings.relations import model_relations

FAMILIES = Path(__file__).parent / "families.tar.xz"
NAMES = {
    **dict.fromkeys(
        ("mistral", "qwen2", "gemma2", "phi3", "gpt-neox", "mixtral"), "language model"
    ),
    **{"vit": "ViT", "sd3": "SD3", "pixart": "generic"},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    with tarfile.open(FAMILIES) as archive:
        archive.extractall(folder, filter="data")
    assert {path.name for path in folder.iterdir()} == NAMES.keys()
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_copies_are_their_original_and_not_its_neighbour(
    name: str, files: Path, tmp_path: Path
) -> None:
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(files / name)
        store.compare()
        assert store.sql("select count(*) as n from unread_key")["n"][0] == 0
        assert set(store.sql("select family from models")["family"]) == {NAMES[name]}
        copies = set(store.sql("select name from models")["name"]) - {"base", "tuned"}
        libraries = {copy.partition("-")[0] for copy in copies}
        assert len(libraries) >= 3
        for plain, kind in (("base", "quantised"), ("tuned", "quantised_and_changed")):
            found = model_relations(store.store, [(plain, copy) for copy in copies])
            assert {relation.model: relation.kind for relation in found} == dict.fromkeys(
                copies, kind
            ), plain
