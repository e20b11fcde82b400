#!/usr/bin/env bash
# PyTorch 2.13.0 and ml_dtypes 0.6.0: float8_e8m0fnu, the scales of MXFP8 and MXFP4, has powers of
# two alone. Of 0 PyTorch makes 2^-127, ml_dtypes NaN, with which every value of that block is NaN;
# of -2 PyTorch makes 2, without its sign. And both round to the nearest power, half of the way up: of
# 3 they make 4, not the power below, which the script prints beside them and the MX formats take for
# the largest value of a block (OCP, 2023, section 6.3).
# Exits with 1 once both agree.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "torch==2.13.0" "ml_dtypes==0.6.0" "numpy==2.3.5"
"$folder/venv/bin/python" - <<'PY'
import math

import ml_dtypes
import numpy as np
import torch

print("torch", torch.__version__, "ml_dtypes", ml_dtypes.__version__)
numbers = [3.0, 2.9, 6.0, 0.0, -2.0]
by_torch = torch.tensor(numbers).to(torch.float8_e8m0fnu).float().tolist()
with np.errstate(all="ignore"):
    codes = np.array(numbers, np.float32).astype(ml_dtypes.float8_e8m0fnu)
by_ml_dtypes = codes.astype(np.float32).tolist()
print("of       ", numbers)
print("torch    ", by_torch)
print("ml_dtypes", by_ml_dtypes)
print("below    ", [2.0 ** math.floor(math.log2(x)) if x > 0 else None for x in numbers])
if by_torch != [4.0, 2.0, 8.0, 2.0**-127, 2.0] or str(by_ml_dtypes) != "[4.0, 2.0, 8.0, nan, nan]":
    raise SystemExit("that has changed")
PY
