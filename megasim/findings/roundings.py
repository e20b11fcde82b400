"""How plain weights lie to the codes of quantised ones, of pairs of models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from megasim.store.batches import pair_table
from megasim.store.rows import Pair, Store


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
        )

    @property
    def explains_all(self) -> bool:
        """Whether rounding to the codes is all that tells the two apart, and that is proved."""
        return (
            self.rounded_keys > 0
            and self.is_one_way
            and self.within == self.measured
            and not (self.unproven_keys or self.changed_keys)
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
    coded = {model_id for (model_id,) in store.rows("coded_models")}
    wanted = sorted({(a, b) for a, b in pairs if a in coded or b in coded})
    if not wanted:
        return {}
    batch = {"batch": pair_table(wanted)}
    return {
        (a, b, component): PairRounding(tuple(schemes_a), tuple(schemes_b), *numbers)
        for a, b, component, schemes_a, schemes_b, *numbers in store.rows(
            "pair_roundings", tables=batch
        )
    }


def whole_roundings(store: Store, pairs: Iterable[Pair]) -> dict[Pair, PairRounding]:
    """Return the same of whole models."""
    found: dict[Pair, PairRounding] = defaultdict(PairRounding)
    for (a, b, _), rounding in load_roundings(store, pairs).items():
        found[a, b] = found[a, b] + rounding
    return {pair: rounding for pair, rounding in found.items() if rounding.rounded_keys}
