"""Two adapters, compared as the changes that they make, whatever their factors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from megasim.answers.adapter_files import AdapterFile, TouchedLayer
from megasim.answers.adapter_places import bare_name
from megasim.checkpoint.opening import TensorReader
from megasim.errors import printable
from megasim.progress import NO_PROGRESS, Progress
from megasim.representation.adapter_algebra import (
    distance_of,
    norm_of,
    product_of,
    stacked,
    with_swapped_halves,
)
from megasim.representation.adapter_changes import BadFactors, Change
from megasim.wording.html import html_lines
from megasim.wording.sentences import counted, four_digits, joined, listed

# Parts of a fused weight that are of one height.
_QUERY_KEY_VALUE = 3
# Two changes are the same up to rounding below this share of their norm: float32 has 24 bits.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class AdapterPair:
    """Two adapters, compared as the changes that they make.

    Attributes:
        layers: that both change. only_a, only_b: that one changes.
        not_compared: layers whose change depends on the weights, or has another shape.
        norm_a, norm_b, l2: of the changes of the shared layers, and of their difference.
        cosine: between them.
        ratio: b = ratio · a by least squares, and `left` is ‖b − ratio · a‖.
        unstated: which of the two state no alpha in their file, so that their rank was taken.
    """

    a: str
    b: str
    layers: int
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    not_compared: tuple[str, ...]
    norm_a: float
    norm_b: float
    l2: float
    cosine: float
    ratio: float
    left: float
    unstated: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<adapters {printable(self.a, 60)} and {printable(self.b, 60)}>"

    def _repr_html_(self) -> str:
        return html_lines(self.sentences())

    @property
    def is_same(self) -> bool:
        """Whether all that both do is the same change, up to the rounding of float32."""
        whole = not (self.only_a or self.only_b or self.not_compared)
        return whole and self.layers > 0 and self._is_close(self.l2)

    @property
    def is_rescaled(self) -> bool:
        """Whether they are one change at two strengths."""
        whole = not (self.only_a or self.only_b or self.not_compared) and self.layers > 0
        return whole and not self.is_same and self._is_close(self.left)

    def _is_close(self, distance: float) -> bool:
        return distance <= _ROUNDING * max(self.norm_a, self.norm_b)

    def sentences(self) -> list[str]:
        """Return how they stand to each other, a sentence each."""
        a, b = printable(self.a, 80), printable(self.b, 80)
        if self.is_same:
            exactly = "" if self.l2 == 0 else f", up to rounding (L2 {self.l2:.2g})"
            lines = [
                f"{a} and {b} make the same change of {counted(self.layers, 'layer')}{exactly}"
            ]
        elif self.is_rescaled:
            lines = [
                f"{b} is {a} at {self.ratio:.4g} times the strength: another alpha, "
                f"and nothing else{self._unstated()}"
            ]
        elif not self.layers:
            lines = [f"{a} and {b} change no layer in common that can be compared"]
        else:
            lines = [
                f"{a} and {b} change {counted(self.layers, 'layer')} in common: "
                f"L2 {four_digits(self.l2)} between changes of {four_digits(self.norm_a)} and "
                f"{four_digits(self.norm_b)}, cosine {self.cosine:.4f}"
            ]
        for name, only in ((a, self.only_a), (b, self.only_b)):
            if only:
                lines.append(
                    f"only {name} changes {counted(len(only), 'layer')}: {listed(only, 3)}"
                )
        if self.not_compared:
            lines.append(
                f"not compared: {counted(len(self.not_compared), 'layer')}, whose change depends "
                f"on the weight or has another shape: {listed(self.not_compared, 3)}"
            )
        return lines

    def _unstated(self) -> str:
        names = joined([printable(name, 80) for name in self.unstated])
        if not names:
            return ""
        return f" (no alpha is stated in {names}, so the rank was taken)"

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and strings; None where a number is not known."""
        found = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}
        found = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in found.items()}
        return {
            **found,
            "same": self.is_same,
            "rescaled": self.is_rescaled,
            "sentences": self.sentences(),
        }


def compare_adapters(
    a: AdapterFile, b: AdapterFile, *, progress: Progress = NO_PROGRESS
) -> AdapterPair:
    """Return how two adapters stand to each other, as the changes that they make.

    The product of the factors is compared, never the factors: those of one change may be many.

    Raises:
        CheckpointError: a file cannot be read, or its factors do not fit each other.
    """
    layers_a = _by_weight(a)
    layers_b = _named_as(_by_weight(b), layers_a)
    shared = [key for key in layers_a if key in layers_b]
    skipped: list[str] = []
    sums = [0.0] * 4
    count = 0
    progress.start("Comparing", len(shared), "layers")
    try:
        with TensorReader() as reader:
            for key in shared:
                pair = (_whole(a, layers_a[key], reader), _whole(b, layers_b[key], reader))
                progress.advance(1)
                one, two = pair
                if one is None or two is None:
                    skipped.append(key)
                    continue
                try:
                    distance = distance_of(one, two)
                except BadFactors:
                    skipped.append(key)
                    continue
                count += 1
                found = (norm_of(one) ** 2, norm_of(two) ** 2, distance**2, product_of(one, two))
                sums = [total + value for total, value in zip(sums, found, strict=True)]
    finally:
        progress.finish()
    square_a, square_b, squared, product = sums
    ratio = product / square_a if square_a else math.nan
    return AdapterPair(
        a=a.name,
        b=b.name,
        layers=count,
        only_a=tuple(key for key in layers_a if key not in layers_b),
        only_b=tuple(key for key in layers_b if key not in layers_a),
        not_compared=tuple(skipped),
        norm_a=math.sqrt(square_a),
        norm_b=math.sqrt(square_b),
        l2=math.sqrt(squared),
        cosine=product / math.sqrt(square_a * square_b) if square_a and square_b else math.nan,
        ratio=ratio,
        left=math.sqrt(max(0.0, square_b - product**2 / square_a)) if square_a else math.nan,
        unstated=tuple(adapter.name for adapter in (a, b) if not adapter.states_strength),
    )


def _by_weight(adapter: AdapterFile) -> dict[str, tuple[TouchedLayer, ...]]:
    """Return the layers of an adapter by the weight that they change.

    Where one file changes query, key and value apart and another the fused weight, both are the
    change of the fused one; parts that one leaves alone are as high as the others.
    """
    groups: dict[str, list[TouchedLayer]] = {}
    for touched in adapter.layers:
        groups.setdefault(touched.place.place.canonical_key, []).append(touched)
    found: dict[str, tuple[TouchedLayer, ...]] = {}
    for key, group in groups.items():
        parts = {touched.place.place.part: touched for touched in group}
        of = group[0].place.place.of
        heights = {touched.shape[:1] for touched in group}
        if len(parts) == len(group) and (
            len(parts) == of or (of == _QUERY_KEY_VALUE and len(heights) == 1)
        ):
            found[key] = tuple(parts[i] for i in sorted(parts))
        else:
            found |= {f"{touched.place.key}": (touched,) for touched in group}
    return found


def _named_as(
    layers: dict[str, tuple[TouchedLayer, ...]], others: Mapping[str, object]
) -> dict[str, tuple[TouchedLayer, ...]]:
    """Return layers under the names that another adapter has for them.

    Of an architecture that no rule knows, one library writes `transformer.layers.0.attention.to_q`
    and another `lora_unet_layers_0_attention_to_q`: without what stands before, they are one.
    """
    theirs = _by_bare_name(key for key in others if key not in layers)
    ours = _by_bare_name(key for key in layers if key not in others)
    renamed = {ours[name]: key for name, key in theirs.items() if name in ours}
    return {renamed.get(key, key): group for key, group in layers.items()}


def _by_bare_name(keys: Iterable[str]) -> dict[str, str]:
    """Return keys by their names without dots and prefixes, where that is the name of one alone."""
    found: dict[str, str] = {}
    several: set[str] = set()
    for key in keys:
        name = bare_name(key)
        if name in found:
            several.add(name)
        found[name] = key
    return {name: key for name, key in found.items() if name not in several}


def _whole(
    adapter: AdapterFile, group: tuple[TouchedLayer, ...], reader: TensorReader
) -> Change | None:
    """Return the change of a weight; None where it depends on the weight."""
    if any(touched.layer.needs_base for touched in group):
        return None
    of = group[0].place.place.of
    made = {t.place.place.part: adapter.load(reader, t).change for t in group}
    if group[0].place.place.swapped and (change := made[1]) is not None:
        return with_swapped_halves(change)
    if of == 1 or (len(group) == 1 and len(made) == 1 and of != _QUERY_KEY_VALUE):
        return next(iter(made.values()))
    height = next(change.rows for change in made.values() if change is not None)
    columns = next(change.columns for change in made.values() if change is not None)
    parts = [made.get(i) for i in range(1, of + 1)]
    sizes = [height if part is None else part.rows for part in parts]
    return stacked(parts, sizes, columns)
