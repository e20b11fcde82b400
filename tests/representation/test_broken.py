"""What is broken or ambiguous is one sentence, and the other keys are still read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from megasim.representation.opening import open_model
from tests.models import write_model
from tests.representation.logical_models import problem_of

GOLDEN = Path(__file__).parent / "golden"

Tensors = dict[str, torch.Tensor]
STATE = "a.weight.quant_state.bitsandbytes__nf4"


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {k: t for k, t in tensors.items() if k != name}


def with_(**changed: torch.Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, **{k.replace("__", "."): t for k, t in changed.items()}}


def said(**changed: object) -> Callable[[Tensors], Tensors]:
    def change(tensors: Tensors) -> Tensors:
        state = {**json.loads(bytes(tensors[STATE].tolist())), **changed}
        text = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
        return {**tensors, STATE: text}

    return change


def cut(key: str, rows: int) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, key: tensors[key][:-rows].clone()}


NF4 = "bitsandbytes_nf4_nested_uint8"
NO_JSON = torch.tensor(list(b"no json"), dtype=torch.uint8)
ONE = torch.tensor(1, dtype=torch.uint8)
FAR = torch.full((64,), 99, dtype=torch.int32)
BEFORE = torch.full((64,), -1, dtype=torch.int32)
INT = "compressed_tensors_int4_asymmetric"

CASES: list[tuple[str, Callable[[Tensors], Tensors], str]] = [
    (NF4, cut("a.weight", 7), "1017 bytes of 4-bit codes for 32x64 values"),
    (NF4, without("a.weight.absmax"), "its absmax is missing"),
    (NF4, with_(a__weight__absmax=torch.ones(7)), "its absmax are 7 float32, where 32 belong"),
    (NF4, with_(a__weight__quant_map=torch.ones(15)), "its quant_map are 15 float32"),
    (NF4, with_(a__weight__nested_absmax=torch.ones(9)), "its nested_absmax are 9 float32"),
    (NF4, without("a.weight.nested_quant_map"), "its nested_quant_map is missing"),
    (NF4, lambda tensors: {**tensors, STATE: NO_JSON}, "its quant_state is no JSON"),
    (NF4, said(blocksize=0), "its quant_state has no sound blocksize"),
    (NF4, said(blocksize=1 << 40), "its quant_state has no sound blocksize"),
    (NF4, said(blocksize=True), "its quant_state has no sound blocksize"),
    (NF4, said(nested_blocksize=-4), "its quant_state has no sound nested_blocksize"),
    (NF4, said(shape=[-32, -64]), "its quant_state has no sound shape"),
    (NF4, said(shape=None), "its quant_state has no shape"),
    (NF4, said(shape=[1 << 40, 1 << 40]), "1024 bytes of 4-bit codes"),
    (NF4, said(nested_offset=None), "its quant_state has no nested_offset"),
    (NF4, said(nested_offset=1e300), "its quant_state has no nested_offset"),
    ("bitsandbytes_int8", with_(a__SCB=torch.ones(7)), "its SCB are 7 float32"),
    ("bitsandbytes_int8", with_(a__weight_format=ONE), "laid out in tiles of a GPU: not decoded"),
    ("gptq_int4", without("a.qzeros"), "its zero points, qzeros, are missing"),
    ("gptq_int4", with_(a__g_idx=FAR), "its g_idx names group 99 of 2"),
    ("gptq_int4", with_(a__g_idx=BEFORE), "its g_idx names group -1 of 2"),
    ("gptq_int4", with_(a__g_idx=FAR[:9].clone()), "its g_idx has 9 int32 for 64 inputs"),
    ("gptq_int4", with_(a__scales=torch.ones(3, 32)), "do not fit 3 groups"),
    ("gptq_int4", with_(a__scales=torch.ones(2, 7)), "fit neither GPTQ nor AWQ"),
    ("gptq_int4", with_(a__scales=torch.ones(2)), "are no groups × outputs"),
    ("gptq_int4", cut("a.qzeros", 1), "its qzeros, 1x4, do not fit 2 groups"),
    ("gptq_int4", cut("a.qweight", 1), "its g_idx has 64 int32 for 56 inputs"),
    ("gptq_int3", cut("a.qweight", 1), "fit no whole bits"),
    ("awq_int4", cut("a.qzeros", 1), "its qzeros, 1x4, do not fit 2 groups"),
    ("awq_int4", cut("a.qweight", 1), "2 groups do not divide 63 inputs"),
    (INT, without("a.weight_scale"), "its weight_scale is missing"),
    (INT, without("a.weight_shape"), "its weight_shape is missing"),
    (INT, with_(a__weight_shape=torch.tensor([32, 99])), "fit no whole bits of (32, 99) values"),
    (INT, with_(a__weight_shape=torch.tensor([-1, 64])), "its weight_shape is no shape"),
    (INT, with_(a__weight_scale=torch.ones(3, 5)), "its scales, 3x5, do not fit"),
    (INT, with_(a__weight_zero_point=torch.ones(1, 5).int()), "zero points, 1x5, do not fit"),
    (INT, with_(a__weight_g_idx=FAR), "its g_idx names group 99 of 2"),
    ("compressed_tensors_nvfp4", without("a.weight_scale"), "its weight_scale is missing"),
    ("compressed_tensors_nvfp4", cut("a.weight_scale", 1), "fit no blocks of 32x64 4-bit floats"),
    (
        "compressed_tensors_nvfp4",
        with_(a__weight_global_scale=torch.ones(2)),
        "its scale of the whole is no float32",
    ),
    ("compressed_tensors_mxfp4", without("a.weight_scale"), "its weight_scale is missing"),
    ("compressed_tensors_mxfp4", cut("a.weight_scale", 1), "fit no blocks of 32x64 4-bit floats"),
    ("compressed_tensors_mxfp4", cut("a.weight_packed", 1), "fit no blocks of 31x64 4-bit floats"),
    ("compressed_tensors_int3", cut("a.weight_packed", 1), "fit no whole bits of (32, 64) values"),
    ("compressed_tensors_int8_channel", cut("a.weight_scale", 1), "31x1, do not fit (32, 64)"),
    ("torchao_mxfp8", cut("a._weight_scale", 1), "fit no blocks"),
    ("torchao_float8", cut("a._weight_scale", 1), "fit no blocks"),
    ("torchao_int8", cut("a._weight_scale", 1), "its scales, 31x1 of float32, fit no blocks"),
    ("torchao_int8", without("a._weight_scale"), "its scale is missing"),
    ("torchao_nvfp4", with_(a___weight_scale=torch.ones(2)), "fit no blocks of 32x64 4-bit"),
]


def tensors_of(name: str) -> tuple[Tensors, Mapping[str, str]]:
    path = GOLDEN / name / "model.safetensors"
    with safe_open(path, "pt") as file:
        return load_file(path), file.metadata() or {}


@pytest.mark.parametrize(("name", "change", "words"), CASES)
def test_what_is_broken_is_said(
    name: str, change: Callable[[Tensors], Tensors], words: str, tmp_path: Path
) -> None:
    tensors, metadata = tensors_of(name)
    for config in (GOLDEN / name).glob("config.json"):
        shutil.copy(config, tmp_path)
    assert words in problem_of(tmp_path, change(tensors), "a.weight", **metadata)


@pytest.mark.parametrize("name", ["int4_asymmetric", "int8_asymmetric"])
def test_zero_points_that_one_layer_lacks(name: str, tmp_path: Path) -> None:
    """A file whose other layers have theirs: the layer is no symmetric one, unless that is said."""
    tensors, metadata = tensors_of(f"compressed_tensors_{name}")
    other = {key.replace("a.", "b.", 1): value for key, value in tensors.items()}
    broken = {**without("a.weight_zero_point")(tensors), **other}
    assert "weight_zero_point, are missing" in problem_of(tmp_path, broken, "a.weight", **metadata)
    assert "b.weight" in open_model(tmp_path / "m.safetensors").tensors
    groups = {"one": {"weights": {"symmetric": True}}, "two": {"weights": {"symmetric": False}}}
    config = {"quantization_config": {"config_groups": groups}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "a.weight" in open_model(tmp_path / "m.safetensors").tensors


def test_experts_without_scales(tmp_path: Path) -> None:
    tensors, _ = tensors_of("gpt_oss_mxfp4")
    key = "model.layers.0.mlp.experts.gate_up_proj"
    assert "_scales are missing" in problem_of(tmp_path, without(f"{key}_scales")(tensors), key)
    broken = cut(f"{key}_scales", 1)(tensors)
    assert "its scales, 1x20x3 of uint8, fit no blocks" in problem_of(tmp_path, broken, key)


def test_zero_points_of_an_unknown_convention(tmp_path: Path) -> None:
    """Without config.json; but where all are in the middle, only one convention makes sense."""
    tensors, _ = tensors_of("gptq_int4")
    assert "its config.json, which says so, is not beside it" in problem_of(
        tmp_path, tensors, "a.weight"
    )
    for stored, scheme in ((0x77777777, "gptq int4"), (-0x77777778, "gptq_v2 int4")):
        middle = torch.full_like(tensors["a.qzeros"], stored)
        path = write_model(tmp_path / "m.safetensors", {**tensors, "a.qzeros": middle})
        decoder = open_model(path).tensors["a.weight"].decoder
        assert decoder is not None
        assert decoder.scheme == scheme
    said_so = {"quantization_config": {"quant_method": "gptq", "checkpoint_format": "marlin"}}
    (tmp_path / "config.json").write_text(json.dumps(said_so))
    assert "GPTQ in the layout 'marlin': not decoded" in problem_of(tmp_path, tensors, "a.weight")


def test_a_key_that_is_there_twice_is_not_decoded(tmp_path: Path) -> None:
    tensors, _ = tensors_of("compressed_tensors_int4")
    path = write_model(tmp_path / "m.safetensors", {**tensors, "a.weight": torch.ones(4, 4)})
    opened = open_model(path)
    assert opened.tensors["a.weight"].decoder is None
    assert "a.weight_packed" in opened.tensors


UNDECODED = [
    (
        {"qweight": torch.int8, "wscales": torch.float16, "smooth_factor": torch.float16},
        "SVDQuant, packed for tensor cores: not decoded",
    ),
    (
        {"q_weight": torch.int32, "q_scale": torch.int32, "q_scale_max": torch.float16}
        | {"q_groups": torch.int16},
        "EXL2: not decoded",
    ),
    ({"W_q": torch.uint8, "scale": torch.float16, "zero": torch.float16}, "HQQ: not decoded"),
    (
        {"weight._data": torch.int8, "weight._scale": torch.float16},
        "a weight of optimum-quanto: not decoded",
    ),
    (
        {"weight._data._data": torch.uint8, "weight._scale": torch.float16}
        | {"weight._shift": torch.float16},
        "a packed weight of optimum-quanto: not decoded",
    ),
    (
        {"codes": torch.int16, "codebooks": torch.float16, "scales": torch.float16},
        "AQLM, codes of learned vectors: not decoded",
    ),
]


@pytest.mark.parametrize(("parts", "words"), UNDECODED)
def test_what_is_known_and_not_decoded_is_named(
    parts: dict[str, torch.dtype], words: str, tmp_path: Path
) -> None:
    tensors = {f"a.{name}": torch.ones(8, 8, dtype=dtype) for name, dtype in parts.items()}
    assert problem_of(tmp_path, tensors, "a.weight") == words


def test_names_alone_make_no_scheme(tmp_path: Path) -> None:
    """A projection that is called W_q is a weight."""
    path = write_model(tmp_path / "m.safetensors", {"attn.W_q": torch.ones(8, 8)})
    assert open_model(path).tensors.keys() == {"attn.W_q"}
