"""The family tree of really trained networks, against their true history.

Forests of three kinds (`benchmarks/forests.py`) are written to files, ingested, compared, and
asked for their lineage by the command line, without metadata. Beside megasim stand two simple
ways, both told the families: the minimum spanning tree with random directions, and the
arborescence whose edges all lead to a larger norm.

    python -m benchmarks.trained_trees [--seeds 3 13] [--kinds MLP CNN transformer]
                                       [--keep FOLDER] [--ask-again]

Prints the tables of `docs/lineage.md`. A forest takes up to a minute of processor time. With
`--keep`, forests, their stores and answers stay in a folder, and a run that was stopped goes on
where it was; `--ask-again` asks for all lineages anew, as after a change of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import networkx as nx
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.forest_scores import (
    Drawn,
    Score,
    calibration_table,
    confusion_table,
    edge_calibration_table,
    figures_table,
)
from benchmarks.forests import FOREST_KINDS, Forest, grow_forest
from benchmarks.measure import megasim


def by_megasim(
    forest: Forest, folder: Path, *, ask_again: bool = False
) -> tuple[list[set[str]], list[Drawn]]:
    """Return the families and edges that the command line finds of files.

    What stands in the folder already is not made again.
    """
    store, compared, answer = (folder / n for n in ("store.duckdb", "compared", "lineage.json"))
    write_forest(forest, folder)
    if not compared.exists():
        store.unlink(missing_ok=True)
        megasim(store, "ingest", str(folder / "models"))
        megasim(store, "compare")
        compared.touch()
    if ask_again or not answer.exists():
        found = megasim(store, "lineage", "-c", "all", "--no-metadata", "--json").output
        answer.write_text(found, encoding="utf-8")
    return found_of(json.loads(answer.read_text(encoding="utf-8")))


def write_forest(forest: Forest, folder: Path) -> None:
    """Write models and their true history to a folder, unless it has them."""
    truth = folder / "truth.json"
    if truth.exists():
        return
    (folder / "models").mkdir(parents=True, exist_ok=True)
    for name, weights in forest.weights.items():
        tensors = {key: value.contiguous() for key, value in weights.items()}
        save_file(tensors, folder / "models" / f"{name}.safetensors")
    edges = [[parent, child, kind] for (parent, child), kind in forest.edges.items()]
    truth.write_text(json.dumps({"family": forest.family, "edges": edges}), encoding="utf-8")


def forest_of(kind: str, seed: int, folder: Path) -> Forest:
    """Return a forest, read from a folder where it stands there whole."""
    truth = folder / "truth.json"
    if not truth.exists():
        return grow_forest(kind, seed)
    read = json.loads(truth.read_text(encoding="utf-8"))
    return Forest(
        {name: load_file(folder / "models" / f"{name}.safetensors") for name in read["family"]},
        read["family"],
        {(parent, child): edge for parent, child, edge in read["edges"]},
    )


def found_of(answer: dict[str, object]) -> tuple[list[set[str]], list[Drawn]]:
    """Return the families and edges of `megasim lineage --json`."""
    families, edges = answer["families"], answer["edges"]
    assert isinstance(families, list)
    assert isinstance(edges, list)
    return [set(family["models"]) for family in families], [
        Drawn(
            e["parent"], e["child"], e["kind"], e["decided"], e["confidence"], e["edge_confidence"]
        )
        for e in edges
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


def measure(
    kinds: Sequence[str], seeds: Sequence[int], folder: Path, *, ask_again: bool = False
) -> dict[str, Score]:
    """Return the scores of megasim on each kind, and of the two simple ways on all."""
    scores: dict[str, Score] = {}
    for seed in seeds:
        for kind in kinds:
            of_forest = folder / f"{kind}-{seed}"
            forest = forest_of(kind, seed, of_forest)
            families, drawn = by_megasim(forest, of_forest, ask_again=ask_again)
            scores.setdefault(f"megasim, {kind}", Score()).add(forest, families, drawn)
            told = [
                {m for m, f in forest.family.items() if f == k}
                for k in sorted(set(forest.family.values()))
            ]
            for name, edges in by_rivals(forest, seed).items():
                scores.setdefault(name, Score()).add(forest, told, edges)
            print(f"{kind} {seed}", file=sys.stderr, flush=True)
    return dict(sorted(scores.items()))


def main() -> None:
    """Print the figures, the calibration, and what edges were drawn as."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs=2, default=(3, 13), metavar=("FROM", "TO"))
    parser.add_argument("--kinds", nargs="+", default=list(FOREST_KINDS), choices=FOREST_KINDS)
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    parser.add_argument("--ask-again", action="store_true")
    given = parser.parse_args()
    # Threads gain nothing on matrices this small, and on a busy machine lose much.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        scores = measure(given.kinds, range(*given.seeds), folder, ask_again=given.ask_again)
    ours = {name: score for name, score in scores.items() if name.startswith("megasim")}
    tables = figures_table(scores), calibration_table(ours), edge_calibration_table(ours)
    print(*tables, sep="\n\n")
    for name, score in ours.items():
        print(f"\n{name}\n\n{confusion_table(score)}")


if __name__ == "__main__":
    main()
