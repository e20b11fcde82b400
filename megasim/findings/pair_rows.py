"""What the store knows of pairs of models, component by component."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from megasim.anatomy.classification import classify_keys
from megasim.findings.details import LayerRow, SampledKeys
from megasim.findings.identity import Counts
from megasim.store.batches import pair_table
from megasim.store.rows import Pair, Store
from megasim.words import Nature, Source, Status

# Positions, logit scale, projection: no more is left unused where a rename brought keys together.
MOST_UNUSED = 4
# So many keys under a name that says nothing are named one by one.
MOST_NAMED = 8


@dataclass(frozen=True, slots=True)
class ComponentRow:
    """What the store knows of a component of a pair, the smaller id first."""

    component: str
    source: Source
    unproven: bool
    counts: Counts | None
    l2: float | None
    l2_error: float | None
    renamed: int
    keys_measured: int | None = None  # those that l2 is taken over; None where it is not known
    sampled: SampledKeys | None = None

    def needs_layers(self) -> bool:
        """Whether single keys decide: signatures are over the names before a rename."""
        few = self.counts is not None and 0 < self.counts.differing <= MOST_UNUSED
        return self.renamed > 0 and few

    def asks_for_layers(self) -> bool:
        """Whether single keys have something to add to the counts."""
        counts = self.counts
        if self.source != Source.EXACT or counts is None:
            return False
        if not counts.common:  # under a name that says nothing the keys do
            return self.component == "other" and counts.differing <= MOST_NAMED
        mixed = bool(counts.differing) and counts.changed < counts.differing + counts.unchanged
        return mixed or self.renamed > 0

    @property
    def is_imported(self) -> bool:
        """Whether the numbers are published ones."""
        return self.source == Source.IMPORTED


class PairRows:
    """Loads components and layers of pairs, the smaller id first.

    Attributes:
        models: the models of the store by id.
    """

    def __init__(self, store: Store) -> None:
        self.models = {model.id: model for model in store.models()}
        self._store = store
        self._families: dict[int, str] = {}
        self._shapes: dict[tuple[int, str], Counter[str]] = {}
        # What the second model calls the components of the first, as far as renames say.
        self._counterparts: dict[tuple[int, int, str], list[str]] = defaultdict(list)
        self._joined: Counter[tuple[int, int, str]] = Counter()
        for a, b, component, other in store.rows("renamed_components"):
            self._counterparts[a, b, component].append(other)
            self._joined[a, b, other] += 1

    def names_of(self, a: int, b: int, component: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return what the component of a finding between a and b is called in either model.

        A rename may bring together what two families call otherwise: SDXL's first text encoder
        is that of SD1. Several names where one model has in several components what the other has
        in one, as "enc" and "dec" beside the "module" of a wrapper.
        """
        others = self._counterparts.get((min(a, b), max(a, b), component))
        names = (component,), tuple(others or (component,))
        return names if a < b else names[::-1]

    def is_regrouped(self, a: int, b: int, component: str) -> bool:
        """Whether one of two models has in several components what the other has in this one.

        "enc" is only a part of "module" where that holds "module.enc" and "module.dec".
        """
        pair = min(a, b), max(a, b)
        others = self._counterparts.get((*pair, component), [])
        return len(others) > 1 or any(self._joined[*pair, other] > 1 for other in others)

    def renames(self, a: int, b: int) -> list[tuple[str, str, int, int]]:
        """Return (prefix in a, prefix in b, keys, of them with equal content) of each rename.

        Of known layouts there is none: their keys are the same in the canonical form.
        """
        rows = self._store.rows("pair_renames", model_a=min(a, b), model_b=max(a, b))
        return [(before, after, *n) if a < b else (after, before, *n) for before, after, *n in rows]

    def family(self, model_id: int) -> str:
        """Return the family of a model; "" where it is not known."""
        return self._families.get(model_id) or self.models[model_id].family or ""

    def kind_of(self, model_id: int) -> str:
        """Return family and variant of a model; "" where they are not known."""
        model = self.models[model_id]
        return " ".join(filter(None, (self.family(model_id), model.variant)))

    def component_rows(self, pairs: Sequence[Pair]) -> dict[Pair, list[ComponentRow]]:
        """Return what is known of each pair, in the order of the pairs."""
        stored = {(min(pair), max(pair)) for pair in pairs}
        found: dict[Pair, list[ComponentRow]] = {pair: [] for pair in sorted(stored)}
        for row in self._store.rows("finding_components", tables={"batch": pair_table(stored)}):
            a, b, component, source, unproven, keys_compared, l2, error, renamed, *rest = row
            measured, *statuses, in_sample, unread = rest
            by_status = None
            if keys_compared is not None:
                counts = Counts(*(n or 0 for n in statuses))
                by_status = replace(counts, same_in_sample=in_sample or 0, unread=unread or 0)
            found[a, b].append(
                ComponentRow(
                    component,
                    Source(source),
                    unproven,
                    by_status,
                    l2,
                    error,
                    renamed or 0,
                    measured,
                )
            )
        self._add_samples(found)
        return {pair: self._with_leftovers(pair, of_pair) for pair, of_pair in found.items()}

    def _add_samples(self, found: dict[Pair, list[ComponentRow]]) -> None:
        """Say how much was read of what samples do not tell apart."""
        pairs = [
            pair
            for pair, rows in found.items()
            if any(row.counts is not None and row.counts.same_in_sample for row in rows)
        ]
        told = {
            (a, b, component): SampledKeys(*numbers)
            for a, b, component, *numbers in self._store.rows(
                "same_in_samples", tables={"batch": pair_table(pairs)}
            )
        }
        for a, b in pairs:
            found[a, b] = [
                replace(row, sampled=told.get((a, b, row.component))) for row in found[a, b]
            ]

    def _with_leftovers(self, pair: Pair, rows: Sequence[ComponentRow]) -> list[ComponentRow]:
        """Count what a rename left behind in b where the rest of its component went."""
        by_component = {row.component: row for row in rows}
        for component in [row.component for row in rows]:
            for other in self._counterparts.get((*pair, component), ()):
                row, left = by_component.get(component), by_component.get(other)
                if row is None or left is None or row.counts is None or left.counts is None:
                    continue
                if not left.counts.common and not left.counts.missing_b:
                    missing_a = row.counts.missing_a + left.counts.missing_a
                    counts = replace(row.counts, missing_a=missing_a)
                    by_component[component] = replace(row, counts=counts)
                    del by_component[other]
        return list(by_component.values())

    def exact_layers(
        self, pair: Pair, rows: Iterable[ComponentRow], details: bool
    ) -> dict[str, list[LayerRow]]:
        """Look at the keys of the components of which the counts do not say all."""
        components = [
            row.component
            for row in rows
            if row.needs_layers() or (details and row.asks_for_layers())
        ]
        if not components:
            return {}
        a, b = pair
        of = {other: c for c in components for other in self._counterparts.get((a, b, c), ())}
        of |= {component: component for component in components}
        found = self._store.rows("finding_layers", model_a=a, model_b=b, components=list(of))
        return _by_component(_layer(of[component], *row) for component, *row in found)

    def shapes(self, model_id: int, component: str) -> Counter[str]:
        """Return how many tensors of a component have each shape, e.g. "320x4x3x3"."""
        found = self._shapes.get((model_id, component))
        if found is None:
            rows = self._store.rows("component_shapes", model_id=model_id, component=component)
            found = self._shapes[model_id, component] = Counter(dict(rows))
        return found

    def imported_layers(self, pairs: Sequence[Pair]) -> dict[Pair, dict[str, list[LayerRow]]]:
        """Return the published layers of pairs by component, where there are any."""
        rows: dict[Pair, list[LayerRow]] = defaultdict(list)
        for a, b, *row in self._store.rows("imported_rows", tables={"batch": pair_table(pairs)}):
            rows[a, b].append(_layer(*row))
        for (a, b), layers in rows.items():
            self._note_family(a, [row.key_a for row in layers])
            self._note_family(b, [row.key_b for row in layers])
        return {pair: _by_component(layers) for pair, layers in rows.items()}

    def _note_family(self, model_id: int, keys: Iterable[str | None]) -> None:
        """Tell the family of a model known from published distances by the names of its keys."""
        if model_id not in self._families:
            family = self.models[model_id].family
            shapes: dict[str, tuple[int, ...]] = {key: () for key in keys if key is not None}
            self._families[model_id] = family or classify_keys(shapes).family


def _layer(
    component: str,
    key: str,
    key_a: str | None,
    key_b: str | None,
    block: str | None,
    role: str | None,
    status: str,
    l2: float | None,
    shape_a: str | None,
    shape_b: str | None,
    nature: str | None,
) -> LayerRow:
    return LayerRow(
        *(component, key, key_a, key_b, block, role, Status(status), l2, shape_a, shape_b),
        None if nature is None else Nature(nature),
    )


def _by_component(layers: Iterable[LayerRow]) -> dict[str, list[LayerRow]]:
    found: dict[str, list[LayerRow]] = defaultdict(list)
    for layer in layers:
        found[layer.component].append(layer)
    return found
