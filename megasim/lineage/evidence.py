"""What is known of models and pairs beside distances, and what it says of who came first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from megasim.errors import printable
from megasim.lineage.layer_norms import NormGrowth
from megasim.lineage.rounding import ROUNDING, rounding_l2
from megasim.lineage.settings import SETTINGS, LineageSettings
from megasim.words import EdgeKind

# Evidence of counts within a run that is named; of counts in metadata that name no run; and that
# one model keeps the other's EMA.
NAMED_RUN = "same run"
EPOCHS = "epoch count"
EMA_COPY = "EMA copy"
QUANTISED = "quantised"
COUNTERS = "batches counted"

_WIDTHS = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
# Bits of a mantissa: what is equal once rounded was rounded from the more precise.
_PRECISION = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}


@dataclass(frozen=True)
class ModelFacts:
    """What the store knows of one model.

    Attributes:
        keys: how many canonical keys it has; 0 unknown.
        dtype: the commonest dtype of the component in question, "" unknown.
        bytes: of its files; 0 unknown.
        scheme: how the component is represented, if it is quantised; "" if it is not.
        counts: evidence name, and what is counted → how far its training had come; of its metadata.
        counters: key → what a single number in the weights counts, as batch normalisation counts
            the batches that it has seen.
        run: what the metadata says apart from the counts: checkpoints of one run agree in it.
        norms: component → L2 of its weights.
        own_norms: component → L2 of the weights that no model holds which differs in the
            component; where not known, those of all.
        kurtosis: component → mean kurtosis of its tensors, by elements.
        metadata: the file's own, as read; a stranger's words.
        non_finite: components in which some values are NaN or infinite.
    """

    name: str
    keys: int = 0
    dtype: str = ""
    bytes: int = 0
    scheme: str = ""
    counts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    counters: Mapping[str, float] = field(default_factory=dict)
    run: str = ""
    norms: Mapping[str, float] = field(default_factory=dict)
    own_norms: Mapping[str, float] = field(default_factory=dict)
    kurtosis: Mapping[str, float] = field(default_factory=dict)
    metadata: Mapping[str, object] = field(default_factory=dict)
    non_finite: frozenset[str] = frozenset()

    def lacks(self, component: str) -> bool:
        """Return whether some values of a component are NaN or infinite."""
        return component in self.non_finite

    @property
    def completeness(self) -> tuple[bool, bool, int, int, int, str]:
        """Order: the first of models with the same weights is what others were made from."""
        return (
            bool(self.non_finite),
            bool(self.scheme),
            -self.keys,
            -_PRECISION.get(self.dtype, 0),
            -self.bytes,
            self.name,
        )


@dataclass(frozen=True)
class PairFacts:
    """How many keys of each component stand in which identity tier.

    Attributes:
        tiers: component → tier → count; tiers are identical, same_values, same_at_fp16,
            same_at_bf16, changed, missing_a, missing_b, shape_mismatch, non_finite and
            same_in_sample.
    """

    a: str
    b: str
    tiers: Mapping[str, Mapping[str, int]]

    def count(self, *tiers: str, component: str | None = None) -> int:
        """Return the keys in any of the tiers, of one component or of all."""
        chosen = self.tiers.values() if component is None else [self.tiers.get(component, {})]
        return sum(found.get(t, 0) for found in chosen for t in tiers)

    def seen_from(self, a: str) -> PairFacts:
        """Return the same facts with `a` as the first of the pair."""
        if a == self.a:
            return self
        swap = {"missing_a": "missing_b", "missing_b": "missing_a"}
        return PairFacts(
            self.b,
            self.a,
            {c: {swap.get(t, t): n for t, n in ts.items()} for c, ts in self.tiers.items()},
        )


@dataclass(frozen=True)
class Evidence:
    """One named reason for an edge or its direction.

    Attributes:
        name: what kind of evidence, e.g. "norm growth".
        text: the numbers, in words.
        log_odds: how much it speaks for the direction as drawn; negative speaks against it,
            0 says nothing of direction.
        backwards: the text for the other direction, where it is another one.
    """

    name: str
    text: str
    log_odds: float
    backwards: str = ""

    def turned(self) -> Evidence:
        """Return the same evidence for the step drawn the other way.

        >>> print(Evidence("kurtosis drift", "3 → 4", 0.5, "4 → 3").turned().text)
        4 → 3
        """
        return Evidence(self.name, self.backwards or self.text, -self.log_odds, self.text)

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        return {"name": self.name, "text": self.text, "log_odds": round(self.log_odds, 4)}


def rounding_of(facts: Iterable[ModelFacts], component: str) -> dict[str, float]:
    """Return model → L2 that its storage in half precision rounded away, where known.

    What others hold as well was not rounded anew, and is no difference to them.
    """
    return {
        f.name: rounding_l2(f.own_norms.get(component, f.norms[component]), f.dtype)
        for f in facts
        if component in f.norms and f.dtype in ROUNDING
    }


def norms_of(facts: Iterable[ModelFacts], component: str) -> dict[str, float]:
    """Return model → L2 of its weights in a component, where known."""
    return {f.name: f.norms[component] for f in facts if component in f.norms}


def drift_evidence(
    a: ModelFacts | None,
    b: ModelFacts | None,
    component: str,
    settings: LineageSettings = SETTINGS,
    *,
    one_run: float = 0.0,
    growth: NormGrowth | None = None,
) -> list[Evidence]:
    """Return what speaks for b having come from a, with negative log odds where against it.

    A step that is unrelated to where the model stands adds its square to the squared norm: see
    `growth_log_odds`.

    Args:
        growth: of the norm, where it is known over the keys of the step.
        one_run: what counts that name no run are worth between the two, in log odds: see
            `megasim.lineage.runs`.
    """
    found: list[Evidence] = []
    if a is None or b is None:
        return found
    for (name, unit), first in a.counts.items():
        second = b.counts.get((name, unit), first)
        worth = settings.record if name == NAMED_RUN else one_run
        if first != second and worth:
            sign = 1.0 if second > first else -1.0
            forwards, backwards = f"{unit} {first} → {second}", f"{unit} {second} → {first}"
            found.append(Evidence(name, forwards, sign * worth, backwards))
            break
    counted = _counter_evidence(a, b, settings)
    if counted is not None:
        found.append(counted)
    if growth is not None:
        worth = settings.norm_growth * growth.log_odds(settings.growth_width)
        texts = growth.sentence(), growth.turned().sentence()
        found.append(Evidence("norm growth", texts[0], worth, texts[1]))
    if component in a.kurtosis and component in b.kurtosis:
        change = b.kurtosis[component] - a.kurtosis[component]
        if change:
            before, after = (f"{m.kurtosis[component]:.3f}" for m in (a, b))
            text, backwards = f"kurtosis {before} → {after}", f"kurtosis {after} → {before}"
            sign = 1.0 if change > 0 else -1.0
            found.append(Evidence("kurtosis drift", text, sign * settings.kurtosis, backwards))
    return found


def _counter_evidence(a: ModelFacts, b: ModelFacts, settings: LineageSettings) -> Evidence | None:
    """Return what counters in the weights say: a training goes on where its start had come.

    Nothing where one of the two counts nothing, as after a conversion that drops the counters,
    or where they disagree.
    """
    common = [k for k in sorted(a.counters.keys() & b.counters) if a.counters[k] * b.counters[k]]
    signs = {float(np.sign(b.counters[k] - a.counters[k])) for k in common} - {0.0}
    if len(signs) != 1:
        return None
    key = next(k for k in common if a.counters[k] != b.counters[k])
    first, second = a.counters[key], b.counters[key]
    shown = printable(key, 60)
    return Evidence(
        COUNTERS,
        f"{shown} {first:.0f} → {second:.0f}",
        signs.pop() * settings.counters,
        f"{shown} {second:.0f} → {first:.0f}",
    )


def counts_evenly(a: ModelFacts | None, b: ModelFacts | None, c: ModelFacts | None) -> float | None:
    """Return the batches from a to b where from b to c there were as many, as in one run.

    As counters in the weights tell, all that the three have in common; None where they do not. A
    run that is saved at equal shares of its length may be off by one.
    """
    if a is None or b is None or c is None:
        return None
    keys = sorted(a.counters.keys() & b.counters.keys() & c.counters.keys())
    steps = [
        (b.counters[k] - a.counters[k], c.counters[k] - b.counters[k])
        for k in keys
        if a.counters[k] * b.counters[k] * c.counters[k]
    ]
    even = steps and all(min(s) > 0 and abs(s[0] - s[1]) <= 1 for s in steps)
    return steps[0][1] if even else None


def same_weights_kind(
    first: ModelFacts | None,
    second: ModelFacts | None,
    pair: PairFacts | None,
    component: str,
    settings: LineageSettings = SETTINGS,
) -> tuple[EdgeKind, list[Evidence]]:
    """Return how the second of two models with the same weights was made from the first.

    Returns:
        The kind and its evidence; a total log odds of 0 leaves the direction open.
    """
    found: list[Evidence] = []
    kind = EdgeKind.COPY
    if first and second and second.scheme and not first.scheme:
        text = f"to {second.scheme}, and nothing else differs"
        return EdgeKind.QUANTISED, [Evidence(QUANTISED, text, settings.record)]
    if pair is not None and (sampled := pair.count("same_in_sample")):
        keys = f"{sampled:,} key{'' if sampled == 1 else 's'}"
        text = f"{keys} equal in all elements that were read; not all were"
        return EdgeKind.SAME_IN_SAMPLE, [Evidence("samples", text, 0.0)]
    if pair is not None:
        changed = [
            c
            for c in sorted(pair.tiers)
            if c != component
            and c not in ("ema", "training_state")
            and pair.count("changed", "shape_mismatch", component=c)
        ]
        if changed:
            text = f"{component} the same, {', '.join(changed)} changed"
            return EdgeKind.COMPONENT_SWAP, [Evidence("component swap", text, 0.0)]
        dropped, added = pair.count("missing_b"), pair.count("missing_a")
        if dropped and not added:
            kind = EdgeKind.PRUNED
            found.append(
                Evidence("subset", f"{dropped} keys are missing, none added", settings.record)
            )
    elif first and second and first.keys > second.keys > 0:
        kind = EdgeKind.PRUNED
        text = f"{second.keys} of {first.keys} keys"
        found.append(Evidence("subset", text, settings.record))
    if first and second:
        wide, narrow = _WIDTHS.get(first.dtype, 0), _WIDTHS.get(second.dtype, 0)
        # of float16 and bfloat16 the one was rounded where the numbers are not the same
        rounded = pair is not None and pair.count("same_at_bf16") > 0
        to_bf16 = rounded and (first.dtype, second.dtype) == ("float16", "bfloat16")
        if wide > narrow > 0 or to_bf16:
            kind = EdgeKind.CAST if kind == EdgeKind.COPY else kind
            text = f"{first.dtype} → {second.dtype}"
            found.append(Evidence("precision cast", text, settings.record))
    if pair is not None and not found:
        same = pair.count("identical", "same_values", "same_at_fp16", "same_at_bf16")
        broken = pair.count("non_finite")
        alone = pair.count("missing_a", "missing_b")
        text = f"{same} key{'' if same == 1 else 's'} the same"
        text += f", {broken} with NaN or infinity" if broken else ""
        text += f", {alone} in one of the two alone" if alone else ""
        found.append(Evidence("same weights", text, 0.0))
    return kind, found
