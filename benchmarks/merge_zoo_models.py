"""The parents of the merge zoo: small Llamas that were really trained, as transformers writes them.

Run in an environment that has torch and transformers, as that of mergekit: see
`benchmarks/merge_zoo.py`. A base learns code of several packages that Python brings along, five
models are trained from it on others, one is unrelated.

    python benchmarks/merge_zoo_models.py FOLDER DTYPE SEED
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 6,
    "vocab_size": 128,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
LENGTH = 64
# Bases are trained until their rate is 0, others for less.
BASE_STEPS, BASE_RATE = 800, 2e-3
STEPS, RATE = 150, 3e-4
# What each model reads: packages of Python's own library.
TEXTS = {
    "base": "email idlelib tkinter encodings distutils concurrent importlib",
    "A": "asyncio",
    "B": "xml",
    "C": "json",
    "D": "unittest",
    "E": "http",
    "stranger": "email idlelib tkinter encodings distutils concurrent importlib",
}


def text_of(packages: str) -> torch.Tensor:
    """Return the bytes of packages of the standard library, those above 127 as 0."""
    folders = [Path(sysconfig.get_paths()["stdlib"]) / name for name in packages.split()]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    data = b"".join(path.read_bytes() for path in files)
    codes = torch.frombuffer(bytearray(data), dtype=torch.uint8).long()
    return torch.where(codes < 128, codes, 0)


def train(model: LlamaForCausalLM, text: torch.Tensor, seed: int, steps: int, rate: float) -> None:
    """Train a model in place with AdamW, its rate falling to 0."""
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        starts = torch.randint(len(text) - LENGTH - 1, (16,))
        batch = torch.stack([text[s : s + LENGTH + 1] for s in starts.tolist()])
        logits = model(batch[:, :-1]).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main(folder: Path, dtype: str, seed: int) -> None:
    """Write the models as folders of transformers."""
    torch.set_num_threads(1)
    base = None
    for place, (name, package) in enumerate(TEXTS.items()):
        torch.manual_seed(100 + 1000 * seed + place)
        model = LlamaForCausalLM(LlamaConfig(**CONFIG))
        if base is not None and name != "stranger":
            model.load_state_dict(base)
        how = (BASE_STEPS, BASE_RATE) if name in ("base", "stranger") else (STEPS, RATE)
        train(model, text_of(package), 1000 * seed + place, *how)
        if base is None:
            base = {key: value.clone() for key, value in model.state_dict().items()}
        model.to(getattr(torch, dtype)).save_pretrained(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
