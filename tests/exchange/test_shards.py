"""Jobs that several machines share: the store is the one that one machine makes, in any order."""

from __future__ import annotations

import itertools
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import megasim
from megasim.errors import UsageError
from megasim.ingest.shares import Shard
from megasim.workspace.shards import compare_shard, ingest_shard
from tests.models import nudged, random_model, write_model

PARTS = 16
METRICS = ("linf", "cossim")
VIEWS = {
    "models": "select * exclude (ingested_at) from models",
    "layers": "from layers",
    "layer_distances": "from layer_distances",
    "component_distances": "from component_distances",
    "beside": "select name, b.* exclude (model_id) from beside b join model m on m.id = model_id",
    "sketches": "select content_hash, sketch, digest from tensor",
    "profiles": "select content_hash, rows, columns from profile join tensor on id = tensor_id",
    "folds": "select name, f.* exclude (model_id) from folded_sketch f join model on id = model_id",
    "order": "select row_number() over (order by id), name, contents_digest from model",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of several kinds: of one name, one copied, one with two state dicts, one damaged."""
    folder = tmp_path_factory.mktemp("models")
    base = random_model(0, keys=5, shape=(40, 70)) | {"n": torch.arange(300).reshape(30, 10)}
    for i in range(9):
        write_model(folder / f"m{i}.safetensors", nudged(base, i, *list(base)[i % 3 : 5]))
    write_model(folder / "one" / "model.safetensors", base)
    write_model(folder / "two" / "model.ckpt", {k: v.to(torch.bfloat16) for k, v in base.items()})
    write_model(folder / "renamed.pt", {f"net.{k}": v for k, v in nudged(base, 50, "n").items()})
    ema = {k: v * 0.9 for k, v in base.items() if v.is_floating_point()}
    optimizer = {"state": {0: {"exp_avg": torch.ones(9)}}, "param_groups": []}
    torch.save(
        {"state_dict": base, "model_ema": ema, "optimizer": optimizer}, folder / "train.ckpt"
    )
    shutil.copy2(folder / "m1.safetensors", folder / "copy.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "m2.safetensors").read_bytes()[:-50])
    return folder


def views(store: Any) -> dict[str, list[tuple[object, ...]]]:
    """Return the rows of all that is promised or kept, by names and hashes instead of ids."""
    found = {}
    for name, sql in VIEWS.items():
        found[name] = store.store.connection.execute(f"{sql} order by all").fetchall()
    return {name: [tuple(map(repr, row)) for row in rows] for name, rows in found.items()}


@pytest.fixture(scope="module")
def expected(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with megasim.open_store(tmp_path_factory.mktemp("one") / "s.duckdb") as store:
        result = store.ingest(folder)
        assert len(result.failed) == 1
        store.compare(metrics=METRICS)
        found = views(store)
    assert min(map(len, found.values())) > 0, {k: len(v) for k, v in found.items()}
    return found


@pytest.fixture(scope="module")
def shards(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    here = tmp_path_factory.mktemp("shards")
    files = [here / f"part-{i}.parquet" for i in range(1, PARTS + 1)]
    read = 0
    for i, file in enumerate(files, 1):
        result = ingest_shard(file, Shard(i, PARTS), folder)
        read += len(result.added)
    with megasim.open_store(here / "count.duckdb") as store:
        # each file once, but for the copy, which one machine need not read
        assert read == len(store.ingest(folder).added) + 1
    return files


def mixed(files: list[Path], seed: int) -> list[Path]:
    """Return the files in some order, two of them twice."""
    order = random.Random(seed)
    chosen = [*files, *order.sample(files, 2)]
    order.shuffle(chosen)
    return chosen


def truncated(file: Path, folder: Path) -> Path:
    cut = folder / "truncated.parquet"
    cut.write_bytes(file.read_bytes()[:-700])
    return cut


@pytest.mark.parametrize("one_by_one", [False, True])
def test_shards_in_any_order_give_the_store_of_one_machine(
    tmp_path: Path,
    folder: Path,
    shards: list[Path],
    expected: dict[str, Any],
    one_by_one: bool,
) -> None:
    path = tmp_path / "s.duckdb"
    chosen = mixed(shards, one_by_one)
    chosen.insert(5, truncated(shards[3], tmp_path))
    with megasim.open_store(path) as store:
        calls = [[file] for file in chosen] if one_by_one else [chosen]
        results = [store.import_path(*call) for call in calls]
        failed = [error.message for result in results for error in result.failed]
        assert len(failed) == 1 and "cut short" in failed[0], failed
        assert "still to come" in results[0].notes[0] if one_by_one else not results[0].notes
    files = [tmp_path / f"d{i}.parquet" for i in range(1, PARTS + 1)]
    done = [
        compare_shard(file, f"{i}/{PARTS}", path, metrics=METRICS)
        for i, file in enumerate(files, 1)
    ]
    with megasim.open_store(tmp_path / "whole.duckdb") as store:
        store.ingest(folder)
        whole = store.compare(metrics=METRICS)
    # each byte is read once, however many shards there are; a pair that two keys name, twice
    assert sum(result.bytes_read for result in done) <= 1.02 * whole.bytes_read
    assert sum(result.bytes_read > 0 for result in done) > 4
    chosen = mixed(files, one_by_one)
    chosen.insert(5, truncated(files[0], tmp_path))
    with megasim.open_store(path) as store:
        calls = [[file] for file in chosen] if one_by_one else [chosen]
        results = [store.import_path(*call) for call in calls]
        assert [e.message.count("cut short") for r in results for e in r.failed] == [1]
        assert views(store) == expected
        assert store.compare(metrics=METRICS).pairs_done == 0
        again = store.import_path(*shards[:3], files[1])
        assert not again.models and not again.failed
        assert views(store) == expected


def test_a_shard_that_was_altered_is_refused_whole(tmp_path: Path, shards: list[Path]) -> None:
    """A changed number, a changed key: whoever made it, nothing of the shard comes in."""
    changes = {
        "a fingerprint that was altered": "struct_update(tensor, l2 := tensor.l2 * 2) as tensor",
        "was altered, or is not whole": (
            "struct_update(model_tensor, component := 'vae') as model_tensor"
        ),
    }
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        words = store.store.rows("fingerprint_file_versions", path=str(shards[0]))
        said = ", ".join(f"{k}: '{v}'" for k, v in words)
        for problem, change in changes.items():
            altered = tmp_path / "altered.parquet"
            store.store.connection.execute(
                f"copy (select * replace ({change}) from read_parquet('{shards[0]}')) "
                f"to '{altered}' (format parquet, kv_metadata {{{said}}})"
            )
            result = store.import_path(altered)
            assert problem in result.failed[0].message
            assert len(store.models()) == 0


def test_a_file_that_changed_between_two_shards_is_there_in_its_newer_state(tmp_path: Path) -> None:
    models, old, new = tmp_path / "models", tmp_path / "old.parquet", tmp_path / "new.parquet"
    for i in range(2):
        write_model(models / f"m{i}.safetensors", random_model(i))
    ingest_shard(old, "1/1", models)
    write_model(models / "m1.safetensors", random_model(7))
    ingest_shard(new, "1/1", models)
    for order in itertools.permutations([old, new]):
        with megasim.open_store(tmp_path / f"{order[0].stem}.duckdb") as store:
            store.import_path(*order)
            assert store.models()["name"].tolist() == ["m0", "m1"]
            assert not store.ingest(models).added + store.ingest(models).replaced


def test_models_that_come_meanwhile_take_no_place_of_a_shard(
    tmp_path: Path, folder: Path, shards: list[Path], expected: dict[str, Any]
) -> None:
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.import_path(*shards[8:])
        store.ingest(write_model(tmp_path / "other.safetensors", random_model(99)))
        store.import_path(*shards[:8])
        names = store.sql("select name from models where name <> 'other'")["name"].tolist()
        store.forget("other")
        assert sorted(names) == sorted(row[1].strip("'") for row in expected["order"])
        assert views(store)["order"] == expected["order"]


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "a/b", "1/100000", "-1/3"])
def test_there_is_no_such_shard(tmp_path: Path, folder: Path, text: str) -> None:
    with pytest.raises(UsageError, match="shard"):
        ingest_shard(tmp_path / "x.parquet", text, folder)


def test_shares_hold_each_piece_once_and_are_even() -> None:
    sizes = [int(x) for x in torch.randint(0, 10_000, (200,), generator=torch.manual_seed(0))]
    shares = [Shard(i, 7).share_of(sizes) for i in range(1, 8)]
    assert sum(share.astype(int) for share in shares).tolist() == [1] * 200
    loads = [sum(s for s, mine in zip(sizes, share, strict=True) if mine) for share in shares]
    assert max(loads) <= 1.05 * sum(sizes) / 7


def test_how_values_lie_to_codes_is_counted_as_no_distance(tmp_path: Path) -> None:
    weight = random_model(3, keys=1, shape=(32, 48))["block.0.weight"]
    scale = torch.tensor(0.01)
    write_model(tmp_path / "m" / "plain.safetensors", {"block.0.weight": weight})
    codes = (weight / scale).to(torch.float8_e4m3fn)
    write_model(
        tmp_path / "m" / "coded.safetensors",
        {"block.0.weight": codes, "block.0.weight_scale": scale},
    )
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(tmp_path / "m")
    compare_shard(tmp_path / "d.parquet", "1/1", tmp_path / "s.duckdb")
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        for known in (0, 1):
            found = store.import_path(tmp_path / "d.parquet").imported
            assert found[0] == (
                f"shard 1/1 of a comparison: {1 - known} distances, {known} known before."
            )
        assert store.store.connection.execute("from tensor_rounding").fetchall()
