"""The search for parents: sets of models grow by one at a time, all sets of a size at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megasim.lineage.inner_products import Floats
from megasim.lineage.recipe_search import Candidate, natural
from megasim.lineage.settings import SETTINGS, LineageSettings

Integers = npt.NDArray[np.intp]
# Numbers of an array that holds something of each set, block and further model.
_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class CandidateSets:
    """M sets of k parents, the one that leaves least first.

    Attributes:
        parents: (M, k), rising in each row; no set twice.
        residual: (M,) the squared distance that each leaves, summed over the blocks.
        weights: (M, k) of the blocks together.
    """

    parents: Integers
    residual: Floats
    weights: Floats

    def __len__(self) -> int:
        return len(self.residual)

    def __getitem__(self, place: int) -> Candidate:
        parents, weights = self.parents[place].tolist(), self.weights[place].tolist()
        return Candidate(tuple(parents), float(self.residual[place]), tuple(weights))

    def up_to(self, residual: float) -> Iterator[Candidate]:
        """Yield the sets that leave no more than this, the best first."""
        for place in range(int(np.searchsorted(self.residual, residual, side="right"))):
            yield self[place]

    def at(self, places: Integers | npt.NDArray[np.bool_]) -> CandidateSets:
        """Return some of the sets, in the order of the places."""
        return CandidateSets(self.parents[places], self.residual[places], self.weights[places])


def search_parents(
    squared: Floats,
    model: int,
    pool: Iterable[int],
    *,
    noise: Callable[[Integers], Floats] | None = None,
    most: int | None = None,
    settings: LineageSettings = SETTINGS,
) -> Iterator[CandidateSets]:
    """Yield the best natural sets of 2, 3 … parents out of `pool`.

    All pairs are tried; larger sets grow from the best of the size below, each further parent
    with all weights solved anew, and the best set is refined by exchanging one parent at a time.
    Not guaranteed: the best of all larger sets. A size without any natural set is left out.

    Args:
        squared: (B, N, N) squared distances, finite among `pool` and the model.
        noise: (S, k) sets → (S, N) for each the squared distance of each model from its plane,
            summed over blocks, that is none: a model no farther adds no direction of its own.
        most: the largest size; `settings.most_parents` when None.
    """
    places = np.array(sorted(set(pool) - {model}), dtype=np.intp)
    index = np.concatenate([[model], places])
    part = squared[:, index][:, :, index]
    n = len(places)

    def grow(bases: Integers, kept: int) -> tuple[CandidateSets, CandidateSets]:
        """Return the natural sets, and all, of each base and one of the `kept` best for it."""
        found, grown = [], []
        at_once = max(_AT_ONCE // (len(part) * (n + 1) * bases.shape[1]), 1)
        for start in range(0, len(bases), at_once):
            some = bases[start : start + at_once]
            none = 0.0 if noise is None else noise(index[some])[:, index]
            residual, weights = extend(part, some, none, settings)
            usable = natural(weights, settings)
            usable &= np.abs(weights).min(axis=2) > settings.no_share
            found.append(_best_of_each(some, np.where(usable, residual, np.inf), weights, kept))
            grown.append(_best_of_each(some, residual, weights, kept))
        return _together(found), _together(grown)

    bases = np.arange(1, n + 1)[:, None]
    for size in range(2, min(most or settings.most_parents, n) + 1):
        found, grown = grow(bases, settings.beam if size == 2 else settings.beam // 4)
        if len(found) and size > 2:
            best = found.parents[0]
            one_less = np.stack([np.delete(best, place) for place in range(size)])
            exchanged = grow(one_less, settings.beam // 4)
            found, grown = _together([found, exchanged[0]]), _together([grown, exchanged[1]])
        if len(found):
            yield CandidateSets(index[found.parents], found.residual, found.weights)
        bases = grown.parents[: settings.beam]


def _best_of_each(bases: Integers, residual: Floats, weights: Floats, kept: int) -> CandidateSets:
    """Return the sets of each base and one of the models that leave least beside it."""
    order = np.argsort(residual, axis=1, kind="stable")[:, :kept]
    left = np.take_along_axis(residual, order, axis=1)
    known = np.isfinite(left)
    wide = np.repeat(bases[:, None, :], order.shape[1], axis=1)
    parents = np.concatenate([wide, order[..., None]], axis=2)[known]
    weighed = np.take_along_axis(weights, order[..., None], axis=1)[known]
    rising = np.argsort(parents, axis=1)
    return CandidateSets(
        np.take_along_axis(parents, rising, axis=1),
        left[known],
        np.take_along_axis(weighed, rising, axis=1),
    )


def _together(parts: Sequence[CandidateSets]) -> CandidateSets:
    """Return all sets, the one that leaves least first; of a set that is twice there, the first."""
    parents = np.concatenate([p.parents for p in parts])
    both = CandidateSets(
        parents,
        np.concatenate([p.residual for p in parts]),
        np.concatenate([p.weights for p in parts]),
    )
    radix = int(parents.max(initial=0)) + 1
    code = np.zeros(len(parents), dtype=np.int64)
    for column in parents.T:
        code = code * radix + column
    _, first = np.unique(code, return_index=True)
    # codes rise as the sets themselves do
    return both.at(first[np.argsort(both.residual[first], kind="stable")])


def extend(
    squared: Floats,
    bases: Integers,
    noise: Floats | float = 0.0,
    settings: LineageSettings = SETTINGS,
) -> tuple[Floats, Floats]:
    """Return what every further parent beside each base would leave and weigh; the model is row 0.

    Exact for each: the Schur complement of the further parent in the Gram matrix.

    Args:
        squared: (B, N, N) squared distances.
        bases: (S, k) sets of models.
        noise: (S, N) the squared distance of each model from the plane of a base that is none.

    Returns:
        (S, N) residual summed over blocks, inf where the parent adds no direction; and the
        (S, N, k + 1) weights of the blocks together, the further parent's last.
    """
    total = squared.sum(axis=0, keepdims=True)
    together, weights, independent = _extend(total, bases, noise, settings)
    apart = together if len(squared) == 1 else _extend(squared, bases, 0.0, settings)[0]
    residual = np.where(independent[0], apart.sum(axis=0), np.inf)
    residual[:, 0] = np.inf
    np.put_along_axis(residual, bases, np.inf, axis=1)
    return residual, weights[0]


def _extend(
    squared: Floats, bases: Integers, noise: Floats | float, settings: LineageSettings
) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """Return (B, S, N) residual, (B, S, N, k + 1) weights and whether a model is independent."""
    first = squared[:, bases[:, 0], :]
    toward = (first + first[..., :1] - squared[:, None, 0, :]) / 2
    left, fresh, gain = first[..., 0], first, toward
    start = np.zeros((*left.shape, 0))
    carried = np.zeros((*first.shape, 0))
    others = bases[None, :, 1:]
    if others.shape[2]:
        to_others = np.take_along_axis(first, others, axis=2)
        cross = (to_others[..., None] + first[:, :, None, :] - squared[:, others[0], :]) / 2
        inner = np.take_along_axis(cross, others[:, :, None, :], axis=3)
        # A ridge of nothing keeps blocks invertible in which parents are the same.
        ridge = 1e-12 * np.einsum("bsii->bs", inner) + 1e-200
        inverse = np.linalg.inv(inner + ridge[..., None, None] * np.eye(others.shape[2]))
        own = np.take_along_axis(toward, others, axis=2)
        start = np.einsum("bsij,bsj->bsi", inverse, own)
        carried = (inverse @ cross).swapaxes(2, 3)
        left = left - np.einsum("bsi,bsi->bs", start, own)
        fresh = fresh - np.einsum("bsni,bsin->bsn", carried, cross)
        gain = toward - (carried @ own[..., None])[..., 0]
    independent = fresh > np.maximum(noise, settings.dependent * first)
    w = np.where(independent, gain / np.where(independent, fresh, 1.0), 0.0)
    residual = np.maximum(left[..., None] - w * gain, 0.0)
    rest = start[:, :, None, :] - carried * w[..., None]
    weights = np.concatenate([(1 - w - rest.sum(axis=-1))[..., None], rest, w[..., None]], axis=-1)
    return residual, weights, independent
