"""Tensors as torch's pickles describe them: which call, on which storage, seen in which shape.

Source: torch/_utils.py (`_rebuild_*`) and torch/_tensor.py (`__reduce_ex__`). What is no plain
tensor is kept as `OddTensor`: what it is, and the plain tensors that it is made of, so that its
bytes at least can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from megasim.checkpoint.dtypes import COMPLEX_PARTS
from megasim.checkpoint.pickle_values import Global, Made, Opaque, PersistentId
from megasim.checkpoint.pickled_arrays import (
    BadArray,
    OddArray,
    PickledArray,
    is_array,
    parse_array,
)
from megasim.checkpoint.pickled_storages import (
    BadTensor,
    OddTensor,
    PickledTensor,
    Plain,
    as_read,
    parse_sizes,
    parse_storage,
    parse_view,
)
from megasim.errors import printable
from megasim.words import Unread

_MAX_WRAPPERS = 8  # a parameter of a subclass of a tensor: wrappers in wrappers
_MAX_INSIDE = 10_000  # containers looked at within one tensor subclass
_MAX_SAID = 1 << 20  # characters of what it says beside its tensors

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
_SPARSE = {f"torch._utils._rebuild_sparse{v}_tensor" for v in ("", "_csr")}
_FROM_ARRAY = {
    "torch._utils._rebuild_device_tensor_from_numpy",
    "torch._utils._rebuild_xla_tensor",
}
_SUBCLASS = "torch._utils._rebuild_wrapper_subclass"
_QUANTIZED = "torch._utils._rebuild_qtensor"
_NESTED = "torch._utils._rebuild_nested_tensor"
_META = "torch._utils._rebuild_meta_tensor_no_storage"
_CALLS: Final = (_VIEWS | _WRAPPERS | _FROM_TYPE | _SPARSE | _FROM_ARRAY) | {
    _SUBCLASS,
    _QUANTIZED,
    _NESTED,
    _META,
}
_LAYOUTS = ("coo", "csr", "csc", "bsr", "bsc")
# Elements stored twice are added up: numpy can do so in these.
_ADDABLE = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8")
_RAGGED = "a nested tensor, whose rows differ in length"


@dataclass(frozen=True, slots=True)
class PickledSparse:
    """A sparse tensor: see `megasim.checkpoint.tensors.SparseParts`."""

    layout: str
    shape: tuple[int, ...]
    indices: tuple[PickledTensor, ...]
    values: PickledTensor

    @property
    def dtype(self) -> str:
        """Of the values, and so of the dense elements."""
        return self.values.dtype


Pickled: TypeAlias = PickledTensor | PickledArray | PickledSparse | OddTensor


def is_tensor(value: object) -> bool:
    """Whether `value` stands for a tensor or a numpy array, readable or not."""
    return isinstance(value, Made) and (value.function_path in _CALLS or is_array(value))


def parse_tensor(value: object, depth: int = 0) -> Pickled:
    """Return the tensor that a value stands for.

    A complex tensor comes as its real and imaginary parts, in one more dimension of size 2.

    Args:
        value: one for which `is_tensor` is true.
        depth: how many tensors it stands in, where tensors are made of others.

    Raises BadTensor if it is malformed, or no tensor at all.
    """
    for _ in range(_MAX_WRAPPERS - depth):
        if not isinstance(value, Made):
            raise BadTensor("not a tensor")
        path, args = value.function_path, value.args
        if is_array(value):
            return _array(value)
        if path in _VIEWS:
            return parse_view(path, args)
        if path in _SPARSE:
            return _sparse(args, depth)
        if path in _FROM_ARRAY and args:
            return _from_array(args)
        if path == _META:
            return _meta(args)
        if path == _QUANTIZED:
            return _quantized(args, depth)
        if path == _NESTED:
            return _odd(_RAGGED, args, depth)
        if path in _WRAPPERS and args:
            value = args[0]
        elif path in _FROM_TYPE and len(args) > 2 and isinstance(args[2], tuple):
            kind = args[0].path if isinstance(args[0], Global) else ""
            if kind == _SUBCLASS or kind not in _CALLS:
                return _subclass(args, depth)
            value = Made(args[0], args[2])
        else:
            break
    raise BadTensor("a tensor pickled in an unknown way")


def plain_parts(found: Pickled) -> tuple[Plain, ...]:
    """Return the plain tensors that one is made of: it alone, or indices and values, or none."""
    if isinstance(found, OddTensor):
        return found.parts
    return (*found.indices, found.values) if isinstance(found, PickledSparse) else (found,)


def _array(value: object) -> Pickled:
    try:
        found = parse_array(value)
    except BadArray as e:
        raise BadTensor(str(e)) from None
    if isinstance(found, OddArray):
        data = found.data
        parts = () if data is None else (PickledArray("uint8", (len(data),), data),)
        return OddTensor(Unread(found.reason), found.note, found.dtype, found.shape, parts)
    if found.dtype in COMPLEX_PARTS:
        return PickledArray(COMPLEX_PARTS[found.dtype], (*found.shape, 2), found.data)
    return found


def _from_array(args: tuple[object, ...]) -> Pickled:
    """A tensor of another device, kept as an array; bfloat16 as float32, which holds it."""
    found = _array(args[0])
    kind = args[1] if len(args) > 1 else None
    dtype = kind.path.removeprefix("torch.") if isinstance(kind, Global) else ""
    if not isinstance(found, PickledArray) or found.dtype == COMPLEX_PARTS.get(dtype, dtype):
        return found
    note = f"a tensor of {printable(dtype, 40)} kept as an array of {found.dtype}"
    return OddTensor(Unread.LAYOUT, note, dtype, found.shape, (found,))


def _sparse(args: tuple[object, ...], depth: int) -> Pickled:
    if len(args) < 2 or not isinstance(args[1], tuple) or len(args[1]) < 3:
        raise BadTensor("a sparse tensor with too few arguments")
    layout, items = _sparse_layout(args[0]), args[1]
    count = 1 if layout == "coo" else 2
    if not all(is_tensor(item) for item in items[: count + 1]):
        raise BadTensor("a sparse tensor without indices and values")
    parsed = [parse_tensor(item, depth + 1) for item in items[: count + 1]]
    shape = parse_sizes(items[count + 1]) if len(items) > count + 1 else ()
    values = parsed[-1]
    indices = tuple(i for i in parsed[:-1] if isinstance(i, PickledTensor))
    note = f"a sparse tensor of layout {printable(layout, 20)}"
    odd = _odd(note, items, depth, shape=shape, dtype=getattr(values, "dtype", None))
    if (
        layout not in _LAYOUTS
        or not isinstance(values, PickledTensor)
        or len(indices) != count
        or any(i.dtype not in ("int64", "int32") for i in indices)
        or any(len(i.shape) != (2 if layout == "coo" else 1) for i in indices)
    ):
        return odd
    is_coalesced = len(items) > 3 and items[3] is True
    if layout == "coo" and not is_coalesced and values.dtype not in _ADDABLE:
        return odd
    # complex values have grown a dimension of 2; so does the whole
    dense = len(values.shape) - (3 if layout in ("bsr", "bsc") else 1)
    if dense == len(shape) - (indices[0].shape[0] if layout == "coo" else 2) + 1:
        shape = (*shape, 2)
    return PickledSparse(layout, shape, indices, values)


def _sparse_layout(value: object) -> str:
    name = value.path if isinstance(value, Global) else None
    if isinstance(value, Made) and value.args:
        name = value.args[0] if isinstance(value.args[0], str) else None
    return (name or "").removeprefix("torch.sparse_")


def _meta(args: tuple[object, ...]) -> OddTensor:
    dtype = args[0].path.removeprefix("torch.") if args and isinstance(args[0], Global) else None
    shape = parse_sizes(args[1]) if len(args) > 1 else None
    return OddTensor(Unread.PLACEHOLDER, "a meta tensor, which has no values", dtype, shape)


def _quantized(args: tuple[object, ...], depth: int) -> OddTensor:
    """Codes with scales: per tensor they stand in the pickle, per channel in tensors beside."""
    if len(args) < 5:
        raise BadTensor("a tensor with too few arguments")
    storage = parse_storage(args[0])
    codes = as_read(storage, storage.dtype, args[1], parse_sizes(args[2]), parse_sizes(args[3]))
    note = f"a quantized tensor ({storage.dtype}), whose codes are not decoded"
    how = _odd(note, (args[4],), depth, dtype=storage.dtype, shape=codes.shape)
    parts = (codes, *how.parts) if how.said else ()
    return OddTensor(
        Unread.DTYPE, note, storage.dtype, codes.shape, parts, how.said, looked=how.looked
    )


def _subclass(args: tuple[object, ...], depth: int) -> Pickled:
    """A tensor made of others, which stand in its state: DTensor, torchao's, masked tensors."""
    kind = args[1].path if isinstance(args[1], Global) else "a subclass"
    inner = args[2] if isinstance(args[2], tuple) else ()
    shape = None
    if isinstance(args[0], Global) and args[0].path == _SUBCLASS and len(inner) > 2:
        shape = parse_sizes(inner[2])
    state = args[3] if len(args) > 3 and isinstance(args[3], dict) else {}
    local = state.get("_local_tensor")
    package, last = kind.partition(".")[0], printable(kind.rpartition(".")[2], 60)
    origin = "" if package == "torch" else f" of {printable(package, 40)}"
    note = f"a {last}{origin}, a tensor subclass that is not decoded"
    if kind.startswith("torch.nested."):
        note = _RAGGED
    elif is_tensor(local):
        found = parse_tensor(local, depth + 1)
        here = getattr(found, "shape", None)
        if here == shape:  # of one rank, or a copy on each
            return found
        note = f"a DTensor, of which this file holds {_times(here)} of {_times(shape)}"
    return _with_names(_odd(note, args[2:], depth, shape=shape), kind, state, depth)


def _with_names(odd: OddTensor, kind: str, state: dict[object, object], depth: int) -> OddTensor:
    """Return a subclass with the names of the tensors that stand in its state, if all do."""
    held = {k: v for k, v in state.items() if isinstance(k, str)}
    tensors = {name: parse_tensor(v, depth + 1) for name, v in held.items() if is_tensor(v)}
    if not odd.parts or tuple(tensors.values()) != odd.parts:
        return odd
    options: dict[str, str | int | float] = {}
    for name, value in held.items():
        if isinstance(value, Global):
            options[name] = value.path
        elif isinstance(value, str | int | float):
            options[name] = value
    return replace(odd, subclass=kind, names=tuple(tensors), options=options)


def _odd(
    note: str,
    value: object,
    depth: int,
    *,
    dtype: str | None = None,
    shape: tuple[int, ...] | None = None,
) -> OddTensor:
    """A tensor in a layout that is not decoded, with all that it is made of, in its order.

    What it is made of is left out where not all of it can be found: a part of the bytes would
    prove nothing.
    """
    parts: list[Plain] = []
    said: list[str] = []
    seen: set[int] = set()
    waiting = [value]
    looked = 0
    while waiting:
        item = waiting.pop()
        looked += 1
        if isinstance(item, Global | str | int | float | None):
            said.append(item.path if isinstance(item, Global) else _repr(item))
            looked += len(said[-1]) // 8
            if looked > _MAX_SAID // 8:
                return OddTensor(Unread.LAYOUT, note, dtype, shape, looked=looked)
            continue
        if id(item) in seen:
            continue
        seen.add(id(item))
        if len(seen) > _MAX_INSIDE or isinstance(item, PersistentId | Opaque):
            return OddTensor(Unread.LAYOUT, note, dtype, shape, looked=looked)
        if is_tensor(item):
            found = parse_tensor(item, depth + 1)
            said.append(f"tensor {getattr(found, 'said', '')}")
            parts += plain_parts(found)
            looked += getattr(found, "looked", 1)
            if not plain_parts(found):
                return OddTensor(Unread.LAYOUT, note, dtype, shape, looked=looked)
        elif isinstance(item, dict):
            waiting += [part for pair in reversed(item.items()) for part in reversed(pair)]
            looked += len(item)
        elif isinstance(item, list | tuple):
            waiting += reversed(item)
            looked += len(item)
        elif isinstance(item, Made):
            waiting += [item.entries, item.elements, item.state, item.args, item.function]
        else:
            said.append(_repr(item))  # bytes
            looked += len(said[-1]) // 8
    return OddTensor(Unread.LAYOUT, note, dtype, shape, tuple(parts), " ".join(said), looked=looked)


def _repr(value: object) -> str:
    """What a plain value is; as much of one that is too long to be said as makes it too long."""
    return repr(value[:_MAX_SAID] if isinstance(value, str | bytes) else value)


def _times(shape: tuple[int, ...] | None) -> str:
    return "an unknown number" if shape is None else "x".join(map(str, shape)) or "one number"
