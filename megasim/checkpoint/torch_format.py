"""Files that torch.save and torch.jit.save write: zip archives, and the older plain pickles.

Only the pickles and the zip directory are read; of the tensors, only where they lie.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from megasim.checkpoint.byte_source import CUT_SHORT, ByteSource
from megasim.checkpoint.contents import (
    BesideTensors,
    FileContents,
    StateDictContents,
    UnreadTensor,
    set_placeholders_apart,
)
from megasim.checkpoint.dtypes import element_bits
from megasim.checkpoint.exported_format import exported_parts, weight_configs
from megasim.checkpoint.limits import Limits, remedy, too_many
from megasim.checkpoint.numpy_format import read_npz
from megasim.checkpoint.parts import Part, Parts, find_parts, script_parts
from megasim.checkpoint.pickle_reader import read_pickle
from megasim.checkpoint.pickle_values import Pickle, PickleCutShort, PickleError, PickleTooLarge
from megasim.checkpoint.pickled_storages import BadTensor, PickledTensor, parse_storage
from megasim.checkpoint.placed_tensors import Span, SpanOf, check_unfolded, place
from megasim.checkpoint.tensors import TensorRef
from megasim.checkpoint.zip_directory import ZipDirectory, read_zip_directory
from megasim.errors import CheckpointError

MAGIC_NUMBER: Final = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER
_PROTOCOL_VERSION = 1001
_FIRST_PIECE = 1 << 20
_SMALL = Limits(opcodes=10_000, memo=10_000)  # for the pickles before that of the object
_CONSTANTS = "constants/"
_RESAVE = "load it in torch and save it again, as .safetensors if you can"
_SCRIPT_CLASS = re.compile(
    r"^class (\w+)\(Module\):\n +__parameters__ = \[(.*)\]\n +__buffers__ = \[(.*)\]$", re.M
)


def read_torch_zip(source: ByteSource) -> FileContents:
    """Return where the tensors of a zip archive of torch.save, torch.jit.save or numpy.savez lie.

    Raises CheckpointError if it is another kind of zip, damaged, compressed, or big-endian.
    """
    directory = read_zip_directory(source)
    pickles = [name for name in directory.entries if name.rpartition("/")[2] == "data.pkl"]
    if not pickles and any(name.endswith(".npy") for name in directory.entries):
        return read_npz(source, directory)
    if not pickles and (configs := weight_configs(directory)):
        found = exported_parts(source, directory, configs)
        raw = b"".join(directory.read(source, name, "header_bytes") for name in configs)
        spans = _entry_spans(source, directory)
        return _contents(source, "exported", found, spans, raw + directory.raw)
    if not pickles:
        raise CheckpointError(
            source.path, "a zip file, but not one of torch.save", "unpack it, or name another file"
        )
    base = min(pickles, key=lambda name: (name.count("/"), name)).removesuffix("data.pkl")
    order = f"{base}byteorder"
    if order in directory.entries and directory.read(source, order) != b"little":
        raise CheckpointError(source.path, "saved on a big-endian machine", _RESAVE)
    limits = source.limits
    raw = directory.read(source, f"{base}data.pkl", "pickle_bytes")
    pickled = _pickle(source, raw, 0)
    constants_file = f"{base}constants.pkl"
    if constants_file in directory.entries:
        kind = "torchscript"
        classes = _script_classes(source, directory, base)
        constants = _constants(source, directory.read(source, constants_file, "pickle_bytes"))
        found = script_parts(source.path, pickled.value, classes, constants, limits)
    else:
        kind = "torch-zip"
        found = find_parts(source.path, pickled.value, limits)

    spans = _entry_spans(source, directory)

    def span(key: str) -> Span | None:
        return spans(f"{base}{key}" if key.startswith(_CONSTANTS) else f"{base}data/{key}")

    return _contents(source, kind, found, span, raw + directory.raw)


def pickled_zip(source: ByteSource) -> tuple[object, SpanOf, bytes]:
    """Return what the pickle of an archive of torch.save holds, where its storages lie, its header.

    Raises CheckpointError if it is another file, damaged, compressed, or big-endian.
    """
    directory = read_zip_directory(source)
    pickles = [name for name in directory.entries if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise CheckpointError(source.path, "no archive of torch.save", "name another file")
    base = pickles[0].removesuffix("data.pkl")
    order = f"{base}byteorder"
    if order in directory.entries and directory.read(source, order) != b"little":
        raise CheckpointError(source.path, "saved on a big-endian machine", _RESAVE)
    raw = directory.read(source, pickles[0], "pickle_bytes")
    spans = _entry_spans(source, directory)
    value = _pickle(source, raw, 0).value
    return value, lambda key: spans(f"{base}data/{key}"), raw + directory.raw


def _entry_spans(source: ByteSource, directory: ZipDirectory) -> SpanOf:
    """Return what tells where the bytes of an entry of an archive lie, by its name."""

    @cache
    def span(name: str) -> Span | None:
        if name not in directory.entries:
            return None
        offset = source.base + directory.data_offset(source, name)
        return Span(offset, directory.entries[name].size)

    return span


def read_torch_legacy(source: ByteSource) -> FileContents:
    """Return where the tensors of a file of torch.save before 1.6 lie.

    The file is five pickles (magic number, version, machine, object, keys of the storages in
    the order of the file), then for each storage its length in elements (int64) and its bytes.

    Raises CheckpointError if it is a pickle of something else, damaged, or big-endian.
    """
    size = _FIRST_PIECE
    while True:
        raw = source.read(0, min(size, source.size))
        try:
            heads, pickled, keys = _legacy_pickles(source, raw)
            break
        except PickleCutShort:
            if len(raw) == source.size:
                raise CheckpointError(source.path, "cut short", CUT_SHORT) from None
            limit = source.limits.pickle_bytes
            if size >= limit:
                problem = too_many("pickle_bytes", limit)
                raise CheckpointError(source.path, problem, remedy()) from None
            size = min(4 * size, limit)  # where the pickles end is not known before they are read
        except PickleError as e:
            raise _bad_pickle(source, e) from None
    if isinstance(heads, dict) and heads.get("little_endian") is False:
        raise CheckpointError(source.path, "saved on a big-endian machine", _RESAVE)
    spans = _legacy_spans(source, pickled, keys)
    found = find_parts(source.path, pickled.value, source.limits)
    return _contents(source, "torch-legacy", found, spans.get, raw[: keys.end])


def _pickle(source: ByteSource, raw: bytes, start: int) -> Pickle:
    try:
        return read_pickle(raw, start, source.limits)
    except PickleError as e:
        raise _bad_pickle(source, e) from None


def _bad_pickle(source: ByteSource, error: PickleError) -> CheckpointError:
    cure = remedy() if isinstance(error, PickleTooLarge) else CUT_SHORT
    return CheckpointError(source.path, str(error), cure)


def _constants(source: ByteSource, raw: bytes) -> object:
    """The constants of TorchScript code; the keys of their storages begin with their folder."""
    pickled = _pickle(source, raw, 0)
    for reference in pickled.persistent_ids:
        value = reference.value
        if isinstance(value, tuple) and len(value) > 2 and isinstance(value[2], str):
            reference.value = (*value[:2], f"{_CONSTANTS}{value[2]}", *value[3:])
    return pickled.value


def _legacy_pickles(source: ByteSource, raw: bytes) -> tuple[object, Pickle, Pickle]:
    """The machine's description, the object, and the storage keys."""
    magic = read_pickle(raw, 0, _SMALL)
    if type(magic.value) is not int or magic.value != MAGIC_NUMBER:
        raise CheckpointError(
            source.path, "a pickle, but not one of torch.save", "name a file that holds weights"
        )
    version = read_pickle(raw, magic.end, _SMALL)
    if type(version.value) is not int or version.value != _PROTOCOL_VERSION:
        raise CheckpointError(source.path, "an unknown version of torch's format", _RESAVE)
    machine = read_pickle(raw, version.end, _SMALL)
    pickled = read_pickle(raw, machine.end, source.limits)
    return machine.value, pickled, read_pickle(raw, pickled.end, source.limits)


def _legacy_spans(source: ByteSource, pickled: Pickle, keys: Pickle) -> dict[str, Span]:
    itemsizes: dict[str, int] = {}
    for reference in pickled.persistent_ids:
        try:
            storage = parse_storage(reference)
        except BadTensor:
            continue  # the class of a module, say; a tensor that needs it will complain
        itemsizes.setdefault(storage.key, element_bits(storage.dtype) // 8)
    spans: dict[str, Span] = {}
    position = keys.end
    for key in keys.value if isinstance(keys.value, list) else []:
        if not isinstance(key, str) or key not in itemsizes or key in spans:
            raise CheckpointError(source.path, "the list of its storages is damaged", CUT_SHORT)
        count = int.from_bytes(source.read(position, 8), "little")
        spans[key] = Span(source.base + position + 8, count * itemsizes[key])
        position += 8 + spans[key].nbytes
        if position > source.size:
            raise CheckpointError(
                source.path, f"cut short: {position} bytes needed, {source.size} there", CUT_SHORT
            )
    return spans


def _contents(
    source: ByteSource, kind: str, found: Parts, span: SpanOf, header: bytes
) -> FileContents:
    """Put it all together, unless the tensors show the same bytes again and again without end."""
    parts = [_state_dict(source, part, span) for part in (found.main, *found.others)]
    beside = tuple(
        BesideTensors(
            item.place,
            item.role,
            {k: place(source.path, k, t, span, source.limits) for k, t in item.tensors.items()},
        )
        for item in found.beside
    )
    refs = [ref for part in parts for ref in part.tensors.values()]
    refs += [t for item in beside for t in item.tensors.values() if isinstance(t, TensorRef)]
    check_unfolded(source, refs)
    return FileContents(kind, parts[0], found.metadata, header, tuple(parts[1:]), beside)


def _state_dict(source: ByteSource, part: Part, span: SpanOf) -> StateDictContents:
    tensors: dict[str, TensorRef] = {}
    unread: dict[str, UnreadTensor] = {}
    tied: dict[str, str] = {}
    first: dict[PickledTensor, str] = {}
    for key, pickled in part.tensors.items():
        found = place(source.path, key, pickled, span, source.limits)
        if isinstance(found, TensorRef):
            tensors[key] = found
        else:
            unread[key] = found
        if isinstance(pickled, PickledTensor) and 0 not in pickled.shape:
            holder = first.setdefault(pickled, key)
            if holder != key:
                tied[key] = holder
    unread |= set_placeholders_apart(tensors)
    return StateDictContents(tensors, unread, tied, part.place, part.role)


def _script_classes(
    source: ByteSource, directory: ZipDirectory, base: str
) -> dict[str, frozenset[str]]:
    """The parameters and buffers of each module class, as the archive's code declares them.

    The code is searched for its declarations, line by line; it is never compiled or run.
    """
    classes: dict[str, frozenset[str]] = {}
    held = 0
    for name, entry in directory.entries.items():
        if not name.startswith(f"{base}code/") or not name.endswith(".py"):
            continue
        held += entry.size
        source.limits.check("text_bytes", held, source.path, "code")
        code = directory.read(source, name, "text_bytes").decode("utf-8", "replace")
        module = name.removeprefix(f"{base}code/").removesuffix(".py").replace("/", ".")
        for kind, *lists in _SCRIPT_CLASS.findall(code):
            attributes = frozenset(re.findall(r'"([^"]*)"', ",".join(lists)))
            classes[f"{module}.{kind}"] = attributes
    return classes
