"""Who is kin to whom, and how: megasim and modelDNA 0.1.0 on the same files, line by line.

The small Llamas of the merge zoo (`merge_zoo.py`), a permuted, a cast and an FP8 copy of one of
them, and a stack of two that mergekit wrote. modelDNA is given each pair; megasim gets all models
in one store and is asked for their lineage, without metadata.

    python -m benchmarks.kinship_zoo FOLDER [--dtype float16] [--seed 1]

FOLDER as that of the merge zoo. Prints a table of `docs/lineage.md`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
import torch
from safetensors.torch import load_file, save_file

import megasim
from benchmarks.kinship import permuted
from benchmarks.merge_zoo import PARENTS, install, write
from benchmarks.networks import Weights
from megasim.lineage.result import Lineage
from megasim.words import EdgeKind

_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class KinshipCase:
    """A pair of models, and what is true of it.

    Attributes:
        kinds: what an edge between them may be called; empty where they are unrelated.
        is_directed: whether the second is known to come from the first.
    """

    what: str
    origin: str
    model: str
    kinds: tuple[EdgeKind, ...] = ()
    is_directed: bool = True


CASES = (
    KinshipCase("fine-tune", "base", "A", (EdgeKind.FINE_TUNE,)),
    KinshipCase("unrelated base of the same data", "base", "stranger"),
    KinshipCase("unrelated, one a fine-tune", "A", "stranger"),
    KinshipCase("permuted copy", "A", "A-permuted", (EdgeKind.PERMUTED,), is_directed=False),
    KinshipCase("cast to bfloat16", "A", "A-bfloat16", (EdgeKind.CAST,)),
    KinshipCase("FP8 copy", "A", "A-fp8", (EdgeKind.QUANTISED,)),
    KinshipCase("stack of A and B", "A", "stack", (EdgeKind.MERGE,)),
)


_COPIES: dict[str, Callable[[Weights], Weights]] = {
    "A-permuted": lambda weights: permuted(weights, 0),
    "A-bfloat16": lambda weights: {key: v.bfloat16() for key, v in weights.items()},
    # the matrices of the layers, as such files have them; the rest stays
    "A-fp8": lambda weights: {
        key: v.to(torch.float8_e4m3fn) if v.ndim > 1 and ".layers." in key else v
        for key, v in weights.items()
    },
}


def folders(models: Path) -> dict[str, Path]:
    """Return the folder of each model; the copies are written where they are missing."""
    found = {name: models / name for name in PARENTS}
    found["stack"] = models / "merges" / "stack"
    for name, copied in _COPIES.items():
        found[name] = models / "copies" / name
        if not found[name].exists():
            shutil.copytree(models / "A", found[name])
            weights = copied(load_file(models / "A" / _WEIGHTS))
            contiguous = {key: value.contiguous() for key, value in weights.items()}
            save_file(contiguous, found[name] / _WEIGHTS, {"format": "pt"})
    return found


def by_megasim(models: Path, named: dict[str, Path]) -> Lineage:
    """Return the lineage of all models in one store."""
    file = models / "kinship.duckdb"
    file.unlink(missing_ok=True)
    with megasim.open_store(file) as store:
        store.ingest(*named.values())
        store.compare()
        return store.lineage("all", use_metadata=False)


def told(case: KinshipCase, lineage: Lineage) -> tuple[str, bool]:
    """Return what a lineage says of a pair, and whether it is right.

    An edge to a copy of a model is one to the model, unless the pair is of one and its copy.
    """
    family = next(f.models for f in lineage.families if case.model in f.models)
    copies: nx.utils.UnionFind[str] = nx.utils.UnionFind(family)
    for edge in lineage.edges:
        if edge.kind.same_weights:
            copies.union(edge.parent, edge.child)
    pair = {case.origin, case.model}
    edges = [e for e in lineage.edges if {e.parent, e.child} == pair]
    edges += [
        e for e in lineage.edges if {copies[e.parent], copies[e.child]} == {copies[m] for m in pair}
    ]
    if not edges:
        related = case.origin in family
        return ("one family" if related else "unrelated"), not related and not case.kinds
    edge = edges[0]
    text = f"{edge.kind.value} {edge.parent} → {edge.child}, {edge.confidence:.2f}"
    right = edge.kind in case.kinds
    if case.is_directed:
        leads = copies[edge.parent] == copies[case.origin] and edge.child not in (case.origin,)
        right = right and leads and edge.decided
    return text, right


def by_modeldna(program: Path, suspect: Path, candidate: Path) -> str:
    """Return the verdict of modelDNA on a pair."""
    command = [str(program), "compare", "--json", str(suspect), str(candidate)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        return "error: " + " ".join(done.stderr.split())[-60:]
    verdict = json.loads(done.stdout[done.stdout.index("{") :])["verdict"]
    probability = verdict["probability"]
    return verdict["verdict"] + ("" if probability is None else f" {probability:.3f}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", default="float16", choices=["float16", "bfloat16", "float32"])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder = given.folder.absolute()
    models = write(folder, given.dtype, given.seed)
    install(folder, "modeldna")
    program = folder / "modeldna" / "bin" / "modeldna"
    named = folders(models)
    lineage = by_megasim(models, named)
    print(
        "| pair | megasim, of all models at once | right | modelDNA, of the pair | turned round |"
    )
    print("|---|---|---|---|---|")
    for case in CASES:
        text, right = told(case, lineage)
        pair = named[case.model], named[case.origin]
        cells = [case.what, text, "yes" if right else "no"]
        cells += [by_modeldna(program, *pair), by_modeldna(program, *pair[::-1])]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
