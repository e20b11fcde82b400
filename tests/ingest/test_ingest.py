"""What is known is not read again; what cannot be read costs nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

import megasim
from megasim.errors import UsageError
from megasim.store.rows import Store
from tests.models import nudged, random_model, write_model


@pytest.fixture
def store(tmp_path: Path):
    with megasim.open_store(tmp_path / "s.duckdb") as opened:
        yield opened


def test_a_known_file_is_not_read_again(tmp_path: Path, store) -> None:
    path = write_model(tmp_path / "m" / "a.safetensors", random_model(0))
    assert store.ingest(path).added == ["a"]
    again = store.ingest(path)
    assert (again.known, again.added, again.bytes_read) == (["a"], [], 0)
    assert store.ingest(path, reread=True).replaced == ["a"]


def test_a_moved_file_is_noticed_and_not_read(tmp_path: Path, store) -> None:
    path = write_model(tmp_path / "a.safetensors", random_model(0))
    store.ingest(path)
    moved = tmp_path / "elsewhere" / "b.safetensors"
    moved.parent.mkdir()
    path.rename(moved)
    result = store.ingest(moved)
    assert (result.moved, result.bytes_read) == (["a"], 0)
    assert store.models()["path"].tolist() == [str(moved.resolve())]


def test_a_copy_is_a_model_of_its_own_and_not_read(tmp_path: Path, store) -> None:
    path = write_model(tmp_path / "a.safetensors", random_model(0))
    store.ingest(path)
    shutil.copy2(path, tmp_path / "b.safetensors")
    result = store.ingest(tmp_path / "b.safetensors")
    assert (result.copied, result.bytes_read) == (["b"], 0)
    assert store.sql("select count(distinct content_hash) as c from layers")["c"][0] == 4


def test_equal_size_and_time_do_not_confuse_two_trainings(tmp_path: Path, store) -> None:
    a = write_model(tmp_path / "a.safetensors", random_model(0))
    b = write_model(tmp_path / "b.safetensors", random_model(1))
    os.utime(a, ns=(10**18, 10**18))
    os.utime(b, ns=(10**18, 10**18))
    assert a.stat().st_size == b.stat().st_size
    assert store.ingest(a, b).added == ["a", "b"]
    assert store.sql("select count(distinct content_hash) as c from layers")["c"][0] == 8


def test_a_changed_file_replaces_the_model(tmp_path: Path, store) -> None:
    path = write_model(tmp_path / "a.safetensors", random_model(0))
    other = write_model(tmp_path / "b.safetensors", random_model(1))
    store.ingest(path, other)
    store.compare()
    write_model(path, nudged(random_model(0), 5))
    assert store.ingest(path).replaced == ["a"]
    assert store.sql("select count(*) as c from layer_distances")["c"][0] == 0
    assert store.compare().pairs_done == 1


@pytest.mark.parametrize(
    "places",
    [
        {"x/a.pt": "a", "y/a.pt": "y-a", "z/a.pt": "z-a"},
        {"x/a.pt": "a", "x/a.pth": "a.pth", "x/a.safetensors": "a.safetensors"},
        {"x/unet/a.pt": "a", "y/unet/a.pt": "y-a", "y/vae/a.pt": "y-vae-a"},
    ],
)
def test_models_of_one_name_get_a_piece_of_their_path(
    tmp_path: Path, store, places: dict[str, str]
) -> None:
    for i, place in enumerate(places):
        write_model(tmp_path / place, random_model(i))
    result = store.ingest(tmp_path)
    assert (result.added, result.failed) == (list(places.values()), [])
    assert store.ingest(tmp_path).known == list(places.values())
    # a second copy of a known file, too
    write_model(tmp_path / "copy" / "a.pt", random_model(0))
    assert store.ingest(tmp_path / "copy").added == ["copy-a"]


def test_a_name_that_was_asked_for_is_never_replaced(tmp_path: Path, store) -> None:
    first = write_model(tmp_path / "x" / "a.pt", random_model(0))
    other = write_model(tmp_path / "y" / "b.pt", random_model(1))
    store.ingest(first)
    (error,) = store.ingest(names={"a": other}).failed
    assert "belongs to the model of" in error.message
    named = error.remedy.partition("--name ")[2]
    assert named == f"y-b.pt={other}"
    assert store.ingest(names={"y-b.pt": other}).added == ["y-b.pt"]


def test_a_folder_of_one_checkpoint_can_be_named(tmp_path: Path, store) -> None:
    """As most repositories of the hub are: weights, a config, and what only trains."""
    folder = tmp_path / "bert"
    write_model(folder / "model.safetensors", random_model(0))
    write_model(folder / "optimizer.pt", random_model(1))
    (folder / "config.json").write_text("{}")
    assert store.ingest(folder, names={"mine": folder}).added == ["mine"]
    write_model(folder / "more" / "other.pt", random_model(2))
    with pytest.raises(UsageError, match="not one called"):
        store.ingest(names={"two": folder})


def test_a_snapshot_of_the_hub_has_the_name_of_its_repository(tmp_path: Path, store) -> None:
    cache = tmp_path / "models--someone--tiny-bert"
    blob = write_model(cache / "blobs" / "file.pt", random_model(0)).rename(
        cache / "blobs" / "e5f0"
    )
    snapshot = cache / "snapshots" / "607a30d783dfa663caf39e06633721c8d4cfcd7e"
    snapshot.mkdir(parents=True)
    (snapshot / "pytorch_model.bin").symlink_to(blob)
    assert store.ingest(tmp_path).added == ["tiny-bert"]


def test_weights_of_other_kinds_are_passed_over_with_a_word(tmp_path: Path, store) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for name in ("a.onnx", "b.h5", "__0_0.distcp", "c.keras", "notes.txt"):
        (folder / name).write_bytes(b"\0" * 600)
    (error,) = store.ingest(folder).failed
    assert "no checkpoint in this folder, but 4 that are not read" in error.message
    write_model(folder / "a.pt", random_model(0))
    result = store.ingest(folder)
    assert (result.added, result.failed) == (["a"], [])
    assert len(result.passed_over) == 4


# As CoreML writes it: how many blobs, version 2, and zeros up to 64 bytes.
COREML = b"\x80\0\0\0\2\0\0\0" + bytes(56) + b"\xef\xbe\xad\xde" + bytes(100)


def test_files_of_another_kind_are_passed_over_in_a_folder(tmp_path: Path, store) -> None:
    write_model(tmp_path / "m" / "a.pt", random_model(0))
    coreml = tmp_path / "m" / "a.mlpackage" / "weights" / "weight.bin"
    coreml.parent.mkdir(parents=True)
    coreml.write_bytes(COREML)
    (tmp_path / "m" / "paths.pth").write_text("/usr/lib/python\n")
    result = store.ingest(tmp_path / "m")
    assert (result.added, result.failed) == (["a"], [])
    assert [error.path for error in result.passed_over] == [
        tmp_path / "m" / "paths.pth",
        coreml,
    ]
    assert str(result.to_json()["passed_over"]).count("not a checkpoint") == 2
    (error,) = store.ingest(coreml).failed
    assert "not a checkpoint of a known format" in error.message
    (error,) = store.ingest(coreml.parent).failed
    assert "no checkpoint in this folder" in error.message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.safetensors", COREML),
        ("a.ckpt", b"\x93 of no known format"),
        ("a.bin", bytes(1000)),
        ("a.bin", b""),
        ("a.bin", b"version https://git-lfs.github.com/spec/v1\n"),
        ("a.bin", b"PK\x03\x04 cut short"),
    ],
)
def test_broken_checkpoints_in_a_folder_are_failures(
    tmp_path: Path, store, name: str, content: bytes
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / name).write_bytes(content)
    result = store.ingest(tmp_path / "m")
    assert (len(result.failed), result.passed_over) == (1, [])


def test_an_old_ending_of_checkpoints(tmp_path: Path, store) -> None:
    write_model(tmp_path / "m.pth", random_model(0)).rename(tmp_path / "model_best.pth.tar")
    (tmp_path / "backup.tar").write_bytes(b"no checkpoint")
    result = store.ingest(tmp_path)
    assert (result.added, result.failed) == (["model_best"], [])


def test_bad_files_cost_the_good_ones_nothing(tmp_path: Path, store) -> None:
    good = write_model(tmp_path / "m" / "good.safetensors", random_model(0))
    (tmp_path / "m" / "text.safetensors").write_text("hello, I am not weights\n")
    (tmp_path / "m" / "short.safetensors").write_bytes(good.read_bytes()[:-100])
    (tmp_path / "m" / "cut.pt").write_bytes(b"PK\x03\x04 cut")
    result = store.ingest(tmp_path / "m")
    assert result.added == ["good"]
    assert len(result.failed) == 3
    assert all(error.exit_code == 4 and error.remedy for error in result.failed)


def test_an_empty_folder_and_a_wrong_path(tmp_path: Path, store) -> None:
    (tmp_path / "empty").mkdir()
    result = store.ingest(tmp_path / "empty")
    assert result.failed or pytest.fail("an empty folder is an error")
    with pytest.raises(UsageError):
        store.ingest(tmp_path / "nowhere")


def test_a_path_that_is_not_there_costs_the_good_ones_nothing(tmp_path: Path, store) -> None:
    good = write_model(tmp_path / "good.safetensors", random_model(0))
    result = store.ingest(tmp_path / "gone.ckpt", good, names={"x": tmp_path / "lost.ckpt"})
    assert result.added == ["good"]
    assert [error.exit_code for error in result.failed] == [4, 4]
    (tmp_path / "model_map.json").write_text(
        '[["g", [[["a", "good.safetensors"], ["b", "absent.ckpt"]]]]]'
    )
    result = store.ingest(tmp_path / "model_map.json")
    assert store.models()["name"].tolist() == ["a"]
    assert [error.exit_code for error in result.failed] == [4]


def test_a_named_path_is_read(tmp_path: Path, store) -> None:
    path = write_model(tmp_path / "a.safetensors", random_model(0))
    assert store.ingest(names={"one": path}).added == ["one"]
    write_model(tmp_path / "b.safetensors", random_model(1))
    with pytest.raises(UsageError, match="several models, not one called 'all'"):
        store.ingest(names={"all": tmp_path})


def test_a_path_that_is_no_text_is_refused_alone(tmp_path: Path, store) -> None:
    good = write_model(tmp_path / "m" / "good.safetensors", random_model(0))
    (tmp_path / "m" / "bad\udcff\x1b.safetensors").write_bytes(good.read_bytes())
    result = store.ingest(tmp_path / "m")
    assert result.added == ["good"]
    (error,) = result.failed
    assert (error.exit_code, error.message.isprintable()) == (4, True)
    assert "rename" in error.remedy


def test_a_forgotten_model_leaves_no_group_behind(tmp_path: Path, store) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        write_model(tmp_path / f"{name}.safetensors", random_model(seed))
    (tmp_path / "model_map.json").write_text(
        '[["g", [[["a", "one.safetensors"], ["b", "two.safetensors"]]]]]'
    )
    store.ingest(tmp_path / "model_map.json")
    assert len(store.pairs_of(groups=["g"])) == 1
    store.forget("b")
    store.ingest(write_model(tmp_path / "three.safetensors", random_model(2)))
    with pytest.raises(UsageError, match="no such group"):
        store.pairs_of(groups=["g"])


def test_one_file_with_two_names_is_read_once(tmp_path: Path, store) -> None:
    path = write_model(tmp_path / "a.safetensors", random_model(0))
    result = store.ingest(path, names={"one": path, "two": path})
    assert (result.added, result.copied) == (["one"], ["two"])
    assert result.bytes_read == 4 * 16 * 24 * 4
    assert store.ingest(path, names={"one": path, "two": path}).copied == []


def test_epoch_and_step_are_kept(tmp_path: Path, store) -> None:
    torch.save(
        {"state_dict": random_model(0), "epoch": 7, "global_step": 1234}, tmp_path / "a.ckpt"
    )
    store.ingest(tmp_path / "a.ckpt")
    row = store.models().iloc[0]
    assert (row["epoch"], row["global_step"]) == (7, 1234)


def test_one_sketch_size_a_store(tmp_path: Path, store) -> None:
    store.ingest(write_model(tmp_path / "a.safetensors", random_model(0)), sketch_size=64)
    with pytest.raises(UsageError, match="64"):
        store.ingest(write_model(tmp_path / "b.safetensors", random_model(1)))


def test_a_model_map_names_models_and_limits_pairs(tmp_path: Path, store) -> None:
    for name, seed in (("one", 0), ("two", 1), ("three", 2)):
        write_model(tmp_path / f"{name}.safetensors", random_model(seed))
    (tmp_path / "model_map.json").write_text(
        '[["g", [[["a", "one.safetensors"], ["b", "two.safetensors"]],'
        ' [["b", "two.safetensors"], ["c", "three.safetensors"]]]]]'
    )
    result = store.ingest(tmp_path / "model_map.json")
    assert sorted(result.added) == ["a", "b", "c"]
    assert store.compare(model_map=tmp_path / "model_map.json").pairs_done == 2
    assert store.compare().pairs_done == 1


def test_the_models_of_a_store_are_loaded_once_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(20):
        write_model(tmp_path / "models" / f"m{i:02}.safetensors", random_model(i, 1, (2, 2)))
    loaded = []
    models = Store.models
    monkeypatch.setattr(Store, "models", lambda store: loaded.append(1) or models(store))
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        assert len(store.ingest(tmp_path / "models").added) == 20
        first = len(loaded)
        assert len(store.ingest(tmp_path / "models").known) == 20
    assert first < 5
    assert len(loaded) - first < 5
