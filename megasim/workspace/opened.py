"""An open store with the jobs on it: everything the command line does, under the same names.

Each method opens no more than its own work needs: a command waits for its own imports only.

>>> import tempfile, megasim
>>> with tempfile.TemporaryDirectory() as d, megasim.open_store(f"{d}/s.duckdb") as store:
...     len(store.models())
0
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from megasim.checkpoint.locations import located
from megasim.errors import MegasimError, UsageError, printable
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.connection import Mode, store_path
from megasim.store.lease import DEFAULT_WAIT
from megasim.store.matrices import load_layers, main_component
from megasim.wording.html import html_table
from megasim.wording.sentences import counted
from megasim.workspace.jobs import DEFAULT_MEMORY, usable_cores
from megasim.workspace.lineage import StoreLineage

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from megasim.answers.maps import MapView
    from megasim.answers.matrices import MatrixView
    from megasim.answers.trajectories import TrajectoryView
    from megasim.matrix.distance_matrix import LayerMatrices
    from megasim.plots.style import Style
    from megasim.report.page import ReportResult


def open_store(
    path: Path | str | None = None,
    mode: Mode = "write",
    *,
    memory: int | None = None,
    wait: float = DEFAULT_WAIT,
) -> Workspace:
    """Open a store; with `mode` "write" it is made if it is not there.

    Args:
        path: the DuckDB file; `MEGASIM_DB`, or megasim.duckdb in the current folder when None.
        mode: "read" lets several processes in at once; "update" writes to a store that is there.
        memory: bytes for the work of ingest and compare together; 1 GiB when None.
        wait: seconds to wait for a process that writes, or, to write, for those that read.

    Raises:
        NoAnswerError, NotAStoreError, StoreLockedError, StoreTooNewError, StoreTooOldError: see
            `connect`.
    """
    return Workspace(store_path(path), mode, memory=memory or DEFAULT_MEMORY, wait=wait)


class Workspace(StoreLineage):
    """An open store, its jobs and its answers. Use it as a context manager.

    A model is given by its full name, or by any prefix that no other model shares. Without a
    component, the UNet is used, else the transformer, or every component if no model has either.
    Methods that answer write nothing but estimates, and files that were asked for. The file of
    the store is open while it is used, and half a second longer: other processes read and write
    in between.
    """

    def __repr__(self) -> str:
        path = printable(self.store.path, 200)
        try:
            ((models, pairs, compared),) = self.store.rows("store_counts")
        except (MegasimError, duckdb.Error):
            return f"<megasim store {path}, closed or in use>"
        return (
            f"<megasim store {path}: {counted(models, 'model')}, "
            f"{compared:,} of {counted(pairs, 'pair')} compared>"
        )

    def _repr_html_(self) -> str:
        columns = ["name", "family", "variant", "format", "dtypes", "keys", "parameters"]
        return html_table(self.models()[columns], repr(self)[1:-1])

    # Distances

    def matrix(
        self,
        component: str | None = None,
        metric: str = "l2",
        *,
        models: Sequence[str] | None = None,
        estimate: bool = False,
        weights_only: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> MatrixView:
        """Return the distance matrix of a component. See `matrix_view`."""
        from megasim.answers.matrices import matrix_view

        return matrix_view(
            self.store,
            component or main_component(self.store),
            metric,
            models=self._names(models),
            estimate=estimate,
            weights_only=weights_only,
            progress=progress,
        )

    def heatmap(
        self,
        component: str | None = None,
        metric: str = "l2",
        *,
        models: Sequence[str] | None = None,
        top: int | None = None,
        layers: bool = False,
        tiers: bool = False,
        against: str | None = None,
        weights_only: bool = False,
        style: Style | None = None,
    ) -> Figure:
        """Return the distance matrix of a component as a clustered heatmap.

        Args:
            top: only so many models: `against`, or the one in their middle, and those nearest to
                it. See `DistanceMatrix.nearest_to`.
            layers: draw layers × pairs instead, of one model with the others; in l2.
            tiers: draw components × pairs instead, coloured by what is unchanged, and how.
            against: the one model of `layers` or `tiers`; the one nearest to all others when
                None, or all pairs where `tiers` shows few.
            weights_only: leave out the running statistics of normalisation layers.
            style: theme, font, size and title. See `plots.style.style_of`.

        Raises:
            UsageError: options that do not go together, or an unknown model.
        """
        if (layers and tiers) or (against is not None and not (layers or tiers)):
            raise UsageError("--against needs either --layers or --tiers", "add one of them")
        if layers and metric != "l2":
            raise UsageError("layers are drawn in l2 only", "leave out --metric")
        models = self._central(component, models, top, against)
        if not (layers or tiers):
            matrix = self.matrix(component, metric, models=models, weights_only=weights_only)
            return matrix.heatmap(style)
        chosen = self._names(models)
        one = None if against is None else self._name(against)
        if tiers:
            from megasim.answers.findings import tier_heatmap

            return tier_heatmap(self.store, one, models=chosen, style=style)
        from megasim.answers.layers import layer_heatmap

        component = component or main_component(self.store)
        return layer_heatmap(self.store, component, one, models=chosen, style=style)

    def nearest(
        self,
        model: str | Path,
        components: Sequence[str] | None = None,
        *,
        k: int = 5,
        progress: Progress = NO_PROGRESS,
    ) -> pd.DataFrame:
        """Return the models nearest to one of the store, or to a file that is only looked at.

        See `nearest_models` and `nearest_to_file`.
        """
        from megasim.answers.matrices import nearest_to_file
        from megasim.estimate.nearest import nearest_models

        if self.store.models([str(model)]) or not located(model).exists():
            name = self._name(str(model))
            return nearest_models(self.store, name, components, k=k, progress=progress)
        with ThreadPoolExecutor(usable_cores()) as executor:
            return nearest_to_file(
                self.store, located(model), components, k=k, executor=executor, progress=progress
            )

    def kinship(
        self,
        model: str,
        others: Sequence[str] | None = None,
        components: Sequence[str] | None = None,
        *,
        progress: Progress = NO_PROGRESS,
    ) -> pd.DataFrame:
        """Test whether a model and others have a common origin, with p-values.

        See `kinship_table`.
        """
        from megasim.answers.kinship import kinship_table

        name, names = self._name(model), self._names(others)
        with ThreadPoolExecutor(usable_cores()) as executor:
            return kinship_table(
                self.store, name, names, components, executor=executor, progress=progress
            )

    # Layers

    def layers(
        self, a: str, b: str, component: str | None = None, *, top: int | None = None
    ) -> pd.DataFrame:
        """Return how each layer changed from a to b, the most changed first. See `pair_layers`."""
        from megasim.answers.layers import pair_layers

        return pair_layers(self.store, self._name(a), self._name(b), component, top=top)

    def layer_matrices(
        self,
        component: str | None = None,
        metric: str = "l2",
        *,
        models: Sequence[str] | None = None,
    ) -> LayerMatrices:
        """Return one matrix for each key of a component. See `load_layers`."""
        component = component or main_component(self.store)
        return load_layers(self.store, component, metric, models=self._names(models))

    def layer_changes(
        self,
        component: str | None = None,
        against: str | None = None,
        *,
        models: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Return the table of `heatmap(layers=True)`. See `layer_change_table`."""
        from megasim.answers.layers import layer_change_table

        component = component or main_component(self.store)
        one = None if against is None else self._name(against)
        return layer_change_table(self.store, component, one, models=self._names(models))

    def histogram(
        self, a: str, b: str, component: str | None = None, *, style: Style | None = None
    ) -> Figure:
        """Return how the layer distances of a pair are distributed. See `answers.layers`."""
        from megasim.answers.layers import histogram

        return histogram(self.store, self._name(a), self._name(b), component, style=style)

    # Geometry

    def map(
        self,
        component: str | None = None,
        metric: str = "l2",
        *,
        path: Sequence[str] = (),
        models: Sequence[str] | None = None,
        top: int | None = None,
        complete: bool = False,
        weights_only: bool = False,
    ) -> MapView:
        """Return the map of the models with the flat-plane test. See `load_map`.

        Args:
            top: only so many models: the first of the path, or the one in their middle, and those
                nearest to it.
        """
        from megasim.answers.maps import load_map

        return load_map(
            self.store,
            component or main_component(self.store),
            metric,
            path=self.store.model_names(path),
            models=self._central(component, models, top, next(iter(path), None)),
            complete=complete,
            weights_only=weights_only,
        )

    def trajectory(
        self,
        chain: Sequence[str],
        component: str | Sequence[str] | None = None,
        metric: str = "l2",
        *,
        by: str = "role",
        only: Sequence[str] = (),
    ) -> TrajectoryView:
        """Return the figures of a chain: each component as a whole, then its groups of layers.

        See `load_trajectories`.
        """
        from megasim.answers.trajectories import load_trajectories

        component = component or main_component(self.store)
        names = self.store.model_names(chain)
        return load_trajectories(self.store, names, component, metric, by=by, only=only)

    # All of it

    def report(
        self,
        folder: Path | str,
        *,
        models: Sequence[str] | None = None,
        components: Sequence[str] | None = None,
        path: Sequence[str] | None = None,
        one_file: bool = False,
        interactive: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> ReportResult:
        """Write the report. See `write_report`."""
        from megasim.report.page import write_report

        return write_report(
            self.store,
            Path(folder),
            models=self._names(models),
            components=components,
            path=self._names(path),
            one_file=one_file,
            interactive=interactive,
            progress=progress,
        )
