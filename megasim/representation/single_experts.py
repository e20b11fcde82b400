"""Experts of a layer that lie in one tensor → a tensor for each, as most files hold them.

transformers 5 keeps the experts of Mixtral, Qwen-MoE and others in memory as `gate_up_proj`,
(experts, 2 × inner, width), the gates above what they gate, and `down_proj`, (experts, width,
inner); its `save_pretrained` splits them, `torch.save` and other tools do not. Llama 4 and gpt-oss
hold inputs × outputs in both, and stay as they are. Source: transformers 5.24.0,
`conversion_mapping.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Final

from megasim.checkpoint.dtypes import STORAGE_DTYPES
from megasim.checkpoint.tensors import TensorRef

_GATES: Final = ".experts.gate_up_proj"
_DOWN: Final = ".experts.down_proj"


def single_experts(tensors: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    """Return the tensors with those of all experts of a layer as one for each expert.

    Each stands where the whole stood. What is no such pair of plain tensors is left as it is.

    >>> gates = TensorRef("0.experts.gate_up_proj", "float16", (2, 6, 5), "m", 0)
    >>> down = TensorRef("0.experts.down_proj", "float16", (2, 5, 3), "m", 120)
    >>> list(single_experts({gates.key: gates, down.key: down}))[:3]
    ['0.experts.0.gate_proj.weight', '0.experts.0.up_proj.weight', '0.experts.1.gate_proj.weight']
    """
    if not any(key.endswith(_GATES) for key in tensors):
        return dict(tensors)
    found: dict[str, TensorRef] = {}
    for key, ref in tensors.items():
        prefix = key.removesuffix(_GATES).removesuffix(_DOWN)
        gates, down = tensors.get(prefix + _GATES), tensors.get(prefix + _DOWN)
        if prefix == key or gates is None or down is None or not _fit(gates, down):
            found.setdefault(key, ref)
        elif ref is gates:
            for i in range(ref.shape[0]):
                for j, name in enumerate(("gate_proj", "up_proj")):
                    part = _part(ref, f"{prefix}.experts.{i}.{name}.weight", 2 * i + j, 2)
                    found[part.key] = part
        else:
            for i in range(ref.shape[0]):
                part = _part(ref, f"{prefix}.experts.{i}.down_proj.weight", i, 1)
                found[part.key] = part
    return found if len(found) >= len(tensors) else dict(tensors)


def _fit(gates: TensorRef, down: TensorRef) -> bool:
    """Whether both hold outputs × inputs, the first twice as many as the second takes in."""
    if len(gates.shape) != 3 or len(down.shape) != 3 or not (gates.lies_whole and down.lies_whole):
        return False
    experts, width, inner = down.shape
    return prod(down.shape) > 0 and gates.shape == (experts, 2 * inner, width)


def _part(ref: TensorRef, key: str, number: int, of_each: int) -> TensorRef:
    """Return one of the equal parts that the rows of all experts are cut into."""
    shape = (ref.shape[1] // of_each, ref.shape[2])
    size = prod(shape) * STORAGE_DTYPES[ref.dtype].itemsize
    return replace(ref, key=key, shape=shape, offset=ref.offset + number * size)
