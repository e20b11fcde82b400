"""Sound stores of many kinds, small ones: a doctor finds nothing in any of them.

Each maker leaves `s.duckdb` in a folder of its own.
"""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import numpy as np
import torch

from megasim import open_store
from megasim.workspace.jobs import compact, migrate
from tests.models import nudged, random_model, write_model
from tests.older_stores import write_older


def family(folder: Path, count: int = 3) -> None:
    """Write models of one origin."""
    base = random_model(0)
    for i in range(count):
        write_model(folder / f"m{i}.safetensors", nudged(base, i, "block.1.weight"))


def of_published_pairs(folder: Path, shared: Path) -> None:
    with open_store(folder / "s.duckdb") as store:
        store.import_path(shared / "published" / "v2" / "aobp.json")
        store.import_path(shared / "published" / "v1")


def of_estimates(folder: Path, shared: Path) -> None:
    base = random_model(3, shape=(64, 64))
    for i in range(5):
        write_model(folder / f"m{i}.safetensors", nudged(base, i))
    with open_store(folder / "s.duckdb") as store:
        store.ingest(folder)
        store.compare(models=["m0", "m1"])
        store.compare(estimate=True)


def of_samples(folder: Path, shared: Path) -> None:
    """Models of all tiers: two samples of different sizes, a header, and one in full."""
    base = random_model(3, keys=3, shape=(256, 300))
    base["small"] = torch.tensor([1.0, 2.0, -3.0])
    for i in range(4):
        write_model(folder / f"m{i}.safetensors", nudged(base, i, "block.1.weight"))
    with open_store(folder / "s.duckdb") as store:
        store.ingest(folder / "m0.safetensors", header=True)
        store.ingest(folder / "m1.safetensors", sample="10%")
        store.ingest(folder / "m2.safetensors", sample="20%")
        store.ingest(folder / "m3.safetensors")
        store.compare()


def of_fingerprints(folder: Path, shared: Path) -> None:
    for i in range(2):
        write_model(folder / f"m{i}.safetensors", random_model(i))
    with open_store(folder / "own.duckdb") as store:
        store.ingest(folder)
        store.export_fingerprints(folder / "f.parquet")
    with open_store(folder / "s.duckdb") as store:
        store.import_path(folder / "f.parquet")


def of_odd_tensors(folder: Path, shared: Path) -> None:
    base = {
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(3.0),
        "zeros": torch.zeros(300),
        "ones": torch.ones(5000),
        "whole": torch.arange(600),
        "big": torch.full((3,), 2**62),
        "flags": torch.tensor([True, False, True]),
        "double": torch.randn(700, dtype=torch.float64) * 1e200,
        "tiny": torch.randn(700, dtype=torch.float64) * 1e-200,
        "inf": torch.tensor([1.0, float("inf")] * 200),
        "half": torch.randn(3000).half(),
        "brain": torch.randn(3000).bfloat16(),
        "eight": torch.randn(3000).to(torch.float8_e4m3fn),
        "line": torch.randn(300, 300),
    }
    torch.manual_seed(0)
    write_model(folder / "a.pt", base)
    changed = {
        key: value + 1 if value.dtype not in (torch.bool, torch.float8_e4m3fn) else value.roll(1)
        for key, value in base.items()
    }
    write_model(folder / "b.pt", changed)
    write_model(folder / "c.pt", {k: v for k, v in changed.items() if k != "line"})
    with open_store(folder / "s.duckdb") as store:
        store.ingest(folder)
        store.compare(metrics=("linf", "cossim"))


def of_replaced_and_forgotten(folder: Path, shared: Path) -> None:
    for i in range(4):
        write_model(folder / f"m{i}.safetensors", nudged(random_model(0), i))
    with open_store(folder / "s.duckdb") as store:
        store.ingest(folder)
        store.compare(models=["m0", "m1", "m2"])
        store.forget("m1")
        write_model(folder / "m2.safetensors", random_model(7))
        store.ingest(folder)
        store.compare(metrics=("linf",))


def of_nothing(folder: Path, shared: Path) -> None:
    open_store(folder / "s.duckdb").close()


def of_the_zoo(folder: Path, shared: Path) -> None:
    from megasim.zoo.building import TRUTH, build_zoo

    build_zoo(TRUTH, folder / "zoo", seed=0, width=1 / 64)
    with open_store(folder / "s.duckdb") as store:
        store.ingest(folder / "zoo")
        store.compare()


def of_one_model(folder: Path, shared: Path) -> None:
    write_model(folder / "a.safetensors", random_model(0))
    with open_store(folder / "s.duckdb") as store:
        store.ingest(folder)
        store.compare()


def of_no_pairs_yet(folder: Path, shared: Path) -> None:
    family(folder)
    with open_store(folder / "s.duckdb") as store:
        store.ingest(folder)


def of_copies(folder: Path, shared: Path) -> None:
    family(folder, 2)
    (folder / "again.safetensors").write_bytes((folder / "m0.safetensors").read_bytes())
    with open_store(folder / "s.duckdb") as store:
        store.ingest(folder, names={"alias": folder / "m1.safetensors"})
        store.compare(metrics=("linf", "cossim"))


def of_parts(folder: Path, shared: Path) -> None:
    for i in range(2):
        model = nudged(random_model(0), i)
        optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
        held = {"model": model, "model_ema": nudged(model, 9), "optimizer": optimizer}
        torch.save(held, folder / f"train{i}.pt")
    with open_store(folder / "s.duckdb") as store:
        store.ingest(folder)
        store.compare()
        store.forget("train0")


def of_unread_keys(folder: Path, shared: Path) -> None:
    for i in range(2):
        codes = torch.full((6,), i, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
        torch.save({**random_model(i), "codes": codes}, folder / f"q{i}.pt")
    with open_store(folder / "s.duckdb") as store:
        store.ingest(folder)
        store.compare()


def of_casts(folder: Path, shared: Path) -> None:
    base = random_model(0)
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        name = str(dtype).rpartition(".")[2]
        write_model(folder / f"{name}.safetensors", {k: v.to(dtype) for k, v in base.items()})
    with open_store(folder / "s.duckdb") as store:
        store.ingest(folder)
        store.compare(metrics=("linf",))


def of_renamed_keys(folder: Path, shared: Path) -> None:
    base = random_model(0, keys=6, shape=(32, 32))
    write_model(folder / "a.safetensors", base)
    other = nudged(base, 1, "block.0.weight", "block.1.weight")
    write_model(folder / "b.safetensors", {f"module.{k}": v for k, v in other.items()})
    with open_store(folder / "s.duckdb") as store:
        store.ingest(folder)
        store.compare()


def of_other_architectures(folder: Path, shared: Path) -> None:
    write_model(folder / "a.safetensors", random_model(0))
    write_model(folder / "b.safetensors", random_model(1, shape=(8, 40)))
    write_model(folder / "c.safetensors", {"other.weight": torch.randn(9, 9)})
    with open_store(folder / "s.duckdb") as store:
        store.ingest(folder)
        store.compare(metrics=("cossim",))


def of_numpy_arrays(folder: Path, shared: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(2):
        np.savez(folder / f"n{i}.npz", a=rng.standard_normal((9, 7)), b=np.arange(70, dtype=">i4"))
    with open_store(folder / "s.duckdb") as store:
        store.ingest(folder / "n0.npz", folder / "n1.npz")
        store.compare()


def of_shards(folder: Path, shared: Path) -> None:
    places: dict[str, str] = {}
    for i in range(2):
        shard = {f"s{i}.{key}": value for key, value in random_model(i).items()}
        path = write_model(folder / "m" / f"x-0000{i + 1}-of-00002.safetensors", shard)
        places |= dict.fromkeys(shard, path.name)
    index = {"weight_map": {**places, "lost": "x-00001-of-00002.safetensors"}}
    (folder / "m" / "x.safetensors.index.json").write_text(json.dumps(index))
    family(folder, 1)
    with open_store(folder / "s.duckdb") as store:
        store.ingest(folder)
        store.compare()


def of_metrics_in_turn(folder: Path, shared: Path) -> None:
    family(folder)
    for metrics in ((), ("linf",), ("cossim",)):
        with open_store(folder / "s.duckdb") as store:
            store.ingest(folder)
            store.compare(metrics=metrics, models=["m0", "m1"])
    with open_store(folder / "s.duckdb") as store:
        store.compare()


def of_a_model_map(folder: Path, shared: Path) -> None:
    family(folder)
    names = {f"m{i}": str(folder / f"m{i}.safetensors") for i in range(3)}
    plan = {"models": names, "groups": {"near": [["m0", "m1"]]}}
    (folder / "model_map.json").write_text(json.dumps(plan))
    with open_store(folder / "s.duckdb") as store:
        store.ingest(folder)
        store.pairs_of(models=["m0", "m1"])
        store.compare(models=["m0", "m1"])
        store.compare(estimate=True)
        store.compare()


def of_a_compacted_store(folder: Path, shared: Path) -> None:
    of_replaced_and_forgotten(folder, shared)
    compact(folder / "s.duckdb")


def of_an_old_schema(folder: Path, shared: Path) -> None:
    family(folder)
    with open_store(folder / "new.duckdb") as store:
        store.ingest(folder)
        store.compare(metrics=("linf", "cossim"))
    write_older(folder / "new.duckdb", folder / "s.duckdb")
    migrate(folder / "s.duckdb")


def of_an_old_schema_of_published_pairs(folder: Path, shared: Path) -> None:
    with open_store(folder / "new.duckdb") as store:
        store.import_path(shared / "published" / "v2" / "aobp.json")
    write_older(folder / "new.duckdb", folder / "s.duckdb")
    migrate(folder / "s.duckdb")


def of_older_fingerprints(folder: Path, shared: Path) -> None:
    """Of version 3, which had no profiles, and of version 1, which nothing is compared with."""
    family(folder, 4)
    with open_store(folder / "s.duckdb") as store:
        store.ingest(folder)
        store.compare()
    with duckdb.connect(str(folder / "s.duckdb")) as con:
        con.execute("update model set fingerprint_version = 3")
        con.execute("update tensor set fingerprint_version = 3, digest = null")
        con.execute("delete from profile")


def of_a_stopped_comparison(folder: Path, shared: Path) -> None:
    """As a kill leaves it: pairs that are asked for, some of their distances, and no sums."""
    family(folder)
    with open_store(folder / "s.duckdb") as store:
        store.ingest(folder)
        store.compare()
    with duckdb.connect(str(folder / "s.duckdb")) as con:
        con.execute("update model_pair set done = false")
        con.execute("delete from component_distance")
        con.execute("delete from tensor_distance where rowid % 2 = 0")


STORES = (
    of_nothing,
    of_one_model,
    of_no_pairs_yet,
    of_copies,
    of_parts,
    of_unread_keys,
    of_casts,
    of_renamed_keys,
    of_other_architectures,
    of_numpy_arrays,
    of_shards,
    of_metrics_in_turn,
    of_a_model_map,
    of_odd_tensors,
    of_replaced_and_forgotten,
    of_a_compacted_store,
    of_an_old_schema,
    of_an_old_schema_of_published_pairs,
    of_older_fingerprints,
    of_a_stopped_comparison,
    of_published_pairs,
    of_estimates,
    of_samples,
    of_fingerprints,
    of_the_zoo,
)
