"""The family tree of really trained networks, against their true history.

Forests of three kinds (`benchmarks/forests.py`) are written to files, ingested, compared, and
asked for their lineage by the command line, without metadata. Beside megasim stand two simple
ways, both told the families: the minimum spanning tree with random directions, and the
arborescence whose edges all lead to a larger norm.

    python -m benchmarks.trained_trees [--seeds 0 10] [--kinds MLP CNN transformer]

Prints the tables of `docs/lineage.md`. A forest takes up to a minute of processor time.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import networkx as nx
import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.forest_scores import (
    Drawn,
    Score,
    calibration_table,
    confusion_table,
    figures_table,
)
from benchmarks.forests import FOREST_KINDS, Forest, grow_forest
from benchmarks.measure import megasim


def by_megasim(forest: Forest, folder: Path) -> tuple[list[set[str]], list[Drawn]]:
    """Return the families and edges that the command line finds of files."""
    models = folder / "models"
    models.mkdir()
    for name, weights in forest.weights.items():
        tensors = {key: value.contiguous() for key, value in weights.items()}
        save_file(tensors, models / f"{name}.safetensors")
    store = folder / "store.duckdb"
    megasim(store, "ingest", str(models))
    megasim(store, "compare")
    found = megasim(store, "lineage", "-c", "all", "--no-metadata", "--json").json()
    return found_of(found)


def found_of(answer: dict[str, object]) -> tuple[list[set[str]], list[Drawn]]:
    """Return the families and edges of `megasim lineage --json`."""
    families, edges = answer["families"], answer["edges"]
    assert isinstance(families, list)
    assert isinstance(edges, list)
    return [set(family["models"]) for family in families], [
        Drawn(e["parent"], e["child"], e["kind"], e["decided"], e["confidence"]) for e in edges
    ]


def by_rivals(forest: Forest, seed: int) -> dict[str, list[Drawn]]:
    """Return the edges of two simple ways, both told the families."""
    rng = np.random.default_rng(seed)
    tossed: list[Drawn] = []
    grown: list[Drawn] = []
    flat = {
        name: np.concatenate(
            [v.double().flatten().numpy() for v in w.values() if v.is_floating_point()]
        )
        for name, w in forest.weights.items()
    }
    for family in sorted(set(forest.family.values())):
        names = [n for n, f in forest.family.items() if f == family]
        graph: nx.Graph[str] = nx.Graph()
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                graph.add_edge(a, b, weight=float(np.linalg.norm(flat[a] - flat[b])))
        for a, b in nx.minimum_spanning_tree(graph).edges:
            parent, child = (a, b) if rng.random() < 0.5 else (b, a)
            tossed.append(Drawn(parent, child, "fine-tune"))
        norm = {n: float(np.linalg.norm(flat[n])) for n in names}
        for child in sorted(names, key=lambda n: norm[n])[1:]:
            smaller = [n for n in names if norm[n] < norm[child]]
            nearest = min(smaller, key=lambda n: graph.edges[n, child]["weight"])
            grown.append(Drawn(nearest, child, "fine-tune"))
    return {"spanning tree, random direction": tossed, "arborescence by norm": grown}


def measure(kinds: Sequence[str], seeds: Sequence[int]) -> dict[str, Score]:
    """Return the scores of megasim on each kind, and of the two simple ways on all."""
    scores: dict[str, Score] = {}
    for kind in kinds:
        for seed in seeds:
            forest = grow_forest(kind, seed)
            with tempfile.TemporaryDirectory() as folder:
                families, drawn = by_megasim(forest, Path(folder))
            scores.setdefault(f"megasim, {kind}", Score()).add(forest, families, drawn)
            told = [
                {m for m, f in forest.family.items() if f == k}
                for k in sorted(set(forest.family.values()))
            ]
            for name, edges in by_rivals(forest, seed).items():
                scores.setdefault(name, Score()).add(forest, told, edges)
    return dict(sorted(scores.items()))


def main() -> None:
    """Print the figures, the calibration, and what edges were drawn as."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 10), metavar=("FROM", "TO"))
    parser.add_argument("--kinds", nargs="+", default=list(FOREST_KINDS), choices=FOREST_KINDS)
    given = parser.parse_args()
    # Threads gain nothing on matrices this small, and on a busy machine lose much.
    torch.set_num_threads(1)
    scores = measure(given.kinds, range(*given.seeds))
    ours = {name: score for name, score in scores.items() if name.startswith("megasim")}
    print(figures_table(scores), calibration_table(ours), sep="\n\n")
    for name, score in ours.items():
        print(f"\n{name}\n\n{confusion_table(score)}")


if __name__ == "__main__":
    main()
