"""Folders of torch.distributed.checkpoint: `.metadata`, a pickle, and files of pieces (`.distcp`).

The metadata says of each tensor how large it is, which boxes of it were saved, and where: a piece
is a file of torch.save of its own, and a `.distcp` is one of them after another. Nothing is
unpickled; pieces are put together by where they lie, and none is copied.

Source: torch/distributed/checkpoint/metadata.py and filesystem.py, torch 2.13.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from megasim.checkpoint.byte_source import ByteSource
from megasim.checkpoint.contents import BesideTensors, StateDictContents, UnreadTensor, storable
from megasim.checkpoint.file_identity import FileIdentity, combine, identify
from megasim.checkpoint.folders import DISTRIBUTED_METADATA
from megasim.checkpoint.limits import Limits
from megasim.checkpoint.parts import WRAPPERS, is_training_name, role_of_name
from megasim.checkpoint.pickle_reader import read_pickle
from megasim.checkpoint.pickle_values import Made, PickleError
from megasim.checkpoint.tensors import TensorRef, fuse_refs
from megasim.checkpoint.torch_format import read_torch_zip
from megasim.errors import CheckpointError, printable
from megasim.words import PartRole, Unread

_AGAIN: Final = "copy or download the folder again"
_MODULE: Final = "torch.distributed.checkpoint."
Shape = tuple[int, ...]


@dataclass(frozen=True)
class DistributedContents:
    """What a folder holds: the model, other state dicts, what is beside, and its identity."""

    main: StateDictContents
    others: tuple[StateDictContents, ...]
    beside: tuple[BesideTensors, ...]
    identity: FileIdentity


@dataclass(frozen=True)
class _Piece:
    """A box of a tensor: where it begins in the tensor, its sizes, and where it was saved."""

    offsets: Shape
    sizes: Shape
    file: str
    begin: int
    length: int


def read_distributed(folder: Path, limits: Limits) -> DistributedContents:
    """Return where the tensors of such a folder lie; of each file, only its directories are read.

    Raises CheckpointError where the metadata is damaged, or a file that it names is not there.
    """
    with ExitStack() as opened:
        source = opened.enter_context(ByteSource(folder / DISTRIBUTED_METADATA, limits))
        limits.check("pickle_bytes", source.size, source.path)
        raw = source.read(0, source.size)
        shapes, pieces, paths = _parse(source, raw)
        identities = {DISTRIBUTED_METADATA: identify(source, raw)}
        sources: dict[str, ByteSource] = {}
        for name in sorted({piece.file for held in pieces.values() for piece in held}):
            if not (folder / name).is_file():
                raise CheckpointError(folder, f"the file {printable(name)} is not there", _AGAIN)
            sources[name] = opened.enter_context(ByteSource(folder / name, limits))
            identities[name] = identify(sources[name], b"")
        found = {
            key: _tensor(source.path, key, shape, pieces.get(key, []), sources)
            for key, shape in shapes.items()
        }
    main, others, beside = _split(found, paths)
    return DistributedContents(main, others, beside, combine(identities))


def _parse(
    source: ByteSource, raw: bytes
) -> tuple[dict[str, Shape], dict[str, list[_Piece]], dict[str, tuple[str, ...]]]:
    """Return shapes and pieces of all tensors by their flat names, and the names taken apart."""
    try:
        root = read_pickle(raw, 0, source.limits).value
    except PickleError as error:
        raise CheckpointError(source.path, str(error), _AGAIN) from None
    state = _state(root, "Metadata")
    described, stored = state.get("state_dict_metadata"), state.get("storage_data")
    if not isinstance(described, dict) or not isinstance(stored, dict):
        raise CheckpointError(source.path, "no metadata of a checkpoint", _AGAIN)
    source.limits.check("tensors", len(described), source.path)
    shapes: dict[str, Shape] = {}
    for key, value in described.items():
        tensor = _state(value, "TensorStorageMetadata")
        if isinstance(key, str) and (size := _sizes(tensor.get("size"))) is not None:
            source.limits.check("dimensions", len(size), source.path, key)
            shapes[storable(key)] = size
    places: dict[tuple[str, Shape], tuple[str, int, int]] = {}
    for index, info in stored.items():
        at, where = _state(index, "MetadataIndex"), _state(info, "_StorageInfo")
        offset, name = _sizes(at.get("offset")), where.get("relative_path")
        begin, length = where.get("offset"), where.get("length")
        if offset is None or not isinstance(at.get("fqn"), str):
            continue  # an object, not a tensor
        plain_name = isinstance(name, str) and re.search(r"[/\\:\0]|^\.", name) is None
        if not plain_name or type(begin) is not int or type(length) is not int:
            raise CheckpointError(source.path, "a piece outside of the folder", "do not use it")
        places[storable(str(at["fqn"])), offset] = str(name), begin, length
    pieces: dict[str, list[_Piece]] = {}
    for key, value in described.items():
        if not isinstance(key, str) or storable(key) not in shapes:
            continue
        key = storable(key)
        chunks = _state(value, "TensorStorageMetadata").get("chunks")
        for chunk in chunks if isinstance(chunks, list) else []:
            box = _state(chunk, "ChunkStorageMetadata")
            offsets, sizes = _sizes(box.get("offsets")), _sizes(box.get("sizes"))
            if offsets is None or sizes is None or len(offsets) != len(shapes[key]):
                raise CheckpointError(source.path, "a piece of a bad shape", _AGAIN, key)
            place = places.get((key, offsets))
            if place is not None:
                pieces.setdefault(key, []).append(_Piece(offsets, sizes, *place))
    return shapes, pieces, _paths(state.get("planner_data"), shapes)


def _paths(planned: object, shapes: Mapping[str, Shape]) -> dict[str, tuple[str, ...]]:
    """Return the names that each flat key is made of; the key itself where that is not said."""
    given = planned if isinstance(planned, dict) else {}
    paths: dict[str, tuple[str, ...]] = {}
    for key in shapes:
        path = given.get(key)
        named = isinstance(path, tuple) and path and all(isinstance(p, str | int) for p in path)
        paths[key] = tuple(storable(str(p)) for p in path) if named else (key,)  # type: ignore[union-attr]
    return paths


def _state(value: object, kind: str) -> dict[str, object]:
    """Return the attributes of an object of a class of torch.distributed.checkpoint."""
    if not isinstance(value, Made):
        return {}
    # objects are made by copyreg.__newobj__ or by a reduce of their class, and then filled
    named = [value.function_path, *(getattr(arg, "path", "") for arg in value.args)]
    if not any(n.startswith(_MODULE) and n.endswith(f".{kind}") for n in named):
        return {}
    return {k: v for k, v in value.state.items() if isinstance(k, str)} if isinstance(
        value.state, dict
    ) else {}  # fmt: skip


def _sizes(value: object) -> Shape | None:
    """Return a torch.Size as a tuple of natural numbers; None for anything else."""
    if isinstance(value, Made) and value.function_path == "torch.Size":
        value = value.args[0] if len(value.args) == 1 else None
    if not isinstance(value, tuple | list):
        return None
    sizes = tuple(n for n in value if type(n) is int and 0 <= n < 1 << 62)
    return sizes if len(sizes) == len(value) else None


def _tensor(
    path: Path,
    key: str,
    shape: Shape,
    pieces: list[_Piece],
    sources: Mapping[str, ByteSource],
) -> TensorRef | UnreadTensor:
    """Return a tensor out of its pieces, or what is known of one that they do not make up."""
    refs: list[tuple[_Piece, TensorRef]] = []
    for piece in pieces:
        part = sources[piece.file].part(piece.begin, piece.length)
        held = read_torch_zip(part).main
        ref = next(iter(held.tensors.values()), None)
        if ref is None or len(held.tensors) != 1:
            note = next((odd.note for odd in held.unread.values()), "its pieces hold no tensor")
            return UnreadTensor(Unread.LAYOUT, note, None, shape)
        if ref.shape != piece.sizes:
            raise CheckpointError(path, "a piece of another shape than is said", _AGAIN, key)
        refs.append((piece, replace(ref, key=key)))
    stored = tuple(ref for _, ref in refs)
    dtype = stored[0].dtype if stored else None
    if any(ref.dtype != dtype for ref in stored):
        return UnreadTensor(Unread.LAYOUT, "pieces of several dtypes", None, shape, stored)
    refs.sort(key=lambda item: item[0].offsets)
    if not refs or _covered(shape, [piece for piece, _ in refs]) < math.prod(shape):
        note = "not all of its pieces are in the folder"
        return UnreadTensor(Unread.ABSENT, note, dtype, shape, stored)
    if len(refs) == 1:
        return refs[0][1]
    row = 0
    for piece, _ in refs:
        # rows one after another: what FSDP and plain data parallelism save
        if piece.offsets != (row, *[0] * (len(shape) - 1)) or piece.sizes[1:] != shape[1:]:
            note = "pieces that are not whole rows, as of tensor parallelism: not decoded"
            return UnreadTensor(Unread.LAYOUT, note, dtype, shape, stored)
        row += piece.sizes[0]
    whole = fuse_refs(key, [ref for piece, ref in refs if 0 not in piece.sizes])
    return replace(whole, shape=shape)


def _covered(shape: Shape, pieces: Iterable[_Piece]) -> int:
    """Return how many elements some pieces hold together."""
    return sum(math.prod(piece.sizes) for piece in pieces)


def _split(
    found: Mapping[str, TensorRef | UnreadTensor], paths: Mapping[str, tuple[str, ...]]
) -> tuple[StateDictContents, tuple[StateDictContents, ...], tuple[BesideTensors, ...]]:
    """Take the entries of the saved dict apart, as those of a pickled one."""
    tops: dict[str, list[str]] = {}
    for key in found:
        tops.setdefault(paths[key][0] if len(paths[key]) > 1 else "", []).append(key)
    training = [top for top in tops if top and is_training_name(top)]
    wrapper = next((w for w in WRAPPERS if w in tops), None)
    copies = [top for top in tops if top and top not in training and role_of_name(top)]
    parts: list[StateDictContents] = []
    rest = [t for t in tops if t not in training and t not in copies and t != wrapper]
    if wrapper is not None:
        parts.append(_part(found, paths, tops[wrapper], "", PartRole.WEIGHTS, 1))
    elif rest:
        keys = [key for top in rest for key in tops[top]]
        parts.append(_part(found, paths, keys, "", PartRole.WEIGHTS, 0))
        rest = []
    for top in copies:
        role = role_of_name(top) or PartRole.OTHER
        parts.append(_part(found, paths, tops[top], top, role, 1))
    beside = tuple(
        BesideTensors(
            top or "others",
            PartRole.OPTIMIZER if "optim" in top.lower() else PartRole.OTHER,
            {key: found[key] for key in tops[top]},
        )
        for top in (*training, *rest)
    )
    main = parts[0] if parts else StateDictContents({})
    return main, tuple(parts[1:]), beside


def _part(
    found: Mapping[str, TensorRef | UnreadTensor],
    paths: Mapping[str, tuple[str, ...]],
    keys: Iterable[str],
    name: str,
    role: PartRole,
    skip: int,
) -> StateDictContents:
    tensors: dict[str, TensorRef] = {}
    unread: dict[str, UnreadTensor] = {}
    for key in keys:
        bare = ".".join(paths[key][skip:])
        value = found[key]
        if isinstance(value, TensorRef):
            tensors[bare] = replace(value, key=bare)
        else:
            unread[bare] = value
    return StateDictContents(tensors, unread, {}, name, role)
