"""A labelled, validated distance matrix, and the per-layer matrices beneath it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from megasim.errors import NoAnswerError, printable
from megasim.matrix.model_names import full_name

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]
METRICS = ("l0", "l1", "l2", "linf", "cossim")


@dataclass(frozen=True)
class DistanceMatrix:
    """All pair distances of N models over one component.

    Attributes:
        models: N names, the order of rows and columns.
        values: (N, N) float64, symmetric; NaN where a pair was not compared, never 0 for that.
            The diagonal is 0 (1 for `cossim`, which is a similarity).
        component: what was compared, e.g. "unet".
        metric: one of `METRICS`.
        sources: (N, N) "exact", "estimated", "imported", or "unproven" for a published 0 that may
            mean "not compared"; "" on the diagonal and where missing.
        errors: (N, N) standard error of each value: 0 where exact, NaN where missing.
        keys_compared: (N, N) how many keys the value covers.
        coverage: (N, N) the share of the component's keys, of either model, that the value
            covers, 0 to 1; NaN where missing, or where a published file does not say.

    Not guaranteed: the triangle inequality. Two values may cover different keys, and
    estimates carry noise.
    """

    models: tuple[str, ...]
    values: Floats
    component: str
    metric: str
    sources: npt.NDArray[np.str_]
    errors: Floats
    keys_compared: npt.NDArray[np.int64]
    coverage: Floats

    def __post_init__(self) -> None:
        n = len(self.models)
        if len(set(self.models)) != n:
            raise ValueError("model names of a matrix are unique")
        for name in ("values", "sources", "errors", "keys_compared", "coverage"):
            if getattr(self, name).shape != (n, n):
                raise ValueError(f"{name} is not ({n}, {n})")
        if not np.array_equal(self.values, self.values.T, equal_nan=True):
            raise ValueError("a distance matrix is symmetric")

    @classmethod
    def from_values(
        cls,
        models: Sequence[str],
        values: npt.ArrayLike,
        *,
        component: str = "unet",
        metric: str = "l2",
        source: str = "exact",
    ) -> Self:
        """Return the matrix of plain numbers, NaN where missing.

        >>> DistanceMatrix.from_values(["a", "b"], [[0, 2], [2, 0]]).condensed()
        array([2.])
        """
        v = np.array(values, dtype=np.float64)
        n = len(models)
        present = ~np.isnan(v) & ~np.eye(n, dtype=bool)
        return cls(
            models=tuple(models),
            values=v,
            component=component,
            metric=metric,
            sources=np.where(present, source, "").astype("U9"),
            errors=np.where(np.isnan(v), np.nan, 0.0),
            keys_compared=np.zeros((n, n), dtype=np.int64),
            coverage=np.where(np.isnan(v), np.nan, 1.0),
        )

    def __repr__(self) -> str:
        what = f"{printable(self.component)}, {self.metric} of {len(self.models)} models"
        return f"<distance matrix, {what}: {coverage_note(self)}>"

    @property
    def complete(self) -> bool:
        """Whether every pair has a value."""
        return not bool(np.isnan(self.values).any())

    def missing_pairs(self) -> list[tuple[str, str]]:
        """Return the pairs without a value, in row order."""
        rows, cols = np.nonzero(np.triu(np.isnan(self.values), 1))
        return [(self.models[i], self.models[j]) for i, j in zip(rows, cols, strict=True)]

    def subset(self, models: Iterable[str]) -> Self:
        """Return the matrix of `models` alone, in their order, as one of the same class.

        Raises:
            UsageError: a name that is not in the matrix.
        """
        i = np.array(places(self.models, list(models)), dtype=np.intp)
        grid = np.ix_(i, i)
        return replace(
            self,
            models=tuple(self.models[at] for at in i.tolist()),
            values=self.values[grid],
            sources=self.sources[grid],
            errors=self.errors[grid],
            keys_compared=self.keys_compared[grid],
            coverage=self.coverage[grid],
        )

    def require_models(self, names: Iterable[str]) -> None:
        """Raise UsageError when one of `names` is not in the matrix."""
        places(self.models, list(names))

    def largest_complete(self) -> Self:
        """Return the matrix without the models whose gaps are most, until no gap is left.

        Greedy: the result is complete, and not guaranteed to be the largest that is.
        """
        kept = list(range(len(self.models)))
        gaps = np.isnan(self.values)
        while kept:
            counts = gaps[np.ix_(kept, kept)].sum(axis=1)
            if not counts.any():
                break
            kept.pop(len(kept) - 1 - int(np.argmax(counts[::-1])))
        return self.subset([self.models[i] for i in kept])

    def nearest_to(self, count: int, model: str | None = None) -> Self:
        """Return a model and those nearest to it, `count` in all, in the order they stand in.

        Args:
            model: the one in the middle when None: of those with the most known pairs, the one
                with the least median distance to the others.

        Raises:
            UsageError: an unknown model.

        >>> points = np.array([0.0, 1.0, 2.0, 50.0])
        >>> found = DistanceMatrix.from_values("abcd", np.abs(np.subtract.outer(points, points)))
        >>> found.nearest_to(2, "d").models, found.nearest_to(3).models
        (('c', 'd'), ('a', 'b', 'c'))
        """
        if count >= len(self.models):
            return self
        apart = 1.0 - self.values if self.metric == "cossim" else self.values.copy()
        np.fill_diagonal(apart, np.nan)
        known = ~np.isnan(apart)
        if model is None:
            most = np.flatnonzero(known.sum(axis=1) == known.sum(axis=1).max())
            middle = [np.median(apart[i][known[i]]) if known[i].any() else 0.0 for i in most]
            centre = int(most[int(np.argmin(middle))])
        else:
            centre = places(self.models, [model])[0]
        apart[centre, centre] = -1.0
        # the missing last
        nearest = np.argsort(
            np.where(np.isnan(apart[centre]), np.inf, apart[centre]), kind="stable"
        )
        return self.subset([self.models[i] for i in sorted(nearest[:count].tolist())])

    def condensed(self) -> Floats:
        """Return the N(N−1)/2 values above the diagonal, row by row, as SciPy orders them."""
        return self.values[np.triu_indices(len(self.models), 1)]

    def squared(self) -> Floats:
        """Return the (N, N) squared values."""
        return np.square(self.values)

    def to_frame(self) -> pd.DataFrame:
        """Return the values with model names on both axes."""
        import pandas as pd

        return pd.DataFrame(self.values, index=list(self.models), columns=list(self.models))

    def require(self, least: int) -> Self:
        """Return self when it has at least `least` models and, of two or more, any distance.

        Raises:
            NoAnswerError: fewer models hold the component, or no pair was compared.
        """
        if len(self.models) < least:
            raise NoAnswerError(
                f"{len(self.models)} model(s) have {self.component!r} distances; "
                f"this needs at least {least}",
                "ingest more models and run `megasim compare`",
            )
        if least > 1 and np.isnan(self.condensed()).all():
            on_request = f" --metric {self.metric}" if self.metric in ("linf", "cossim") else ""
            raise NoAnswerError(
                f"no pair of models has a {self.metric} distance for {printable(self.component)}",
                f"run `megasim compare{on_request}`",
            )
        return self


@dataclass(frozen=True)
class LayerMatrices:
    """One distance matrix for each canonical key of a component: every layer a replicate.

    Attributes:
        models: N names.
        component, metric: as in `DistanceMatrix`.
        keys: K canonical keys, sorted.
        blocks, roles: K strings each, "" where the anatomy names none.
        numels: (K,) int64 elements of each tensor, 0 where unknown.
        values: (K, N, N) float64, symmetric in the last two; NaN where missing.
    """

    models: tuple[str, ...]
    component: str
    metric: str
    keys: tuple[str, ...]
    blocks: tuple[str, ...]
    roles: tuple[str, ...]
    numels: npt.NDArray[np.int64]
    values: Floats

    def __post_init__(self) -> None:
        k, n = len(self.keys), len(self.models)
        if self.values.shape != (k, n, n):
            raise ValueError(f"values is not ({k}, {n}, {n})")

    def keep(self, layers: npt.NDArray[np.bool_]) -> LayerMatrices:
        """Return only some of the layers, given as (K,) bool."""
        if layers.all():
            return self
        at = np.flatnonzero(layers).tolist()
        return replace(
            self,
            keys=tuple(self.keys[i] for i in at),
            blocks=tuple(self.blocks[i] for i in at),
            roles=tuple(self.roles[i] for i in at),
            numels=self.numels[at],
            values=self.values[at],
        )

    def subset(self, models: Iterable[str]) -> LayerMatrices:
        """Return the matrices of `models` alone, in their order.

        Raises:
            UsageError: a name that is not among them.
        """
        wanted = tuple(models)
        if wanted == self.models:
            return self
        i = np.array(places(self.models, wanted), dtype=np.intp)
        names = tuple(self.models[at] for at in i.tolist())
        return replace(self, models=names, values=self.values[:, i][:, :, i])

    def total(self, keep: npt.NDArray[np.bool_] | None = None) -> Floats:
        """Return the (N, N) root of the sum of squares over the kept layers.

        A pair that lacks any kept layer is NaN: sums over different layers are not compared.
        """
        chosen = self.values if keep is None else self.values[keep]
        return np.asarray(np.sqrt(np.square(chosen).sum(axis=0)), dtype=np.float64)


def places(models: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Return where each of `wanted` stands among the models of a matrix.

    Raises:
        UsageError: a name that is not among them.
    """
    place = {name: i for i, name in enumerate(models)}
    return [place[full_name(name, place, " in the matrix")] for name in wanted]


def coverage_note(matrix: DistanceMatrix) -> str:
    """Return in a line what the values of a matrix cover, and how far estimates may be off.

    After ± stands the largest relative standard error.
    """
    off = np.triu(np.ones_like(matrix.values, dtype=bool), 1)
    present = off & ~np.isnan(matrix.values)
    parts = [f"{int(present.sum()):,} of {int(off.sum()):,} pairs"]
    for source in np.unique(matrix.sources[present]).tolist():
        chosen = present & (matrix.sources == source)
        parts.append(f"{int(chosen.sum()):,} {source}")
        apart = chosen & (matrix.values > 0)
        if source == "estimated" and apart.any():
            error = (matrix.errors[apart] / matrix.values[apart]).max()
            parts[-1] += f" (± {100 * error:.2g} %)"
    keys = matrix.keys_compared[present]
    if keys.size and keys.max() > 0:
        low, high = int(keys.min()), int(keys.max())
        parts.append(f"{low:,} keys each" if low == high else f"{low:,} to {high:,} keys")
    return ", ".join(parts)
