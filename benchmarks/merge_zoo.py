"""Merges of every method, written by the real merge tools, and what megasim says of each.

mergekit 0.1.5, sd-mecha 1.1.8 and modelDNA 0.1.0 are installed in environments of their own. Small
Llamas are trained (`merge_zoo_models.py`): a base, five models from it, and an unrelated one. Each
merge is put into a store with these seven, and megasim is asked where it comes from, without
metadata; modelDNA is told the parents.

    python -m benchmarks.merge_zoo FOLDER [--tool sd-mecha] [--dtype bfloat16] [--seed 1]
        [--only NAME …] [--modeldna] [--round-trip]

FOLDER keeps the environments (3 GB) and the models. Prints the tables of `docs/lineage.md`. What
has no method here is a merge that megasim has no word for: then it must claim nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import venv
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

import megasim
from benchmarks.merge_zoo_truth import Merge, mergekit_merges, sd_mecha_merges
from megasim.errors import NoAnswerError
from megasim.exchange.recipe_files import mergekit_yaml
from megasim.lineage.recipe_result import Recipe
from megasim.lineage.result import Lineage
from megasim.words import RecipeVerdict

TOOLS = {
    "mergekit": "mergekit==0.1.5",
    "sd-mecha": "sd-mecha==1.1.8",
    "modeldna": "modelDNA==0.1.0",
}
TORCH = "torch==2.13.0"
HERE = Path(__file__).parent
PARENTS = ("base", "A", "B", "C", "D", "E", "stranger")
# Weights and parameters may be off by so much; what has no single weight is told by its method.
TOLERANCE = 0.02


def install(folder: Path, tool: str) -> Path:
    """Return the interpreter of an environment with a tool, which is made where it is missing."""
    python = folder / tool / "bin" / "python"
    if not python.exists():
        venv.create(folder / tool, with_pip=True)
        pip = [python, "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, TORCH, TOOLS[tool]], check=True)
    return python


def train(folder: Path, dtype: str, seed: int) -> Path:
    """Return the folder of the parents, trained where they are missing."""
    models = folder / (f"{dtype}-{seed}" if seed else dtype)
    if not models.exists():
        command = [install(folder, "mergekit"), HERE / "merge_zoo_models.py"]
        subprocess.run([*command, models, dtype, str(seed)], check=True)
    return models


def merge_all(folder: Path, models: Path, tool: str, some: Sequence[Merge], dtype: str) -> None:
    """Write the merges that are missing."""
    missing = [m for m in some if not (models / tool / m.name).exists()]
    if not missing:
        return
    wanted = [{"config": m.config, "out": str(models / tool / m.name)} for m in missing]
    file = models / "merges.json"
    if tool == "mergekit":
        file.write_text(json.dumps(wanted))
        program = "merge_zoo_mergekit.py"
    else:
        file.write_text(json.dumps({"parents": str(models), "dtype": dtype, "merges": wanted}))
        program = "merge_zoo_sd_mecha.py"
    subprocess.run([install(folder, tool), HERE / program, file], check=True)


def asked(models: Path, made: Path) -> tuple[Recipe, Lineage, str]:
    """Return what megasim says of a merge beside all that may be its parents, and of all.

    And the recipe file that it writes for mergekit; "" where that has no words for it.
    """
    parents = models / "parents.duckdb"
    if not parents.exists():
        with megasim.open_store(parents) as store:
            store.ingest(*(models / name for name in PARENTS))
            store.compare()
    file = models / f"{made.parent.name}-{made.name}.duckdb"
    shutil.copy(parents, file)
    with megasim.open_store(file) as store:
        store.ingest(made)
        store.compare()
        recipe, lineage = store.recipe(made.name), store.lineage(use_metadata=False)
        text = ""
        if recipe.claimed:
            with suppress(NoAnswerError):
                text = mergekit_yaml(store.merge_plan(made.name, [recipe]))
    file.unlink()
    return recipe, lineage, text


def made_again(folder: Path, merged: Path, text: str) -> str:
    """Return how far what mergekit makes of a recipe file is from the merge: ‖a − b‖ / ‖a‖.

    Methods that take elements at random get the seed that the merge was made with.
    """
    if not text:
        return "nothing written"
    models = merged.parent.parent
    out = models / "again"
    shutil.rmtree(out, ignore_errors=True)
    file = models / "again.json"
    file.write_text(json.dumps([{"config": text, "out": str(out)}]))
    command = [install(folder, "mergekit"), HERE / "merge_zoo_mergekit.py", file]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return f"mergekit: {done.stderr.splitlines()[-1][:80]}"
    meant = load_file(merged / "model.safetensors")
    made = load_file(out / "model.safetensors")
    if made.keys() != meant.keys():
        return "other keys"
    left = sum(float((made[k].double() - v.double()).square().sum()) for k, v in meant.items())
    return f"{(left / sum(float(v.double().square().sum()) for v in meant.values())) ** 0.5:.1e}"


def problems(merge: Merge, recipe: Recipe, lineage: Lineage) -> list[str]:
    """Return what is wrong of an answer, a few words each."""
    wrong = []
    method = str(recipe.method) if recipe.claimed else ""
    doubtful = (RecipeVerdict.ADD_DIFFERENCE, RecipeVerdict.AMBIGUOUS)
    if recipe.verdict in doubtful and recipe.likeliest:  # of four models any may be the others' sum
        method = "add-difference"
    if method != merge.method:
        wrong.append(f"method {method or 'none'}")
    found = {p.model: p.weight for p in recipe.parents}
    if set(found) != set(merge.parents):
        wrong.append(f"parents {', '.join(sorted(found)) or 'none'}")
    if merge.by_layer:
        wrong += _wrong_layers(merge.by_layer, recipe)
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


def _wrong_layers(ends: tuple[float, float], recipe: Recipe) -> list[str]:
    """Return what is wrong of the weights of B by layer, which go from one end to the other."""
    names = [p.model for p in recipe.parents]
    told = {b.block: b.weights[names.index("B")] for b in recipe.blocks if "B" in names}
    layers = [told[name] for name in sorted(told) if name.startswith("layer ")]
    meant = np.linspace(*ends, len(layers)) if len(layers) > 1 else [9.0]
    return [
        f"{value:.3f} for {true:.3f}"
        for value, true in zip(layers or [0.0], meant, strict=True)
        if not abs(value - true) <= TOLERANCE
    ]


def by_modeldna(folder: Path, merged: Path, merge: Merge) -> str:
    """Return what modelDNA says of a merge when it is told the true parents.

    It fits a weighted sum of what is named: it seeks no parents, and has no tree.
    """
    install(folder, "modeldna")
    program = folder / "modeldna" / "bin" / "modeldna"
    models = merged.parent.parent
    parents = [str(models / name) for name in merge.parents]
    command = [program, "decompose", "--json", str(merged), *parents]
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
    parser.add_argument("--tool", default="mergekit", choices=["mergekit", "sd-mecha"])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these merges alone")
    given = parser.parse_args()
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    models = train(folder, given.dtype, given.seed)
    by_tool = given.tool == "sd-mecha"
    some = sd_mecha_merges() if by_tool else mergekit_merges(models, given.dtype)
    some = [m for m in some if not given.only or m.name in given.only]
    merge_all(folder, models, given.tool, some, given.dtype)
    columns = ["merge", "megasim", "wrong", *(["made again"] if given.round_trip else [])]
    columns += ["modelDNA"] if given.modeldna else []
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    right = 0
    for merge in some:
        merged = models / given.tool / merge.name
        recipe, lineage, text = asked(models, merged)
        wrong = problems(merge, recipe, lineage)
        right += not wrong
        cells = [merge.name, recipe.sentence().split("; ")[0], "; ".join(wrong) or "–"]
        if given.round_trip:
            cells.append(made_again(folder, merged, text))
        if given.modeldna:
            cells.append(by_modeldna(folder, merged, merge) if merge.parents else "–")
        print("| " + " | ".join(cells) + " |", flush=True)
    print(f"\n{right} of {len(some)} right")


if __name__ == "__main__":
    main()
