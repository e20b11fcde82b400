"""Exact distances: right, incremental, content-addressed, and safe to interrupt."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest
import torch

import megasim
from megasim.compare import pairs
from megasim.compare import plan as pair_plan
from megasim.store.matrices import load_layers
from tests.models import nudged, random_model, write_model


def layers(store, columns: str = "canonical_key, status, l0, l1, l2, linf, cossim"):
    return store.sql(f"select {columns} from layer_distances order by all")


def ingest_all(store, folder: Path, **models) -> None:
    for name, tensors in models.items():
        store.ingest(write_model(folder / f"{name}.safetensors", tensors))


@pytest.fixture
def store(tmp_path: Path):
    with megasim.open_store(tmp_path / "s.duckdb") as opened:
        yield opened


def test_distances_agree_with_torch(tmp_path: Path, store) -> None:
    a = random_model(0)
    a |= {"scalar": torch.tensor(2.0), "empty": torch.zeros(0, 3), "ints": torch.arange(77)[None]}
    a["half"] = torch.randn(40, 50).half()
    a["brain"] = torch.randn(40, 50).bfloat16()
    a["double"] = torch.randn(7, 5).double()
    b = {k: v + v.abs().max().to(v.dtype) * 0.01 if v.numel() else v for k, v in a.items()}
    b["ints"] = a["ints"].flip(1)
    ingest_all(store, tmp_path, a=a, b=b)
    store.compare(metrics=["linf", "cossim"])
    found = layers(store).set_index("canonical_key")
    for key, x in a.items():
        row, x64, y64 = found.loc[key], x.double(), b[key].double()
        if not x.numel():
            assert (row["status"], row["l2"]) == ("identical", 0)
            continue
        if x.dtype not in (torch.double, torch.int64):
            x64, y64 = x.float().double(), b[key].float().double()
        assert row["l0"] == (x64 != y64).sum().item()
        for p, metric in ((1, "l1"), (2, "l2"), (float("inf"), "linf")):
            assert row[metric] == pytest.approx(torch.dist(x64, y64, p).item(), rel=1e-6), key
        cos = torch.cosine_similarity(torch.atleast_1d(x64), torch.atleast_1d(y64), dim=0).mean()
        assert row["cossim"] == pytest.approx(cos.item(), rel=1e-6), key


def test_statuses(tmp_path: Path, store) -> None:
    base = random_model(0, keys=2)
    nan = torch.full((4, 4), float("nan"))
    ingest_all(
        store,
        tmp_path,
        a=base
        | {
            "half": base["block.0.weight"].half().float(),
            "rounded": base["block.0.weight"],
            "only_a": torch.ones(9),
            "shape": torch.ones(3, 4),
            "conv": base["block.0.weight"][:, :, None, None],
            "nan": nan,
            "both_nan": nan,
        },
        b=base
        | {
            "block.1.weight": base["block.1.weight"] + 1,
            "half": base["block.0.weight"].half(),
            "rounded": base["block.0.weight"].half(),
            "only_b": torch.ones(9),
            "shape": torch.ones(4, 3),
            "conv": base["block.0.weight"],
            "nan": torch.ones(4, 4),
            "both_nan": nan,
        },
    )
    store.compare()
    found = layers(store).set_index("canonical_key")
    assert found["status"].to_dict() == {
        "block.0.weight": "identical",
        "block.1.weight": "changed",
        "half": "same_values",
        "rounded": "same_at_fp16",
        "only_a": "missing_b",
        "only_b": "missing_a",
        "shape": "shape_mismatch",
        "conv": "identical",
        "nan": "non_finite",
        "both_nan": "identical",
    }
    nothing = found["l2"].isna()
    assert set(found.index[nothing]) == {"only_a", "only_b", "shape", "nan", "both_nan"}
    sums = store.sql(
        "select sum(keys_compared) as k, sum(non_finite) as n from component_distances"
    )
    assert sums.iloc[0].tolist() == [6, 1]


def test_adding_a_model_computes_only_its_pairs(tmp_path: Path, store) -> None:
    models = {f"m{i}": nudged(random_model(0), i) for i in range(4)}
    ingest_all(store, tmp_path, **models)
    first = store.compare()
    assert (first.pairs_done, first.tensor_pairs_computed) == (6, 24)
    ingest_all(store, tmp_path, m9=nudged(random_model(0), 9))
    second = store.compare()
    assert (second.pairs_done, second.pairs_known, second.tensor_pairs_computed) == (4, 6, 16)
    assert second.tensors_read == 5 * 4
    third = store.compare()
    assert (third.pairs_done, third.tensor_pairs_computed, third.bytes_read) == (0, 0, 0)


def test_shared_tensors_cost_nothing(tmp_path: Path, store) -> None:
    base = random_model(0)
    ingest_all(
        store,
        tmp_path,
        a=base,
        b=nudged(base, 1, "block.0.weight"),
        c=nudged(base, 2, "block.0.weight"),
        d=base,
    )
    result = store.compare()
    # three contents of one key: three pairs, whatever the six pairs of models
    assert (result.pairs_done, result.tensor_pairs_computed, result.tensors_read) == (6, 3, 3)


def test_the_same_result_whatever_the_order(tmp_path: Path) -> None:
    models = {f"m{i}": nudged(random_model(0), i) for i in range(4)}
    results = []
    for order in (list(models), list(models)[::-1]):
        with megasim.open_store(tmp_path / f"{order[0]}.duckdb") as store:
            for name in order:
                ingest_all(store, tmp_path, **{name: models[name]})
                store.compare()
            frame = store.matrix("block").to_frame()
            results.append(frame.loc[sorted(models), sorted(models)].to_numpy())
    assert np.array_equal(*results)


def test_a_missing_file_leaves_its_pairs_open(tmp_path: Path, store) -> None:
    ingest_all(store, tmp_path, **{f"m{i}": random_model(i) for i in range(3)})
    (tmp_path / "m1.safetensors").unlink()
    result = store.compare()
    assert result.pairs_done == 1
    (error,) = result.failed
    assert "is gone" in error.message
    matrix = store.matrix("block")
    assert np.isnan(matrix.values[0, 1])
    assert not np.isnan(matrix.values[0, 2])


def test_a_file_that_changed_is_not_compared(tmp_path: Path, store) -> None:
    ingest_all(store, tmp_path, a=random_model(0), b=random_model(1))
    write_model(tmp_path / "b.safetensors", random_model(2))
    result = store.compare()
    assert result.pairs_done == 0
    assert "changed since" in result.failed[0].message


def test_renamed_keys_are_compared(tmp_path: Path, store) -> None:
    base = random_model(0, keys=6)
    renamed = {f"wrapped.{k}": v for k, v in nudged(base, 1, *list(base)[1:]).items()}
    ingest_all(store, tmp_path, a=base, b=renamed)
    store.compare()
    found = layers(store, "key_a, key_b, status")
    assert len(found) == 6
    assert all(b == f"wrapped.{a}" for a, b in zip(found["key_a"], found["key_b"], strict=True))
    assert found["status"].value_counts().to_dict() == {"changed": 5, "identical": 1}


def test_layer_matrices_hold_what_the_view_says(tmp_path: Path, store) -> None:
    base = random_model(0, keys=4)
    first, *_, last = base
    odd = {"odd": torch.ones(3, 4), "nan": torch.full((9,), float("nan"))}
    other = nudged(base, 3, first) | {last: base[last].half()}
    other |= {"odd": torch.ones(4, 3), "nan": odd["nan"]}
    renamed = {f"wrapped.{k}": v for k, v in nudged(base, 1, first).items()}
    ingest_all(store, tmp_path, a=base | odd, b=other, c=renamed, d=base)
    store.compare(metrics=["linf"])
    store.ingest(write_model(tmp_path / "e.safetensors", nudged(base, 4, *base)))
    store.compare(metrics=["cossim"])  # of the pairs with e, nobody asked for linf
    for metric in ("l0", "l1", "l2", "linf", "cossim"):
        rows = layers(store, f"model_a, model_b, canonical_key, {metric}")
        found = load_layers(store.store, "all", metric)
        place = {name: i for i, name in enumerate(found.models)}
        seen = np.full(found.values.shape, np.nan)
        for a, b, key, value in rows.dropna().itertuples(index=False):
            at = found.keys.index(key)
            seen[at, place[a], place[b]] = seen[at, place[b], place[a]] = value
        i, j = np.triu_indices(len(place), 1)
        np.testing.assert_array_equal(found.values[:, i, j], seen[:, i, j])
        assert {"block.0.weight", last} <= set(found.keys) and "odd" not in found.keys


@pytest.mark.parametrize("saved_at_once", [200_000, 1])
def test_a_pair_of_contents_met_under_several_keys_is_computed_once(
    tmp_path: Path, store, monkeypatch, saved_at_once: int
) -> None:
    """Tied weights, and renames in both directions, planned key by key, and saved so, too."""
    monkeypatch.setattr(pair_plan, "_PLANNED_LAYERS", 1)
    monkeypatch.setattr(pairs, "_SAVE_ROWS", saved_at_once)
    base = random_model(0, keys=6)
    base["z.tied"] = base["block.0.weight"]
    tuned = nudged(base, 1, *list(base)[1:6])
    tuned["block.0.weight"] = base["block.0.weight"] + 1
    tuned["z.tied"] = tuned["block.0.weight"]
    models = {
        "a": base,
        "b": {f"wrapped.{k}": v for k, v in tuned.items()},
        "c": {f"wrapped.{k}": v for k, v in base.items()},
        "d": tuned,
    }
    ingest_all(store, tmp_path, **models)
    result = store.compare()
    distinct = store.sql("select count(distinct (tensor_a, tensor_b)) as n from tensor_distance")
    assert distinct["n"][0] == result.tensor_pairs_computed == 6
    rows = layers(store, "model_a, model_b, canonical_key, status, l2")
    assert not rows.duplicated(["model_a", "model_b", "canonical_key"]).any()
    assert rows.loc[rows["status"] == "changed", "l2"].notna().all()
    assert (rows["status"] == "changed").sum() > 6


@pytest.mark.parametrize("layers_at_a_time", [1, 500_000])
@pytest.mark.parametrize("at_once", [True, False])
def test_one_content_under_two_shapes_has_two_cosine_similarities(
    tmp_path: Path, store, monkeypatch, layers_at_a_time: int, at_once: bool
) -> None:
    monkeypatch.setattr(pair_plan, "_PLANNED_LAYERS", layers_at_a_time)
    contents = {
        name: torch.randn(24, generator=torch.manual_seed(i)) for i, name in enumerate("ab")
    }
    shapes = {"wide.weight": (4, 6), "tall.weight": (6, 4), "flat": (24,), "wide.again": (4, 6)}
    ingest_all(
        store,
        tmp_path,
        **{n: {k: x.reshape(s) for k, s in shapes.items()} for n, x in contents.items()},
    )
    if not at_once:
        assert store.compare(metrics=["linf"]).tensor_pairs_computed == 1
    computed = store.compare(metrics=["cossim", "linf"]).tensor_pairs_computed
    assert computed == 3  # one content each, of three numbers of rows
    found = layers(store).set_index("canonical_key")
    for key, shape in shapes.items():
        a, b = (contents[name].double().reshape(shape) for name in "ab")
        cosine = torch.cosine_similarity(a, b, dim=0).mean().item()
        assert found.loc[key, "cossim"] == pytest.approx(cosine, rel=1e-6), key
        assert found.loc[key, "l2"] == pytest.approx(torch.dist(a, b).item(), rel=1e-6)
        assert found.loc[key, "linf"] == pytest.approx((a - b).abs().max().item(), rel=1e-6)
    assert store.sql("select count(*) as n from tensor_distance")["n"][0] == 1
    assert store.sql("select count(*) as n from tensor_linf")["n"][0] == 1
    assert store.compare(metrics=["cossim"]).tensor_pairs_computed == 0


def test_two_shapes_under_one_key(tmp_path: Path, store) -> None:
    a, b = torch.randn(2, 24, generator=torch.manual_seed(0))
    shapes = {"wide": (4, 6), "tall": (6, 4)}
    for shape, sizes in shapes.items():
        models = {f"{shape}-a": {"w": a.reshape(sizes)}, f"{shape}-b": {"w": b.reshape(sizes)}}
        ingest_all(store, tmp_path, **models)
    assert store.compare(metrics=["cossim", "linf"]).tensor_pairs_computed == 2
    found = layers(store, "model_a, model_b, l2, linf, cossim").dropna()
    assert len(found) == 2
    assert found[["l2", "linf"]].nunique().tolist() == [1, 1]
    for row in found.itertuples():
        sizes = shapes[row.model_a.split("-")[0]]
        x, y = (values.double().reshape(sizes) for values in (a, b))
        cosine = torch.cosine_similarity(x, y, dim=0).mean().item()
        assert row.cossim == pytest.approx(cosine, rel=1e-6)
    assert store.sql("select count(*) as n from tensor_distance")["n"][0] == 1


def test_groups_of_components_add_up(tmp_path: Path, store) -> None:
    a = {f"{part}.w": torch.randn(8, 8) for part in ("encoder", "decoder")}
    a |= {"quant_conv.weight": torch.randn(8, 8, 1, 1)}
    prefixed = {f"first_stage_model.{k}": v for k, v in a.items()}
    ingest_all(store, tmp_path, a=prefixed, b=nudged(prefixed, 1))
    store.compare()
    whole = store.matrix("vae").values[0, 1]
    parts = store.sql("select sqrt(sum(l2 * l2)) as l2 from layer_distances")["l2"][0]
    assert whole == pytest.approx(parts)


def interrupt(code: str, *arguments: str, after: int) -> None:
    """Run code in a process that Ctrl-C stops once it has printed so many lines."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for _ in range(after):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted" in errors


def test_an_interrupted_ingest_keeps_the_models_it_read(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for i in range(8):
        write_model(models / f"m{i}.safetensors", random_model(i))
    slow = (
        "import sys, time, megasim.ingest.reading as i, megasim.cli as cli\n"
        "read = i.fingerprint_refs\n"
        "def slowly(*given): time.sleep(0.2); print('.', flush=True); return read(*given)\n"
        "i.fingerprint_refs = slowly\n"
        "sys.exit(cli.run(sys.argv[1:]))\n"
    )
    db = tmp_path / "s.duckdb"
    interrupt(slow, "--db", str(db), "ingest", str(models), "--workers", "1", after=4)
    with megasim.open_store(db) as store:
        kept = store.models()["name"].tolist()
        assert 0 < len(kept) < 8
        rest = store.ingest(models)
        assert (sorted(rest.known), len(rest.added)) == (kept, 8 - len(kept))
        assert store.compare().pairs_done == 28
        resumed = store.matrix("block").values
    with megasim.open_store(tmp_path / "fresh.duckdb") as store:
        store.ingest(models)
        store.compare()
        assert np.array_equal(store.matrix("block").values, resumed)


def test_an_interrupt_keeps_what_is_done(tmp_path: Path) -> None:
    """A real process is stopped by Ctrl-C while it works; the next one does the rest."""
    models = tmp_path / "models"
    for i in range(6):
        write_model(
            models / f"m{i}.safetensors", nudged(random_model(0, 60, (160, 1000)), i, by=0.1)
        )
    db = tmp_path / "s.duckdb"
    command = [sys.executable, "-m", "megasim.cli", "--db", str(db)]
    subprocess.run([*command, "ingest", str(models)], check=True, capture_output=True)
    slow = (
        "import sys, time, megasim.cli as cli\n"
        "import megasim.compare.pairs as c, megasim.compare.plan as p, megasim.compare.runs as r\n"
        "p._PIECE_ELEMENTS = 1\n"
        "c._SAVE_ROWS = 1; run = r.run_pair_piece\n"
        "def slowly(piece): time.sleep(0.05); print('.', flush=True); return run(piece)\n"
        "r.run_pair_piece = slowly\n"
        "sys.exit(cli.run(sys.argv[1:]))\n"
    )
    interrupt(slow, "--db", str(db), "compare", "--workers", "1", after=8)
    kept = (
        duckdb.connect(str(db), read_only=True)
        .execute("select count(*) from tensor_distance")
        .fetchone()[0]
    )
    assert 0 < kept < 60 * 15
    with megasim.open_store(db) as store:
        rest = store.compare()
        assert rest.tensor_pairs_computed == 60 * 15 - kept
        resumed = store.matrix("block").values
    with megasim.open_store(tmp_path / "fresh.duckdb") as store:
        store.ingest(models)
        store.compare()
        assert np.array_equal(store.matrix("block").values, resumed)


def test_models_of_several_sizes_meet_under_one_key(tmp_path: Path) -> None:
    """Two pairs of models; all four have one row under the same key."""
    sizes = {"small": 128, "large": 192}
    states = {
        f"{name}-{i}": {"lin.weight": torch.full((1, size, 1, 1), i + 1.0)}
        for name, size in sizes.items()
        for i in range(2)
    }
    paths = [write_model(tmp_path / f"{name}.safetensors", state) for name, state in states.items()]
    with megasim.open_store(tmp_path / "store.duckdb") as workspace:
        workspace.ingest(*paths)
        assert workspace.compare().pairs_done == 6
        found = workspace.sql(
            "select model_a, model_b, l2 from layer_distances where l2 is not null"
        )
        distances = {(a, b): l2 for a, b, l2 in found.itertuples(index=False)}
    assert distances == {
        (f"{name}-0", f"{name}-1"): pytest.approx(size**0.5) for name, size in sizes.items()
    }
