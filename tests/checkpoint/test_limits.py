"""Budgets for every file: each limit is named, and each is lifted by one option.

The files are small and harmless, and the limits are lowered for them.
"""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from megasim import cli, open_store
from megasim.checkpoint import pickle_reader, strict_json
from megasim.checkpoint.limits import DEFAULT_LIMITS, Limits, limits_in_force, raised_limits
from megasim.checkpoint.opening import open_checkpoint
from megasim.errors import CheckpointError, UsageError
from tests.models import random_model, write_model


def saved(content: Any, *, new: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


def arrays() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(2), b=np.zeros(2))
    return buffer.getvalue()


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def pickled(data: bytes) -> bytes:
    """A file of torch.save with this pickle in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", data)
    return buffer.getvalue()


def nested(levels: int) -> dict[str, Any]:
    held: dict[str, Any] = {"w": torch.ones(2)}
    for _ in range(levels):
        held = {"inner": held}
    return {"outer": held}


MANY = {f"block.{i}.weight": torch.full((2,), float(i)) for i in range(30)}
ONE = {"w": torch.ones(4)}
EMPTY = torch.zeros(0, 3)
# one list that stands under many keys: small in the file, large for whoever walks through it
AGAIN = list(range(500))
LONG = "m" * 400
# what the file is → its name, its bytes, and the limits by which it is too much, and by which not
FILES: dict[str, tuple[str, bytes, Limits, Limits]] = {
    "tensors, safetensors": ("m.safetensors", save(MANY), Limits(tensors=29), Limits(tensors=30)),
    "tensors, torch": ("m.pt", saved(MANY), Limits(tensors=29), Limits(tensors=30)),
    "tensors, legacy": ("m.pt", saved(MANY, new=False), Limits(tensors=29), Limits(tensors=30)),
    "tensors, numpy": ("m.npz", arrays(), Limits(tensors=1), Limits(tensors=2)),
    "empty tensors": (
        "m.safetensors",
        save({**ONE, **{f"e{i}": torch.zeros(0, 2) for i in range(9)}}),
        Limits(empty_tensors=8),
        Limits(empty_tensors=9),
    ),
    "entries": ("m.pt", saved(MANY), Limits(entries=30), Limits(entries=60)),
    "bytes of keys": ("m.safetensors", save(MANY), Limits(key_bytes=400), Limits(key_bytes=500)),
    "long keys on shared empty tensors": (
        "m.pt",
        saved({"w": ONE["w"], **{f"p{i}": {"k" * 90: EMPTY} for i in range(50)}}),
        Limits(key_bytes=3000),
        Limits(key_bytes=6000),
    ),
    "a long key": (
        "m.pt",
        saved({"k" * 99: ONE["w"]}),
        Limits(name_bytes=98),
        Limits(name_bytes=99),
    ),
    "a large header": (
        "m.safetensors",
        save(ONE, {"note": "x" * 900}),
        Limits(header_bytes=900),
        Limits(header_bytes=1200),
    ),
    "values in a header": (
        "m.safetensors",
        save(ONE, {"note": "[" * 100}),
        Limits(header_values=99),
        Limits(header_values=200),
    ),
    "text that grows as it is decoded": (
        "m.pt",
        saved({**ONE, "note": "\U0001f600" + "x" * 1000}),
        Limits(text_bytes=3000),
        Limits(text_bytes=9000),
    ),
    "names joined again and again": (
        "m.pt",
        pickled(b"\x80\x04](" + text(LONG) + b"\x94" + b"h\0h\0\x93" * 20 + b"e."),
        Limits(text_bytes=10_000),
        Limits(text_bytes=20_000),
    ),
    "a large pickle": (
        "m.pt",
        saved({**ONE, "note": "x" * 5000}),
        Limits(pickle_bytes=5000),
        Limits(pickle_bytes=6000),
    ),
    "a large pickle, legacy": (
        "m.pt",
        saved({**ONE, "note": "x" * (1 << 20)}, new=False),
        Limits(pickle_bytes=1 << 20),
        Limits(pickle_bytes=2 << 20),
    ),
    "opcodes": ("m.pt", saved(MANY), Limits(opcodes=300), Limits(opcodes=3000)),
    "a large memo": ("m.pt", saved(MANY), Limits(memo=100), Limits(memo=1_000)),
    "depth": ("m.pt", saved(nested(12)), Limits(depth=11), Limits(depth=14)),
    "open marks": (
        "m.pt",
        pickled(b"\x80\x02" + b"(" * 200 + b"t" + b"0t" * 199 + b"."),
        Limits(depth=2),
        Limits(depth=4),
    ),
    "shared lists": (
        "m.pt",
        saved({**ONE, **{f"k{i}": AGAIN for i in range(40)}}),
        Limits(steps=9_000),
        Limits(steps=200_000),
    ),
    "lists in lists": (
        "m.pt",
        pickled(
            b"\x80\x04]\x94"
            + b"".join(b"(" + bytes([ord("h"), i]) * 8 + b"l\x94" for i in range(5))
            + b"."
        ),
        Limits(steps=500),
        Limits(steps=500_000),
    ),
    "dimensions, torch": (
        "m.pt",
        saved({"w": torch.ones((1,) * 9)}),
        Limits(dimensions=8),
        Limits(dimensions=9),
    ),
    "dimensions, safetensors": (
        "m.safetensors",
        save({"w": torch.ones((1,) * 9)}),
        Limits(dimensions=8),
        Limits(dimensions=9),
    ),
    "elements reached by strides": (
        "m.pt",
        saved({"w": torch.ones(2).expand(50_000, 2)}),
        Limits(unfolded_bytes=200_000),
        Limits(unfolded_bytes=500_000),
    ),
    "views of one storage": (
        "m.pt",
        saved({f"v{i}": ONE["w"].expand(5_000, 4) for i in range(9)}),
        Limits(unfolded_bytes=300_000),
        Limits(unfolded_bytes=900_000),
    ),
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes], Path]:
    def to_file(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return to_file


@pytest.mark.parametrize("what", FILES)
def test_each_limit_is_named_and_can_be_lifted(
    write: Callable[[str, bytes], Path], what: str
) -> None:
    name, data, low, high = FILES[what]
    path = write(name, data)
    with pytest.raises(
        CheckpointError, match=r"more than [\d,]+ .*, the limit for one file"
    ) as told:
        open_checkpoint(path, low)
    assert "--limits" in told.value.remedy
    try:
        open_checkpoint(path, high)
    except CheckpointError as error:  # it holds no tensors
        assert "the limit" not in error.message


def test_every_limit_has_a_file() -> None:
    lowered = {
        field.name
        for _, _, low, _ in FILES.values()
        for field in fields(Limits)
        if getattr(low, field.name) != getattr(DEFAULT_LIMITS, field.name)
    }
    assert lowered | {"sparse_elements"} == {field.name for field in fields(Limits)}


def test_a_sparse_tensor_beyond_the_limit_is_unread_and_the_others_are_read(
    write: Callable[[str, bytes], Path],
) -> None:
    path = write("m.pt", saved({**ONE, "s": torch.eye(50).to_sparse()}))
    found = open_checkpoint(path, Limits(sparse_elements=49))
    assert (set(found.tensors), set(found.unread)) == ({"w"}, {"s"})
    assert "50 stored elements" not in found.unread["s"].note  # indices are two for each
    assert "--limits" in found.unread["s"].note
    assert set(open_checkpoint(path).tensors) == {"w", "s"}


def test_the_limits_hold_for_the_shards_of_a_folder_together(tmp_path: Path) -> None:
    places = {}
    for i in range(3):
        shard = {f"s{i}.{k}": v for k, v in random_model(i).items()}
        write_model(tmp_path / f"x-0000{i + 1}-of-00003.safetensors", shard)
        places |= dict.fromkeys(shard, f"x-0000{i + 1}-of-00003.safetensors")
    index = tmp_path / "x.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(CheckpointError, match="more than 11 tensors"):
        open_checkpoint(tmp_path, Limits(tensors=11))
    with pytest.raises(CheckpointError, match="values in the header"):
        open_checkpoint(index, Limits(header_values=20))
    assert len(open_checkpoint(tmp_path, Limits(tensors=12)).tensors) == 12


def test_a_hundred_thousand_tensors_pass_the_limits(tmp_path: Path) -> None:
    """Of parameters as modules pickle them, or of a header: their count, keys, opcodes and memo."""
    count, per_tensor = 100_000, 40  # opcodes of a Parameter with its hooks; 11 numbers in the memo
    key = "model.layers.61.mlp.experts.383.gate_proj.weight_scale_inv"
    assert DEFAULT_LIMITS.tensors >= count
    assert DEFAULT_LIMITS.opcodes >= count * per_tensor
    assert DEFAULT_LIMITS.memo >= count * 11
    assert DEFAULT_LIMITS.key_bytes >= count * len(key)
    entry = {key: {"dtype": "BF16", "shape": [7168, 2048], "data_offsets": [10**12, 10**12 + 1]}}
    header = json.dumps(entry)
    assert DEFAULT_LIMITS.header_bytes >= count * len(header)
    assert DEFAULT_LIMITS.header_values >= count * sum(map(header.count, "[{,:"))


def test_one_option_raises_them_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "m.pt", {"w": torch.arange(float(1 << 17)).reshape((2,) * 17)})
    db = ["--db", str(tmp_path / "s.duckdb")]
    assert cli.run([*db, "ingest", str(tmp_path)]) == 4
    assert "more than 16 dimensions" in capsys.readouterr().err
    assert cli.run([*db, "--limits", "2", "ingest", str(tmp_path)]) == 0
    assert limits_in_force() == DEFAULT_LIMITS
    monkeypatch.setenv("MEGASIM_LIMITS", "1.5")
    assert limits_in_force().dimensions == 24
    with open_store(tmp_path / "s.duckdb") as store:
        assert store.ingest(tmp_path, reread=True).replaced == ["m"]
    with raised_limits(1):
        assert limits_in_force() == DEFAULT_LIMITS
    monkeypatch.setenv("MEGASIM_LIMITS", "all")
    with pytest.raises(UsageError, match="MEGASIM_LIMITS"):
        limits_in_force()


def test_one_file_beyond_the_limits_stops_no_other(tmp_path: Path) -> None:
    write_model(tmp_path / "a.safetensors", random_model(0))
    header = {
        f"e{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(20_001)
    }
    data = json.dumps(header).encode()
    (tmp_path / "b.safetensors").write_bytes(len(data).to_bytes(8, "little") + data)
    with open_store(tmp_path / "s.duckdb") as store:
        result = store.ingest(tmp_path)
        assert result.added == ["a"]
        assert "20,000 tensors without elements" in result.failed[0].message


def test_a_shape_beyond_all_numbers_is_unread_and_stops_nothing(tmp_path: Path) -> None:
    entries = {
        "odd": {"dtype": "F3", "shape": [1 << 61, 1 << 61], "data_offsets": [0, 0]},
        "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    }
    data = json.dumps(entries).encode()
    (tmp_path / "m.safetensors").write_bytes(len(data).to_bytes(8, "little") + data + bytes(8))
    with open_store(tmp_path / "s.duckdb") as store:
        assert store.ingest(tmp_path).added == ["m"]
        assert store.models()["unread"].tolist() == [1]


def test_what_folders_name_and_cannot_be_opened_has_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models"
    write_model(folder / "good.safetensors", random_model(0))
    snapshot = folder / "models--x--y" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to("../../blobs/absent")
    os.mkfifo(folder / "pipe.ckpt")
    assert cli.run(["--db", str(tmp_path / "s.duckdb"), "ingest", str(folder)]) == 4
    told = capsys.readouterr()
    assert "added good" in told.out
    assert "pipe.ckpt: a pipe, not a file" in told.err
    assert (
        "snapshots/0/model.safetensors: a link to ../../blobs/absent, which is not there"
        in told.err
    )


def test_many_files_of_a_kind_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models"
    write_model(folder / "good.safetensors", random_model(0))
    for i in range(30):
        (folder / f"note{i}.pt").write_text("a note")
        (folder / f"words{i}.bin").write_text("some words")
    (folder / "graph.onnx").write_bytes(b"onnx")
    assert cli.run(["--db", str(tmp_path / "s.duckdb"), "ingest", str(folder)]) == 0
    skipped = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    assert len(skipped) == 3
    assert sum("30 files ending in .pt: each is a text file" in line for line in skipped) == 1
    assert sum("graph.onnx: an ONNX file" in line for line in skipped) == 1


@pytest.mark.parametrize("name", ["m.pt", "m.safetensors"])
def test_a_signal_ends_the_reading_of_a_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_model(tmp_path / name, random_model(0, keys=20))
    opcodes = pickle_reader._OPERATIONS

    def then_signal(work: Callable[[Any], object]) -> Callable[[Any], object]:
        def run(given: Any) -> object:
            signal.raise_signal(signal.SIGINT)
            return work(given)

        return run

    late = {ord("R"): then_signal(opcodes[ord("R")])}
    patched = [late.get(code, work) for code, work in enumerate(opcodes)]
    monkeypatch.setattr(pickle_reader, "_OPERATIONS", patched)
    monkeypatch.setattr(strict_json, "_unique", then_signal(strict_json._unique))
    db = tmp_path / "s.duckdb"
    assert cli.run(["--db", str(db), "ingest", str(tmp_path / name)]) == 130
    monkeypatch.undo()
    assert cli.run(["--db", str(db), "ingest", str(tmp_path / name)]) == 0
