"""A distance matrix that draws itself, for notebooks: `store.matrix("unet").map().plot()`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from megasim.anatomy.classification import component_title
from megasim.errors import UsageError, missing_modules, require_extra
from megasim.matrix.distance_matrix import DistanceMatrix, coverage_note
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.matrices import load_matrix, main_component
from megasim.store.rows import Store
from megasim.wording.html import html_picture, html_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from megasim.answers.maps import MapView
    from megasim.plots.interactive import InteractivePicture
    from megasim.plots.interactive_matrix import Order
    from megasim.plots.style import Style

_MOST_TABLED = 30  # models, of which a notebook shows a table; of more, the heatmap
_MOST_DRAWN = 2_000  # models that an interactive picture shows


class MatrixView(DistanceMatrix):
    """A distance matrix that draws itself; a notebook shows it as a picture to zoom into.

    Without the extra `interactive`, it shows a table, or of many models the heatmap. `subset` and
    `largest_complete` give one that does so too. Drawing is imported when it is asked for: most
    matrices are only written.
    """

    def heatmap(self, style: Style | None = None) -> Figure:
        """Return the clustered heatmap. See `heatmap_figure`."""
        from megasim.plots.heatmap import heatmap_figure

        return heatmap_figure(self.require(2), style=style)

    def interactive(self, order: Order = "cluster") -> InteractivePicture:
        """Return the picture that is zoomed and asked. See `matrix_picture`.

        Raises:
            MissingExtraError: the extra `interactive` is not installed.
        """
        require_extra("interactive", "an interactive picture")
        from megasim.plots.interactive_matrix import matrix_picture

        return matrix_picture(self.require(2), order=order)

    def map(self, *, path: Sequence[str] = (), complete: bool = False) -> MapView:
        """Return the map of these models, without their layers. See `map_models`."""
        from megasim.answers.maps import MapView
        from megasim.geometry.map import map_models

        return MapView(**vars(map_models(self, path=path, complete=complete)))

    def _repr_html_(self) -> str:
        n = len(self.models)
        if n > 1 and not np.isnan(self.condensed()).all():
            if n <= _MOST_DRAWN and not missing_modules("interactive"):
                return self.interactive()._repr_html_()
            if n > _MOST_TABLED:
                from megasim.plots.figure_files import figure_bytes

                return html_picture(figure_bytes(self.heatmap(), "png", 90), repr(self)[1:-1])
        note = f"{component_title(self.component)}, {self.metric}: {coverage_note(self)}"
        return html_table(self.to_frame(), note, index=True)


def matrix_view(
    store: Store,
    component: str,
    metric: str = "l2",
    *,
    models: Sequence[str] | None = None,
    estimate: bool = False,
    weights_only: bool = False,
    progress: Progress = NO_PROGRESS,
) -> MatrixView:
    """Return the distance matrix of a component. See `load_matrix`.

    Args:
        estimate: whether pairs that were not compared are estimated from the sketches; the
            estimates are marked, and not kept. `compare` with `estimate` keeps them.
        weights_only: leave out the running statistics of normalisation layers.

    Raises:
        UsageError: an unknown component, metric or model, or an estimate of another metric than
            l2.
    """
    if estimate and weights_only:
        raise UsageError(
            "estimates are of weights and statistics together", "leave one of them out"
        )
    if estimate:
        from megasim.estimate.pairs import save_estimates

        if metric != "l2":
            raise UsageError("only l2 can be estimated", "leave --estimate out, or ask for l2")
        with store.unsaved():
            save_estimates(store, [component], progress=progress)
            found = load_matrix(store, component, metric, models=models)
        return MatrixView(**vars(found))
    found = load_matrix(store, component, metric, models=models, weights_only=weights_only)
    return MatrixView(**vars(found))


def central_models(
    store: Store,
    count: int,
    component: str | None = None,
    *,
    around: str | None = None,
    models: Sequence[str] | None = None,
) -> list[str]:
    """Return a model and those nearest to it in L2. See `DistanceMatrix.nearest_to`."""
    matrix = load_matrix(store, component or main_component(store), models=models)
    return list(matrix.nearest_to(count, around).models)


def nearest_to_file(
    store: Store,
    path: Path,
    components: Sequence[str] | None = None,
    *,
    k: int,
    executor: Executor,
    progress: Progress = NO_PROGRESS,
) -> pd.DataFrame:
    """Return the models nearest to a checkpoint that is only looked at, never saved.

    See `nearest_to_outsider`.
    """
    from megasim.estimate.nearest import nearest_to_outsider
    from megasim.ingest.files import fingerprint_checkpoint

    seen = fingerprint_checkpoint(store, path, executor=executor, progress=progress)
    # its name may be taken; the path is not a name that a model has
    model = replace(seen.model, name=str(seen.model.path))
    with store.looking_at(replace(seen, model=model)) as outsider:
        return nearest_to_outsider(store, outsider, components, k=k, progress=progress)
