"""Tensors as torch's pickles describe them: which call, on which storage, seen in which shape.

Source: torch/_utils.py (`_rebuild_*`) and `persistent_id` in torch/serialization.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeGuard

from megasim.checkpoint.dtypes import STORAGE_CLASSES, STORAGE_DTYPES, is_known
from megasim.checkpoint.pickle_values import Global, Made, PersistentId
from megasim.checkpoint.tensors import TensorRef, is_contiguous
from megasim.errors import CheckpointError, printable

_MAX_NUMBER = 1 << 62
_MAX_DIMENSIONS = 32
MAX_UNFOLDED_BYTES: Final = 4 << 30
"""A view may repeat its storage (`expand`) up to this size, or that of the storage if larger."""

# The call that makes a tensor out of a storage, or wraps a call that does.
_VIEWS = {f"torch._utils._rebuild_tensor{v}" for v in ("", "_v2", "_v3")}
_WRAPPERS = {
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor",
    "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer",
}
_FROM_TYPE = {
    f"torch.{module}._rebuild_from_type{v}" for module in ("tensor", "_tensor") for v in ("", "_v2")
}
_REFUSED = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_qtensor": "a quantized tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a meta tensor, which has no data",
    "torch._utils._rebuild_device_tensor_from_numpy": "a tensor kept as a numpy array",
    "torch._utils._rebuild_xla_tensor": "a tensor kept as a numpy array",
    "torch._utils._rebuild_wrapper_subclass": "a tensor subclass without data",
}


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of elements kept outside of the pickle; `view` is (offset, numel) within it."""

    key: str
    dtype: str
    numel: int
    view: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class PickledTensor:
    """A view of a storage. `offset` and `strides` count elements of `dtype`."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """Where the bytes of a storage lie in a file."""

    offset: int
    nbytes: int


class BadTensor(ValueError):
    """A tensor described in a way torch would not read. The message is a phrase."""


def is_tensor(value: object) -> bool:
    """Whether `value` stands for a tensor, readable or not."""
    if not isinstance(value, Made) or not isinstance(value.function, Global):
        return False
    path = value.function.path
    return path in _VIEWS or path in _WRAPPERS or path in _FROM_TYPE or path in _REFUSED


def parse_tensor(value: object) -> PickledTensor | str:
    """Return the tensor that a value stands for, or the reason why it cannot be compared.

    Raises BadTensor if it is malformed, or no tensor at all.
    """
    for _ in range(8):  # a parameter of a subclass of a tensor: wrappers in wrappers
        if not isinstance(value, Made) or not isinstance(value.function, Global):
            raise BadTensor("not a tensor")
        path, args = value.function.path, value.args
        if path in _REFUSED:
            return _REFUSED[path]
        if path in _VIEWS:
            return _parse_view(path, args)
        if path in _WRAPPERS and args:
            value = args[0]
        elif path in _FROM_TYPE and len(args) > 2 and isinstance(args[2], tuple):
            value = Made(args[0], args[2])
        else:
            break
    raise BadTensor("a tensor pickled in an unknown way")


def parse_storage(reference: object) -> Storage:
    """Return the storage that a persistent id of torch names. Raises BadTensor if it is none."""
    value = reference.value if isinstance(reference, PersistentId) else None
    if (
        not isinstance(value, tuple)
        or len(value) not in (5, 6)
        or not _is_text(value[0], "storage")
    ):
        raise BadTensor("a reference that is no storage")
    _, kind, key, _, numel, *rest = value
    name = kind.path.rpartition(".")[2] if isinstance(kind, Global) else ""
    if name not in STORAGE_CLASSES:
        raise BadTensor(f"a storage of unknown type {printable(name, 40)}")
    if not isinstance(key, str) or not _is_natural(numel):
        raise BadTensor("a storage without key and size")
    view = None
    if rest and rest[0] is not None:
        if not isinstance(rest[0], tuple) or len(rest[0]) != 3:
            raise BadTensor("a malformed storage view")
        _, begin, size = rest[0]
        if not _is_natural(begin) or not _is_natural(size):
            raise BadTensor("a malformed storage view")
        view = (begin, size)
    return Storage(key, STORAGE_CLASSES[name], numel, view)


def place_tensor(path: Path, key: str, tensor: PickledTensor, span: Span | None) -> TensorRef:
    """Return where a tensor's elements lie, given where its storage does.

    Raises CheckpointError, naming the key, if the tensor reaches beyond its storage, or repeats
    it to more than `MAX_UNFOLDED_BYTES`.
    """
    numel = math.prod(tensor.shape)
    if numel == 0:  # no bytes needed, so it does not matter where they are not
        return TensorRef(key, tensor.dtype, tensor.shape, str(path), 0)
    if span is None:
        raise CheckpointError(path, "its bytes are not in the file", "get the file again", key)
    itemsize = STORAGE_DTYPES[tensor.dtype].itemsize
    last = tensor.offset + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    if (last + 1) * itemsize > span.nbytes:
        raise CheckpointError(
            path,
            f"element {last} of a storage of {span.nbytes // itemsize}",
            "the file is damaged: get it again",
            key,
        )
    if numel * itemsize > max(MAX_UNFOLDED_BYTES, span.nbytes):
        raise CheckpointError(
            path,
            f"{span.nbytes} bytes are shown as {numel * itemsize}, as if to fill the memory",
            "if it is meant, save the tensor as it was before expand()",
            key,
        )
    strides = None if is_contiguous(tensor.shape, tensor.strides) else tensor.strides
    offset = span.offset + tensor.offset * itemsize
    return TensorRef(key, tensor.dtype, tensor.shape, str(path), offset, strides)


def _parse_view(path: str, args: tuple[object, ...]) -> PickledTensor | str:
    newest = path.endswith("_v3")
    if len(args) < (7 if newest else 4):
        raise BadTensor("a tensor with too few arguments")
    storage = parse_storage(args[0])
    dtype = storage.dtype
    if newest:  # _v3 names the dtype, over an untyped storage
        kind = args[6].path if isinstance(args[6], Global) else ""
        dtype = kind.removeprefix("torch.")
        if not is_known(dtype):
            raise BadTensor(f"an unknown dtype {printable(kind, 40)}")
    offset, shape, strides = args[1], _parse_sizes(args[2]), _parse_sizes(args[3])
    if not _is_natural(offset) or len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS:
        raise BadTensor("a malformed shape or stride")
    if dtype not in STORAGE_DTYPES:
        return f"elements of type {dtype} are not compared"
    bits = args[7 if newest else 6 :]
    if bits and isinstance(bits[0], dict) and any(v is True for v in bits[0].values()):
        return "a tensor whose negation or conjugation is still to be done"
    return PickledTensor(storage, dtype, offset, shape, strides)


def _parse_sizes(value: object) -> tuple[int, ...]:
    if isinstance(value, Made) and len(value.args) == 1:  # torch.Size((2, 3))
        value = value.args[0]
    sizes = tuple(n for n in value if _is_natural(n)) if isinstance(value, tuple | list) else ()
    if not isinstance(value, tuple | list) or len(sizes) != len(value):
        raise BadTensor("a malformed shape or stride")
    return sizes


def _is_natural(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < _MAX_NUMBER


def _is_text(value: object, text: str) -> bool:
    return isinstance(value, str) and value == text
