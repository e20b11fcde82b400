"""A map that draws itself, for notebooks, out of a store or a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from megasim.errors import missing_modules, require_extra
from megasim.geometry.comparable import one_architecture
from megasim.geometry.map import MapResult, map_models
from megasim.store.matrices import MOST_LAYERED_MODELS, layers_beneath, load_matrix
from megasim.store.roundings import quantised_copies
from megasim.store.rows import Store
from megasim.wording.html import html_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from megasim.plots.interactive import InteractivePicture
    from megasim.plots.style import Style


class MapView(MapResult):
    """A map that draws itself; a notebook shows a picture to move about in.

    Without the extra `interactive`, it shows the figure.
    """

    def plot(self, style: Style | None = None) -> Figure:
        """Return the figure. See `map_figure`."""
        from megasim.plots.map import map_figure

        return map_figure(self, style)

    def interactive(self, axes: tuple[int, int] = (1, 2)) -> InteractivePicture:
        """Return the picture that is moved and asked, over two of its axes. See `map_picture`.

        Raises:
            MissingExtraError: the extra `interactive` is not installed.
        """
        require_extra("interactive", "an interactive picture")
        from megasim.plots.interactive_map import map_picture

        return map_picture(self, axes=axes)

    def _repr_html_(self) -> str:
        if not missing_modules("interactive"):
            return self.interactive()._repr_html_()
        from megasim.plots.figure_files import figure_bytes

        return html_picture(figure_bytes(self.plot(), "png", 90), repr(self)[1:-1])


def load_map(
    store: Store,
    component: str = "unet",
    metric: str = "l2",
    *,
    path: Sequence[str] = (),
    models: Sequence[str] | None = None,
    complete: bool = False,
    weights_only: bool = False,
) -> MapView:
    """Return the map of the models that hold a component. See `map_models` and `load_matrix`.

    Unless `models` or a `path` name them, those of another architecture than the most are left
    out, and named.
    """
    matrix = load_matrix(store, component, metric, models=models, weights_only=weights_only)
    left_out: tuple[str, ...] = ()
    if models is None and not path and not complete:
        matrix, left_out = one_architecture(matrix)
    why = "No layer has known distances, so nothing is said of single layers."
    if len(matrix.models) > MOST_LAYERED_MODELS:
        why = (
            f"The layers of more than {MOST_LAYERED_MODELS} models are not looked into; name "
            "fewer with --models."
        )
    layers = layers_beneath(store, matrix, weights_only=weights_only)
    result = map_models(
        matrix,
        path=path,
        layers=layers,
        without_layers=why,
        left_out=left_out,
        quantised=quantised_copies(store, matrix.models, component),
        complete=complete,
    )
    return MapView(**vars(result))
