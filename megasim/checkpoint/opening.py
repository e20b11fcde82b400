"""A file or folder → tensors, one at a time; nothing in it is executed, and nothing trusted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from megasim.checkpoint.adapter_keys import is_adapter
from megasim.checkpoint.byte_source import ByteSource
from megasim.checkpoint.contents import (
    BesideTensors,
    FileContents,
    StateDictContents,
    UnreadTensor,
    storable,
)
from megasim.checkpoint.dtypes import STORAGE_DTYPES
from megasim.checkpoint.file_formats import (
    NOT_WEIGHTS,
    format_reader,
    why_beyond_reach,
    why_foreign,
)
from megasim.checkpoint.file_identity import FileIdentity, combine, identify
from megasim.checkpoint.folders import (
    Weights,
    choose_weights,
    default_name,
    is_distributed,
    is_index,
    is_pipeline,
    pipeline_parts,
    read_config,
    read_index,
    shards_alone,
    walk_checkpoints,
    walk_foreign,
    zero_files,
)
from megasim.checkpoint.limits import Limits, limits_in_force, raised_limits
from megasim.checkpoint.locations import RemotePath, located
from megasim.checkpoint.strict_json import JSON
from megasim.checkpoint.tensors import TensorReader, TensorRef, fuse_refs, transpose_ref
from megasim.errors import CheckpointError, ForeignFileError, UsageError, printable
from megasim.words import PartRole, Unread

# PEFT keeps the strength beside the weights.
ADAPTER_CONFIG: Final = "adapter_config.json"

__all__ = [
    "JSON",
    "STORAGE_DTYPES",
    "BesideTensors",
    "Checkpoint",
    "FileIdentity",
    "Limits",
    "StateDictContents",
    "TensorReader",
    "TensorRef",
    "UnreadTensor",
    "check_not_empty",
    "default_name",
    "find_checkpoints",
    "fuse_refs",
    "open_checkpoint",
    "open_stored",
    "raised_limits",
    "transpose_ref",
]


@dataclass(frozen=True)
class Checkpoint:
    """A model as it lies in a file or a folder; the tensors themselves are not read.

    Attributes:
        path: absolute path of the file or folder.
        format: "safetensors", "gguf", "torch-zip", "torch-legacy", "torchscript", "sharded",
            "distributed", "deepspeed" or "diffusers".
        tensors: key to place. In a diffusers pipeline the keys begin with the name of their
            folder, "unet/down_blocks.0…".
        metadata: scalars beside the state dict (epoch, global_step …), the `__metadata__` of
            .safetensors, or the small json files of a folder by their name.
        skipped: key to the reason why what stands there is no tensor of the model.
        unread: key to what is known of a tensor whose values could not be read: of an unknown
            dtype or layout, an empty placeholder, or named by an index and not there.
        tied: key to the key whose tensor it shares; both are in `tensors`.
        place: where this state dict lies in the file: "" for the first or only one.
        role: what it is.
        others: further state dicts of the file, see `parts`.
        beside: tensors that belong to no state dict, such as those of an optimizer.
        identity: tells whether the file is known.
        size: bytes of all its files.
    """

    path: Path
    format: str
    tensors: dict[str, TensorRef]
    metadata: dict[str, JSON]
    skipped: dict[str, str]
    identity: FileIdentity
    size: int
    unread: dict[str, UnreadTensor] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    place: str = ""
    role: PartRole = PartRole.WEIGHTS
    others: tuple[StateDictContents, ...] = ()
    beside: tuple[BesideTensors, ...] = ()

    @property
    def parts(self) -> Iterator[Checkpoint]:
        """The state dicts of the file, each as a checkpoint of its own; this one first."""
        yield self
        for part in self.others:
            yield replace(
                self,
                tensors=part.tensors,
                unread=part.unread,
                tied=part.tied,
                place=part.name,
                role=part.role,
                metadata={},
                skipped={},
                others=(),
                beside=(),
            )


def open_checkpoint(path: Path | str, limits: Limits | None = None) -> Checkpoint:
    """Return the tensors that a checkpoint file or folder holds, without reading them.

    The format is told from the content, not from the name. A folder is a diffusers pipeline, a
    folder of shards, or holds one checkpoint. An index json of shards may be named itself.

    Args:
        limits: what a file may cost before it is refused; those in force when None.

    Raises:
        UsageError: there is nothing at `path`.
        CheckpointError: what is there cannot be read as a checkpoint, with the reason.
    """
    checkpoint = open_stored(path, limits)
    check_not_empty(checkpoint)
    return checkpoint


def open_stored(path: Path | str, limits: Limits | None = None) -> Checkpoint:
    """Return what `open_checkpoint` does, also where no tensor can be read as it is stored."""
    path = _existing(path)
    limits = limits_in_force() if limits is None else limits
    with _readable(path):
        return _open_folder(path, limits) if path.is_dir() else _open_weights(path, path, limits)


def find_checkpoints(
    path: Path | str, passed_over: Callable[[CheckpointError], object] = lambda _: None
) -> list[Path]:
    """Return the checkpoints at a path: the file itself, or all in a folder, in a fixed order.

    Folders inside are searched too. A diffusers pipeline and a folder of shards count as one
    each and stand for their files; see `walk_checkpoints` for what is not looked at.

    Args:
        passed_over: is called with the error of each file in a folder that is not read. It is a
            ForeignFileError where it holds weights in a form that is not read, as ONNX, or ends
            like a checkpoint and is none, as the weights of CoreML in a .bin, or a pipe; another
            CheckpointError where it is a link to what is missing. A broken file is in the result.

    Raises:
        UsageError: there is nothing at `path`.
        CheckpointError: a folder without any checkpoint.
    """
    path = _existing(path)
    if not path.is_dir():
        return [path]
    others: list[CheckpointError] = []
    with _readable(path):
        found = []
        for candidate in walk_checkpoints(path):
            why_not = why_beyond_reach(candidate) or why_foreign(candidate)
            if why_not is None:
                found.append(candidate)
            else:
                others.append(why_not)
        others += [
            ForeignFileError(file, problem, remedy or NOT_WEIGHTS)
            for file, problem, remedy in walk_foreign(path)
        ]
    for error in others:
        passed_over(error)
    if not found:
        named = f", but {len(others)} that are not read: {others[0].message}" if others else ""
        remedy = others[0].remedy if others else NOT_WEIGHTS
        raise CheckpointError(path, f"no checkpoint in this folder{named}", remedy)
    return found


def _existing(path: Path | str) -> Path:
    place = located(path)
    if not isinstance(place, RemotePath):
        place = Path(os.path.abspath(place))  # noqa: PTH100 - links keep their names
    with _readable(place):
        if place.exists():
            return place
    raise UsageError(f"nothing at {printable(place, 400)}", "check the path")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        is_remote = isinstance(path, RemotePath)
        remedy = "check the address and the credentials" if is_remote else "check its permissions"
        where = e.filename or path
        raise CheckpointError(where, f"cannot be read: {e.strerror}", remedy) from None


def _open_file(path: Path, limits: Limits) -> Checkpoint:
    with ByteSource(path, limits) as source:
        contents = format_reader(source)(source)
        limits.check("empty_tensors", _count_empty(contents), path)
        identity = identify(source, contents.header)
    main = contents.main
    metadata = contents.metadata
    is_named = path.stem.startswith("adapter_model") or path.stem.endswith("adapters")
    if is_named and (config := read_config(path.parent / ADAPTER_CONFIG)):
        metadata = {**metadata, "adapter_config": config}
    return Checkpoint(
        path,
        contents.format,
        main.tensors,
        metadata,
        contents.skipped,
        identity,
        identity.size,
        main.unread,
        main.tied,
        "",
        PartRole.ADAPTER if is_adapter((*main.tensors, *main.unread)) else main.role,
        contents.others,
        contents.beside,
    )


def _count_empty(contents: FileContents) -> int:
    """Return how many tensors of a file have no elements."""
    parts = (contents.main, *contents.others)
    read = sum(0 in ref.shape for part in parts for ref in part.tensors.values())
    return read + sum(0 in (odd.shape or ()) for part in parts for odd in part.unread.values())


def _open_folder(folder: Path, limits: Limits) -> Checkpoint:
    if is_distributed(folder):
        checkpoint = _open_distributed(folder, limits)
    elif (of_zero := zero_files(folder)[0]) and choose_weights(folder) is None:
        checkpoint = _open_zero(folder, of_zero[0], limits)
    elif is_pipeline(folder):
        checkpoint = _open_pipeline(folder, limits)
    else:
        weights = choose_weights(folder) or _adapter_weights(folder)
        if weights is None and (shards := shards_alone(folder)) is not None:
            return _open_shards(folder, folder, shards, limits)
        if weights is None:
            found = find_checkpoints(folder)
            if len(found) > 1:
                raise CheckpointError(
                    folder, f"a folder of {len(found)} checkpoints, not one", "name one of them"
                )
            return open_stored(found[0], limits)
        checkpoint = _open_weights(folder, weights, limits)
    return checkpoint


def _open_distributed(folder: Path, limits: Limits) -> Checkpoint:
    from megasim.checkpoint.distributed_format import read_distributed

    found = read_distributed(folder, limits)
    main, identity = found.main, found.identity
    return Checkpoint(
        folder, "distributed", main.tensors, {}, {}, identity, identity.size, main.unread,
        role=main.role, others=found.others, beside=found.beside,
    )  # fmt: skip


def _open_zero(folder: Path, of_module: Path, limits: Limits) -> Checkpoint:
    """Return the float32 weights of all ranks; where some are missing, the states of the module."""
    from megasim.checkpoint.zero_format import NotEnough, read_zero

    try:
        main, identity = read_zero(folder, limits)
    except (NotEnough, CheckpointError) as why:
        found = _open_file(of_module, limits)
        note = f"no weights in float32 out of the parts of ranks: {why}"
        return replace(found, skipped={**found.skipped, "optim_states": note})
    return Checkpoint(
        folder, "deepspeed", main.tensors, {}, {}, identity, identity.size, tied=main.tied
    )


def _adapter_weights(folder: Path) -> Path | None:
    """Return the adapter that PEFT or MLX saved into a folder, beside whatever else is there."""
    names = ("adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _open_weights(path: Path, weights: Path, limits: Limits) -> Checkpoint:
    """The shards of an index, as the checkpoint at `path`; or the checkpoint of one file."""
    if is_index(weights):
        return _open_shards(path, weights, read_index(weights, limits), limits)
    return _open_file(weights, limits)


def _open_shards(path: Path, index: Path, weights: Weights, limits: Limits) -> Checkpoint:
    """Return the shards of a model as one checkpoint; errors name the index, or their folder."""
    assert weights.shard_of is not None
    tensors: dict[str, TensorRef] = {}
    metadata = dict(weights.metadata)
    skipped: dict[str, str] = {}
    unread: dict[str, UnreadTensor] = {}
    tied: dict[str, str] = {}
    identities: dict[str, FileIdentity] = {}
    for file in weights.files:
        name, shard = file.name, _open_file(file, limits)
        identities[name] = shard.identity
        here = {k: ref for k, ref in shard.tensors.items() if weights.shard_of.get(k, name) == name}
        twice = tensors.keys() & here.keys()
        if twice:
            raise CheckpointError(
                index,
                f"in two shards, one of them {printable(name)}",
                "get the folder again",
                min(twice),
            )
        tensors.update(here)
        skipped.update(shard.skipped)
        unread.update(shard.unread)
        tied.update({k: kept for k, kept in shard.tied.items() if k in here})
        metadata = {**shard.metadata, **metadata}
        # the limits are those of the whole: a folder may name one file many times, by links
        limits.check("tensors", len(tensors) + len(unread), index)
        limits.check("key_bytes", sum(map(len, tensors)) + sum(map(len, unread)), index)
    for key in sorted(weights.shard_of.keys() - tensors.keys() - unread.keys()):
        note = f"the index places it in {printable(weights.shard_of[key])}, where it is not"
        unread[key] = UnreadTensor(Unread.ABSENT, note)
    identity = combine(identities)
    return Checkpoint(path, "sharded", tensors, metadata, skipped, identity, identity.size, unread)


def _open_pipeline(folder: Path, limits: Limits) -> Checkpoint:
    weights, skipped = pipeline_parts(folder)
    tensors: dict[str, TensorRef] = {}
    unread: dict[str, UnreadTensor] = {}
    tied: dict[str, str] = {}
    identities: dict[str, FileIdentity] = {}
    metadata: dict[str, JSON] = {}
    if model_index := read_config(folder / "model_index.json"):
        metadata["model_index"] = model_index
    for name, file in weights.items():
        part = _open_weights(folder, file, limits)
        limits.check("tensors", len(tensors) + len(part.tensors), folder)
        name = storable(name)
        tensors.update({f"{name}/{key}": ref for key, ref in part.tensors.items()})
        skipped.update({f"{name}/{key}": reason for key, reason in part.skipped.items()})
        tied.update({f"{name}/{key}": f"{name}/{kept}" for key, kept in part.tied.items()})
        unread.update({f"{name}/{key}": tensor for key, tensor in part.unread.items()})
        identities[f"{name}/{file.name}"] = part.identity
        if config := read_config(file.parent / "config.json"):
            metadata[f"{name}/config"] = config
    identity = combine(identities)
    return Checkpoint(
        folder, "diffusers", tensors, metadata, skipped, identity, identity.size, unread, tied
    )


# What to do with a file of which no tensor is decoded, by what is said of its first one.
_CURES: Final = {
    "a DTensor": "save the whole model: get_model_state_dict with full_state_dict=True gathers it; "
    "and name that file",
    "quantized tensor": "name the file of the weights before they were quantized, or dequantize "
    "them and save that",
    "of torchao": "name the file of the weights before they were quantized, or dequantize them "
    "and save that",
    "a tensor subclass": "save plain tensors, and name that file",
}


def check_not_empty(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError, with what it does hold, for one without a tensor to compare."""
    if checkpoint.tensors:
        return
    unread = checkpoint.unread
    if unread and all(tensor.reason is Unread.PLACEHOLDER for tensor in unread.values()):
        raise CheckpointError(
            checkpoint.path,
            f"it contains no values: all of its {len(unread)} tensors are placeholders",
            "DeepSpeed's ZeRO-3 leaves them so: join its shards with zero_to_fp32.py",
        )
    reasons = [f"key {printable(key, 80)}: {tensor.note}" for key, tensor in unread.items()]
    why = next(iter([*reasons, *map(printable, checkpoint.skipped.values())]), "")
    cure = next((cure for sign, cure in _CURES.items() if sign in why), None)
    raise CheckpointError(
        checkpoint.path,
        "it contains no tensor that can be compared"
        + (f" (not read: {len(unread)})" if len(unread) > 1 else "")
        + (f": {why}" if why else ""),
        cure or "name a file that holds weights",
    )
