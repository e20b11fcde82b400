"""What became of a pair of models, in sentences as a person would write them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from megasim.anatomy.classification import component_title
from megasim.errors import printable
from megasim.findings.details import TIER_WORDS, Detail, shown_prefix
from megasim.findings.verdicts import NEVER_USED, Finding
from megasim.wording.sentences import counted, four_digits, joined
from megasim.words import Source, Verdict, weakest

VERDICT_WORDS = {
    **TIER_WORDS,
    Verdict.SAME_WHERE_USED: "same where used",
    Verdict.PARTLY_CHANGED: "partly changed",
    Verdict.CHANGED: "changed",
    Verdict.SAME_AS_READ: "the same as far as it was read",
    Verdict.SAME_IN_SAMPLE: "the same in all sampled elements",
    Verdict.CONTAINED: "equal where both have keys",
    Verdict.DISJOINT: "no key in common",
    Verdict.OTHER_ARCHITECTURE: "another architecture",
    Verdict.NOT_READ: "not read",
    Verdict.ABSENT: "in neither model",
}
_VAE_PARTS = {
    "vae_encoder": "encoder",
    "vae_decoder": "decoder",
    "vae_quant": "quant convolutions",
}
_MOST_NAMED = 12
_MOST_RENAMES = 3


def pair_sentences(findings: Sequence[Finding]) -> list[str]:
    """Return a sentence for each component of one pair; the parts of a VAE share one.

    Args:
        findings: of one pair, in the order to tell them.
    """
    common = [f for f in findings if not f.verdict.is_absent]
    if findings and not common:
        return [_nothing_in_common(findings)]
    sentences = []
    vae = [finding for finding in findings if finding.component in _VAE_PARTS]
    for finding in findings:
        if finding.component == "other" and len(findings) == 1:
            sentences.append(f"all keys: {_state(finding)}")
        elif finding not in vae:
            sentences.append(finding_sentence(finding))
        elif finding is vae[0]:
            sentences.append(_vae_sentence(vae))
    return sentences


def _nothing_in_common(findings: Sequence[Finding]) -> str:
    named = (
        component_list([f.component for f in findings if f.verdict == verdict])
        for verdict in (Verdict.ABSENT_B, Verdict.ABSENT_A)
    )
    sides = " against ".join(printable(text, 300) or "nothing" for text in named)
    return f"no component in common ({sides})"


def component_list(components: Sequence[str]) -> str:
    """Name some components; the parts of a VAE are one where they are all there.

    Of more than twelve, as only a generic network has, the first six and how many more.

    >>> component_list(["unet", "vae_encoder", "vae_decoder", "vae_quant"])
    'UNet and VAE'
    >>> component_list([f"layer{i}" for i in range(60)])
    'layer0, layer1, layer2, layer3, layer4, layer5 and 54 more'
    """
    named = list(components)
    if set(named) >= set(_VAE_PARTS):
        place = named.index("vae_encoder")
        named = [c for c in named[:place] if c not in _VAE_PARTS] + [
            "vae",
            *(c for c in named[place:] if c not in _VAE_PARTS),
        ]
    titles = [component_title(c) for c in named]
    if len(titles) > _MOST_NAMED:
        titles[6:] = [f"{len(titles) - 6} more"]
    return joined(titles)


def finding_sentence(finding: Finding) -> str:
    """Return e.g. "text encoder: identical (197 keys)"."""
    return f"{component_title(finding.component)}: {_state(finding)}"


def verdict_words(finding: Finding) -> str:
    """Return the verdict in words, e.g. "only in nai7g"."""
    if finding.verdict == Verdict.ABSENT_A:
        return f"only in {printable(finding.model_b, 80)}"
    if finding.verdict == Verdict.ABSENT_B:
        dropped = finding.component in NEVER_USED
        return "dropped" if dropped else f"only in {printable(finding.model_a, 80)}"
    counts = finding.counts
    if counts is not None and finding.verdict == Verdict.SAME_AS_READ:
        return f"what was read is {TIER_WORDS[counts.weakest_tier]}"
    if counts is not None and finding.verdict == Verdict.CONTAINED:
        return f"{TIER_WORDS[counts.weakest_tier]} where both have keys"
    return VERDICT_WORDS[finding.verdict]


def rename_sentence(before: str, after: str, keys: int, support: int) -> str:
    """Say what was renamed, and what speaks for it.

    >>> rename_sentence("", "bert.", 12, 11)
    'renamed: (none) → bert. in 12 keys, as 11 equal tensors show'
    >>> rename_sentence("net.", "", 1, 0)
    'renamed: net. → (none) in 1 key, as names and shapes alone suggest'
    """
    shown = f"{support:,} equal tensors show" if support > 1 else "1 equal tensor shows"
    why = shown if support else "names and shapes alone suggest"
    count = counted(keys, "key")
    return f"renamed: {shown_prefix(before)} → {shown_prefix(after)} in {count}, as {why}"


def rename_sentences(renames: Sequence[tuple[str, str, int, int]]) -> list[str]:
    """Say what was renamed: a few substitutions one by one, many of them in one sentence.

    Args:
        renames: (prefix before, prefix after, keys, of them with equal content) of each.

    >>> rename_sentences([(f"a_{i}.", f"a.{i}.", 2, 1) for i in range(8)])
    ['renamed: 16 keys in 8 ways, as 8 equal tensors show: a_0. → a.0., a_1. → a.1. and 6 more']
    """
    if len(renames) <= _MOST_RENAMES:
        return [rename_sentence(*rename) for rename in renames]
    keys, support = (sum(counts) for counts in list(zip(*renames, strict=True))[2:])
    show = "equal tensor shows" if support == 1 else "equal tensors show"
    why = f"{support:,} {show}" if support else "names and shapes alone suggest"
    shown = ", ".join(f"{shown_prefix(a)} → {shown_prefix(b)}" for a, b, *_ in renames[:2])
    return [
        f"renamed: {counted(keys, 'key')} in {len(renames):,} ways, as {why}: {shown} "
        f"and {len(renames) - 2:,} more"
    ]


def _state(finding: Finding, described: Detail | None = None) -> str:
    """Return verdict, distance and detail; another detail than its own where one is given."""
    text = verdict_words(finding)
    if finding.verdict in (Verdict.CHANGED, Verdict.PARTLY_CHANGED) and finding.l2:
        text += f", L2 {_distance([finding])}{_measured(finding)}"
    if finding.verdict == Verdict.ABSENT:
        return text
    said = (finding.described if described is None else described).text
    return f"{text} ({said})" if said else text


def _measured(finding: Finding) -> str:
    """Say how many keys a distance is over, where more than those changed."""
    measured, changed = finding.keys_measured, finding.keys_changed
    if measured is None or changed is None or measured >= changed:
        return ""
    return f" over {counted(measured, 'key')}"


def _distance(parts: Sequence[Finding]) -> str:
    """Return the L2 distance over some components; an estimate with its standard error."""
    l2 = math.hypot(*(part.l2 for part in parts if part.l2 is not None))
    if all(part.source != Source.ESTIMATED for part in parts):
        return four_digits(l2)
    error = math.hypot(*(part.l2 * (part.l2_error or 0) for part in parts if part.l2)) / l2
    return f"≈ {four_digits(l2)}" + (f" ± {error:.2g}" if error else "")


def _vae_sentence(parts: Sequence[Finding]) -> str:
    verdicts = {part.verdict for part in parts}
    by_key = all(part.keys_compared is not None for part in parts)
    if len(verdicts) == 1 and by_key and not any(part.rounding for part in parts):
        return f"VAE: {_whole_state(parts)}"
    # All parts are renamed alike; once is enough to say it.
    said = [
        f"{_VAE_PARTS[part.component]} {_state(part, part.described.without_renames())}"
        for part in parts
    ]
    said += filter(None, dict.fromkeys(part.described.renames for part in parts))
    states = "; ".join(said)
    changed = [p for p in parts if p.verdict in (Verdict.CHANGED, Verdict.PARTLY_CHANGED)]
    alone = [part for part in changed if part.component != "vae_quant"]
    if len(alone) == 1 and all(part.equal for part in parts if part not in changed):
        side = " side" if len(changed) > 1 else ""
        return f"VAE: only the {_VAE_PARTS[alone[0].component]}{side} changed: {states}"
    return f"VAE: {states}"


def _whole_state(parts: Sequence[Finding]) -> str:
    """Say what holds of all parts alike."""
    first = parts[0]
    if first.verdict in (Verdict.ABSENT_A, Verdict.ABSENT_B):
        keys = sum((p.missing_a or 0) + (p.missing_b or 0) for p in parts)
        return f"{verdict_words(first)} ({keys:,} keys)"
    rests = {part.described.rest for part in parts}
    if first.verdict.is_tier and len(rests) == 1:
        keys = sum(part.keys_compared or 0 for part in parts)
        # Where one part is named otherwise throughout, the renames of the others say less.
        renames = min((r for part in parts if (r := part.described.renames)), default="")
        return f"{VERDICT_WORDS[first.verdict]} ({Detail(keys, rests.pop(), renames).text})"
    text = VERDICT_WORDS[first.verdict]
    if not first.equal and any(part.l2 for part in parts):
        text += f", L2 {_distance(parts)}"
    details = "; ".join(f"{_VAE_PARTS[part.component]} {part.detail}" for part in parts)
    return f"{text} ({details})"


def model_verdict(findings: Sequence[Finding]) -> Verdict:
    """Return the verdict of two whole models, from the components that are used.

    Components that only training needs do not count. Models that share components and hold
    others alone are equal where both have keys, or partly changed; of models without a component
    in common no shape can disagree.

    Args:
        findings: of one pair.
    """
    used = [f for f in findings if f.component not in NEVER_USED and f.verdict != Verdict.ABSENT]
    common = [f for f in used if not f.verdict.is_absent]
    verdicts = {finding.verdict for finding in common}
    if verdicts <= {Verdict.DISJOINT, Verdict.OTHER_ARCHITECTURE}:
        return weakest([*verdicts, Verdict.DISJOINT])
    if len(verdicts) == 1 and len(common) == len(used):
        return verdicts.pop()
    partial = {
        *(Verdict.SAME_AS_READ, Verdict.SAME_IN_SAMPLE, Verdict.CONTAINED, Verdict.NOT_READ),
    }
    if not all(verdict.is_equal or verdict in partial for verdict in verdicts):
        return Verdict.PARTLY_CHANGED
    if Verdict.SAME_IN_SAMPLE in verdicts:
        return Verdict.SAME_IN_SAMPLE
    if verdicts & {Verdict.SAME_AS_READ, Verdict.NOT_READ}:
        return Verdict.SAME_AS_READ
    if Verdict.CONTAINED in verdicts or len(common) < len(used):
        return Verdict.CONTAINED
    return weakest(verdicts)
