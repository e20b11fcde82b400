"""How unlikely it is that one model of a pair is one training away from the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from megasim.lineage.inner_products import Floats
from megasim.lineage.settings import SETTINGS, LineageSettings
from megasim.matrix.distance_matrix import LayerMatrices

# E|x| of a standard normal variable, and what its square excess counts as negentropy.
NORMAL_L1 = float(np.sqrt(2 / np.pi))
NEGENTROPY = 1 / (2 - 6 / np.pi)


@dataclass(frozen=True)
class Steps:
    """The differences between the models of a family, block by block.

    Attributes:
        blocks: B names; one "" where no layers are known.
        squared: (B, N, N) squared distances.
        entropy: (B, N, N) log of the entropy power D² e⁻²ᴶ over its median D².
        untouched: (N, N) share of elements that are exactly alike; 0 where not known.
    """

    blocks: tuple[str, ...]
    squared: Floats
    entropy: Floats
    untouched: Floats
    settings: LineageSettings = SETTINGS

    def costs(self, weights: Mapping[str, float]) -> Floats:
        """Return the (N, N) cost of every edge of a tree.

        If every block of a child differs from its parent by noise of unknown size, the
        likeliest tree is the one of least entropy: the minimum spanning tree of
        Σ w log (D² e⁻²ᴶ), J being the negentropy of the elements. D² e⁻²ᴶ is the entropy power,
        and that of the sum of two independent steps is at least the sum of theirs (Shannon,
        1948): two trainings together cost more than either.

        J is also what a change lacks in directions. A block left untouched says most; and so do
        elements: a parent shares with its child those that one training left untouched, a
        grandparent only those that two did. Their share counts by its logarithm, as D² does.
        Without layers this is log D², with the same tree as D itself.

        Args:
            weights: of each block; all alike where none is named.
        """
        w = np.array([weights.get(name, 0.0) for name in self.blocks])
        w = w / w.sum() if w.sum() > 0 else np.full(len(w), 1 / len(w))
        alike = np.log1p(self.untouched / self.settings.least_untouched)
        return np.asarray(np.tensordot(w, self.entropy, 1) - self.settings.untouched * alike)

    def errors(self, edges: Iterable[tuple[int, int]], skipped: Iterable[int]) -> Floats:
        """Return (T, B) how far steps that meet in a tree are from being independent.

        That is their cosine, as far as it is positive: seen from where they meet, the two
        others then stand nearer to each other than independent steps leave them, and a tree may
        join these instead. A block that a step left as it was tells nothing: its error is 1.

        Args:
            edges: of the tree.
            skipped: models whose steps are not trainings, as merges.
        """
        near: dict[int, list[int]] = {}
        for a, b in edges:
            if not {a, b} & set(skipped):
                near.setdefault(a, []).append(b)
                near.setdefault(b, []).append(a)
        found = [np.zeros((0, len(self.blocks)))]
        for middle, ends in near.items():
            a, b = np.array(ends)[np.stack(np.triu_indices(len(ends), 1))]
            first, second = self.squared[:, middle, a], self.squared[:, middle, b]
            size = 2 * np.sqrt(first * second)
            product = first + second - self.squared[:, a, b]
            cosine = np.divide(product, size, out=np.ones(size.shape), where=size > 0)
            found.append(np.maximum(cosine, 0).T)
        return np.concatenate(found)


def family_steps(
    squared: Floats,
    layers: LayerMatrices | None = None,
    l1: LayerMatrices | None = None,
    untouched: Floats | None = None,
    spectra: Mapping[str, Floats] = MappingProxyType({}),
    settings: LineageSettings = SETTINGS,
) -> Steps:
    """Return the steps between the models of a family.

    Args:
        squared: (N, N) squared distances.
        layers: L2 by layer of the same models.
        l1: the L1 of the same layers, which determines J; 0 where not known.
        untouched: (N, N) share of elements that are exactly alike; 0 where not known.
        spectra: key of a matrix → (N, N) what its change lacks in directions, from
            `spectral_negentropies`; a block has that of those of its matrices that are known.
    """
    found: dict[str, tuple[Floats, Floats]] = {"": (squared, np.zeros(squared.shape))}
    if layers is not None:
        known = np.isfinite(layers.values).all(axis=(1, 2)) & (layers.numels > 0)
        form = np.zeros(layers.values.shape) if l1 is None else negentropies(layers, l1)
        of = np.array(layers.blocks, dtype=object)
        by_block = {name: np.flatnonzero(known & (of == name)) for name in sorted(set(of[known]))}
        found = {
            name: (
                np.square(layers.values[at]).sum(axis=0),
                np.average(form[at], axis=0, weights=layers.numels[at])
                + settings.directions * _of_block(layers, at, spectra),
            )
            for name, at in by_block.items()
        } or found
    # A block that is the same in all tells nothing.
    found = {name: (d2, j) for name, (d2, j) in found.items() if d2.any()} or found
    entropy = []
    for d2, j in found.values():
        apart = d2[np.triu(d2 > 0, 1)]
        scale = np.median(apart) if apart.size else 1.0
        entropy.append(np.log(np.maximum(d2 / scale, settings.same_block)) - 2 * j)
    squares = np.stack([d2 for d2, _ in found.values()])
    alike = np.zeros(squared.shape) if untouched is None else untouched
    return Steps(tuple(found), squares, np.stack(entropy), alike, settings)


def _of_block(
    layers: LayerMatrices, at: npt.NDArray[np.intp], spectra: Mapping[str, Floats]
) -> Floats:
    """Return the mean over some layers of what is known of their spectra, by their elements."""
    known = [k for k in at.tolist() if layers.keys[k] in spectra]
    if not known:
        return np.zeros(layers.values.shape[1:])
    grids = np.stack([spectra[layers.keys[k]] for k in known])
    return np.asarray(np.average(grids, axis=0, weights=layers.numels[known]))


def block_weights(
    families: Sequence[tuple[Steps, Floats]], settings: LineageSettings = SETTINGS
) -> dict[str, float]:
    """Return how much each block counts in telling a tree, summing to 1.

    Two trainings often move some blocks the same way, or the second takes back what the first
    did; and blocks err together. The mean over blocks of least error is that of generalised
    least squares (Aitken, 1935): w minimises wᵀSw, S being the mean product of the blocks'
    errors over all steps that meet. A block that errs as others do and more gets none; without
    any evidence all count alike.

    Args:
        families: the steps of each with their `Steps.errors` in a first tree.
    """
    names = sorted({name for steps, _ in families for name in steps.blocks})
    if not names:
        return {}
    products = settings.own_error**2 * np.eye(len(names))
    for steps, errors in families:
        rows = np.ones((len(errors), len(names)))
        rows[:, [names.index(name) for name in steps.blocks]] = errors
        products += rows.T @ rows
    # Least wᵀSw with w ≥ 0 and Σ w = 1, as least squares: the sum is held by a heavy row.
    heavy = 1e4 * np.sqrt(np.trace(products))
    rows = np.vstack([np.linalg.cholesky(products).T, np.full(len(names), heavy)])
    weights, _ = nnls(rows, np.append(np.zeros(len(names)), heavy))
    return dict(zip(names, (weights / weights.sum()).tolist(), strict=True))


def negentropies(layers: LayerMatrices, l1: LayerMatrices) -> Floats:
    """Return (K, N, N) how far the elements of each difference are from the commonest form.

    J = (E|x|/σ − √(2/π))² / (2 − 6/π), Hyvärinen's approximation (1998) for the mean absolute
    value, with E|x|/σ = L1 / (L2 √P). It measures the distance from a normal distribution; but
    elements of a layer are not equally free to move, so that also many steps together are not
    normal. Their form is taken from the models themselves: the median over all pairs, most of
    which lie many steps apart, stands for √(2/π). A single training differs from it both ways:
    a short one moves all elements alike, an update of low rank or one nearly done only some.

    Where L1 is not known, or nothing differs, J is 0.
    """
    found = np.zeros(layers.values.shape)
    at = {key: k for k, key in enumerate(l1.keys)}
    for k, (key, numel) in enumerate(zip(layers.keys, layers.numels.tolist(), strict=True)):
        if key not in at:
            continue
        l2 = layers.values[k] * np.sqrt(numel)
        known = (l2 > 0) & (l1.values[at[key]] > 0)
        if known.any():
            mean = l1.values[at[key]][known] / l2[known]
            excess = NORMAL_L1 * (mean / np.median(mean) - 1)
            found[k][known] = NEGENTROPY * np.square(excess)
    return found
