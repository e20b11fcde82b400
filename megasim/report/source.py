"""What a report asks of a store, and how: queries over the public views that a reader can run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from megasim.errors import UsageError, printable
from megasim.findings.component_groups import Equalities, main_components
from megasim.findings.reference_model import central_model
from megasim.findings.tier_overview import known_pairs
from megasim.findings.unread_keys import UnreadKeys
from megasim.findings.verdicts import FindingsReader
from megasim.matrix.distance_matrix import DistanceMatrix, LayerMatrices
from megasim.store.matrices import load_l2_and_l1_layers, load_layers, load_matrix, member_names
from megasim.store.roundings import quantised_copies
from megasim.store.rows import Pair, Store
from megasim.store.runnable_queries import QueryResult, run_query

# Layers times models squared that are loaded at once: 80 MB, found in six seconds. It is enough for
# the UNets of 118 SD1 models.
_MOST_LAYERS = 10_000_000


@dataclass(frozen=True)
class ReportSource:
    """An open store, and what of it a report is about.

    Attributes:
        models: names, in the order they came.
        all_models: whether these are all of the store.
        components: those that get figures of their own, in the order people list them.
        path: models in their order, or empty.
        interactive: whether pictures are to be zoomed into.
    """

    store: Store
    models: tuple[str, ...]
    all_models: bool
    components: tuple[str, ...]
    path: tuple[str, ...]
    interactive: bool = False
    _matrices: dict[str, DistanceMatrix] = field(default_factory=dict, repr=False)
    _layers: dict[tuple[str, tuple[str, ...]], LayerMatrices] = field(
        default_factory=dict, repr=False
    )

    @classmethod
    def of(
        cls,
        store: Store,
        models: Sequence[str] | None,
        components: Sequence[str] | None,
        path: Sequence[str] | None,
        interactive: bool = False,
    ) -> ReportSource:
        """Return what a report over these models and components is made of.

        Raises:
            UsageError: an unknown model or component, or a path of one model or of one twice.
        """
        known = tuple(store.model_ids())
        chosen = known if models is None else tuple(dict.fromkeys(store.model_ids(models)))
        order = tuple(path or ())
        if len(order) == 1 or len(set(order)) < len(order):
            raise UsageError("a path needs two models or more, each named once", "see --path")
        for name in store.model_ids(order):
            if name not in chosen:
                raise UsageError(
                    f"the path leaves the models of the report: {printable(name)!r}",
                    "name it among --models too",
                )
        present = [name for name, _ in store.rows("components")]
        if components is None:
            shown = main_components(present)
        else:
            shown = tuple(components)
            for name in shown:
                if not set(member_names(store, name)) & set(present):
                    raise UsageError(
                        f"no model in the store has a component {printable(name)!r}",
                        "there are: " + (", ".join(map(printable, present)) or "none"),
                    )
        return cls(store, chosen, set(chosen) == set(known), shown, order, interactive)

    def ask(
        self,
        name: str,
        *,
        model: str = "",
        components: Sequence[str] = (),
        path: Sequence[str] = (),
    ) -> QueryResult:
        """Run a query of `sql/report.sql`, about the models of the report."""
        models = None if self.all_models else self.models
        return run_query(
            self.store, name, models=models, model=model, components=components, path=path
        )

    def members(self, component: str) -> list[str]:
        """Return the stored components that a name stands for."""
        return member_names(self.store, component)

    def matrix(self, component: str) -> DistanceMatrix:
        """Return the L2 distances of a component among the models that hold it.

        Raises:
            NoAnswerError: no model of the store holds it.
        """
        if component not in self._matrices:
            whole = load_matrix(self.store, component)
            chosen = set(self.models)
            part = whole.subset([name for name in whole.models if name in chosen])
            self._matrices[component] = part
        return self._matrices[component]

    def layers(self, component: str, models: Sequence[str]) -> LayerMatrices | None:
        """Return the distances of some models layer by layer, where they are known and few."""
        whole = self.matrix(component)
        keys = int(whole.keys_compared.max(initial=0))
        for names in (whole.models, tuple(models)):
            if (component, names) not in self._layers:
                if keys * len(names) ** 2 > _MOST_LAYERS:
                    continue
                found = load_layers(self.store, component, models=names)
                self._layers[component, names] = found
            return _subset(self._layers[component, names], models)
        return None

    def layers_and_l1(
        self, component: str, models: Sequence[str]
    ) -> tuple[LayerMatrices | None, LayerMatrices | None]:
        """Return what `layers` returns, and the L1 beside it: of both at once, as they are read."""
        names = tuple(models)
        keys = int(self.matrix(component).keys_compared.max(initial=0))
        if keys * len(names) ** 2 > _MOST_LAYERS:
            return None, None
        l2, l1 = load_l2_and_l1_layers(self.store, component, models=names)
        self._layers[component, names] = l2
        return (l2, l1) if l2.keys else (None, None)

    def quantised_copies(self, component: str, models: Sequence[str]) -> dict[str, str]:
        """Return the models that are others of them rounded to codes, each with its original."""
        return quantised_copies(self.store, models, component)

    @cached_property
    def pairs(self) -> list[Pair]:
        """The pairs of ids of these models of which anything is known."""
        return known_pairs(self.store, self.models)

    @cached_property
    def center(self) -> str:
        """The model that others are compared with: the first of the path, or `central_model`."""
        if self.path:
            return self.path[0]
        return central_model(self.store, self.components, self.pairs, self.matrix)

    @cached_property
    def unread(self) -> dict[str, int]:
        """Return model → tensors of which no values could be read, where there are some."""
        keys = UnreadKeys(self.store)
        counts = {name: len(keys.of(i)) for name, i in self.store.model_ids(self.models).items()}
        return {name: count for name, count in counts.items() if count}

    @cached_property
    def equalities(self) -> Equalities:
        """Which models hold equal components."""
        return Equalities(FindingsReader(self.store))


def _subset(layers: LayerMatrices, models: Sequence[str]) -> LayerMatrices | None:
    """Return the layers of some of the models, or None where there are no layers."""
    return layers.subset(models) if layers.keys else None
