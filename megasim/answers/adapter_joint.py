"""Several adapters in one model: how strongly each is in it, found together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megasim.anatomy.block_order import block_place
from megasim.answers.adapter_baking import is_there, rows_of, strength_json, strength_text
from megasim.answers.adapter_files import AdapterFile
from megasim.answers.adapter_places import ModelWeights, Placed, Weight, fit_of
from megasim.checkpoint.opening import TensorReader
from megasim.errors import CheckpointError, NoAnswerError, printable
from megasim.estimate.joint_strengths import (
    JointStrengths,
    JointSums,
    joint_strengths,
    joint_sums,
)
from megasim.progress import NO_PROGRESS, Progress
from megasim.representation.adapter_algebra import stacked
from megasim.representation.adapter_changes import BadFactors, Change
from megasim.representation.adapter_factors import change_of
from megasim.wording.html import html_lines
from megasim.wording.sentences import counted, four_digits

# From this cosine on, and where the errors show it, two changes are nearly one.
_NEARLY_ONE = 0.95
_OPEN = 0.01


@dataclass(frozen=True)
class BlockStrengths:
    """The strengths of all adapters in one block."""

    block: str
    strengths: JointStrengths


@dataclass(frozen=True)
class JointBaking:
    """How several adapters are in the difference of a model and its base, together.

    Attributes:
        adapters: their names, in the order of the strengths.
        whole: over all layers. blocks: by block, in the order of the network.
        skipped: layers that could not be measured, with the reason.
    """

    model: str
    base: str
    adapters: tuple[str, ...]
    whole: JointStrengths
    blocks: tuple[BlockStrengths, ...]
    skipped: dict[str, str]

    def __repr__(self) -> str:
        return f"<{len(self.adapters)} adapters in {printable(self.model, 80)}>"

    def _repr_html_(self) -> str:
        return html_lines(self.sentences())

    @property
    def found(self) -> tuple[str, ...]:
        """The adapters that are in it, in any block."""
        return tuple(
            name
            for i, name in enumerate(self.adapters)
            if is_there(self.whole.each[i])
            or any(is_there(block.strengths.each[i]) for block in self.blocks)
        )

    @property
    def undecided(self) -> tuple[tuple[str, str, float], ...]:
        """Pairs of adapters whose changes are too nearly one to be told apart, with the cosine."""
        pairs = []
        for i, first in enumerate(self.adapters):
            for j, second in enumerate(self.adapters[:i]):
                cosine = float(self.whole.cosines[i, j])
                wide = max(self.whole.each[i].error, self.whole.each[j].error) > _OPEN
                if abs(cosine) >= _NEARLY_ONE and wide:
                    pairs.append((second, first, cosine))
        return tuple(pairs)

    def sentences(self) -> list[str]:
        """Return what was found, a sentence each."""
        model, base = printable(self.model, 80), printable(self.base, 80)
        found = list(zip(self.adapters, self.whole.each, strict=True))
        there = self.found
        terms = [f"{strength_text(s)} × {printable(n, 80)}" for n, s in found if n in there]
        open_pairs = self.undecided
        if not terms and not open_pairs:
            return [f"none of {counted(len(self.adapters), 'adapter')} is in {model} over {base}"]
        lines = []
        if terms:
            lines.append(f"{model} is {' + '.join([base, *terms])}{self._left()}")
        if self._varies():
            lines.append("the strengths are averages: they are not the same in every block")
        for name, strength in found:
            if name not in there and not any(name in pair[:2] for pair in open_pairs):
                lines.append(
                    f"{printable(name, 80)} is not in it: strength {strength_text(strength)}"
                )
        for first, second, cosine in open_pairs:
            lines.append(
                f"{printable(first, 80)} and {printable(second, 80)} make nearly the same change "
                f"(cosine {cosine:.4f}), so how much is of which is not decided; the errors say "
                "how far"
            )
        return lines

    def _left(self) -> str:
        if self.whole.exact is not None:
            return f"; {self.whole.exact:.1%} of the elements looked at are what that rounds to"
        return (
            f"; that is {self.whole.explained:.1%} of the squared change of their layers, and "
            f"{four_digits(self.whole.residual)} of L2 are left"
        )

    def _varies(self) -> bool:
        if len(self.blocks) < 2:
            return False
        return any(
            abs(block.strengths.each[i].value - whole.value) - 3 * block.strengths.each[i].error
            > _OPEN
            for i, whole in enumerate(self.whole.each)
            for block in self.blocks
            if math.isfinite(block.strengths.each[i].value)
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and strings."""

        def of(strengths: JointStrengths) -> list[dict[str, Any]]:
            named = zip(self.adapters, strengths.each, strict=True)
            return [{"adapter": name, **strength_json(one)} for name, one in named]

        return {
            "model": self.model,
            "base": self.base,
            "found": list(self.found),
            "strengths": of(self.whole),
            "share_exact": self.whole.exact,
            "explained": self.whole.explained,
            "residual_l2": self.whole.residual,
            "cosines": self.whole.cosines.tolist(),
            "undecided": [list(pair) for pair in self.undecided],
            "blocks": [{"block": b.block, "strengths": of(b.strengths)} for b in self.blocks],
            "layers_skipped": dict(self.skipped),
            "sentences": self.sentences(),
        }


def measure_together(
    adapters: Sequence[AdapterFile],
    model: ModelWeights,
    base: ModelWeights,
    *,
    progress: Progress = NO_PROGRESS,
) -> JointBaking:
    """Return how strongly each of several adapters is in the difference of a model and its base.

    Raises:
        NoAnswerError: one of them has no layer in both.
        CheckpointError: a weight cannot be read.
    """
    skipped: dict[str, str] = {}
    by_key: dict[str, dict[int, list[Placed]]] = {}
    for i, adapter in enumerate(adapters):
        fit = fit_of(adapter, model)
        shared = [p for p in fit.placed if _is_in_both(p.weight, base)]
        if not shared:
            raise NoAnswerError(
                f"no layer of {printable(adapter.name)} is in both {printable(model.name)} and "
                f"{printable(base.name)} in one shape",
                "name models of the architecture that it was made for",
            )
        skipped |= {f"{adapter.name}: {m}": "no such weight" for m in fit.missing}
        skipped |= {f"{adapter.name}: {m}": "a weight of another shape" for m in fit.mismatched}
        for placed in shared:
            by_key.setdefault(placed.weight.key, {}).setdefault(i, []).append(placed)
    by_block: dict[str, list[JointSums]] = {}
    progress.start("Measuring", len(by_key), "layers")
    try:
        with TensorReader() as reader:
            for key, held in by_key.items():
                weight = model.weights[key]
                sums = _sums(reader, adapters, held, weight, base.weights[key], skipped)
                if sums is not None:
                    by_block.setdefault(weight.block_name, []).append(sums)
                progress.advance(1)
    finally:
        progress.finish()
    layers = [layer for held in by_block.values() for layer in held]
    if not layers:
        raise NoAnswerError("none of their layers could be measured", "get the adapters again")
    blocks = sorted(by_block, key=block_place)
    return JointBaking(
        model=model.name,
        base=base.name,
        adapters=tuple(adapter.name for adapter in adapters),
        whole=joint_strengths(layers),
        blocks=tuple(BlockStrengths(b, joint_strengths(by_block[b])) for b in blocks),
        skipped=skipped,
    )


def _is_in_both(weight: Weight, base: ModelWeights) -> bool:
    found = base.weights.get(weight.key)
    return found is not None and found.matrix == weight.matrix


def _sums(
    reader: TensorReader,
    adapters: Sequence[AdapterFile],
    held: dict[int, list[Placed]],
    weight: Weight,
    before: Weight,
    skipped: dict[str, str],
) -> JointSums | None:
    """Return what one weight says; None where no adapter's change of it could be made."""
    changes: dict[int, Change] = {}
    intervals: list[tuple[int, int]] = []
    for i, placed in held.items():
        try:
            parts = [_part(reader, adapters[i], p, before) for p in placed]
            changes[i] = _over_rows(parts, *weight.matrix)
        except (BadFactors, CheckpointError) as error:
            if isinstance(error, CheckpointError) and error.path != adapters[i].path:
                raise
            why = printable(error.args[0].splitlines()[0], 200)
            skipped[f"{adapters[i].name}: {placed[0].touched.module}"] = why
            continue
        intervals += [(first, first + change.rows) for first, change in parts]
    if not changes or weight.ref is None or before.ref is None:
        return None
    return joint_sums(reader, weight.ref, before.ref, changes, len(adapters), _merged(intervals))


def _part(
    reader: TensorReader, adapter: AdapterFile, placed: Placed, before: Weight
) -> tuple[int, Change]:
    made = adapter.load(reader, placed.touched)
    change: Change
    if placed.touched.layer.needs_base:
        assert before.ref is not None
        change = change_of(made, rows_of(reader, before.ref, placed, placed.touched.shape[0]))
    else:
        assert made.change is not None
        change = made.change
    return placed.first_row, placed.on_weight(change)


def _over_rows(parts: Sequence[tuple[int, Change]], rows: int, columns: int) -> Change:
    """Return changes of some rows of a weight as one change of all of it."""
    pieces: list[Change | None] = []
    sizes: list[int] = []
    place = 0
    for first, change in sorted(parts, key=lambda part: part[0]):
        if first < place:
            raise BadFactors("two changes of the same rows")
        if first > place:
            pieces.append(None)
            sizes.append(first - place)
        pieces.append(change)
        sizes.append(change.rows)
        place = first + change.rows
    if place < rows:
        pieces.append(None)
        sizes.append(rows - place)
    return stacked(pieces, sizes, columns)


def _merged(intervals: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges of rows without what they overlap.

    >>> _merged([(4, 8), (0, 2), (1, 3)])
    [(0, 3), (4, 8)]
    """
    found: list[tuple[int, int]] = []
    for start, stop in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return found
