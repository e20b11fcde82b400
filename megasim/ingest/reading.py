"""One state dict on its way to the store: its tensors are being fingerprinted, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any

from megasim.anatomy.adapter_names import changed_layers
from megasim.anatomy.classification import (
    CanonicalTensor,
    ModelAnatomy,
    Rules,
    canonical_shape,
    classify_keys,
)
from megasim.anatomy.natures import key_natures, nature_in
from megasim.checkpoint.adapter_keys import adapter_keys, factor_keys, is_adapter
from megasim.checkpoint.adapter_shapes import changed_shape
from megasim.checkpoint.opening import (
    BesideTensors,
    Checkpoint,
    TensorRef,
    UnreadTensor,
    fuse_refs,
    transpose_ref,
)
from megasim.fingerprint.sample import SamplePrint, sample_refs
from megasim.fingerprint.sample_places import sampled_elements
from megasim.fingerprint.stored_bytes import digest_together, digest_unread
from megasim.fingerprint.table import FingerprintTable
from megasim.fingerprint.tensor import fingerprint_refs
from megasim.ingest.tiers import FULL, TierAsked
from megasim.representation.logical import scheme_of
from megasim.representation.row_ranges import swapped_halves
from megasim.store.rows import BesideRow, HeldModel, ListedKey, Model, ModelTensor, UnreadKey
from megasim.words import Nature, Tier

Shape = tuple[int, ...]

# Large enough that a piece is worth its overhead, small enough that two cores end together.
PIECE_BYTES = 64 << 20
# The anatomy of a model of more keys is not kept for the next one: it takes tens of megabytes.
_MOST_REMEMBERED = 20_000
# Pieces in other processes, which a signal may not have reached, are waited for so long.
_END_SECONDS = 1.0


@dataclass
class Reading:
    """What the executor is at work on for one state dict.

    `futures` give a `FingerprintTable` each, or below the tier "full" samples; `sizes` are the
    bytes of each piece, in the same order; `digests` are those of `unread`, and `beside` has one
    digest each, where all is read.
    """

    model: Model
    parts: list[CanonicalTensor]
    natures: Mapping[str, str]
    refs: list[TensorRef]
    futures: list[Future[Any]]
    sizes: list[int]
    unread: list[UnreadKey]
    digests: Future[list[str | None]] | None
    tied: Mapping[str, str]
    beside: list[tuple[BesideRow, Future[str | None] | None]]

    def cancel(self) -> None:
        """Begin no more pieces, and wait for those that a signal ends, or that are short."""
        waiting: list[Future[Any]] = [*self.futures, *(f for _, f in self.beside if f is not None)]
        waiting += [self.digests] if self.digests is not None else []
        for future in waiting:
            future.cancel()
        wait(waiting, timeout=_END_SECONDS)

    def gather(self, advance: Callable[[int], object]) -> HeldModel:
        """Wait for all that is being read; the rest is cancelled where a piece fails.

        Args:
            advance: is called with the bytes of each piece that is done.
        """
        found: list[Any] = []
        try:
            for future, size in zip(self.futures, self.sizes, strict=True):
                found.append(future.result())
                advance(size)
            digests = (
                self.digests.result() if self.digests is not None else [None] * len(self.unread)
            )
            beside = [
                row if future is None else replace(row, digest=future.result())
                for row, future in self.beside
            ]
        except BaseException:
            self.cancel()
            raise
        tensors = [
            ModelTensor(
                sources=part.sources,
                transposed=part.transposed,
                canonical_key=part.canonical_key,
                canonical_shape=canonical_shape(ref.shape),
                shape=ref.shape,
                component=part.component,
                block=part.block,
                role=part.role,
                nature=self.natures[part.sources[0]],
                representation=scheme_of(ref),
            )
            for part, ref in zip(self.parts, self.refs, strict=True)
        ]
        unread = [replace(k, digest=d) for k, d in zip(self.unread, digests, strict=True)]
        refs = self.refs
        # of many tensors this is much, and saving them takes room of its own
        self.parts, self.refs, self.futures = [], [], []
        if not self.model.is_full:
            samples = [sample for piece in found for sample in piece]
            listed = _listed_keys(tensors, refs, samples)
            return HeldModel(self.model, (), None, unread, self.tied, beside, listed)
        prints = FingerprintTable.joined(found)
        return HeldModel(self.model, tensors, prints, unread, self.tied, beside)


def _listed_keys(
    tensors: Sequence[ModelTensor], refs: Sequence[TensorRef], samples: Sequence[SamplePrint]
) -> list[ListedKey]:
    """Return the keys of a model with what was read of them; there are no samples of a header."""
    if not samples:
        return [
            ListedKey(tensor, ref.dtype, ref.numel)
            for tensor, ref in zip(tensors, refs, strict=True)
        ]
    return [
        ListedKey(t, ref.dtype, ref.numel, s.sampled, s.content_hash, s.non_finite, s.l2)
        for t, ref, s in zip(tensors, refs, samples, strict=True)
    ]


def begin_reading(
    model: Model,
    checkpoint: Checkpoint,
    executor: Executor,
    sketch_size: int,
    rules: Rules | None,
    asked: TierAsked = FULL,
) -> Reading:
    """Hand the tensors of a state dict to the executor, and return what it is at work on.

    Args:
        model: what the header says; family, variant and layout are filled in here.
        executor: runs `fingerprint_refs`, `sample_refs`, `digest_unread` and `digest_together`.
        sketch_size: numbers a sketch.
        rules: anatomy rules; the built-in ones when None.
        asked: how much of it is read.
    """
    keys = tuple([(key, ref.shape, ref.dtype) for key, ref in checkpoint.tensors.items()])
    others = tuple([(key, tensor.shape or ()) for key, tensor in checkpoint.unread.items()])
    classify = _classified if len(keys) <= _MOST_REMEMBERED else _classified.__wrapped__
    anatomy, natures = classify(keys, others, rules)
    parts, unread_parts = _split(anatomy.parts, checkpoint.tensors, checkpoint.unread)
    refs = [assemble_ref(checkpoint.tensors, p.sources, p.transposed) for p in parts]
    tier, level = asked.of_model([ref.numel for ref in checkpoint.tensors.values()])
    factor = piece_factor(executor)
    pieces = pieces_of(refs, level, factor) if tier != Tier.HEADER else []
    futures = [
        executor.submit(fingerprint_refs, piece, sketch_size)
        if level is None
        else executor.submit(sample_refs, piece, level)
        for piece in pieces
    ]
    is_full = tier == Tier.FULL
    model = replace(model, tier=tier, sample_level=level)
    unread = [(part.sources[0], part) for part in unread_parts]
    tensors = [checkpoint.unread[key] for key, _ in unread]
    return Reading(
        model=replace(model, family=anatomy.family, variant=anatomy.variant, layout=anatomy.layout),
        parts=parts,
        natures=natures,
        refs=refs,
        futures=futures,
        sizes=[sum(read_bytes(ref, level) for ref in piece) for piece in pieces],
        unread=[_unread_key(key, part, checkpoint.unread[key]) for key, part in unread],
        digests=executor.submit(digest_unread, tensors) if tensors and is_full else None,
        tied=checkpoint.tied,
        beside=[
            (
                _beside_row(held),
                executor.submit(digest_together, held.tensors) if is_full else None,
            )
            for held in checkpoint.beside
        ],
    )


# Files that lie together are often of one architecture.
@lru_cache(maxsize=4)
def _classified(
    keys: tuple[tuple[str, Shape, str], ...],
    others: tuple[tuple[str, Shape], ...],
    rules: Rules | None,
) -> tuple[ModelAnatomy, Mapping[str, Nature]]:
    """Return what a model is and what each of its tensors is, and the natures of its keys.

    Args:
        keys: with shape and dtype. others: those that cannot be read.
    """
    shapes = {key: shape for key, shape, _ in keys} | dict(others)
    anatomy = classify_keys(shapes, rules)
    factors = factor_keys(shapes)
    if factors and is_adapter(shapes):
        # that of the model it is for
        changes = ((c, changed_shape(c, shapes)) for c in adapter_keys(shapes).layers)
        family, _ = changed_layers({c.module: shape for c, shape in changes}, rules)
        anatomy = replace(anatomy, family=family, variant="", layout="adapter")
    parts = tuple(_as_adapter(part, factors) for part in anatomy.parts)
    natures = key_natures({key: (shape, dtype) for key, shape, dtype in keys})
    for part in parts:
        for key in part.sources:
            if key in natures:  # not so where it could not be read
                natures[key] = nature_in(part.component, natures[key])
    return replace(anatomy, parts=parts), natures


def assemble_ref(
    tensors: Mapping[str, TensorRef], sources: Sequence[str], transposed: bool
) -> TensorRef:
    """Return the tensor that some keys of a file make up: one, or several one after another.

    One key that is named twice is the second half of its rows, then the first.
    """
    refs = [tensors[key] for key in sources]
    if len(refs) == 2 and sources[0] == sources[1]:
        refs = swapped_halves(refs[0])
    ref = refs[0] if len(refs) == 1 else fuse_refs(" + ".join(dict.fromkeys(sources)), refs)
    return transpose_ref(ref) if transposed else ref


def _as_adapter(part: CanonicalTensor, factors: frozenset[str]) -> CanonicalTensor:
    """Return a part, of the component "adapter" where its key is a factor of a low-rank change.

    PEFT and kohya call such keys after the layer that they change, which they are not.
    """
    if factors.isdisjoint(part.sources):
        return part
    return replace(part, component="adapter", block=None, role=None)


def _split(
    parts: Sequence[CanonicalTensor],
    tensors: Mapping[str, TensorRef],
    unread: Mapping[str, UnreadTensor],
) -> tuple[list[CanonicalTensor], list[CanonicalTensor]]:
    """Return the parts that can be read, and one for each key that cannot.

    Where a tensor is made up of several keys, and one of them cannot be read or is of another
    dtype than the rest, each stands for itself. So does one whose halves cannot be told apart.
    """
    readable: list[CanonicalTensor] = []
    others: list[CanonicalTensor] = []
    for part in parts:
        keys = tuple(dict.fromkeys(part.sources))
        whole = not any(key in unread for key in keys)
        if len(keys) < len(part.sources):
            whole = whole and len(swapped_halves(tensors[keys[0]])) == 2
        if whole and (len(keys) == 1 or len({tensors[k].dtype for k in keys}) == 1):
            readable.append(part)
            continue
        for key in keys:
            name = part.canonical_key if len(part.sources) == 1 else key
            alone = replace(part, canonical_key=name, sources=(key,), transposed=False)
            (others if key in unread else readable).append(alone)
    return readable, others


def _unread_key(key: str, part: CanonicalTensor, tensor: UnreadTensor) -> UnreadKey:
    return UnreadKey(
        key=key,
        canonical_key=part.canonical_key,
        component=part.component,
        reason=tensor.reason,
        dtype=tensor.dtype,
        shape=tensor.shape,
        numel=None if tensor.shape is None else _count(tensor.shape),
        note=tensor.note,
    )


def _count(shape: tuple[int, ...]) -> int | None:
    """Return how many elements a shape has; None for more than anybody could store."""
    count = prod(shape)
    return count if count < 1 << 63 else None


def _beside_row(held: BesideTensors) -> BesideRow:
    """What is known of tensors beside the weights, but for their digest."""
    refs = [t for t in held.tensors.values() if isinstance(t, TensorRef)]
    whole = len(refs) == len(held.tensors)
    return BesideRow(
        place=held.place,
        role=held.role,
        tensors=len(held.tensors),
        numel=sum(ref.numel for ref in refs) if whole else None,
        bytes=sum(ref.nbytes for ref in refs) if whole else None,
    )


def piece_factor(executor: Executor) -> int:
    """Return how many times as large as others the pieces of an executor are to be, 1 or more.

    An engine to which each piece costs some milliseconds says so by an attribute of this name.
    """
    return int(getattr(executor, "piece_factor", 1))


def pieces_of(
    refs: Sequence[TensorRef], level: int | None = None, factor: int = 1
) -> list[list[TensorRef]]:
    """Cut a file into pieces of about `PIECE_BYTES`; a larger tensor is a piece of its own.

    Args:
        level: of the sample that is read of it; None where all is.
        factor: see `piece_factor`.
    """
    pieces: list[list[TensorRef]] = []
    room = 0
    for ref in refs:
        size = ref.nbytes if level is None else read_bytes(ref, level)
        if not pieces or room < size:
            pieces.append([])
            room = PIECE_BYTES * factor
        pieces[-1].append(ref)
        room -= size
    return pieces


def read_bytes(ref: TensorRef, level: int | None) -> int:
    """Return the bytes that are read of a tensor, all or a sample of a level."""
    if level is None or not ref.numel:
        return ref.bytes_in_file
    return ref.bytes_in_file * sampled_elements(ref.numel, level) // ref.numel
