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

import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from safetensors.torch import load_file

from tests.representation.zoo_adapters import write_adapters
from tests.representation.zoo_gguf import (
    write_gguf_flux,
    write_gguf_flux_of_its_authors,
    write_gguf_llama,
)
from tests.representation.zoo_models import (
    flux,
    flux_loss,
    llama,
    llama_loss,
    save,
    tuned,
)
from tests.representation.zoo_quantised import (
    write_awq,
    write_bitsandbytes,
    write_compressed_tensors,
    write_gptq,
    write_gptqmodel,
    write_llm_compressor,
    write_torchao,
)

ZOO = Path(__file__).parent / "zoo.tar.xz"


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
