"""Pairs of a model and a copy of it that AWQ made → the proof, in the store.

AWQ scales the inputs of layers before it rounds, and norms the other way: no single tensor of such
a copy lies within half a step, and norms have changed. Both follow from the same factors. So this
looks at all changed tensors of a pair together, where `measure_rounding` looks at one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from megasim.checkpoint.opening import Checkpoint
from megasim.checkpoint.tensors import TensorReader, TensorRef
from megasim.errors import CheckpointError
from megasim.ingest.reading import assemble_ref
from megasim.kernels.state import Singles
from megasim.representation.boxes import as_singles
from megasim.representation.rounding import SCALED
from megasim.representation.scaled_inputs import explains, input_factors, slack_of_factors
from megasim.store.batches import pair_table, table_of
from megasim.store.rows import Pair, Store

# Pairs of models whose keys are looked up at a time.
_PAIRS: Final = 64
# Norms that are tried for a layer, those of its block first.
_MOST_NORMS: Final = 8


@dataclass(frozen=True)
class _Changed:
    """A tensor that differs in a pair, quantised in one model or plain in both.

    Attributes:
        sources, transposed: what it is made of in either file.
        tensors: the ids of the contents.
        is_coded: whether it is quantised in one of the two.
        measured, within: as `measure_rounding` found; None where it found nothing.
    """

    sources: tuple[Sequence[str], Sequence[str]]
    transposed: tuple[bool, bool]
    block: str | None
    tensors: Pair
    is_coded: bool
    measured: int | None
    within: int | None
    basis: str


def prove_scaled_copies(
    store: Store,
    pairs: Sequence[Pair],
    coded: Collection[int],
    checkpoints: Mapping[int, Checkpoint],
) -> None:
    """Save of which pairs one model is the other, its inputs scaled and rounded to codes.

    Args:
        pairs: of models, one of each `coded`: quantised.
    """
    for start in range(0, len(pairs), _PAIRS):
        some = pairs[start : start + _PAIRS]
        batch = {"batch": pair_table(some)}
        firsts, seconds = (sorted(set(ids)) for ids in zip(*some, strict=True))
        changed: dict[Pair, list[_Changed]] = defaultdict(list)
        rows = store.rows("changed_of_coded_pairs", tables=batch, firsts=firsts, seconds=seconds)
        for a, b, of_a, of_b, turned_a, turned_b, block, tensor_a, tensor_b, *rest in rows:
            sides = (of_a, of_b), (turned_a, turned_b)
            changed[a, b].append(_Changed(*sides, block, (tensor_a, tensor_b), *rest))
        proved: dict[Pair, int] = {}
        for (a, b), tensors in changed.items():
            refs = [_refs(checkpoints[m], side, tensors) for side, m in enumerate((a, b))]
            copy = 0 if a in coded else 1
            with suppress(CheckpointError):  # whoever needs the file next will say so
                proved |= _proved(tensors, refs[copy], refs[1 - copy])
        if proved:
            names = ["tensor_a", "tensor_b", "basis", "proving"]
            found = [(min(p), max(p), SCALED, count) for p, count in sorted(proved.items())]
            with store.transaction():
                store.write("add_proofs", tables={"batch": table_of(names, found)})


def _refs(checkpoint: Checkpoint, side: int, tensors: Sequence[_Changed]) -> list[TensorRef]:
    held = checkpoint.tensors
    return [assemble_ref(held, one.sources[side], one.transposed[side]) for one in tensors]


def _proved(
    tensors: Sequence[_Changed],
    copies: Sequence[TensorRef],
    originals: Sequence[TensorRef],
) -> dict[Pair, int]:
    """Return the contents that factors explain, with how many values; empty unless all are."""
    triples = list(zip(tensors, copies, originals, strict=True))
    layers = [
        (one, copy, original)
        for one, copy, original in triples
        if one.is_coded and one.within != one.measured
    ]
    norms = [(one, copy, original) for one, copy, original in triples if not one.is_coded]
    if any(one.measured is None for one, _, _ in layers):
        return {}
    if not norms or not layers:  # without norms, such factors may be scales of another file
        return {}
    found: dict[Pair, int] = {}
    with TensorReader() as reader:
        factors: list[tuple[_Changed, Singles, float]] = []
        for one, copy, original in norms:
            if len(copy.shape) != 1:
                return {}
            folded, plain = (as_singles(reader.read(ref), ref.dtype) for ref in (copy, original))
            slack = slack_of_factors(copy.dtype, original.dtype)
            for offset in (0.0, 1.0):  # the norms of the Gemma family hold one less than they are
                told = input_factors(plain + offset, folded + offset)
                if told is not None:
                    factors.append((one, told, slack))
        for one, copy, original in layers:
            if len(copy.shape) != 2 or copy.shape != original.shape:
                return {}
            known = [f for f in factors if len(f[1]) == copy.shape[1]]
            known.sort(key=lambda f: f[0].block != one.block)
            for norm, told, slack in known[:_MOST_NORMS]:
                if any(
                    explains(reader, copy, original, told, slack, outputs=outputs)
                    for outputs in (False, True)
                ):
                    found[norm.tensors] = len(told)
                    break
            else:
                slack = slack_of_factors(original.dtype)
                if not explains(reader, copy, original, None, slack):
                    return {}
            found[one.tensors] = copy.numel
    return found if all(one.tensors in found for one, _, _ in norms) else {}
