"""What a store answers: matrices, findings, maps, figures, recipes and the family tree.

Each answer is a method with the work imported where it is done: a command waits for its own only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from megasim.answers.matrix_view import MatrixView
from megasim.errors import NoAnswerError, UsageError, printable
from megasim.matrix.distance_matrix import LayerMatrices
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.matrices import load_layers, load_matrix, main_component, member_names
from megasim.store.rows import Store

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from megasim.answers.map_view import MapView
    from megasim.answers.trajectory_view import TrajectoryView
    from megasim.findings.overview import FindingsReport
    from megasim.lineage.claims import CheckedClaim
    from megasim.lineage.inner_products import Direction
    from megasim.lineage.recipe_result import Recipe
    from megasim.lineage.result import Lineage
    from megasim.report.page import ReportResult


class Answers:
    """What is asked of an open store. Nothing is written but estimates, and files asked for.

    Where no component is named, the UNet is meant, or all of models without one.
    """

    store: Store

    # Distances

    def matrix(
        self,
        component: str | None = None,
        metric: str = "l2",
        *,
        models: Sequence[str] | None = None,
        estimate: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> MatrixView:
        """Return the distance matrix of a component. See `load_matrix`.

        With `estimate`, pairs that were not compared are estimated from the sketches and marked.
        """
        component = component or main_component(self.store)
        if estimate:
            from megasim.estimate.pairs import save_estimates

            if metric != "l2":
                raise UsageError("only l2 can be estimated", "leave --estimate out, or ask for l2")
            save_estimates(self.store, [component], progress=progress)
        return MatrixView(**vars(load_matrix(self.store, component, metric, models=models)))

    def nearest(
        self,
        model: str | Path,
        components: Sequence[str] | None = None,
        *,
        k: int = 5,
        progress: Progress = NO_PROGRESS,
    ) -> pd.DataFrame:
        """Return the models nearest to one of the store, or to a file that is only looked at."""
        from megasim.estimate.nearest import nearest_models, nearest_to_outsider
        from megasim.ingest import fingerprint_checkpoint

        if str(model) in self.store.model_ids() or not Path(model).exists():
            return nearest_models(self.store, str(model), components, k=k, progress=progress)
        with ThreadPoolExecutor(usable_cores()) as executor:
            seen, tensors = fingerprint_checkpoint(
                self.store, Path(model), executor=executor, progress=progress
            )
        # its name may be taken; the path is not a name that a model has
        with self.store.looking_at(replace(seen, name=str(seen.path)), tensors) as outsider:
            return nearest_to_outsider(self.store, outsider, components, k=k, progress=progress)

    def layers(
        self,
        component: str | None = None,
        metric: str = "l2",
        *,
        models: Sequence[str] | None = None,
    ) -> LayerMatrices:
        """Return one matrix for each key of a component. See `load_layers`."""
        component = component or main_component(self.store)
        return load_layers(self.store, component, metric, models=models)

    def pair_layers(self, a: str, b: str) -> pd.DataFrame:
        """Return the layer distances of one pair: canonical_key, component, block, role, l2, …"""
        ids = sorted(self.store.model_ids([a, b]).values())
        frame = self.store.frame("pair_layers", a=ids[0], b=ids[-1])
        if frame.empty:
            raise NoAnswerError(
                f"the layers of {printable(a)} and {printable(b)} are not known",
                "run `megasim compare`",
            )
        return frame

    # Findings

    def findings(
        self, a: str | None = None, b: str | None = None, *, group: str | None = None
    ) -> FindingsReport:
        """Return what is found between two models, the pairs of a group, or all models."""
        from megasim.findings.overview import findings_report

        pairs = [(a, b)] if a is not None and b is not None else None
        return findings_report(self.store, pairs, group=group)

    def tiers(
        self, against: str | None = None, *, models: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Return the table of `tier_heatmap`: a row for each pair and component.

        Columns: model_a, model_b, component, verdict, keys_compared, keys_changed, l2.
        """
        import pandas as pd

        from megasim.report.findings import tier_overview
        from megasim.report.source import Source

        _, findings, _ = tier_overview(Source.of(self.store, models, None, None), against)
        columns = ["model_a", "model_b", "component", "verdict"]
        columns += ["keys_compared", "keys_changed", "l2"]
        rows = [[getattr(finding, name) for name in columns] for finding in findings]
        return pd.DataFrame(rows, columns=columns)

    def tier_heatmap(
        self, against: str | None = None, *, models: Sequence[str] | None = None
    ) -> Figure:
        """Return pairs × components, coloured by the tier of identity: what is unchanged.

        Args:
            against: only the pairs of this model. See `tier_overview`.
        """
        from megasim.plots.overview import tier_figure
        from megasim.report.findings import tier_overview
        from megasim.report.source import Source

        title, findings, _ = tier_overview(Source.of(self.store, models, None, None), against)
        return tier_figure(findings, title)

    # Geometry

    def map(
        self,
        component: str | None = None,
        metric: str = "l2",
        *,
        path: Sequence[str] = (),
        models: Sequence[str] | None = None,
        complete: bool = False,
    ) -> MapView:
        """Return the map of the models with the flat-plane test. See `load_map`."""
        from megasim.answers.map_view import load_map

        component = component or main_component(self.store)
        return load_map(self.store, component, metric, path=path, models=models, complete=complete)

    def trajectories(
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
        from megasim.answers.trajectory_view import load_trajectories

        component = component or main_component(self.store)
        return load_trajectories(self.store, chain, component, metric, by=by, only=only)

    # Layers

    def histogram(self, a: str, b: str, component: str | None = None) -> Figure:
        """Return how the layer distances of a pair are distributed.

        Args:
            component: a panel for attn1, attn2 and others of it; one for each component when None.

        Raises:
            NoAnswerError: no layer of the pair is known, or none of the component.
        """
        from megasim.plots.histogram import component_histogram, role_histogram

        layers = self.pair_layers(a, b)
        if component is None:
            return component_histogram(layers, a, b)
        some = layers[layers["component"].isin(member_names(self.store, component))]
        if some.empty:
            raise NoAnswerError(
                f"no layer of {printable(component)} is in {printable(a)} or {printable(b)}",
                "there are: " + ", ".join(sorted(map(printable, set(layers["component"])))),
            )
        return role_histogram(some, a, b, component=component)

    def layer_changes(
        self,
        component: str | None = None,
        against: str | None = None,
        *,
        models: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Return the table of `layer_heatmap`: a row for each layer and other model.

        Columns: model, other, canonical_key, block, role, numel, l2 (NULL where not known).
        """
        from megasim.report.distances import layer_changes
        from megasim.report.source import Source

        component = component or main_component(self.store)
        source = Source.of(self.store, models, [component], None)
        model, rows = layer_changes(source, component, against)
        rows = rows.assign(model=model).rename(columns={"pair": "other"})
        columns = ["model", "other", "canonical_key", "block", "role", "numel", "l2"]
        return rows[columns].reset_index(drop=True)

    def layer_heatmap(
        self,
        component: str | None = None,
        against: str | None = None,
        *,
        models: Sequence[str] | None = None,
    ) -> Figure:
        """Return layers × pairs: where in the network one model differs from the others.

        Args:
            against: the one model; the one nearest to all others when None.
        """
        from megasim.report.distances import layer_changes_figure
        from megasim.report.source import Source

        component = component or main_component(self.store)
        source = Source.of(self.store, models, [component], None)
        return layer_changes_figure(source, component, against)

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

        component = component or main_component(self.store)
        return load_recipe(
            self.store, model, component, parents=parents, estimate=estimate, progress=progress
        )

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
    ) -> Direction:
        """Return the cosine between the changes A→B and C→D. See `inner_products.direction`.

        With `estimate`, from the sketches.
        """
        from megasim.lineage.from_store import load_direction

        four = (a, b, c, d)
        component = component or main_component(self.store)
        return load_direction(self.store, four, component, estimate=estimate, progress=progress)

    def lineage(
        self,
        component: str | None = None,
        *,
        models: Sequence[str] | None = None,
        use_metadata: bool = True,
    ) -> Lineage:
        """Return the family tree of the models. See `lineage_and_claims`."""
        return self.lineage_and_claims(component, models=models, use_metadata=use_metadata)[0]

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
        use_metadata: bool = True,
        claims_file: Path | None = None,
        estimate: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> tuple[Lineage, list[CheckedClaim]]:
        """Return the family tree of the models, and what the weights say of what is claimed.

        See `load_lineage`.

        Args:
            claims_file: more claims to check. See `read_claims`.
        """
        from megasim.lineage.claims import read_claims
        from megasim.lineage.from_store import load_lineage

        return load_lineage(
            self.store,
            component or main_component(self.store),
            models=models,
            use_metadata=use_metadata,
            claimed=read_claims(claims_file) if claims_file else (),
            estimate=estimate,
            progress=progress,
        )

    # All of it

    def report(
        self,
        folder: Path | str,
        *,
        models: Sequence[str] | None = None,
        components: Sequence[str] | None = None,
        path: Sequence[str] | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> ReportResult:
        """Write the report. See `write_report`."""
        from megasim.report.page import write_report

        return write_report(
            self.store,
            Path(folder),
            models=models,
            components=components,
            path=path,
            progress=progress,
        )


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
