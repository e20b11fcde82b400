"""A distance matrix that draws itself, for notebooks: `store.matrix("unet").map().plot()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from megasim.matrix.distance_matrix import DistanceMatrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from megasim.answers.map_view import MapView


class MatrixView(DistanceMatrix):
    """A distance matrix that draws itself; a notebook shows it as a table.

    Drawing is imported when it is asked for: most matrices are only written.
    """

    def heatmap(self) -> Figure:
        """Return the clustered heatmap. See `heatmap_figure`."""
        from megasim.plots.heatmap import heatmap_figure

        return heatmap_figure(self.require(2))

    def map(self, *, path: Sequence[str] = (), complete: bool = False) -> MapView:
        """Return the map of these models, without their layers. See `map_models`."""
        from megasim.answers.map_view import MapView
        from megasim.geometry.map import map_models

        return MapView(**vars(map_models(self, path=path, complete=complete)))

    def _repr_html_(self) -> str:
        return str(self.to_frame().style.format(precision=4, na_rep="–").to_html())
