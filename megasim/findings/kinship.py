"""Evidence that whole models are related: equal parts, distances, norms, EMA copies."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

from megasim.errors import printable
from megasim.findings.component_groups import Equalities, ModelComponent
from megasim.store.batches import pair_table
from megasim.store.roundings import whole_roundings
from megasim.store.rows import Pair

ComponentSet = frozenset[ModelComponent]


def ordered(a: int, b: int) -> Pair:
    """Return a pair as the store holds it, the smaller id first."""
    return (min(a, b), max(a, b))


@dataclass(frozen=True, slots=True)
class SharedContents:
    """Tensors that two models hold, under whatever keys, the smaller id first.

    Attributes:
        tensors: how many contents they share, trivial ones left out.
        of_first, of_second: how many such contents either holds.
        key_in_first, key_in_second: the first key under which one of the shared stands.
    """

    tensors: int
    of_first: int
    of_second: int
    key_in_first: str
    key_in_second: str


class KinshipFacts:
    """What relations follow from.

    Attributes:
        distances: pair → L2 of the UNets where either has one, else of all that is used.
        without_distance: pair → keys of these that are in no distance; with any, it seems nearer
            than it is.
        ema_as_unet: (model with EMA copy, model) whose UNet is that copy → whether the numbers
            are the same, and not only once rounded to fp16.
    """

    def __init__(self, equal: Equalities) -> None:
        self.equal = equal
        self.reader = equal.reader
        store = self.reader.store
        self.distances: dict[Pair, float] = {}
        self.without_distance: dict[Pair, int] = {}
        for a, b, l2, keys in store.rows("core_distances"):
            if not math.isnan(l2):
                self.distances[a, b] = l2
                self.without_distance[a, b] = keys
        self._quantised_from: dict[int, frozenset[int]] = {}
        self._parts: dict[int, list[int]] = defaultdict(list)
        for model in self.reader.models.values():
            if model.file_model_id is not None:
                self._parts[model.file_model_id].append(model.id)
        self._beside: dict[int, dict[str, Hashable]] = defaultdict(dict)
        for model_id, place, digest in store.rows("beside_state_dicts"):
            self._beside[model_id][printable(place, 60)] = digest
        self._telling: dict[int, int] = dict(store.rows("telling_contents"))
        self.ema_as_unet: dict[Pair, bool] = {
            (ema, unet): same_values == keys
            for ema, unet, keys, same_values, _ in store.rows("ema_matches")
            if ema != unet
        }

    def distance(self, a: int, b: int) -> float:
        """Return how far two models are apart; inf where it is not known."""
        return self.distances.get(ordered(a, b), math.inf)

    @cached_property
    def coded(self) -> frozenset[int]:
        """The models that hold quantised tensors."""
        return frozenset(model_id for (model_id,) in self.reader.store.rows("coded_models"))

    def quantised_from(self, model_id: int) -> frozenset[int]:
        """Return the models that one is proved to be made of by rounding to codes alone."""
        if model_id not in self._quantised_from:
            plain = [other for other in self.reader.models if other not in self.coded]
            pairs = [ordered(model_id, other) for other in plain if model_id in self.coded]
            self._quantised_from[model_id] = frozenset(
                b if a == model_id else a
                for (a, b), rounding in whole_roundings(self.reader.store, pairs).items()
                if rounding.explains_all
            )
        return self._quantised_from[model_id]

    def component_set(self, model_id: int) -> ComponentSet:
        """Return what a model holds, as classes of equal components."""
        used = self.equal.used(model_id)
        return frozenset(self.equal.class_of(model_id, component) for component in used)

    def unlike(self, pair: Pair) -> int:
        """Return how many components only one of two models holds."""
        a, b = pair
        return len(self.equal.components_of[a] ^ self.equal.components_of[b])

    def equal_keys(self, pairs: Sequence[Pair]) -> dict[Pair, dict[str, int]]:
        """Return how many keys of each component are equal and no trivial tensors, by pair."""
        stored = {ordered(*pair) for pair in pairs}
        found: dict[Pair, dict[str, int]] = {pair: {} for pair in stored}
        table = pair_table(stored)
        for a, b, component, keys in self.reader.store.rows("equal_keys", tables={"batch": table}):
            found[a, b][component] = keys
        return found

    def beside(self, model_id: int) -> dict[str, Hashable]:
        """Return what stands in the file of a model beside it: place → what is equal for equals."""
        found = dict(self._beside.get(model_id, {}))
        for part in self._parts.get(model_id, ()):
            name = self.reader.models[part].part
            found[f"the part {printable(name, 60)}"] = frozenset(
                self.equal.bytes_of(part, component) for component in self.equal.used(part)
            )
        return found

    def contents(self, pairs: Sequence[Pair]) -> dict[Pair, SharedContents]:
        """Return which telling tensors pairs share under whatever keys, where they share any."""
        stored = {ordered(*pair) for pair in pairs}
        table = pair_table(stored)
        rows = self.reader.store.rows("contents_in_common", tables={"batch": table})
        return {
            (a, b): SharedContents(count, self._telling.get(a, 0), self._telling.get(b, 0), *keys)
            for a, b, count, *keys in rows
        }

    def norms(self, pairs: Sequence[Pair]) -> dict[tuple[int, int, str], tuple[float, float]]:
        """Return the squared norms of what pairs have in common and differ in, by component.

        Only float matrices count.
        """
        stored = {ordered(*pair) for pair in pairs}
        rows = self.reader.store.rows("compared_norms", tables={"batch": pair_table(stored)})
        return {(a, b, component): (of_a, of_b) for a, b, component, of_a, of_b in rows}
