"""A file is known by its bytes, by its tensors, or by its bytes behind the header; no weaker."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import duckdb
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from megasim import cli
from megasim.errors import CheckpointError, UsageError
from megasim.fingerprint import file_hashes
from megasim.fingerprint.file_hashes import hash_file
from megasim.workspace.identification import identify
from tests.models import nudged, random_model, write_model

quick = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A known model, and files that are the same in weaker and weaker ways, and not at all."""
    folder = tmp_path_factory.mktemp("files")
    base = random_model(0) | {"half": torch.ones(3, 5).half()}
    write_model(folder / "known" / "base.safetensors", base, title="one")
    write_model(folder / "known" / "other.safetensors", random_model(1))
    write_model(folder / "again.safetensors", base, title="one")
    write_model(folder / "retitled.safetensors", base, title="another")
    write_model(folder / "pickled.ckpt", base)
    write_model(folder / "changed.safetensors", nudged(base, 1, "block.0.weight"))
    renamed = {("other" if k == "half" else k): v for k, v in base.items()}
    write_model(folder / "renamed.safetensors", renamed)
    identify(folder / "known", output=folder / "known.parquet")
    return folder


def test_each_file_is_known_as_strongly_as_it_is_the_same(folder: Path) -> None:
    names = ["again", "retitled", "pickled", "changed", "renamed"]
    paths = [next(folder.glob(f"{name}.*")) for name in names]
    found = identify(*paths, against=folder / "known.parquet").files
    assert {f.file.name: [(n, str(how)) for n, how in f.matches] for f in found} == {
        "again": [("base", "file")],
        "retitled": [("base", "tensors")],
        "pickled": [("base", "tensors")],
        "changed": [],
        "renamed": [("base", "data")],  # it is written in the order of the names
    }


def test_hashes_are_those_of_the_catalogues(folder: Path) -> None:
    path = folder / "retitled.safetensors"
    raw = path.read_bytes()
    data = raw[8 + int.from_bytes(raw[:8], "little") :]
    (found,) = identify(path).to_json()["files"]
    assert found["sha256"] == hashlib.sha256(raw).hexdigest()
    assert found["data_sha256"] == hashlib.sha256(data).hexdigest()
    assert found["autov2"] == found["sha256"][:10].upper()
    assert found["autov3"] == found["data_sha256"][:12].upper()
    (pickled,) = identify(folder / "pickled.ckpt").to_json()["files"]
    assert pickled["data_sha256"] is None and pickled["autov3"] is None


@quick
@given(piece=st.integers(1, 4000), count=st.integers(1, 300))
def test_the_header_is_left_out_wherever_a_piece_ends(
    tmp_path_factory: pytest.TempPathFactory, piece: int, count: int
) -> None:
    path = tmp_path_factory.mktemp("one") / "x.safetensors"
    save_file({"a": torch.arange(count)}, path, {"note": "x" * (count % 70)})
    raw = path.read_bytes()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(file_hashes, "_AT_ONCE", piece)
        found = hash_file(str(path))
    assert found.sha256 == hashlib.sha256(raw).hexdigest()
    assert found.data_sha256 == hashlib.sha256(raw[-8 * count :]).hexdigest()


def test_a_registry_has_the_same_bytes_in_any_order(folder: Path, tmp_path: Path) -> None:
    paths = sorted((folder / "known").iterdir())
    for name, given_paths in (("a", paths), ("b", paths[::-1])):
        identify(*given_paths, output=tmp_path / f"{name}.parquet")
    whole = (folder / "known.parquet").read_bytes()
    assert (tmp_path / "a.parquet").read_bytes() == whole
    assert (tmp_path / "b.parquet").read_bytes() == whole
    assert str(folder).encode() not in whole


def test_a_registry_of_version_1_is_read(folder: Path, tmp_path: Path) -> None:
    """It had one row for each file."""
    new, old = folder / "known.parquet", tmp_path / "old.parquet"
    duckdb.execute(
        "copy (select name, bytes, max(sha256) as sha256, max(autov2) as autov2, "
        "max(autov3) as autov3, max(data_sha256) as data_sha256, "
        f"max(tensors_digest) as tensors_digest, tensors from '{new}' "
        "group by file, name, bytes, tensors order by sha256) "
        f"to '{old}' (format parquet, kv_metadata {{megasim_known_files: '1'}})"
    )
    assert duckdb.sql(f"from '{old}'").fetchall() != duckdb.sql(f"from '{new}'").fetchall()
    paths = [next(folder.glob(f"{name}.*")) for name in ("again", "pickled", "renamed", "changed")]
    found, before = (identify(*paths, against=registry).files for registry in (new, old))
    assert found == before
    assert [len(f.matches) for f in found] == [1, 1, 1, 0]


def test_what_cannot_be_read_is_known_by_its_bytes_alone(tmp_path: Path) -> None:
    """Two files with the same readable tensors are not said to have the same ones."""
    for name, byte in (("a", 1), ("b", 2)):
        header = {
            "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "odd": {"dtype": "X9", "shape": [4], "data_offsets": [8, 12]},
        }
        raw = json.dumps(header).encode()
        body = len(raw).to_bytes(8, "little") + raw + bytes(8) + bytes([byte] * 4)
        (tmp_path / f"{name}.safetensors").write_bytes(body)
    identify(tmp_path / "a.safetensors", output=tmp_path / "known.parquet")
    found = identify(tmp_path / "b.safetensors", against=tmp_path / "known.parquet").files
    assert [f.matches for f in found] == [()]
    assert found[0].file.tensors_digest is None
    again = identify(tmp_path / "a.safetensors", against=tmp_path / "known.parquet").files
    assert again[0].matches == (("a", "file"),)


def test_no_registry_is_taken_for_one(folder: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.parquet"
    cut.write_bytes((folder / "known.parquet").read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read as Parquet"):
        identify(folder / "pickled.ckpt", against=cut)
    with pytest.raises(UsageError, match="no registry"):
        identify(folder / "pickled.ckpt", against=tmp_path / "none.parquet")


def test_the_command_prints_hashes_and_what_is_known(folder: Path) -> None:
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(cli.megasim, ["identify", *arguments])
        assert done.exit_code in (0, None), done.output
        return done.stdout

    known = str(folder / "known.parquet")
    shown = run(str(folder / "retitled.safetensors"), "--against", known)
    assert "AutoV2" in shown and "AutoV3" in shown
    assert "the same tensors as base" in shown
    assert "may say other keys" in run(str(folder / "renamed.safetensors"), "--against", known)
    assert "not known" in run(str(folder / "changed.safetensors"), "--against", known)
    found = json.loads(run(str(folder / "pickled.ckpt"), "--against", known, "--json"))
    assert found["files"][0]["matches"] == [{"name": "base", "same": "tensors"}]
