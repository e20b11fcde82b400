"""A map that draws itself, for notebooks."""

from __future__ import annotations

from matplotlib.figure import Figure

from megasim.geometry.map import MapResult
from megasim.plots.map import map_figure


class MapView(MapResult):
    """A map that draws itself; a notebook shows its verdict and coordinates."""

    def plot(self) -> Figure:
        """Return the figure. See `map_figure`."""
        return map_figure(self)
