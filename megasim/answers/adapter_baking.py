"""Whether an adapter is in a model, how strongly in each block, and what else changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megasim.answers.adapter_files import AdapterFile
from megasim.answers.adapter_places import AdapterFit, ModelWeights, Placed, Weight, fit_of
from megasim.checkpoint.opening import TensorReader, TensorRef
from megasim.compare.piece import PairPiece, Position, run_pair_piece
from megasim.errors import CheckpointError, NoAnswerError, printable
from megasim.estimate.adapter_strength import LayerSums, Strength, joint_strength, layer_sums
from megasim.kernels.elements import to_double
from megasim.progress import NO_PROGRESS, Progress
from megasim.representation.adapter_changes import BadFactors, Change
from megasim.representation.adapter_factors import change_of
from megasim.wording.sentences import counted, four_digits

# A strength is one where it is so many standard errors from 0, and accounts for this share of the
# change at least: fine-tunes share directions with adapters of the same subject by less.
_ERRORS = 5
_LEAST_EXPLAINED = 0.02
_LEAST_STRENGTH = 0.005
# Bytes of buffers for comparing the weights that an adapter leaves alone.
_BUFFER = 64 << 20
# A weight that a change depends on is held whole, up to so many elements.
_LARGEST_HELD = 1 << 28


@dataclass(frozen=True)
class BlockStrength:
    """The strength in one block."""

    block: str
    strength: Strength


@dataclass(frozen=True)
class OtherChange:
    """What differs in the weights of a component that the adapter leaves alone.

    `l2` is None where one of them has NaN or inf.
    """

    component: str
    keys: int
    changed: int
    l2: float | None


@dataclass(frozen=True)
class Baked:
    """How an adapter is in the difference of a model and its base.

    Attributes:
        whole: over all layers. blocks: by block, in the order of the network.
        others: the weights that the adapter leaves alone, by component, where any differ.
        only_model, only_base: keys that only one of the two has.
        skipped: layers that could not be measured, with the reason.
    """

    model: str
    base: str
    whole: Strength
    blocks: tuple[BlockStrength, ...]
    others: tuple[OtherChange, ...]
    only_model: int
    only_base: int
    skipped: Mapping[str, str]

    @property
    def is_found(self) -> bool:
        """Whether the adapter is in it, in any block."""
        return is_there(self.whole) or any(is_there(block.strength) for block in self.blocks)

    def sentence(self) -> str:
        """Return what was found, as one sentence."""
        model, base = printable(self.model, 80), printable(self.base, 80)
        whole = self.whole
        if not self.is_found:
            if not whole.difference:
                return f"not in {model}: its weights there are those of {base}"
            return (
                f"not found in {model}: over {base}, strength {strength_text(whole)}, "
                f"{whole.explained:.1%} of the change is in its direction"
            )
        text = f"baked into {model} over {base} at strength {strength_text(whole)}"
        if self._varies():
            text += " on average, and not the same in every block"
        if whole.exact is not None:
            text += f"; {whole.exact:.1%} of the elements looked at are what that rounds to"
        else:
            text += f"; that is {whole.explained:.1%} of the squared change of its layers"
            text += f", and {four_digits(whole.residual)} of L2 are left"
        return text

    def _varies(self) -> bool:
        values = [b.strength for b in self.blocks if math.isfinite(b.strength.value)]
        spread = max((abs(s.value - self.whole.value) - 3 * s.error for s in values), default=0)
        return len(values) > 1 and spread > 0.01

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and strings."""
        return {
            "model": self.model,
            "base": self.base,
            "found": self.is_found,
            **strength_json(self.whole),
            "blocks": [{"block": b.block, **strength_json(b.strength)} for b in self.blocks],
            "other_changes": [vars(other) for other in self.others],
            "keys_only_in_model": self.only_model,
            "keys_only_in_base": self.only_base,
            "layers_skipped": dict(self.skipped),
        }


def is_there(strength: Strength) -> bool:
    """Whether a strength says that a change is there."""
    value = strength.value
    if not math.isfinite(value) or abs(value) < max(_LEAST_STRENGTH, _ERRORS * strength.error):
        return False
    return strength.exact is not None or strength.explained >= _LEAST_EXPLAINED


def strength_text(strength: Strength) -> str:
    """Return a strength with its error.

    >>> strength_text(Strength(0.7, 0.0004, None, 1, 1, 3, 1, 1))
    '0.7000 ± 0.0004'
    """
    if not math.isfinite(strength.value):
        return "unknown"
    error = max(strength.error, 0.0001)
    digits = min(4, max(2, math.ceil(-math.log10(error))))
    return f"{strength.value:.{digits}f} ± {error:.{digits}f}"


def strength_json(strength: Strength) -> dict[str, Any]:
    """Return a strength as plain numbers, None where it is not known."""
    finite = math.isfinite(strength.value)
    return {
        "strength": strength.value if finite else None,
        "error": strength.error if math.isfinite(strength.error) else None,
        "share_exact": strength.exact,
        "explained": strength.explained,
        "cosine": strength.cosine if math.isfinite(strength.cosine) else None,
        "layers": strength.layers,
        "change_l2": strength.change,
        "difference_l2": strength.difference,
        "residual_l2": strength.residual,
    }


def measure_baking(
    adapter: AdapterFile,
    model: ModelWeights,
    base: ModelWeights,
    *,
    with_others: bool = True,
    progress: Progress = NO_PROGRESS,
) -> Baked:
    """Return how strongly an adapter is in the difference of a model and its base.

    Both are open files of one architecture. Each weight is read once, piece by piece.

    Args:
        with_others: whether to compare the weights that the adapter leaves alone, too.

    Raises:
        NoAnswerError: no layer of the adapter is in both.
        CheckpointError: a weight cannot be read.
    """
    fit = fit_of(adapter, model)
    shared = [p for p in fit.placed if _counterpart(p.weight, base) is not None]
    if not shared:
        raise NoAnswerError(
            f"no layer of {printable(adapter.name)} is in both {printable(model.name)} and "
            f"{printable(base.name)} in one shape",
            "name models of the architecture that it was made for",
        )
    sums: list[tuple[str, LayerSums]] = []
    skipped: dict[str, str] = dict.fromkeys(fit.missing, "no such weight")
    skipped |= dict.fromkeys(fit.mismatched, "a weight of another shape")
    progress.start("Measuring", sum(p.weight.matrix[0] for p in shared), "rows")
    try:
        with TensorReader() as reader:
            for placed in shared:
                try:
                    sums.append((placed.weight.block_name, _layer(reader, adapter, placed, base)))
                except (BadFactors, CheckpointError) as error:
                    if isinstance(error, CheckpointError) and error.path != adapter.path:
                        raise
                    skipped[placed.touched.module] = printable(error.args[0].splitlines()[0], 200)
                progress.advance(placed.weight.matrix[0])
    finally:
        progress.finish()
    by_block: dict[str, list[LayerSums]] = {}
    for block, layer in sums:
        by_block.setdefault(block, []).append(layer)
    touched = {placed.weight.key for placed in fit.placed}
    return Baked(
        model=model.name,
        base=base.name,
        whole=joint_strength([layer for _, layer in sums]),
        blocks=tuple(BlockStrength(b, joint_strength(layers)) for b, layers in by_block.items()),
        others=_others(model, base, touched) if with_others else (),
        only_model=len(model.weights.keys() - base.weights.keys()),
        only_base=len(base.weights.keys() - model.weights.keys()),
        skipped=skipped,
    )


def _counterpart(weight: Weight, base: ModelWeights) -> Weight | None:
    found = base.weights.get(weight.key)
    return found if found is not None and found.matrix == weight.matrix else None


def _layer(
    reader: TensorReader, adapter: AdapterFile, placed: Placed, base: ModelWeights
) -> LayerSums:
    made = adapter.load(reader, placed.touched)
    theirs = base.weights[placed.weight.key].ref
    ours = placed.weight.ref
    assert ours is not None and theirs is not None
    change: Change
    if placed.touched.layer.needs_base:
        rows = placed.touched.shape[0]
        change = change_of(made, rows_of(reader, theirs, placed, rows))
    else:
        assert made.change is not None
        change = made.change
    return layer_sums(reader, ours, theirs, placed.on_weight(change), placed.first_row)


def rows_of(reader: TensorReader, ref: TensorRef, placed: Placed, rows: int) -> Any:
    """Return the rows of a weight that a change depends on, as float64."""
    columns = placed.weight.matrix[1]
    if rows * columns > _LARGEST_HELD:
        raise BadFactors("its weight is too large to be held whole, as this change needs it")
    start = placed.first_row * columns
    out = np.empty(rows * columns, np.float64)
    to_double(reader.read(ref, start, start + rows * columns), ref.dtype, out)
    return out.reshape(rows, columns)


def _others(model: ModelWeights, base: ModelWeights, touched: set[str]) -> tuple[OtherChange, ...]:
    """Compare the weights that are in both, and that the adapter leaves alone, by component."""
    keys = sorted((model.weights.keys() & base.weights.keys()) - touched)
    found: dict[str, list[tuple[int, float | None]]] = {}
    for key in keys:
        ours, theirs = model.weights[key], base.weights[key]
        squared, changed = _difference(ours, theirs)
        found.setdefault(ours.component, []).append((changed, squared))
    changes = []
    for component, rows in found.items():
        changed = sum(1 for count, _ in rows if count)
        squares = [squared for _, squared in rows]
        l2 = None if None in squares else math.sqrt(sum(s for s in squares if s is not None))
        if changed:
            changes.append(OtherChange(component, len(rows), changed, l2))
    return tuple(changes)


def _difference(ours: Weight, theirs: Weight) -> tuple[float | None, int]:
    """Return the squared L2 and the number of differing elements; of other shapes, None and 1."""
    assert ours.ref is not None and theirs.ref is not None
    if ours.matrix != theirs.matrix:
        return None, 1
    if not ours.ref.numel:
        return 0.0, 0
    pairs = np.array([[0, 1]], dtype=np.int32)
    position = Position((ours.ref, theirs.ref), pairs, 1, ("l0", "l2"))
    (found,) = run_pair_piece(PairPiece((position,), _BUFFER))
    assert found.l0 is not None and found.l2 is not None
    count, l2 = int(found.l0[0]), float(found.l2[0])
    return (l2 * l2 if math.isfinite(l2) else None), count


def other_sentences(baked: Baked) -> list[str]:
    """Return what else changed, a line for each component; one line where nothing did."""
    if not (baked.others or baked.only_model or baked.only_base):
        return ["nothing else changed"]
    lines = []
    for other in baked.others:
        size = "" if other.l2 is None else f", by L2 {four_digits(other.l2)}"
        lines.append(
            f"also changed: {other.changed} of {counted(other.keys, 'weight')} of "
            f"{printable(other.component, 60)} that the adapter leaves alone{size}"
        )
    if baked.only_model:
        lines.append(f"only in {printable(baked.model, 60)}: {counted(baked.only_model, 'key')}")
    if baked.only_base:
        lines.append(f"only in {printable(baked.base, 60)}: {counted(baked.only_base, 'key')}")
    return lines


def blocks_in_order(blocks: Sequence[BlockStrength]) -> list[BlockStrength]:
    """Return blocks in the order of the network."""
    from megasim.anatomy.block_order import block_place

    return sorted(blocks, key=lambda b: block_place(b.block))


def shares_architecture(fit: AdapterFit) -> bool:
    """Whether a model has most layers of an adapter, in fitting shapes."""
    total = fit.layers + len(fit.missing) + len(fit.mismatched)
    return 2 * fit.layers > total
