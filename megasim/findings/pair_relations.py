"""How two whole models are related, from the findings of their components."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from megasim.errors import printable
from megasim.findings.component_groups import used_components
from megasim.findings.kinship import Kinship, ordered
from megasim.findings.pair_sentences import component_list, pair_sentences
from megasim.findings.verdicts import NEVER_USED, Finding
from megasim.wording import counted, listed
from megasim.words import RelationKind, Source, Verdict, weakest

# The cosine of weights trained from the same start is near 1, of unrelated ones near 0.
LEAST_COSINE = 0.5

_TEXT = ("text_encoder", "text_encoder_1", "text_encoder_2", "text_encoder_3")
_VAE = ("vae", "vae_encoder", "vae_decoder", "vae_quant")
_REPLACEABLE = (
    (RelationKind.VAE_REPLACED, _VAE),
    (RelationKind.TEXT_ENCODER_REPLACED, _TEXT),
)
_ALTERED = (Verdict.CHANGED, Verdict.PARTLY_CHANGED)
_HALF = frozenset({"float16", "bfloat16"})
_SHOWN_DONORS = 4
_IN_WORDS = {
    Verdict.SAME_VALUES: ", in another dtype",
    Verdict.SAME_AT_FP16: ", once rounded to fp16",
    Verdict.SAME_AT_BF16: ", once rounded to bf16",
}


@dataclass(frozen=True, slots=True)
class Relation:
    """How two models are related.

    Attributes:
        model, other: names; when `directed`, `model` was made from `other`.
        directed: whether the evidence tells which one was made from the other.
        donors: other models that hold the replaced component of `model`.
        text: the relation in one sentence, safe to print.
        what: what changed, without the names; "" for the relations that say more than that.
        evidence: what it follows from, a sentence for each component.
    """

    kind: RelationKind
    model: str
    other: str
    directed: bool
    donors: tuple[str, ...]
    text: str
    what: str
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


@dataclass
class PairRelations:
    """One pair of model ids, from a to b.

    Attributes:
        findings: of the pair, in the same direction.
        norms: as `Kinship.norms` returns them.
    """

    kinship: Kinship
    a: int
    b: int
    findings: Sequence[Finding]
    norms: Mapping[tuple[int, int, str], tuple[float, float]]

    def __post_init__(self) -> None:
        present = {f.component for f in self.findings}
        used = used_components(present)
        used_findings = [f for f in self.findings if f.component in used]
        self.only_a = [f for f in used_findings if f.verdict == Verdict.ABSENT_B]
        self.only_b = [f for f in used_findings if f.verdict == Verdict.ABSENT_A]
        absent = (Verdict.ABSENT, Verdict.ABSENT_A, Verdict.ABSENT_B)
        self.common = [f for f in used_findings if f.verdict not in absent]
        self.equal = [f for f in self.common if f.equal and f.keys_compared is not None]
        # A published 0 may mean "not compared".
        self.unproven = [f for f in self.common if f.equal and f.keys_compared is None]
        self.altered = [f for f in self.common if f.verdict in _ALTERED]
        self.unet = next((f for f in self.common if f.component == "unet"), None)
        # Estimates may be there for some components only; those do not tell of whole models.
        self.complete = all(
            self.kinship.equal.used(model_id) <= {self._own(model_id, c) for c in present} | present
            for model_id in (self.a, self.b)
        )

    def _own(self, model_id: int, component: str) -> str:
        """Return what one of the two models calls the component of a finding."""
        names = self.kinship.reader.rows.names_of(self.a, self.b, component)
        return names[0] if model_id == self.a else names[1]

    def relations(self) -> list[Relation]:
        """Return the relations of the pair, none when the models are unrelated."""
        if not self.common or not self.complete:
            return []
        if len(self.equal) == len(self.common):
            return self._of_equals() if self._is_telling(self.equal) else []
        whole = self._damaged() or self._pruned_to_ema()
        return [whole] if whole else [*self._replaced(), *self._tuned()]

    # Equal wherever both have something

    def _of_equals(self) -> list[Relation]:
        if self.only_a and self.only_b:
            return []
        verdict = weakest(f.verdict for f in self.equal)
        if self.only_a or self.only_b:
            return [self._part_of(verdict)]
        dropped = self._dropped()
        if dropped is not None:
            return [self._pruned(verdict, *dropped)]
        minor = [f for f in self.findings if f.component in NEVER_USED and not f.equal]
        if verdict == Verdict.SAME_WHERE_USED or minor:
            where = "keys that are never used"
            if verdict.is_tier:
                where = f"the {_titles(minor)}, which {'are' if minor[1:] else 'is'} never used"
            text = f"{self._names()} differ only in {where}{_IN_WORDS.get(verdict, '')}"
            return [
                self._relation(RelationKind.SAME_WHERE_USED, self.b, self.a, text, directed=False)
            ]
        if verdict == Verdict.IDENTICAL:
            text = f"{self._names()} hold the same weights{self._formats()}"
            return [self._relation(RelationKind.SAME_WEIGHTS, self.b, self.a, text, directed=False)]
        return [self._cast(verdict)]

    def _part_of(self, verdict: Verdict) -> Relation:
        part, whole = (self.b, self.a) if self.only_a else (self.a, self.b)
        if self.unet in self.equal:
            text = f"{self._name(part)} is {self._name(whole)} without its "
            text += _titles(self.only_a or self.only_b)
        else:
            text = f"{self._name(part)} is the {_titles(self.equal)} of {self._name(whole)}"
        text += _IN_WORDS.get(verdict, "")
        return self._relation(RelationKind.PART_OF, part, whole, text, directed=False)

    def _dropped(self) -> tuple[int, int, list[Finding]] | None:
        """Return pruned model, full model and what is dropped; None when nothing is."""
        minor = [f for f in self.findings if f.component in NEVER_USED]
        lost_b = [f for f in minor if f.verdict == Verdict.ABSENT_B]
        lost_a = [f for f in minor if f.verdict == Verdict.ABSENT_A]
        if lost_b and not lost_a:
            return self.b, self.a, lost_b
        return (self.a, self.b, lost_a) if lost_a and not lost_b else None

    def _pruned(
        self, verdict: Verdict, small: int, full: int, dropped: Sequence[Finding]
    ) -> Relation:
        text = f"{self._name(small)} is {self._name(full)} without its {_titles(dropped)}"
        if self.unet is not None and any(f.component == "ema" for f in dropped):
            alike = (full, small) in self.kinship.ema_as_unet
            text += "; the EMA copy was the same" if alike else "; it keeps the raw UNet"
        if verdict != Verdict.IDENTICAL and self._rounded_model() == small:
            text += f", cast to {self._half_dtypes(small)}"
        return self._relation(RelationKind.PRUNED, small, full, text)

    def _cast(self, verdict: Verdict) -> Relation:
        model = self._rounded_model()
        if model is not None and verdict != Verdict.SAME_VALUES:
            other = self.a if model == self.b else self.b
            text = f"{self._name(model)} is {self._name(other)} cast to {self._half_dtypes(model)}"
            return self._relation(RelationKind.CAST, model, other, text)
        kind = RelationKind.SAME_WEIGHTS if verdict == Verdict.SAME_VALUES else RelationKind.CAST
        text = f"{self._names()} hold the same weights{_IN_WORDS[verdict]}"
        return self._relation(kind, self.b, self.a, text, directed=False)

    def _rounded_model(self) -> int | None:
        """Return the model in half precision, where the other is not."""
        for model, other in ((self.b, self.a), (self.a, self.b)):
            half = self._dtypes(model)
            if half and half <= _HALF and not self._dtypes(other) & _HALF:
                return model
        return None

    def _half_dtypes(self, model_id: int) -> str:
        return " and ".join(sorted(self._dtypes(model_id)))

    def _dtypes(self, model_id: int) -> set[str]:
        facts = self.kinship.reader.facts
        of_components = (
            facts.get((model_id, self._own(model_id, f.component))) for f in self.equal
        )
        return {dtype for fact in of_components if fact is not None for dtype in fact.dtypes}

    def _formats(self) -> str:
        models = [self.kinship.reader.models[m] for m in (self.a, self.b)]
        for one, other in ([m.layout for m in models], [m.format for m in models]):
            if one and other and one != other:
                return f" ({one} and {other})"
        return ""

    # Equal but for one thing

    def _damaged(self) -> Relation | None:
        """Return the relation when nothing but NaN or inf in one tells the models apart."""
        hurt = [f for f in self.altered if f.non_finite]
        if not hurt or len(self.equal) + len(hurt) < len(self.common):
            return None
        if self.only_a or self.only_b or not self._is_telling(self.common):
            return None
        if any(f.keys_changed or f.missing_a or f.missing_b or f.shape_mismatch for f in hurt):
            return None
        keys = sum(f.non_finite or 0 for f in hurt)
        counts = {m: self._non_finite(m) for m in (self.a, self.b)}
        model = self.b if counts[self.b] >= counts[self.a] else self.a
        other = self.a if model == self.b else self.b
        text = f"{self._name(model)} is {self._name(other)} but for NaN or inf in "
        text += counted(keys, "key")
        return self._relation(RelationKind.DAMAGED, model, other, text, directed=counts[other] == 0)

    def _non_finite(self, model_id: int) -> int:
        facts = self.kinship.reader.facts
        of_components = (
            facts.get((model_id, self._own(model_id, f.component))) for f in self.common
        )
        return sum(fact.non_finite for fact in of_components if fact is not None)

    def _pruned_to_ema(self) -> Relation | None:
        """Return the relation when the UNet of one is the EMA copy of the other."""
        for small, full in ((self.b, self.a), (self.a, self.b)):
            exact = self.kinship.ema_as_unet.get((full, small))
            alone = self.only_b if small == self.b else self.only_a
            rest = [f for f in self.common if f is not self.unet]
            if exact is None or alone or not all(f.equal for f in rest):
                continue
            if "ema" in self.kinship.equal.components_of[small]:
                continue
            text = f"{self._name(small)} is {self._name(full)} without its raw UNet; it keeps the "
            text += "EMA copy as its UNet" + ("" if exact else ", rounded to fp16")
            return self._relation(RelationKind.PRUNED, small, full, text)
        return None

    # Replaced or changed somewhere

    def _replaced(self) -> list[Relation]:
        if self.unet is None or not (self.unet.equal or self._is_kin()):
            return []
        relations = []
        for kind, members in _REPLACEABLE:
            parts = [f for f in self.altered if f.component in members]
            if not parts:
                continue
            donors = {m: self._donors(m, parts) for m in (self.a, self.b)}
            # Beside a changed UNet, a part that nobody else holds may have been trained with it.
            if self.unet.equal or all(donors.values()):
                relations.append(self._exchange(kind, parts, donors))
        return relations

    def _exchange(
        self, kind: RelationKind, parts: Sequence[Finding], donors: Mapping[int, Sequence[str]]
    ) -> Relation:
        alone = set(self.altered) == set(parts)
        text = f"{self._names()} " + ("differ in the " if alone else "have another ")
        text += _titles(parts) + (" alone" if alone else "")
        known = [m for m in (self.b, self.a) if donors[m]]
        for model in known:
            holders = listed(donors[model], _SHOWN_DONORS)
            text += f"; that of {self._name(model)} is also that of {holders}"
        # The one that others hold was put in where the other stands nowhere else.
        model = known[0] if known else self.b
        other = self.a if model == self.b else self.b
        directed = len(known) == 1
        return self._relation(
            kind, model, other, text, directed=directed, donors=tuple(donors[model])
        )

    def _donors(self, model_id: int, parts: Sequence[Finding]) -> list[str]:
        """Return other models that hold the same parts, though their UNets are farther away.

        A model that is nearer than the other of the pair may have inherited them instead.
        """
        equal, kinship = self.kinship.equal, self.kinship
        apart = kinship.distance(self.a, self.b)
        classes = {equal.class_of(model_id, self._own(model_id, f.component)) for f in parts}
        holders = [
            other
            for other in sorted(equal.components_of)
            if other not in (self.a, self.b) and classes <= kinship.component_set(other)
        ]
        if any(kinship.distance(model_id, other) <= apart for other in holders):
            return []
        return [kinship.reader.models[other].name for other in holders]

    def _tuned(self) -> list[Relation]:
        if not self.altered or (self.unet is not None and self.unet not in self.altered):
            return []
        if not self._is_kin():
            return []
        texts = [f for f in self.common if f.component in _TEXT]
        others = [f for f in self.altered if f is not self.unet]
        if self.unet is not None and texts and all(f in self.equal for f in texts):
            kind = RelationKind.UNET_FINE_TUNED
            what = "the UNet was fine-tuned on an unchanged text encoder"
            what += f"; {_titles(others)} changed" if others else self._may_be_ema()
        elif len(self.altered) < len(self.common) or self._lack_parts():
            kind = RelationKind.FINE_TUNED
            what = f"{_titles(self.altered)} changed"
            what += f", {_titles(self.equal)} unchanged" if self.equal else ""
            what += f", {_titles(self.unproven)} at a published 0" if self.unproven else ""
            if len(self.altered) == len(self.common):
                what += "; that is all that both hold"
        else:
            kind = RelationKind.EVERYTHING_CHANGED
            what = f"everything changed ({_titles(self.altered)})"
        text = f"{self._names()}: {what}"
        cosine = self._cosine()
        if cosine is not None:
            text += f" (cosine of the weights {_cosine_text(cosine)})"
        return [self._relation(kind, self.b, self.a, text, directed=False, what=what)]

    def _may_be_ema(self) -> str:
        """Say so when one has no EMA copy, and the other's is not here to be compared."""
        dropped = self._dropped()
        if dropped is None or self.kinship.reader.facts:
            return ""
        if not any(f.component == "ema" for f in dropped[2]):
            return ""
        return (
            f", or the UNet of {self._name(dropped[0])} is the EMA copy of "
            f"{self._name(dropped[1])}: distances cannot tell"
        )

    def _lack_parts(self) -> bool:
        absent = any(f.verdict == Verdict.ABSENT for f in self.findings)
        return absent or bool(self.only_a or self.only_b)

    def _is_kin(self) -> bool:
        """Whether what changed still resembles what it was; of published pairs, taken so."""
        if any(f.source == Source.IMPORTED for f in self.findings):
            return all(f.verdict != Verdict.OTHER_ARCHITECTURE for f in self.common)
        cosine = self._cosine()
        if cosine is None:  # nothing differs but shapes
            return any(self._has_telling_equal(finding) for finding in self.common)
        return cosine >= LEAST_COSINE

    def _has_telling_equal(self, finding: Finding) -> bool:
        """Whether more keys are equal than the component has trivial tensors."""
        own = self._own(self.a, finding.component)
        fact = self.kinship.reader.facts.get((self.a, own))
        equal = (finding.keys_compared or 0) - (finding.keys_changed or 0)
        return fact is not None and equal > fact.keys - fact.telling

    def _cosine(self) -> float | None:
        """Return the least that the cosine of the changed matrices can be; None if not known.

        Vectors are left out of the norms, since the gains of unrelated norms are alike, but their
        share of the distance is not known: it counts as if it were of the matrices.
        """
        of_a = of_b = apart = 0.0
        for finding in self.common:
            norms = self.norms.get((*ordered(self.a, self.b), finding.component))
            if norms is not None and finding.l2 is not None:
                of_a, of_b = of_a + norms[0], of_b + norms[1]
                apart += finding.l2**2
        if not of_a or not of_b:
            return None
        return (of_a + of_b - apart) / (2 * math.sqrt(of_a * of_b))

    # Words

    def _is_telling(self, findings: Iterable[Finding]) -> bool:
        facts = self.kinship.reader.facts
        of_components = [facts.get((self.a, self._own(self.a, f.component))) for f in findings]
        return any(fact is None or fact.telling > 0 for fact in of_components)

    def _name(self, model_id: int) -> str:
        return printable(self.kinship.reader.models[model_id].name, 80)

    def _names(self) -> str:
        return f"{self._name(self.a)} and {self._name(self.b)}"

    def _relation(
        self,
        kind: RelationKind,
        model: int,
        other: int,
        text: str,
        *,
        directed: bool = True,
        donors: tuple[str, ...] = (),
        what: str = "",
    ) -> Relation:
        models = self.kinship.reader.models
        evidence = tuple(pair_sentences(self.findings))
        names = models[model].name, models[other].name
        return Relation(kind, *names, directed, donors, text, what, evidence)


def _titles(findings: Sequence[Finding]) -> str:
    return component_list([f.component for f in findings])


def _cosine_text(cosine: float) -> str:
    """Return enough digits to tell the cosine from 1, six at most.

    >>> _cosine_text(0.9871), _cosine_text(0.999934), _cosine_text(1.0)
    ('0.987', '0.99993', '1')
    """
    digits = 6 if cosine >= 1 else max(3, math.ceil(-math.log10(1 - cosine)))
    return f"{min(cosine, 1.0):.{min(digits, 6)}f}".rstrip("0").rstrip(".")
