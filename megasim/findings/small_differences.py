"""Relations of models that are equal but for one kind of thing, or but for a few keys."""

from __future__ import annotations

from megasim.findings.differing_keys import key_names, missing_from, name_differing
from megasim.findings.pair_comparison import IN_WORDS, PairComparison, Relation
from megasim.wording import counted, four_digits
from megasim.words import RelationKind, Source, Status, Verdict, weakest

# More keys than this are not few.
_MOST_FEW = 8


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
    if not _is_alike_elsewhere(pair) or any(f.source != Source.EXACT for f in pair.common):
        return None
    keys = pair.differing_in(pair.altered)
    if not keys or not all(key.is_alpha for key in keys):
        return None
    values = {(k.a.mean, k.b.mean) for k in keys if k.a is not None and k.b is not None}
    text = f"{pair.names()} are the same adapter with another alpha"
    if len(values) == 1:
        ((before, after),) = values
        if before is not None and after is not None:
            text += f": {four_digits(before)} → {four_digits(after)}"
    text += f" in {counted(len(keys), 'key')}"
    return pair.relation(RelationKind.RESCALED, pair.b, pair.a, text, directed=False)


def widened(pair: PairComparison) -> Relation | None:
    """Return the relation when some tensors of one have more elements, which are all zero."""
    if not _is_alike_elsewhere(pair):
        return None
    if any(f.counts is None or f.counts.differing > f.counts.shape_mismatch for f in pair.altered):
        return None
    keys = pair.differing_in(pair.altered)
    if not keys or not all(key.widened for key in keys):
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
    text += "; the new elements are zero, the norms are the same"
    return pair.relation(RelationKind.WIDENED, wide, narrow, text, directed=False)


def _is_alike_elsewhere(pair: PairComparison) -> bool:
    """Whether the two hold the same keys, and telling ones of them are equal."""
    return (
        not (pair.only_a or pair.only_b or pair.other_networks or pair.not_read)
        and pair.is_telling(pair.common)
        and len(pair.equal) + len(pair.altered) == len(pair.common)
    )


def all_but_few(pair: PairComparison) -> Relation | None:
    """Return the relation of models that are equal but for a few keys.

    Of a component with several keys more must be equal than differ; a component of one key may be
    another altogether, as a head.
    """
    counts = [f.counts for f in pair.common]
    if pair.other_networks or not pair.altered or any(c is None for c in counts):
        return None
    if any(f.source != Source.EXACT for f in pair.common):
        return None
    known = [c for c in counts if c is not None]
    changed = sum(c.read - c.unchanged for c in known)
    missing = sum(c.missing_a + c.missing_b for c in known)
    telling = sum(pair.evidence.get(f.component, 0) for f in pair.common)
    if changed + missing > _MOST_FEW or telling < changed + missing:
        return None
    if pair.only_a or pair.only_b:
        return None
    for finding in pair.altered:
        assert finding.counts is not None
        differing = finding.counts.read - finding.counts.unchanged
        whole = finding.counts.common == 1 and finding is not pair.core()
        if not whole and pair.evidence.get(finding.component, 0) < differing:
            return None
    return pair.relation(*_ends(pair), _all_but_few_text(pair, changed), directed=False)


def _ends(pair: PairComparison) -> tuple[RelationKind, int, int]:
    model = pair.rounded_model()
    if model is None:
        return RelationKind.ALL_BUT_FEW, pair.b, pair.a
    return RelationKind.ALL_BUT_FEW, model, pair.opposite(model)


def _all_but_few_text(pair: PairComparison, changed: int) -> str:
    known = [f.counts for f in pair.common if f.counts is not None]
    tier = weakest(c.weakest_tier for c in known if c.unchanged)
    keys = pair.differing_in(pair.altered)
    of_both = [key for key in keys if key.a is not None and key.b is not None]
    total = sum(c.common for c in known)
    but = f"but for {changed:,} of {counted(total, 'key')}"
    if of_both:
        but += f": {key_names(of_both)}"
    model = pair.rounded_model()
    if model is not None and tier in (Verdict.SAME_AT_FP16, Verdict.SAME_AT_BF16):
        other = pair.opposite(model)
        text = f"{pair.name(model)} is {pair.name(other)} cast to {pair.half_dtypes(model)}, {but}"
    else:
        text = f"{pair.names()} hold the same weights{IN_WORDS.get(tier, '')}, {but}"
    for owner, side in ((pair.a, Status.MISSING_B), (pair.b, Status.MISSING_A)):
        alone = missing_from(pair.differing_in([*pair.altered, *pair.contained]), side)
        if alone:
            text += f"; {pair.name(owner)} alone holds {name_differing(alone)}"
    unread = [key for f in pair.common for key in f.unread.unknown]
    if unread:
        text += f"; {counted(len(unread), 'key')} could not be read"
    return text
