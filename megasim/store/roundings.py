"""How plain weights lie to the codes of quantised ones, of pairs of models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from megasim.store.batches import pair_table
from megasim.store.matrices import member_names
from megasim.store.rows import Pair, Store

# Values that prove a model to be the original of one that GPTQ made. Of a model one step of 0.3 %
# away, about one of 150 lies beyond at 4 bits.
LEAST_COMPENSATED: Final = 512
# Pairs of models whose keys are aligned at a time: memory goes by it.
_PAIRS: Final = 512


@dataclass(frozen=True)
class PairRounding:
    """What one component, or all, of two models is, where one of them is quantised.

    Attributes:
        schemes_a, schemes_b: the representations in which either holds what the other has plain.
        rounded_keys: keys that are quantised in one of the two alone.
        unproven_keys: of them, or beside them, those of which it is not known whether values fit.
        changed_keys: keys that neither or both hold quantised, and that differ beyond a cast.
        missing_a, missing_b: keys that one lacks.
        measured: values of the rounded keys that were looked at.
        within: of these, how many lie within half a step of the code's value.
        excess: how far the worst one lies beyond, in steps of its block.
        moved_keys: of the rounded keys, those of which values lie beyond and nothing says why.
        compensated_keys: those that a method like GPTQ has made, which makes up for its rounding.
        compensated: values of them that it rounded first, all within half a step.
        scaled_keys: those whose values are within once inputs have a factor each, as by AWQ.
        folded_keys: plain keys, as norms, that were divided by these factors.
        silent_keys: rounded keys that lie as GPTQ leaves them, of too few rows to prove anything.
    """

    schemes_a: tuple[str, ...] = ()
    schemes_b: tuple[str, ...] = ()
    rounded_keys: int = 0
    unproven_keys: int = 0
    changed_keys: int = 0
    missing_a: int = 0
    missing_b: int = 0
    measured: int = 0
    within: int = 0
    excess: float = 0.0
    moved_keys: int = 0
    compensated_keys: int = 0
    compensated: int = 0
    scaled_keys: int = 0
    folded_keys: int = 0
    silent_keys: int = 0

    def __add__(self, other: PairRounding) -> PairRounding:
        return PairRounding(
            tuple(sorted({*self.schemes_a, *other.schemes_a})),
            tuple(sorted({*self.schemes_b, *other.schemes_b})),
            self.rounded_keys + other.rounded_keys,
            self.unproven_keys + other.unproven_keys,
            self.changed_keys + other.changed_keys,
            self.missing_a + other.missing_a,
            self.missing_b + other.missing_b,
            self.measured + other.measured,
            self.within + other.within,
            max(self.excess, other.excess),
            self.moved_keys + other.moved_keys,
            self.compensated_keys + other.compensated_keys,
            self.compensated + other.compensated,
            self.scaled_keys + other.scaled_keys,
            self.folded_keys + other.folded_keys,
            self.silent_keys + other.silent_keys,
        )

    @property
    def explains_all(self) -> bool:
        """Whether quantising is all that tells the two apart, and that is proved.

        By every value, or, of a method that moves values on purpose, by those that it leaves.
        """
        moved = self.compensated_keys + self.silent_keys
        return (
            self.rounded_keys > 0
            and self.is_one_way
            and not (self.moved_keys or self.unproven_keys or self.changed_keys)
            and (not moved or self.compensated >= LEAST_COMPENSATED)
        )

    @property
    def is_one_way(self) -> bool:
        """Whether one of the two alone is quantised."""
        return bool(self.schemes_a) != bool(self.schemes_b)


def load_roundings(store: Store, pairs: Iterable[Pair]) -> dict[tuple[int, int, str], PairRounding]:
    """Return what is known of pairs of which one model is quantised, by component.

    Args:
        pairs: ids, the smaller first.
    """
    pairs = list(pairs)
    if not pairs:
        return {}
    coded = {model_id for (model_id,) in store.rows("coded_models")}
    wanted = sorted({(a, b) for a, b in pairs if a in coded or b in coded})
    if not wanted:
        return {}
    found: dict[tuple[int, int, str], PairRounding] = {}
    for start in range(0, len(wanted), _PAIRS):
        some = wanted[start : start + _PAIRS]
        firsts, seconds = (sorted(set(ids)) for ids in zip(*some, strict=True))
        batch = {"batch": pair_table(some)}
        rows = store.rows("pair_roundings", tables=batch, firsts=firsts, seconds=seconds)
        for a, b, component, schemes_a, schemes_b, *numbers in rows:
            schemes = tuple(schemes_a), tuple(schemes_b)
            found[a, b, component] = PairRounding(*schemes, *numbers)
    return found


def whole_roundings(store: Store, pairs: Iterable[Pair]) -> dict[Pair, PairRounding]:
    """Return the same of whole models."""
    found: dict[Pair, PairRounding] = defaultdict(PairRounding)
    for (a, b, _), rounding in load_roundings(store, pairs).items():
        found[a, b] = found[a, b] + rounding
    return {pair: rounding for pair, rounding in found.items() if rounding.rounded_keys}


def quantised_of(
    store: Store, model_id: int, others: Iterable[int], component: str
) -> dict[int, tuple[str, ...]]:
    """Return which of others are one model rounded to codes in a component, or that it is.

    Only what compare has proved: see `PairRounding.explains_all`.

    Returns:
        the schemes, by the id of the other.
    """
    pairs = [ordered_pair(model_id, other) for other in others if other != model_id]
    return {
        (b if a == model_id else a): rounding.schemes_a or rounding.schemes_b
        for (a, b), rounding in _proved(store, pairs, component).items()
    }


def quantised_copies(store: Store, models: Sequence[str], component: str) -> dict[str, str]:
    """Return the models that are others of them rounded to codes in a component, each with one.

    Of several that it may be made of, as of equal ones, the first in the order of names.
    """
    ids = {name: i for name, i in store.model_ids().items() if name in set(models)}
    names = {i: name for name, i in ids.items()}
    pairs = [(a, b) for a in names for b in names if a < b]
    found: dict[str, str] = {}
    for (a, b), rounding in _proved(store, pairs, component).items():
        copy, original = (a, b) if rounding.schemes_a else (b, a)
        known = found.get(names[copy], names[original])
        found[names[copy]] = min(known, names[original])
    return found


def ordered_pair(a: int, b: int) -> Pair:
    """Return two ids, the smaller first."""
    return (a, b) if a < b else (b, a)


def _proved(store: Store, pairs: Iterable[Pair], component: str) -> dict[Pair, PairRounding]:
    members = set(member_names(store, component))
    found: dict[Pair, PairRounding] = defaultdict(PairRounding)
    for (a, b, part), rounding in load_roundings(store, pairs).items():
        if part in members:
            found[a, b] = found[a, b] + rounding
    return {pair: rounding for pair, rounding in found.items() if rounding.explains_all}
