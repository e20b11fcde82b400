"""Relations of models that are equal but for one kind of thing, or but for a few keys."""

from __future__ import annotations

from megasim.errors import printable
from megasim.findings.containment import held_alone
from megasim.findings.differing_keys import DifferingKey, key_names, name_differing
from megasim.findings.identity import COUNTERPARTS, Counts
from megasim.findings.pair_comparison import IN_WORDS, PairComparison, Relation
from megasim.findings.rounded_keys import MOST_FEW, equal_keys, odd_sentence
from megasim.wording.sentences import counted, four_digits
from megasim.words import MISSING, RelationKind, Source, Verdict


def damaged(pair: PairComparison) -> Relation | None:
    """Return the relation when nothing but NaN or inf in one tells the models apart."""
    hurt = [f for f in pair.altered if f.non_finite]
    if not hurt or len(pair.equal) + len(hurt) < len(pair.common):
        return None
    if pair.only_a or pair.only_b or not pair.is_telling(pair.common):
        return None
    if any(f.counts is None or f.counts.differing > f.counts.non_finite for f in hurt):
        return None
    keys = sum(f.non_finite or 0 for f in hurt)
    counts = {
        m: sum(fact.non_finite for fact in pair.facts(m, pair.common)) for m in (pair.a, pair.b)
    }
    model = pair.b if counts[pair.b] >= counts[pair.a] else pair.a
    other = pair.opposite(model)
    text = f"{pair.name(model)} is {pair.name(other)} but for NaN or inf in "
    text += counted(keys, "key")
    return pair.relation(RelationKind.DAMAGED, model, other, text, directed=counts[other] == 0)


def kept_ema(pair: PairComparison) -> Relation | None:
    """Return the relation when the UNet of one is the EMA copy of the other."""
    for small, full in ((pair.b, pair.a), (pair.a, pair.b)):
        exact = pair.kinship.ema_as_unet.get((full, small))
        alone = pair.only_b if small == pair.b else pair.only_a
        rest = [f for f in pair.common if f is not pair.unet]
        if exact is None or alone or not all(f.equal for f in rest):
            continue
        if "ema" in pair.kinship.equal.components_of[small]:
            continue
        text = f"{pair.name(small)} is {pair.name(full)} without its raw UNet; it keeps the "
        text += "EMA copy as its UNet" + ("" if exact else ", rounded to fp16")
        return pair.relation(RelationKind.PRUNED, small, full, text)
    return None


def rescaled(pair: PairComparison) -> Relation | None:
    """Return the relation of adapters whose factors are equal, and whose alpha is not."""
    if not is_equal_elsewhere(pair) or any(f.source != Source.EXACT for f in pair.common):
        return None
    keys = _of_both(pair)
    if not keys or not all(key.is_alpha for key in keys):
        return None
    values = {(k.a.mean, k.b.mean) for k in keys if k.a is not None and k.b is not None}
    text = f"{pair.names()} are the same adapter with another alpha"
    if len(values) == 1:
        ((before, after),) = values
        if before is not None and after is not None:
            text += f": {four_digits(before)} → {four_digits(after)}"
    text += f" in {counted(len(keys), 'key')}{_as_rounded(pair)}{held_alone(pair)}"
    return pair.relation(RelationKind.RESCALED, pair.b, pair.a, text, directed=False)


def widened(pair: PairComparison) -> Relation | None:
    """Return the relation when some tensors of one have more elements, which are all zero."""
    if not is_equal_elsewhere(pair):
        return None
    if any(
        f.counts is None or _differing(f.counts) > f.counts.shape_mismatch for f in pair.altered
    ):
        return None
    keys = _of_both(pair)
    tier = equal_keys(pair, pair.common).tier
    cast = pair.cast_model(tier) if tier is not None else None
    if not keys or not all(key.is_widened(rounded=cast is not None) for key in keys):
        return None
    wider = {k.b.numel > k.a.numel for k in keys if k.a is not None and k.b is not None}
    if len(wider) > 1:
        return None
    wide = pair.b if wider.pop() else pair.a
    narrow = pair.opposite(wide)
    text = f"{pair.name(wide)} is {pair.name(narrow)} with {name_differing(keys)} widened"
    first = keys[0]
    if len(keys) == 1 and first.a is not None and first.b is not None:
        shapes = (first.a.shape, first.b.shape)
        before, after = shapes if wide == pair.b else shapes[::-1]
        text += f" from {before} to {after}"
    if cast is not None:
        text += f", {pair.name(cast)} cast to {pair.half_dtypes(cast)}"
    text += "; the new elements are zero, the norms are the same"
    text += (" but for rounding" if cast is not None else "") + held_alone(pair)
    return pair.relation(RelationKind.WIDENED, wide, narrow, text, directed=False)


def _of_both(pair: PairComparison) -> list[DifferingKey]:
    """Return the keys of changed components that both models hold, and that are not equal."""
    return [key for key in pair.differing_in(pair.altered) if key.status not in MISSING]


def _differing(counts: Counts) -> int:
    """Return how many keys that both hold are not equal in any tier."""
    return counts.read - counts.unchanged


def _as_rounded(pair: PairComparison) -> str:
    tier = equal_keys(pair, pair.common).tier
    return "" if tier is None else IN_WORDS.get(tier, "")


def is_equal_elsewhere(pair: PairComparison) -> bool:
    """Return whether components that did not change are equal where both have keys, and telling."""
    return (
        bool(pair.altered)
        and not (pair.other_networks or pair.not_read)
        and pair.is_telling(pair.common)
        and len(pair.equal) + len(pair.contained) + len(pair.altered) == len(pair.common)
    )


def all_but_few(pair: PairComparison) -> Relation | None:
    """Return the relation of models that are equal but for a few keys.

    Of a component with several keys no fewer must be equal than differ; one of a single key may be
    another altogether, as a head, where it is the smaller part of the model.
    """
    if pair.other_networks or not pair.altered or any(f.counts is None for f in pair.common):
        return None
    if any(f.source != Source.EXACT for f in pair.common):
        return None
    counts = {f.component: f.counts for f in pair.common if f.counts is not None}
    changed = sum(map(_differing, counts.values()))
    telling = sum(pair.evidence.get(component, 0) for component in counts)
    if changed > MOST_FEW or telling < changed or not _mostly_in_common(pair):
        return None
    equal_parameters = sum(fact.parameters for fact in pair.facts(pair.a, pair.equal))
    for finding in pair.altered:
        held = counts[finding.component]
        size = sum(fact.parameters for fact in pair.facts(pair.a, [finding]))
        replaced = held.common == 1 and size < equal_parameters
        if held.unchanged < _differing(held) and not replaced:
            return None
    return pair.relation(*_ends(pair), _all_but_few_text(pair, changed), directed=False)


def _mostly_in_common(pair: PairComparison) -> bool:
    """Whether the two hold in common at least half of the keys of the smaller one."""
    used = [*pair.common, *pair.only_a, *pair.only_b]
    counts = [f.counts for f in used if f.counts is not None]
    common = sum(c.common for c in counts)
    alone = min(sum(c.missing_a for c in counts), sum(c.missing_b for c in counts))
    return common >= COUNTERPARTS * (common + alone)


def _ends(pair: PairComparison) -> tuple[RelationKind, int, int]:
    model = pair.rounded_model()
    if model is None:
        return RelationKind.ALL_BUT_FEW, pair.b, pair.a
    return RelationKind.ALL_BUT_FEW, model, pair.opposite(model)


def _all_but_few_text(pair: PairComparison, changed: int) -> str:
    known = [f.counts for f in pair.common if f.counts is not None]
    equal = equal_keys(pair, pair.common)
    tier = equal.tier or Verdict.IDENTICAL
    named = [key_names(keys)] if (keys := _of_both(pair)) else []
    named += [
        f"{printable(key.canonical_key, 200)} ({printable(key.kind, 40)})"
        for f in pair.common
        for key in f.unread.other_bytes
    ]
    but = f"but for {changed:,} of {counted(sum(c.common for c in known), 'key')}"
    but += f": {', '.join(named)}" if named else ""
    model = pair.cast_model(tier)
    if model is not None:
        other = pair.opposite(model)
        text = f"{pair.name(model)} is {pair.name(other)} cast to {pair.half_dtypes(model)}, {but}"
    else:
        text = f"{pair.names()} hold the same weights{IN_WORDS.get(tier, '')}, {but}"
    text += odd_sentence(equal) + held_alone(pair)
    unread = [key for f in pair.common for key in f.unread.unknown]
    if unread:
        text += f"; {counted(len(unread), 'key')} could not be read"
    return text
