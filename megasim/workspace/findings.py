"""An open store and what it says about its models in words and tables."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megasim.errors import UsageError
from megasim.progress import NO_PROGRESS, Progress
from megasim.workspace.jobs import StoreJobs

if TYPE_CHECKING:
    import pandas as pd

    from megasim.answers.changes import By, Changes
    from megasim.answers.verification import Verification
    from megasim.answers.why import Why
    from megasim.findings.component_groups import ComponentGroups
    from megasim.findings.known_components import KnownComponent
    from megasim.findings.overview import FindingsReport
    from megasim.findings.verdicts import Finding


class StoreFindings(StoreJobs):
    """An open store, its tables, findings and known components, and the check of one model by
    another.
    """

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
        from megasim.answers.adapter_findings import with_adapters
        from megasim.findings.overview import findings_report

        report = findings_report(self.store, self._pair(a, b), group=group)
        return with_adapters(self.store, report)

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
        from megasim.answers.held_keys import (
            keys_of,
            keys_of_fingerprints,
            measured_roundings,
        )
        from megasim.answers.verification import verify_keys

        given = (lambda: self.store, progress)
        first = keys_of(a, *given) if against is None else keys_of_fingerprints(against, str(a))
        second = keys_of(b, *given)
        return verify_keys(first, second, allow, measured_roundings(self.store, first, second))

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
