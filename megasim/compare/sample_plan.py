"""What two models that were not both read in full have in common, and what of it is to be read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megasim.checkpoint.opening import Checkpoint
from megasim.compare.sample_piece import SamplePosition
from megasim.fingerprint.sample_places import sampled_blocks, sampled_elements
from megasim.ingest.reading import assemble_ref
from megasim.store.batches import pair_table
from megasim.store.rows import Model, Pair, Store
from megasim.words import Status

# A piece reads about so many elements.
_PIECE_ELEMENTS = 8 << 20


@dataclass(frozen=True, slots=True)
class SampledKey:
    """A key as a model holds it; `content_hash` is of what was read of it."""

    sources: tuple[str, ...]
    transposed: bool
    shape: str
    numel: int
    dtype: str
    content_hash: str
    is_finite: bool


@dataclass(frozen=True)
class SamplePiece:
    """Some positions, and for each the key and the pairs of models that it is about."""

    positions: tuple[SamplePosition, ...]
    keys: tuple[str, ...]
    pairs: tuple[tuple[Pair, ...], ...]
    models: frozenset[int]
    elements: int


@dataclass(frozen=True)
class KnownLayer:
    """A key of a pair of which hashes say all that the samples can: nothing is read for it."""

    pair: Pair
    key: str
    status: Status
    sampled: int
    blocks: int


class SamplePlan:
    """The keys of some pairs of models, none of them known by its header alone."""

    def __init__(self, store: Store, pairs: Sequence[Pair], models: Mapping[int, Model]) -> None:
        """Look up what the models of some pairs hold.

        Args:
            models: of the store, by id.
        """
        self._pairs = sorted(pairs)
        self._levels = {i: models[i].sample_level or 0 for pair in pairs for i in pair}
        self._keys: dict[str, dict[int, SampledKey]] = defaultdict(dict)
        batch = {"batch": pair_table(self._pairs)}
        # of an earlier run that was interrupted
        self._saved = {(key, (a, b)) for key, a, b in store.rows("sampled_keys", tables=batch)}
        chosen = {"batch": {"model_id": sorted(self._levels)}}
        for model_id, key, sources, *rest in store.rows("keys_to_sample", tables=chosen):
            self._keys[key][model_id] = SampledKey(tuple(sources), *rest)

    def held(self, key: str, model_id: int) -> SampledKey:
        """Return what a model holds under a key."""
        return self._keys[key][model_id]

    def known(self) -> Iterator[KnownLayer]:
        """Yield the keys of pairs that hashes decide."""
        for key, pair, level in self._common():
            a, b = (self._keys[key][i] for i in pair)
            status = _by_hashes(a, b, self._levels[pair[0]] == self._levels[pair[1]])
            if status is not None:
                blocks = sampled_blocks(a.numel, level)
                if status == Status.IDENTICAL and blocks.numel < a.numel:
                    status = Status.SAME_IN_SAMPLE
                yield KnownLayer(pair, key, status, blocks.numel, len(blocks.starts))

    def pieces(self, checkpoints: Mapping[int, Checkpoint]) -> Iterator[SamplePiece]:
        """Yield what is to be read, of models whose files are open, in the order of the keys."""
        wanted: dict[tuple[str, int], list[Pair]] = defaultdict(list)
        for key, pair, level in self._common():
            a, b = (self._keys[key][i] for i in pair)
            if _by_hashes(a, b, self._levels[pair[0]] == self._levels[pair[1]]) is None:
                wanted[key, level].append(pair)
        group: list[tuple[str, tuple[Pair, ...], SamplePosition]] = []
        elements = 0
        for (key, level), pairs in sorted(wanted.items()):
            position = self._position(key, level, pairs, checkpoints)
            group.append((key, tuple(pairs), position))
            elements += elements_of(position)
            if elements >= _PIECE_ELEMENTS:
                yield _piece(group, elements)
                group, elements = [], 0
        if group:
            yield _piece(group, elements)

    def _common(self) -> Iterator[tuple[str, Pair, int]]:
        """Yield the keys that both models of a pair hold in one shape, and the coarser level.

        But for those of which the store knows the distance.
        """
        for key, held in self._keys.items():
            for pair in self._pairs:
                a, b = (held.get(i) for i in pair)
                if a is None or b is None or a.shape != b.shape:
                    continue
                if (key, pair) not in self._saved:
                    yield key, pair, max(self._levels[i] for i in pair)

    def _position(
        self, key: str, level: int, pairs: Sequence[Pair], checkpoints: Mapping[int, Checkpoint]
    ) -> SamplePosition:
        ids = sorted({i for pair in pairs for i in pair})
        place = {model_id: n for n, model_id in enumerate(ids)}
        refs = []
        for model_id in ids:
            held = self._keys[key][model_id]
            tensors: Any = checkpoints[model_id].tensors
            refs.append(assemble_ref(tensors, held.sources, held.transposed))
        index = np.array([(place[a], place[b]) for a, b in pairs], dtype=np.int32)
        return SamplePosition(tuple(refs), index, level)


def elements_of(position: SamplePosition) -> int:
    """Return how many elements are read at a position."""
    return len(position.refs) * sampled_elements(position.refs[0].numel, position.level)


def status_of(
    a: SampledKey, b: SampledKey, differing: int, sampled: int, *, is_finite: bool
) -> Status:
    """Return how a key stands between two models, of which some elements were compared."""
    if not is_finite:
        return Status.NON_FINITE
    if differing:
        return Status.CHANGED
    if sampled < a.numel:
        return Status.SAME_IN_SAMPLE
    return Status.IDENTICAL if a.dtype == b.dtype else Status.SAME_VALUES


def _by_hashes(a: SampledKey, b: SampledKey, same_level: bool) -> Status | None:
    """Return what hashes alone say: of two samples of one level, they are of the same elements."""
    if not (a.is_finite and b.is_finite):
        return Status.NON_FINITE
    return Status.IDENTICAL if same_level and a.content_hash == b.content_hash else None


def _piece(
    group: Sequence[tuple[str, tuple[Pair, ...], SamplePosition]], elements: int
) -> SamplePiece:
    keys, pairs, positions = zip(*group, strict=True)
    models = frozenset(i for of_key in pairs for pair in of_key for i in pair)
    return SamplePiece(positions, keys, pairs, models, elements)
