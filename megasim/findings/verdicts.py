"""What is unchanged between two models and what changed: a verdict for each component."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from megasim.anatomy.classification import classify_keys, component_members
from megasim.anatomy.rules import load_components
from megasim.errors import NoAnswerError, UsageError, printable
from megasim.findings import identity
from megasim.findings.component_facts import ComponentFacts, load_component_facts, why_unused
from megasim.findings.details import ComponentEvidence, LayerRow, component_detail
from megasim.findings.identity import Counts, component_verdict, is_rounding_level
from megasim.store import Pair, Store, pair_frame

# Up to this many pairs are looked at key by key when nobody named them.
MOST_DETAILED_PAIRS = 40
# Positions, logit scale, projection: no more is left unused where a rename brought keys together.
MOST_UNUSED = 4
# What a family uses nothing of when it makes an image; differences there change no image.
NEVER_USED = ("ema", "training_state")

_PROMISED = (
    *("model_a", "model_b", "component", "verdict", "keys_compared", "keys_changed"),
    *("missing_a", "missing_b", "shape_mismatch", "l2", "detail"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one component between two models; a is the one that was named first.

    Attributes:
        verdict: one of `identity.VERDICTS`.
        keys_compared: keys with a distance; None where a published result does not say.
        keys_changed: of them, those not equal in any tier.
        missing_a, missing_b: keys that a, or b, lacks.
        shape_mismatch, non_finite: keys of both without a distance.
        l2: L2 distance over the compared keys; None where there is none.
        detail: the rest in a few words, e.g. "14 of 294 keys: resblocks.23, text_projection".
        source: "exact", "imported" or "estimated".
        rounding: whether published distances are of the size of a half-precision rounding.
    """

    model_a: str
    model_b: str
    component: str
    verdict: str
    keys_compared: int | None
    keys_changed: int | None
    missing_a: int | None
    missing_b: int | None
    shape_mismatch: int | None
    non_finite: int | None
    l2: float | None
    detail: str
    source: str
    rounding: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return what `megasim findings --json` promises."""
        return {name: getattr(self, name) for name in _PROMISED}

    @property
    def equal(self) -> bool:
        """Whether both models have the component and it makes no difference which one is used."""
        return self.verdict in identity.EQUAL


def pair_findings(
    store: Store,
    pairs: Sequence[tuple[str, str]] | None = None,
    *,
    group: str | None = None,
    details: bool | None = None,
) -> list[Finding]:
    """Return the findings of some pairs, component by component, in the order people list them.

    Args:
        pairs: names; all pairs that were compared or imported when None.
        group: the pairs of this group, instead.
        details: whether to look at single keys, for details that name them: some 0.1 s a pair.
            When None, that is done for named pairs, and for up to `MOST_DETAILED_PAIRS` others.

    Raises:
        UsageError: an unknown model or group.
        NoAnswerError: a named pair of which nothing is known.
    """
    chosen = chosen_pairs(store, pairs, group)
    if details is None:
        details = pairs is not None or len(chosen) <= MOST_DETAILED_PAIRS
    return Teller(store).findings(chosen, details=details)


def chosen_pairs(
    store: Store, pairs: Sequence[tuple[str, str]] | None = None, group: str | None = None
) -> list[Pair]:
    """Return the ids of the pairs that are meant, as they were named.

    Raises:
        UsageError: an unknown model or group, or a model paired with itself.
        NoAnswerError: a named pair of which nothing is known.
    """
    known: list[Pair] = [(int(a), int(b)) for a, b in store.rows("finding_pairs")]
    if pairs is None and group is None:
        return known
    if group is not None:
        groups = store.groups()
        if group not in groups:
            raise UsageError(
                f"no such group: {printable(group)!r}",
                "there are: " + ", ".join(map(printable, groups)) if groups else "there is none",
            )
        return [pair for pair in known if pair in set(groups[group])]
    ids = store.model_ids(dict.fromkeys(name for pair in pairs or () for name in pair))
    chosen = [(ids[a], ids[b]) for a, b in pairs or ()]
    for (a, b), (name_a, name_b) in zip(chosen, pairs or (), strict=True):
        if a == b:
            raise UsageError(f"{printable(name_a)} is the same as itself", "name two models")
        if (min(a, b), max(a, b)) not in set(known):
            known_by = {model.id: model.source for model in store.models()}
            raise NoAnswerError(
                f"{printable(name_a)} and {printable(name_b)} have not been compared",
                "of fingerprints, `megasim findings --groups` says what is the same"
                if "fingerprints" in (known_by[a], known_by[b])
                else "run `megasim compare`",
            )
    return chosen


@cache
def component_order() -> dict[str, int]:
    """Return the place of each known component in a list for people."""
    return {known.name: place for place, known in enumerate(load_components())}


class Teller:
    """Tells findings out of an open store; what all pairs share is loaded once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.facts = load_component_facts(store)
        self.models = {model.id: model for model in store.models()}
        self._families: dict[int, str] = {}
        self._counterparts = {
            (a, b, component): other for a, b, component, other in store.rows("renamed_components")
        }

    def names_of(self, a: int, b: int, component: str) -> tuple[str, str]:
        """Return what the component of a finding between a and b is called in either model.

        A rename may bring together what two families call otherwise: SDXL's first text encoder
        is that of SD1.
        """
        low, high = min(a, b), max(a, b)
        names = component, self._counterparts.get((low, high, component), component)
        return names if a < b else names[::-1]

    def renames(self, a: int, b: int) -> list[tuple[str, str, int, int]]:
        """Return (prefix in a, prefix in b, keys, of them with equal content) of each rename.

        Of known layouts there is none: their keys are the same in the canonical form.
        """
        rows = self.store.rows("pair_renames", model_a=min(a, b), model_b=max(a, b))
        return [(before, after, *n) if a < b else (after, before, *n) for before, after, *n in rows]

    def kind_of(self, model_id: int) -> str:
        """Return family and variant of a model; "" where they are not known."""
        model = self.models[model_id]
        return " ".join(filter(None, (self._family(model_id), model.variant)))

    def findings(self, pairs: Sequence[Pair], *, details: bool) -> list[Finding]:
        """Return the findings of pairs of ids, each told in the direction given."""
        rows = self._component_rows(pairs)
        imported = self._imported_layers(
            [pair for pair, of_pair in rows.items() if any(map(_is_imported, of_pair))]
        )
        found: list[Finding] = []
        for a, b in pairs:
            pair = (min(a, b), max(a, b))
            layers = imported.get(pair)
            if layers is None:
                layers = self._exact_layers(pair, rows[pair], details)
            told = [self._finding(a, b, row, layers.get(row.component, [])) for row in rows[pair]]
            told += self._absent_in_both(a, b, told)
            found += sorted(
                told, key=lambda f: (component_order().get(f.component, -1), f.component)
            )
        return found

    def verdict_counts(self, pairs: Sequence[Pair]) -> Counter[tuple[str, str]]:
        """Return how often each (component, verdict) occurs, without telling the findings."""
        counts: Counter[tuple[str, str]] = Counter()
        by_key: list[Pair] = []
        for pair, rows in self._component_rows(pairs).items():
            if any(_is_imported(row) or row.needs_layers() for row in rows):
                by_key.append(pair)
                continue
            for row in rows:
                counts[row.component, self._verdict(*pair, row, [], {})] += 1
        counts.update((f.component, f.verdict) for f in self.findings(by_key, details=False))
        return counts

    def _component_rows(self, pairs: Sequence[Pair]) -> dict[Pair, list[_ComponentRow]]:
        stored = {(min(pair), max(pair)) for pair in pairs}
        found: dict[Pair, list[_ComponentRow]] = {pair: [] for pair in sorted(stored)}
        for row in self.store.rows("finding_components", tables={"batch": pair_frame(stored)}):
            a, b, component, source, unproven, keys_compared, l2, renamed, *counts = row
            told = None if keys_compared is None else Counts(*(n or 0 for n in counts))
            found[a, b].append(_ComponentRow(component, source, unproven, told, l2, renamed or 0))
        return {pair: self._with_leftovers(pair, of_pair) for pair, of_pair in found.items()}

    def _with_leftovers(self, pair: Pair, rows: Sequence[_ComponentRow]) -> list[_ComponentRow]:
        """Count what a rename left behind in b where the rest of its component went."""
        told = {row.component: row for row in rows}
        for row in rows:
            left = told.get(self._counterparts.get((*pair, row.component), ""))
            if row.counts is None or left is None or left.counts is None:
                continue
            if not left.counts.common and not left.counts.missing_b:
                missing_a = row.counts.missing_a + left.counts.missing_a
                counts = replace(row.counts, missing_a=missing_a)
                told[row.component] = replace(row, counts=counts)
                del told[left.component]
        return list(told.values())

    def _exact_layers(
        self, pair: Pair, rows: Iterable[_ComponentRow], details: bool
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
        of = {self._counterparts.get((a, b, c), c): c for c in components}
        of |= {component: component for component in components}
        found = self.store.rows("finding_layers", model_a=a, model_b=b, components=list(of))
        return _by_component(LayerRow(of[component], *row) for component, *row in found)

    def _imported_layers(self, pairs: Sequence[Pair]) -> dict[Pair, dict[str, list[LayerRow]]]:
        rows: dict[Pair, list[LayerRow]] = defaultdict(list)
        for a, b, *row in self.store.rows("imported_rows", tables={"batch": pair_frame(pairs)}):
            rows[a, b].append(LayerRow(*row))
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

    def _family(self, model_id: int) -> str:
        return self._families.get(model_id) or self.models[model_id].family or ""

    def _finding(self, a: int, b: int, row: _ComponentRow, layers: list[LayerRow]) -> Finding:
        names = (self.models[a].name, self.models[b].name)
        if row.counts is None:
            return _published_value(*names, row)
        counts = row.counts
        if a > b:
            counts, layers = counts.swapped(), [layer.swapped() for layer in layers]
        unused = {} if row.component in NEVER_USED else self._unused(a, b, layers)
        verdict = self._verdict(a, b, replace(row, counts=counts), layers, unused)
        distances = {layer.key: layer.l2 for layer in layers if layer.l2 is not None}
        rounding = (
            verdict == identity.CHANGED and _is_imported(row) and is_rounding_level(distances)
        )
        first, second = self._facts_of(a, b, row.component)
        evidence = ComponentEvidence(
            *names,
            counts=counts,
            layers=layers,
            unused=unused,
            dtypes_a=first.dtypes if first else (),
            dtypes_b=second.dtypes if second else (),
            layout_a=self.models[a].layout,
            layout_b=self.models[b].layout,
            rounding=rounding,
        )
        return Finding(
            *names,
            component=row.component,
            verdict=verdict,
            keys_compared=counts.compared,
            keys_changed=counts.changed,
            missing_a=counts.missing_a,
            missing_b=counts.missing_b,
            shape_mismatch=counts.shape_mismatch,
            non_finite=counts.non_finite,
            l2=row.l2,
            detail=component_detail(verdict, evidence),
            source=row.source,
            rounding=rounding,
        )

    def _verdict(
        self,
        a: int,
        b: int,
        row: _ComponentRow,
        layers: Sequence[LayerRow],
        unused: Mapping[str, str],
    ) -> str:
        if row.counts is None:
            return identity.IDENTICAL if row.l2 == 0 else identity.CHANGED
        if row.component not in NEVER_USED:
            same = self._same_where_used(a, b, row, layers, unused)
            return component_verdict(row.counts, same)
        verdict = component_verdict(row.counts)
        # Other leftovers of training are no other architecture.
        return identity.CHANGED if verdict == identity.OTHER_ARCHITECTURE else verdict

    def _unused(self, a: int, b: int, layers: Iterable[LayerRow]) -> dict[str, str]:
        families = (self._family(a), self._family(b))
        differing = (layer for layer in layers if layer.status not in identity.TIERS)
        reasons = (
            (layer.key, why_unused(families, layer.component, layer.key, layer.status))
            for layer in differing
        )
        return {key: reason for key, reason in reasons if reason is not None}

    def _same_where_used(
        self,
        a: int,
        b: int,
        row: _ComponentRow,
        layers: Sequence[LayerRow],
        unused: Mapping[str, str],
    ) -> bool:
        if row.counts is None or not row.counts.unchanged:
            return False
        first, second = self._facts_of(a, b, row.component)
        if first is not None and second is not None and not row.renamed:
            return first.same_where_used(second)
        return bool(layers) and row.counts.differing == len(unused)

    def _facts_of(
        self, a: int, b: int, component: str
    ) -> tuple[ComponentFacts | None, ComponentFacts | None]:
        name_a, name_b = self.names_of(a, b, component)
        return self.facts.get((a, name_a)), self.facts.get((b, name_b))

    def _absent_in_both(self, a: int, b: int, told: Sequence[Finding]) -> list[Finding]:
        """Of what makes images, say also what neither model has."""
        present = {finding.component for finding in told}
        present |= {component for model_id, component in self.facts if model_id in (a, b)}
        if "unet" not in present:
            return []
        return [
            Finding(
                self.models[a].name,
                self.models[b].name,
                component=part,
                verdict=identity.ABSENT,
                keys_compared=0,
                keys_changed=0,
                missing_a=0,
                missing_b=0,
                shape_mismatch=0,
                non_finite=0,
                l2=None,
                detail="neither has it",
                source=told[0].source,
            )
            for part in ("text_encoder", "vae")
            if present.isdisjoint(component_members(part))
        ]


@dataclass(frozen=True, slots=True)
class _ComponentRow:
    """What the store knows of a component of a pair, the smaller id first."""

    component: str
    source: str
    unproven: bool
    counts: Counts | None
    l2: float | None
    renamed: int

    def needs_layers(self) -> bool:
        """Whether single keys decide: signatures are over the names before a rename."""
        few = self.counts is not None and 0 < self.counts.differing <= MOST_UNUSED
        return self.renamed > 0 and few

    def asks_for_layers(self) -> bool:
        """Whether single keys have something to add to the counts."""
        counts = self.counts
        if self.source != "exact" or counts is None or not counts.common:
            return False
        mixed = bool(counts.differing) and counts.changed < counts.differing + counts.unchanged
        return mixed or self.renamed > 0


def _is_imported(row: _ComponentRow) -> bool:
    return row.source == "imported"


def _by_component(layers: Iterable[LayerRow]) -> dict[str, list[LayerRow]]:
    found: dict[str, list[LayerRow]] = defaultdict(list)
    for layer in layers:
        found[layer.component].append(layer)
    return found


def _published_value(model_a: str, model_b: str, row: _ComponentRow) -> Finding:
    """Tell the one number that a published matrix holds of a component."""
    zero = row.l2 == 0
    if row.unproven:
        detail = "a published 0, which may also mean that it was not compared"
    else:
        detail = "a published distance, without the number of keys"
    return Finding(
        model_a,
        model_b,
        component=row.component,
        verdict=identity.IDENTICAL if zero else identity.CHANGED,
        keys_compared=None,
        keys_changed=None,
        missing_a=None,
        missing_b=None,
        shape_mismatch=None,
        non_finite=None,
        l2=row.l2,
        detail=detail,
        source=row.source,
    )
