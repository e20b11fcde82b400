"""The pairs of contents that still lack a distance, cut into pieces of work.

The plan is made some keys at a time, so that its memory does not grow with the number of models,
and next to the work, so that the first piece starts at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from megasim.checkpoint.opening import Checkpoint, TensorRef
from megasim.compare.devices import ComparisonSize
from megasim.compare.piece import Position
from megasim.ingest.reading import assemble_ref
from megasim.ingest.shares import Shard
from megasim.progress import Progress
from megasim.store.batches import Table, pair_table
from megasim.store.rows import Pair, Store

Ids = npt.NDArray[np.int32]

# A piece reads about this many elements: enough to keep a core busy for some tenths of a second.
_PIECE_ELEMENTS = 32 << 20
_LARGE_PIECE = 2 * _PIECE_ELEMENTS  # of a key that has more
# And so many distances at most, but for the pairs of one key: what comes of a piece travels.
_PIECE_PAIRS = 300_000
# Of so few, Python finds the contents faster than numpy: there are keys by the thousand.
_FEW_PAIRS = 64
# Pairs of models and keys that are planned at a time: a query for each piece would cost more.
_PLANNED_LAYERS = 500_000


@dataclass
class PlannedPiece:
    """A piece of work.

    Attributes:
        positions: what is to be computed.
        tensor_pairs: for each position, the (P, 2) ids of the contents of its pairs.
        models: ids of the models whose files are read.
        elements: how many elements are read.
    """

    positions: list[Position] = field(default_factory=list)
    tensor_pairs: list[Ids] = field(default_factory=list)
    models: set[int] = field(default_factory=set)
    elements: int = 0


class PairPlan:
    """What is still to be computed for some pairs of models.

    Attributes:
        elements: how many elements there are under the keys of these models, each content once.
    """

    def __init__(
        self,
        store: Store,
        pairs: Sequence[Pair],
        checkpoints: Mapping[int, Checkpoint],
        shard: Shard | None = None,
        *,
        linf: bool,
        cossim: bool,
        factor: int = 1,
    ) -> None:
        """Plan for pairs that were added to the store, and whose models are all open.

        Contents of a model that is taken out of `checkpoints` later are no longer planned.

        Args:
            shard: of the keys only its share, so that all shards together read each byte once.
            factor: how many times as large as others its pieces are.
        """
        self._store = store
        self._piece_elements = _PIECE_ELEMENTS * factor
        self._pairs = pair_table(pairs)
        self._checkpoints = checkpoints
        self._needs = {"linf": linf, "cossim": cossim}
        chosen = {"model_id": sorted({model for pair in pairs for model in pair})}
        self._keys = store.arrays("keys_to_plan", tables={"chosen": chosen})
        if shard is not None:
            mine = self._share(shard)
            self._keys = {name: column[mine] for name, column in self._keys.items()}
        self.elements = int(self._keys["elements"].sum())
        self._ambiguous = {
            "tensor_a": np.zeros(0, dtype=np.int32),
            "tensor_b": np.zeros(0, dtype=np.int32),
            "rows": np.zeros(0, dtype=np.int64),
        }
        self._begun_in = 0  # the opening of the store that the temporary tables are of

    def job(self, workers: int) -> ComparisonSize:
        """Return what there is to do, for the choice of a device."""
        models = len({*self._pairs["model_a"], *self._pairs["model_b"]})
        return ComparisonSize(self.elements, models, len(self._pairs["model_a"]), workers)

    def _share(self, shard: Shard) -> npt.NDArray[np.bool_]:
        """Return which keys a shard takes; two names of one key stay together."""
        from scipy.sparse import coo_array  # takes as long to import as all the rest
        from scipy.sparse.csgraph import connected_components

        keys, elements = self._keys["canonical_key"], self._keys["elements"]
        place = {key: i for i, key in enumerate(keys.tolist())}
        links = self._store.rows("renamed_links", tables={"batch": self._pairs})
        linked = [(place[a], place[b]) for a, b in links if a in place and b in place]
        i, j = np.array(linked, dtype=np.int64).reshape(-1, 2).T
        shape = (len(keys), len(keys))
        _, group = connected_components(coo_array((np.ones(len(i)), (i, j)), shape=shape))
        sizes = np.bincount(group, weights=elements)
        return np.asarray(shard.share_of(sizes.tolist())[group])

    def pieces(self, progress: Progress) -> Iterator[PlannedPiece]:
        """Yield pieces, large ones of some keys first; each pair of contents is in one of them.

        `progress` counts the elements that need not be read.
        """
        size = max(1, _PLANNED_LAYERS // len(self._pairs["model_a"]))
        for start in range(0, len(self._keys["canonical_key"]), size):
            keys, elements = (
                self._keys[column][start : start + size] for column in ("canonical_key", "elements")
            )
            # what takes long comes first, so that no core is left alone with it at the end
            planned = sorted(self._pieces_of(keys), key=lambda piece: piece.elements < _LARGE_PIECE)
            progress.advance(int(elements.sum()) - sum(piece.elements for piece in planned))
            yield from planned

    def _pieces_of(self, keys: npt.NDArray[np.object_]) -> Iterator[PlannedPiece]:
        tables: dict[str, Table] = {"batch": self._pairs, "keys": {"canonical_key": keys}}
        work = self._work(tables)
        pairs: Ids = np.stack([work["tensor_a"], work["tensor_b"]], axis=1)
        places = self._places(np.unique(pairs))
        # without those of which no file is left
        there = np.isin(pairs, np.fromiter(places, dtype=np.int32)).all(axis=1)
        work, pairs = {name: column[there] for name, column in work.items()}, pairs[there]
        (starts,) = np.nonzero(np.diff(work["position"], prepend=-1))
        piece, pairs_held = PlannedPiece(), 0
        for start, stop in itertools.pairwise([*starts.tolist(), len(pairs)]):
            contents, index = _numbered(pairs[start:stop])
            refs = tuple(places[i][0] for i in contents)
            position = Position(
                refs=refs,
                pairs=index,
                rows=int(work["rows"][start]),
                metrics=_metrics(*(bool(work[f"needs_{what}"][start]) for what in _NEEDS)),
            )
            piece.positions.append(position)
            piece.tensor_pairs.append(pairs[start:stop])
            piece.models.update(places[i][1] for i in contents)
            piece.elements += sum(ref.numel for ref in refs)
            pairs_held += stop - start
            if piece.elements >= self._piece_elements or pairs_held >= _PIECE_PAIRS:
                yield piece
                piece, pairs_held = PlannedPiece(), 0
        if piece.positions:
            yield piece

    def _work(self, tables: Mapping[str, Table]) -> dict[str, npt.NDArray[Any]]:
        """Return the pairs of contents to compute under some keys, those of one position together.

        What was noted in temporary tables is put back where the store was closed, to save.
        """
        with self._store.opened() as opening:
            if opening != self._begun_in:
                self._store.write("begin_plan", tables={"batch": self._ambiguous})
                self._begun_in = opening
            self._store.write("plan_keys", tables=tables, **self._needs)
            self._store.write("remember_ambiguous")
            for column, noted in self._store.arrays("ambiguous_work").items():
                self._ambiguous[column] = np.concatenate([self._ambiguous[column], noted])
            return self._store.arrays("planned_work")

    def _places(self, contents: Ids) -> dict[int, tuple[TensorRef, int]]:
        """Return where to read each content, and in which model that is."""
        tables: dict[str, Table] = {
            "batch": {"tensor_id": contents},
            "readable": {"model_id": list(self._checkpoints)},
        }
        places = {}
        for tensor, model_id, sources, transposed in self._store.rows("holders_of", tables=tables):
            tensors = self._checkpoints[model_id].tensors
            places[tensor] = assemble_ref(tensors, tuple(sources), transposed), model_id
        return places


def _numbered(pairs: Ids) -> tuple[list[int], Ids]:
    """Return the contents of some pairs, ascending, and the pairs as places among them.

    >>> _numbered(np.array([[5, 9], [2, 9]]))[0]
    [2, 5, 9]
    """
    if len(pairs) > _FEW_PAIRS:
        contents, index = np.unique(pairs, return_inverse=True)
        return contents.tolist(), index.reshape(-1, 2).astype(np.int32)
    listed = pairs.tolist()
    found = sorted({content for pair in listed for content in pair})
    place = {content: i for i, content in enumerate(found)}
    return found, np.array([(place[a], place[b]) for a, b in listed], dtype=np.int32)


_NEEDS = ("distance", "linf", "cossim")


def _metrics(distance: bool, linf: bool, cossim: bool) -> tuple[str, ...]:
    return (
        *(("l0", "l1", "l2") if distance else ()),
        *(("linf",) if linf else ()),
        *(("cossim",) if cossim else ()),
    )
