"""Bad files give a CheckpointError that names them and a remedy, and nothing else happens."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from megasim.checkpoint.limits import DEFAULT_LIMITS, Limits
from megasim.checkpoint.opening import TensorReader, open_checkpoint
from megasim.checkpoint.torch_format import MAGIC_NUMBER
from megasim.errors import CheckpointError, UsageError

often = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def torch_bytes(content: Any, *, new: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


CONTENT = {"state_dict": {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2).half()}}
FILES = {
    "zip": torch_bytes(CONTENT),
    "legacy": torch_bytes(CONTENT, new=False),
    "safetensors": save(CONTENT["state_dict"], {"epoch": "3"}),
}


pytestmark = pytest.mark.usefixtures("old_files")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def to_file(data: bytes) -> Path:
        path = tmp_path / "model.ckpt"
        path.write_bytes(data)
        return path

    return to_file


def read_all(path: Path, limits: Limits = DEFAULT_LIMITS) -> dict[str, bytes]:
    with TensorReader() as reader:
        found = open_checkpoint(path, limits).tensors
        return {key: reader.read(ref).tobytes() for key, ref in found.items()}


def problem(path: Path, limits: Limits = DEFAULT_LIMITS) -> str:
    """The error of a bad file, in at most two short lines that name it and can be printed."""
    with pytest.raises(CheckpointError) as caught:
        read_all(path, limits)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert caught.value.remedy
    assert len(text.splitlines()) == 2
    assert all(c.isprintable() or c == "\n" for c in text)
    assert len(text) < 1000
    return text


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tar(first: str = "sys_info") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(first))
    return buffer.getvalue()


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def unzipped(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


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


# Pickles made to do harm, in the place of honest ones


def tensor_pickle(
    *,
    numel: int = 4,
    offset: int = 0,
    shape: tuple[int, ...] = (4,),
    strides: tuple[int, ...] = (1,),
) -> bytes:
    """A pickle of {"w": a tensor} with numbers that torch would never write."""

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"I%d\n" % v for v in values) + b"t"

    return (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(("
        b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + b"I%d\ntQI%d\n" % (numel, offset)
        + numbers(shape)
        + numbers(strides)
        + b"\x89NtRs."
    )


def archive(pickle: bytes, size: int = 16) -> bytes:
    return zipped({"archive/data.pkl": pickle, "archive/data/0": bytes(size)})


def legacy(pickle: bytes, count: int = 4, size: int = 16) -> bytes:
    magic = b"\x80\x02\x8a\x0a" + MAGIC_NUMBER.to_bytes(10, "little") + b"."
    heads = magic + b"\x80\x02M\xe9\x03." + b"\x80\x02}."
    return (
        heads + pickle + b"\x80\x02]X\x01\x00\x00\x000a." + struct.pack("<q", count) + bytes(size)
    )


HOSTILE: dict[str, tuple[bytes, str]] = {
    "beyond": (tensor_pickle(shape=(5,)), "element 4 of a storage of 4"),
    "offset": (tensor_pickle(offset=1), "element 4 of a storage of 4"),
    "stride": (tensor_pickle(shape=(2, 2), strides=(3, 1)), "element 4"),
    "huge offset": (tensor_pickle(offset=1 << 61), "of a storage of 4"),
    "negative offset": (tensor_pickle(offset=-1), "malformed shape"),
    "negative stride": (tensor_pickle(strides=(-1,)), "malformed shape"),
    "negative shape": (tensor_pickle(shape=(-4,)), "malformed shape"),
    "absurd shape": (tensor_pickle(shape=(1 << 70,)), "malformed shape"),
    "ranks": (tensor_pickle(shape=(2, 2)), "malformed shape"),
    "rank 100": (tensor_pickle(shape=(1,) * 100, strides=(1,) * 100), "more than 16 dimensions"),
    "expanded": (tensor_pickle(shape=(10**15,), strides=(0,)), "that the file holds no bytes for"),
    "storage of 2**60": (tensor_pickle(numel=1 << 60), "are there"),
    "no storage": (tensor_pickle().replace(b"Storage\n", b"Garbage\n"), "unknown type"),
    "no call": (tensor_pickle().replace(b"I0\n(I4\nt(I1\nt\x89NtR", b"tR"), "too few arguments"),
}


@pytest.mark.parametrize("wrap", [archive, legacy])
def test_an_honest_pickle_in_this_form_is_read(
    write: Callable[[bytes], Path], wrap: Callable[[bytes], bytes]
) -> None:
    assert read_all(write(wrap(tensor_pickle()))) == {"w": bytes(16)}


@pytest.mark.parametrize("wrap", [archive, legacy])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tensors_are_refused_by_key(
    write: Callable[[bytes], Path], name: str, wrap: Callable[[bytes], bytes]
) -> None:
    pickle, expected = HOSTILE[name]
    text = problem(write(wrap(pickle)))
    if "list of its storages is damaged" not in text:  # where a legacy file fails earlier
        assert expected in text
        assert "key w" in text


@often
@given(data=st.data())
def test_mutated_pickles_give_an_error_or_a_checkpoint(data: st.DataObject, tmp_path: Path) -> None:
    """Behind a right checksum, which random damage to a zip never has."""
    pickle = bytearray(unzipped(FILES["zip"])["archive/data.pkl"])
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(pickle) - 1))
        piece = data.draw(st.binary(max_size=3) | st.sampled_from([b"2", b"h\0", b"R", b"}", b"t"]))
        pickle[at : at + data.draw(st.integers(0, 4))] = piece
        pickle = pickle or bytearray(b".")
    path = tmp_path / "m"
    path.write_bytes(archive(bytes(pickle)))
    try:
        read_all(path)
    except CheckpointError as e:
        assert str(e).replace("\n", "").isprintable()


@pytest.mark.parametrize("count", [-1, 5, 1 << 40, (1 << 63) - 1])
def test_a_legacy_storage_longer_than_the_file(write: Callable[[bytes], Path], count: int) -> None:
    assert "cut short" in problem(write(legacy(tensor_pickle(), count)))


def test_expanded_within_reason_is_read_in_pieces(write: Callable[[bytes], Path]) -> None:
    rows = 1 << 20
    path = write(archive(tensor_pickle(shape=(rows, 4), strides=(0, 1))))
    ref = open_checkpoint(path).tensors["w"]
    with TensorReader() as reader:
        tracemalloc.start()
        assert len(reader.read(ref, 4 * rows - 6)) == 6
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()
    assert "holds no bytes for" in problem(path, Limits(unfolded_bytes=1 << 20))


def test_nothing_is_executed(write: Callable[[bytes], Path], tmp_path: Path) -> None:
    target = tmp_path / "executed"
    command = f"touch {target}".encode()
    evil = b"cos\nsystem\n(X" + struct.pack("<I", len(command)) + command + b"tR"
    head, tail = tensor_pickle()[:3], tensor_pickle()[3:]
    pickle = head + b"X\x04\x00\x00\x00evil" + evil + b"s" + tail
    for wrap in (archive, legacy):
        assert set(read_all(write(wrap(pickle)))) == {"w"}
        assert not target.exists()


def laughs(levels: int) -> bytes:
    """A dict of two keys for the same dict of two keys for the same …, around a tensor."""
    level = b"p0\n0}X\x01\x00\x00\x00ag0\nsX\x01\x00\x00\x00bg0\ns"
    return tensor_pickle()[:-1] + level * levels + b"."


def test_billion_laughs_end(write: Callable[[bytes], Path]) -> None:
    assert len(read_all(write(archive(laughs(3))))) == 8
    assert "entries" in problem(write(archive(laughs(40))), Limits(entries=10_000))
    deep = tensor_pickle()[:-1] + b"p0\n0}X\x01\x00\x00\x00ag0\ns" * 200 + b"."
    assert "levels of nesting" in problem(write(archive(deep)))
    cycle = b"\x80\x02}p0\nX\x01\x00\x00\x00ag0\ns" + tensor_pickle()[3:]
    assert "levels of nesting" in problem(write(archive(cycle)))


def test_shared_lists_end(write: Callable[[bytes], Path]) -> None:
    numbers = b"](" + b"K\x01" * 1000 + b"ep0\n0"
    many = b"".join(b"X\x04\x00\x00\x00%04dg0\ns" % i for i in range(1000))
    pickle = b"\x80\x02" + numbers + b"}" + many + tensor_pickle()[3:]
    assert "steps through containers" in problem(write(archive(pickle)), Limits(steps=100_000))


def test_places_in_the_memo_cannot_be_made_to_collide(write: Callable[[bytes], Path]) -> None:
    for number in (b"%d" % ((1 << 61) - 1), b"-1"):  # their hash would be that of 0, and of -2
        pickle = b"\x80\x02Np" + number + b"\n0" + tensor_pickle()[2:]
        assert "implausibly large memo" in problem(write(archive(pickle)))


def test_an_entry_that_is_packed_into_more_than_its_limit_is_not_read(
    write: Callable[[bytes], Path],
) -> None:
    names = {"archive/data.pkl": tensor_pickle(), "archive/data/0": bytes(5000)}
    data = bytearray(zipped(names))
    at = data.rfind(b"PK\x01\x02", 0, data.rfind(b"archive/data.pkl"))
    data[at + 10 : at + 12] = b"\x08\0"  # said to be deflated
    data[at + 20 : at + 24] = (4000).to_bytes(4, "little")  # from so many bytes
    assert "bytes of pickle" in problem(write(bytes(data)), Limits(pickle_bytes=1000))


def test_long_keys_are_refused(write: Callable[[bytes], Path]) -> None:
    key = b"X" + struct.pack("<I", 5000) + b"k" * 5000
    pickle = tensor_pickle().replace(b"X\x01\x00\x00\x00w", key)
    assert "bytes in one name" in problem(write(archive(pickle)))


def test_many_views_of_one_storage_are_refused(write: Callable[[bytes], Path]) -> None:
    one = tensor_pickle(shape=(1 << 28, 4), strides=(0, 1))[3:-1]
    keys = (one.replace(b"X\x01\x00\x00\x00w", b"X\x02\x00\x00\x00%02d" % i) for i in range(50))
    pickle = b"\x80\x02}" + b"".join(keys) + b"."
    assert "holds no bytes for" in problem(write(archive(pickle)))


def test_a_code_bomb_in_a_script_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "m.jit"
    with zipfile.ZipFile(path, "w") as bomb:
        bomb.writestr("m/data.pkl", tensor_pickle())
        bomb.writestr("m/constants.pkl", b"\x80\x02).")
        bomb.writestr("m/code/x.py", bytes(80 << 20), zipfile.ZIP_DEFLATED)
    assert "bytes of text" in problem(path)


# What is no file to be read


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
