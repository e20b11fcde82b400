"""A chain of models, epochs or versions: how far each step goes, and where to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from megasim.anatomy.block_order import block_place, natural
from megasim.errors import NoAnswerError, UsageError, printable
from megasim.geometry.layer_geometry import plain
from megasim.geometry.walk import PathSquares
from megasim.matrix.distance_matrix import DistanceMatrix, Floats, LayerMatrices, places

_SUMMED = ("l0", "l1")  # metrics that add over layers; l2 adds in squares, linf is the largest


@dataclass(frozen=True)
class Trajectory:
    """One part of the models followed along a chain of m + 1 of them.

    Attributes:
        label: the part: a component, a block, a role …
        metric: of the lengths; "l0", "l1", "l2" or "linf".
        models: the chain.
        from_start: (m + 1,) distance from the first model to each, 0 for itself.
        steps: (m,) distance from each model to the next.
        coherence: 0 at right angles, 1 straight; of l2 only, else NaN.
        turn_cosines: (m − 1,) at each inner model; of l2 only, else NaN.
        keys: layers each step covers, 0 if not known or not the same for all.
        keys_left_out: layers that lack a step of the chain or the way from start to end.

    Missing distances are NaN, and so is every figure that needs them.
    """

    label: str
    metric: str
    models: tuple[str, ...]
    from_start: Floats
    steps: Floats
    coherence: float
    turn_cosines: Floats
    keys: int = 0
    keys_left_out: int = 0

    @property
    def total(self) -> float:
        """The sum of the steps."""
        return float(self.steps.sum())

    @property
    def root_of_squares(self) -> float:
        """√Σs²: the direct distance if the steps stood at right angles."""
        return float(np.sqrt(np.square(self.steps).sum()))

    @property
    def direct(self) -> float:
        """From the first model to the last."""
        return float(self.from_start[-1])


def trajectory(matrix: DistanceMatrix, chain: Sequence[str], *, label: str = "") -> Trajectory:
    """Return the figures of a component along a chain of models.

    Args:
        matrix: gaps give NaN where they matter.
        chain: two models or more of the matrix, none twice.
        label: the component by default.

    Raises:
        UsageError: a chain too short, an unknown model, a model named twice, or `cossim`.

    >>> square = DistanceMatrix.from_values("abc", [[0, 3, 5], [3, 0, 4], [5, 4, 0]])
    >>> t = trajectory(square, "abc")
    >>> t.total, t.root_of_squares, t.direct, t.coherence
    (7.0, 5.0, 5.0, 0.0)
    """
    order = _chain(matrix.models, chain, matrix.metric)
    values = matrix.values[np.ix_(order, order)]
    steps = matrix.keys_compared[order[:-1], order[1:]]
    keys = int(steps.max(initial=0)) if (steps == steps[:1]).all() else 0
    return _trajectory(label or matrix.component, matrix.metric, tuple(chain), values, keys)


def layer_trajectories(
    layers: LayerMatrices,
    chain: Sequence[str],
    groups: Mapping[str, npt.NDArray[np.bool_]],
) -> tuple[Trajectory, ...]:
    """Return the figures of groups of layers along a chain, one for each group in order.

    A layer that lacks a step, or the way from start to end, is left out of its group and
    counted: the figures of a group all cover the same layers, but for distances from the start
    and turns, which are NaN where one of those layers lacks them.

    Args:
        groups: label → (K,) bool, see `layer_groups`; they may overlap.

    Raises:
        UsageError: as `trajectory`.
        NoAnswerError: no group has a layer that is known along the chain.
    """
    order = _chain(layers.models, chain, layers.metric)
    values = layers.values[:, np.array(order)[:, None], np.array(order)[None, :]]
    m = len(order) - 1
    needed = np.concatenate([values[:, range(m), range(1, m + 1)], values[:, :1, m]], axis=1)
    known = np.isfinite(needed).all(axis=1)
    found = []
    for label, keep in groups.items():
        used = values[keep & known]
        if len(used):
            missing = int((keep & ~known).sum())
            together = _together(used, layers.metric)
            found.append(
                _trajectory(label, layers.metric, tuple(chain), together, len(used), missing)
            )
    if not found:
        raise NoAnswerError(
            f"no layer of {printable(layers.component)} has a distance for each step of the chain",
            "run `megasim compare`, or name models that share layers",
        )
    return tuple(found)


def layer_groups(layers: LayerMatrices, by: str) -> dict[str, npt.NDArray[np.bool_]]:
    """Return label → (K,) bool for a common way to divide layers.

    Args:
        by: "block", in the order of the network; "role"; or "attention" for attn1, attn2 and all
            others.

    Raises:
        UsageError: another word.
    """
    roles = np.array(layers.roles, dtype=object)
    if by == "attention":
        masks = {name: roles == name for name in ("attn1", "attn2")}
        masks["others"] = ~(masks["attn1"] | masks["attn2"])
        return {name: mask for name, mask in masks.items() if mask.any()}
    if by not in ("block", "role"):
        raise UsageError(
            f"layers cannot be grouped by {printable(by)!r}", "use block, role or attention"
        )
    labels = roles if by == "role" else np.array(layers.blocks, dtype=object)
    ordered = sorted(set(labels.tolist()), key=natural if by == "role" else block_place)
    return {name or "unnamed": labels == name for name in ordered}


def step_table(trajectories: Sequence[Trajectory]) -> pd.DataFrame:
    """Return a row per part and model of the chain.

    Columns: part, model, from_start, step (into the model, NaN for the first), cumulative, turn
    (at the model, NaN for the first and the last).
    """
    frames = []
    for t in trajectories:
        inner = np.full(len(t.models), np.nan)
        inner[1:-1] = t.turn_cosines
        step = np.concatenate([[np.nan], t.steps])
        frames.append(
            pd.DataFrame(
                {
                    "part": t.label,
                    "model": t.models,
                    "from_start": t.from_start,
                    "step": step,
                    "cumulative": np.concatenate([[0.0], np.cumsum(t.steps)]),
                    "turn": inner,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def summary_table(trajectories: Sequence[Trajectory]) -> pd.DataFrame:
    """Return a row per part: keys, its steps by name of the model reached, and the sums.

    Columns after the steps: sum, root_of_squares, direct, coherence.
    """
    rows = []
    for t in trajectories:
        row: dict[str, object] = {"part": t.label, "keys": t.keys}
        row |= {f"to {name}": s for name, s in zip(t.models[1:], t.steps.tolist(), strict=True)}
        row |= {
            "sum": t.total,
            "root_of_squares": t.root_of_squares,
            "direct": t.direct,
            "coherence": t.coherence,
        }
        rows.append(row)
    return pd.DataFrame(rows).set_index("part")


def to_json(trajectories: Sequence[Trajectory]) -> list[dict[str, object]]:
    """Return the trajectories as plain values, NaN as None."""
    return [
        {
            "part": t.label,
            "metric": t.metric,
            "models": list(t.models),
            "from_start": plain(t.from_start.tolist()),
            "steps": plain(t.steps.tolist()),
            "sum": plain(t.total),
            "root_of_squares": plain(t.root_of_squares),
            "direct": plain(t.direct),
            "coherence": plain(t.coherence),
            "turn_cosines": plain(t.turn_cosines.tolist()),
            "keys": t.keys,
            "keys_left_out": t.keys_left_out,
        }
        for t in trajectories
    ]


def _trajectory(
    label: str,
    metric: str,
    chain: tuple[str, ...],
    values: Floats,
    keys: int = 0,
    keys_left_out: int = 0,
) -> Trajectory:
    m = len(chain) - 1
    coherence, turns = float("nan"), np.full(m - 1, np.nan)
    if metric == "l2":
        squares = PathSquares.along(np.square(values), range(m + 1))
        coherence, turns = float(squares.coherence()), squares.turn_cosines()
    return Trajectory(
        label=label,
        metric=metric,
        models=chain,
        from_start=values[0].copy(),
        steps=values[range(m), range(1, m + 1)],
        coherence=coherence,
        turn_cosines=turns,
        keys=keys,
        keys_left_out=keys_left_out,
    )


def _together(values: Floats, metric: str) -> Floats:
    if metric in _SUMMED:
        return np.asarray(values.sum(axis=0), dtype=np.float64)
    if metric == "linf":
        return np.asarray(values.max(axis=0), dtype=np.float64)
    return np.asarray(np.sqrt(np.square(values).sum(axis=0)), dtype=np.float64)


def _chain(models: Sequence[str], chain: Sequence[str], metric: str) -> list[int]:
    if metric == "cossim":
        raise UsageError("cossim is not a length, so a chain has no steps in it", "use l2")
    if len(chain) < 2:
        raise UsageError("a chain needs at least two models", "name them in their order")
    if len(set(chain)) < len(chain):
        twice = next(name for i, name in enumerate(chain) if name in chain[:i])
        raise UsageError(f"the chain names {printable(twice)!r} twice", "name each model once")
    return places(models, chain)
