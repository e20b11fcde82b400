"""What is said of a component beside its verdict: how many keys, which, and under which names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from megasim.compare.renames import substitution
from megasim.errors import printable
from megasim.findings.identity import FP16_RELATIVE_ERROR, MOSTLY, Counts
from megasim.findings.key_lists import brief_items
from megasim.findings.unread_keys import NOTHING_UNREAD, UnreadPair, unread_kinds, unread_text
from megasim.fingerprint.sample_places import unseen_share
from megasim.wording.sentences import counted, listed
from megasim.words import TIERS, Nature, Status, Verdict

# More substitutions than this are another way of naming, not a rename.
_MOST_RENAMES = 2
_LONGEST_PREFIX = 80
# A list longer than this says less than the count before it; what stayed as it was in a component
# that changed is worth naming only when it is less than that.
_MOST_ITEMS = 8
_MOST_UNCHANGED = 2
_MOST_ROLES = 4
TIER_WORDS = {
    Verdict.IDENTICAL: "identical",
    Verdict.SAME_VALUES: "same values",
    Verdict.SAME_AT_FP16: "same at fp16",
    Verdict.SAME_AT_BF16: "same at bf16",
}


@dataclass(frozen=True, slots=True)
class SampledKeys:
    """Keys that are equal in all elements that were read: these, all, and the blocks read."""

    sampled: int
    numel: int
    blocks: int

    def sentence(self, keys: int) -> str:
        """Say how much that is, and what it leaves open.

        >>> SampledKeys(3_125, 100_000, 300).sentence(2)
        '2 keys, 3.1 % of their elements; up to 1 % of the rest may differ unseen, at 95 %'
        """
        share = f"{100 * self.sampled / max(self.numel, 1):.2g} %"
        unseen = f"{100 * unseen_share(self.blocks):.2g} %"
        return (
            f"{counted(keys, 'key')}, {share} of their elements; up to {unseen} of the rest may "
            "differ unseen, at 95 %"
        )


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One key of a component of a pair.

    Attributes:
        key, key_a, key_b: the canonical key, and the keys of the two files; None where it lacks.
        status: as in `layer_distances`.
        l2: None where there is no distance.
        shape_a, shape_b: only where they differ, e.g. "320x4x3x3".
        nature: None where it is not known.
    """

    component: str
    key: str
    key_a: str | None
    key_b: str | None
    block: str | None
    role: str | None
    status: Status
    l2: float | None
    shape_a: str | None
    shape_b: str | None
    nature: Nature | None = None

    def swapped(self) -> LayerRow:
        """The same key, the models named the other way round."""
        return LayerRow(
            component=self.component,
            key=self.key,
            key_a=self.key_b,
            key_b=self.key_a,
            block=self.block,
            role=self.role,
            status=self.status.other_side,
            l2=self.l2,
            shape_a=self.shape_b,
            shape_b=self.shape_a,
            nature=self.nature,
        )


@dataclass(frozen=True, slots=True)
class Detail:
    """What is said of a component beside its verdict.

    Attributes:
        keys: how many keys the verdict covers where it is one for all; None where `rest` counts.
        rest: what follows the count, with the punctuation that joins the two.
        renames: under which other names the keys stand; "" where they do not.
    """

    keys: int | None = None
    rest: str = ""
    renames: str = ""

    def without_renames(self) -> Detail:
        """The same, for a sentence that says at another place what was renamed."""
        return Detail(self.keys, self.rest)

    @property
    def text(self) -> str:
        """All of it, e.g. "14 of 294 keys: resblocks.23, text_projection"."""
        head = ("" if self.keys is None else counted(self.keys, "key")) + self.rest
        return ", ".join(filter(None, (head, self.renames)))


@dataclass(frozen=True)
class ComponentEvidence:
    """What the detail of a component is made of; a is the model that the user named first.

    Attributes:
        layers: its keys; empty where they are not looked at, and the counts must do.
        unused: key → why the family never uses it, of the keys that differ.
        dtypes_a, dtypes_b: the float dtypes of the component in either model; empty if not known.
        layout_a, layout_b: how either file names its keys.
        unread: its keys whose values could not be read.
        sampled: what was read of those that samples do not tell apart.
    """

    model_a: str
    model_b: str
    counts: Counts
    layers: Sequence[LayerRow] = ()
    unused: Mapping[str, str] = field(default_factory=dict)
    dtypes_a: tuple[str, ...] = ()
    dtypes_b: tuple[str, ...] = ()
    layout_a: str | None = None
    layout_b: str | None = None
    rounding: bool = False
    unread: UnreadPair = NOTHING_UNREAD
    sampled: SampledKeys | None = None

    def name_roles(self, *statuses: Status) -> str:
        """Count the keys of some statuses by role, e.g. "59 of 218 norm, 2 of 132 conv"."""
        among = Counter(row.role or "other" for row in self.layers)
        counts = Counter(row.role or "other" for row in self.layers if row.status in statuses)
        if not counts:
            return ""
        shown = [f"{n} of {among[role]} {role}" for role, n in counts.most_common(_MOST_ROLES)]
        rest = counts.total() - sum(n for _, n in counts.most_common(_MOST_ROLES))
        return printable(", ".join([*shown, *([f"{rest} more"] if rest else [])]), 300)

    def name_keys(self, *statuses: Status, most: int = _MOST_ITEMS) -> str:
        """Name the keys of some statuses; "" when that takes too many items."""
        keys = [row.key for row in self.layers if row.status in statuses]
        among = [row.key for row in self.layers]
        if not keys or len(keys) == len(among):
            return ""
        blocks = {row.key: row.block for row in self.layers}
        sizes = {row.key: row.l2 for row in self.layers if row.l2 is not None}
        items = brief_items(keys, among, blocks=blocks, sizes=sizes)
        return printable(", ".join(items), 300) if len(items) <= most else ""


def component_detail(verdict: Verdict, evidence: ComponentEvidence) -> Detail:
    """Return the detail of a finding."""
    counts = evidence.counts
    if verdict == Verdict.ABSENT:
        return Detail(rest="neither model has it")
    if verdict.is_absent:
        # under a name that says nothing the keys do
        names = [row.key for row in evidence.layers if row.component == "other"]
        unread = (*evidence.unread.only_a, *evidence.unread.only_b)
        rest = f": {listed(names, _MOST_ITEMS)}" if names else ""
        rest += f", not read: {unread_kinds(unread)}" if unread else ""
        return Detail(counts.missing_a + counts.missing_b, rest)
    if verdict in (Verdict.OTHER_ARCHITECTURE, Verdict.DISJOINT):
        return Detail(rest=_architecture(evidence))
    if verdict in (Verdict.NOT_READ, Verdict.SAME_IN_SAMPLE):
        pieces = [_sampled(evidence), _by_header(evidence)]
        pieces += unread_text(evidence.unread, counts.common)
        pieces += [_non_finite(evidence), _shapes(evidence)]
        pieces += [_missing(verdict, evidence, s) for s in (Status.MISSING_B, Status.MISSING_A)]
        return Detail(rest="; ".join(filter(None, pieces)))
    one_for_all = verdict.is_tier or verdict in (Verdict.SAME_AS_READ, Verdict.CONTAINED)
    keys = counts.compared if one_for_all else None
    pieces = [_tiers(evidence) if one_for_all else _changed(evidence)]
    if not verdict.is_tier:
        if counts.same_in_sample:
            pieces.append(f"the same in all sampled elements: {_sampled(evidence)}")
        pieces += [_by_header(evidence)]
        pieces += unread_text(evidence.unread, counts.common)
        pieces += [_non_finite(evidence), _shapes(evidence)]
        pieces += [_missing(verdict, evidence, s) for s in (Status.MISSING_B, Status.MISSING_A)]
    if verdict == Verdict.SAME_WHERE_USED and evidence.unused:
        reasons = Counter(evidence.unused.values()).most_common()
        pieces.append("never used: " + " · ".join(reason for reason, _ in reasons))
    if evidence.rounding:
        pieces.append(_rounding(evidence))
    # what follows the count begins with its own comma; the rest is set off from it
    rest = "; ".join(piece for piece in pieces if piece)
    if one_for_all and not pieces[0] and rest:
        rest = f"; {rest}"
    return Detail(keys, rest, _renames(evidence))


def _sampled(evidence: ComponentEvidence) -> str:
    """Say how much was read of the keys that samples do not tell apart."""
    if evidence.sampled is None:
        return ""
    return evidence.sampled.sentence(evidence.counts.same_in_sample)


def _by_header(evidence: ComponentEvidence) -> str:
    """Say of how many keys that both models hold only a header was read."""
    keys = evidence.counts.unread - len(evidence.unread.unknown)
    if keys <= 0:
        return ""
    return f"{counted(keys, 'key')} of the same name and shape, of which a header alone was read"


def _named(text: str, keys: str) -> str:
    return f"{text}: {keys}" if keys else text


def _architecture(evidence: ComponentEvidence) -> str:
    counts = evidence.counts
    keys_a, keys_b = counts.common + counts.missing_b, counts.common + counts.missing_a
    if not counts.common:
        return f"{counted(keys_a, 'key')} against {keys_b:,}, none of them in common"
    pieces = []
    if counts.shape_mismatch:
        pieces.append(
            f"{counts.shape_mismatch:,} of {counted(counts.common, 'key')} have another shape"
        )
    if counts.missing_a or counts.missing_b:
        pieces.append(
            f"{counted(keys_a, 'key')} against {keys_b:,}, {counts.common:,} of them in common"
        )
    return "; ".join(pieces)


def _tiers(evidence: ComponentEvidence) -> str:
    counts, before, after = evidence.counts, evidence.dtypes_a, evidence.dtypes_b
    verdict = counts.weakest_tier
    if verdict == Verdict.IDENTICAL:
        return ""
    text = ""
    if before and after and before != after:
        text = f", {' and '.join(before)} → {' and '.join(after)}"
    elif before:
        text = f", {' and '.join(before)} in both"
    stronger = [
        (n, tier) for tier in map(Verdict, TIERS) if tier != verdict and (n := _count(counts, tier))
    ]
    if sum(n for n, _ in stronger) > (1 - MOSTLY) * counts.compared:
        text += ", of them " + ", ".join(f"{n:,} {TIER_WORDS[tier]}" for n, tier in stronger)
    return text


def _count(counts: Counts, tier: Verdict) -> int:
    return int(getattr(counts, tier))


def _changed(evidence: ComponentEvidence) -> str:
    counts = evidence.counts
    if not counts.changed:
        if counts.unchanged == counts.common:
            return f"{counted(counts.common, 'key')} equal"
        return (
            f"{counts.unchanged:,} of {counted(counts.common, 'key')} equal"
            if counts.unchanged
            else ""
        )
    text = f"{counts.changed:,} of {counted(counts.compared, 'key')}"
    if not counts.unchanged:
        return text
    mostly = counts.changed >= MOSTLY * counts.compared
    if not mostly and (named := evidence.name_keys(Status.CHANGED)):
        return f"{text}: {named}"
    # Too scattered to name them: what is fewer, by role.
    if counts.changed < counts.unchanged:
        return _named(text, evidence.name_roles(Status.CHANGED))
    kept = evidence.name_keys(*TIERS, most=_MOST_UNCHANGED)
    if not mostly:
        kept = kept or evidence.name_roles(*TIERS)
    return f"{text}; unchanged: {kept}" if kept else text


def _non_finite(evidence: ComponentEvidence) -> str:
    count = evidence.counts.non_finite
    if not count:
        return ""
    return _named(f"{counted(count, 'key')} with NaN or inf", evidence.name_keys(Status.NON_FINITE))


def _shapes(evidence: ComponentEvidence) -> str:
    count = evidence.counts.shape_mismatch
    if not count:
        return ""
    rows = [row for row in evidence.layers if row.status == Status.SHAPE_MISMATCH]
    text = _named(
        f"{counted(count, 'key')} of another shape",
        evidence.name_keys(Status.SHAPE_MISMATCH),
    )
    shapes = {(row.shape_a, row.shape_b) for row in rows}
    if len(shapes) == 1 and (None, None) not in shapes:
        ((before, after),) = shapes
        text += f" ({before or 'scalar'} → {after or 'scalar'})"
    return text


def _missing(verdict: Verdict, evidence: ComponentEvidence, status: Status) -> str:
    count = getattr(evidence.counts, status)
    if not count:
        return ""
    holder = evidence.model_a if status == Status.MISSING_B else evidence.model_b
    text = _named(
        f"{counted(count, 'key')} only in {printable(holder, 60)}",
        evidence.name_keys(status),
    )
    missing = [row.key for row in evidence.layers if row.status == status]
    unused = missing and all(key in evidence.unused for key in missing)
    return text + (" (never used)" if unused and verdict != Verdict.SAME_WHERE_USED else "")


def _rounding(evidence: ComponentEvidence) -> str:
    largest = max(row.l2 for row in evidence.layers if row.l2 is not None)
    return (
        "nonzero only at the level of a half-precision rounding, which distances cannot prove: "
        f"no key differs by more than {largest:.2g}; rounding to fp16 leaves "
        f"{FP16_RELATIVE_ERROR:.1e} of a norm, and a trained layer of n outputs has a norm near √n"
    )


def _renames(evidence: ComponentEvidence) -> str:
    found = Counter(
        substitution(row.key_a, row.key_b)
        for row in evidence.layers
        if row.key_a and row.key_b and row.key_a != row.key_b
    )
    if not found:
        return ""
    if len(found) > _MOST_RENAMES:
        layouts = (evidence.layout_a, evidence.layout_b)
        if None not in layouts and layouts[0] != layouts[1]:
            return f"named otherwise: {layouts[0]} → {layouts[1]}"
        return f"{counted(found.total(), 'key')} named otherwise"
    return "renamed: " + ", ".join(
        f"{shown_prefix(before)} → {shown_prefix(after)}" for before, after in sorted(found)
    )


def shown_prefix(text: str) -> str:
    """Return a prefix safe to print; an empty one is said to be none."""
    return printable(text, _LONGEST_PREFIX) if text else "(none)"
