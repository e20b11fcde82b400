#!/usr/bin/env bash
# transformers 5.24.0: under which names `CLIPTextModel.save_pretrained` writes its weights depends on
# where the model came from. One that was read from a file with the prefix `text_model.`, as files of
# every pipeline of Stable Diffusion have it, writes the prefix again, though its state dict in
# memory has none; one that was made from a configuration, with the same weights, writes none. A tool
# that goes by names finds no key in common. Exits with 1 once both are named alike.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    transformers==5.24.0 torch==2.13.0 numpy==2.4.6 safetensors==0.8.0
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.utils.logging import disable_progress_bar

disable_progress_bar()
folder = Path(sys.argv[1])
config = CLIPTextConfig(
    hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    vocab_size=20, bos_token_id=0, eos_token_id=1, pad_token_id=2,
)  # fmt: skip
print("transformers", version("transformers"))


def saved_keys(model, name):
    model.save_pretrained(folder / name)
    with safe_open(folder / name / "model.safetensors", "pt") as file:
        return set(file.keys())


made = CLIPTextModel(config)
in_file = {f"text_model.{key}": value for key, value in made.state_dict().items()}
config.save_pretrained(folder / "pipeline")
save_file(in_file, folder / "pipeline" / "model.safetensors", {"format": "pt"})
read = CLIPTextModel.from_pretrained(folder / "pipeline")
assert made.state_dict().keys() == read.state_dict().keys()

of_made, of_read = saved_keys(made, "made"), saved_keys(read, "read")
print("in memory, both:        ", min(made.state_dict()))
print("made and saved:         ", min(of_made))
print("read, and saved again:  ", min(of_read))
print(f"keys in common: {len(of_made & of_read)} of {len(of_made)}")
if of_made & of_read:
    raise SystemExit("both are named alike now")
PY
