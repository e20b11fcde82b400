"""Stacks: models whose layers are layers of others, under another number or of several models."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megasim.errors import printable
from megasim.lineage.settings import SETTINGS, LineageSettings
from megasim.store.rows import Store
from megasim.wording.sentences import joined

_NUMBERED = re.compile(r"^layer (\d+)$")


@dataclass(frozen=True)
class LayerRun:
    """Layers of a model that are successive layers of another.

    Attributes:
        first, last: numbers in the model.
        model: whose layers they are.
        start: the number that the first of them has there.
    """

    first: int
    last: int
    model: str
    start: int

    @property
    def count(self) -> int:
        """How many layers there are."""
        return self.last - self.first + 1

    def sentence(self) -> str:
        """Return the run in words.

        >>> LayerRun(4, 7, "mistral", 2).sentence()
        'layers 4–7 are layers 2–5 of mistral'
        """
        return f"{_span(self.first, self.last)} {'are' if self.count > 1 else 'is'} {self.origin()}"

    def origin(self) -> str:
        """Return where the layers come from."""
        return f"{_span(self.start, self.start + self.count - 1)} of {printable(self.model, 80)}"


@dataclass(frozen=True)
class Stack:
    """A model made of layers of others.

    Attributes:
        runs: in the order of the layers, with gaps where layers come from nowhere known.
        layers: how many it has.
    """

    model: str
    runs: tuple[LayerRun, ...]
    layers: int

    @property
    def shares(self) -> dict[str, float]:
        """Model → share of the layers that are its own."""
        found: dict[str, float] = defaultdict(float)
        for run in self.runs:
            found[run.model] += run.count / self.layers
        return dict(found)

    def sentence(self) -> str:
        """Return the origin of every layer in words."""
        return joined([run.sentence() for run in self.runs])


def find_stack(store: Store, model: str, settings: LineageSettings = SETTINGS) -> Stack | None:
    """Return the stack that a model is, or None if it is none of the store's models.

    Every numbered layer holds the very numbers of a layer of some model, as their hashes say, and
    at least one of them stands under another number there. Of several models that hold a layer,
    the one is taken that goes on from the layer before, then that of most layers. A model that
    holds a layer of this one twice is itself a stack, and no origin. Nor is one of several that has
    more layers than this, if others hold all of them: it was rather made of them.
    """
    ids = store.model_ids()
    model_id = ids[model] if model in ids else store.require_model(model)
    sizes = _layer_sizes(store, model_id)
    if len(sizes) < 2:
        return None
    whole = _whole_layers(store, model_id, sizes, settings)
    repeating = {
        name
        for ats in whole.values()
        for name, count in Counter(n for n, _ in ats).items()
        if count > 1
    }
    whole = {number: [at for at in ats if at[0] not in repeating] for number, ats in whole.items()}
    names = sorted({name for ats in whole.values() for name, _ in ats})
    for some in (*({name} for name in names), set(names)):
        if len(some) > 1:
            some -= {name for name in some if _is_made_of_others(store, ids[name], sizes, settings)}
        part = {n: [at for at in ats if at[0] in some] for n, ats in whole.items()}
        moved = any(ats and all(start != n for _, start in ats) for n, ats in part.items())
        if moved and all(part.values()):
            return Stack(model, tuple(_runs(part)), len(sizes))
    return None


def _is_made_of_others(
    store: Store, model_id: int, than: Mapping[int, int], settings: LineageSettings
) -> bool:
    """Return whether a model has more layers than another, and other models hold all of them."""
    sizes = _layer_sizes(store, model_id)
    return len(sizes) > len(than) and all(_whole_layers(store, model_id, sizes, settings).values())


def _whole_layers(
    store: Store, model_id: int, sizes: Mapping[int, int], settings: LineageSettings
) -> dict[int, list[tuple[str, int]]]:
    """Return number of a layer → the models that hold it, each with the number it has there."""
    held: dict[int, dict[tuple[str, int], int]] = defaultdict(lambda: defaultdict(int))
    seen: set[tuple[str, str, int]] = set()
    for key, block, numel, other, their_key, their_block in store.rows(
        "layers_of_others", id=model_id
    ):
        number, theirs = _number(block), _number(their_block)
        if number is None or theirs is None or not _same_place(key, number, their_key, theirs):
            continue
        if (key, other, theirs) not in seen:
            seen.add((key, other, theirs))
            held[number][other, theirs] += numel
    return {
        number: [at for at, n in held[number].items() if n >= settings.same_layer * sizes[number]]
        for number in sizes
    }


def _layer_sizes(store: Store, model_id: int) -> dict[int, int]:
    """Return number of a layer → how many elements it has, without constant tensors."""
    sizes: dict[int, int] = defaultdict(int)
    for _, block, numel in store.rows("layers_of_model", id=model_id):
        number = _number(block)
        if number is not None:
            sizes[number] += numel
    return sizes


def _runs(whole: Mapping[int, Sequence[tuple[str, int]]]) -> list[LayerRun]:
    """Return runs of layers, each as long as it goes on in one model."""
    runs: list[LayerRun] = []
    numbers = sorted(whole)
    used: dict[str, int] = defaultdict(int)
    for ats in whole.values():
        for name in {name for name, _ in ats}:
            used[name] += 1
    place = 0
    while place < len(numbers):
        best: tuple[int, int, str, int] | None = None
        for name, start in whole[numbers[place]]:
            length = 1
            while (
                place + length < len(numbers)
                and numbers[place + length] == numbers[place] + length
                and (name, start + length) in whole[numbers[place + length]]
            ):
                length += 1
            candidate = (length, used[name], name, start)
            if best is None or (-length, -used[name], name, start) < (
                -best[0], -best[1], best[2], best[3],
            ):  # fmt: skip
                best = candidate
        if best is None:  # every layer has an origin
            break
        length, _, name, start = best
        runs.append(LayerRun(numbers[place], numbers[place] + length - 1, name, start))
        place += length
    return runs


def _same_place(key: str, number: int, their_key: str, theirs: int) -> bool:
    """Return whether two keys are called alike but for the number of the layer."""
    parts, others = key.split("."), their_key.split(".")
    if len(parts) != len(others):
        return False
    apart = [(a, b) for a, b in zip(parts, others, strict=True) if a != b]
    return not apart or apart == [(str(number), str(theirs))]


def _number(block: str | None) -> int | None:
    found = _NUMBERED.match(block or "")
    return int(found[1]) if found else None


def _span(first: int, last: int) -> str:
    return f"layer {first}" if first == last else f"layers {first}–{last}"
