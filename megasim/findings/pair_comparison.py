"""One pair of models: its findings, sorted by what they say, and the keys that differ."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from megasim.anatomy.classification import DENOISERS, unused_reason
from megasim.errors import printable
from megasim.findings.component_facts import ComponentFacts
from megasim.findings.component_groups import used_components
from megasim.findings.differing_keys import DifferingKey, load_differing_keys
from megasim.findings.kinship import KinshipFacts, SharedContents, ordered
from megasim.findings.pair_sentences import component_list, pair_sentences
from megasim.findings.verdicts import NEVER_USED, Finding
from megasim.store.roundings import PairRounding
from megasim.store.rows import Model
from megasim.words import RelationKind, Source, Status, Verdict

# The cosine of weights trained from the same start is near 1, of unrelated ones near 0.
LEAST_COSINE = 0.5

TEXT_ENCODERS = ("text_encoder", "text_encoder_1", "text_encoder_2", "text_encoder_3")
VAE_PARTS = ("vae", "vae_encoder", "vae_decoder", "vae_quant")
IN_WORDS = {
    Verdict.SAME_VALUES: ", in another dtype",
    Verdict.SAME_AT_FP16: ", once rounded to fp16",
    Verdict.SAME_AT_BF16: ", once rounded to bf16",
}
_HALF = frozenset({"float16", "bfloat16"})


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
        same_bytes: whether the two hold the same bytes, so that it holds of any third that one of
            them is the same as.
    """

    kind: RelationKind
    model: str
    other: str
    directed: bool
    donors: tuple[str, ...]
    text: str
    what: str
    evidence: tuple[str, ...] = field(compare=False)
    same_bytes: bool = False

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
class PairComparison:
    """One pair of model ids, from a to b.

    Attributes:
        findings: of the pair, in the same direction.
        norms: as `Kinship.norms` returns them.
        evidence: component → how many of its keys are equal, and no trivial tensors.
        contents: the telling tensors that both hold, under whatever keys; None where none is.
        rounding: how they lie to each other, where one is quantised; of the model of the smaller
            id as `a`. None where neither is, or both alike.
    """

    kinship: KinshipFacts
    a: int
    b: int
    findings: Sequence[Finding]
    norms: Mapping[tuple[int, int, str], tuple[float, float]]
    evidence: Mapping[str, int]
    contents: SharedContents | None
    rounding: PairRounding | None = None

    def __post_init__(self) -> None:
        present = {f.component for f in self.findings}
        used = used_components(present)
        used_findings = [f for f in self.findings if f.component in used]
        # Among the components that make images, keys of no known use count where they differ.
        self.further = [
            f
            for f in self.findings
            if f.component == "other" and f.component not in used and not f.equal
        ]
        self.only_a = [f for f in used_findings if f.verdict == Verdict.ABSENT_B]
        self.only_b = [f for f in used_findings if f.verdict == Verdict.ABSENT_A]
        self.common = [f for f in used_findings if not f.verdict.is_absent]
        self.equal = [f for f in self.common if f.equal and f.counts is not None]
        # A published 0 may mean "not compared".
        self.unproven = [f for f in self.common if f.equal and f.counts is None]
        self.contained = [f for f in self.common if f.verdict == Verdict.CONTAINED]
        self.not_read = [
            f
            for f in (*self.common, *self.further)
            if f.verdict in (Verdict.SAME_AS_READ, Verdict.NOT_READ)
        ]
        changed = (Verdict.CHANGED, Verdict.PARTLY_CHANGED)
        self.altered = [f for f in self.common if f.verdict in changed]
        self.other_networks = [
            f for f in self.common if f.verdict in (Verdict.OTHER_ARCHITECTURE, Verdict.DISJOINT)
        ]
        self.unet = next((f for f in self.common if f.component in DENOISERS), None)
        # Estimates may be there for some components only; those do not tell of whole models.
        self.complete = all(
            self.kinship.equal.used(model_id)
            <= present.union(*(self.own(model_id, component) for component in present))
            for model_id in (self.a, self.b)
        )

    def own(self, model_id: int, component: str) -> tuple[str, ...]:
        """Return what one of the two models calls the component of a finding; mostly one name."""
        names = self.kinship.reader.rows.names_of(self.a, self.b, component)
        return names[0] if model_id == self.a else names[1]

    def opposite(self, model_id: int) -> int:
        """Return the other of the two models."""
        return self.a if model_id == self.b else self.b

    @cached_property
    def differing(self) -> list[DifferingKey]:
        """The keys that are not equal in any tier, or that one model lacks."""
        return load_differing_keys(self.kinship.reader.store, self.a, self.b)

    def differing_in(self, findings: Iterable[Finding]) -> list[DifferingKey]:
        """Return those of some components."""
        return self._of(self.differing, findings)

    def keys_in(
        self, findings: Iterable[Finding], statuses: Collection[Status]
    ) -> list[DifferingKey]:
        """Return the keys of some statuses in some components."""
        keys = load_differing_keys(self.kinship.reader.store, self.a, self.b, statuses)
        return self._of(keys, findings)

    def is_unused(self, key: DifferingKey) -> bool:
        """Whether the families of both models never use a key."""
        families = (self.kinship.reader.rows.family(model_id) for model_id in (self.a, self.b))
        return all(unused_reason(family, key.component, key.key) for family in families)

    def _of(self, keys: Iterable[DifferingKey], findings: Iterable[Finding]) -> list[DifferingKey]:
        wanted = {
            name
            for f in findings
            for model_id in (self.a, self.b)
            for name in (f.component, *self.own(model_id, f.component))
        }
        return [key for key in keys if key.component in wanted]

    def unread_in(self, model_id: int) -> bool:
        """Whether a model has keys whose values could not be read."""
        return bool(self.kinship.reader.unread.of(model_id))

    def differ_beside(self) -> list[str]:
        """Return what stands in the files of two models beside these, and is not the same.

        Their further parts, and what belongs to no state dict, as the contents of an optimizer.
        """
        of_a, of_b = (self.kinship.beside(model_id) for model_id in (self.a, self.b))
        shared = of_a.keys() & of_b.keys()
        return sorted(place for place in shared if of_a[place] != of_b[place])

    @property
    def minor(self) -> list[Finding]:
        """What only training needs, where it differs."""
        return [f for f in self.findings if f.component in NEVER_USED and not f.equal]

    # Evidence

    def is_telling(self, findings: Iterable[Finding]) -> bool:
        """Whether something equal in some components is more than trivial tensors."""
        return any(
            self.evidence.get(f.component, 0) > 0 or not self.facts(self.a, [f]) for f in findings
        )

    def facts(self, model_id: int, findings: Iterable[Finding]) -> list[ComponentFacts]:
        """Return what is known of one model's components, where it has tensors here."""
        facts = self.kinship.reader.facts
        found = (
            facts.get((model_id, name))
            for f in findings
            for name in self.own(model_id, f.component)
        )
        return [fact for fact in found if fact is not None]

    def is_kin(self) -> bool:
        """Whether what changed still resembles what it was; of published pairs, taken so."""
        if any(f.source == Source.IMPORTED for f in self.findings):
            return not any(f.verdict == Verdict.OTHER_ARCHITECTURE for f in self.common)
        cosine = self.cosine()
        if cosine is None:  # nothing differs but shapes
            return any(self.evidence.get(f.component, 0) > 0 for f in self.common)
        return cosine >= LEAST_COSINE

    def cosine(self) -> float | None:
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

    def core(self) -> Finding:
        """Return the component that makes a model what it is: the denoiser, or else the largest."""
        if self.unet is not None:
            return self.unet
        return max(self.common, key=lambda f: sum(x.parameters for x in self.facts(self.a, [f])))

    def rounded_model(self) -> int | None:
        """Return the model in half precision, where the other is not."""
        for model, other in ((self.b, self.a), (self.a, self.b)):
            half = self._dtypes(model)
            if half and half <= _HALF and not self._dtypes(other) & _HALF:
                return model
        return None

    def cast_model(self, tier: Verdict) -> int | None:
        """Return the model that is the other cast to half precision, where a tier fits that."""
        model = self.rounded_model()
        if model is None or tier not in (Verdict.SAME_AT_FP16, Verdict.SAME_AT_BF16):
            return None
        fits = tier == Verdict.SAME_AT_FP16 or "bfloat16" in self._dtypes(model)
        return model if fits else None

    def half_dtypes(self, model_id: int) -> str:
        """Return the dtypes of a model in half precision, e.g. "float16"."""
        return " and ".join(sorted(self._dtypes(model_id)))

    def _dtypes(self, model_id: int) -> set[str]:
        compared = [*self.equal, *self.contained, *self.altered]
        return {dtype for fact in self.facts(model_id, compared) for dtype in fact.dtypes}

    # Words

    def model(self, model_id: int) -> Model:
        """Return one of the two models."""
        return self.kinship.reader.models[model_id]

    def name(self, model_id: int) -> str:
        """Return the name of a model, safe to print."""
        return printable(self.model(model_id).name, 80)

    def names(self) -> str:
        """Return both names."""
        return f"{self.name(self.a)} and {self.name(self.b)}"

    def relation(
        self,
        kind: RelationKind,
        model: int,
        other: int,
        text: str,
        *,
        directed: bool = True,
        donors: tuple[str, ...] = (),
        what: str = "",
        same_bytes: bool = False,
    ) -> Relation:
        """Return a relation of the two, with its evidence."""
        names = self.model(model).name, self.model(other).name
        evidence = tuple(pair_sentences(self.findings))
        return Relation(kind, *names, directed, donors, text, what, evidence, same_bytes)


def titles(findings: Sequence[Finding]) -> str:
    """Name the components of some findings."""
    return component_list([f.component for f in findings])
