#!/usr/bin/env bash
# sd-mecha 1.1.8 refuses a recipe whose text ends with a newline, as every editor writes it: the
# empty last line is taken for a command. A reader expects the same recipe as without it.
# Exits with 1 once it is read.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 sd-mecha==1.1.8
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import sd_mecha

recipe = 'version 0.1.0\nmodel "a.safetensors" model_config="sd1-ldm" merge_space="weight"'
print("sd-mecha", version("sd-mecha"))
print("without a newline at the end:", sd_mecha.deserialize(recipe))
try:
    print("with one:", sd_mecha.deserialize(recipe + "\n"))
except ValueError as error:
    print("with one:", type(error).__name__, str(error).strip())
else:
    raise SystemExit("it is read now")
PY
