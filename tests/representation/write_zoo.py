"""Writes `zoo.tar.xz`: a small Llama and a small Flux transformer, quantised by real libraries.

Not a test: it needs the libraries, in the versions below. A folder in it is one family: with
`base.safetensors`, which transformers or diffusers saved in bfloat16, `tuned.safetensors`, the
same after one step of AdamW that moves it by 0.3 % of its norm, and copies of the first.
What torch alone writes (plain FP8, ComfyUI's scales …) `test_zoo` makes by itself.

    pip install torch==2.13.0 transformers==5.24.0 diffusers==0.42.1 bitsandbytes==0.50.2 \
        compressed-tensors==0.20.1 torchao==0.18.0 gguf==0.19.0 xllamacpp==2026.10.11549 \
        gptqmodel==7.7.0 llmcompressor==0.14.0.1 peft==0.21.2 lycoris-lora==4.1.3
    pip download --no-deps auto-gptq==0.7.1 autoawq==0.2.9, unpack both, and name the folders:
    PYTHONPATH=. python -m tests.representation.write_zoo AUTO_GPTQ_FOLDER AUTOAWQ_FOLDER
"""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.representation.write_golden import _module_at

ZOO = Path(__file__).parent / "zoo.tar.xz"
STEP = 0.003  # of the fine-tune, as a share of the norm of the weights
GROUP = 32

Tensors = dict[str, torch.Tensor]


def llama() -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(19)
    config = LlamaConfig(
        hidden_size=256,  # K-quants need rows of 256
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=32,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        initializer_range=0.05,
    )
    return LlamaForCausalLM(config).bfloat16()


def flux() -> torch.nn.Module:
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(20)
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=32,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    return model.bfloat16()


def llama_loss(model: torch.nn.Module) -> torch.Tensor:
    tokens = torch.randint(0, 32, (4, 24), generator=torch.Generator().manual_seed(3))
    return model(input_ids=tokens, labels=tokens).loss


def flux_loss(model: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    out = model(
        hidden_states=random(2, 12, 32),
        encoder_hidden_states=random(2, 6, 32),
        pooled_projections=random(2, 32),
        timestep=torch.tensor([0.3, 0.8]),
        img_ids=torch.zeros(12, 3),
        txt_ids=torch.zeros(6, 3),
    ).sample
    return (out - random(2, 12, 32)).square().mean()


def tuned(model: torch.nn.Module, loss: Callable[[torch.nn.Module], torch.Tensor]) -> Tensors:
    """Return the weights after one step of AdamW, as large as `STEP`, in bfloat16."""
    moved = copy.deepcopy(model).float()
    parameters = list(moved.parameters())
    norm = torch.stack([p.detach().norm() for p in parameters]).norm()
    rate = float(STEP * norm / sum(p.numel() for p in parameters) ** 0.5)
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    loss(moved).backward()
    optimizer.step()
    return {k: v.bfloat16() for k, v in moved.state_dict().items()}


def save(
    folder: Path, name: str, tensors: Mapping[str, torch.Tensor], metadata: Any = None
) -> Path:
    path = folder / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, path, metadata)
    return path


def linears(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Linear]]:
    """Yield the layers that libraries quantise: all linear ones but the head."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.endswith(
            ("lm_head", "norm_out.linear")
        ):
            yield name, module


def replaced(model: torch.nn.Module, name: str, module: torch.nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


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


def write_gguf_llama(folder: Path, base: Tensors) -> None:
    """As llama-quantize writes it: where a row is no multiple of 256, K-quants give way to Q8_0."""
    import numpy as np
    from gguf import GGUFWriter
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    from tests.representation.gguf_llama import converted
    from tests.representation.gguf_zoo import ggml, quantised

    library = ggml()
    tensors = converted({k: v.float().numpy() for k, v in base.items()}, heads=2, kv_heads=2)
    for kind in ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q4_0", "IQ4_XS"):
        writer = GGUFWriter(folder / f"gguf-{kind.lower()}.gguf", "llama")
        writer.add_head_count(2)
        writer.add_head_count_kv(2)
        writer.add_block_count(1)
        for name, values in tensors.items():
            used = GGMLQuantizationType[kind]
            if values.ndim == 1:
                writer.add_tensor(name, values.astype(np.float32))
                continue
            if values.shape[1] % GGML_QUANT_SIZES[used][0]:
                used = GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quantised(library, values, used, None), raw_dtype=used)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def write_gguf_flux(folder: Path, base: Tensors) -> None:
    """As stable-diffusion.cpp converts a file: names as they are; matrices of whole blocks."""
    from gguf import GGUFWriter
    from gguf.constants import GGMLQuantizationType

    from tests.representation.gguf_zoo import ggml, quantised

    library = ggml()
    for kind in ("Q8_0", "Q4_0"):
        used = GGMLQuantizationType[kind]
        writer = GGUFWriter(folder / f"gguf-{kind.lower()}.gguf", "flux")
        for name, tensor in base.items():
            values = tensor.float().numpy()
            if values.ndim == 1 or values.shape[1] % 32:
                writer.add_tensor(name, values)
            else:
                writer.add_tensor(name, quantised(library, values, used, None), raw_dtype=used)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def write_gguf_flux_of_its_authors(folder: Path, base: Tensors) -> None:
    """In the authors' names: K-quants as ComfyUI-GGUF makes them of rows that no block fits, laid
    out anew in rows of 256, with the shape that they had; and stable-diffusion.cpp's own prefix."""
    from gguf import GGUFWriter
    from gguf.constants import GGMLQuantizationType

    from tests.representation.flux_names import of_black_forest_labs
    from tests.representation.gguf_zoo import ggml, quantised

    library, authors = ggml(), of_black_forest_labs(base)
    files = {"comfyui-q3_k": "Q3_K", "comfyui-q4_k": "Q4_K", "comfyui-q5_k": "Q5_K"}
    files |= {"comfyui-q6_k": "Q6_K", "sdcpp-q5_1": "Q5_1", "sdcpp-iq4_nl": "IQ4_NL"}
    for name, kind in files.items():
        used = GGMLQuantizationType[kind]
        is_comfyui = name.startswith("comfyui")
        writer = GGUFWriter(folder / f"gguf-{name}.gguf", "flux")
        for key, tensor in authors.items():
            values = tensor.float().numpy()
            key = key if is_comfyui else f"model.diffusion_model.{key}"
            if is_comfyui and values.ndim > 1 and values.size % 256 == 0:
                writer.add_array(f"comfy.gguf.orig_shape.{key}", values.shape)
                values = values.reshape(-1, 256)
            if values.ndim == 1 or values.shape[1] % (256 if is_comfyui else 32):
                writer.add_tensor(key, values)
            else:
                writer.add_tensor(key, quantised(library, values, used, None), raw_dtype=used)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def write_adapters(folder: Path, model: torch.nn.Module) -> None:
    """Write one LoRA of the attention of a Flux transformer in the spellings of the libraries."""
    from diffusers import FluxPipeline
    from diffusers.utils.state_dict_utils import (
        convert_state_dict_to_diffusers,
        convert_state_dict_to_kohya,
    )
    from lycoris import LycorisNetwork, create_lycoris
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    layers = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj"]
    config = LoraConfig(r=4, lora_alpha=2, target_modules=layers)
    torch.manual_seed(23)
    wrapped = get_peft_model(copy.deepcopy(model).float(), config)
    for name, factor in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(factor, std=0.02)
    wrapped.save_pretrained(folder / "peft")
    (folder / "peft" / "README.md").unlink(missing_ok=True)
    factors = get_peft_model_state_dict(wrapped)
    bare = {key.removeprefix("base_model.model."): value for key, value in factors.items()}
    FluxPipeline.save_lora_weights(
        folder / "diffusers", bare, transformer_lora_adapter_metadata=config.to_dict()
    )
    halved = {k: v / 2 if "lora_B" in k else v for k, v in bare.items()}  # its alpha is its rank
    older = convert_state_dict_to_diffusers({f"transformer.{k}": v for k, v in halved.items()})
    save(folder, "diffusers-older", older)
    kohya = convert_state_dict_to_kohya({f"unet.{k}": v for k, v in halved.items()})
    save(folder, "kohya", kohya)
    LycorisNetwork.apply_preset({"enable_conv": False, "target_module": ["FluxAttention"]})
    plain = copy.deepcopy(model).float()
    network = create_lycoris(plain, 1.0, linear_dim=4, linear_alpha=2, algo="lora")
    network.apply_to()
    for layer in network.loras:
        name = layer.lora_name.removeprefix("lycoris_")
        found = {k.replace(".", "_"): v for k, v in bare.items()}
        for half, own in (("A", layer.lora_down), ("B", layer.lora_up)):
            factor = found.get(f"{name}_lora_{half}_weight")
            own.weight.data = torch.zeros_like(own.weight) if factor is None else factor.clone()
    state = dict(network.state_dict())
    silent = {
        k.rpartition(".lora_up")[0] for k, v in state.items() if "lora_up" in k and not v.any()
    }
    save(folder, "lycoris", {k: v for k, v in state.items() if k.split(".")[0] not in silent})


def write_zoo(zoo: Path, gptq_package: Path, awq_package: Path) -> None:
    """Write both families into a folder."""
    for family, make, loss in (("llama", llama, llama_loss), ("flux", flux, flux_loss)):
        folder, model = zoo / family, make()
        model.save_pretrained(folder / "saved")
        (weights,) = (folder / "saved").glob("*.safetensors")
        base = load_file(weights)
        shutil.rmtree(folder / "saved")
        save(folder, "base", base, {"format": "pt"})
        save(folder, "tuned", tuned(model, loss), {"format": "pt"})
        write_bitsandbytes(folder, model)
        write_compressed_tensors(folder, model)
        write_torchao(folder, model)
        if family == "llama":
            write_gptq(folder, model, gptq_package)
            write_gptq(folder, model, gptq_package, in_order=False)
            write_awq(folder, model, awq_package)
            write_gptqmodel(folder, model)
            write_llm_compressor(folder, model)
            write_gguf_llama(folder, base)
        else:
            write_gguf_flux(folder, base)
            write_gguf_flux_of_its_authors(folder, base)
            write_adapters(zoo / "adapters", model)


def pack(folder: Path, archive: Path) -> None:
    """Write the files of a folder into an archive, the same bytes for the same files."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mtime, member.uid, member.gid, member.mode = 0, 0, 0, 0o644
        member.uname = member.gname = ""
        return member

    with tarfile.open(archive, "w:xz", preset=9) as packed:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            packed.add(path, path.relative_to(folder).as_posix(), filter=plain)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        write_zoo(Path(folder), Path(sys.argv[1]), Path(sys.argv[2]))
        pack(Path(folder), ZOO)
