"""Trajectories that draw themselves, for notebooks, out of a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from shlex import quote
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from megasim.errors import NoAnswerError, UsageError, printable
from megasim.geometry.trajectory import (
    Trajectory,
    layer_groups,
    layer_trajectories,
    step_table,
    summary_table,
    trajectory,
)
from megasim.store.matrices import layers_beneath, load_matrix
from megasim.store.rows import Store
from megasim.wording.html import html_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from megasim.plots.style import Style


class TrajectoryView(tuple[Trajectory, ...]):
    """The parts of a chain of models, a tuple of `Trajectory`; a notebook shows their sums."""

    __slots__ = ()

    def to_frame(self) -> pd.DataFrame:
        """Return a row per part and model. See `step_table`."""
        return step_table(self)

    def summary(self) -> pd.DataFrame:
        """Return a row per part: its steps and their sums. See `summary_table`."""
        return summary_table(self)

    def plot(self, *, title: str = "", style: Style | None = None) -> Figure:
        """Return the figure. See `trajectory_figure`."""
        from megasim.plots.trajectory import trajectory_figure

        return trajectory_figure(self, title=title, style=style)

    def _repr_html_(self) -> str:
        return html_table(self.summary(), repr(self), index=True)

    def __repr__(self) -> str:
        chain = [printable(name, 40) for name in self[0].models] if self else []
        return f"<trajectory of {len(self)} parts: {' → '.join(chain)}>"


def load_trajectories(
    store: Store,
    chain: Sequence[str],
    component: str | Sequence[str] = "unet",
    metric: str = "l2",
    *,
    by: str = "role",
    only: Sequence[str] = (),
) -> TrajectoryView:
    """Return the figures of a chain of models: each component as a whole, then its groups.

    Args:
        component: one or several.
        by: how layers are grouped, see `layer_groups`.
        only: the groups that are wanted, e.g. some roles; all when empty.

    Raises:
        UsageError: a group of `only` that no component has, or see `trajectory`.
        NoAnswerError: a component that a model lacks, see `load_matrix`; or a step that was not
            compared.
    """
    components = [component] if isinstance(component, str) else list(dict.fromkeys(component))
    found: list[Trajectory] = []
    seen: set[str] = set()
    for name in components:
        matrix = load_matrix(store, name, metric, models=chain)
        found.append(trajectory(matrix, chain))
        _require_steps(found[-1])
        layers = layers_beneath(store, matrix)
        groups = {} if layers is None else layer_groups(layers, by)
        seen.update(groups)
        wanted = {g: mask for g, mask in groups.items() if not only or g in only}
        if layers is not None and wanted:
            parts = layer_trajectories(layers, chain, wanted)
            prefix = f"{name} " if len(components) > 1 else ""
            found += [replace(part, label=prefix + part.label) for part in parts]
    for group in only:
        if group not in seen:
            raise UsageError(
                f"no layer of {printable(', '.join(components))} is of {printable(group)!r}",
                "there are: " + (", ".join(map(printable, sorted(seen))) or "none"),
            )
    return TrajectoryView(found)


def _require_steps(found: Trajectory) -> None:
    missing = np.flatnonzero(np.isnan(found.steps)).tolist()
    if not missing:
        return
    a, b = (found.models[i] for i in (missing[0], missing[0] + 1))
    step = f"{printable(a)} → {printable(b)}"
    steps = f"the step {step} has"
    if len(missing) > 1:
        steps = f"{len(missing)} of {len(found.steps)} steps, {step} first, have"
    asked = f" --metric {found.metric}" if found.metric in ("linf", "cossim") else ""
    raise NoAnswerError(
        f"{steps} no {found.metric} distance for {printable(found.label)}",
        f"run `megasim compare{asked} --models {quote(printable(f'{a},{b}'))}`, or leave one out",
    )
