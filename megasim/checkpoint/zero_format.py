"""Folders of DeepSpeed's ZeRO: the weights in float32, out of the partitions of all ranks.

Each rank saves what it has of the weights in float32 beside the state of its optimizer, as flat
tensors (`*_optim_states.pt`); `*_model_states.pt` says which keys and shapes stand in them, one
after another, and holds buffers and frozen weights. Stages 1 and 2 cut the whole flat tensor into
as many parts as there are ranks, stage 3 each weight. Nothing is unpickled, and none is copied.

Source: deepspeed 0.19.8, `utils/zero_to_fp32.py`, which joins them in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from megasim.checkpoint.byte_source import ByteSource
from megasim.checkpoint.contents import StateDictContents, storable
from megasim.checkpoint.dtypes import STORAGE_DTYPES
from megasim.checkpoint.file_identity import FileIdentity, combine, identify
from megasim.checkpoint.folders import zero_files
from megasim.checkpoint.limits import Limits
from megasim.checkpoint.pickled_storages import BadTensor, parse_sizes
from megasim.checkpoint.pickled_tensors import is_tensor, parse_tensor
from megasim.checkpoint.placed_tensors import SpanOf, place
from megasim.checkpoint.state_dict import entries_of
from megasim.checkpoint.tensors import TensorRef, fuse_refs
from megasim.checkpoint.torch_format import pickled_zip
from megasim.errors import CheckpointError

_AGAIN: Final = "copy or download the folder again"
# What the ranks of stages 1 and 2, and those of stage 3, call their parts of the weights.
_FLAT: Final = {
    1: "single_partition_of_fp32_groups",
    2: "single_partition_of_fp32_groups",
    3: "fp32_flat_groups",
}


class NotEnough(Exception):
    """What is in the folder does not make up the weights. The message is a phrase."""


@dataclass(frozen=True)
class _File:
    """A file of a rank: what it holds, and where the bytes of its tensors lie."""

    path: Path
    value: Mapping[object, object]
    span: SpanOf
    limits: Limits

    def tensor(self, key: str, value: object) -> TensorRef:
        """Return where a plain tensor lies; NotEnough for anything else."""
        if is_tensor(value):
            try:
                pickled = parse_tensor(value)
            except BadTensor as why:
                raise NotEnough(str(why)) from None
            found = place(self.path, key, pickled, self.span, self.limits)
            if isinstance(found, TensorRef) and found.strides is None and not found.data:
                return found
        raise NotEnough(f"no plain tensor where {key!a:.80} should be")

    def tensors(self, key: str, value: object) -> list[TensorRef]:
        """Return the flat tensors of a list of them."""
        listed = [value] if is_tensor(value) else value
        found = [self.tensor(key, each) for each in listed] if isinstance(listed, list) else []
        if not found or any(len(ref.shape) != 1 for ref in found):
            raise NotEnough(f"{key} are no flat tensors")
        return found


def read_zero(folder: Path, limits: Limits) -> tuple[StateDictContents, FileIdentity]:
    """Return where the weights of a folder of ZeRO lie, and its identity.

    Weights are float32, buffers and frozen weights as they are. Of each file, only its directory is
    read.

    Raises:
        NotEnough: the parts of some ranks are missing, or do not add up.
        CheckpointError: a file is damaged.
    """
    of_module, of_optimizer = zero_files(folder)
    if not of_module:
        raise NotEnough("no parts of ranks")
    with ExitStack() as opened:
        identities: dict[str, FileIdentity] = {}
        files = []
        for path in (*of_module, *of_optimizer):
            source = opened.enter_context(ByteSource(path, limits))
            value, span, header = pickled_zip(source)
            identities[path.name] = identify(source, header)
            files.append(_File(path, entries_of(value) or {}, span, limits))
        module, ranks = files[: len(of_module)], files[len(of_module) :]
        states = [entries_of(rank.value.get("optimizer_state_dict")) or {} for rank in ranks]
        stage, count = states[0].get("zero_stage"), states[0].get("partition_count")
        if isinstance(count, list):  # one for each group of parameters
            count = max((n for n in count if type(n) is int), default=0)
        if type(stage) is not int or stage not in _FLAT:
            raise NotEnough("its stage is not said")
        if count != len(ranks) or (stage == 3 and len(module) != len(ranks)):
            raise NotEnough(f"the parts of {len(ranks)} of {count} ranks")
        flat = [
            rank.tensors(_FLAT[stage], state.get(_FLAT[stage]))
            for rank, state in zip(ranks, states, strict=True)
        ]
        first = module[0]
        groups = [_shapes(first, group) for group in _listed(first.value.get("param_shapes"))]
        paddings = states[0].get("param_alignment_paddings")
        tensors = _held_whole(module, stage)
        limits.check("tensors", len(tensors) + sum(map(len, groups)), folder)
        joined = _of_each(groups, flat) if stage == 3 else _of_groups(groups, flat, paddings)
        tensors = joined | tensors
    return _with_shared(first, tensors), combine(identities)


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _shapes(file: _File, value: object) -> dict[str, tuple[int, ...]]:
    """Return the shapes of some parameters by their keys, in their order."""
    found = {}
    for key, size in (entries_of(value) or {}).items():
        try:
            shape = parse_sizes(size)
        except BadTensor:
            raise NotEnough("shapes that are none") from None
        if not isinstance(key, str):
            raise NotEnough("a key that is no text")
        file.limits.check("dimensions", len(shape), file.path, key)
        found[storable(key)] = shape
    return found


def _held_whole(module: Sequence[_File], stage: int) -> dict[str, TensorRef]:
    """Return the buffers and the frozen weights."""
    first = module[0]
    states = entries_of(first.value.get("module")) or {}
    found = {
        storable(name): first.tensor(storable(name), states[name])
        for name in _listed(first.value.get("buffer_names"))
        if isinstance(name, str) and name in states
    }
    shapes = _shapes(first, first.value.get("frozen_param_shapes"))
    pieces = [entries_of(file.value.get("frozen_param_fragments")) or {} for file in module]
    for key, shape in shapes.items():
        held = [f.tensor(key, of.get(key)) for f, of in zip(module, pieces, strict=True)]
        flat = [replace(ref, shape=(ref.numel,)) for ref in held[: None if stage == 3 else 1]]
        found[key] = _shaped(key, shape, _stretch(flat, 0, math.prod(shape)))
    return found


def _of_groups(
    groups: Sequence[Mapping[str, tuple[int, ...]]],
    flat: Sequence[Sequence[TensorRef]],
    paddings: object,
) -> dict[str, TensorRef]:
    """Return weights that stand one after another in the joined parts of each group."""
    if {len(of_rank) for of_rank in flat} != {len(groups)}:
        raise NotEnough("as many parts as groups of parameters are not there")
    found: dict[str, TensorRef] = {}
    for number, shapes in enumerate(groups):
        parts = [of_rank[number] for of_rank in flat]
        gaps = _gaps(paddings, number, len(shapes))
        place_ = 0
        for (key, shape), gap in zip(shapes.items(), gaps, strict=True):
            found[key] = _shaped(key, shape, _stretch(parts, place_, math.prod(shape)))
            place_ += math.prod(shape) + gap
        _check_used(place_, sum(part.numel for part in parts), 2 * len(flat))
    return found


def _gaps(paddings: object, group: int, count: int) -> list[int]:
    """Return how many elements follow each parameter of a group and belong to none."""
    if paddings is None:
        return [0] * count
    of_group = paddings[group] if isinstance(paddings, list) and len(paddings) > group else None
    gaps = [n for n in _listed(of_group) if type(n) is int and 0 <= n < 1 << 40]
    if len(gaps) != count:
        raise NotEnough("the gaps between parameters are not said")
    return gaps


def _of_each(
    groups: Sequence[Mapping[str, tuple[int, ...]]], flat: Sequence[Sequence[TensorRef]]
) -> dict[str, TensorRef]:
    """Return weights of which each rank has an equal part, the last one filled up."""
    found: dict[str, TensorRef] = {}
    begin = 0
    for key, shape in (item for shapes in groups for item in shapes.items()):
        size = -(-math.prod(shape) // len(flat))
        parts = [part for of_rank in flat for part in _stretch(of_rank, begin, size)]
        found[key] = _shaped(key, shape, _stretch(parts, 0, math.prod(shape)))
        begin += size
    _check_used(begin, sum(part.numel for part in flat[0]), 2)
    return found


def _check_used(used: int, there: int, step: int) -> None:
    """Raise NotEnough unless all elements are used, but for those that fill up to a multiple."""
    if -(-used // step) != -(-there // step):
        raise NotEnough(f"{used} elements of parameters in {there}")


def _stretch(parts: Sequence[TensorRef], start: int, count: int) -> list[TensorRef]:
    """Return the pieces of flat tensors that hold a range of their elements, one after another."""
    found, begin, stop = [], 0, start + count
    for part in parts:
        first, last = max(start - begin, 0), min(stop - begin, part.numel)
        if first < last:
            size = STORAGE_DTYPES[part.dtype].itemsize
            found.append(replace(part, shape=(last - first,), offset=part.offset + first * size))
        begin += part.numel
    if begin < stop:
        raise NotEnough(f"{begin} elements, of which {stop} are wanted")
    return found


def _shaped(key: str, shape: tuple[int, ...], parts: Sequence[TensorRef]) -> TensorRef:
    if not parts:
        return TensorRef(key, "float32", shape, "", 0)
    whole = fuse_refs(key, parts) if len(parts) > 1 else parts[0]
    return replace(whole, key=key, shape=shape)


def _with_shared(file: _File, tensors: dict[str, TensorRef]) -> StateDictContents:
    """Add the keys that share the tensor of another."""
    tied: dict[str, str] = {}
    for key, kept in (entries_of(file.value.get("shared_params")) or {}).items():
        if not isinstance(key, str) or not isinstance(kept, str):
            continue
        name, holder = storable(key), storable(kept)
        if holder in tensors and name not in tensors:
            tied[name] = holder
            tensors[name] = replace(tensors[holder], key=name)
    if not tensors:
        raise CheckpointError(file.path, "it names no parameters", _AGAIN)
    return StateDictContents(tensors, {}, tied)
