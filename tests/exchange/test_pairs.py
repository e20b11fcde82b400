"""Files of one pair, made up: statuses, renames, what gives way to what, and names."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megasim.errors import CheckpointError
from megasim.exchange.mega_cmp_import import import_path
from megasim.exchange.mega_cmp_names import file_stem, pair_names, read_pair_map
from megasim.exchange.mega_cmp_reading import read_published
from megasim.store.matrices import load_matrix
from megasim.store.rows import HeldModel, Model, Store
from tests.exchange.files import (
    NOVELAI,
    PLAIN,
    everything,
    layers_of,
    matrix_file,
    pair_file,
    write,
)


def test_statuses_and_canonical_keys(store: Store, tmp_path: Path) -> None:
    unet = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0."
    path = pair_file(
        tmp_path,
        kv={unet + "attn1.to_q.weight": 2.0, unet + "ff.net.2.bias": 0.0, "betas": float("inf")},
        da=[unet + "norm1.bias"],
        db=["alphas_cumprod"],
        err=[unet + "attn2.to_k.weight"],
    )
    import_path(store, path)
    found = store.connection.sql("""
        select canonical_key, key_a, key_b, component, block, role, status, l2
        from layer_distances order by canonical_key
    """).fetchall()
    q, k, ff, norm = (
        unet + n for n in ("attn1.to_q.weight", "attn2.to_k.weight", "ff.net.2.bias", "norm1.bias")
    )
    training = ("training_state", None, "buffer")
    assert found == [
        ("alphas_cumprod", None, "alphas_cumprod", *training, "missing_a", None),
        ("betas", "betas", "betas", *training, "non_finite", None),
        (q, q, q, "unet", "IN01", "attn1", "changed", 2.0),
        (k, k, k, "unet", "IN01", "attn2", "shape_mismatch", None),
        (ff, ff, ff, "unet", "IN01", "ff", "identical", 0.0),
        (norm, norm, None, "unet", "IN01", "norm", "missing_b", None),
    ]


@pytest.mark.parametrize("novelai_is_a", [False, True])
def test_either_side_may_have_the_novelai_names(
    store: Store, tmp_path: Path, novelai_is_a: bool
) -> None:
    long, short = PLAIN + "encoder.x.weight", NOVELAI + "encoder.x.weight"
    a, b = (short, long) if novelai_is_a else (long, short)
    import_path(store, pair_file(tmp_path, kv={"nai." + short: 1.5}, da=[a], db=[b]))
    found = store.connection.sql("select key_a, key_b, canonical_key, status, l2 from layer_rows")
    assert found.fetchall() == [(a, b, long, "changed", 1.5)]


def test_a_mismatched_novelai_key_is_one_mismatch(store: Store, tmp_path: Path) -> None:
    long, short = PLAIN + "encoder.x.weight", NOVELAI + "encoder.x.weight"
    lone = NOVELAI + "encoder.y.weight"
    import_path(store, pair_file(tmp_path, da=[long], db=[short, lone], err=[short, lone]))
    found = store.connection.sql("select key_a, key_b, status from layer_rows order by all")
    assert found.fetchall() == [(long, short, "shape_mismatch"), (None, lone, "missing_a")]


def test_the_oldest_form_has_no_err_and_says_nan_in_words(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path, "g_a_b.json", {"kv": {"x": "nan", "y": 1}, "da": [], "db": []})
    import_path(store, path)
    found = store.connection.sql("select canonical_key, status from layer_rows order by all")
    assert found.fetchall() == [("x", "shape_mismatch"), ("y", "changed")]


def test_a_pair_is_stored_smaller_id_first(store: Store, tmp_path: Path) -> None:
    for name in ("b", "a"):
        store.save_model(HeldModel(Model(name, source="imported")))
    import_path(store, pair_file(tmp_path, kv={"k": 3.0}, da=["only_a"], db=["only_b"]))
    found = store.connection.sql(
        "select model_a, model_b, key_a, key_b, status from layer_distances order by canonical_key"
    ).fetchall()
    assert found == [
        ("b", "a", "k", "k", "changed"),
        ("b", "a", None, "only_a", "missing_a"),
        ("b", "a", "only_b", None, "missing_b"),
    ]


def test_known_models_are_taken(store: Store, tmp_path: Path) -> None:
    store.save_model(HeldModel(Model("a", source="checkpoint", path="/x/a.ckpt")))
    result = import_path(store, pair_file(tmp_path, kv={"k": 1.0}))
    assert [(m.name, m.source) for m in store.models()] == [("a", "checkpoint"), ("b", "imported")]
    assert result.models == ["b"]


def test_importing_twice_changes_nothing_and_an_update_replaces(
    store: Store, tmp_path: Path
) -> None:
    pair_file(tmp_path, kv={"k": 1.0, "l": 2.0}, da=["m"])
    matrix_file(tmp_path, unet=[[0, 1], [1, 0]])
    import_path(store, tmp_path)
    before = everything(store)
    import_path(store, tmp_path)
    assert everything(store) == before
    pair_file(tmp_path, kv={"k": 5.0})
    matrix_file(tmp_path, unet=[[0, 7], [7, 0]])
    import_path(store, tmp_path)
    found = store.connection.sql("select component, l2 from component_distance order by l2")
    assert [row[1] for row in found.fetchall()] == [5.0, 7.0]
    assert len(layers_of(store)) == 1


def test_what_was_compared_here_is_not_replaced(store: Store, tmp_path: Path) -> None:
    ids = [store.save_model(HeldModel(Model(name))) for name in ("a", "b")]
    store.connection.execute(
        "insert into component_distance by name select $1 as model_a, $2 as model_b, 'unet' as "
        "component, 'exact' as source, false as unproven, 3.0 as l2, 4 as keys_compared",
        ids,
    )
    before = everything(store)[0]
    pair_file(tmp_path, kv={"k": 1.0})
    matrix_file(tmp_path, ml=["a.ckpt", "b.ckpt"], unet=[[0, 9], [9, 0]])
    result = import_path(store, tmp_path)
    assert everything(store)[0] == before
    assert not layers_of(store)
    assert len(result.left_out) == 2
    assert all("compared here from the weights" in text for text in result.left_out)


def test_layers_win_over_matrices_whichever_comes_first(store: Store, tmp_path: Path) -> None:
    pair = pair_file(tmp_path, kv={"first_stage_model.encoder.conv_in.bias": 1.0})
    matrix = matrix_file(tmp_path, ml=["a.ckpt", "b.ckpt"], vae=[[0, 9], [9, 0]])
    results = []
    for paths in ((matrix, pair), (pair, matrix)):
        for path in paths:
            import_path(store, path)
        results.append(store.connection.sql("select component, l2 from component_distance"))
        assert results[-1].fetchall() == [("vae_encoder", 1.0)]
        assert load_matrix(store, "vae").values[0, 1] == 1.0


def test_estimates_give_way(store: Store, tmp_path: Path) -> None:
    ids = [store.save_model(HeldModel(Model(name))) for name in ("x", "y")]
    store.connection.execute(
        "insert into component_distance by name select $1 as model_a, $2 as model_b, "
        "unnest(['unet', 'vae']) as component, 'estimated' as source, false as unproven, 3.0 as l2",
        ids,
    )
    import_path(store, matrix_file(tmp_path, unet=[[0, 9], [9, 0]]))
    found = store.connection.sql("select component, source, l2 from component_distance")
    assert sorted(found.fetchall()) == [("unet", "imported", 9.0), ("vae", "estimated", 3.0)]


# Names


def test_names_with_underscores(tmp_path: Path) -> None:
    assert pair_names(Path("te_cmp_any5_sd14.json")).group == "te_cmp"
    assert "no model map says so" in pair_names(Path("te_cmp_any5_sd14.json")).note
    names = pair_names(Path("mk3_mk5.json"))
    assert (names.group, names.model_a, names.model_b) == (None, "mk3", "mk5")
    written = write(
        tmp_path, "model_map.json", [["my_set", [[["wd_1", "wd1.ckpt"], ["sd_1_4", "sd.ckpt"]]]]]
    )
    known = read_pair_map(written)
    names = pair_names(Path("my_set_wd_1_sd_1_4.json"), known)
    assert (names.group, names.model_a, names.model_b) == ("my_set", "wd_1", "sd_1_4")
    assert not names.note


@pytest.mark.parametrize("name", ["x.json", "_a.json", "g_a_.json", "g_a_a.json"])
def test_a_name_that_tells_no_pair_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        read_published(pair_file(tmp_path, name, kv={"k": 1.0}))


@given(st.lists(st.text(min_size=1, max_size=120), min_size=3, max_size=3))
def test_file_names_stay_inside_the_folder(names: list[str]) -> None:
    stem = file_stem(*names)
    path = Path("folder") / f"{stem}.json"
    assert path.parent == Path("folder")
    assert not stem.startswith(".")
    assert len(stem) < 300
