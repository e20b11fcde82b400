#!/usr/bin/env bash
# sd-mecha 1.1.8: `ties_sum_extended(…, apply_stock=True)` leaves the model stock of the changes
# away, and the default, `apply_stock=False`, applies it. So TIES and DARE-TIES by
# `add_difference_ties_extended` and `add_ties_with_dare` shrink each row by the angle between the
# changes unless they are told to. Exits with 1 once the flag does what its name says.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 sd-mecha==1.1.8
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata

import sd_mecha
import torch

torch.manual_seed(0)
changes = [torch.randn(4, 64) for _ in range(2)]
told = {}
for stock in (False, True):
    told[stock] = sd_mecha.ties_sum_extended.__wrapped__(
        *changes, k=1.0, vote_sgn=True, apply_stock=stock
    )
plain = sd_mecha.ties_sum.__wrapped__(*changes, k=1.0, vote_sgn=True)
print("sd-mecha", importlib.metadata.version("sd-mecha"))
for stock, made in told.items():
    print(f"apply_stock={stock}: equal to plain TIES: {torch.allclose(made, plain)}")
ratio = told[False].norm(dim=1) / plain.norm(dim=1)
print("apply_stock=False scales the rows by", [round(x, 3) for x in ratio.tolist()])
assert torch.allclose(told[True], plain) and not torch.allclose(told[False], plain)
PYTHON
