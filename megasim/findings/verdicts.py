"""What is unchanged between two models and what changed: a verdict for each component."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from megasim.anatomy.classification import DENOISERS, component_members
from megasim.anatomy.rules import load_components
from megasim.errors import NoAnswerError, UsageError, printable
from megasim.findings.component_facts import ComponentFacts, load_component_facts, why_unused
from megasim.findings.details import ComponentEvidence, Detail, LayerRow, component_detail
from megasim.findings.identity import MOSTLY, Counts, component_verdict, is_rounding_level
from megasim.findings.pair_rows import ComponentRow, PairRows
from megasim.findings.shard_names import are_shards_of_one
from megasim.findings.unread_keys import NOTHING_UNREAD, UnreadKeys, UnreadPair
from megasim.store.rows import Pair, Store
from megasim.words import TIERS, ModelSource, Source, Verdict

# Up to this many pairs are looked at key by key when nobody named them.
MOST_DETAILED_PAIRS = 40
# What a family uses nothing of when it makes an image; differences there change no image.
NEVER_USED = ("ema", "training_state")

_PROMISED = (
    *("model_a", "model_b", "component", "verdict", "keys_compared", "keys_changed"),
    *("missing_a", "missing_b", "shape_mismatch", "l2", "l2_error", "detail", "source"),
    *("keys_unread", "keys_measured"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one component between two models; a is the one that was named first.

    Attributes:
        counts: how many of its keys have each status; None where a published result does not say.
        l2: L2 distance over the compared keys; None where there is none.
        described: the rest; `detail` is its text.
        l2_error: its standard error; 0 where it is exact or published, None without an L2.
        rounding: whether published distances are of the size of a half-precision rounding.
        unread: its keys whose values could not be read.
        keys_measured: the keys that l2 is taken over: no counters, indices, codes …; None where it
            is not known.
    """

    model_a: str
    model_b: str
    component: str
    verdict: Verdict
    counts: Counts | None
    l2: float | None
    described: Detail
    source: Source
    l2_error: float | None = None
    rounding: bool = False
    unread: UnreadPair = NOTHING_UNREAD
    keys_measured: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what `megasim findings --json` promises."""
        return {name: getattr(self, name) for name in _PROMISED}

    @property
    def keys_compared(self) -> int | None:
        """Keys with a distance; None where a published result does not say."""
        return None if self.counts is None else self.counts.compared

    @property
    def keys_changed(self) -> int | None:
        """Of them, those not equal in any tier."""
        return None if self.counts is None else self.counts.changed

    @property
    def keys_unread(self) -> int | None:
        """Keys of both whose values could not be read, so that nothing is known of them."""
        return None if self.counts is None else self.counts.unread

    @property
    def missing_a(self) -> int | None:
        """Keys that a lacks."""
        return None if self.counts is None else self.counts.missing_a

    @property
    def missing_b(self) -> int | None:
        """Keys that b lacks."""
        return None if self.counts is None else self.counts.missing_b

    @property
    def shape_mismatch(self) -> int | None:
        """Keys of both with another shape, and without a distance."""
        return None if self.counts is None else self.counts.shape_mismatch

    @property
    def non_finite(self) -> int | None:
        """Keys of both with NaN or inf, and without a distance."""
        return None if self.counts is None else self.counts.non_finite

    @property
    def detail(self) -> str:
        """The rest in a few words, e.g. "14 of 294 keys: resblocks.23, text_projection"."""
        return self.described.text

    @property
    def equal(self) -> bool:
        """Whether both models have the component and it makes no difference which one is used."""
        return self.verdict.is_equal


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
    about = None if pairs is None else {*sum(chosen, ())}
    return FindingsReader(store, about).findings(chosen, details=details)


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
            _require_keys(store, {a: name_a, b: name_b})
            known_by = {model.id: model.source for model in store.models(ids={a, b})}
            raise NoAnswerError(
                f"{printable(name_a)} and {printable(name_b)} have not been compared",
                "of fingerprints, `megasim findings --groups` says what is the same"
                if ModelSource.FINGERPRINTS in (known_by[a], known_by[b])
                else "run `megasim compare`",
            )
    return chosen


def _require_keys(store: Store, names: Mapping[int, str]) -> None:
    """Raise NoAnswerError for the first of some models whose keys were lost out of the store."""
    for (model_id,) in store.rows("damaged_models"):
        if model_id in names:
            raise NoAnswerError(
                f"the store has lost what {printable(names[model_id])} holds",
                "run `megasim doctor --repair`, then `megasim ingest` on its file",
            )


@cache
def component_order() -> dict[str, int]:
    """Return the place of each known component in a list for people."""
    return {known.name: place for place, known in enumerate(load_components())}


class FindingsReader:
    """Makes findings out of an open store; what all pairs share is loaded once."""

    def __init__(self, store: Store, about: Collection[int] | None = None) -> None:
        """Load what all pairs share.

        Args:
            about: the models of which something is asked; all when None. Of others only the
                components are known that may be equal to one of theirs.
        """
        self.store = store
        self.facts = load_component_facts(store, about)
        self.rows = PairRows(store)
        self.models = self.rows.models
        self.unread = UnreadKeys(store)

    def findings(self, pairs: Sequence[Pair], *, details: bool) -> list[Finding]:
        """Return the findings of pairs of ids, each in the direction given."""
        rows = self.rows.component_rows(pairs)
        imported = self.rows.imported_layers(
            [pair for pair, of_pair in rows.items() if any(row.is_imported for row in of_pair)]
        )
        found: list[Finding] = []
        for a, b in pairs:
            pair = (min(a, b), max(a, b))
            layers = imported.get(pair)
            if layers is None:
                layers = self.rows.exact_layers(pair, rows[pair], details)
            unread = self.unread.between(a, b)
            of_pair = [
                self._finding(
                    *(a, b, row, layers.get(row.component, [])),
                    unread.get(row.component, NOTHING_UNREAD),
                )
                for row in _with_unread(rows[pair], unread)
            ]
            of_pair += self._absent_in_both(a, b, of_pair)
            found += sorted(
                of_pair, key=lambda f: (component_order().get(f.component, -1), f.component)
            )
        return found

    def verdict_counts(self, pairs: Sequence[Pair]) -> Counter[tuple[str, Verdict]]:
        """Return how often each (component, verdict) occurs, without making the findings."""
        counts: Counter[tuple[str, Verdict]] = Counter()
        by_key: list[Pair] = []
        for pair, rows in self.rows.component_rows(pairs).items():
            if any(row.is_imported or row.needs_layers() for row in rows):
                by_key.append(pair)
                continue
            unread = self.unread.between(*pair)
            for row in _with_unread(rows, unread):
                if row.counts is not None and row.component in unread:
                    row = replace(row, counts=unread[row.component].added_to(row.counts))
                counts[row.component, self._verdict(*pair, row, [], {})] += 1
        counts.update((f.component, f.verdict) for f in self.findings(by_key, details=False))
        return counts

    def _finding(
        self, a: int, b: int, row: ComponentRow, layers: list[LayerRow], unread: UnreadPair
    ) -> Finding:
        names = (self.models[a].name, self.models[b].name)
        if row.counts is None:
            return _published_value(*names, row)
        counts = row.counts
        if a > b:
            counts, layers = counts.swapped(), [layer.swapped() for layer in layers]
        counts = unread.added_to(counts)
        unused = {} if row.component in NEVER_USED else self._unused(a, b, layers)
        verdict = self._verdict(a, b, replace(row, counts=counts), layers, unused)
        distances = {layer.key: layer.l2 for layer in layers if layer.l2 is not None}
        rounding = verdict == Verdict.CHANGED and row.is_imported and is_rounding_level(distances)
        dtypes = [
            tuple(sorted({dtype for fact in facts for dtype in fact.dtypes}))
            for facts in self._facts_of(a, b, row.component)
        ]
        evidence = ComponentEvidence(
            *names,
            counts=counts,
            layers=layers,
            unused=unused,
            dtypes_a=dtypes[0],
            dtypes_b=dtypes[1],
            layout_a=self.models[a].layout,
            layout_b=self.models[b].layout,
            rounding=rounding,
            unread=unread,
            sampled=row.sampled,
        )
        return Finding(
            *names,
            component=row.component,
            verdict=verdict,
            counts=counts,
            l2=row.l2,
            described=component_detail(verdict, evidence),
            source=row.source,
            l2_error=row.l2_error,
            rounding=rounding,
            unread=unread,
            keys_measured=row.keys_measured,
        )

    def _verdict(
        self,
        a: int,
        b: int,
        row: ComponentRow,
        layers: Sequence[LayerRow],
        unused: Mapping[str, str],
    ) -> Verdict:
        if row.counts is None:
            return Verdict.IDENTICAL if row.l2 == 0 else Verdict.CHANGED
        if row.component not in NEVER_USED:
            same = self._same_where_used(a, b, row, layers, unused)
            return component_verdict(row.counts, same, same_shapes=self._same_shapes(a, b, row))
        verdict = component_verdict(row.counts, same_shapes=True)
        # Other leftovers of training are no other architecture.
        return Verdict.CHANGED if verdict == Verdict.DISJOINT else verdict

    def _same_shapes(self, a: int, b: int, row: ComponentRow) -> bool:
        """Whether the tensors of two components have the same shapes, as far as both go.

        It is asked only of components that lack many keys of each other; published ones have none.
        """
        counts = row.counts
        if counts is None or not (counts.missing_a and counts.missing_b) or counts.unchanged:
            return False
        if not counts.common and are_shards_of_one(self.models[a].name, self.models[b].name):
            return True  # each has others of the shapes of one model
        of_a, of_b = (
            sum((self.rows.shapes(model_id, name) for name in names), Counter())
            for model_id, names in zip((a, b), self.rows.names_of(a, b, row.component), strict=True)
        )
        return (of_a & of_b).total() >= max(1, MOSTLY * min(of_a.total(), of_b.total()))

    def _unused(self, a: int, b: int, layers: Iterable[LayerRow]) -> dict[str, str]:
        families = (self.rows.family(a), self.rows.family(b))
        differing = (layer for layer in layers if layer.status not in TIERS)
        reasons = ((layer.key, why_unused(families, layer)) for layer in differing)
        return {key: reason for key, reason in reasons if reason is not None}

    def _same_where_used(
        self,
        a: int,
        b: int,
        row: ComponentRow,
        layers: Sequence[LayerRow],
        unused: Mapping[str, str],
    ) -> bool:
        if row.counts is None or not row.counts.unchanged:
            return False
        of_a, of_b = (
            self.unread.signature(model_id, names)
            for model_id, names in zip((a, b), self.rows.names_of(a, b, row.component), strict=True)
        )
        if of_a is None or of_a != of_b:
            return False
        first, second = self._facts_of(a, b, row.component)
        if first and second and not row.renamed:
            return first[0].same_where_used(second[0])
        return bool(layers) and row.counts.differing == len(unused)

    def _facts_of(
        self, a: int, b: int, component: str
    ) -> tuple[list[ComponentFacts], list[ComponentFacts]]:
        of_a, of_b = (
            [fact for name in names if (fact := self.facts.get((model_id, name))) is not None]
            for model_id, names in zip((a, b), self.rows.names_of(a, b, component), strict=True)
        )
        return of_a, of_b

    def _absent_in_both(self, a: int, b: int, findings: Sequence[Finding]) -> list[Finding]:
        """Of what makes images, say also what neither model has."""
        present = {finding.component for finding in findings}
        present |= {component for model_id, component in self.facts if model_id in (a, b)}
        if present.isdisjoint(DENOISERS):
            return []
        return [
            Finding(
                self.models[a].name,
                self.models[b].name,
                component=part,
                verdict=Verdict.ABSENT,
                counts=Counts(),
                l2=None,
                described=Detail(rest="neither has it"),
                source=findings[0].source,
            )
            for part in ("text_encoder", "vae")
            if present.isdisjoint(component_members(part))
        ]


def _with_unread(
    rows: Sequence[ComponentRow], unread: Mapping[str, UnreadPair]
) -> list[ComponentRow]:
    """Return the rows of a pair, and one for each component of which no key of both was read."""
    known = {row.component for row in rows}
    return [
        *rows,
        *(
            ComponentRow(component, Source.EXACT, False, Counts(), None, None, 0)
            for component in unread
            if component not in known
        ),
    ]


def _published_value(model_a: str, model_b: str, row: ComponentRow) -> Finding:
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
        verdict=Verdict.IDENTICAL if zero else Verdict.CHANGED,
        counts=None,
        l2=row.l2,
        described=Detail(rest=detail),
        source=row.source,
    )
