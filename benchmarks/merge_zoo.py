"""Merges of every method, written by the real mergekit, and what megasim and modelDNA say of each.

mergekit 0.1.5 and modelDNA 0.1.0 are installed in environments of their own. Small Llamas are
trained (`merge_zoo_models.py`): a base, five models from it, and an unrelated one. Each merge is
put into a store with these seven, and megasim is asked where it comes from, without metadata.

    python -m benchmarks.merge_zoo FOLDER [--dtype bfloat16] [--seed 1] [--modeldna] [--round-trip]

FOLDER keeps the environments (2 GB) and the models. Prints the tables of `docs/lineage.md`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

import megasim
from megasim.exchange.recipe_files import mergekit_yaml
from megasim.lineage.recipe_result import Recipe
from megasim.lineage.result import Lineage
from megasim.words import RecipeVerdict

TOOLS = {"mergekit": "mergekit==0.1.5", "modeldna": "modelDNA==0.1.0"}
TORCH = "torch==2.13.0"
HERE = Path(__file__).parent
PARENTS = ("base", "A", "B", "C", "D", "E", "stranger")
# Weights and parameters may be off by so much; what has no single weight is told by its method.
TOLERANCE = 0.02


@dataclass(frozen=True)
class Merge:
    """A merge of known making.

    Attributes:
        method: what it is called in the answer; "" for none.
        weights: of the parents, base included where it has a share; empty where the method has
            no single weight for each.
        parents: all models that it is made of.
        numbers: other parameters that the answer names.
        config: of mergekit; "" stands for the folder of the parents.
    """

    name: str
    method: str
    config: Mapping[str, Any]
    parents: tuple[str, ...]
    weights: Mapping[str, float] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)


def _models(folder: Path, shares: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"model": str(folder / name), "parameters": dict(p)} for name, p in shares.items()]


def merges(folder: Path, dtype: str) -> list[Merge]:
    """Return the merges that mergekit writes of the models in a folder."""

    def sparse(
        method: str, weights: Mapping[str, float], parameters: Mapping[str, Any], **own: Any
    ) -> dict[str, Any]:
        shares: dict[str, Mapping[str, Any]] = {"base": {}}
        shares |= {name: {"weight": w, **parameters} for name, w in weights.items()}
        return {
            "models": _models(folder, shares),
            "merge_method": method,
            "base_model": str(folder / "base"),
            "parameters": own,
            "dtype": dtype,
        }

    def linear(weights: Mapping[str, float], **own: Any) -> dict[str, Any]:
        shares = {name: {"weight": w} for name, w in weights.items()}
        models = _models(folder, shares)
        return {"models": models, "merge_method": "linear", "parameters": own, "dtype": dtype}

    def slerp(t: Any) -> dict[str, Any]:
        return {
            "models": _models(folder, {"A": {}, "B": {}}),
            "merge_method": "slerp",
            "base_model": str(folder / "A"),
            "parameters": {"t": t},
            "dtype": dtype,
        }

    def task(weights: Mapping[str, float]) -> dict[str, float]:
        return {**weights, "base": 1 - sum(weights.values())}

    def stack(*slices: tuple[str, int, int]) -> dict[str, Any]:
        sources = [{"model": str(folder / m), "layer_range": [a, b]} for m, a, b in slices]
        return {
            "slices": [{"sources": [source]} for source in sources],
            "merge_method": "passthrough",
            "dtype": dtype,
        }

    ab, abc = {"A": 0.5, "B": 0.5}, {"A": 0.5, "B": 0.3, "C": 0.2}
    found = [
        Merge("linear", "weighted sum", linear({"A": 0.3, "B": 0.7}), ("A", "B"),
              {"A": 0.3, "B": 0.7}),
        Merge("linear-normalised", "weighted sum", linear({"A": 0.1, "B": 1.0}), ("A", "B"),
              {"A": 0.1 / 1.1, "B": 1 / 1.1}),
        Merge("linear-three", "weighted sum", linear(abc), ("A", "B", "C"), abc),
        Merge("slerp", "slerp", slerp(0.4), ("A", "B"), numbers={"t": 0.4}),
        Merge("slerp-by-role", "slerp",
              slerp([{"filter": "self_attn", "value": 0.2}, {"filter": "mlp", "value": 0.7},
                     {"value": 0.5}]), ("A", "B")),
        Merge("slerp-by-layer", "slerp", slerp([0.1, 0.5, 0.9]), ("A", "B")),
        Merge("task-arithmetic", "weighted sum",
              sparse("task_arithmetic", {"A": 0.6, "B": 0.3}, {}), ("base", "A", "B"),
              task({"A": 0.6, "B": 0.3})),
        Merge("negative-task", "add-difference",
              sparse("task_arithmetic", {"A": 1.0, "B": -0.5}, {}), ("base", "A", "B"),
              task({"A": 1.0, "B": -0.5})),
        Merge("add-difference", "add-difference",
              sparse("task_arithmetic", {"A": 1.0, "B": 1.0}, {}), ("base", "A", "B"),
              task({"A": 1.0, "B": 1.0})),
        Merge("ties", "TIES", sparse("ties", ab, {"density": 0.5}), ("base", "A", "B"),
              ab, {"density": 0.5}),
        Merge("ties-uneven", "TIES", sparse("ties", abc, {"density": 0.3}),
              ("base", "A", "B", "C"), abc, {"density": 0.3}),
        Merge("ties-unnormalised", "TIES",
              sparse("ties", {"A": 0.6, "B": 0.4}, {"density": 0.4}, normalize=False),
              ("base", "A", "B"), {"A": 0.6, "B": 0.4}, {"density": 0.4}),
        Merge("dare-linear", "DARE", sparse("dare_linear", ab, {"density": 0.5}),
              ("base", "A", "B"), ab, {"density": 0.5}),
        Merge("dare-sparse", "DARE",
              sparse("dare_linear", {"A": 0.4, "B": 0.3, "C": 0.3}, {"density": 0.2}),
              ("base", "A", "B", "C"), {"A": 0.4, "B": 0.3, "C": 0.3}, {"density": 0.2}),
        Merge("dare-ties", "DARE TIES", sparse("dare_ties", {"A": 0.6, "B": 0.4},
              {"density": 0.5}), ("base", "A", "B"), {"A": 0.6, "B": 0.4}, {"density": 0.5}),
        Merge("breadcrumbs", "breadcrumbs",
              sparse("breadcrumbs", ab, {"density": 0.6, "gamma": 0.05}), ("base", "A", "B"),
              ab, {"density": 0.6}),
        Merge("breadcrumbs-ties", "breadcrumbs TIES",
              sparse("breadcrumbs_ties", ab, {"density": 0.6, "gamma": 0.05}),
              ("base", "A", "B"), ab, {"density": 0.6}),
        Merge("della-linear", "DELLA",
              sparse("della_linear", ab, {"density": 0.5, "epsilon": 0.2}), ("base", "A", "B"),
              ab, {"density": 0.5}),
        Merge("della", "DELLA TIES",
              sparse("della", ab, {"density": 0.5, "epsilon": 0.2}), ("base", "A", "B"),
              ab, {"density": 0.5}),
        Merge("model-stock", "model stock",
              {"models": _models(folder, {n: {} for n in ("base", "A", "B", "C")}),
               "merge_method": "model_stock", "base_model": str(folder / "base"),
               "dtype": dtype}, ("base", "A", "B", "C")),
        Merge("stack", "stack", stack(("A", 0, 4), ("B", 2, 6)), ("A", "B")),
    ]  # fmt: skip
    return found


def mergekit_input(some: Sequence[Merge], folder: Path) -> list[dict[str, Any]]:
    """Return what `merge_zoo_mergekit.py` reads."""
    return [{"config": dict(m.config), "out": str(folder / m.name)} for m in some]


def install(folder: Path, tool: str) -> Path:
    """Return the interpreter of an environment with a tool, which is made where it is missing."""
    python = folder / tool / "bin" / "python"
    if not python.exists():
        venv.create(folder / tool, with_pip=True)
        pip = [python, "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, TORCH, TOOLS[tool]], check=True)
    return python


def write(folder: Path, dtype: str, seed: int) -> Path:
    """Return the folder of parents and merges, written where they are missing."""
    models = folder / (f"{dtype}-{seed}" if seed else dtype)
    python = install(folder, "mergekit")
    if not models.exists():
        command = [python, HERE / "merge_zoo_models.py", models, dtype, str(seed)]
        subprocess.run(command, check=True)
    some = merges(models, dtype)
    missing = [m for m in some if not (models / "merges" / m.name).exists()]
    if missing:
        file = models / "merges.json"
        file.write_text(json.dumps(mergekit_input(missing, models / "merges")))
        subprocess.run([python, HERE / "merge_zoo_mergekit.py", file], check=True)
    return models


def asked(models: Path, merge: Merge) -> tuple[Recipe, Lineage, str]:
    """Return what megasim says of a merge beside all that may be its parents, and of all.

    And the recipe file that it writes for mergekit.
    """
    parents = models / "parents.duckdb"
    if not parents.exists():
        with megasim.open_store(parents) as store:
            store.ingest(*(models / name for name in PARENTS))
            store.compare()
    file = models / "one.duckdb"
    shutil.copy(parents, file)
    with megasim.open_store(file) as store:
        store.ingest(models / "merges" / merge.name)
        store.compare()
        recipe, lineage = store.recipe(merge.name), store.lineage(use_metadata=False)
        text = ""
        if recipe.claimed:
            text = mergekit_yaml(store.merge_plan(merge.name, [recipe]))
    file.unlink()
    return recipe, lineage, text


def made_again(folder: Path, models: Path, merge: Merge, text: str) -> str:
    """Return how far what mergekit makes of a recipe file is from the merge: ‖a − b‖ / ‖a‖.

    Methods that take elements at random get the seed that the merge was made with.
    """
    if not text:
        return "nothing written"
    out = models / "again"
    shutil.rmtree(out, ignore_errors=True)
    file = models / "again.json"
    file.write_text(json.dumps([{"config": text, "out": str(out)}]))
    command = [install(folder, "mergekit"), HERE / "merge_zoo_mergekit.py", file]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return f"mergekit: {done.stderr.splitlines()[-1][:80]}"
    meant = load_file(models / "merges" / merge.name / "model.safetensors")
    made = load_file(out / "model.safetensors")
    if made.keys() != meant.keys():
        return "other keys"
    left = sum(float((made[k].double() - v.double()).square().sum()) for k, v in meant.items())
    return f"{(left / sum(float(v.double().square().sum()) for v in meant.values())) ** 0.5:.1e}"


def problems(merge: Merge, recipe: Recipe, lineage: Lineage) -> list[str]:
    """Return what is wrong of an answer, a few words each."""
    wrong = []
    method = str(recipe.method) if recipe.claimed else "none"
    if recipe.verdict == RecipeVerdict.ADD_DIFFERENCE:
        method = "add-difference"
    if method != merge.method:
        wrong.append(f"method {method}")
    found = {p.model: p.weight for p in recipe.parents}
    if set(found) != set(merge.parents):
        wrong.append(f"parents {', '.join(sorted(found)) or 'none'}")
    for name, weight in merge.weights.items():
        if not abs(found.get(name, 9.0) - weight) <= TOLERANCE:
            wrong.append(f"weight of {name}: {found.get(name, 0.0):.3f} for {weight:.3f}")
    numbers = [(n.split(" of ")[0], v) for n, v in recipe.numbers]
    for name, value in merge.numbers.items():
        told = [v for n, v in numbers if n == name]
        if name == "t" and recipe.claimed and not recipe.blockwise:
            told = [found.get("B", 9.0)]
        if not told or any(abs(v - value) > TOLERANCE for v in told):
            wrong.append(f"{name}: {told} for {value}")
    if any(edge.parent == merge.name for edge in lineage.edges if edge.decided):
        wrong.append("drawn as a parent")
    if {r.model for r in lineage.recipes} - {merge.name}:
        wrong.append("another model is called a merge")
    stranger = next(f for f in lineage.families if "stranger" in f.models)
    if len(stranger.models) > 1:
        wrong.append("the unrelated base is in the family")
    return wrong


def by_modeldna(folder: Path, models: Path, merge: Merge) -> str:
    """Return what modelDNA says of a merge when it is told the true parents.

    It fits a weighted sum of what is named: it seeks no parents, and has no tree.
    """
    install(folder, "modeldna")
    program = folder / "modeldna" / "bin" / "modeldna"
    parents = [str(models / name) for name in merge.parents]
    command = [program, "decompose", "--json", str(models / "merges" / merge.name), *parents]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        return " ".join(done.stderr.split())[:70].replace(str(models), "")
    read = json.loads(done.stdout[done.stdout.index("{") :])
    alphas = {Path(name).name: float(share) for name, share in read["alphas"].items()}
    return ", ".join(f"{share:.3f} × {name}" for name, share in alphas.items())


def main() -> None:
    """Print the table of all merges of one dtype."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", default="float16", choices=["float16", "bfloat16", "float32"])
    parser.add_argument("--seed", type=int, default=0, help="of the models that are trained")
    parser.add_argument("--modeldna", action="store_true", help="ask modelDNA about each, too")
    again = "run the recipes that are written, and compare what they make"
    parser.add_argument("--round-trip", action="store_true", help=again)
    given = parser.parse_args()
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    models = write(folder, given.dtype, given.seed)
    columns = ["merge", "megasim", "wrong", *(["made again"] if given.round_trip else [])]
    columns += ["modelDNA"] if given.modeldna else []
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    right = 0
    some = merges(models, given.dtype)
    for merge in some:
        recipe, lineage, text = asked(models, merge)
        wrong = problems(merge, recipe, lineage)
        right += not wrong
        cells = [merge.name, recipe.sentence().split("; ")[0], "; ".join(wrong) or "–"]
        if given.round_trip:
            cells.append(made_again(folder, models, merge, text))
        if given.modeldna:
            cells.append(by_modeldna(folder, models, merge))
        print("| " + " | ".join(cells) + " |", flush=True)
    print(f"\n{right} of {len(some)} right")


if __name__ == "__main__":
    main()
