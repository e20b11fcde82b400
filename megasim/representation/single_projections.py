"""Projections of a layer that lie in one tensor → a tensor for each, as most models hold them.

Phi-3, Phi-4 and what is laid out like them hold query, key and value one above another in
`qkv_proj`, and the gate above what it gates in `gate_up_proj`; GLM-4 only the latter. Copies in the
layout of Llama hold the same rows apart. How many rows each has follows from the layers that take
them in: as many queries as `o_proj` has inputs, and as many gates as `down_proj` has. Source:
transformers 5.24.0, `models/phi3` and `models/glm4`.

What is not told by the weights themselves stays fused: where the rows are interleaved head by head
(`query_key_value` of GPT-NeoX, BLOOM and Falcon), only a config.json beside the file says how many
heads there are, and a model would then differ from its own copy without one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from megasim.checkpoint.tensors import TensorRef
from megasim.representation.row_ranges import row_range

# The last names of a fused projection → what its rows are, from the top.
FUSED_PROJECTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
# Which layer takes in as many numbers as the first of them gives.
_TAKERS: Final = {"qkv_proj": "o_proj", "gate_up_proj": "down_proj"}
_KINDS: Final = (".weight", ".bias")


def single_projections(tensors: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    """Return the tensors with fused projections as one for each; each stands where the whole stood.

    >>> qkv = TensorRef("0.self_attn.qkv_proj.weight", "float16", (10, 6), "m", 0)
    >>> out = TensorRef("0.self_attn.o_proj.weight", "float16", (6, 6), "m", 120)
    >>> {k: ref.shape for k, ref in single_projections({qkv.key: qkv, out.key: out}).items()}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'0.self_attn.q_proj.weight': (6, 6), '0.self_attn.k_proj.weight': (2, 6),
     '0.self_attn.v_proj.weight': (2, 6), '0.self_attn.o_proj.weight': (6, 6)}
    """
    found: dict[str, TensorRef] = {}
    for key, ref in tensors.items():
        parts = _parts(key, ref, tensors)
        if parts and not any(part.key in tensors for part in parts):
            found |= {part.key: part for part in parts}
        else:
            found[key] = ref
    return found


def _parts(key: str, ref: TensorRef, tensors: Mapping[str, TensorRef]) -> list[TensorRef]:
    """Return the projections that a tensor is of; none where it is not told."""
    kind = next((kind for kind in _KINDS if key.endswith(kind)), "")
    prefix, _, name = key.removesuffix(kind).rpartition(".")
    if not kind or name not in FUSED_PROJECTIONS or not ref.shape:
        return []
    taker = tensors.get(f"{prefix}.{_TAKERS[name]}.weight")
    if taker is None or len(taker.shape) != 2:
        return []
    parts: list[TensorRef] = []
    for part, (first, last) in zip(
        FUSED_PROJECTIONS[name], _ranges(name, ref.shape[0], taker.shape[1]), strict=False
    ):
        cut = row_range(ref, f"{prefix}.{part}{kind}", first, last)
        if cut is None:
            return []
        parts.append(cut)
    return parts


def _ranges(name: str, rows: int, first: int) -> Iterator[tuple[int, int]]:
    """Yield the rows of each projection, the first of which has `first`; nothing if none fit."""
    others = len(FUSED_PROJECTIONS[name]) - 1
    each, left = divmod(rows - first, others)
    if left or not 0 < each <= first or (others == 1 and each != first):
        return
    yield 0, first
    for i in range(others):
        yield first + i * each, first + (i + 1) * each
