"""Trajectories that draw themselves, for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from megasim.geometry.trajectory import Trajectory, step_table, summary_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TrajectoryView(tuple[Trajectory, ...]):
    """The parts of a chain of models, a tuple of `Trajectory`; a notebook shows their sums."""

    __slots__ = ()

    def to_frame(self) -> pd.DataFrame:
        """Return a row per part and model. See `step_table`."""
        return step_table(self)

    def summary(self) -> pd.DataFrame:
        """Return a row per part: its steps and their sums. See `summary_table`."""
        return summary_table(self)

    def plot(self, *, title: str = "") -> Figure:
        """Return the figure. See `trajectory_figure`."""
        from megasim.plots.trajectory import trajectory_figure

        return trajectory_figure(self, title=title)

    def _repr_html_(self) -> str:
        return str(self.summary().to_html(float_format="{:.4g}".format, na_rep="–"))
