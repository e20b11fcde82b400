"""Relations of models that differ in whole components: replaced ones, and trained ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from megasim.findings.containment import dropped_components
from megasim.findings.pair_comparison import (
    TEXT_ENCODERS,
    VAE_PARTS,
    PairComparison,
    Relation,
    titles,
)
from megasim.findings.verdicts import Finding
from megasim.wording.sentences import listed
from megasim.words import RelationKind, Verdict

_REPLACEABLE = (
    (RelationKind.VAE_REPLACED, VAE_PARTS),
    (RelationKind.TEXT_ENCODER_REPLACED, TEXT_ENCODERS),
)
_SHOWN_DONORS = 4


def replaced(pair: PairComparison) -> list[Relation]:
    """Return which of the components that people exchange are others, beside a kindred UNet."""
    if pair.unet is None or not (pair.unet.equal or pair.is_kin()):
        return []
    relations = []
    for kind, members in _REPLACEABLE:
        parts = [f for f in pair.altered if f.component in members]
        if not parts:
            continue
        donors = {m: _donors(pair, m, parts) for m in (pair.a, pair.b)}
        # Beside a changed UNet, a part that nobody else holds may have been trained with it.
        if pair.unet.equal or all(donors.values()):
            relations.append(_exchange(pair, kind, parts, donors))
    return relations


def _exchange(
    pair: PairComparison,
    kind: RelationKind,
    parts: Sequence[Finding],
    donors: Mapping[int, Sequence[str]],
) -> Relation:
    alone = {f.component for f in pair.altered} == {f.component for f in parts}
    text = f"{pair.names()} " + ("differ in the " if alone else "have another ")
    text += titles(parts) + (" alone" if alone else "")
    known = [m for m in (pair.b, pair.a) if donors[m]]
    for model in known:
        holders = listed(donors[model], _SHOWN_DONORS)
        text += f"; that of {pair.name(model)} is also that of {holders}"
    # The one that others hold was put in where the other stands nowhere else.
    model = known[0] if known else pair.b
    other = pair.opposite(model)
    directed = len(known) == 1
    return pair.relation(kind, model, other, text, directed=directed, donors=tuple(donors[model]))


def _donors(pair: PairComparison, model_id: int, parts: Sequence[Finding]) -> list[str]:
    """Return other models that hold the same parts, though their UNets are farther away.

    A model that is nearer than the other of the pair may have inherited them instead.
    """
    equal, kinship = pair.kinship.equal, pair.kinship
    apart = kinship.distance(pair.a, pair.b)
    classes = {
        equal.class_of(model_id, name) for f in parts for name in pair.own(model_id, f.component)
    }
    holders = [
        other
        for other in sorted(equal.components_of)
        if other not in (pair.a, pair.b) and classes <= kinship.component_set(other)
    ]
    if any(kinship.distance(model_id, other) <= apart for other in holders):
        return []
    return [kinship.reader.models[other].name for other in holders]


def tuned(pair: PairComparison) -> list[Relation]:
    """Return what was trained between two kindred models; none where they are no kin."""
    if not pair.altered or (pair.unet is not None and pair.unet not in pair.altered):
        return []
    if not pair.is_kin():
        return _other_beside_the_core(pair)
    texts = [f for f in pair.common if f.component in TEXT_ENCODERS]
    others = [f for f in pair.altered if f is not pair.unet]
    trained = pair.unet if pair.unet is not None and pair.unet.keys_changed != 0 else None
    if trained is not None and texts and all(f in pair.equal for f in texts):
        kind = RelationKind.UNET_FINE_TUNED
        what = f"the {titles([trained])} was fine-tuned on an unchanged text encoder"
        what += f"; {titles(others)} changed" if others else _may_be_ema(pair)
    elif len(pair.altered) < len(pair.common) or _lack_parts(pair):
        kind = RelationKind.FINE_TUNED
        what = _what_changed(pair)
        what += f", {titles(pair.equal)} unchanged" if pair.equal else ""
        what += f", {titles(pair.unproven)} at a published 0" if pair.unproven else ""
        if len(pair.altered) == len(pair.common):
            what += "; that is all that both hold"
    elif any(f.verdict != Verdict.CHANGED for f in pair.altered):
        kind = RelationKind.FINE_TUNED
        what = _what_changed(pair)
    else:
        kind = RelationKind.EVERYTHING_CHANGED
        what = f"everything changed ({titles(pair.altered)})"
    text = f"{pair.names()}: {what}"
    cosine = pair.cosine()
    if cosine is not None:
        text += f" (cosine of the weights {_cosine_text(cosine)})"
    return [pair.relation(kind, pair.b, pair.a, text, directed=False, what=what)]


def _what_changed(pair: PairComparison) -> str:
    """Say which components changed, and which of them in part."""
    partly = [f for f in pair.altered if f.verdict == Verdict.PARTLY_CHANGED]
    whole = [f for f in pair.altered if f.verdict != Verdict.PARTLY_CHANGED]
    named = [f"{titles(whole)} changed"] if whole else []
    named += [f"{titles(partly)} partly changed"] if partly else []
    return ", ".join(named)


def _other_beside_the_core(pair: PairComparison) -> list[Relation]:
    """Return the relation of models whose largest component is equal, and others are unlike."""
    if pair.unet is not None or pair.core() not in pair.equal or not pair.is_telling(pair.equal):
        return []
    what = f"{titles(pair.altered)} unlike, {titles(pair.equal)} unchanged"
    text = f"{pair.names()}: {what}"
    kind = RelationKind.FINE_TUNED
    return [pair.relation(kind, pair.b, pair.a, text, directed=False, what=what)]


def _may_be_ema(pair: PairComparison) -> str:
    """Say so when one has no EMA copy, and the other's is not here to be compared."""
    dropped = dropped_components(pair)
    if dropped is None or pair.kinship.reader.facts:
        return ""
    if not any(f.component == "ema" for f in dropped[2]):
        return ""
    return (
        f", or the UNet of {pair.name(dropped[0])} is the EMA copy of "
        f"{pair.name(dropped[1])}: distances cannot tell"
    )


def _lack_parts(pair: PairComparison) -> bool:
    absent = any(f.verdict == Verdict.ABSENT for f in pair.findings)
    return absent or bool(pair.only_a or pair.only_b)


def _cosine_text(cosine: float) -> str:
    """Return enough digits to tell the cosine from 1, six at most.

    >>> _cosine_text(0.9871), _cosine_text(0.999934), _cosine_text(1.0)
    ('0.987', '0.99993', '1')
    """
    digits = 6 if cosine >= 1 else max(3, math.ceil(-math.log10(1 - cosine)))
    return f"{min(cosine, 1.0):.{min(digits, 6)}f}".rstrip("0").rstrip(".")
