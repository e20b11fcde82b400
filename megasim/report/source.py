"""What a report asks of a store, and how: queries over the public views that a reader can run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from megasim.anatomy.classification import component_members
from megasim.errors import NoAnswerError, UsageError, printable
from megasim.findings.component_groups import Equalities
from megasim.findings.verdicts import NEVER_USED, FindingsReader, chosen_pairs, component_order
from megasim.matrix.distance_matrix import DistanceMatrix, LayerMatrices
from megasim.store.matrices import load_layers, load_matrix
from megasim.store.rows import Pair, Store
from megasim.store.statements import purpose_of, statement

# Components of a model of an unknown family that get figures of their own, the largest first.
_MOST_GENERIC = 4
# Layers times models squared that are loaded at once: 80 MB, found in six seconds. It is enough for
# the UNets of 118 SD1 models.
_MOST_LAYERS = 10_000_000


@dataclass(frozen=True)
class Answer:
    """A query with nothing left to fill in, and its result."""

    sql: str
    purpose: str
    frame: pd.DataFrame


@dataclass(frozen=True)
class Source:
    """An open store, and what of it a report is about.

    Attributes:
        models: names, in the order they came.
        all_models: whether these are all of the store.
        components: those that get figures of their own, in the order people list them.
        path: models in their order, or empty.
    """

    store: Store
    models: tuple[str, ...]
    all_models: bool
    components: tuple[str, ...]
    path: tuple[str, ...]
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
    ) -> Source:
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
        held = [name for name, _ in store.rows("components")]
        if components is None:
            shown = _main_components(held)
        else:
            shown = tuple(components)
            for name in shown:
                if not set(component_members(name)) & set(held):
                    raise UsageError(
                        f"no model in the store has a component {printable(name)!r}",
                        "there are: " + (", ".join(map(printable, held)) or "none"),
                    )
        return cls(store, chosen, set(chosen) == set(known), shown, order)

    def ask(
        self,
        name: str,
        *,
        model: str = "",
        components: Sequence[str] = (),
        path: Sequence[str] = (),
    ) -> Answer:
        """Run a query of `sql/report.sql`, about the models of the report."""
        purpose, _, body = statement(name).partition("\nselect")
        names = self.models if not self.all_models else None
        sql = _filled("select" + body, names, model, components, path)
        return Answer(sql, purpose_of(purpose), self.store.connection.execute(sql).df())

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

    @cached_property
    def pairs(self) -> list[Pair]:
        """The pairs of ids of these models of which anything is known."""
        ids = set(self.store.model_ids(self.models).values())
        return [(a, b) for a, b in chosen_pairs(self.store) if a in ids and b in ids]

    @cached_property
    def center(self) -> str:
        """The model the others are held against: the first of the path, or else see
        `reference_model`; of the first component that has one."""
        if self.path:
            return self.path[0]
        for component in (*self.components, "all"):
            try:
                return reference_model(self.matrix(component))
            except NoAnswerError:
                continue
        names = {i: name for name, i in self.store.model_ids().items()}
        most = Counter(i for pair in self.pairs for i in pair).most_common(1)
        return names[most[0][0]] if most else ""

    @cached_property
    def equalities(self) -> Equalities:
        """Which models hold equal components."""
        return Equalities(FindingsReader(self.store))


def _subset(layers: LayerMatrices, models: Sequence[str]) -> LayerMatrices | None:
    """Return the layers of some of the models, or None where there are no layers."""
    return layers.subset(models) if layers.keys else None


def reference_model(matrix: DistanceMatrix) -> str:
    """Return the model that others are best held against.

    Of the models of which most pairs are known by layer, it is the one with the least median
    distance to the others.

    Raises:
        NoAnswerError: no pair is known by layer.
    """
    known = known_by_layer(matrix)
    if not known.any():
        raise NoAnswerError("no pair is known layer by layer", "run `megasim compare`")
    counts = known.sum(axis=1)
    best = np.flatnonzero(counts == counts.max())
    medians = [float(np.median(matrix.values[i][known[i]])) for i in best]
    return matrix.models[int(best[int(np.argmin(medians))])]


def known_by_layer(matrix: DistanceMatrix) -> npt.NDArray[np.bool_]:
    """Return the pairs whose layers are known, as (N, N) bool."""
    by_layer = np.isin(matrix.sources, ("exact", "imported")) & (matrix.keys_compared > 0)
    return by_layer & ~np.isnan(matrix.values)


def _main_components(held: Sequence[str]) -> tuple[str, ...]:
    """Return the components that make images, or else the first of a generic model.

    >>> _main_components(["vae_decoder", "ema", "text_encoder", "unet", "vae_encoder"])
    ('unet', 'text_encoder', 'vae')
    """
    vae = component_members("vae")
    named = {"vae" if name in vae else name for name in held if name not in NEVER_USED}
    known = [name for name in component_order() if name in named and name != "other"]
    generic = [name for name in held if name in named and name not in component_order()]
    return (*known, *generic[:_MOST_GENERIC])


_VALUE = re.compile(r"\$(models|model|components|path)\b")


def _filled(
    sql: str,
    models: Sequence[str] | None,
    model: str,
    components: Sequence[str],
    path: Sequence[str],
) -> str:
    """Return a statement with its values written out; None stands for all models.

    >>> _filled("a in ($models) and $model = b", None, "it's", (), ())
    "a in (select name from models) and 'it''s' = b;"
    """
    values = {
        "models": "select name from models" if models is None else _literals(models),
        "model": literal(model),
        "components": _literals(components),
        "path": _literals(path),
    }
    # a function, since a name may hold what a replacement text gives a meaning to
    return _VALUE.sub(lambda found: values[found.group(1)], sql).rstrip().removesuffix(";") + ";"


def _literals(names: Sequence[str]) -> str:
    return ", ".join(map(literal, names)) or "null"


def literal(text: str) -> str:
    r"""Return a text as SQL writes it, without a character that cannot be seen or copied.

    >>> print(literal("it's"), literal("a\nb"))
    'it''s' 'a' || chr(10) || 'b'
    """
    pieces = re.split(r"([^\x20-\x7e])", text)
    parts = [
        f"chr({ord(piece)})"
        if len(piece) == 1 and not piece.isprintable()
        else "'" + piece.replace("'", "''") + "'"
        for piece in pieces
        if piece
    ]
    joined: list[str] = []
    for part in parts:  # printable letters that are not ASCII stay within their text
        if joined and part[0] == "'" and joined[-1][0] == "'":
            joined[-1] = joined[-1][:-1] + part[1:]
        else:
            joined.append(part)
    return " || ".join(joined) or "''"
