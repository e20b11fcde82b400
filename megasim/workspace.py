"""A store with the jobs on it: everything the command line does, under the same names.

>>> import tempfile, megasim
>>> with tempfile.TemporaryDirectory() as d, megasim.open_store(f"{d}/s.duckdb") as store:
...     len(store.models())
0
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import duckdb

from megasim.database import Mode, named_statements
from megasim.errors import NoAnswerError, UsageError, printable
from megasim.matrix import DistanceMatrix, LayerMatrices
from megasim.matrix_loading import load_layers, load_matrix, member_names
from megasim.matrix_view import MatrixView
from megasim.progress import NO_PROGRESS, Progress
from megasim.store import Pair, Store

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from megasim.checkpoint.model_map import ModelMap
    from megasim.compare import CompareResult
    from megasim.findings.overview import FindingsReport
    from megasim.fingerprint_file import FingerprintImport
    from megasim.geometry.trajectory import Trajectory
    from megasim.ingest import IngestResult
    from megasim.legacy.exporting import ExportResult
    from megasim.legacy.importing import ImportResult
    from megasim.lineage.claims import CheckedClaim
    from megasim.lineage.inner_products import Direction
    from megasim.lineage.recipe_result import Recipe
    from megasim.lineage.result import Lineage
    from megasim.map_view import MapView
    from megasim.report.page import ReportResult
    from megasim.trajectory_view import TrajectoryView

DEFAULT_STORE = "megasim.duckdb"
DEFAULT_MEMORY = 1 << 30
# Of more models, the matrices of every layer would take more than 150 MB.
_MOST_LAYERED_MODELS = 150


def open_store(
    path: Path | str | None = None, mode: Mode = "write", *, memory: int | None = None
) -> Workspace:
    """Open a store, made when it is not there and `mode` is "write".

    Args:
        path: the DuckDB file; `MEGASIM_DB`, or megasim.duckdb in the current folder when None.
        mode: "read" lets several processes in at once; "update" writes to a store that is there.
        memory: bytes for the work of ingest and compare together; 1 GiB when None.

    Raises:
        NoAnswerError, NotAStoreError, StoreLockedError, StoreTooNewError: see `connect`.
    """
    where = Path(path or os.environ.get("MEGASIM_DB") or DEFAULT_STORE)
    return Workspace(where, mode, memory=memory or DEFAULT_MEMORY)


class Workspace:
    """An open store and the jobs on it. Use it as a context manager."""

    def __init__(self, path: Path, mode: Mode, *, memory: int = DEFAULT_MEMORY) -> None:
        # the database spills to disk beyond its share; below 1 GiB some joins cannot
        self.memory = memory
        self.store = Store(path, mode, memory=None if mode == "read" else max(memory, 1 << 30))

    def __enter__(self) -> Workspace:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    # The store and its tables

    def models(self) -> pd.DataFrame:
        """Return the view `models`."""
        return self.store.frame("show_models")

    def forget(self, model: str) -> None:
        """Forget a model and its pairs; contents that others hold stay."""
        ((_, model_id),) = self.store.model_ids([model]).items()
        with self.store.transaction():
            self.store.remove_model(model_id)
            self.store.rows("remove_model_groups", id=model_id)

    def sql(self, query: str) -> pd.DataFrame:
        """Return the result of a query over the views.

        Raises:
            UsageError: DuckDB does not accept the query; its message says why.
        """
        try:
            result = self.store.connection.execute(query)
            if result is None:  # duckdb's stubs do not know of it
                raise UsageError("the query is empty", 'write "select …"')
            return result.df()
        except duckdb.Error as error:
            raise UsageError(printable(str(error).replace("\n", " · "), 600)) from None

    def sql_example(self, name: str) -> pd.DataFrame:
        """Return the result of a query of `sql/examples.sql`."""
        examples = sql_examples()
        if name not in examples:
            raise UsageError(
                f"no such example: {printable(name)!r}", "there are: " + ", ".join(examples)
            )
        return self.sql(examples[name])

    # The way of the data

    def ingest(
        self,
        *paths: Path | str,
        names: Mapping[str, Path] | None = None,
        anatomy: Path | None = None,
        sketch_size: int = 256,
        reread: bool = False,
        workers: int | None = None,
        executor: Executor | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> IngestResult:
        """Fingerprint checkpoints: files, folders, or a mega_cmp model map. See `ingest_paths`.

        Args:
            workers: threads; as many as there are cores when None.
            executor: runs the pieces of work instead of threads; it is not shut down.
        """
        from megasim.anatomy.classification import load_rules
        from megasim.checkpoint.model_map import is_model_map
        from megasim.ingest import ingest_paths

        given = [Path(path) for path in paths]
        maps = [_read_map(path) for path in given if is_model_map(path)]
        places = [path for path in given if not is_model_map(path)]
        all_names = dict(names or {})
        for model_map in maps:
            all_names.update(model_map.models)
            places.extend(model_map.models.values())
        with _executor(executor, workers or _cores()) as running:
            result = ingest_paths(
                self.store,
                places,
                executor=running,
                names=all_names,
                rules=load_rules(anatomy) if anatomy else None,
                sketch_size=sketch_size,
                reread=reread,
                progress=progress,
            )
        for model_map in maps:
            self._add_groups(model_map)
        return result

    def _add_groups(self, model_map: ModelMap) -> None:
        ids = self.store.model_ids()
        self.store.add_groups(
            {
                group: [(ids[a], ids[b]) for a, b in pairs if a in ids and b in ids]
                for group, pairs in model_map.groups.items()
            }
        )

    def pairs_of(
        self,
        *,
        models: Sequence[str] | None = None,
        groups: Iterable[str] | None = None,
        model_map: Path | None = None,
    ) -> list[Pair]:
        """Return the pairs of ids that are meant: all, those among `models`, or those of groups.

        Raises:
            UsageError: an unknown model or group.
        """
        from megasim.compare import all_pairs

        if model_map is not None:
            wanted_map = _read_map(model_map)
            self._add_groups(wanted_map)
            groups = list(wanted_map.groups)
        if groups is not None:
            known = self.store.groups()
            for name in groups:
                if name not in known:
                    raise UsageError(
                        f"no such group: {printable(name)!r}",
                        "there are: " + (", ".join(map(printable, known)) or "none"),
                    )
            return sorted({pair for name in groups for pair in known[name]})
        rows = self.store.models()
        if models is not None:
            wanted = self.store.model_ids(models)
            rows = [row for row in rows if row.name in wanted]
        return all_pairs(rows)

    def compare(
        self,
        *,
        models: Sequence[str] | None = None,
        groups: Iterable[str] | None = None,
        model_map: Path | None = None,
        metrics: Sequence[str] = (),
        nearest: int | None = None,
        component: str = "all",
        device: str | None = None,
        workers: int | None = None,
        executor: Executor | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> CompareResult:
        """Compute the exact distances still missing. See `compare_models` and `pairs_of`.

        With `nearest`, only those of each model with its nearest by estimate of `component`.

        Args:
            workers: threads, or how many pieces `executor` runs at a time; the cores when None.
            executor: runs the pieces of work instead of threads; it is not shut down.
        """
        from megasim.compare import compare_models

        pairs = self.pairs_of(models=models, groups=groups, model_map=model_map)
        if nearest is not None:
            from megasim.nearest import nearest_pairs

            near = set(nearest_pairs(self.store, component, nearest, progress=progress))
            pairs = [pair for pair in pairs if pair in near]
        count = workers or _cores()
        with _executor(executor, count) as running:
            return compare_models(
                self.store,
                pairs,
                executor=running,
                metrics=metrics,
                memory=self.memory // 4,
                workers=count,
                device=device,
                progress=progress,
            )

    def import_path(
        self, path: Path | str, *, progress: Progress = NO_PROGRESS
    ) -> ImportResult | FingerprintImport:
        """Import results of mega_cmp, or a file of fingerprints.

        See `importing.import_path` and `fingerprint_file.import_fingerprints`.
        """
        from megasim.fingerprint_file import import_fingerprints
        from megasim.legacy.importing import import_path

        if Path(path).suffix.lower() == ".parquet":
            return import_fingerprints(self.store, Path(path))
        return import_path(self.store, Path(path), progress=progress)

    def export_mega_cmp(
        self,
        folder: Path | str,
        *,
        models: Sequence[str] | None = None,
        groups: Iterable[str] | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> ExportResult:
        """Write pairs as mega_cmp did. See `exporting.export_mega_cmp`."""
        from megasim.legacy.exporting import export_mega_cmp

        pairs = None
        if groups is not None:
            pairs = self.pairs_of(groups=groups)
        elif models is not None:
            ids = self.store.model_ids(models).values()
            known = self.store.rows("finding_pairs")
            pairs = [(a, b) for a, b in known if a in ids and b in ids]
        return export_mega_cmp(self.store, Path(folder), pairs, progress=progress)

    # Answers

    def matrix(
        self,
        component: str = "unet",
        metric: str = "l2",
        *,
        models: Sequence[str] | None = None,
        estimate: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> MatrixView:
        """Return the distance matrix of a component. See `load_matrix`.

        With `estimate`, pairs that were not compared are estimated from the sketches and marked.
        """
        if estimate:
            from megasim.estimate import save_estimates

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
        from megasim.ingest import fingerprint_checkpoint
        from megasim.nearest import nearest_models, nearest_to_outsider

        if str(model) in self.store.model_ids() or not Path(model).exists():
            return nearest_models(self.store, str(model), components, k=k, progress=progress)
        with ThreadPoolExecutor(_cores()) as executor:
            seen, tensors = fingerprint_checkpoint(
                self.store, Path(model), executor=executor, progress=progress
            )
        # its name may be taken; the path is not a name that a model has
        with self.store.looking_at(replace(seen, name=str(seen.path)), tensors) as outsider:
            return nearest_to_outsider(self.store, outsider, components, k=k, progress=progress)

    def layers(
        self, component: str = "unet", metric: str = "l2", *, models: Sequence[str] | None = None
    ) -> LayerMatrices:
        """Return one matrix for each key of a component. See `load_layers`."""
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

    def findings(
        self, a: str | None = None, b: str | None = None, *, group: str | None = None
    ) -> FindingsReport:
        """Return what is found between two models, the pairs of a group, or all models."""
        from megasim.findings.overview import findings_report

        pairs = [(a, b)] if a is not None and b is not None else None
        return findings_report(self.store, pairs, group=group)

    def export_fingerprints(
        self,
        path: Path | str,
        *,
        models: Sequence[str] | None = None,
        component: str = "all",
        names: Mapping[str, str] | None = None,
    ) -> int:
        """Write hashes, norms and sketches of models to a Parquet file; return how many.

        Of one component only, and under other names, where those are given.
        """
        from megasim.fingerprint_file import export_fingerprints

        return export_fingerprints(
            self.store, Path(path), models=models, component=component, names=names
        )

    def map(
        self,
        component: str = "unet",
        metric: str = "l2",
        *,
        path: Sequence[str] = (),
        models: Sequence[str] | None = None,
        complete: bool = False,
    ) -> MapView:
        """Return the map of the models with the flat-plane test. See `map_models`."""
        from megasim.geometry.map import map_models
        from megasim.map_view import MapView

        matrix = load_matrix(self.store, component, metric, models=models)
        layers = self._layers_of(matrix, metric)
        why = "No layer has known distances, so nothing is said of single layers."
        if len(matrix.models) > _MOST_LAYERED_MODELS:
            why = (
                f"The layers of more than {_MOST_LAYERED_MODELS} models are not looked into; name "
                "fewer with --models."
            )
        result = map_models(matrix, path=path, layers=layers, without_layers=why, complete=complete)
        return MapView(**vars(result))

    def trajectories(
        self,
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
            NoAnswerError: a component that a model lacks, see `load_matrix`.
        """
        from megasim.geometry.trajectory import layer_groups, layer_trajectories, trajectory
        from megasim.trajectory_view import TrajectoryView

        components = [component] if isinstance(component, str) else list(dict.fromkeys(component))
        found: list[Trajectory] = []
        seen: set[str] = set()
        for name in components:
            matrix = load_matrix(self.store, name, metric, models=chain)
            found.append(trajectory(matrix, chain))
            layers = self._layers_of(matrix, metric)
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
        component: str = "unet",
        against: str | None = None,
        *,
        models: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Return the table of `layer_heatmap`: a row for each layer and other model.

        Columns: model, other, canonical_key, block, role, numel, l2 (NULL where not known).
        """
        from megasim.report.distances import layer_changes
        from megasim.report.source import Source

        source = Source.of(self.store, models, [component], None)
        model, rows = layer_changes(source, component, against)
        rows = rows.assign(model=model).rename(columns={"pair": "other"})
        columns = ["model", "other", "canonical_key", "block", "role", "numel", "l2"]
        return rows[columns].reset_index(drop=True)

    def layer_heatmap(
        self,
        component: str = "unet",
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

        source = Source.of(self.store, models, [component], None)
        return layer_changes_figure(source, component, against)

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

    def recipe(
        self,
        model: str,
        component: str = "unet",
        *,
        parents: Sequence[str] | None = None,
        estimate: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> Recipe:
        """Return a model as a weighted sum of others. See `recover_recipe`.

        With `estimate`, from the sketches of all models, compared or not.
        """
        from megasim.lineage.evidence import rounding_of
        from megasim.lineage.facts import load_model_facts
        from megasim.lineage.recipe import recover_recipe

        asked = list(dict.fromkeys([model, *(parents or ())]))
        if estimate:
            chosen = asked if parents else self._sketched_near(model, component, progress)
            matrix, layers = self._distances(component, chosen, True, progress)
        else:
            load_matrix(self.store, component, models=asked)  # says which model lacks the component
            matrix = self._near(load_matrix(self.store, component), model, parents or ())
            layers = self._layers_of(matrix, "l2")
        facts = load_model_facts(self.store, component)
        rounding = rounding_of(facts, component)
        return recover_recipe(matrix, model, parents=parents, layers=layers, rounding=rounding)

    def direction(
        self,
        a: str,
        b: str,
        c: str,
        d: str,
        component: str = "unet",
        *,
        estimate: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> Direction:
        """Return the cosine between the changes A→B and C→D. See `inner_products.direction`.

        With `estimate`, from the sketches.
        """
        from megasim.lineage.inner_products import direction

        four = list(dict.fromkeys((a, b, c, d)))
        matrix, layers = self._distances(component, four, estimate, progress)
        return direction(matrix, a, b, c, d, layers)

    def lineage(
        self,
        component: str = "unet",
        *,
        models: Sequence[str] | None = None,
        use_metadata: bool = True,
    ) -> Lineage:
        """Return the family tree of the models. See `lineage_and_claims`."""
        return self.lineage_and_claims(component, models=models, use_metadata=use_metadata)[0]

    def claims(self, component: str = "unet", *, file: Path | None = None) -> list[CheckedClaim]:
        """Return the claims of the metadata, and of a file, with what the weights say of them."""
        return self.lineage_and_claims(component, claims_file=file)[1]

    def lineage_and_claims(
        self,
        component: str = "unet",
        *,
        models: Sequence[str] | None = None,
        use_metadata: bool = True,
        claims_file: Path | None = None,
        estimate: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> tuple[Lineage, list[CheckedClaim]]:
        """Return the family tree of the models, and what the weights say of what is claimed.

        Claims are held against a tree that was built without them. See `build_lineage` and
        `check_claims`.

        Args:
            use_metadata: whether step counts and claims in the metadata count as evidence, and
                whether those claims are checked.
            claims_file: more claims to check. See `read_claims`.
            estimate: whether to take all distances from the sketches.
        """
        from megasim.lineage.claims import check_claims, claims_of_metadata, read_claims
        from megasim.lineage.evidence import rounding_of
        from megasim.lineage.facts import (
            load_ema_copies,
            load_model_facts,
            load_pair_facts,
            stated_parents,
        )
        from megasim.lineage.family_tree import build_lineage

        claimed = read_claims(claims_file) if claims_file else []
        matrix, layers = self._distances(component, models, estimate, progress)
        facts = [f for f in load_model_facts(self.store, component) if f.name in matrix.models]
        blind = [replace(f, counts={}, metadata={}) for f in facts]
        build = partial(
            build_lineage,
            matrix,
            layers=layers,
            changed=None
            if estimate
            else load_matrix(self.store, component, "l0", models=matrix.models),
            pairs=load_pair_facts(self.store),
            ema_copies=load_ema_copies(self.store) if component == "unet" else (),
        )
        lineage = from_weights = build(facts=blind)
        if use_metadata:
            written = claims_of_metadata(facts)
            claimed = written + claimed
            stated = stated_parents(written, list(matrix.models))
            lineage = build(facts=facts, stated=stated, merges=from_weights.recipes)
        checked = check_claims(
            claimed,
            matrix,
            layers=layers,
            rounding=rounding_of(facts, component),
            lineage=from_weights,
        )
        return lineage, checked

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

    def _layers_of(self, matrix: DistanceMatrix, metric: str) -> LayerMatrices | None:
        """Return the layers beneath a matrix, where they are known and fit into memory."""
        n = len(matrix.models)
        if n > _MOST_LAYERED_MODELS:
            return None
        layers = load_layers(self.store, matrix.component, metric, models=matrix.models)
        return layers if layers.keys else None

    def _distances(
        self, component: str, models: Sequence[str] | None, estimate: bool, progress: Progress
    ) -> tuple[DistanceMatrix, LayerMatrices | None]:
        """Return the L2 distances of a component and, of not too many models, by layer."""
        if not estimate:
            matrix = load_matrix(self.store, component, models=models)
            return matrix, self._layers_of(matrix, "l2")
        from megasim.sketched import sketched_distances

        count = len(self.store.model_ids() if models is None else models)
        return sketched_distances(
            self.store,
            component,
            models=models,
            with_layers=count <= _MOST_LAYERED_MODELS,
            progress=progress,
        )

    def _sketched_near(self, model: str, component: str, progress: Progress) -> list[str] | None:
        """Return a model and those nearest by their sketches; None if all are few enough."""
        from megasim.nearest import nearest_to_outsider

        (model_id,) = self.store.model_ids([model]).values()
        if len(self.store.model_ids()) <= _MOST_LAYERED_MODELS:
            load_matrix(self.store, component, models=[model])  # says so if it lacks the component
            return None
        members = member_names(self.store, component)
        near = nearest_to_outsider(
            self.store, model_id, members, k=_MOST_LAYERED_MODELS - 1, progress=progress
        )
        return list(dict.fromkeys([model, *near["model"]]))

    def _near(self, matrix: DistanceMatrix, model: str, parents: Sequence[str]) -> DistanceMatrix:
        """Return the matrix of a model, its parents and those nearest to it."""
        if model not in matrix.models or len(matrix.models) <= _MOST_LAYERED_MODELS:
            return matrix
        row = matrix.values[matrix.models.index(model)]
        near = [matrix.models[i] for i in row.argsort(kind="stable")[:_MOST_LAYERED_MODELS]]
        wanted = {model, *parents, *near}
        return matrix.subset([name for name in matrix.models if name in wanted])


def sql_examples() -> dict[str, str]:
    """Return the queries of `sql/examples.sql` by name."""
    return named_statements("examples.sql")


def _read_map(path: Path) -> ModelMap:
    from megasim.checkpoint.model_map import read_model_map

    return read_model_map(path)


def _executor(given: Executor | None, workers: int) -> AbstractContextManager[Executor]:
    """Return the executor to run pieces of work on, to be left as it is if it was given."""
    return nullcontext(given) if given is not None else ThreadPoolExecutor(workers)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
