"""Write merges with mergekit, many in one process. Run in the environment of mergekit.

    python benchmarks/merge_zoo_mergekit.py MERGES.json

MERGES.json is a list of {"config": a configuration of mergekit, or its YAML, "out": a folder}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import MergeOptions, run_merge


def main(merges: Path) -> None:
    """Run each merge as `mergekit-yaml` does, with a seed for the random ones."""
    torch.set_num_threads(1)
    options = MergeOptions(random_seed=1, copy_tokenizer=False, quiet=True)
    for merge in json.loads(merges.read_text()):
        read = merge["config"]
        read = yaml.safe_load(read) if isinstance(read, str) else read
        config = MergeConfiguration.model_validate(read)
        run_merge(config, merge["out"], options)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
