"""Writes `golden/`: small quantised tensors as real libraries write them, and what these decode.

Not a test: it needs the libraries, in the versions below. A folder of it holds `model.safetensors`,
perhaps `config.json`, and `values.safetensors`, the float32 values as the library dequantises them,
whose metadata name it.

    pip install torch==2.13.0 bitsandbytes==0.50.2 compressed-tensors==0.20.1 torchao==0.18.0 \
        transformers==5.24.0
    pip download --no-deps auto-gptq==0.7.1 autoawq==0.2.9, unpack both, and name the folders:
    PYTHONPATH=. python -m tests.representation.write_golden AUTO_GPTQ_FOLDER AUTOAWQ_FOLDER
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file

GOLDEN = Path(__file__).parent / "golden"


def weights(rows: int = 32, columns: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows + columns)
    return torch.randn(rows, columns, generator=generator) * 0.02


def save(
    name: str,
    library: str,
    tensors: Mapping[str, torch.Tensor],
    values: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    folder = GOLDEN / name
    folder.mkdir(parents=True)
    plain = {key: t.detach().contiguous().clone() for key, t in tensors.items()}
    save_file(plain, folder / "model.safetensors", dict(metadata or {}))
    decoded = {key: t.detach().float().contiguous().clone() for key, t in values.items()}
    save_file(decoded, folder / "values.safetensors", {"library": library})
    if config is not None:
        (folder / "config.json").write_text(json.dumps({"quantization_config": config}))


def write_bitsandbytes() -> None:
    from bitsandbytes import functional

    library = "bitsandbytes 0.50.2"
    for kind, nested, storage in (
        ("nf4", False, torch.uint8),
        ("nf4", True, torch.uint8),
        ("nf4", True, torch.bfloat16),
        ("fp4", True, torch.float32),
    ):
        codes, state = functional.quantize_4bit(
            weights(), compress_statistics=nested, quant_type=kind, quant_storage=storage
        )
        tensors = {"a.weight": codes}
        tensors |= {f"a.weight.{name}": t for name, t in state.as_dict(packed=True).items()}
        state.dtype = torch.float32
        values = functional.dequantize_4bit(codes, state)
        name = f"bitsandbytes_{kind}{'_nested' if nested else ''}_{str(storage)[6:]}"
        save(name, library, tensors, {"a.weight": values})
    codes, scales, _ = functional.int8_vectorwise_quant(weights().half())
    by_row = torch.tensor(0, dtype=torch.uint8)
    tensors = {"a.weight": codes, "a.SCB": scales, "a.weight_format": by_row}
    values = functional.int8_vectorwise_dequant(codes, scales)
    save("bitsandbytes_int8", library, tensors, {"a.weight": values})


def _scheme(**arguments: Any) -> Any:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    return QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**arguments))


def _parameters(scheme: Any, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return scales and zero points as an observer of smallest and largest values gives them."""
    from compressed_tensors.quantization.utils import calculate_qparams

    arguments = scheme.weights
    groups = weight.reshape(len(weight), -1, arguments.group_size or weight.shape[1])
    low, high = groups.amin(-1), groups.amax(-1)
    if arguments.strategy == "tensor":
        low, high = weight.min().reshape(1), weight.max().reshape(1)
    scale, zero = calculate_qparams(low, high, arguments)
    return {"weight_scale": scale, "weight_zero_point": zero}


def write_compressed_tensors() -> None:
    from compressed_tensors.compressors.mxfp4.base import MXFP4PackedCompressor
    from compressed_tensors.compressors.nvfp4.base import NVFP4PackedCompressor
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor

    library = "compressed-tensors 0.20.1"
    grouped = {"strategy": "group", "group_size": 32}
    for name, arguments in {
        "int4": {"num_bits": 4, **grouped},
        "int4_asymmetric": {"num_bits": 4, "symmetric": False, **grouped},
        "int3": {"num_bits": 3, **grouped},
        "int8_channel": {"num_bits": 8, "strategy": "channel"},
        "int8_asymmetric": {"num_bits": 8, "strategy": "channel", "symmetric": False},
    }.items():
        scheme = _scheme(type="int", **arguments)
        weight = weights()
        state = {"weight": weight, **_parameters(scheme, weight)}
        packed = PackedQuantizationCompressor.compress(state, scheme)
        values = PackedQuantizationCompressor.decompress(packed, scheme)["weight"]
        tensors = {f"a.{key}": t for key, t in packed.items()}
        save(f"compressed_tensors_{name}", library, tensors, {"a.weight": values})
    weight = weights()
    largest = weight.reshape(len(weight), -1, 16).abs().amax(-1)
    whole = (448 * 6 / weight.abs().max()).reshape(1)
    state = {
        "weight": weight,
        "weight_scale": (largest / 6 * whole).to(torch.float8_e4m3fn).float(),
        "weight_global_scale": whole,
    }
    scheme = _scheme(num_bits=4, type="float", strategy="tensor_group", group_size=16)
    packed = NVFP4PackedCompressor.compress(state, scheme)
    values = _in_float32(NVFP4PackedCompressor, packed, scheme)
    tensors = {f"a.{key}": t for key, t in packed.items()}
    save("compressed_tensors_nvfp4", library, tensors, {"a.weight": values})
    largest = weight.reshape(len(weight), -1, 32).abs().amax(-1)
    state = {"weight": weight, "weight_scale": 2.0 ** torch.floor(torch.log2(largest / 4))}
    scheme = _scheme(num_bits=4, type="float", strategy="group", group_size=32)
    packed = MXFP4PackedCompressor.compress(state, scheme)
    values = _in_float32(MXFP4PackedCompressor, packed, scheme)
    tensors = {f"a.{key}": t for key, t in packed.items()}
    save("compressed_tensors_mxfp4", library, tensors, {"a.weight": values})


def _in_float32(compressor: Any, packed: Mapping[str, torch.Tensor], scheme: Any) -> torch.Tensor:
    """Decompress without the rounding to bfloat16 that the library ends with."""
    from compressed_tensors.compressors.nvfp4 import helpers
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    rows, columns = packed["weight_packed"].shape
    codes = helpers.unpack_fp4_from_uint8(packed["weight_packed"], rows, 2 * columns, torch.float32)
    return dequantize(
        codes,
        compressor._decompress_scale(packed["weight_scale"], torch.float32),
        args=scheme.weights,
        dtype=torch.float32,
        global_scale=packed.get("weight_global_scale"),
    )


def write_torchao() -> None:
    from torchao.prototype.mx_formats.mx_tensor import MXTensor
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import (
        Float8Tensor,
        Int8Tensor,
        IntxUnpackedToInt8Tensor,
        PerRow,
        PerTensor,
    )

    weight = weights()
    made = {
        "float8": Float8Tensor.from_hp(weight, granularity=PerRow()),
        "float8_tensor": Float8Tensor.from_hp(weight, granularity=PerTensor()),
        "int8": Int8Tensor.from_hp(weight, granularity=PerRow()),
        "intx": IntxUnpackedToInt8Tensor.from_hp(weight, (1, 32), torch.int4),
        "nvfp4": NVFP4Tensor.to_nvfp4(
            weight, per_tensor_scale=weight.abs().max().float() / (448 * 6)
        ),
        "mxfp8": MXTensor.to_mx(weight, torch.float8_e4m3fn, 32),
        "mxfp4": MXTensor.to_mx(weight, torch.float4_e2m1fn_x2, 32),
    }
    for name, tensor in made.items():
        tensors, metadata = flatten_tensor_state_dict({"a.weight": tensor})
        save(
            f"torchao_{name}",
            "torchao 0.18.0",
            tensors,
            {"a.weight": tensor.dequantize()},
            metadata,
        )


def _module_at(path: Path, name: str) -> ModuleType:
    """Import one file of a package, without the package."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_gptq(package: Path) -> None:
    module = _module_at(
        package / "auto_gptq" / "nn_modules" / "qlinear" / "qlinear_cuda_old.py", "qlinear"
    )
    for bits, group in ((4, 32), (8, 64), (3, 32), (2, 32)):
        inputs, outputs = (96, 32) if bits == 3 else (64, 32)
        linear = torch.nn.Linear(inputs, outputs, bias=False).half()
        linear.weight.data = weights(outputs, inputs).half()
        grouped = linear.weight.data.float().reshape(outputs, -1, group)
        low, high = grouped.amin(-1), grouped.amax(-1)
        # room for one code more: AutoGPTQ packs one too large over its neighbour
        scales = ((high - low) / (2**bits - 2)).half()
        # a zero point of 0 would be stored as −1, which AutoGPTQ packs over its neighbours
        zeros = torch.round(-low / scales.float()).clamp(1, 2**bits - 1)
        layer = module.QuantLinear(bits, group, inputs, outputs, False)
        layer.pack(linear, scales, zeros.clone(), None)
        state = layer.state_dict()
        # its own forward of the unit matrix, in float32
        layer.scales = layer.scales.float()
        values = layer.forward(torch.eye(inputs)).T
        save(
            f"gptq_int{bits}",
            "auto-gptq 0.7.1",
            {f"a.{key}": t for key, t in state.items()},
            {"a.weight": values},
            config={"quant_method": "gptq", "bits": bits, "checkpoint_format": "gptq"},
        )


def write_awq(package: Path) -> None:
    packing = _module_at(package / "awq" / "utils" / "packing_utils.py", "packing_utils")
    group, inputs, outputs = 32, 64, 32
    weight = weights(outputs, inputs)
    grouped = weight.reshape(outputs, -1, group)
    low, high = grouped.amin(-1), grouped.amax(-1)
    scales = ((high - low) / 15).half()
    zeros = torch.round(-low / scales.float()).clamp(0, 15).int()
    codes = torch.round(grouped / scales.float()[..., None]).int() + zeros[..., None]
    codes = codes.clamp(0, 15).reshape(outputs, inputs).T.contiguous()  # inputs × outputs

    def packed(numbers: torch.Tensor) -> torch.Tensor:
        """As WQLinear_GEMM.from_linear packs eight to a word, in AWQ's order."""
        words = torch.zeros(numbers.shape[0], numbers.shape[1] // 8, dtype=torch.int32)
        for i, place in enumerate(packing.AWQ_ORDER):
            words |= numbers[:, place::8] << (i * 4)
        return words

    tensors = {
        "a.qweight": packed(codes),
        "a.qzeros": packed(zeros.T.contiguous()),
        "a.scales": scales.T.contiguous(),
    }
    values = packing.dequantize_gemm(
        tensors["a.qweight"], tensors["a.qzeros"], tensors["a.scales"].float(), 4, group
    )
    save("awq_int4", "autoawq 0.2.9", tensors, {"a.weight": values.T})


def write_gpt_oss() -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    generator = torch.Generator().manual_seed(7)
    blocks = torch.randint(0, 256, (2, 20, 3, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(115, 125, (2, 20, 3), dtype=torch.uint8, generator=generator)
    values = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    tensors = {f"{name}_blocks": blocks, f"{name}_scales": scales}
    save("gpt_oss_mxfp4", "transformers 5.24.0", tensors, {name: values})


if __name__ == "__main__":
    shutil.rmtree(GOLDEN, ignore_errors=True)
    write_bitsandbytes()
    write_compressed_tensors()
    write_torchao()
    write_gptq(Path(sys.argv[1]))
    write_awq(Path(sys.argv[2]))
    write_gpt_oss()
