"""Tensor subclasses of torchao, as its safetensors keep them, and as torch.save pickles them.

In safetensors `layer.weight` is flattened to `layer._weight_qdata`, `layer._weight_scale` …, and
the metadata of the file say under `layer.weight` which class it was. A pickle names the class, and
its state holds the same tensors by the same names. Source: torchao 0.18.0, `prototype/safetensors`
and `utils.TorchAOBaseTensor`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from megasim.checkpoint.strict_json import JSON, parse_json
from megasim.checkpoint.tensors import TensorRef
from megasim.errors import printable
from megasim.representation.four_bit_floats import float_blocks
from megasim.representation.logical import Represented, StoredTensors
from megasim.representation.scaled import scaled

_MAX_JSON: Final = 1 << 12
_NUMBERS: Final = ("Float8Tensor", "Int8Tensor", "IntxUnpackedToInt8Tensor")
_BLOCKS: Final = ("NVFP4Tensor", "MXTensor")
# Data beside the weights that changes none of their values: scales of what goes into the layer.
_OF_INPUT: Final = ("act_quant_scale", "act_quant_zero_point", "act_per_tensor_scale")


def flattened_subclasses(stored: StoredTensors) -> Iterator[Represented]:
    """Find the tensors that the metadata of a file say were torchao's."""
    if "tensor_names" not in stored.metadata:
        return
    for key, text in stored.metadata.items():
        said = _said(text)
        kind, names = said.get("_type"), said.get("_tensor_data_names")
        if not isinstance(kind, str) or not isinstance(names, list):
            continue
        module, dot, name = key.rpartition(".")
        prefix = f"{module}{dot}_{name}_"
        parts = {str(n): stored.tensors.get(f"{prefix}{n}") for n in names}
        sources = tuple(f"{prefix}{n}" for n, ref in parts.items() if ref is not None)
        if not sources:
            continue
        missing = [n for n, ref in parts.items() if ref is None]
        found = {n: ref for n, ref in parts.items() if ref is not None}
        data = said.get("_data")
        options = data if isinstance(data, dict) else {}
        problem = f"its {printable(missing[0], 40)} is missing" if missing else ""
        yield _represented(key, kind, sources, found, options, problem)


def pickled_subclasses(stored: StoredTensors) -> Iterator[Represented]:
    """Find the tensors that a pickle says were torchao's."""
    for key, odd in stored.unread.items():
        package, _, kind = odd.subclass.partition(".")
        if package == "torchao" and odd.names:
            parts = dict(zip(odd.names, odd.stored, strict=True))
            said = _represented(key, kind.rpartition(".")[2], (key,), parts, odd.options, "")
            yield said if odd.shape in (None, said.shape) else _misshapen(said, odd.shape)


def _misshapen(found: Represented, shape: tuple[int, ...] | None) -> Represented:
    said = "x".join(map(str, found.shape))
    problem = f"its codes, {said}, are not of the shape that is said"
    return Represented(found.key, shape or (), found.sources, None, problem)


def _said(text: JSON) -> dict[str, JSON]:
    """Return what the metadata say of one tensor; empty where it is no JSON of a mapping."""
    if not isinstance(text, str) or not text.startswith("{"):
        return {}
    try:
        said = parse_json(text.encode(), _MAX_JSON)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _represented(
    key: str,
    kind: str,
    sources: tuple[str, ...],
    parts: dict[str, TensorRef],
    options: Mapping[str, JSON],
    problem: str,
) -> Represented:
    codes, scales = parts.get("qdata"), parts.get("scale")
    shape = codes.shape if codes is not None else next(iter(parts.values())).shape
    others = parts.keys() - {"qdata", "scale", *_OF_INPUT}
    if "act_pre_scale" in parts:
        problem = problem or "the scale of its inputs is part of its values: not decoded"
    elif kind not in (*_NUMBERS, *_BLOCKS) or codes is None or scales is None:
        problem = problem or f"a {printable(kind, 60)} of torchao: not decoded"
    elif options.get("is_swizzled_scales") is True:
        problem = problem or "its scales are laid out in tiles of a GPU: not decoded"
    elif not problem and kind in _NUMBERS and others <= {"zero_point"}:
        found = scaled(key, codes, scales, sources, parts.get("zero_point"))
        return found.named(f"torchao {_name(kind, options, codes)}")
    elif not problem and kind == "MXTensor" and codes.dtype.startswith("float8") and not others:
        return scaled(key, codes, scales, sources).named(f"torchao mx{_short(codes)}")
    elif not problem and kind in _BLOCKS and others <= {"per_tensor_scale"}:
        if codes.dtype == "uint8":
            shape = (*codes.shape[:-1], 2 * codes.shape[-1])
            whole = parts.get("per_tensor_scale")
            found = float_blocks(key, shape, sources, codes, scales, whole)
            return found.named(f"torchao {'nvfp4' if kind == 'NVFP4Tensor' else 'mxfp4'}")
        problem = f"a {kind} of {codes.dtype}: not decoded"
    else:
        problem = problem or f"a {kind} with {', '.join(sorted(others))}: not decoded"
    return Represented(key, shape, sources, None, problem)


def _short(codes: TensorRef) -> str:
    return codes.dtype.replace("float8", "fp8")


def _name(kind: str, options: Mapping[str, JSON], codes: TensorRef) -> str:
    target = options.get("target_dtype")
    if isinstance(target, dict):
        target = target.get("_data")
    if kind == "IntxUnpackedToInt8Tensor" and isinstance(target, str):
        return printable(target.removeprefix("torch."), 10)
    return _short(codes)
