"""How often edges of a probability are true: the table `data/edge_confidence.csv`, fitted anew.

    python -m benchmarks.edge_calibration FOLDER --forests MLP:20-27 CNN:0-2 CNN:500-509 …

reads forests that `python -m benchmarks.trained_trees --keep FOLDER` left there, answers
included, and prints the table. The share of true edges is taken for

    right = σ(slope · logit(told) + shift),    slope > 0, and 0.997 at most,

told being what costs give an edge beside its rivals, and σ the logistic function (Platt scaling).
The two numbers are those of the greatest likelihood; from hundreds of edges they scatter less than
a table of bins does, and the share rises with what is told. The end is below 1, since some edges
are wrong for reasons that no cost shows. Each kind of network is also left out, and told by the
fit of the others. The answers must be of the table that is in place: `--ask-again` of that command.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit, logit

from megasim.lineage.calibration import edge_probability

Floats = npt.NDArray[np.float64]
_TOLD = (*(round(0.05 * i, 2) for i in range(1, 19)), 0.93, 0.96, 0.98, 0.99, 1.0)
_MOST = 0.997  # is told at most
_LEAST = 1e-4  # a probability nearer to 0 or 1 counts as this far from it


@dataclass(frozen=True)
class Fit:
    """The share of true edges by the probability that their costs give them."""

    slope: float
    shift: float

    def right(self, told: Floats) -> Floats:
        """Return the share that is true."""
        odds = logit(np.clip(told, _LEAST, 1 - _LEAST))
        return np.asarray(np.minimum(expit(self.slope * odds + self.shift), _MOST))

    def loss(self, told: Floats, true: Floats) -> float:
        """Return the mean of −log likelihood."""
        right = self.right(told)
        return float(-np.mean(np.where(true > 0, np.log(right), np.log1p(-right))))


def fit(told: Floats, true: Floats) -> Fit:
    """Return the numbers of the greatest likelihood.

    Args:
        told: probabilities by the costs, 0 to 1.
        true: 1 where the edge is true, 0 where not.
    """

    def of(numbers: Sequence[float]) -> Fit:
        return Fit(float(np.exp(numbers[0])), float(numbers[1]))

    found = minimize(lambda x: of(x).loss(told, true), (0.0, 0.0), method="Nelder-Mead")
    return of(found.x)


def told_edges(folder: Path, forests: Iterable[str]) -> tuple[Floats, Floats, list[str]]:
    """Return of all drawn edges but merges and copies: told by costs, true or not, and the kind.

    Args:
        forests: kind and seed, e.g. MLP-20.
    """
    told: list[float] = []
    true: list[float] = []
    kinds: list[str] = []
    for name in forests:
        history = json.loads((folder / name / "truth.json").read_text(encoding="utf-8"))
        pairs = {frozenset(edge[:2]) for edge in history["edges"]}
        answer = json.loads((folder / name / "lineage.json").read_text(encoding="utf-8"))
        for edge in answer["edges"]:
            if edge["edge_confidence"] is not None:
                told.append(edge_probability(edge["edge_confidence"]))
                true.append(frozenset((edge["parent"], edge["child"])) in pairs)
                kinds.append(name.split("-")[0])
    return np.array(told), np.array(true, dtype=np.float64), kinds


def _names(asked: Iterable[str]) -> list[str]:
    """Return kind-seed of ranges like MLP:20-27."""
    found = []
    for text in asked:
        kind, seeds = text.split(":")
        first, _, last = seeds.partition("-")
        found += [f"{kind}-{seed}" for seed in range(int(first), int(last or first) + 1)]
    return found


def main() -> None:
    """Print the table, and how well each kind is told by the others."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--forests", nargs="+", required=True, metavar="KIND:FROM-TO")
    given = parser.parse_args()
    told, true, kinds = told_edges(given.folder, _names(given.forests))
    whole = fit(told, true)
    print(f"# {len(told)} edges: right = σ({whole.slope:.3f} logit(told) {whole.shift:+.3f})")
    print("told,right\n0,0")
    for at, share in zip(_TOLD, whole.right(np.array(_TOLD)), strict=True):
        print(f"{at:g},{share:.3f}")
    for kind in sorted(set(kinds)):
        own = np.array([k == kind for k in kinds])
        if own.all():
            continue
        others = fit(told[~own], true[~own])
        print(
            f"# {kind}, {int(own.sum())} edges: loss {others.loss(told[own], true[own]):.4f} "
            f"by the others' fit, {whole.loss(told[own], true[own]):.4f} by that of all, "
            f"{fit(told[own], true[own]).loss(told[own], true[own]):.4f} by its own"
        )


if __name__ == "__main__":
    main()
