#!/usr/bin/env bash
# PyTorch 2.13.0 and ml_dtypes 0.6.0: the same dtype, float8_e4m3fn, and the same numbers beyond its
# largest, 448. PyTorch makes 448 of them, of infinity too, so that a broken weight becomes a sound
# one; ml_dtypes makes NaN of them. PyTorch's other dtypes do not do as this one does: float8_e4m3fnuz
# gives NaN, float8_e5m2 infinity. Who looks for NaN and infinity after a cast finds by the dtype
# what was there before.
# Exits with 1 once both, or the dtypes of PyTorch, agree.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "torch==2.13.0" "ml_dtypes==0.6.0" "numpy==2.3.5"
"$folder/venv/bin/python" - <<'PY'
import ml_dtypes
import numpy as np
import torch

print("torch", torch.__version__, "ml_dtypes", ml_dtypes.__version__)
numbers = [500.0, 1e9, -1e9, float("inf")]
found = {}
for name in ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"):
    by_torch = torch.tensor(numbers).to(getattr(torch, name)).float().tolist()
    with np.errstate(all="ignore"):
        codes = np.array(numbers, np.float32).astype(getattr(ml_dtypes, name))
    found[name] = str(by_torch), str(codes.astype(np.float32).tolist())
    print(f"{name:16} of {numbers}: torch {found[name][0]}, ml_dtypes {found[name][1]}")
expected = {
    "float8_e4m3fn": ("[448.0, 448.0, -448.0, 448.0]", "[nan, nan, nan, nan]"),
    "float8_e4m3fnuz": ("[nan, nan, nan, nan]",) * 2,
    "float8_e5m2": ("[512.0, inf, -inf, inf]",) * 2,
    "float8_e5m2fnuz": ("[512.0, nan, nan, nan]",) * 2,
}
if found != expected:
    raise SystemExit("that has changed")
PY
