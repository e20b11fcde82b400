"""An open store with the jobs on it: everything the command line does, under the same names.

Each method opens no more than its own work needs: a command waits for its own imports only.

>>> import tempfile, megasim
>>> with tempfile.TemporaryDirectory() as d, megasim.open_store(f"{d}/s.duckdb") as store:
...     len(store.models())
0
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from megasim.errors import MegasimError, UsageError, printable
from megasim.jobs import DEFAULT_MEMORY, StoreJobs, usable_cores
from megasim.notebook import html_table
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.connection import Mode, store_path
from megasim.store.lease import DEFAULT_WAIT
from megasim.store.matrices import load_layers, main_component
from megasim.wording import counted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from megasim.answers.changes import By, Changes
    from megasim.answers.lineages import LineageView
    from megasim.answers.maps import MapView
    from megasim.answers.matrices import MatrixView
    from megasim.answers.trajectories import TrajectoryView
    from megasim.answers.verification import Verification
    from megasim.answers.why import Why
    from megasim.exchange.merge_plan import MergePlan
    from megasim.findings.component_groups import ComponentGroups
    from megasim.findings.known_components import KnownComponent
    from megasim.findings.overview import FindingsReport
    from megasim.findings.verdicts import Finding
    from megasim.lineage.claims import CheckedClaim
    from megasim.lineage.inner_products import ChangeSimilarity
    from megasim.lineage.recipe_result import Recipe
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


class Workspace(StoreJobs):
    """An open store, its jobs and its answers. Use it as a context manager.

    A model is given by its full name, or by any prefix that no other model shares. Without a
    component, the UNet is used, or every component if no model has one. Methods that answer
    write nothing but estimates, and files that were asked for. The file of the store is open
    while it is used, and half a second longer: other processes read and write in between.
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

    # The store and its tables

    def models(self) -> pd.DataFrame:
        """Return the view `models`."""
        return self.store.frame("show_models")

    def sql(self, query: str) -> pd.DataFrame:
        """Return the result of a query over the views. See `query_table`."""
        from megasim.answers.tables import query_table

        return query_table(self.store, query)

    @staticmethod
    def sql_examples() -> dict[str, str]:
        """Return the queries of `sql/examples.sql` by name."""
        from megasim.answers.tables import sql_examples

        return sql_examples()

    def sql_example(self, name: str) -> pd.DataFrame:
        """Return the result of a query of `sql/examples.sql`. See `example_table`."""
        from megasim.answers.tables import example_table

        return example_table(self.store, name)

    # Findings

    def findings(
        self, a: str | None = None, b: str | None = None, *, group: str | None = None
    ) -> FindingsReport:
        """Return what is found between two models, the pairs of a group, or all models."""
        from megasim.findings.overview import findings_report

        return findings_report(self.store, self._pair(a, b), group=group)

    def pair_findings(
        self, a: str | None = None, b: str | None = None, *, group: str | None = None
    ) -> list[Finding]:
        """Return a finding for each pair and component: of two models, a group, or all pairs."""
        from megasim.findings.verdicts import pair_findings

        return pair_findings(self.store, self._pair(a, b), group=group)

    def _pair(self, a: str | None, b: str | None) -> list[tuple[str, str]] | None:
        if (a is None) != (b is None):
            raise UsageError("findings are of two models, or of all", "name two models, or none")
        return None if a is None or b is None else [(self._name(a), self._name(b))]

    def changes(self, a: str, b: str, by: By = "block", component: str | None = None) -> Changes:
        """Return how much of the change from a to b is in which block, role or layer.

        See `load_changes`.
        """
        from megasim.answers.changes import load_changes

        return load_changes(self.store, self._name(a), self._name(b), by, component)

    def why(self, a: str, b: str, *, progress: Progress = NO_PROGRESS) -> Why:
        """Return two models in five sentences. See `load_why`."""
        from megasim.answers.why import load_why

        return load_why(self.store, self._name(a), self._name(b), progress=progress)

    def shared_components(self) -> ComponentGroups:
        """Return the groups of models that hold the same component, the largest first."""
        from megasim.findings.component_groups import shared_components

        return shared_components(self.store)

    def known(self) -> list[KnownComponent]:
        """Return the components that were given a name. See `known_components`."""
        from megasim.findings.known_components import load_known

        return load_known(self.store)

    def add_known(self, name: str, model: str, component: str = "vae") -> list[KnownComponent]:
        """Give a component of a model a name, by which it is recognised from then on.

        See `known_components.add_known`.
        """
        from megasim.findings.known_components import add_known

        return add_known(self.store, name, self._name(model), component)

    def remove_known(self, name: str) -> int:
        """Forget the name of a component; return how many components had it."""
        from megasim.findings.known_components import remove_known

        return remove_known(self.store, name)

    def tiers(
        self, against: str | None = None, *, models: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Return the table of `heatmap(tiers=True)`. See `tier_table`."""
        from megasim.answers.findings import tier_table

        one = None if against is None else self._name(against)
        return tier_table(self.store, one, models=self._names(models))

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

    def _central(
        self,
        component: str | None,
        models: Sequence[str] | None,
        top: int | None,
        around: str | None,
    ) -> list[str] | None:
        """Return names of models: those asked for, or the `top` of them nearest to one."""
        from megasim.answers.matrices import central_models

        names = self._names(models)
        if top is None:
            return names
        one = None if around is None else self._name(around)
        return central_models(self.store, top, component, around=one, models=names)

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

        if str(model) in self.store.model_ids() or not Path(model).exists():
            name = self._name(str(model))
            return nearest_models(self.store, name, components, k=k, progress=progress)
        with ThreadPoolExecutor(usable_cores()) as executor:
            return nearest_to_file(
                self.store, Path(model), components, k=k, executor=executor, progress=progress
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
        return kinship_table(self.store, name, names, components, progress=progress)

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

    # Lineage

    def recipe(
        self,
        model: str,
        component: str | None = None,
        *,
        parents: Sequence[str] | None = None,
        estimate: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> Recipe:
        """Return a model as a weighted sum of others. See `load_recipe`.

        With `estimate`, from the sketches of all models, compared or not.
        """
        from megasim.lineage.from_store import load_recipe

        return load_recipe(
            self.store,
            self._name(model),
            component or main_component(self.store),
            parents=self._names(parents),
            estimate=estimate,
            progress=progress,
        )

    def recipes(
        self,
        model: str,
        *,
        parents: Sequence[str] | None = None,
        estimate: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> list[Recipe]:
        """Return the recipe of each component of a model; of an unknown architecture, of the whole.

        See `recipe`.
        """
        from megasim.exchange.merge_plan import whole_components

        name = self._name(model)
        return [
            self.recipe(name, c, parents=parents, estimate=estimate, progress=progress)
            for c in whole_components(self.store, name)
        ]

    def merge_plan(self, model: str, recipes: Sequence[Recipe], rest: str = "") -> MergePlan:
        """Return how a model is made again out of files. See `exchange.merge_plan`."""
        from megasim.exchange.merge_plan import merge_plan

        return merge_plan(self.store, self._name(model), recipes, rest)

    def verify(
        self,
        a: str | Path,
        b: str | Path,
        allow: Collection[str] = (),
        *,
        against: Path | str | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> Verification:
        """Return whether b is a, up to what is allowed. See `verification.verify_keys`.

        Args:
            a, b: a file or folder where there is one of that name, else a model of the store.
            allow: of "cast", "prune", "rename", "quant".
            against: a .parquet file of fingerprints, of which `a` is a model.
        """
        from megasim.answers.held_keys import keys_of, keys_of_fingerprints
        from megasim.answers.verification import verify_keys

        given = (lambda: self.store, progress)
        first = keys_of(a, *given) if against is None else keys_of_fingerprints(against, str(a))
        return verify_keys(first, keys_of(b, *given), allow)

    def direction(
        self,
        a: str,
        b: str,
        c: str,
        d: str,
        component: str | None = None,
        *,
        estimate: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> ChangeSimilarity:
        """Return the cosine between the changes A→B and C→D. See `inner_products.direction`.

        With `estimate`, from the sketches.
        """
        from megasim.lineage.from_store import load_direction

        four = (self._name(a), self._name(b), self._name(c), self._name(d))
        component = component or main_component(self.store)
        return load_direction(self.store, four, component, estimate=estimate, progress=progress)

    def lineage(
        self,
        component: str | None = None,
        *,
        models: Sequence[str] | None = None,
        top: int | None = None,
        use_metadata: bool = True,
        estimate: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> LineageView:
        """Return the family tree of the models. See `lineage_and_claims`."""
        return self.lineage_and_claims(
            component,
            models=models,
            top=top,
            use_metadata=use_metadata,
            estimate=estimate,
            progress=progress,
        )[0]

    def claims(
        self, component: str | None = None, *, file: Path | None = None
    ) -> list[CheckedClaim]:
        """Return the claims of the metadata, and of a file, with what the weights say of them."""
        return self.lineage_and_claims(component, claims_file=file)[1]

    def lineage_and_claims(
        self,
        component: str | None = None,
        *,
        models: Sequence[str] | None = None,
        top: int | None = None,
        use_metadata: bool = True,
        claims_file: Path | None = None,
        estimate: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> tuple[LineageView, list[CheckedClaim]]:
        """Return the family tree of the models, and what the weights say of what is claimed.

        See `load_lineage`.

        Args:
            top: only so many models: the one in their middle, and those nearest to it.
            claims_file: more claims to check. See `read_claims`.
        """
        from megasim.answers.lineages import LineageView
        from megasim.lineage.claims import read_claims
        from megasim.lineage.from_store import load_lineage

        found, checked = load_lineage(
            self.store,
            component or main_component(self.store),
            models=self._central(component, models, top, None),
            use_metadata=use_metadata,
            claimed=read_claims(claims_file) if claims_file else (),
            estimate=estimate,
            progress=progress,
        )
        return LineageView(**vars(found)), checked

    # All of it

    def report(
        self,
        folder: Path | str,
        *,
        models: Sequence[str] | None = None,
        components: Sequence[str] | None = None,
        path: Sequence[str] | None = None,
        one_file: bool = False,
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
            progress=progress,
        )
