"""The figures of the flat-plane test for every layer: each layer is a replicate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from megasim.errors import UsageError, printable
from megasim.geometry.embedding import share, spectrum, squared_values
from megasim.geometry.walk import PathSquares, Walk, orthogonal_walk
from megasim.matrix.distance_matrix import Floats, LayerMatrices

PERSISTS = 0.05  # coherence from which a group of layers is said to go in a direction
LEAST_LAYERS = 4  # below this the spread over layers is not known
_BATCH = 4_000_000  # matrix elements decomposed at a time
_QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class LayerFigures:
    """Planarity, coherence and turns of each layer by itself, and of groups of them.

    Attributes:
        path: names of the m + 1 models along which coherence and turns are taken.
        keys, blocks, roles: K strings each, as in `LayerMatrices`.
        planarity: (K,) NaN where a pair is missing or the layer is unchanged.
        orthogonal_walk: (K,) planarity of the layer's own steps at right angles.
        squares: the squared distances along the path; steps (K, m), NaN where missing.
        unchanged: (K,) bool, all distances 0.
        incomplete: (K,) bool, a pair is missing.

    Layers of one model were trained together: they are replicates of a description, and not
    independent draws, so no p-value is made of their number.
    """

    path: tuple[str, ...]
    keys: tuple[str, ...]
    blocks: tuple[str, ...]
    roles: tuple[str, ...]
    planarity: Floats
    orthogonal_walk: Floats
    squares: PathSquares
    unchanged: npt.NDArray[np.bool_]
    incomplete: npt.NDArray[np.bool_]

    def to_frame(self) -> pd.DataFrame:
        """Return a row per layer; a column `turn at M` for each inner model of the path."""
        turns = self.squares.turn_cosines()
        return pd.DataFrame(
            {
                "key": self.keys,
                "block": self.blocks,
                "role": self.roles,
                "planarity": self.planarity,
                "orthogonal_walk": self.orthogonal_walk,
                "coherence": self.squares.coherence(),
                **{f"turn at {name}": turns[:, i] for i, name in enumerate(self.path[1:-1])},
            }
        )

    def summary(self, by: str | None = None) -> pd.DataFrame:
        """Return a row per group of layers: "block", "role", or None for all in one, named "".

        Columns:
            layers, unchanged: counts.
            n: layers whose path is known and has a coherence.
            coherence, turn_cosines: of the n layers taken together, their squares added.
            coherence_error: its standard error over layers (delete-one jackknife); NaN below
                `LEAST_LAYERS`. Layers are taken as independent, which flatters it.
            layer_q1, layer_median, layer_q3: quartiles of the coherence over the n layers, each
                counted once whatever its size.
            positive: share of the n whose coherence is above 0.
            planarity_q1 … q3, excess_q1 … q3: the same of the planarity, and of the planarity
                minus that of the orthogonal walk.
            persists: "yes" when the coherence is at least `PERSISTS` and two errors above 0;
                "in most layers" when that of three layers in four is, but not of the large ones;
                "in few layers" when it is not that firm; "no"; "" below `LEAST_LAYERS`.
            leading_key: the layer without which the coherence would be lowest.
        """
        labels = {"block": self.blocks, "role": self.roles}.get(by or "", ("",) * len(self.keys))
        groups = np.array(labels, dtype=object)
        rows = {name: self._row(groups == name) for name in sorted(set(labels))}
        return pd.DataFrame.from_dict(rows, orient="index")

    def to_json(self) -> dict[str, Any]:
        """Return the summaries overall, by block and by role; NaN as None."""

        def rows(by: str | None) -> dict[str, Any]:
            return {str(k): plain(v) for k, v in self.summary(by).to_dict("index").items()}

        return {
            "layers": len(self.keys),
            "unchanged": int(self.unchanged.sum()),
            "incomplete": int(self.incomplete.sum()),
            "overall": rows(None).get("", {}),
            "by_block": rows("block"),
            "by_role": rows("role"),
        }

    def _row(self, keep: npt.NDArray[np.bool_]) -> dict[str, Any]:
        each = self.squares.coherence()
        used = keep & ~np.isnan(each)
        n = int(used.sum())
        part = PathSquares(
            self.squares.steps[used], self.squares.leaps[used], self.squares.direct[used]
        )
        whole = PathSquares(part.steps.sum(axis=0), part.leaps.sum(axis=0), part.direct.sum(axis=0))
        pooled, error, leading = float(whole.coherence()), float("nan"), ""
        if n:
            # a difference of sums may fall below 0 by rounding
            left = np.maximum(whole.steps - part.steps, 0.0)
            without = PathSquares(left, part.leaps, whole.direct - part.direct).coherence()
            without = np.where(np.isnan(without), 0.0, without)
            leading = self.keys[int(np.flatnonzero(used)[np.argmin(without)])]
            if n >= LEAST_LAYERS:
                deviations = np.square(without - without.mean())
                error = float(np.sqrt((n - 1) / n * deviations.sum()))
        layer = _quartiles("layer", each[used])
        excess = self.planarity - self.orthogonal_walk
        return {
            "layers": int(keep.sum()),
            "unchanged": int(self.unchanged[keep].sum()),
            "n": n,
            "coherence": pooled,
            "coherence_error": error,
            "turn_cosines": whole.turn_cosines().tolist(),
            **layer,
            "positive": float((each[used] > 0).mean()) if n else float("nan"),
            **_quartiles("planarity", self.planarity[keep]),
            **_quartiles("excess", excess[keep]),
            "persists": _persists(pooled, error, layer["layer_q1"]),
            "leading_key": leading,
        }


def layer_figures(layers: LayerMatrices, models: Sequence[str], walk: Walk) -> LayerFigures:
    """Return the figures of every layer over `models`, along one walk for all of them.

    Args:
        layers: matrices of at least `models`, in any order.
        models: the names that the numbers of `walk` stand for.

    Raises:
        UsageError: the layers lack one of the models.
    """
    place = {name: i for i, name in enumerate(layers.models)}
    for name in models:
        if name not in place:
            raise UsageError(
                f"the layers do not include the model {printable(name)!r}",
                "take the matrix and the layers of the same models",
            )
    chosen = np.array([place[name] for name in models], dtype=np.intp)
    k, n, m = len(layers.keys), len(models), len(walk.order) - 1
    planarity, unrelated = np.full(k, np.nan), np.full(k, np.nan)
    squares = PathSquares(np.empty((k, m)), np.empty((k, max(m - 1, 0))), np.empty(k))
    unchanged, incomplete = np.zeros(k, dtype=bool), np.zeros(k, dtype=bool)
    size = max(1, _BATCH // max(n * n, 1))
    for start in range(0, k, size):
        part = slice(start, start + size)
        values = layers.values[part][:, chosen[:, None], chosen[None, :]]
        squared = squared_values(values, layers.metric)
        squared[~np.isfinite(squared)] = np.nan
        here = PathSquares.along(squared, walk.order)
        squares.steps[part], squares.leaps[part] = here.steps, here.leaps
        squares.direct[part] = here.direct
        gaps = np.isnan(squared).any(axis=(1, 2))
        moved = (squared > 0).any(axis=(1, 2))
        unchanged[part], incomplete[part] = ~moved & ~gaps, gaps
        whole = np.flatnonzero(moved & ~gaps)
        planarity[start + whole] = share(spectrum(squared[whole]), 2)
        unrelated[start + whole] = share(spectrum(orthogonal_walk(squared[whole], walk)), 2)
    return LayerFigures(
        path=tuple(models[i] for i in walk.order),
        keys=layers.keys,
        blocks=layers.blocks,
        roles=layers.roles,
        planarity=planarity,
        orthogonal_walk=unrelated,
        squares=squares,
        unchanged=unchanged,
        incomplete=incomplete,
    )


def plain(value: Any) -> Any:
    """Return nested dicts and sequences with NaN as None, as JSON has no word for it.

    >>> plain({"a": (1.0, float("nan"))})
    {'a': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _persists(pooled: float, error: float, lower_quartile: float) -> str:
    if np.isnan(error):
        return ""
    if pooled >= PERSISTS and pooled > 2 * error:
        return "yes"
    if lower_quartile >= PERSISTS:
        return "in most layers"
    return "in few layers" if pooled >= PERSISTS else "no"


def _quartiles(label: str, values: Floats) -> dict[str, float]:
    known = values[~np.isnan(values)]
    found = np.quantile(known, _QUARTILES).tolist() if known.size else [float("nan")] * 3
    return dict(zip((f"{label}_q1", f"{label}_median", f"{label}_q3"), found, strict=True))
