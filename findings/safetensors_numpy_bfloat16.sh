#!/usr/bin/env bash
# safetensors 0.8.0, its numpy side, and ml_dtypes 0.6.0: whether `load_file` reads a bfloat16 tensor
# depends on whether anything in the process has imported ml_dtypes before, since that is when numpy
# learns the name. `load`, of the same bytes, never does, and `save` writes what `load` cannot read.
# float8 it never reads, also where ml_dtypes is there.
# Exits with 1 once that is so no longer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "safetensors==0.8.0" "ml_dtypes==0.6.0" "numpy==2.3.5"
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import json
from pathlib import Path

import numpy as np
import safetensors
from safetensors import numpy as numpy_side

print("safetensors", safetensors.__version__)
files = {}
for dtype, data in (("BF16", b"\x80\x3f" * 2), ("F8_E4M3", b"\x38" * 2)):
    entry = {"w": {"dtype": dtype, "shape": [2], "data_offsets": [0, len(data)]}}
    header = json.dumps(entry).encode()
    files[dtype] = len(header).to_bytes(8, "little") + header + data
    Path(dtype).write_bytes(files[dtype])


def attempt(function, given) -> str:
    try:
        return f"dtype {function(given)['w'].dtype}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def all_attempts() -> list[str]:
    found = []
    for dtype, data in files.items():
        found += [attempt(numpy_side.load_file, dtype), attempt(numpy_side.load, data)]
        print(f"{dtype:8} load_file: {found[-2]}; load: {found[-1]}")
    return found


before = all_attempts()
print("after `import ml_dtypes`:")
import ml_dtypes  # noqa: E402

after = all_attempts()
saved = numpy_side.save({"w": np.ones(2, ml_dtypes.bfloat16)})
print("what save wrote of bfloat16, by load:", again := attempt(numpy_side.load, saved))
if [text.startswith("dtype") for text in (*before, *after, again)] != [False] * 4 + [True] + [False] * 4:
    raise SystemExit("that has changed")
PY
