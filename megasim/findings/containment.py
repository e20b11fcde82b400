"""Relations of models of which everything that both hold is equal: same, cast, part of, pruned."""

from __future__ import annotations

from collections.abc import Sequence

from megasim.errors import printable
from megasim.findings.details import TIER_WORDS
from megasim.findings.differing_keys import (
    DifferingKey,
    key_names,
    missing_from,
    name_differing,
)
from megasim.findings.pair_comparison import IN_WORDS, PairComparison, Relation, titles
from megasim.findings.rounded_keys import EqualKeys, equal_keys, odd_sentence
from megasim.findings.shard_names import are_shards_of_one, shard_name
from megasim.findings.unread_keys import unread_kinds
from megasim.findings.verdicts import NEVER_USED, Finding
from megasim.wording.sentences import counted, joined
from megasim.words import MISSING, Nature, PartRole, RelationKind, Status, Verdict

# Models that share a smaller part of the keys of the smaller one are not said to overlap.
_LEAST_OVERLAP = 0.5


def relation_of_equals(pair: PairComparison) -> Relation | None:
    """Return the relation of two models that are equal in all that both hold; None if unrelated."""
    compared = [*pair.equal, *pair.contained, *pair.not_read]
    if not pair.is_telling(compared):
        return None
    equal = equal_keys(pair, compared)
    assert equal.tier is not None  # something telling is equal
    tier = equal.tier
    if pair.not_read:
        return _same_as_read(pair, tier)
    held = [*pair.contained, *pair.further]
    a_has_more = bool(pair.only_a) or any(f.missing_b for f in held)
    b_has_more = bool(pair.only_b) or any(f.missing_a for f in held)
    if a_has_more and b_has_more:
        return _overlap(pair, equal)
    if a_has_more or b_has_more:
        part, whole = (pair.b, pair.a) if a_has_more else (pair.a, pair.b)
        return _part_of(pair, part, whole, equal)
    if equal.odd:
        return _all_but_odd(pair, tier, equal)
    if any(f.verdict != Verdict.CONTAINED for f in pair.further):
        keys = name_differing(pair.differing_in(pair.further))
        text = f"{pair.names()} hold the same weights but for {keys}{IN_WORDS.get(tier, '')}"
        return pair.relation(RelationKind.ALL_BUT_FEW, pair.b, pair.a, text, directed=False)
    dropped = dropped_components(pair)
    if dropped is not None:
        return _pruned(pair, tier, *dropped)
    if pair.minor or any(f.verdict == Verdict.SAME_WHERE_USED for f in pair.equal):
        return _same_where_used(pair, tier)
    if tier == Verdict.IDENTICAL:
        kind, of_part = RelationKind.SAME_WEIGHTS, _as_part_of_a_file(pair)
        beside = pair.differ_beside()
        text = of_part or f"{pair.names()} hold the same weights{_formats(pair)}"
        text += f"; their files differ in {joined(beside)}" if beside else ""
        plain = not of_part and not beside
        return pair.relation(kind, pair.b, pair.a, text, directed=False, same_bytes=plain)
    return _cast(pair, tier)


def under_other_keys(pair: PairComparison) -> Relation | None:
    """Return the relation when all tensors of one model stand in the other, under other keys."""
    shared = pair.contents
    if shared is None or shared.tensors < min(shared.of_first, shared.of_second):
        return None
    low, high = min(pair.a, pair.b), max(pair.a, pair.b)
    inside = low if shared.tensors == shared.of_first else high
    whole = pair.opposite(inside)
    if pair.unread_in(inside):
        return None
    if sum(pair.evidence.values()) >= shared.tensors:
        return None  # they stand under the same keys, or a rename brought them together
    key = shared.key_in_second if inside == low else shared.key_in_first
    text = f"all {counted(shared.tensors, 'tensor')} of {pair.name(inside)} that can tell models "
    text += f"apart stand in {pair.name(whole)} under other keys, as {printable(key, 120)}"
    return pair.relation(RelationKind.PART_OF, inside, whole, text, directed=False)


def shards_of_one_model(pair: PairComparison) -> Relation | None:
    """Return the relation of two shards of one model; only their names can tell that."""
    names = [pair.model(model_id).name for model_id in (pair.a, pair.b)]
    if not are_shards_of_one(*names):
        return None
    first, second = sorted(filter(None, map(shard_name, names)), key=lambda shard: shard.number)
    text = f"{pair.names()} have no key in common: by their names, they are shards "
    text += f"{first.number} and {second.number} of the {first.total} of one model"
    return pair.relation(RelationKind.SHARDS, pair.b, pair.a, text, directed=False)


def _same(pair: PairComparison, text: str) -> Relation:
    return pair.relation(RelationKind.SAME_WEIGHTS, pair.b, pair.a, text, directed=False)


_ROLE_TITLES = {
    PartRole.EMA: "EMA",
    PartRole.TEACHER: "teacher",
    PartRole.DISCRIMINATOR: "discriminator",
    PartRole.ADAPTER: "adapter",
}


def _as_part_of_a_file(pair: PairComparison) -> str:
    """Say that one model is the EMA, or another part, of the file of the other; "" if neither."""
    for part, alone in ((pair.b, pair.a), (pair.a, pair.b)):
        file_model = pair.model(part).file_model_id
        title = _ROLE_TITLES.get(PartRole(pair.model(part).part_role))
        if file_model is None or title is None or pair.model(alone).file_model_id is not None:
            continue
        whole = pair.kinship.reader.models.get(file_model)
        if whole is not None and file_model != alone:
            return f"{pair.name(alone)} is the {title} of {printable(whole.name, 80)}"
    averaged = {
        model.file_model_id
        for model in pair.kinship.reader.models.values()
        if model.part_role == PartRole.EMA
    }
    for whole_id, alone in ((pair.b, pair.a), (pair.a, pair.b)):
        if whole_id in averaged and alone not in averaged and not pair.model(alone).part:
            return f"{pair.name(alone)} is the raw weights of {pair.name(whole_id)}"
    return ""


def _formats(pair: PairComparison) -> str:
    models = [pair.model(m) for m in (pair.a, pair.b)]
    for one, other in ([m.layout for m in models], [m.format for m in models]):
        if one and other and one != other:
            return f" ({one} and {other})"
    return ""


def _all_but_odd(pair: PairComparison, tier: Verdict, equal: EqualKeys) -> Relation:
    """Say which few keys are equal only once rounded, and what the others are."""
    model = pair.cast_model(tier)
    if model is not None:
        other = pair.opposite(model)
        text = f"{pair.name(model)} is {pair.name(other)} cast to {pair.half_dtypes(model)}"
    else:
        model, other = pair.b, pair.a
        text = f"{pair.names()} hold the same weights{IN_WORDS.get(tier, '')}"
    common = sum(f.counts.common for f in pair.common if f.counts is not None)
    text += f", but for {len(equal.odd):,} of {counted(common, 'key')}: {equal.odd_text()}"
    return pair.relation(RelationKind.ALL_BUT_FEW, model, other, text, directed=False)


def _cast(pair: PairComparison, tier: Verdict) -> Relation:
    model = pair.cast_model(tier)
    if model is not None:
        other = pair.opposite(model)
        text = f"{pair.name(model)} is {pair.name(other)} cast to {pair.half_dtypes(model)}"
        return pair.relation(RelationKind.CAST, model, other, text)
    text = f"{pair.names()} hold the same weights{IN_WORDS[tier]}"
    if tier == Verdict.SAME_VALUES:
        return _same(pair, text)
    return pair.relation(RelationKind.CAST, pair.b, pair.a, text, directed=False)


def _same_as_read(pair: PairComparison, tier: Verdict) -> Relation:
    """Say what is equal, and what could not be looked at: never that the models are the same."""
    unknown = [key for f in pair.findings for key in f.unread.unknown]
    common = sum(f.counts.common for f in pair.findings if f.counts is not None)
    were = "was" if len(unknown) == 1 else "were"
    text = f"what was read of {pair.names()} is {TIER_WORDS[tier]}; {len(unknown):,} of "
    text += f"{counted(common, 'key')} ({unread_kinds(unknown)}) {were} not"
    if pair.only_a or pair.only_b or any(f.missing_a or f.missing_b for f in pair.common):
        text += "; and one or both hold keys that the other lacks"
    return pair.relation(RelationKind.SAME_AS_READ, pair.b, pair.a, text, directed=False)


def _overlap(pair: PairComparison, equal: EqualKeys) -> Relation | None:
    counts = [f.counts for f in pair.findings if f.counts is not None]
    shared = sum(c.unchanged for c in counts)
    fewer = shared + min(sum(c.missing_a for c in counts), sum(c.missing_b for c in counts))
    if shared < _LEAST_OVERLAP * fewer:
        return None
    text = f"{pair.names()} are equal in the {counted(shared, 'key')} that both hold"
    text += IN_WORDS.get(equal.tier or Verdict.IDENTICAL, "") + odd_sentence(equal)
    text += _unused_that_differ(pair)
    text += held_alone(pair)
    return pair.relation(RelationKind.OVERLAP, pair.b, pair.a, text, directed=False)


def held_alone(pair: PairComparison) -> str:
    """Say what each of two models holds that the other lacks, in clauses; "" for nothing."""
    text = ""
    for model, side, gone in (
        (pair.a, Status.MISSING_B, Verdict.ABSENT_B),
        (pair.b, Status.MISSING_A, Verdict.ABSENT_A),
    ):
        absent = [f for f in pair.findings if f.verdict == gone]
        held = _what_is_missing(pair, side, absent)
        text += f"; {pair.name(model)} alone holds {held}" if held else ""
    return text


def _part_of(pair: PairComparison, part: int, whole: int, equal: EqualKeys) -> Relation:
    tier = equal.tier or Verdict.IDENTICAL
    beside = odd_sentence(equal) + _unused_that_differ(pair)
    side = Status.MISSING_B if part == pair.b else Status.MISSING_A
    absent = pair.only_a if part == pair.b else pair.only_b
    keys = missing_from(pair.differing_in([*absent, *pair.contained, *pair.further]), side)
    if keys and all(key.repeats for key in keys):
        again = joined(sorted({key.repeats for key in keys if key.repeats})[:3])
        text = f"{pair.names()} hold the same weights{IN_WORDS.get(tier, '')}; {pair.name(whole)} "
        text += f"holds {_what_is_missing(pair, side, absent)} beside, which repeats {again}"
        if not beside:
            return _same(pair, text)
        return pair.relation(RelationKind.ALL_BUT_FEW, part, whole, text + beside, directed=False)
    text = _containment_text(pair, part, whole, tier, side, absent) + beside
    return pair.relation(RelationKind.PART_OF, part, whole, text, directed=False)


def _containment_text(
    pair: PairComparison,
    part: int,
    whole: int,
    tier: Verdict,
    side: Status,
    absent: Sequence[Finding],
) -> str:
    small, large = pair.name(part), pair.name(whole)
    counts = [f.counts for f in pair.findings if f.counts is not None]
    shared = sum(c.unchanged for c in counts)
    lacking = sum(c.missing_b if part == pair.b else c.missing_a for c in counts)
    rounded = pair.cast_model(tier)
    cast = f" cast to {pair.half_dtypes(rounded)}" if rounded is not None else ""
    how = "" if cast else IN_WORDS.get(tier, "")
    shard = shard_name(pair.model(part).name)
    if shard is not None:
        return f"{small} is shard {shard.number} of {shard.total} of {large}{cast}{how}"
    by_component = not pair.contained and not pair.further and not cast
    has_core = pair.unet in pair.equal or shared > lacking
    if by_component and not has_core:
        return f"{small} is the {titles(pair.equal)} of {large}{how}"
    what = _what_is_missing(pair, side, absent)
    if rounded == whole:
        return f"{large} is {small}{cast}, plus {what}"
    if has_core:
        return f"{small} is {large}{cast}{' ' if not cast else ', '}without {what}{how}"
    text = (
        f"{small} is a part of {large}{cast}: {shared:,} of its {counted(shared + lacking, 'key')}"
    )
    return text + how


def _what_is_missing(pair: PairComparison, side: Status, absent: Sequence[Finding]) -> str:
    """Name the components that one side lacks, and the keys of those that both hold in part."""
    partial = [*pair.contained, *pair.altered, *pair.further]
    # "Other keys" names nothing: a marker among them may decide how the model must be run.
    unnamed = [f for f in absent if f.component == "other"]
    absent = [f for f in absent if f.component != "other"]
    keys = missing_from(pair.differing_in([*partial, *unnamed]), side)
    named = [f"its {titles(absent)}"] if absent else []
    if unnamed and not keys:
        named.append(f"its {titles(unnamed)}")
    if keys:
        named.append(name_differing(keys))
    elif any((f.missing_b if side == Status.MISSING_B else f.missing_a) for f in partial):
        count = sum(
            (f.missing_b if side == Status.MISSING_B else f.missing_a) or 0 for f in partial
        )
        named.append(counted(count, "key"))
    return joined(named)


def dropped_components(pair: PairComparison) -> tuple[int, int, list[Finding]] | None:
    """Return pruned model, full model and what is dropped; None when nothing is."""
    minor = [f for f in pair.findings if f.component in NEVER_USED]
    lost_b = [f for f in minor if f.verdict == Verdict.ABSENT_B]
    lost_a = [f for f in minor if f.verdict == Verdict.ABSENT_A]
    if lost_b and not lost_a:
        return pair.b, pair.a, lost_b
    return (pair.a, pair.b, lost_a) if lost_a and not lost_b else None


def _pruned(
    pair: PairComparison, tier: Verdict, small: int, full: int, dropped: Sequence[Finding]
) -> Relation:
    text = f"{pair.name(small)} is {pair.name(full)} without its {_minor_titles(pair, dropped)}"
    if pair.unet is not None and any(f.component == "ema" for f in dropped):
        alike = (full, small) in pair.kinship.ema_as_unet
        text += "; the EMA copy was the same" if alike else "; it keeps the raw UNet"
    if pair.cast_model(tier) == small:
        text += f", cast to {pair.half_dtypes(small)}"
    return pair.relation(RelationKind.PRUNED, small, full, text)


def _minor_titles(pair: PairComparison, findings: Sequence[Finding]) -> str:
    """Name what only training needs; the buffers of the noise schedule by what they are."""
    named = []
    for finding in findings:
        keys = pair.differing_in([finding])
        schedule = [key for key in keys if key.nature == Nature.SCHEDULE]
        if schedule:
            named.append("noise schedule")
        if not schedule or len(schedule) < len(keys):
            named.append(titles([finding]))
    return joined(named)


def _same_where_used(pair: PairComparison, tier: Verdict) -> Relation:
    how = IN_WORDS.get(tier, "")
    schedule = _schedule_keys(pair, pair.minor)
    if schedule:
        text = f"{pair.names()} hold the same weights{how}, but another noise schedule "
        text += f"({name_differing(schedule)}), which samplers use where it is there"
        return pair.relation(RelationKind.ALL_BUT_FEW, pair.b, pair.a, text, directed=False)
    if pair.minor:
        names = _minor_titles(pair, pair.minor)
        text = f"{pair.names()} differ only in the {names}, which {_are(pair.minor)} never used"
    else:
        keys = pair.differing_in(pair.equal)
        if keys and all(key.nature == Nature.COUNTER for key in keys):
            model = pair.cast_model(tier)
            text = f"{pair.names()} hold the same weights{how}"
            if model is not None:
                text = f"{pair.name(model)} is {pair.name(pair.opposite(model))} cast to "
                text += pair.half_dtypes(model)
            text += _unused_that_differ(pair)
            return pair.relation(RelationKind.SAME_WHERE_USED, pair.b, pair.a, text, directed=False)
        text = f"{pair.names()} differ only in keys that are never used"
    return pair.relation(RelationKind.SAME_WHERE_USED, pair.b, pair.a, text + how, directed=False)


def _unused_that_differ(pair: PairComparison) -> str:
    """Say what differs in components that are equal where they are used, in clauses; "" for none.

    Of counters of training steps and of what a family never uses; whole position ids, which are
    made anew where they are missing, are not worth a word here.
    """
    keys = pair.differing_in(f for f in pair.equal if f.verdict == Verdict.SAME_WHERE_USED)
    counters = [key for key in keys if key.nature == Nature.COUNTER]
    text = ""
    if any(key.status not in MISSING for key in counters):
        text += "; counters of training steps differ"
    for model, side in ((pair.a, Status.MISSING_B), (pair.b, Status.MISSING_A)):
        if alone := missing_from(counters, side):
            text += f"; {pair.name(model)} alone holds counters of training steps "
            text += f"({key_names(alone)})"
    if any(key.status not in MISSING and key.nature != Nature.COUNTER for key in keys):
        text += "; keys that are never used differ"
    return text


def _are(findings: Sequence[Finding]) -> str:
    return "are" if len(findings) > 1 else "is"


def _schedule_keys(pair: PairComparison, findings: Sequence[Finding]) -> list[DifferingKey]:
    """Return the buffers of the noise schedule that both models hold with other values."""
    return [
        key
        for key in pair.differing_in(findings)
        if key.nature == Nature.SCHEDULE and key.a is not None and key.b is not None
    ]
