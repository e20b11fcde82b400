"""Quantised tensors that real libraries wrote, against the values that these decode.

`write_golden` wrote them, and states the versions.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from megasim.fingerprint.tensor import content_hashes
from megasim.representation.opening import open_model
from tests.representation.logical_models import check_ranges, read_values

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(path.name for path in GOLDEN.iterdir())

SCHEMES = {
    "awq_int4": "awq int4",
    "bitsandbytes_fp4_nested_float32": "bitsandbytes fp4",
    "bitsandbytes_int8": "bitsandbytes int8",
    "bitsandbytes_nf4_nested_bfloat16": "bitsandbytes nf4",
    "bitsandbytes_nf4_nested_uint8": "bitsandbytes nf4",
    "bitsandbytes_nf4_uint8": "bitsandbytes nf4",
    "compressed_tensors_int3": "compressed-tensors int3",
    "compressed_tensors_int4": "compressed-tensors int4",
    "compressed_tensors_int4_asymmetric": "compressed-tensors int4",
    "compressed_tensors_int8_asymmetric": "compressed-tensors int8",
    "compressed_tensors_int8_channel": "compressed-tensors int8",
    "compressed_tensors_mxfp4": "mxfp4",
    "compressed_tensors_nvfp4": "nvfp4",
    "gpt_oss_mxfp4": "mxfp4",
    "gptq_int2": "gptq int2",
    "gptq_int3": "gptq int3",
    "gptq_int4": "gptq int4",
    "gptq_int8": "gptq int8",
    "torchao_float8": "torchao fp8_e4m3fn",
    "torchao_float8_tensor": "torchao fp8_e4m3fn",
    "torchao_int8": "torchao int8",
    "torchao_intx": "torchao int4",
    "torchao_mxfp4": "torchao mxfp4",
    "torchao_mxfp8": "torchao mxfp8_e4m3fn",
    "torchao_nvfp4": "torchao nvfp4",
}


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_the_library(name: str) -> None:
    expected = load_file(GOLDEN / name / "values.safetensors")
    with safe_open(GOLDEN / name / "values.safetensors", "numpy") as file:
        library = file.metadata()["library"]
    found = read_values(GOLDEN / name / "model.safetensors")
    assert found.keys() == expected.keys(), library
    for key, values in expected.items():
        assert np.array_equal(found[key], values), library


@pytest.mark.parametrize("name", NAMES)
def test_any_range_of_values(name: str) -> None:
    for ref in open_model(GOLDEN / name / "model.safetensors").tensors.values():
        if ref.decoder is not None:
            check_ranges(ref)


def test_every_scheme_has_its_name() -> None:
    told = {}
    for name in NAMES:
        refs = open_model(GOLDEN / name / "model.safetensors").tensors.values()
        (told[name],) = {ref.decoder.scheme for ref in refs if ref.decoder is not None}
    assert told == SCHEMES


@pytest.mark.parametrize("name", NAMES)
def test_one_byte_more_or_less_is_another_content(name: str, tmp_path: Path) -> None:
    """Whatever byte of codes, scales or zero points changes, the content hash does."""
    source = GOLDEN / name / "model.safetensors"
    for config in (GOLDEN / name).glob("config.json"):
        shutil.copy(config, tmp_path)
    (before,) = (r for r in open_model(source).tensors.values() if r.decoder is not None)
    assert before.decoder is not None
    data = source.read_bytes()
    for stored in before.decoder.stored:
        if stored.dtype == "float32" or "g_idx" in stored.key:
            continue  # a byte of it may be no sound one
        place = stored.offset + stored.nbytes // 2
        changed = bytearray(data)
        changed[place] ^= 1
        (tmp_path / "model.safetensors").write_bytes(changed)
        (after,) = (
            r
            for r in open_model(tmp_path / "model.safetensors").tensors.values()
            if r.decoder is not None
        )
        assert content_hashes([after]) != content_hashes([before]), stored.key
