"""Samples against the whole: how far off distances, cosines and recipes are, and what errors say.

    python -m benchmarks.sampling                     families of the zoo, an eighth as wide
    python -m benchmarks.sampling FOLDER… --sample 5% real models, a family in each folder

Of each folder all files are ingested twice, in full and as samples, and all pairs compared. To each
pair of models of one architecture, up to six, a merge of both, 0.7 and 0.3, is added. Prints a row
for each family and one for all, as JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import megasim
from megasim.checkpoint.opening import TensorReader, open_checkpoint
from megasim.errors import MegasimError
from megasim.zoo.building import build_zoo
from megasim.zoo.plans import TRUTH

# Of a family so many pairs are merged.
_MERGES = 6
_WEIGHT = 0.7
_COMMON = 0.9  # of the keys, in one shape
_ZOO = ("base-fp16", "chain-", "new-decoder")

Found = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, help="families of checkpoints")
    parser.add_argument("--sample", default="5%", help="as megasim ingest takes it")
    parser.add_argument("--width", default=1 / 8, type=float, help="of the zoo; 1: full size")
    asked = parser.parse_args()
    together: Found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for folder in asked.folders or [_zoo(Path(scratch) / "zoo", asked.width)]:
            found = measure_family(folder, asked.sample, Path(scratch) / folder.name)
            print(json.dumps({"family": folder.name, **_summary(found)}))
            for name, values in found.items():
                together.setdefault(name, []).extend(values)
    print(json.dumps({"family": "all", "sample": asked.sample, **_summary(together)}))


def measure_family(folder: Path, sample: str, scratch: Path) -> Found:
    """Return what samples say of a family beside the whole.

    Returns:
        `read`: the share of its elements that is read, of each model; `off`: relative errors of L2
        of components; `z`: the same in standard errors; `cosine`: differences of the cosine of two
        components; `weight`: differences of the weights of recovered recipes; `kinship`: those of
        the correlations of hidden units with the first model, and NaN for another verdict.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    merges = _add_merges(folder, scratch / "merges")
    found: Found = {"read": [], "off": [], "z": [], "cosine": [], "weight": [], "kinship": []}
    with (
        megasim.open_store(scratch / "full.duckdb") as full,
        megasim.open_store(scratch / "sampled.duckdb") as sampled,
    ):
        for store, options in ((full, {}), (sampled, {"sample": sample})):
            store.ingest(folder, scratch / "merges", **options)
            store.compare()
        models = sampled.models()
        cut = models[models["tier"] == "sample"]
        found["read"] = (cut["sampled"] / cut["parameters"]).tolist()
        names = set(cut["name"])
        exact, norms = _distances(full), _norms(full)
        estimated, norms_of_samples = _distances(sampled), _norms(sampled)
        for (a, b, component), (l2, error) in estimated.items():
            true = exact.get((a, b, component), (0.0, 0.0))[0]
            if not (true and l2 and error and {a, b} <= names):
                continue
            found["off"].append(l2 / true - 1)
            found["z"].append((l2 - true) / error)
            cosines = [
                _cosine(d, of[a, component], of[b, component])
                for d, of in ((true, norms), (l2, norms_of_samples))
            ]
            found["cosine"].append(cosines[1] - cosines[0])
        for merge, parents in merges.items():
            weights = [_weights(store, merge, parents) for store in (full, sampled)]
            if weights[0] is not None:
                given = weights[1] if weights[1] is not None else [float("nan")] * 2
                found["weight"] += [g - w for g, w in zip(given, weights[0], strict=True)]
        found["kinship"] = _kinship_apart(full, sampled, sorted(names))
    return found


def _kinship_apart(full: Any, sampled: Any, names: list[str]) -> list[float]:
    """Return by how much the correlation of hidden units with the first model differs."""
    if len(names) < 2:
        return []
    tables = [store.kinship(names[0], names[1:], ["all"]) for store in (full, sampled)]
    both = tables[0].merge(tables[1], on="other", suffixes=("", "_sampled"))
    both = both[both["units"] > 0]
    apart = (both["correlation_sampled"] - both["correlation"]).astype(float)
    return apart.where(both["kinship"] == both["kinship_sampled"]).tolist()


def _summary(found: Found) -> dict[str, float | int]:
    """Return the figures of a family."""
    off, z = np.abs(found["off"]), np.abs(found["z"])
    if not len(off):
        return {"distances": 0}
    return {
        "distances": len(off),
        "read": round(float(np.mean(found["read"])), 4),
        "within 2 %": round(float((off < 0.02).mean()), 4),
        "95 % are within": round(float(np.quantile(off, 0.95)), 4),
        "within one error": round(float((z < 1).mean()), 4),
        "within two errors": round(float((z < 2).mean()), 4),
        "largest difference of cosines": round(float(np.abs(found["cosine"]).max()), 5),
        "recipes": len(found["weight"]) // 2,
        "largest difference of weights": round(float(np.abs(found["weight"]).max()), 5)
        if found["weight"]
        else 0.0,
        "kinship of pairs": len(found["kinship"]),
        "largest difference of correlations": round(float(np.abs(found["kinship"]).max()), 5)
        if found["kinship"]
        else 0.0,
    }


def _zoo(folder: Path, width: float) -> Path:
    build_zoo(TRUTH, folder, seed=0, width=width)
    for path in folder.iterdir():
        if not path.name.startswith(_ZOO):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


def _add_merges(folder: Path, out: Path) -> dict[str, tuple[str, str]]:
    """Write merges of pairs of models, of what both hold in one shape; name → parents."""
    out.mkdir(exist_ok=True)
    opened = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            opened[path.stem] = open_checkpoint(path).tensors
        except MegasimError:
            continue
    merges: dict[str, tuple[str, str]] = {}
    for a, b in combinations(opened, 2):
        common = [
            key
            for key, ref in opened[a].items()
            if key in opened[b] and ref.shape == opened[b][key].shape
        ]
        if len(common) < _COMMON * len(opened[a]) or len(merges) == _MERGES:
            continue
        name = f"merge-{len(merges)}"
        with TensorReader() as reader:
            merged = {
                key: torch.from_numpy(
                    _WEIGHT * _numbers(reader, opened[a][key])
                    + (1 - _WEIGHT) * _numbers(reader, opened[b][key])
                )
                for key in common
                if opened[a][key].dtype in ("float16", "float32", "float64")
            }
        save_file(merged, out / f"{name}.safetensors")
        merges[name] = (a, b)
    return merges


def _numbers(reader: TensorReader, ref: Any) -> np.ndarray:
    return reader.read(ref).reshape(ref.shape).astype(np.float32)


def _distances(store: Any) -> dict[tuple[str, str, str], tuple[float, float]]:
    frame = store.sql("select model_a, model_b, component, l2, l2_error from component_distances")
    return {
        (a, b, c): (l2 or 0.0, 0.0 if np.isnan(error or 0.0) else error or 0.0)
        for a, b, c, l2, error in frame.itertuples(index=False)
    }


def _norms(store: Any) -> dict[tuple[str, str], float]:
    rows = store.store.connection.execute(
        "select m.name, h.component, sqrt(sum(h.l2 * h.l2)) from held_keys h "
        "join model m on m.id = h.model_id where is_measured(h.nature) group by all"
    ).fetchall()
    return {(name, component): norm for name, component, norm in rows}


def _cosine(l2: float, a: float, b: float) -> float:
    return (a * a + b * b - l2 * l2) / (2 * a * b)


def _weights(store: Any, merge: str, parents: tuple[str, str]) -> list[float] | None:
    """Return the weights that a recipe gives two parents; None where it finds no merge of them."""
    try:
        found = {p.model: p.weight for p in store.recipe(merge, component="all").parents}
    except MegasimError:
        return None
    return [found[p] for p in parents] if set(parents) == set(found) else None


if __name__ == "__main__":
    main()
