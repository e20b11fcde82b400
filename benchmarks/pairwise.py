"""The pairwise way: load both files of a pair, and take torch.dist key by key.

Run as a process of its own: `python -m benchmarks.pairwise A B`. It takes the L2 distance only,
which favours it: megasim takes l0, l1 and l2.
"""

from __future__ import annotations

import sys

import torch
from safetensors.torch import load_file


def main(a: str, b: str) -> None:
    """Print the L2 distance over all keys of two files."""
    left, right = load_file(a), load_file(b)
    total = 0.0
    for key, tensor in left.items():
        if key in right and right[key].shape == tensor.shape:
            total += float(torch.dist(tensor.float(), right[key].float(), 2)) ** 2
    print(total**0.5)


if __name__ == "__main__":
    main(*sys.argv[1:])
