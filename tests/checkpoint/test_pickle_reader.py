"""Pickles are read as data: right where they are honest, harmless where they are not."""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import io
import pickle
import struct
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megasim.checkpoint.limits import Limits
from megasim.checkpoint.pickle_reader import read_pickle
from megasim.checkpoint.pickle_values import (
    Global,
    Made,
    Opaque,
    PersistentId,
    PickleCutShort,
    PickleError,
    PickleTooLarge,
)

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=8) | st.integers(-9, 9), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(plain, st.integers(1, 5))
def test_plain_values_are_read_as_python_reads_them(value: object, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    expected = pickle.loads(data)
    read = read_pickle(b"before" + data + b"after", 6)
    assert read.value == expected
    assert read.end == 6 + len(data)


@given(st.text(max_size=20) | st.integers() | st.floats(allow_nan=False) | st.lists(st.booleans()))
def test_protocol_0_is_read_too(value: object) -> None:
    assert read_pickle(pickle.dumps(value, 0)).value == value


@pytest.mark.parametrize("protocol", range(6))
def test_sets_and_bytes_of_every_protocol(protocol: int) -> None:
    read = read_pickle(pickle.dumps([{1}, frozenset({2}), bytearray(b"ab"), b"cd"], protocol)).value
    assert isinstance(read, list)
    if protocol == 5:
        assert read == [[1], (2,), b"ab", b"cd"]
    else:  # what has no opcode yet is a call
        assert len(read) == 4
        assert any(isinstance(item, Made) for item in read)


def test_objects_become_records_of_their_making() -> None:
    made = read_pickle(pickle.dumps(argparse.Namespace(lr=0.1))).value
    assert isinstance(made, Made) and isinstance(made.function, Global)
    assert made.function.path == "argparse.Namespace"
    assert made.state == {"lr": 0.1}
    ordered = read_pickle(pickle.dumps(collections.OrderedDict(a=1))).value
    assert isinstance(ordered, Made) and ordered.entries == {"a": 1}
    counted = read_pickle(pickle.dumps(datetime.timedelta(3))).value
    assert isinstance(counted, Made) and counted.args == (3, 0, 0)


def test_texts_of_python_2() -> None:
    assert read_pickle(b"U\x03abc.").value == "abc"
    assert read_pickle(b"T\x02\x00\x00\x00\xff\xfe.").value == "ÿþ"
    assert read_pickle(b"S'a\\n'\n.").value == "a\n"


class Writes:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "executed")


def evil_pickles(target: Path) -> list[bytes]:
    """Pickles that, unpickled, write `target`."""
    text = f"open({str(target)!r}, 'w').write('executed')".encode()
    length = struct.pack("<I", len(text))
    return [
        pickle.dumps(Writes(target)),
        b"cbuiltins\neval\n(X" + length + text + b"tR.",
        b"(X" + length + text + b"ibuiltins\neval\n.",
        b"(cbuiltins\neval\nX" + length + text + b"o.",
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93X" + length + text + b"\x85R.",
        b"\x80\x02cbuiltins\neval\nX" + length + text + b"\x85\x81.",
        b"\x80\x04cbuiltins\neval\nX" + length + text + b"\x85}\x92.",
        b"cos\nsystem\n(S'touch " + str(target).encode() + b"'\ntR.",
        # __setstate__ and __setitem__ of what a call returned
        b"cbuiltins\nglobals\n)R(X\x01\x00\x00\x00aX" + length + text + b"u}b.",
    ]


@pytest.mark.parametrize("number", range(9))
def test_nothing_is_executed_or_imported(tmp_path: Path, number: int) -> None:
    target = tmp_path / "executed"
    evil = evil_pickles(target)
    before = set(sys.modules)
    read_pickle(evil[number])
    read_pickle(b"cthis\nd\n.")  # `import this` prints a poem
    assert not target.exists()
    assert set(sys.modules) == before


def test_the_evil_pickles_are_evil(tmp_path: Path) -> None:
    """So that the test above can fail: Python's own unpickler does execute them."""
    for number, data in enumerate(evil_pickles(tmp_path / "executed")[:3]):
        pickle.loads(data)
        assert (tmp_path / "executed").exists(), number
        (tmp_path / "executed").unlink()


def test_classes_of_modules_that_are_gone() -> None:
    module = types.ModuleType("lightning_of_old")

    class ModelCheckpoint:
        def __init__(self) -> None:
            self.best = 0.5

    ModelCheckpoint.__module__ = module.__name__
    ModelCheckpoint.__qualname__ = "ModelCheckpoint"
    module.ModelCheckpoint = ModelCheckpoint  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    try:
        data = pickle.dumps({ModelCheckpoint: ModelCheckpoint()})
    finally:
        del sys.modules[module.__name__]
    value = read_pickle(data).value
    assert isinstance(value, dict)
    ((key, made),) = value.items()
    assert isinstance(key, Global) and key.path == "lightning_of_old.ModelCheckpoint"
    assert isinstance(made, Made) and made.state == {"best": 0.5}


def test_persistent_ids_are_kept_in_order() -> None:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return ("storage", value.imag) if isinstance(value, complex) else None

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump([1j, 2j])
    read = read_pickle(buffer.getvalue())
    assert all(isinstance(p, PersistentId) for p in read.persistent_ids)
    assert [p.value for p in read.persistent_ids] == [("storage", 1.0), ("storage", 2.0)]
    assert read.value == read.persistent_ids


def test_a_billion_laughs_take_the_memory_of_few() -> None:
    data = b"]" + b"2\x86" * 200 + b"."  # DUP, TUPLE2: a tree of 2**200 leaves
    value = read_pickle(data).value
    assert isinstance(value, tuple) and value[0] is value[1]
    as_key = b"}]" + b"2\x86" * 200 + b"Ns."  # hashing it would never end
    entries = read_pickle(as_key).value
    assert isinstance(entries, dict) and isinstance(next(iter(entries)), Opaque)


def test_deep_nesting_is_no_recursion() -> None:
    value = read_pickle(b")" + b"\x85" * 500_000 + b".").value
    assert isinstance(value, tuple)
    del value  # freeing it must not recurse either


@pytest.mark.parametrize(
    "data",
    [
        b"\x96" + b"\xff" * 8 + b".",  # a bytearray of 2**64 bytes
        b"\x8e" + b"\xff" * 7 + b"\x7f.",
        b"\x8d" + b"\xff" * 7 + b"\x7f.",
        b"\x8b\xff\xff\xff\x7f\x01.",  # an integer of 2**31 bytes
        b"I" + b"9" * 5000 + b"\n.",
        b"L" + b"9" * 5000 + b"L\n.",
        b"\x80\x09.",  # protocol 9
        b"K\x01K\x02\x93.",  # a global named by numbers
        b"K\x01K\x02R.",  # arguments that are not a tuple
        b"K\x01N}b.",
        b"h\x07.",
        b"K\x01e.",
        b"(K\x01u.",
        b"}(K\x01u.",
        b"\x87.",
        b".",
        b"",
        b"\xff.",
        b"\x98.",
        b"S1\n.",
        b"F1e\n.",
        b"I\xff\n.",
        b"X\x01\x00\x00\x00\xff.",
    ],
)
def test_malformed_pickles(data: bytes) -> None:
    with pytest.raises(PickleError):
        read_pickle(data)


def test_a_memo_of_any_number_takes_no_memory_for_the_others() -> None:
    assert read_pickle(b"K\x05r\xff\xff\xff\xff0j\xff\xff\xff\xff.").value == 5


def test_too_many_opcodes_are_refused() -> None:
    few = Limits(opcodes=10)
    assert read_pickle(b"N0" * 4 + b"N.", 0, few).value is None
    with pytest.raises(PickleTooLarge, match="opcodes"):
        read_pickle(b"N0" * 5 + b"N.", 0, few)


SAMPLE = {"a": [1, 2.5, "text", b"bytes"], "b": collections.OrderedDict(c=(1, 2, 3)), "d": {4}}


@pytest.mark.parametrize("protocol", range(6))
def test_every_truncation_is_noticed_as_such(protocol: int) -> None:
    data = pickle.dumps(SAMPLE, protocol)
    for size in range(len(data)):
        with pytest.raises(PickleCutShort):
            read_pickle(data[:size])


@given(st.integers(0, 5), st.data())
def test_flipped_bytes_are_read_or_refused(protocol: int, data: st.DataObject) -> None:
    raw = bytearray(pickle.dumps(SAMPLE, protocol))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PickleError):
        read_pickle(bytes(raw))


@given(st.binary(max_size=200))
def test_noise_is_read_or_refused(raw: bytes) -> None:
    with contextlib.suppress(PickleError):
        read_pickle(raw)
