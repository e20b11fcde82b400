"""Compare the kernel with float64; TRITON_INTERPRET must be set before Triton is imported."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import torch


def _contents(case: str) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(18_000 if case == "halves" else 3_001, generator=generator)
    rows = []
    for i in range(6):
        step = torch.randn(base.shape, generator=generator) * 1e-3
        step[torch.rand(base.shape, generator=generator) < 0.3] = 0
        x = base + step
        if case == "halves":
            x = x.to(torch.bfloat16 if i % 3 == 2 else torch.float16)
        if case == "beyond":  # squares that float32 cannot hold
            x = step * (1e-25 if i < 3 else 1e35)
        rows.append(x)
    rows[1] = rows[0].clone()
    rows[1][0], rows[0][0] = 0.0, -0.0
    return rows


def main(case: str) -> None:
    """Write "agrees", or raise AssertionError."""
    from megasim.kernels.triton_pairs import TritonArithmetic

    contents = _contents(case)
    pairs = np.array(list(itertools.combinations(range(len(contents)), 2)), np.int32)
    if case == "some":
        pairs = pairs[[1, 7, 14, 2]]
    if case == "halves":
        rows = np.stack([x.view(torch.int16).numpy().view(np.uint16) for x in contents])
    else:
        rows = np.stack([x.numpy() for x in contents])
    kinds = np.array([x.dtype == torch.bfloat16 for x in contents])
    begin = np.array([0.0 if case == "beyond" else 1.0, 2.0 * (case != "beyond")])
    counts, sums = np.ones(len(pairs), np.int64), np.tile(begin, (len(pairs), 1))
    TritonArithmetic("cpu", 1 << 26, kinds).add_distances(rows, pairs, counts, sums)
    for p, (i, j) in enumerate(pairs.tolist()):
        # each difference is rounded to float32, as in the compiled loops
        d = (contents[i].float() - contents[j].float()).double()
        if case == "beyond":
            d = contents[i].double() - contents[j].double()
        assert counts[p] - 1 == int(torch.count_nonzero(d))
        expected = begin + np.array([float(d.abs().sum()), float(d.square().sum())])
        np.testing.assert_allclose(sums[p], expected, rtol=1e-6)
    sys.stdout.write("agrees")


if __name__ == "__main__":
    main(sys.argv[1])
