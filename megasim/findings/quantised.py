"""Relations of a quantised model to the one that it was made of."""

from __future__ import annotations

from typing import Final

from megasim.errors import printable
from megasim.findings.containment import held_alone
from megasim.findings.pair_comparison import LEAST_COSINE, PairComparison, Relation
from megasim.store.roundings import PairRounding
from megasim.wording.sentences import counted, four_digits, joined
from megasim.words import RelationKind

# Matrices that are so many times as large as others, in a direction of at least this cosine, are
# these by another scale: training does neither. So large a part of the changed ones must be.
_OFF: Final = 3.0
_ONE_DIRECTION: Final = 0.95
_MOST: Final = 0.8
# Codes with the scales of another model are off by a factor in each matrix, some larger and some
# smaller: by so much at least in the most of them, where training or rounding do not turn so little
# and stretch so much. Rounding to 4 bits turns a matrix to a cosine of 0.99, and stretches it by
# less than 1 %.
_STRETCHED: Final = 0.01
_NOT_TURNED: Final = 0.99


def quantised(pair: PairComparison) -> Relation | None:
    """Return the relation when rounding to the codes of one explains all that differs."""
    rounding = pair.rounding
    if rounding is None or not rounding.explains_all or pair.other_networks or pair.not_read:
        return None
    model, other, schemes = _ends(pair, rounding)
    text = f"{pair.name(model)} is {pair.name(other)} quantised to {schemes}: {_proof(rounding)}"
    text += held_alone(pair)
    return pair.relation(RelationKind.QUANTISED, model, other, text)


def _proof(rounding: PairRounding) -> str:
    """Say what proves that one model is made of the other by quantising alone."""
    told = []
    moved = rounding.compensated_keys + rounding.scaled_keys + rounding.silent_keys
    if rounding.rounded_keys > moved:
        keys = counted(rounding.rounded_keys - moved, "key")
        told.append(f"every value of {keys} lies within half a step of its block")
    if rounding.scaled_keys:
        text = f"every value of {counted(rounding.scaled_keys, 'key')} does so once each input, or "
        if not told:
            text = text.replace("does so", "lies within half a step of its block")
        text += "output, has a factor, as AWQ scales them"
        if rounding.folded_keys:
            text += f", and {counted(rounding.folded_keys, 'plain key')} "
            text += f"{'was' if rounding.folded_keys == 1 else 'were'} divided by these factors"
        told.append(text)
    if rounding.compensated_keys:
        beyond = rounding.measured - rounding.within
        text = (
            f"of {counted(rounding.compensated_keys, 'key')} the {rounding.compensated:,} values "
        )
        text += (
            "that were rounded first do so, of each a column"
            if told
            else (
                "that were rounded first, of each a column, lie within half a step of their block"
            )
        )
        text += ", and the others were moved to make up for it, as GPTQ does: "
        text += f"{four_digits(100 * beyond / rounding.measured)} % of all lie farther, "
        text += f"by up to {four_digits(rounding.excess)} steps"
        if rounding.silent_keys:
            text += f"; {counted(rounding.silent_keys, 'key')} of few rows "
            text += "fits this" if rounding.silent_keys == 1 else "fit this"
            text += ", and would prove nothing alone"
        told.append(text)
    return "; ".join(told)


def quantised_alike(pair: PairComparison) -> Relation | None:
    """Return the relation when both are proved to be one third model, rounded to codes."""
    kinship = pair.kinship
    if not pair.altered or not {pair.a, pair.b} <= kinship.coded:
        return None
    originals = kinship.quantised_from(pair.a) & kinship.quantised_from(pair.b)
    if not originals:
        return None
    names = sorted(pair.kinship.reader.models[one].name for one in originals)
    text = f"{pair.name(pair.a)} and {pair.name(pair.b)} are both {printable(names[0], 80)} "
    text += "quantised: that is all that tells them apart"
    return pair.relation(RelationKind.QUANTISED, pair.b, pair.a, text, directed=False)


def scales_lost(pair: PairComparison) -> Relation | None:
    """Return the relation when the matrices of one are those of the other times large factors.

    So codes look whose scales were lost, or were not applied, on the way.
    """
    if not any(max(of_a, of_b) > _OFF**2 * min(of_a, of_b) for of_a, of_b in _norms(pair)):
        return None
    low, high = sorted((pair.a, pair.b))
    rows = pair.kinship.reader.store.rows("changed_angles", model_a=low, model_b=high)
    factors = [b / a for _, a, b, cosine in rows if cosine >= _ONE_DIRECTION]
    off = [f for f in factors if not 1 / _OFF <= f <= _OFF]
    if len(off) < 2 or len(off) < _MOST * len(rows) or len({f > 1 for f in off}) > 1:
        return None
    model = high if off[0] > 1 else low
    sizes = sorted(max(f, 1 / f) for f in off)
    text = f"{pair.name(model)} holds weights of {pair.name(pair.opposite(model))} without their "
    text += f"scales: {counted(len(off), 'key')} of {len(rows):,} that changed are "
    text += f"{four_digits(sizes[0])} to {four_digits(sizes[-1])} times as large, in the same "
    text += f"direction{held_alone(pair)}"
    return pair.relation(RelationKind.SCALES_LOST, model, pair.opposite(model), text)


def scales_of_another(pair: PairComparison) -> Relation | None:
    """Return the relation when the matrices of a quantised model are those of the other, each times
    a factor of its own.

    So codes look that were put together with the scales of another model. Seen where a matrix has
    one scale, or scales that are off by about one factor.
    """
    coded = pair.kinship.coded
    if not coded & {pair.a, pair.b} or not pair.altered:
        return None
    low, high = sorted((pair.a, pair.b))
    rows = pair.kinship.reader.store.rows("changed_angles", model_a=low, model_b=high)
    factors = [b / a for _, a, b, cosine in rows if cosine >= _NOT_TURNED]
    off = [f for f in factors if abs(f - 1) > _STRETCHED]
    if len(off) < 4 or len(off) < _MOST * len(rows) or len({f > 1 for f in off}) < 2:
        return None
    model = pair.b if pair.b in coded else pair.a
    factors = off if model == high else [1 / f for f in off]
    other = pair.opposite(model)
    text = f"{pair.name(model)} holds codes of {pair.name(other)} with the scales of another file: "
    text += f"{counted(len(off), 'key')} of {len(rows):,} that changed are "
    text += f"{four_digits(min(factors))} to {four_digits(max(factors))} times as large, in the "
    text += f"same direction{held_alone(pair)}"
    is_one_way = len(coded & {pair.a, pair.b}) == 1
    return pair.relation(RelationKind.SCALES_OF_ANOTHER, model, other, text, directed=is_one_way)


def _norms(pair: PairComparison) -> list[tuple[float, float]]:
    """Return the squared norms of what differs in the two models, by component."""
    low, high = sorted((pair.a, pair.b))
    return [both for (a, b, _), both in pair.norms.items() if (a, b) == (low, high)]


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
    share = f"{four_digits(100 * beyond / rounding.measured)} % of the values lie more than half a "
    return share + f"step off, the farthest {four_digits(rounding.excess)} steps beyond"


def _ends(pair: PairComparison, rounding: PairRounding) -> tuple[int, int, str]:
    """Return the quantised model, the other one, and the schemes in words."""
    low, high = sorted((pair.a, pair.b))
    schemes = rounding.schemes_a or rounding.schemes_b
    model = low if rounding.schemes_a else high
    return model, pair.opposite(model), joined(schemes)
