"""Relations of a quantised model to the one that it was made of."""

from __future__ import annotations

from megasim.findings.containment import held_alone
from megasim.findings.pair_comparison import LEAST_COSINE, PairComparison, Relation
from megasim.findings.roundings import PairRounding
from megasim.wording.sentences import counted, four_digits, joined
from megasim.words import RelationKind


def quantised(pair: PairComparison) -> Relation | None:
    """Return the relation when rounding to the codes of one explains all that differs."""
    rounding = pair.rounding
    if rounding is None or not rounding.explains_all or pair.other_networks or pair.not_read:
        return None
    model, other, schemes = _ends(pair, rounding)
    text = f"{pair.name(model)} is {pair.name(other)} quantised to {schemes}: every value of "
    text += f"{counted(rounding.rounded_keys, 'key')} lies within half a step of its block"
    text += held_alone(pair)
    return pair.relation(RelationKind.QUANTISED, model, other, text)


def quantised_and_changed(pair: PairComparison) -> Relation | None:
    """Return the relation of a quantised model to kin that it is not made of by rounding alone."""
    rounding = pair.rounding
    if rounding is None or not rounding.is_one_way or not rounding.measured or not pair.altered:
        return None
    cosine = pair.cosine()
    if cosine is None or cosine < LEAST_COSINE:
        return None
    model, other, schemes = _ends(pair, rounding)
    text = f"{pair.name(model)} is quantised to {schemes}, and changed from {pair.name(other)}"
    text += f" beyond rounding: {_share(rounding)}"
    if rounding.changed_keys:
        text += f"; {counted(rounding.changed_keys, 'other key')} changed"
    if rounding.unproven_keys:
        text += f"; of {counted(rounding.unproven_keys, 'key')} it is not known"
    text += held_alone(pair)
    return pair.relation(RelationKind.QUANTISED_AND_CHANGED, model, other, text, directed=False)


def _share(rounding: PairRounding) -> str:
    beyond = rounding.measured - rounding.within
    if not beyond:
        return "all of the quantised values lie within half a step"
    share = (
        f"{100 * beyond / rounding.measured:.2g} % of the values lie more than half a step off, "
    )
    return share + f"the farthest {four_digits(rounding.excess)} steps beyond"


def _ends(pair: PairComparison, rounding: PairRounding) -> tuple[int, int, str]:
    """Return the quantised model, the other one, and the schemes in words."""
    low, high = sorted((pair.a, pair.b))
    schemes = rounding.schemes_a or rounding.schemes_b
    model = low if rounding.schemes_a else high
    return model, pair.opposite(model), joined(schemes)
