"""What is written as mega_cmp did, and read back."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch

import megasim
from megasim.errors import UsageError
from megasim.exchange.mega_cmp_export import export_mega_cmp
from megasim.exchange.mega_cmp_import import import_path
from megasim.exchange.mega_cmp_names import file_stem
from megasim.store.rows import Store
from tests.exchange.files import (
    NOVELAI,
    PLAIN,
    layers_of,
    matrix_file,
    pair_file,
    write,
)
from tests.models import nudged, random_model, write_model


def test_round_trip_of_the_published_pairs(v1: Store, shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_mega_cmp(v1, out, figures=False)
    for path in sorted((shared / "published" / "v1").glob("*_*_*.json")):
        original, written = (json.loads(p.read_text()) for p in (path, out / path.name))
        assert written["kv"] == original["kv"]
        for name in ("da", "db", "err"):
            assert written[name] == sorted(original[name])
    with Store(tmp_path / "again.duckdb", "write") as again:
        assert not import_path(again, out).failed
        query = "select * exclude (origin) from layer_distances order by all"
        assert again.connection.sql(query).fetchall() == v1.connection.sql(query).fetchall()
        query = "select * exclude (origin) from component_distances order by all"
        assert again.connection.sql(query).fetchall() == v1.connection.sql(query).fetchall()


def test_round_trip_of_awkward_names_and_values(store: Store, tmp_path: Path) -> None:
    long, short = PLAIN + "encoder.x.weight", NOVELAI + "encoder.x.weight"
    source = tmp_path / "in"
    write(source, "model_map.json", [["a_set", [[["org/x_1", "x.ckpt"], ["y_2", "y.ckpt"]]]]])
    pair_file(
        source,
        file_stem("a_set", "org/x_1", "y_2") + ".json",
        kv={"k": float("nan"), "z": 0.0, 'quote "é" \n': 1e-30},
        da=[long, "p"],
        db=[short, "q"],
        err=["nai." + short, "e"],
    )
    assert not import_path(store, source).failed
    out = tmp_path / "out"
    result = export_mega_cmp(store, out)
    assert {path.suffix for path in result.written} == {".json", ".png"}
    assert all(path.parent == out for path in result.written)
    with Store(tmp_path / "again.duckdb", "write") as again:
        assert not import_path(again, out).failed
        assert layers_of(again) == layers_of(store)
        assert again.groups() == store.groups()
        assert [m.name for m in again.models()] == ["org/x_1", "y_2"]


def test_export_writes_the_same_bytes_again(store: Store, tmp_path: Path) -> None:
    import_path(store, pair_file(tmp_path / "in", kv={"model.diffusion_model.out.2.bias": 1.0}))
    out = tmp_path / "out"
    first = {path.name: path.read_bytes() for path in export_mega_cmp(store, out).written}
    second = {path.name: path.read_bytes() for path in export_mega_cmp(store, out).written}
    assert first == second
    assert set(first) == {"g_a_b.json", "g_a_b.png", "model_map.json"}


def test_export_adds_to_the_map_that_is_there(store: Store, tmp_path: Path) -> None:
    import_path(store, pair_file(tmp_path / "in", kv={"k": 1.0}))
    mine = [["mine", [[["c", "c.ckpt"], ["d", "d.ckpt"]]]]]
    write(tmp_path / "out", "model_map.json", mine)
    export_mega_cmp(store, tmp_path / "out", figures=False)
    merged = json.loads((tmp_path / "out" / "model_map.json").read_text())
    assert merged == [*mine, ["g", [[["a", "a"], ["b", "b"]]]]]


def test_export_tells_of_pairs_without_layers(store: Store, tmp_path: Path) -> None:
    import_path(store, matrix_file(tmp_path, unet=[[0, 1], [1, 0]]))
    assert not export_mega_cmp(store, tmp_path / "out").written
    result = export_mega_cmp(store, tmp_path / "out", [(1, 2)])
    assert result.left_out == ["x – y: no distances of layers are known."]


def test_export_refuses_to_write_two_pairs_to_one_file(store: Store, tmp_path: Path) -> None:
    maps = [["g", [[["a_b", "1"], ["c", "2"]]]], ["g_a", [[["b", "3"], ["c", "2"]]]]]
    for k, entry in enumerate(maps):
        write(tmp_path / str(k), "model_map.json", [entry])
        pair_file(tmp_path / str(k), "g_a_b_c.json", kv={"k": 1.0})
    import_path(store, tmp_path)
    with pytest.raises(UsageError, match="g_a_b_c"):
        export_mega_cmp(store, tmp_path / "out")
    with pytest.raises(UsageError, match="is a file"):
        export_mega_cmp(store, tmp_path / "0" / "model_map.json", [(1, 2)])


def test_export_of_distances_computed_here(tmp_path: Path) -> None:
    text = random_model(1, keys=3)
    long = {f"{PLAIN}encoder.layers.{i}.mlp.fc1.weight": v for i, v in enumerate(text.values())}
    short = {key.replace(PLAIN, NOVELAI): value for key, value in long.items()}
    first = NOVELAI + "encoder.layers.0.mlp.fc1.weight"
    short = nudged(short, 2, first)
    unet = "model.diffusion_model.input_blocks.0.0."
    broken = torch.full((3,), torch.nan)
    write_model(
        tmp_path / "a.safetensors",
        {**long, unet + "weight": torch.ones(4, 4), unet + "bias": broken, "betas": torch.ones(3)},
    )
    write_model(
        tmp_path / "b.safetensors",
        {**short, unet + "weight": torch.ones(4, 5), unet + "bias": torch.ones(3)},
    )
    with megasim.open_store(tmp_path / "s.duckdb") as here:
        here.ingest(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
        here.compare()
        export_mega_cmp(here.store, tmp_path / "out")
        query = """
            select canonical_key, key_a, key_b, component, role, status, l2
            from layer_distances order by canonical_key
        """
        expected = here.sql(query)
    written = json.loads((tmp_path / "out" / "all_a_b.json").read_text())
    difference = (short[first] - text["block.0.weight"]).double()
    assert written["kv"]["nai." + first] == pytest.approx(float(difference.norm()), rel=1e-6)
    assert written["kv"]["nai." + first.replace(".0.", ".1.")] == 0
    assert math.isnan(written["kv"][unet + "bias"])
    assert written["err"] == [unet + "weight"]
    assert written["da"] == ["betas", *sorted(long)]
    assert written["db"] == sorted(short)
    paths = json.loads((tmp_path / "out" / "model_map.json").read_text())[0][1][0]
    assert [Path(path).name for _, path in paths] == ["a.safetensors", "b.safetensors"]
    with Store(tmp_path / "again.duckdb", "write") as again:
        import_path(again, tmp_path / "out")
        pd.testing.assert_frame_equal(again.connection.sql(query).df(), expected)
