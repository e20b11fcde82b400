"""Views of storages as torch's pickles describe them: plain tensors, and what resembles them.

Source: torch/_utils.py (`_rebuild_tensor*`) and `persistent_id` in torch/serialization.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias, TypeGuard

from megasim.checkpoint.dtypes import (
    COMPLEX_PARTS,
    STORAGE_CLASSES,
    STORAGE_DTYPES,
    element_bits,
    is_known,
)
from megasim.checkpoint.pickle_values import Global, Made, PersistentId
from megasim.checkpoint.pickled_arrays import PickledArray
from megasim.errors import printable
from megasim.words import Unread

_MAX_NUMBER = 1 << 62
_MAX_DIMENSIONS = 640  # torch itself takes 64


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of elements kept outside of the pickle; `view` is (offset, numel) within it.

    `numel` counts elements of `dtype`.
    """

    key: str
    dtype: str
    numel: int
    view: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class PickledTensor:
    """A view of a storage. `offset` and `strides` count elements of `dtype`, a readable one."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


Plain: TypeAlias = PickledTensor | PickledArray


@dataclass(frozen=True, slots=True)
class OddTensor:
    """A tensor whose values are not decoded, and the plain ones that hold its bytes.

    `parts` are empty where not all of its bytes can be found. `said` is what the pickle itself
    says of it, as the scale of a quantised tensor: two of equal bytes may differ in that. `looked`
    is how many values were looked at to find that out. Of a subclass whose tensors have names,
    `subclass` is its full name, `names` are those of the parts, and `options` what else it holds.
    """

    reason: Unread
    note: str
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    parts: tuple[Plain, ...] = ()
    said: str = ""
    looked: int = 1
    subclass: str = ""
    names: tuple[str, ...] = ()
    options: dict[str, str | int | float] = field(default_factory=dict)


class BadTensor(ValueError):
    """A tensor described in a way torch would not read. The message is a phrase."""


class UnknownStorage(BadTensor):
    """A storage of a type that is not known here: nothing is wrong with the file."""


def parse_storage(reference: object) -> Storage:
    """Return the storage that a persistent id of torch names. Raises BadTensor if it is none."""
    value = reference.value if isinstance(reference, PersistentId) else None
    if (
        not isinstance(value, tuple)
        or len(value) not in (5, 6)
        or not _is_text(value[0], "storage")
    ):
        raise BadTensor("a reference that is not a storage")
    _, kind, key, _, numel, *rest = value
    name = kind.path.rpartition(".")[2] if isinstance(kind, Global) else ""
    if name not in STORAGE_CLASSES:
        raise UnknownStorage(f"a storage of unknown type {printable(name, 40)}")
    if not isinstance(key, str) or not is_natural(numel):
        raise BadTensor("a storage without key and size")
    view = None
    if rest and rest[0] is not None:
        if not isinstance(rest[0], tuple) or len(rest[0]) != 3:
            raise BadTensor("a malformed storage view")
        _, begin, size = rest[0]
        if not is_natural(begin) or not is_natural(size):
            raise BadTensor("a malformed storage view")
        view = (begin, size)
    return Storage(key, STORAGE_CLASSES[name], numel, view)


def bare_storage(reference: PersistentId) -> OddTensor:
    """Return what a storage without a tensor around it holds. Raises BadTensor if it is none."""
    storage = parse_storage(reference)
    return OddTensor(
        Unread.OBJECT,
        "a bare storage, not a tensor",
        storage.dtype,
        (storage.numel,),
        (bytes_of(storage),),
    )


def parse_view(path: str, args: tuple[object, ...]) -> PickledTensor | OddTensor:
    """Return the tensor that a call of `_rebuild_tensor`, `_v2` or `_v3` would have made.

    Raises BadTensor if it is malformed.
    """
    newest = path.endswith("_v3")
    if len(args) < (7 if newest else 4):
        raise BadTensor("a tensor with too few arguments")
    try:
        storage = parse_storage(args[0])
    except UnknownStorage as e:
        return OddTensor(Unread.DTYPE, str(e), shape=parse_sizes(args[2]))
    dtype = storage.dtype
    if newest:  # _v3 names the dtype, over an untyped storage
        kind = args[6].path if isinstance(args[6], Global) else ""
        dtype = kind.removeprefix("torch.")
    offset, shape, strides = args[1], parse_sizes(args[2]), parse_sizes(args[3])
    if not is_known(dtype):
        note = f"an unknown dtype {printable(dtype, 40)}"
        said = repr((offset, strides)) if is_natural(offset) else ""
        return OddTensor(Unread.DTYPE, note, dtype, shape, (bytes_of(storage),), said)
    tensor = as_read(storage, dtype, offset, shape, strides)
    bits = args[7 if newest else 6 :]
    if bits and isinstance(bits[0], dict) and any(v is True for v in bits[0].values()):
        said = ",".join(sorted(k for k, v in bits[0].items() if v is True and isinstance(k, str)))
        note = "a tensor whose negation or conjugation is still to be done"
        return OddTensor(Unread.LAYOUT, note, dtype, shape, (tensor,), said)
    if dtype not in STORAGE_DTYPES and dtype not in COMPLEX_PARTS:
        note = f"elements of type {dtype} are not decoded"
        return OddTensor(Unread.DTYPE, note, dtype, shape, (tensor,))
    return tensor


def as_read(
    storage: Storage, dtype: str, offset: object, shape: tuple[int, ...], strides: tuple[int, ...]
) -> PickledTensor:
    """Return a view in a dtype that is read: complex numbers as pairs, codes as plain integers.

    Raises BadTensor if offset, shape and strides make no view.
    """
    if not is_natural(offset) or len(shape) != len(strides):
        raise BadTensor("a malformed shape or stride")
    if dtype in COMPLEX_PARTS:
        doubled = (*(2 * stride for stride in strides), 1)
        return PickledTensor(storage, COMPLEX_PARTS[dtype], 2 * offset, (*shape, 2), doubled)
    if dtype not in STORAGE_DTYPES:
        dtype = f"uint{max(element_bits(dtype), 8)}"
    return PickledTensor(storage, dtype, offset, shape, strides)


def bytes_of(storage: Storage) -> PickledTensor:
    """Return the bytes of a storage as a tensor."""
    numel = storage.view[1] if storage.view else storage.numel
    size = numel * element_bits(storage.dtype) // 8
    return PickledTensor(storage, "uint8", 0, (size,), (1,))


def parse_sizes(value: object) -> tuple[int, ...]:
    """Return a shape or strides. Raises BadTensor unless they are natural numbers."""
    if isinstance(value, Made) and len(value.args) == 1:  # torch.Size((2, 3))
        value = value.args[0]
    if isinstance(value, tuple | list) and len(value) > _MAX_DIMENSIONS:
        raise BadTensor("a shape with far too many dimensions")
    sizes = tuple(n for n in value if is_natural(n)) if isinstance(value, tuple | list) else ()
    if not isinstance(value, tuple | list) or len(sizes) != len(value):
        raise BadTensor("a malformed shape or stride")
    return sizes


def is_natural(value: object) -> TypeGuard[int]:
    """Whether a value is an int, neither negative nor absurd."""
    return type(value) is int and 0 <= value < _MAX_NUMBER


def _is_text(value: object, text: str) -> bool:
    return isinstance(value, str) and value == text
