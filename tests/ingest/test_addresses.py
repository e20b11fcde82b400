"""Models under addresses: the store that files of a disk give, and few bytes and requests."""

from __future__ import annotations

import itertools
import os
import pickle
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch
from safetensors.torch import save

import megasim
from megasim.checkpoint import hub_repositories, locations, range_reads
from megasim.checkpoint.locations import RemotePath, located
from megasim.checkpoint.object_stores import Bucket, _version_of
from megasim.checkpoint.opening import TensorReader, open_checkpoint
from megasim.errors import CheckpointError, UsageError
from megasim.exchange.known_files import Match, write_known_files
from megasim.exchange.remote_registry import fetch_known
from megasim.fingerprint.file_hashes import FileHashes
from megasim.workspace.identification import identify
from megasim.zoo.building import build_zoo
from megasim.zoo.plans import TRUTH
from tests.models import nudged, random_model, write_model
from tests.object_servers import S3Server, WebServer, s3_server, s3_settings, web_server

VIEWS = {
    "models": "select * exclude (ingested_at, path) from models",
    "layers": "from layers",
    "layer_distances": "from layer_distances",
    "component_distances": "from component_distances",
    "sketches": "select content_hash, sketch, digest from tensor",
    "folds": "select name, f.* exclude (model_id) from folded_sketch f join model on id = model_id",
}
# Of the demo: pickles of both kinds, folders of both kinds, a file with its EMA. All of it is
# ingested and compared by `python -m benchmarks.addresses`.
SOME = ("base-ema", "base-fp16", "base-legacy", "base-diffusers", "base-pruned",
        "chain-1", "other-arch", "other-sharded")  # fmt: skip
SECRETS = ("an-access-key", "a-secret-access-key", "a-secret-key-of-the-web")


def views(store: Any) -> dict[str, list[tuple[str, ...]]]:
    """Return all rows that users query, and the sketches, without times and places."""
    found = {}
    for name, sql in VIEWS.items():
        rows = store.store.connection.execute(f"{sql} order by all").fetchall()
        found[name] = [tuple(map(repr, row)) for row in rows]
    return found


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test know what another was told a moment ago."""
    for memory in ("names", "listings", "queries"):
        monkeypatch.setattr(locations._Remembered, memory, {})
    monkeypatch.setattr(hub_repositories, "_SECONDS", 0.0)
    # however busy the machine is: requests are counted
    monkeypatch.setattr(locations, "_SECONDS", 3600.0)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    for name, value in s3_settings(s3).items():
        monkeypatch.setenv(name, value)
    s3.traffic.clear()
    yield s3
    s3.traffic.failing = 0.0


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def model_bytes(seed: int, keys: int = 3, size: int = 400) -> bytes:
    return save(random_model(seed, keys=keys, shape=(size, size)))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    build_zoo([m for m in TRUTH if m.name in SOME], folder, seed=0, width=1 / 64)
    (folder / "zoo.json").unlink()
    return folder


@pytest.fixture(scope="module")
def from_disk(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with megasim.open_store(tmp_path_factory.mktemp("disk") / "s.duckdb") as store:
        assert not store.ingest(zoo).failed
        store.compare()
        found = views(store)
    assert min(map(len, found.values())) > 0
    return found


def test_a_listing_that_breaks_off_is_asked_for_again(
    bucket: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        bucket.put(f"cut/{name}.safetensors", model_bytes(0))
    failures = iter(["cut", "error", "cut"])
    monkeypatch.setattr(bucket.traffic, "failure", lambda: next(failures, ""))
    found = Bucket("s3://models").listing("cut")
    assert sorted(found.files) == ["a.safetensors", "b.safetensors", "c.safetensors"]
    assert next(failures, None) is None


@pytest.mark.parametrize("failing", [0.0, 0.05])
def test_a_bucket_gives_the_store_that_a_disk_gives(
    tmp_path: Path, zoo: Path, from_disk: dict[str, Any], bucket: S3Server, failing: float
) -> None:
    total = bucket.put_folder(zoo, "zoo")
    bucket.traffic.clear()
    bucket.traffic.failing, bucket.traffic.chance = failing, random.Random(1)
    bucket.traffic.failed = 0
    files = sum(path.is_file() for path in zoo.rglob("*"))
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        assert not store.ingest("s3://models/zoo").failed
        asked, sent = len(bucket.traffic.requests), bucket.traffic.sent
        assert not store.ingest("s3://models/zoo").added
        again = bucket.traffic.sent - sent
        bucket.traffic.clear()
        compared = store.compare()
        assert not compared.failed
        assert views(store) == from_disk
    if failing:
        assert bucket.traffic.failed > 0
        return
    # the listings of its folders count, too
    assert sent <= 1.02 * total
    assert asked <= 6 * files
    assert again <= 0.1 * total  # headers alone
    assert bucket.traffic.sent <= 1.02 * compared.bytes_read + 0.02 * total
    data = (tmp_path / "s.duckdb").read_bytes()
    assert not any(secret.encode() in data for secret in SECRETS)


def test_files_are_opened_side_by_side(
    tmp_path: Path, bucket: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file waits for the answers about another: each is answered once three are asked for."""
    for seed in range(6):
        bucket.put(f"small/m{seed}.safetensors", model_bytes(seed, keys=1, size=40))
    bucket.traffic.meeting = meeting = threading.Barrier(3)
    try:
        with megasim.open_store(tmp_path / "s.duckdb") as store:
            assert store.ingest("s3://models/small").added == [f"m{i}" for i in range(6)]
            # as another process, which has kept nothing of them
            monkeypatch.setattr(range_reads, "_blocks", range_reads._Blocks())
            bucket.traffic.clear()
            assert store.compare().pairs_done == 15
            assert sum(method == "GET" for method, _ in bucket.traffic.requests) == 6
    finally:
        bucket.traffic.meeting = None
    assert not meeting.broken


def test_an_object_that_changes_is_noticed(tmp_path: Path, bucket: S3Server) -> None:
    bucket.put("changing/a.safetensors", model_bytes(1, size=800))
    bucket.put("changing/b.safetensors", model_bytes(2, size=800))
    checkpoint = open_checkpoint("s3://models/changing/a.safetensors")
    # as a worker of another machine gets it
    ref = pickle.loads(pickle.dumps(checkpoint.tensors))["block.1.weight"]
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest("s3://models/changing")
        bucket.put("changing/a.safetensors", model_bytes(3, size=800))
        with TensorReader() as reader, pytest.raises(CheckpointError, match="changed while"):
            reader.read(ref)
        compared = store.compare()
        assert [e.message for e in compared.failed] == [
            "s3://models/changing/a.safetensors: the file of model 'a' changed since it was "
            "fingerprinted"
        ]
        assert store.ingest("s3://models/changing").replaced == ["a"]
        assert store.compare().pairs_done == 1


def test_formats_folders_and_archives_read_as_on_a_disk(tmp_path: Path, bucket: S3Server) -> None:
    folder = tmp_path / "models"
    base = random_model(5, keys=4, shape=(300, 200))
    write_model(folder / "a.ckpt", base)
    write_model(folder / "turned.pt", {key: value.T for key, value in base.items()})
    torch.save(nudged(base, 1), folder / "old.bin", _use_new_zipfile_serialization=False)
    np.savez(folder / "b.npz", **{key: value.numpy() for key, value in base.items()})
    for part, keys in enumerate(itertools.batched(base, 2) if sys.version_info >= (3, 12) else
                                zip(*[iter(base)] * 2, strict=True)):  # fmt: skip
        held = {key: base[key] * 2 for key in keys}
        write_model(folder / "cut" / f"model-{part + 1:05d}-of-00002.safetensors", held)
    (folder / "notes.txt").write_text("no model")
    bucket.put_folder(folder, "kinds")
    paths = sorted(path for path in folder.iterdir() if path.suffix != ".txt")
    with megasim.open_store(tmp_path / "disk.duckdb") as store:
        assert not store.ingest(*paths).failed
        store.compare()
        expected = views(store)
    with megasim.open_store(tmp_path / "s3.duckdb") as store:
        assert not store.ingest(*[f"s3://models/kinds/{p.name}" for p in paths]).failed
        store.compare()
        assert views(store) == expected
    assert len(expected["models"]) == 5


def test_google_is_asked_as_a_disk_is(
    tmp_path: Path, bucket: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Google's XML requests of objects are those of S3, which is what answers here."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket.url)
    folder = tmp_path / "models"
    for seed in range(2):
        write_model(folder / f"m{seed}.safetensors", random_model(seed, shape=(300, 300)))
    write_model(folder / "n" / "c.ckpt", random_model(7, shape=(300, 300)))
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in _files(folder)}
    for name, data in files.items():
        bucket.put_for_all(f"google/{name}", data)
    total = sum(map(len, files.values()))
    found = []
    for place in (folder, "gs://models/google"):
        bucket.traffic.clear()
        with megasim.open_store(tmp_path / f"{len(found)}.duckdb") as store:
            assert not store.ingest(place).failed
            sent = bucket.traffic.sent
            assert not store.ingest(place).added
            store.compare()
            found.append(views(store))
    assert found[0] == found[1]
    assert total <= sent <= 1.02 * total + 4000  # what lists three files
    bucket.put_for_all("google/m0.safetensors", model_bytes(9))
    with megasim.open_store(tmp_path / "1.duckdb") as store:
        assert store.ingest("gs://models/google").replaced == ["m0"]


def test_azure_is_asked_by_account_and_container(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore", reason="needs the extra [s3]")
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"):
        monkeypatch.delenv(name, raising=False)
    config = Bucket("az://somebody/models")._store.config
    assert (config["account_name"], config["container_name"]) == ("somebody", "models")
    # a listing of Azure has no quotes around the tag that an answer has
    said = {"size": 1, "last_modified": datetime(2026, 1, 1, tzinfo=UTC), "version": None}
    tags = {_version_of({**said, "path": "a", "e_tag": tag}).tag for tag in ("0x8D", '"0x8D"')}
    assert tags == {'"0x8D"'}
    assert _version_of({**said, "path": "a", "e_tag": 'W/"1"'}).tag == ""


def test_a_file_of_the_web_is_identified_compared_and_near(tmp_path: Path, web: WebServer) -> None:
    for seed in range(3):
        web.files[f"/m/model {seed}.safetensors"] = model_bytes(seed)
    (tmp_path / "here.safetensors").write_bytes(model_bytes(1))
    address = f"{web.url}/m/model%201.safetensors"
    files = [identify(path).files[0].file for path in (address, tmp_path / "here.safetensors")]
    assert files[0].hashes == files[1].hashes and files[0].hashes is not None
    assert files[0].tensors_digest == files[1].tensors_digest is not None
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(*[f"{web.url}/m/model%20{seed}.safetensors" for seed in range(3)])
        store.compare()
        near = store.nearest(address)
        assert near["model"].iloc[0] == "model%201"


def test_a_server_without_tags_is_read_twice_to_be_sure(tmp_path: Path, web: WebServer) -> None:
    web.tagged = False
    web.files["/a.safetensors"], web.files["/b.safetensors"] = model_bytes(1), model_bytes(2)
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(f"{web.url}/a.safetensors", f"{web.url}/b.safetensors")
        web.traffic.clear()
        assert store.compare().pairs_done == 1
    assert web.traffic.sent > 2 * len(web.files["/a.safetensors"])


def test_keys_in_addresses_go_nowhere(tmp_path: Path, web: WebServer) -> None:
    web.key = SECRETS[2]
    web.files["/a.safetensors"] = model_bytes(1)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "megasim.cli", "--db", "s.duckdb", *arguments],
            cwd=tmp_path, env=environment, text=True, capture_output=True,
        )  # fmt: skip

    refused = run("ingest", f"{web.url}/a.safetensors?key=wrong-{SECRETS[2][:-1]}")
    assert refused.returncode == 4 and "access denied" in refused.stderr
    done = run("ingest", f"{web.url}/a.safetensors?key={SECRETS[2]}")
    assert done.returncode == 0, done.stderr
    said = refused.stdout + refused.stderr + done.stdout + done.stderr
    assert SECRETS[2][:-1] not in said
    assert SECRETS[2].encode() not in (tmp_path / "s.duckdb").read_bytes()
    with pytest.raises(UsageError, match="name of a user or a password"):
        located(f"https://me:{SECRETS[2]}@host/a.safetensors")


def test_what_cannot_be_read_is_said(web: WebServer, bucket: S3Server) -> None:
    with pytest.raises(UsageError, match="nothing at s3://models/none"):
        open_checkpoint("s3://models/none.safetensors")
    web.files["/empty.safetensors"] = b""
    with pytest.raises(CheckpointError, match="an empty file"):
        open_checkpoint(f"{web.url}/empty.safetensors")
    web.ranged = False
    web.files["/a.safetensors"] = model_bytes(1)
    with pytest.raises(CheckpointError, match="gives no ranges"):
        open_checkpoint(f"{web.url}/a.safetensors")


def test_an_address_is_a_path() -> None:
    path = located("s3://bucket/folder/model.v1.safetensors")
    assert isinstance(path, RemotePath)
    assert (path.name, path.stem, path.suffix) == (
        "model.v1.safetensors",
        "model.v1",
        ".safetensors",
    )
    assert str(path.parent / "b.ckpt") == "s3://bucket/folder/b.ckpt"
    assert located(Path("s3://bucket/folder")) == path.parent
    assert {path: 1}[located(str(path))] == 1
    assert pickle.loads(pickle.dumps(path)) == path
    assert path.absolute() == path.resolve() == path and path.is_absolute()
    assert str(path.with_name("c.pt")) == "s3://bucket/folder/c.pt"
    assert located("./s3.ckpt") == Path("s3.ckpt")


def test_the_hub_is_read_by_its_names(
    tmp_path: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub", reason="needs the extra [hub]")
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.setenv("HF_TOKEN", SECRETS[2])
    web.key = SECRETS[2]  # of the hub itself; what it leads to needs none
    first = {
        "model.safetensors": model_bytes(1),
        "vae/diffusion_pytorch_model.safetensors": model_bytes(2),
        "README.md": b"# A model",
    }
    web.publish("somebody/some-model", first, "c" * 40)
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        result = store.ingest("hf://somebody/some-model")
        assert result.added == ["some-model", "vae"] and not result.failed
        web.traffic.clear()
        store.ingest("hf://somebody/some-model@main/model.safetensors", names=None)
        store.compare()
        # another commit with the same files: nothing is fetched again but headers
        web.publish("somebody/some-model", first, "d" * 40)
        web.traffic.clear()
        assert not store.ingest("hf://somebody/some-model").added
        assert web.traffic.sent < 0.2 * sum(map(len, first.values()))
        # and one with another file
        web.publish("somebody/some-model", first | {"model.safetensors": model_bytes(9)}, "e" * 40)
        assert store.ingest("hf://somebody/some-model").replaced == ["some-model"]
        paths = {model.path for model in store.store.models()}
        with pytest.raises(UsageError, match="nothing found at hf://somebody/other"):
            store.ingest("hf://somebody/other")
    assert "hf://somebody/some-model/model.safetensors" in paths
    assert SECRETS[2].encode() not in (tmp_path / "s.duckdb").read_bytes()


def test_a_registry_of_the_web_is_asked_for_kilobytes(tmp_path: Path, web: WebServer) -> None:
    """Of 100,000 rows, whatever hash is sought."""
    (tmp_path / "known.safetensors").write_bytes(model_bytes(1))
    (tmp_path / "unknown.safetensors").write_bytes(model_bytes(2))
    here = identify(tmp_path / "known.safetensors", output=tmp_path / "few.parquet").files[0].file
    chance = random.Random(0)
    digest = iter(lambda: chance.randbytes(32).hex(), "")
    files = [
        replace(
            here,
            name=f"m{i}",
            hashes=FileHashes(i, next(digest), next(digest)),
            tensors_digest=next(digest),
        )
        for i in range(33_333)
    ]
    write_known_files(tmp_path / "many.parquet", [*files, here])
    whole = (tmp_path / "many.parquet").read_bytes()
    web.files["/known.parquet"] = whole
    registry = located(f"{web.url}/known.parquet")
    hashes = files[20_000].hashes
    assert hashes is not None
    sought = {
        "sha256": hashes.sha256,
        "autov2": hashes.autov2,
        "data_sha256": hashes.data_sha256,
        "autov3": hashes.autov3,
        "tensors_digest": files[20_000].tensors_digest,
    }
    for column, value in sought.items():
        web.traffic.clear()
        assert value is not None
        fetch_known(registry, {column: [value]}, tmp_path / "found.parquet")
        found = duckdb.sql(f"select name, {column} from '{tmp_path / 'found.parquet'}'").fetchall()
        assert found == [("m20000", value)]
        assert web.traffic.sent < 300_000 < len(whole) / 10
    for name, expected in (("known", (("known", Match.FILE),)), ("unknown", ())):
        web.traffic.clear()
        paths = [tmp_path / f"{name}.safetensors"]
        (known,) = identify(*paths, against=f"{web.url}/known.parquet").files
        assert known.matches == expected
        (same,) = identify(*paths, against=tmp_path / "many.parquet").files
        assert same == known
        assert web.traffic.sent < 600_000
    web.files["/other.parquet"] = model_bytes(1)
    with pytest.raises(CheckpointError, match="no Parquet file"):
        identify(*paths, against=f"{web.url}/other.parquet")
    with pytest.raises(UsageError, match="no registry"):
        identify(*paths, against=f"{web.url}/none.parquet")
