"""Copies of a model in GGUF, by ggml's own quantiser, under the names that tools give."""

from __future__ import annotations

from pathlib import Path

from tests.representation.zoo_models import (
    Tensors,
)


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
