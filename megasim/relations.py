"""How whole models are related, each relation with its evidence."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from megasim import identity
from megasim.anatomy import component_title
from megasim.component_groups import Equalities, listed, used_components
from megasim.errors import printable
from megasim.findings import MOST_DETAILED_PAIRS, NEVER_USED, Finding, Teller, chosen_pairs
from megasim.identity import weakest
from megasim.pair_sentences import pair_sentences
from megasim.store import Pair, Store, pair_frame

SAME_WEIGHTS = "same_weights"  # the same numbers under two names
CAST = "cast"  # the same numbers once rounded to half precision
PRUNED = "pruned"  # without the EMA copy or the training state, nothing else changed
SAME_WHERE_USED = "same_where_used"  # they differ only in keys that are never used
PART_OF = "part_of"  # some components of the other, and nothing else
VAE_REPLACED = "vae_replaced"
TEXT_ENCODER_REPLACED = "text_encoder_replaced"
UNET_FINE_TUNED = "unet_fine_tuned"  # on an unchanged text encoder
FINE_TUNED = "fine_tuned"  # some components changed, others unchanged or not there
EVERYTHING_CHANGED = "everything_changed"

# From the closest relation to the loosest.
KINDS = (
    *(SAME_WEIGHTS, CAST, SAME_WHERE_USED, PRUNED, PART_OF, VAE_REPLACED, TEXT_ENCODER_REPLACED),
    *(UNET_FINE_TUNED, FINE_TUNED, EVERYTHING_CHANGED),
)

# The cosine of weights trained from the same start is near 1, of unrelated ones near 0.
LEAST_COSINE = 0.5

_TEXT = ("text_encoder", "text_encoder_1", "text_encoder_2", "text_encoder_3")
_VAE = ("vae", "vae_encoder", "vae_decoder", "vae_quant")
_ALTERED = (identity.CHANGED, identity.PARTLY_CHANGED)
_HALF = frozenset({"float16", "bfloat16"})


@dataclass(frozen=True, slots=True)
class Relation:
    """How two models are related.

    Attributes:
        kind: one of `KINDS`.
        model, other: names; when `directed`, `model` was made from `other`.
        directed: whether the evidence tells which one was made from the other.
        donors: names of the models that a replaced component was taken from, or is shared with.
        text: the relation in one sentence.
        evidence: what it follows from, a sentence for each component.
    """

    kind: str
    model: str
    other: str
    directed: bool
    donors: tuple[str, ...]
    text: str
    evidence: tuple[str, ...] = field(compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and strings."""
        return {
            "kind": self.kind,
            "model": self.model,
            "other": self.other,
            "directed": self.directed,
            "donors": list(self.donors),
            "text": self.text,
            "evidence": list(self.evidence),
        }


def model_relations(
    store: Store,
    pairs: Sequence[tuple[str, str]] | None = None,
    *,
    group: str | None = None,
    equalities: Equalities | None = None,
) -> list[Relation]:
    """Return the relations of pairs of models; unrelated models have none.

    Of named pairs, or of few, every relation is told. Of many, the least number that ties models
    of the same weights together, and for every other model its relation to its nearest one.

    Raises:
        UsageError: an unknown model or group.
        NoAnswerError: a named pair of which nothing is known.
    """
    equal = Equalities(Teller(store)) if equalities is None else equalities
    chosen = chosen_pairs(store, pairs, group)
    kinship = _Kinship(equal)
    if pairs is not None or group is not None or len(chosen) <= MOST_DETAILED_PAIRS:
        return kinship.relations(chosen)
    ties = kinship.ties(chosen)
    return kinship.relations([*ties, *kinship.nearest_pairs(chosen, ties)])


class _Kinship:
    """What relations are told from."""

    def __init__(self, equal: Equalities) -> None:
        self.equal = equal
        self.teller = equal.teller
        store = self.teller.store
        self.distances: dict[Pair, float] = {
            (a, b): l2 for a, b, l2 in store.rows("core_distances") if not math.isnan(l2)
        }
        self.ema_as_unet = {
            (ema, unet): same_values == keys
            for ema, unet, keys, same_values, _ in store.rows("ema_matches")
        }

    def relations(self, pairs: Sequence[Pair]) -> list[Relation]:
        """Return all relations of pairs of ids, each told in the direction given."""
        details = len(pairs) <= MOST_DETAILED_PAIRS
        found = self.teller.findings(pairs, details=details)
        by_pair: dict[tuple[str, str], list[Finding]] = defaultdict(list)
        for finding in found:
            by_pair[finding.model_a, finding.model_b].append(finding)
        names = {model_id: model.name for model_id, model in self.teller.models.items()}
        norms = self._norms(pairs)
        relations: list[Relation] = []
        for a, b in pairs:
            told = _Pair(self, a, b, by_pair[names[a], names[b]], norms)
            relations += told.relations()
        return relations

    def _norms(self, pairs: Sequence[Pair]) -> dict[tuple[int, int, str], tuple[float, float]]:
        """Return the squared norms of what pairs have in common, by component."""
        stored = {(min(pair), max(pair)) for pair in pairs}
        rows = self.teller.store.rows("compared_norms", tables={"batch": pair_frame(stored)})
        return {(a, b, component): (of_a, of_b) for a, b, component, of_a, of_b in rows}

    def distance(self, a: int, b: int) -> float:
        """Return how far the models are apart; inf where it is not known."""
        return self.distances.get((min(a, b), max(a, b)), math.inf)

    def sheet(self, model_id: int) -> frozenset[tuple[str, int]]:
        """Return what a model holds, as classes of equal components."""
        used = self.equal.used(model_id)
        return frozenset((c, self.equal.class_of(model_id, c)) for c in used)

    def ties(self, pairs: Iterable[Pair]) -> list[Pair]:
        """Return few pairs that tie together the models whose components are all equal.

        Of each set a spanning tree, its edges the closest relations; then each model that is a
        part of another, and each whose UNet is the EMA copy of another.
        """
        sets: dict[frozenset[tuple[str, int]], list[int]] = defaultdict(list)
        for model_id in sorted(self.equal.held):
            if sheet := self.sheet(model_id):
                sets[sheet].append(model_id)
        known = set(pairs)
        ties = [pair for ids in sets.values() for pair in self._spanning(ids, known)]
        firsts = {sheet: ids[0] for sheet, ids in sets.items()}
        for sheet, first in firsts.items():
            wholes = [whole for other, whole in firsts.items() if sheet < other]
            ties += [_ordered(first, whole) for whole in wholes[:1]]
        ties += [_ordered(*pair) for pair in self.ema_as_unet if pair[0] != pair[1]]
        return [pair for pair in dict.fromkeys(ties) if pair in known]

    def _spanning(self, ids: Sequence[int], known: set[Pair]) -> list[Pair]:
        """Return a spanning tree of models of equal components, by the closest relations."""

        def rank(pair: Pair) -> tuple[int, Pair]:
            a, b = pair
            held = self.equal.held
            bytes_equal = all(
                self.equal.bytes_of(a, c) == self.equal.bytes_of(b, c) for c in self.equal.used(a)
            )
            return 2 * (held[a] != held[b]) + (not bytes_equal), pair

        tree: list[Pair] = []
        joined = {model_id: {model_id} for model_id in ids}
        for a, b in sorted(known & set(combinations(ids, 2)), key=rank):
            if joined[a] is not joined[b]:
                tree.append((a, b))
                joined[a] |= joined[b]
                for member in joined[b]:
                    joined[member] = joined[a]
        return tree

    def nearest_pairs(self, pairs: Iterable[Pair], ties: Iterable[Pair]) -> list[Pair]:
        """Return each model with the nearest other one; the models of a tie count as one."""
        settled = {max(pair) for pair in ties}
        nearest: dict[int, tuple[float, Pair]] = {}
        for pair in pairs:
            if pair[0] in settled or pair[1] in settled or pair not in self.distances:
                continue
            for model_id in pair:
                best = nearest.get(model_id, (math.inf, pair))
                nearest[model_id] = min(best, (self.distances[pair], pair))
        return sorted({pair for _, pair in nearest.values()})


def _ordered(a: int, b: int) -> Pair:
    return (min(a, b), max(a, b))


@dataclass
class _Pair:
    """One pair, told from a to b."""

    kinship: _Kinship
    a: int
    b: int
    findings: Sequence[Finding]
    norms: Mapping[tuple[int, int, str], tuple[float, float]]

    def __post_init__(self) -> None:
        present = {f.component for f in self.findings}
        used = used_components(present)
        told = [f for f in self.findings if f.component in used]
        told = [f for f in told if f.verdict != identity.ABSENT]
        self.only_a = [f for f in told if f.verdict == identity.ABSENT_B]
        self.only_b = [f for f in told if f.verdict == identity.ABSENT_A]
        self.common = [f for f in told if f not in self.only_a and f not in self.only_b]
        self.equal = [f for f in self.common if f.equal and f.keys_compared is not None]
        self.altered = [f for f in self.common if f.verdict in _ALTERED]
        self.complete = all(
            component in present
            for model_id in (self.a, self.b)
            for component in self.kinship.equal.used(model_id)
        )

    def relations(self) -> list[Relation]:
        if not self.common or not self.complete:
            return []
        if len(self.equal) == len(self.common) and self._is_telling(self.equal):
            return self._of_equals()
        ema = self._pruned_to_ema()
        return [ema] if ema else [*self._replaced(), *self._tuned()]

    # Equal wherever both have something

    def _of_equals(self) -> list[Relation]:
        if self.only_a and self.only_b:
            return []
        if self.only_a or self.only_b:
            part, whole = (self.b, self.a) if self.only_a else (self.a, self.b)
            held = _titles(self.equal)
            text = f"{self._name(part)} holds the {held} of {self._name(whole)}, and nothing else"
            return [self._relation(PART_OF, part, whole, text)]
        verdict = weakest(f.verdict for f in self.equal)
        dropped = self._dropped()
        if dropped is not None:
            return [self._pruned(verdict, *dropped)]
        if verdict == identity.SAME_WHERE_USED:
            text = f"{self._names()} differ only in keys that are never used"
            return [self._relation(SAME_WHERE_USED, self.b, self.a, text, directed=False)]
        if verdict == identity.IDENTICAL:
            text = f"{self._names()} hold the same weights{self._formats()}"
            return [self._relation(SAME_WEIGHTS, self.b, self.a, text, directed=False)]
        model, other, directed, how = self._cast(verdict)
        if not directed:
            text = f"{self._names()} hold the same weights {how}"
            kind = SAME_WEIGHTS if verdict == identity.SAME_VALUES else CAST
            return [self._relation(kind, model, other, text, directed=False)]
        text = f"{self._name(model)} is {self._name(other)} {how}"
        return [self._relation(CAST, model, other, text)]

    def _dropped(self) -> tuple[int, int, list[Finding]] | None:
        """Return pruned model, full model and what is dropped; None when nothing is."""
        minor = [f for f in self.findings if f.component in NEVER_USED]
        lost_b = [f for f in minor if f.verdict == identity.ABSENT_B]
        lost_a = [f for f in minor if f.verdict == identity.ABSENT_A]
        if lost_b and not lost_a:
            return self.b, self.a, lost_b
        return (self.a, self.b, lost_a) if lost_a and not lost_b else None

    def _pruned(self, verdict: str, small: int, full: int, dropped: Sequence[Finding]) -> Relation:
        text = f"{self._name(small)} is {self._name(full)} without its {_titles(dropped)}"
        components = {f.component for f in dropped}
        if "ema" in components and any(f.component == "unet" for f in self.equal):
            text += "; it keeps the raw UNet"
        model, _, directed, how = self._cast(verdict)
        if directed and model == small and verdict != identity.IDENTICAL:
            text += f", {how}"
        return self._relation(PRUNED, small, full, text)

    def _cast(self, verdict: str) -> tuple[int, int, bool, str]:
        """Return the rounded model, the other, whether that is certain, and how to say it."""
        dtypes = {m: self._dtypes(m) for m in (self.a, self.b)}
        words = {
            identity.SAME_VALUES: "in another dtype",
            identity.SAME_AT_FP16: "once rounded to fp16",
            identity.SAME_AT_BF16: "once rounded to bf16",
        }
        for model, other in ((self.b, self.a), (self.a, self.b)):
            half = dtypes[model]
            if half and half <= _HALF and not dtypes[other] & _HALF:
                return model, other, True, f"cast to {' and '.join(sorted(half))}"
        return self.b, self.a, False, words.get(verdict, "")

    def _dtypes(self, model_id: int) -> set[str]:
        facts = self.kinship.teller.facts
        held = (facts.get((model_id, f.component)) for f in self.equal)
        return {dtype for fact in held if fact is not None for dtype in fact.dtypes}

    def _formats(self) -> str:
        models = self.kinship.teller.models
        formats = [models[m].format for m in (self.a, self.b)]
        layouts = [models[m].layout for m in (self.a, self.b)]
        differing = next((x for x in (layouts, formats) if None not in x and x[0] != x[1]), None)
        return f" ({differing[0]} and {differing[1]})" if differing else ""

    def _pruned_to_ema(self) -> Relation | None:
        """Return the relation when the UNet of one is the EMA copy of the other."""
        for small, full in ((self.b, self.a), (self.a, self.b)):
            exact = self.kinship.ema_as_unet.get((full, small))
            rest = [f for f in self.common if f.component != "unet"]
            alone = self.only_b if small == self.b else self.only_a
            if exact is None or alone or not all(f.equal for f in rest):
                continue
            if (small, "ema") in self.kinship.teller.facts:
                continue
            how = "" if exact else ", rounded to fp16"
            text = (
                f"{self._name(small)} is {self._name(full)} without its raw UNet; it keeps the "
                f"EMA copy as its UNet{how}"
            )
            return self._relation(PRUNED, small, full, text)
        return None

    # Changed somewhere

    def _replaced(self) -> list[Relation]:
        relations = []
        for kind, members in ((VAE_REPLACED, _VAE), (TEXT_ENCODER_REPLACED, _TEXT)):
            parts = [f for f in self.altered if f.component in members]
            unet = next((f for f in self.common if f.component == "unet"), None)
            if not parts or unet is None or not (unet.equal or self._is_kin()):
                continue
            if any(f.verdict in _ALTERED for f in self.common if f not in parts and f is not unet):
                continue
            donors = {m: self._donors(m, parts) for m in (self.a, self.b)}
            # Beside a changed UNet, a part that nobody else holds may have been trained with it.
            if unet.equal or all(donors.values()):
                relations.append(self._exchange(kind, parts, donors))
        return relations

    def _exchange(
        self, kind: str, parts: Sequence[Finding], donors: Mapping[int, Sequence[str]]
    ) -> Relation:
        what = _titles(parts)
        shares = {
            m: f"that of {self._name(m)} is also that of {listed(names, 4)}"
            for m, names in donors.items()
            if names
        }
        text = f"{self._names()} differ in the {what} alone"
        if not all(f.equal for f in self.common if f.component == "unet"):
            text = f"{self._names()} have another {what}"
        said = [shares[m] for m in (self.b, self.a) if m in shares]
        text += "".join(f"; {share}" for share in said)
        # Whose is known elsewhere, and the other's is not, was put in.
        known = [m for m in (self.b, self.a) if donors[m]]
        model = known[0] if len(known) == 1 else self.b
        other = self.a if model == self.b else self.b
        names = donors[model]
        return self._relation(
            kind, model, other, text, directed=len(known) == 1, donors=tuple(names)
        )

    def _donors(self, model_id: int, parts: Sequence[Finding]) -> list[str]:
        """Return other models that hold the same parts, though their UNets are farther away.

        A model that is nearer than the other of the pair may have inherited them instead.
        """
        equal, kinship = self.kinship.equal, self.kinship
        apart = kinship.distance(self.a, self.b)
        holders = [
            other
            for other in sorted(equal.held)
            if other not in (self.a, self.b)
            and all(
                f.component in equal.held[other]
                and equal.class_of(other, f.component) == equal.class_of(model_id, f.component)
                for f in parts
            )
        ]
        if any(kinship.distance(model_id, other) <= apart for other in holders):
            return []
        return [kinship.teller.models[other].name for other in holders]

    def _tuned(self) -> list[Relation]:
        core = [f for f in self.altered if f.component == "unet"]
        if not core and any(f.component == "unet" for f in self.common):
            return []
        if not self.altered or not self._is_kin():
            return []
        same, changed = _titles(self.equal), _titles(self.altered)
        text_parts = [f for f in self.common if f.component in _TEXT]
        if core and text_parts and all(f.equal for f in text_parts):
            kind = UNET_FINE_TUNED
            text = f"{self._names()}: the UNet was fine-tuned on an unchanged text encoder"
            others = [f for f in self.altered if f.component != "unet"]
            text += f"; {_titles(others)} changed" if others else ""
            dropped = self._dropped()
            if not others and dropped and any(f.component == "ema" for f in dropped[2]):
                text = (
                    f"{self._name(dropped[0])} is {self._name(dropped[1])} without its "
                    f"{_titles(dropped[2])} and with another UNet: the EMA copy, or one trained "
                    "further; distances cannot tell which"
                )
        elif self.equal or self.only_a or self.only_b or self._lacks_parts():
            kind = FINE_TUNED
            text = f"{self._names()}: {changed} changed"
            text += f", {same} unchanged" if self.equal else "; that is all that both hold"
        else:
            kind, text = EVERYTHING_CHANGED, f"{self._names()}: everything changed ({changed})"
        cosine = self._cosine()
        if cosine is not None:
            text += f" (the weights still correlate by {_cosine_text(cosine)})"
        return [self._relation(kind, self.b, self.a, text, directed=False)]

    def _lacks_parts(self) -> bool:
        return any(f.verdict == identity.ABSENT for f in self.findings)

    def _is_kin(self) -> bool:
        """Whether what changed still resembles what it was; of published pairs, taken so."""
        if any(f.source == "imported" for f in self.findings):
            return all(f.verdict != identity.OTHER_ARCHITECTURE for f in self.common)
        cosine = self._cosine()
        return cosine is not None and cosine >= LEAST_COSINE

    def _cosine(self) -> float | None:
        """Return the least that the cosine of the compared matrices can be; None if not known.

        Vectors are left out of the norms, since the gains of unrelated norms are alike, but their
        share of the distance is not known: it counts as if it were of the matrices.
        """
        low, high = _ordered(self.a, self.b)
        of_a = of_b = apart = 0.0
        for finding in self.common:
            norms = self.norms.get((low, high, finding.component))
            if norms is not None and finding.l2 is not None:
                of_a, of_b = of_a + norms[0], of_b + norms[1]
                apart += finding.l2**2
        if not of_a or not of_b:
            return None
        return (of_a + of_b - apart) / (2 * math.sqrt(of_a * of_b))

    # Words

    def _is_telling(self, findings: Iterable[Finding]) -> bool:
        facts = self.kinship.teller.facts
        held = [facts.get((self.a, f.component)) for f in findings]
        return any(fact is None or fact.telling > 0 for fact in held)

    def _name(self, model_id: int) -> str:
        return printable(self.kinship.teller.models[model_id].name, 80)

    def _names(self) -> str:
        return f"{self._name(self.a)} and {self._name(self.b)}"

    def _relation(
        self,
        kind: str,
        model: int,
        other: int,
        text: str,
        *,
        directed: bool = True,
        donors: tuple[str, ...] = (),
    ) -> Relation:
        models = self.kinship.teller.models
        evidence = tuple(pair_sentences(self.findings))
        return Relation(
            kind, models[model].name, models[other].name, directed, donors, text, evidence
        )


def _titles(findings: Sequence[Finding]) -> str:
    """Return e.g. "UNet and VAE"; the parts of a VAE are one where they are all there."""
    components = [f.component for f in findings]
    if set(components) >= set(_VAE[1:]):
        place = components.index(_VAE[1])
        components = [c for c in components if c not in _VAE]
        components.insert(place, "vae")
    titles = [component_title(c) for c in components]
    return " and ".join([", ".join(titles[:-1]), titles[-1]] if len(titles) > 1 else titles)


def _cosine_text(cosine: float) -> str:
    """Return enough digits to tell the cosine from 1.

    >>> _cosine_text(0.9871), _cosine_text(0.9999993), _cosine_text(1.0)
    ('0.987', '0.9999993', '1')
    """
    digits = 3 if cosine >= 1 else max(3, math.ceil(-math.log10(1 - cosine)))
    return f"{min(cosine, 1.0):.{min(digits, 9)}f}".rstrip("0").rstrip(".")
