"""Archives of torch.export (`.pt2`): weights as bytes of whole storages, described by a JSON.

`data/weights/*_weights_config.json` names for each key the file of its storage, and size, strides,
offset and dtype, in numbers of its own. The program (`models/`) and the inputs that it was exported
with are left alone. Source: torch 2.13.0, `export/pt2_archive` and `_export/serde/schema.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from megasim.checkpoint.byte_source import ByteSource
from megasim.checkpoint.dtypes import element_bits
from megasim.checkpoint.limits import DAMAGED
from megasim.checkpoint.parts import Part, Parts
from megasim.checkpoint.pickled_storages import (
    BadTensor,
    OddTensor,
    Storage,
    as_read,
    is_natural,
)
from megasim.checkpoint.pickled_tensors import Pickled
from megasim.checkpoint.state_dict import StateDictWalk
from megasim.checkpoint.strict_json import JSON, parse_json
from megasim.checkpoint.zip_directory import ZipDirectory
from megasim.errors import CheckpointError, printable
from megasim.words import PartRole, Unread

# The numbers of ScalarType there, which are not those of torch itself.
_DTYPES: Final = {
    **{1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32"},
    **{8: "float64", 9: "complex32", 10: "complex64", 11: "complex128", 12: "bool"},
    **{13: "bfloat16", 28: "uint16", 29: "float8_e4m3fn", 30: "float8_e5m2"},
    **{31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz", 33: "float8_e8m0fnu"},
    **{34: "uint32", 35: "uint64"},
}
_STRIDED: Final = 7
_CONFIG: Final = "_weights_config.json"
_WEIGHTS: Final = "data/weights/"


def weight_configs(directory: ZipDirectory) -> list[str]:
    """Return the entries of an archive of torch.export that describe weights; else none."""
    return sorted(
        name
        for name in directory.entries
        if name.endswith(_CONFIG) and _WEIGHTS in name and "/" not in name.rpartition(_WEIGHTS)[2]
    )


def exported_parts(source: ByteSource, directory: ZipDirectory, configs: Iterable[str]) -> Parts:
    """Return the state dicts of an exported program; storages are named by their entries.

    Raises CheckpointError where what it says of them is malformed.
    """
    walk = StateDictWalk(source.path, source.limits)
    parts = [_part(source, directory, name, walk) for name in configs]
    return Parts(parts[0], parts[1:])


def _part(source: ByteSource, directory: ZipDirectory, name: str, walk: StateDictWalk) -> Part:
    raw = directory.read(source, name, "header_bytes")
    try:
        said = parse_json(raw, source.limits.header_values)
    except ValueError as error:
        raise CheckpointError(source.path, f"its weights_config: {error}", DAMAGED) from None
    config = said.get("config") if isinstance(said, dict) else None
    if not isinstance(config, dict):
        raise CheckpointError(source.path, "a weights_config without weights", DAMAGED)
    folder, _, file = name.rpartition("/")
    part = Part(file.removesuffix(_CONFIG), PartRole.WEIGHTS)
    for key, value in config.items():
        walk.spend(1, "tensors")
        key = walk.key(key)
        try:
            part.tensors[key] = _tensor(directory, folder, value)
        except BadTensor as error:
            raise CheckpointError(source.path, str(error), DAMAGED, key) from None
    return part


def _tensor(directory: ZipDirectory, folder: str, said: JSON) -> Pickled:
    meta = said.get("tensor_meta") if isinstance(said, dict) else None
    file = said.get("path_name") if isinstance(said, dict) else None
    if not isinstance(said, dict) or not isinstance(meta, dict) or not isinstance(file, str):
        raise BadTensor("a tensor without its description")
    shape, strides = _sizes(meta.get("sizes")), _sizes(meta.get("strides"))
    number = meta.get("dtype")
    dtype = _DTYPES.get(number) if type(number) is int else None
    if said.get("use_pickle") is not False:
        note = "kept as a pickle of its own in the archive: not decoded"
        return OddTensor(Unread.LAYOUT, note, dtype, shape)
    if dtype is None or meta.get("layout") != _STRIDED:
        note = f"a dtype or layout that is not known: {printable(number, 20)}"
        return OddTensor(Unread.DTYPE, note, None, shape)
    entry = directory.entries.get(f"{folder}/{file}")
    if entry is None:
        raise BadTensor("its bytes are not in the archive")
    itemsize = element_bits(dtype) // 8
    storage = Storage(f"{folder}/{file}", dtype, entry.size // itemsize, None)
    return as_read(storage, dtype, _number(meta.get("storage_offset")), shape, strides)


def _sizes(said: JSON) -> tuple[int, ...]:
    return tuple(_number(one) for one in said) if isinstance(said, list) else ()


def _number(said: JSON) -> int:
    """Return a number of a shape; BadTensor for one that was left open, and for nonsense."""
    number = said.get("as_int") if isinstance(said, dict) else None
    if not is_natural(number):
        raise BadTensor("a size that is no number")
    return number
