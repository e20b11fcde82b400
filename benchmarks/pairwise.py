"""The pairwise way: load both files of a pair, and take torch.dist key by key, in one process.

    python -m benchmarks.pairwise METRICS A B [A B …]

prints the seconds of each pair, without the start of Python, and its distances over all keys.
With METRICS "2" each key takes one torch.dist, the L2 distance; with "012" it takes three, for
l0, l1 and l2, which is what megasim computes. Tensors are compared as float32.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from safetensors.torch import load_file


def distances(a: str, b: str, metrics: str) -> dict[str, float]:
    """Return metric → distance over all keys that both files hold in one shape."""
    left, right = load_file(a), load_file(b)
    totals = dict.fromkeys(metrics, 0.0)
    for key, tensor in left.items():
        if key in right and right[key].shape == tensor.shape:
            x, y = tensor.float(), right[key].float()
            for metric in metrics:
                distance = float(torch.dist(x, y, int(metric)))
                totals[metric] += distance**2 if metric == "2" else distance
    return {f"l{m}": total**0.5 if m == "2" else total for m, total in totals.items()}


def main(metrics: str, *files: str) -> None:
    """Print one JSON object for each pair of files."""
    for a, b in zip(files[::2], files[1::2], strict=True):
        start = time.perf_counter()
        found = distances(a, b, metrics)
        print(json.dumps({"seconds": time.perf_counter() - start, **found}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
