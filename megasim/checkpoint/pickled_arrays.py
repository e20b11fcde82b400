"""numpy's arrays and scalars as its pickles describe them; their bytes stand within the pickle.

Source: `__reduce__` and `__reduce_ex__` in numpy/_core/src/multiarray/methods.c and descriptor.c.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from megasim.checkpoint.dtypes import COMPLEX_PARTS, NUMPY_DTYPES, STORAGE_DTYPES
from megasim.checkpoint.pickle_values import Global, Made
from megasim.errors import printable

_MAX_DIMENSIONS = 64
_SCALAR_BYTES = 16


@dataclass(frozen=True, slots=True)
class PickledArray:
    """An array: torch's name of its dtype, and its bytes, row-major and little-endian."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class OddArray:
    """An array that is not decoded: why, its shape, and its bytes where it has some of its own."""

    reason: str  # 'dtype' or 'object'
    note: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes | None = field(repr=False)


class BadArray(ValueError):
    """An array described in a way numpy would not read. The message is a phrase."""


def is_array(value: object) -> bool:
    """Whether `value` stands for a numpy array."""
    path = _path(value)
    return path.startswith("numpy.") and path.endswith(
        ("multiarray._reconstruct", "numeric._frombuffer")
    )


def parse_array(value: object) -> PickledArray | OddArray:
    """Return the array that a value stands for.

    Raises BadArray if its bytes do not fit its shape, or it is no array.
    """
    if not isinstance(value, Made) or not is_array(value):
        raise BadArray("not a numpy array")
    if value.function_path.endswith("_frombuffer"):  # protocol 5
        if len(value.args) < 4:
            raise BadArray("a numpy array with too few arguments")
        raw, described, sizes, order = value.args[:4]
        by_columns = isinstance(order, str) and order == "F"
    else:
        state = value.state
        if not isinstance(state, tuple) or len(state) < 4:
            raise BadArray("a numpy array without a state")
        sizes, described, by_columns, raw = state[-4:]
    shape = _sizes(sizes)
    code, is_big = _described(described)
    if code.startswith("O"):
        return OddArray("object", "a numpy array of Python objects", "object", shape, None)
    name = NUMPY_DTYPES.get(code, code)
    if name not in STORAGE_DTYPES and name not in COMPLEX_PARTS:
        data = _raw(raw, None)
        note = f"a numpy array of type {printable(code, 40)}, which is not a number"
        return OddArray("dtype", note, f"numpy {printable(code, 40)}", shape, data)
    part = COMPLEX_PARTS.get(name, name)
    stored = STORAGE_DTYPES[part]
    per_element = 2 if name in COMPLEX_PARTS else 1
    data = _raw(raw, math.prod(shape) * stored.itemsize * per_element)
    if is_big or (by_columns is True and len(shape) > 1):
        array = np.frombuffer(data, stored.newbyteorder(">") if is_big else stored)
        array = array.reshape(-1, per_element)
        if by_columns is True and len(shape) > 1:
            turned = array.reshape(*reversed(shape), per_element)
            axes = (*range(len(shape) - 1, -1, -1), len(shape))
            array = turned.transpose(axes)
        data = np.ascontiguousarray(array, stored).tobytes()
    return PickledArray(name, shape, data)


def parse_scalar(value: object) -> bool | int | float | None:
    """Return the number of a pickled numpy scalar, None if `value` is none or no plain number."""
    if not isinstance(value, Made) or len(value.args) != 2:
        return None
    if not _path(value).endswith("multiarray.scalar"):
        return None
    try:
        code, is_big = _described(value.args[0])
        name = NUMPY_DTYPES.get(code, "")
        if name not in STORAGE_DTYPES:
            return None
        plain = np.dtype(code).newbyteorder(">" if is_big else "<")
        data = _raw(value.args[1], plain.itemsize)
    except BadArray:
        return None
    number = np.frombuffer(data[:_SCALAR_BYTES], plain)[0].item()
    return number if isinstance(number, bool | int | float) else None


def _path(value: object) -> str:
    return value.function_path if isinstance(value, Made) else ""


def _described(dtype: object) -> tuple[str, bool]:
    """The code of a pickled dtype ("f4", "O8", or a name of ml_dtypes), and if it is big-endian."""
    if isinstance(dtype, Global):  # a scalar type by itself
        return dtype.path.rpartition(".")[2], False
    if not isinstance(dtype, Made) or not dtype.args:
        raise BadArray("a numpy array without a type")
    kind = dtype.args[0]
    code = kind.path.rpartition(".")[2] if isinstance(kind, Global) else kind
    if not isinstance(code, str):
        raise BadArray("a numpy array without a type")
    order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else "<"
    return code, isinstance(order, str) and order == ">"


def _sizes(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > _MAX_DIMENSIONS:
        raise BadArray("a numpy array of a malformed shape")
    sizes = tuple(n for n in value if type(n) is int and 0 <= n < 1 << 62)
    if len(sizes) != len(value):
        raise BadArray("a numpy array of a malformed shape")
    return sizes


def _raw(value: object, size: int | None) -> bytes:
    """The bytes of an array, as the protocols write them.

    Protocol 2 of Python 3 writes latin-1 text and how to encode it; Python 2 wrote a str, which
    this reader decoded as UTF-8 or else latin-1: the size tells which.
    """
    text = value
    encodings: tuple[str, ...] = ("utf-8", "latin-1")
    if isinstance(value, Made) and value.function_path == "_codecs.encode" and value.args:
        text, encodings = value.args[0], ("latin-1",)
    elif isinstance(value, Made) and value.function_path.endswith(".bytes") and not value.args:
        text = b""  # how protocol 2 writes no bytes
    data = text if isinstance(text, bytes) else None
    if isinstance(text, str):
        for encoding in encodings:
            with suppress(UnicodeEncodeError):
                data = text.encode(encoding)
            if data is not None and (size is None or len(data) == size):
                break
    if data is None or (size is not None and len(data) != size):
        raise BadArray("a numpy array whose bytes do not fit its shape")
    return data
