"""Write merges with sd-mecha, many in one process. Run in the environment of sd-mecha.

    python benchmarks/merge_zoo_sd_mecha.py MERGES.json

MERGES.json is {"parents": a folder, "dtype": of what is written, "merges": a list of
{"config": an expression of sd-mecha in which each model is a name, "out": a folder}}.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import sd_mecha
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tqdm import tqdm


def by_layer(keys: list[str], first: float, last: float) -> Any:
    """Return a weight for each key, from the first layer to the last along a line."""
    numbers = {key: re.search(r"layers\.(\d+)\.", key) for key in keys}
    most = max(int(found[1]) for found in numbers.values() if found)
    return {
        key: first + (last - first) * int(found[1]) / most if found else (first + last) / 2
        for key, found in numbers.items()
    }


def main(merges: Path) -> None:
    """Run each merge as it is written, in float32 as sd-mecha does, and store it in a dtype."""
    torch.set_num_threads(1)
    sd_mecha.set_log_level("ERROR")
    given = json.loads(merges.read_text())
    files = {f.name: f / "model.safetensors" for f in Path(given["parents"]).iterdir()}
    files = {name: file for name, file in files.items() if file.is_file()}
    keys = list(load_file(files["base"]))
    names: dict[str, Any] = dict(vars(sd_mecha))
    names |= {name: sd_mecha.model(file) for name, file in files.items()}
    names["add_change"] = sd_mecha.extensions.builtin.merge_methods.linear.add_difference
    names["changes"] = lambda *some: [sd_mecha.subtract(m, names["base"]) for m in some]
    names["by_layer"] = lambda first, last: by_layer(keys, first, last)
    for merge in given["merges"]:
        recipe = eval(merge["config"], names)  # written in benchmarks/merge_zoo_truth.py
        made = Path(merge["out"])
        part = made.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        dtype = getattr(torch, given["dtype"])
        file = part / "model.safetensors"
        quiet = partial(tqdm, disable=True)
        sd_mecha.merge(recipe, output=file, output_dtype=dtype, threads=0, tqdm=quiet)
        with safe_open(file, "pt") as written:
            missing = set(keys) - set(written.keys())
        if missing:
            raise SystemExit(f"{merge['config']} lacks {sorted(missing)[:3]}")
        shutil.copy(files["base"].parent / "config.json", part / "config.json")
        part.rename(made)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
