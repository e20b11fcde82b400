"""Pickles made to do harm, in the place of honest ones: refused, and nothing is executed."""

from __future__ import annotations

import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megasim.checkpoint.limits import Limits
from megasim.checkpoint.opening import TensorReader, open_checkpoint
from megasim.checkpoint.torch_format import MAGIC_NUMBER
from megasim.errors import CheckpointError
from tests.checkpoint.bad_files import (
    FILES,
    often,
    problem,
    read_all,
    unzipped,
    zipped,
)

pytestmark = pytest.mark.usefixtures("old_files")


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
