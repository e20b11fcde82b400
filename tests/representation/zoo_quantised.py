"""Copies of a model as libraries that quantise write them."""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tests.representation.write_golden import _module_at
from tests.representation.zoo_models import (
    Tensors,
    linears,
    llama_loss,
    replaced,
    save,
)

GROUP = 32


def write_bitsandbytes(folder: Path, model: torch.nn.Module) -> None:
    from bitsandbytes import nn

    kinds: dict[str, Callable[[torch.nn.Linear], torch.nn.Module]] = {
        "bnb-nf4": lambda old: nn.Linear4bit(
            old.in_features, old.out_features, old.bias is not None, quant_type="nf4"
        ),
        "bnb-nf4-plain": lambda old: nn.Linear4bit(
            *(old.in_features, old.out_features, old.bias is not None),
            quant_type="nf4",
            compress_statistics=False,
            quant_storage=torch.bfloat16,
        ),
        "bnb-fp4": lambda old: nn.Linear4bit(
            old.in_features, old.out_features, old.bias is not None, quant_type="fp4"
        ),
        "bnb-int8": lambda old: nn.Linear8bitLt(
            old.in_features, old.out_features, old.bias is not None, has_fp16_weights=False
        ),
    }
    for name, make in kinds.items():
        quantised = copy.deepcopy(model)
        for layer, old in list(linears(quantised)):
            new = make(old)
            new.load_state_dict(old.state_dict())
            replaced(quantised, layer, new.to("cpu"))
        save(folder, name, quantised.state_dict())


def write_compressed_tensors(folder: Path, model: torch.nn.Module) -> None:
    from compressed_tensors.compressors.model_compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationConfig,
        QuantizationStatus,
        apply_quantization_config,
    )
    from compressed_tensors.quantization.utils import calculate_qparams

    grouped = {"num_bits": 4, "strategy": "group", "group_size": GROUP}
    schemes: dict[str, tuple[str, dict[str, Any]]] = {
        "ct-int4": ("pack-quantized", {"type": "int", "symmetric": True, **grouped}),
        "ct-int4-zeros": ("pack-quantized", {"type": "int", "symmetric": False, **grouped}),
        "ct-int8": ("naive-quantized", {"type": "int", "num_bits": 8, "strategy": "channel"}),
        "ct-fp8": ("naive-quantized", {"type": "float", "num_bits": 8, "strategy": "channel"}),
    }
    for name, (form, arguments) in schemes.items():
        quantised = copy.deepcopy(model)
        config = QuantizationConfig(
            config_groups={"group_0": {"targets": ["Linear"], "weights": arguments}},
            format=form,
            ignore=["lm_head", "norm_out.linear"],
        )
        apply_quantization_config(quantised, config)
        for _, layer in linears(quantised):
            scheme = layer.quantization_scheme.weights
            groups = layer.weight.float().reshape(
                len(layer.weight), -1, scheme.group_size or layer.in_features
            )
            scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), scheme)
            layer.weight_scale.data.copy_(scale)
            if hasattr(layer, "weight_zero_point"):
                layer.weight_zero_point.data.copy_(zero)
            layer.quantization_status = QuantizationStatus.COMPRESSED
            layer.quantization_status = QuantizationStatus.FROZEN
        ModelCompressor.from_pretrained_model(quantised, form).compress_model(quantised)
        save(folder, name, quantised.state_dict())


def write_torchao(folder: Path, model: torch.nn.Module) -> None:
    from torchao.prototype.mx_formats.mx_tensor import MXTensor
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import (
        Float8WeightOnlyConfig,
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
        quantize_,
    )
    from torchao.quantization.granularity import PerGroup

    chosen = {name for name, _ in linears(model)}
    configs = {
        "torchao-fp8": Float8WeightOnlyConfig(),
        "torchao-int8": Int8WeightOnlyConfig(version=2),
        "torchao-int4": IntxWeightOnlyConfig(torch.int4, PerGroup(GROUP)),
    }
    made: dict[str, Tensors] = {}
    for name, config in configs.items():
        quantised = copy.deepcopy(model)
        quantize_(quantised, config, filter_fn=lambda _, fqn: fqn in chosen)
        made[name] = quantised.state_dict()
    blocks: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "torchao-mxfp8": lambda w: MXTensor.to_mx(w, torch.float8_e4m3fn, 32),
        "torchao-mxfp4": lambda w: MXTensor.to_mx(w, torch.float4_e2m1fn_x2, 32),
        "torchao-nvfp4": lambda w: NVFP4Tensor.to_nvfp4(
            w, per_tensor_scale=w.abs().max().float() / (448 * 6)
        ),
    }
    for name, make in blocks.items():
        state = model.state_dict()
        fitting = {f"{n}.weight" for n, m in linears(model) if m.in_features % 32 == 0}
        made[name] = {k: make(v) if k in fitting else v for k, v in state.items()}
    for name, state in made.items():
        tensors, metadata = flatten_tensor_state_dict(state)
        save(folder, name, tensors, metadata)
    for name in ("torchao-fp8", "torchao-int8", "torchao-int4"):
        torch.save(made[name], folder / f"{name}.pt")


def _inputs(model: torch.nn.Module, loss: Callable[[Any], Any]) -> dict[str, torch.Tensor]:
    """Return what goes into each layer, (samples, features), as calibration sees it."""
    seen: dict[str, torch.Tensor] = {}
    whole = copy.deepcopy(model).float()
    for name, layer in linears(whole):
        layer.register_forward_hook(
            lambda _, given, __, name=name: seen.__setitem__(name, given[0].flatten(0, -2).detach())
        )
    loss(whole)
    return seen


def write_gptq(
    folder: Path, model: torch.nn.Module, package: Path, *, in_order: bool = True
) -> None:
    """As AutoGPTQ: columns in the order in which they stand, or of the size of their inputs."""
    sys.modules["quantization"] = ModuleType("quantization")
    quantizer = _module_at(
        package / "auto_gptq/quantization/quantizer.py", "quantization.quantizer"
    )
    sys.modules["quantization.quantizer"] = quantizer
    spec = importlib.util.spec_from_file_location(
        "quantization.gptq", package / "auto_gptq/quantization/gptq.py"
    )
    assert spec is not None and spec.loader is not None
    gptq = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gptq)
    layout = "qlinear_cuda_old" if in_order else "qlinear_cuda"
    packing = _module_at(package / f"auto_gptq/nn_modules/qlinear/{layout}.py", layout)
    torch.cuda.synchronize = lambda *_: None  # it asks for a GPU only to time itself
    inputs = _inputs(model, llama_loss)
    state = dict(model.state_dict())
    for name, layer in linears(model):
        work = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
        work.weight.data = layer.weight.data.float().clone()
        runner = gptq.GPTQ(work)
        runner.quantizer.configure(4, perchannel=True, sym=True, mse=False)
        runner.add_batch(inputs[name], None)
        scale, zero, index = runner.fasterquant(group_size=GROUP, actorder=not in_order)
        packed = packing.QuantLinear(4, GROUP, layer.in_features, layer.out_features, False)
        packed.pack(work.half(), scale.half(), zero, index)
        del state[f"{name}.weight"]
        state |= {f"{name}.{key}": value for key, value in packed.state_dict().items()}
    folder /= "gptq" if in_order else "gptq-other-order"
    save(folder, "model", state)
    config = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "checkpoint_format": "gptq"}
    config["desc_act"] = not in_order
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}))


def write_awq(folder: Path, model: torch.nn.Module, package: Path) -> None:
    """As AutoAWQ: inputs of much use are scaled up, their norms down; then rounded and packed."""
    order = _module_at(package / "awq/utils/packing_utils.py", "packing_utils").AWQ_ORDER
    inputs = _inputs(model, llama_loss)
    state = {k: v.float() for k, v in model.state_dict().items()}
    scaled = {
        "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
    }
    for norm, layers in scaled.items():
        prefix = "model.layers.0."
        use = inputs[prefix + layers[0]].abs().mean(0).sqrt()
        factors = (use / (use.max() * use.min()).sqrt()).half().float()
        state[f"{prefix}{norm}.weight"] /= factors
        for each in layers:
            state[f"{prefix}{each}.weight"] *= factors
    for name, _ in linears(model):
        weight = state.pop(f"{name}.weight")
        groups = weight.reshape(len(weight), -1, GROUP)
        low, high = groups.amin(-1), groups.amax(-1)
        scales = ((high - low) / 15).half()
        zeros = torch.round(-low / scales.float()).clamp(0, 15).int()
        codes = torch.round(groups / scales.float()[..., None]).int() + zeros[..., None]
        codes = codes.clamp(0, 15).reshape(weight.shape).T.contiguous()

        def packed(numbers: torch.Tensor) -> torch.Tensor:
            words = torch.zeros(numbers.shape[0], numbers.shape[1] // 8, dtype=torch.int32)
            for i, place in enumerate(order):
                words |= numbers[:, place::8] << (i * 4)
            return words

        state[f"{name}.qweight"] = packed(codes)
        state[f"{name}.qzeros"] = packed(zeros.T.contiguous())
        state[f"{name}.scales"] = scales.T.contiguous()
    plain = {k: v.half() if v.dtype is torch.float32 else v for k, v in state.items()}
    save(folder / "awq", "model", plain)
    config = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True}
    (folder / "awq" / "config.json").write_text(json.dumps({"quantization_config": config}))


def _calibration() -> Any:
    from datasets import Dataset

    generator = torch.Generator().manual_seed(5)
    tokens = [torch.randint(0, 32, (48,), generator=generator).tolist() for _ in range(32)]
    return Dataset.from_list([{"input_ids": t, "attention_mask": [1] * 48} for t in tokens])


def write_gptqmodel(folder: Path, model: torch.nn.Module) -> None:
    """On a CPU it wants GPTQMODEL_CPU_WORKERS=2 in the environment."""
    from gptqmodel import GPTQModel, QuantizeConfig

    with tempfile.TemporaryDirectory() as saved:
        _save_with_tokenizer(model, saved)
        config = QuantizeConfig(bits=4, group_size=GROUP, desc_act=False, act_group_aware=False)
        quantised = GPTQModel.load(saved, config, device="cpu")
        quantised.quantize(_calibration().to_list(), batch_size=1)
        quantised.save(f"{saved}/out")
        _keep_weights(Path(saved) / "out", folder / "gptqmodel")


def write_llm_compressor(folder: Path, model: torch.nn.Module) -> None:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor import oneshot
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from transformers import AutoModelForCausalLM

    torch.Tensor.pin_memory = lambda self, *_: self  # which needs a GPU, and changes nothing
    weights = QuantizationArgs(
        num_bits=4, type="int", symmetric=False, strategy="group", group_size=GROUP
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    recipe = AWQModifier(config_groups={"group_0": scheme}, ignore=["lm_head"])
    with tempfile.TemporaryDirectory() as saved:
        tokenizer = _save_with_tokenizer(model, saved)
        loaded = AutoModelForCausalLM.from_pretrained(saved, dtype="auto")
        oneshot(
            model=loaded,
            dataset=_calibration(),
            recipe=[recipe],
            processor=tokenizer,
            max_seq_length=48,
            num_calibration_samples=32,
        )
        loaded.save_pretrained(f"{saved}/out", save_compressed=True)
        _keep_weights(Path(saved) / "out", folder / "llm-compressor-awq")


def _save_with_tokenizer(model: torch.nn.Module, folder: str) -> Any:
    """Save a model beside a tokenizer, which both libraries load though they are given tokens."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = models.WordLevel({f"t{i}": i for i in range(32)}, unk_token="t0")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), pad_token="t0", unk_token="t0", eos_token="t1"
    )
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return tokenizer


def _keep_weights(saved: Path, folder: Path) -> None:
    """Keep the weights, and what their config says of the quantisation but for folders of here."""
    folder.mkdir(parents=True)
    shutil.copyfile(saved / "model.safetensors", folder / "model.safetensors")
    config = json.loads((saved / "config.json").read_text())["quantization_config"]
    config.pop("meta", None)
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
