#!/usr/bin/env bash
# lycoris-lora 4.1.3: a LoHa or a LoKr with alpha other than its rank changes a model in its forward
# pass by alpha / rank of its product, and by the square of that once it is merged (`merge_to`). So a
# model with it merged is not the model that was trained, and its strength reads as alpha / rank.
# A LoRA is merged as it runs. Exits with 1 once all three are.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    lycoris-lora==4.1.3 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import logging
from importlib.metadata import version

import torch
from torch import nn

logging.disable(logging.CRITICAL)
from lycoris import LycorisNetwork, create_lycoris

print("lycoris-lora", version("lycoris-lora"))
LycorisNetwork.apply_preset({"target_module": ["Linear"]})
ratios = {}
for algorithm in ("lora", "loha", "lokr"):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 16, bias=False))
    before = model[0].weight.detach().clone()
    network = create_lycoris(
        model, 1.0, linear_dim=1, linear_alpha=0.5, algo=algorithm, factor=2
    )
    network.apply_to()
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape)
    with torch.no_grad():
        runs = model(torch.eye(24)).T - before
        network.restore()
        network.merge_to()
        merged = model[0].weight - before
    ratios[algorithm] = float((runs * merged).sum() / (runs * runs).sum())
    print(f"{algorithm}, alpha 0.5, rank 1: merged by {ratios[algorithm]:.3f} of what it runs with")
if not (abs(ratios["lora"] - 1) < 1e-4 and all(abs(ratios[a] - 0.5) < 1e-4 for a in ("loha", "lokr"))):
    raise SystemExit("it is merged otherwise now")
PY
