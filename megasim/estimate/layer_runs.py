"""Runs of layers of one model that are successive layers of another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megasim.errors import printable


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


def layer_runs(whole: Mapping[int, Sequence[tuple[str, int]]]) -> list[LayerRun]:
    """Return runs of layers, each as long as it goes on in one model.

    Args:
        whole: number of a layer → the models that hold it, each with the number it has there.

    Of several models with the longest run the one is taken that holds most layers.
    """
    runs: list[LayerRun] = []
    numbers = sorted(whole)
    used = Counter(name for ats in whole.values() for name in {name for name, _ in ats})
    place = 0
    while place < len(numbers):
        lengths: dict[tuple[str, int], int] = {}
        for name, start in whole[numbers[place]]:
            length = 1
            while (
                place + length < len(numbers)
                and numbers[place + length] == numbers[place] + length
                and (name, start + length) in whole[numbers[place + length]]
            ):
                length += 1
            lengths[name, start] = length
        name, start = min(lengths, key=lambda at: (-lengths[at], -used[at[0]], at))
        length = lengths[name, start]
        runs.append(LayerRun(numbers[place], numbers[place] + length - 1, name, start))
        place += length
    return runs


def _span(first: int, last: int) -> str:
    return f"layer {first}" if first == last else f"layers {first}–{last}"
