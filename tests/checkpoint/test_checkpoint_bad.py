"""Damaged files and files of others: one clear error each, never a crash."""

from __future__ import annotations

import contextlib
import gzip
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from megasim.checkpoint.opening import open_checkpoint
from megasim.errors import CheckpointError, UsageError
from tests.checkpoint.bad_files import (
    FILES,
    often,
    problem,
    read_all,
    safetensors,
    tar,
    torch_bytes,
    unzipped,
    zipped,
)

pytestmark = pytest.mark.usefixtures("old_files")

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
STRANGERS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "empty file"),
    "one byte": (b"\0", "not a checkpoint"),
    "text": (b"hello, this is a note\n", "a text file"),
    "short text": (b"{}", "a text file"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n", "git-lfs"),
    "web page": (b"<!DOCTYPE html>\n<html><body>Log in</body></html>", "web page"),
    "web page in UTF-8": ("  <html>\n<p>é</p></html>".encode(), "web page"),
    "gzip": (gzip.compress(FILES["zip"]), "a gzip file"),
    "gguf": (b"GGUF\x03\0\0\0", "cut short in its header"),
    "tar": (tar(), "as torch wrote before"),
    "a tar of anything": (tar("model_config.yaml"), "unpack it"),
    "another zip": (zipped({"word/document.xml": b"<x/>"}), "not one of torch.save"),
    "empty zip": (zipped({}), "empty zip"),
    "a pickle with a brace": (b"\x80\x02X\x02\0\0\0a{.", "not one of torch.save"),
    "another pickle": (b"\x80\x04K\x01.", "not one of torch.save"),
    "a compressed zip": (zipped(unzipped(FILES["zip"]), zipfile.ZIP_DEFLATED), "is compressed"),
    "a big-endian zip": (
        zipped({**unzipped(FILES["zip"]), "archive/byteorder": b"big"}),
        "big-endian",
    ),
    "a big-endian pickle": (
        FILES["legacy"].replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89"),
        "big-endian",
    ),
    "no data in the zip": (
        zipped({k: v for k, v in unzipped(FILES["zip"]).items() if "/data/" not in k}),
        "its bytes are not in the file",
    ),
    "a short storage": (
        zipped({k: v[:9] if "/data/" in k else v for k, v in unzipped(FILES["zip"]).items()}),
        "of which 9 are there",
    ),
    "no tensors": (torch_bytes({"epoch": 3}), "it contains no tensor"),
    "only codes": (
        torch_bytes({"c": torch.zeros(2).byte().view(torch.float4_e2m1fn_x2)}),
        "float4",
    ),
    "only placeholders": (torch_bytes({"a": torch.zeros(0), "b": torch.zeros(0)}), "all of its 2"),
    "a frozen header": (safetensors(b"{" + b" " * 50), "bad header"),
    "header of 2**63": (b"\xff" * 7 + b"\x7f{}", "larger than 100 MB"),
    "header of 0x80 and much": (b"\x80" * 8 + b"{}", "larger than 100 MB"),
    "header of 100 MB": ((100_000_000).to_bytes(8, "little") + b"{}", "cut short"),
    "a list for a header": (safetensors(b"{}"), "it contains no tensor"),
    "a deep header": (safetensors(b'{"a":' + b"[" * 100_000), "nested too deeply"),
    "NaN": (safetensors(b'{"a":NaN}'), "NaN"),
    "twice": (safetensors(b'{"a":1,"a":2}'), "twice"),
    "a number beyond floats": (safetensors(b'{"a":1e999}'), "too large"),
    "a swarm of lists": (
        safetensors(b'{"a":[' + b"[]," * 8_000_000 + b"[]]}"),
        "values in the header",
    ),
    "no UTF-8": (safetensors(b'{"\xff":1}'), "UTF-8"),
    "half a surrogate": (safetensors(b'{"\\ud800":1}'), "UTF-8"),
    "no entry": (safetensors({"a": 1}), "bad header entry"),
    "dtype": (safetensors({"a": {**ENTRY, "dtype": "F3"}}, b"0" * 8), "unknown dtype F3"),
    "dtype of no text": (safetensors({"a": {**ENTRY, "dtype": [1]}}, b"0" * 8), "bad header"),
    "hostile dtype": (
        safetensors({"a": {**ENTRY, "dtype": "\x1b[31m" * 999}}, b"0" * 8),
        "unknown dtype",
    ),
    "hostile key": (safetensors({"\x1b[2J" * 99: 1}), "bad header entry"),
    "negative shape": (safetensors({"a": {**ENTRY, "shape": [-2]}}, b"0" * 8), "bad shape"),
    "true shape": (safetensors({"a": {**ENTRY, "shape": [True]}}, b"0" * 8), "bad shape"),
    "huge shape": (safetensors({"a": {**ENTRY, "shape": [1 << 70]}}, b"0" * 8), "bad shape"),
    "wrong shape": (safetensors({"a": {**ENTRY, "shape": [3]}}, b"0" * 8), "agree in size"),
    "product": (safetensors({"a": {**ENTRY, "shape": [1 << 40] * 9}}, b"0" * 8), "agree in size"),
    "offsets": (safetensors({"a": {**ENTRY, "data_offsets": [8, 0]}}, b"0" * 8), "bad shape"),
    "three offsets": (safetensors({"a": {**ENTRY, "data_offsets": [0, 8, 9]}}), "bad shape"),
    "overlap": (safetensors({"a": ENTRY, "b": ENTRY}, b"0" * 8), "overlaps"),
    "gap": (safetensors({"a": {**ENTRY, "data_offsets": [4, 12]}}, b"0" * 12), "gap"),
    "cut": (safetensors({"a": ENTRY}, b"0" * 7), "1 bytes are missing"),
    "more": (safetensors({"a": ENTRY}, b"0" * 9), "after the last"),
    "metadata": (safetensors({"__metadata__": {"a": 1}}), "__metadata__"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_strangers_are_named(write: Callable[[bytes], Path], name: str) -> None:
    data, expected = STRANGERS[name]
    assert expected in problem(write(data))


@pytest.mark.parametrize("form", FILES)
def test_every_truncation_is_an_error(write: Callable[[bytes], Path], form: str) -> None:
    data = FILES[form]
    assert len(read_all(write(data))) == 2
    for size in range(len(data)):
        problem(write(data[:size]))


@pytest.mark.parametrize("form", FILES)
@often
@given(data=st.data())
def test_flipped_bytes_give_an_error_or_a_checkpoint(
    form: str, data: st.DataObject, tmp_path: Path
) -> None:
    raw = bytearray(FILES[form])
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "m"
    path.write_bytes(raw)
    try:
        read_all(path)
    except CheckpointError as e:
        assert str(e).isprintable() or "\n" in str(e)


def test_a_flipped_byte_of_a_zip_never_moves_a_tensor(write: Callable[[bytes], Path]) -> None:
    data = FILES["zip"]
    expected = read_all(write(data))
    own = {i for v in expected.values() for i in range(data.find(v), data.find(v) + len(v))}
    assert len(own) == sum(len(v) for v in expected.values())
    for i in range(len(data)):
        if i in own:  # the weights themselves carry no checksum that is read
            continue
        flipped = data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :]
        with contextlib.suppress(CheckpointError):
            assert read_all(write(flipped)) == expected


@often
@given(
    header=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "w"]), inner
            )
        ),
    ),
    data=st.binary(max_size=16),
)
@example(header={"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, data=b"1234")
def test_any_header_gives_an_error_or_a_checkpoint(
    header: object, data: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors(header, data))
    try:
        read_all(path)
    except CheckpointError as e:
        assert e.remedy


def test_paths_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing at"):
        open_checkpoint(tmp_path / "absent.ckpt")


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe.ckpt"
    os.mkfifo(path)
    assert "not a regular file" in problem(path)


def test_files_that_may_not_be_read(
    write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(FILES["zip"])

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)  # a test may run as root, whom chmod does not stop
    assert "Permission denied" in problem(path)
