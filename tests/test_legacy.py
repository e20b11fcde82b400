"""mega_cmp results: what comes in, what is left out and why, and what goes out again."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import megasim
from megasim.errors import CheckpointError, UsageError
from megasim.legacy.exporting import export_mega_cmp
from megasim.legacy.importing import import_path
from megasim.legacy.names import file_stem, pair_names, read_pair_map
from megasim.legacy.reading import PublishedPair, read_published
from megasim.legacy.zeros import TOLERANCE, judge_zeros
from megasim.matrix_loading import load_matrix
from megasim.store import Model, Store
from tests.models import nudged, random_model, write_model

PLAIN = "cond_stage_model.transformer.text_model."
NOVELAI = "cond_stage_model.transformer."


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "s.duckdb"
    Store(path, "write").close()
    return path


@pytest.fixture
def store(tmp_path: Path, empty: Path) -> Iterator[Store]:
    with Store(shutil.copy(empty, tmp_path / "s.duckdb"), "write") as opened:
        yield opened


@pytest.fixture(scope="module")
def v1(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store of the 23 published pairs."""
    with Store(tmp_path_factory.mktemp("v1") / "s.duckdb", "write") as opened:
        result = import_path(opened, shared / "published" / "v1")
        assert not result.failed
        assert not result.left_out
        assert len(result.imported) == 23
        yield opened


def write(folder: Path, name: str, value: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def pair_file(folder: Path, name: str = "g_a_b.json", **parts: Any) -> Path:
    return write(folder, name, {"kv": {}, "da": [], "db": [], "err": [], **parts})


def layers_of(store: Store) -> list[tuple[Any, ...]]:
    return store.connection.sql(
        "select * from imported_layer order by model_a, model_b, canonical_key, status"
    ).fetchall()


def everything(store: Store) -> list[list[tuple[Any, ...]]]:
    tables = ("component_distance", "imported_layer", "pair_group", "model_pair")
    found = [store.connection.sql(f"from {t} order by all").fetchall() for t in tables]
    return [*found, [(m.id, m.name, m.source) for m in store.models()]]


# The published pairs


def component_by_hand(key: str) -> str:
    """What a key is of, by its beginning; not the code under test."""
    key = key.removeprefix("nai.")
    if "loss." in key or key in ("model_ema.decay", "model_ema.num_updates"):
        return "training_state"
    if key.startswith("model.diffusion_model."):
        return "unet"
    if key.startswith("model_ema."):
        return "ema"
    if key.startswith("cond_stage_model."):
        return "text_encoder"
    key = key.removeprefix("first_stage_model.")
    for part in ("encoder", "decoder"):
        if key.startswith(part + "."):
            return f"vae_{part}"
    return "vae_quant" if "quant_conv." in key else "training_state"


def counts_by_hand(document: dict[str, Any]) -> dict[str, dict[str, float]]:
    counts: dict[str, dict[str, float]] = {}

    def add(key: str, what: str, amount: float = 1.0) -> None:
        names = ("identical", "changed", "missing_a", "missing_b", "shape_mismatch", "squares")
        component = counts.setdefault(component_by_hand(key), dict.fromkeys(names, 0.0))
        component[what] += amount

    renamed = {key.removeprefix("nai.") for key in document["kv"] if key.startswith("nai.")}
    renamed |= {key.replace(NOVELAI, PLAIN) for key in renamed}
    for key, value in document["kv"].items():
        add(key, "changed" if value else "identical")
        add(key, "squares", value**2)
    for name, what in (("da", "missing_b"), ("db", "missing_a"), ("err", "shape_mismatch")):
        for key in document[name]:
            if key not in renamed:
                add(key, what)
    return counts


def test_component_counts_agree_with_all_published_files(v1: Store, shared: Path) -> None:
    files = list((shared / "published" / "v1").glob("*_*_*.json"))
    assert len(files) == 23
    for path in files:
        _, a, b = path.stem.split("_")
        expected = counts_by_hand(json.loads(path.read_text()))
        found = v1.connection.execute(
            "select * from component_distances where model_a = $a and model_b = $b",
            {"a": a, "b": b},
        ).df()
        assert set(found["component"]) == set(expected), path.name
        for row in found.to_dict("records"):
            hand = expected[row["component"]]
            for what in ("identical", "changed", "missing_a", "missing_b", "shape_mismatch"):
                assert row[what] == hand[what], (path.name, row["component"], what)
            compared = hand["identical"] + hand["changed"]
            assert row["keys_compared"] == compared
            assert row["source"] == "imported"
            assert row["origin"] == path.name
            assert not row["unproven"]
            total = sum(hand.values()) - hand["squares"]
            assert row["coverage"] == pytest.approx(compared / total)
            if compared:
                assert row["l2"] == pytest.approx(math.sqrt(hand["squares"]), rel=1e-12)
                assert row["l2_error"] == 0
            else:
                assert math.isnan(row["l2"])


def test_pairs_stand_the_way_their_files_have_them(v1: Store, shared: Path) -> None:
    files = (shared / "published" / "v1").glob("*_*_*.json")
    expected = {tuple(path.stem.split("_")[1:]) for path in files}
    found = v1.connection.sql("select distinct model_a, model_b from layer_distances").fetchall()
    assert set(found) == expected


def test_chain_of_the_design_comes_from_layer_distances_alone(v1: Store) -> None:
    """Design, section 7: the steps, the direct distance and the coherence, in SQL."""
    rows = v1.connection.sql("""
        with parts as (
            select
                model_a || '>' || model_b as pair,
                case when role in ('attn1', 'attn2') then role else 'others' end as part,
                sqrt(sum(l2 * l2)) as distance
            from layer_distances
            where component = 'unet'
            group by all
        ),
        chain as (
            select
                part,
                round(max(distance) filter (pair = 'ac>mk0'), 4)   as step_1,
                round(max(distance) filter (pair = 'mk0>mk3'), 4)  as step_2,
                round(max(distance) filter (pair = 'mk3>mk5'), 4)  as step_3,
                round(max(distance) filter (pair = 'mk5>nman'), 4) as step_4,
                round(max(distance) filter (pair = 'ac>nman'), 4)  as direct,
                sum(distance) filter (pair <> 'ac>nman')           as total,
                sum(distance ** 2) filter (pair <> 'ac>nman')      as squares,
                max(distance) filter (pair = 'ac>nman')            as far
            from parts
            where pair in ('ac>mk0', 'mk0>mk3', 'mk3>mk5', 'mk5>nman', 'ac>nman')
            group by part
        )
        select
            part, step_1, step_2, step_3, step_4, direct,
            round((far ** 2 - squares) / (total ** 2 - squares), 3) as coherence
        from chain
        order by part
    """).fetchall()
    assert rows == [
        ("attn1", 23.2504, 16.5754, 8.0633, 7.5967, 35.8125, 0.161),
        ("attn2", 26.0299, 13.6055, 4.6885, 5.7737, 30.5798, 0.011),
        ("others", 96.0301, 51.6394, 20.2971, 22.4227, 113.7759, 0.006),
    ]


def test_the_question_of_the_first_page_has_its_answer(v1: Store) -> None:
    found = v1.connection.sql(
        "select * from layer_distances where model_a = 'sd14' order by l2 desc limit 10"
    ).df()
    assert len(found) == 10
    assert found["canonical_key"][0] == "model_ema.num_updates"
    assert found["l2"].notna().all()
    assert found["l2"].is_monotonic_decreasing
    assert set(found["source"]) == {"imported"}


def test_novelai_keys_are_renamed_not_missing(v1: Store) -> None:
    found = v1.connection.sql("""
        select count(*), count(*) filter (status = 'identical'), min(key_a), min(key_b),
            bool_and(replace(key_b, 'transformer.', 'transformer.text_model.') = key_a),
            bool_and(canonical_key = key_a)
        from layer_distances
        where model_a = 'sd147g' and component = 'text_encoder'
    """).fetchall()
    first = "embeddings.position_embedding.weight"
    assert found == [(197, 197, PLAIN + first, NOVELAI + first, True, True)]


def test_groups_come_from_the_file_names(v1: Store) -> None:
    assert {name: len(pairs) for name, pairs in v1.groups().items()} == {
        "bp": 5,
        "nai": 4,
        "sd1": 1,
        "sd2": 7,
        "vae": 6,
    }


def test_a_name_of_two_files_is_told(store: Store, shared: Path) -> None:
    result = import_path(store, shared / "published" / "v1" / "sd2_sd14_sd21.json")
    assert len(result.notes) == 1
    assert "sd14 to 2 files (sd-v1-4-full-ema.ckpt, sd-v1-4.ckpt)" in result.notes[0]


def test_a_name_of_two_files_is_the_checkpoint_that_ingest_took_it_for(
    store: Store, shared: Path
) -> None:
    store.save_model(Model("sd14.sd-v1-4"), ())
    import_path(store, shared / "published" / "v1" / "sd2_sd14_sd21.json")
    assert [m.name for m in store.models()] == ["sd14.sd-v1-4", "sd21"]


# Version 1, made up


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
        store.save_model(Model(name, source="imported"), ())
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
    store.save_model(Model("a", source="checkpoint", path="/x/a.ckpt"), ())
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
    ids = [store.save_model(Model(name), ()) for name in ("a", "b")]
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
    ids = [store.save_model(Model(name), ()) for name in ("x", "y")]
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


# Version 2


def matrix_file(folder: Path, *, ml: list[str] | None = None, **dm: Any) -> Path:
    n = len(next(iter(dm.values()), [[], []]))
    return write(folder, "set.json", {"ml": ml or ["x", "y", "z", "u", "v"][:n], "dm": dm})


def values_of(store: Store, component: str) -> pd.DataFrame:
    return store.connection.execute(
        "select * from component_distances where component = $c", {"c": component}
    ).df()


def published(shared: Path, name: str) -> Path:
    return shared / "published" / "v2" / f"{name}.json"


def test_main_knows_what_was_not_compared(store: Store, shared: Path) -> None:
    result = import_path(store, published(shared, "main"))
    encoder = load_matrix(store, "te")
    assert not {"ABPModel-ep99", "animefull-final-pruned", "bp_nman_e29"} & set(encoder.models)
    assert len(encoder.models) == 12
    # Evt_V4 is at 0 from three models that lie elsewhere than it does, seen from all others.
    assert set(encoder.missing_pairs()) == {
        ("ACertainty", "Evt_V4_e10_ema"),
        ("Evt_V4_e10_ema", "sd-v1-4"),
        ("Evt_V4_e10_ema", "wd-v1-3-full"),
    }
    found = values_of(store, "text_encoder")
    zeros = found[found["unproven"]]
    assert {*zip(zeros["model_a"], zeros["model_b"], strict=True)} == {
        ("ACertainty", "sd-v1-4"),
        ("ACertainty", "wd-v1-3-full"),
        ("sd-v1-4", "wd-v1-3-full"),
    }
    assert (zeros["l2"] == 0).all()
    assert found["keys_compared"].isna().all()
    assert encoder.sources[encoder.models.index("ACertainty"), -1] == "unproven"

    vae = load_matrix(store, "vae")
    assert len(vae.models) == 13
    assert vae.complete
    assert int(values_of(store, "vae")["unproven"].sum()) == 13
    assert load_matrix(store, "unet").complete
    assert not values_of(store, "unet")["unproven"].any()

    other = values_of(store, "other")
    assert len(other) == 13
    zero = other[other["unproven"]]
    assert [*zip(zero["model_a"], zero["model_b"], strict=True)] == [
        ("animefull-final-pruned", "Anything-V3.0-pruned-fp32")
    ]
    told = " ".join(result.left_out)
    assert "ACertainty – Evt_V4_e10_ema" in told
    assert "te of ABPModel-ep99, animefull-final-pruned, bp_nman_e29: at 0 from every" in told


def test_main_agrees_with_the_file(store: Store, shared: Path) -> None:
    path = published(shared, "main")
    import_path(store, path)
    document = json.loads(path.read_text())
    names = [Path(file).name.rsplit(".", 1)[0] for file in document["ml"]]
    for published_name, component in (("te", "te"), ("vae", "vae"), ("unet", "unet")):
        matrix = load_matrix(store, component)
        place = [names.index(model) for model in matrix.models]
        expected = np.array(document["dm"][published_name])[np.ix_(place, place)]
        known = ~np.isnan(matrix.values)
        assert np.array_equal(matrix.values[known], expected[known])


def test_sdxl_has_two_text_encoders(store: Store, shared: Path) -> None:
    result = import_path(store, published(shared, "sdxl0"))
    for component, zeros in (("text_encoder_1", 3), ("text_encoder_2", 3), ("vae", 10)):
        found = values_of(store, component)
        assert len(found) == 55
        assert int(found["unproven"].sum()) == zeros
    assert values_of(store, "text_encoder").empty
    assert len(result.left_out) == 2
    assert {text.split(" is ")[0] for text in result.left_out} == {
        "sdxl0.json: te",
        "sdxl0.json: other",
    }


@pytest.mark.parametrize(
    ("name", "kept", "models"),
    [("cwd", "text_encoder unet vae", 14), ("aobp", "unet", 10), ("ccbp", "unet", 6)],
)
def test_components_at_zero_everywhere_are_left_out(
    store: Store, shared: Path, name: str, kept: str, models: int
) -> None:
    result = import_path(store, published(shared, name))
    found = store.connection.sql("""
        select component, count(*), bool_or(unproven) from component_distance
        group by all order by all
    """).fetchall()
    pairs = models * (models - 1) // 2
    assert found == [(component, pairs, False) for component in kept.split()]
    assert len(result.left_out) == 4 - len(kept.split())
    assert all("0 everywhere" in text for text in result.left_out)


def test_two_files_of_one_pair_do_not_add_up(store: Store, shared: Path) -> None:
    folder = shared / "published" / "v2"
    result = import_path(store, folder)
    assert not result.failed
    twice = store.connection.sql(
        "select 1 from component_distance group by model_a, model_b, component having count(*) > 1"
    ).fetchall()
    assert not twice
    assert "main.json: unet of 2 pairs: known from aobp.json, ccbp.json." in result.left_out
    before = everything(store)
    import_path(store, folder)
    assert everything(store) == before


def test_a_sum_of_text_encoders_is_not_counted_again(store: Store, tmp_path: Path) -> None:
    one, two = [[0, 3], [3, 0]], [[0, 4], [4, 0]]
    result = import_path(store, matrix_file(tmp_path, te=[[0, 5], [5, 0]], te0=one, te1=two))
    assert load_matrix(store, "te").values[0, 1] == 5.0
    assert result.left_out == ["set.json: te covers te0 and te1 again, which are taken."]


def test_non_finite_distances_are_null(store: Store, tmp_path: Path) -> None:
    nan = math.nan
    rows = [[0, nan, 1], [nan, 0, 2], [1, 2, nan]]
    import_path(
        store, matrix_file(tmp_path, unet=rows, vae=[[0, None, 1], [None, 0, 1], [1, 1, 0]])
    )
    found = values_of(store, "unet")
    assert len(found) == 3
    assert int(found["l2"].isna().sum()) == 1
    assert load_matrix(store, "unet").missing_pairs() == [("x", "y")]
    assert load_matrix(store, "vae").missing_pairs() == [("x", "y")]


def test_models_of_a_matrix_are_named_by_their_files(store: Store, tmp_path: Path) -> None:
    files = ["m/v1.5.safetensors", "C:\\m\\hsxl_base_1.0.f16.CKPT", "0.4(a) + 0.6(b)"]
    ones = [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    import_path(store, matrix_file(tmp_path, ml=files, unet=ones))
    names = [model.name for model in store.models()]
    assert names == ["v1.5", "hsxl_base_1.0.f16", "0.4(a) + 0.6(b)"]
    assert store.groups() == {"set": [(1, 2), (1, 3), (2, 3)]}


# Which zeros are believed


def distances(points: list[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    p = np.array(points)
    return np.abs(p[:, None] - p)


def test_true_zeros_stay() -> None:
    verdict = judge_zeros(distances([0, 0, 3, 5, 5]))
    assert not verdict.not_compared.any()
    assert np.argwhere(np.triu(verdict.unproven)).tolist() == [[0, 1], [3, 4]]


def test_rounding_is_no_contradiction() -> None:
    values = distances([0, 0, 3.0])
    values[0, 2] = values[2, 0] = 3 * (1 + TOLERANCE / 2)
    assert not judge_zeros(values).not_compared.any()
    values[0, 2] = values[2, 0] = 3 * (1 + TOLERANCE * 2)
    assert judge_zeros(values).not_compared.sum() == 2


def test_a_missing_pair_contradicts_nothing() -> None:
    values = distances([0, 0, 3.0])
    values[0, 2] = values[2, 0] = np.nan
    assert not judge_zeros(values).not_compared.any()


def test_of_two_zeros_of_which_one_is_wrong_both_go() -> None:
    # 0 is the same as 1 and as 2, which differ; a fourth model cannot tell which is wrong.
    values = np.array([[0, 0, 0, 2], [0, 0, 5, np.nan], [0, 5, 0, np.nan], [2, np.nan, np.nan, 0]])
    verdict = judge_zeros(values)
    assert not verdict.silent
    assert np.argwhere(np.triu(verdict.not_compared)).tolist() == [[0, 1], [0, 2]]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=4, max_size=9),
    st.sets(st.integers(0, 8), max_size=3),
    st.integers(0, 2**32 - 1),
)
def test_absent_models_are_found_and_true_zeros_kept(
    contents: list[int], absent: set[int], seed: int
) -> None:
    """Models of a few contents, some of which lack the component: the truth is known."""
    n = len(contents)
    gone = {k for k in absent if k < n}
    here = [k for k in range(n) if k not in gone]
    points = np.random.default_rng(seed).normal(size=(4, 5))
    difference = points[contents][:, None] - points[contents]
    values = np.sqrt(np.square(difference).sum(axis=2))
    for k in gone:
        values[k, :] = values[:, k] = 0.0
    if len({contents[k] for k in here}) < 2:
        return  # 0 everywhere: nothing to tell apart
    verdict = judge_zeros(values)
    assert set(verdict.silent) == gone
    for i in range(n):
        for j in range(i):
            same = i not in gone and j not in gone and contents[i] == contents[j]
            assert verdict.unproven[i, j] == same
            assert verdict.not_compared[i, j] == (i in gone or j in gone)


# Export


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


# Hostile files

BAD_V1: dict[str, Any] = {
    "kv a list": {"kv": []},
    "kv a number": {"kv": 3},
    "da a string": {"kv": {"k": 1.0}, "da": "abc"},
    "da of numbers": {"kv": {"k": 1.0}, "da": [1]},
    "a list as value": {"kv": {"k": []}},
    "a bool as value": {"kv": {"k": True}},
    "null as value": {"kv": {"k": None}},
    "negative": {"kv": {"k": -1.0}},
    "empty": {"kv": {}, "da": [], "db": [], "err": []},
    "compared and missing": {"kv": {"k": 1.0}, "da": ["k"]},
    "compared and mismatched": {"kv": {"k": 1.0}, "err": ["k"]},
    "missing twice": {"kv": {}, "da": ["k", "k"]},
    "renamed and compared": {"kv": {f"nai.{NOVELAI}x": 1.0, f"{NOVELAI}x": 1.0}},
    "lone surrogate": '{"kv": {"\\ud800": 1.0}}',
    "a key twice": '{"kv": {"k": 1.0, "k": 2.0}}',
    "truncated": '{"kv": {"k": 1.0',
    "not JSON": "hello",
    "nested": "[" * 200_000,
    "nested objects": '{"kv":' * 100_000,
    "a number of many digits": '{"kv": {"k": ' + "9" * 5000 + "}}",
    "another document": {"weights": 3},
    "a list": [1, 2],
    "a map": [["g", [[["a", "p"], ["b", "q"]]]]],
    "a string": '"kv"',
}
ROW = [[0, 1], [1, 0]]
BAD_V2: dict[str, Any] = {
    "no models": {"ml": [], "dm": {}},
    "one model": {"ml": ["x"], "dm": {}},
    "ml an object": {"ml": {}, "dm": {}},
    "ml of numbers": {"ml": [1, 2], "dm": {}},
    "dm a list": {"ml": ["x", "y"], "dm": []},
    "one name twice": {"ml": ["a/x.ckpt", "b/x.safetensors"], "dm": {"unet": ROW}},
    "no name": {"ml": ["a/", "b"], "dm": {"unet": ROW}},
    "too few rows": {"ml": ["x", "y", "z"], "dm": {"unet": ROW}},
    "not square": {"ml": ["x", "y"], "dm": {"unet": [[0, 1], [1]]}},
    "rows no lists": {"ml": ["x", "y"], "dm": {"unet": [0, 1]}},
    "words": {"ml": ["x", "y"], "dm": {"unet": [[0, "1"], ["1", 0]]}},
    "bools": {"ml": ["x", "y"], "dm": {"unet": [[0, True], [True, 0]]}},
    "nested": {"ml": ["x", "y"], "dm": {"unet": [[0, [1]], [[1], 0]]}},
    "negative": {"ml": ["x", "y"], "dm": {"unet": [[0, -1], [-1, 0]]}},
    "not symmetric": {"ml": ["x", "y"], "dm": {"unet": [[0, 1], [2, 0]]}},
    "half of it": {"ml": ["x", "y"], "dm": {"unet": [[0, 1], [0, 0]]}},
    "half not finite": {"ml": ["x", "y"], "dm": {"unet": [[0, math.nan], [1, 0]]}},
    "diagonal": {"ml": ["x", "y"], "dm": {"unet": [[1, 1], [1, 0]]}},
    "huge": '{"ml": ["x", "y"], "dm": {"unet": [[0, 1' + "0" * 400 + "], [1, 0]]}}",
}


@pytest.mark.parametrize("value", [*BAD_V1.values(), *BAD_V2.values()], ids=[*BAD_V1, *BAD_V2])
def test_a_bad_file_is_refused_in_two_lines(tmp_path: Path, value: object) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_published(write(tmp_path, "g_\x1b[31m_b.json", value))
    text = str(caught.value)
    assert "\x1b" not in text
    assert len(text) < 1000
    assert len(text.splitlines()) == 2
    assert caught.value.remedy


def test_bad_files_do_not_hinder_the_good_one(store: Store, tmp_path: Path) -> None:
    bad = [*BAD_V1.values(), *BAD_V2.values()]
    for k, value in enumerate(bad):
        write(tmp_path, f"g_a{k}_b.json", value)
    pair_file(tmp_path, "h_c_d.json", kv={"k": 1.0})
    result = import_path(store, tmp_path)
    assert len(result.failed) == len(bad)
    assert {error.exit_code for error in result.failed} == {4}
    assert [m.name for m in store.models()] == ["c", "d"]
    assert len(result.imported) == 1
    assert len(json.loads(json.dumps(result.to_json()))["failed"]) == len(bad)


def test_a_file_that_is_too_large_is_not_read(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megasim.legacy.names.LARGEST_FILE", 1 << 20)
    path = write(tmp_path, "g_a_b.json", " " * ((1 << 20) + 1))
    assert "larger than 1 MiB" in str(import_path(store, path).failed[0])


def test_huge_distances_do_not_overflow(store: Store, tmp_path: Path) -> None:
    import_path(store, pair_file(tmp_path, kv={"k": 1e300, "l": 1e149, "m": 10**400}))
    found = store.connection.sql("select non_finite, l2 from component_distance").fetchall()
    assert found == [(2, 1e149)]


def test_a_broken_map_does_not_hinder(store: Store, tmp_path: Path) -> None:
    write(tmp_path, "model_map.json", {"not": "a map"})
    pair_file(tmp_path, kv={"k": 1.0})
    result = import_path(store, tmp_path)
    assert len(result.failed) == 1
    assert len(result.imported) == 1


def test_names_are_printable_wherever_they_are_told(store: Store, tmp_path: Path) -> None:
    bad = "x\x1b[31m"
    matrix_file(
        tmp_path,
        ml=[bad, "y", "z"],
        unet=[[0, 1, 2], [1, 0, 3], [2, 3, 0]],
        te=[[0, 0, 0], [0, 0, 1], [0, 1, 0]],
        **{"c\x1b": [[0, 1, 1], [1, 0, 1], [1, 1, 0]]},
    )
    pair_file(tmp_path, f"g_{bad}_b.json", kv={"k": 1.0})
    result = import_path(store, tmp_path)
    assert not result.failed
    assert "\x1b" not in " ".join([*result.imported, *result.left_out, *result.notes])
    assert len(result.left_out) == 2


def test_paths_that_hold_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no JSON files"):
        import_path(store, tmp_path)
    with pytest.raises(UsageError, match="there is no"):
        import_path(store, tmp_path / "nothing")


def test_folders_in_folders_are_read_with_their_own_maps(store: Store, tmp_path: Path) -> None:
    for folder, names in (("one", ("a_1", "b")), ("two", ("a", "1_b"))):
        pairs = [[[names[0], "p"], [names[1], "q"]]]
        write(tmp_path / folder, "model_map.json", [["g", pairs]])
        pair_file(tmp_path / folder, "g_a_1_b.json", kv={"k": 1.0})
    result = import_path(store, tmp_path)
    assert sorted(result.models) == ["1_b", "a", "a_1", "b"]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=8),
        st.one_of(st.floats(), st.integers(), st.text(max_size=4), st.none()),
        max_size=5,
    ),
    *[st.lists(st.text(max_size=8), max_size=4)] * 3,
)
def test_any_values_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    kv: dict[str, Any],
    da: list[str],
    db: list[str],
    err: list[str],
) -> None:
    path = pair_file(tmp_path_factory.mktemp("any"), kv=kv, da=da, db=db, err=err)
    try:
        found, _ = read_published(path)
    except CheckpointError:
        return
    assert isinstance(found, PublishedPair)
    assert found.flipped().flipped() == found
    for layer in found.layers:
        assert (layer.l2 is not None) == (layer.status in ("identical", "changed"))
        assert (layer.key_a is None) == (layer.status == "missing_a")
        assert (layer.key_b is None) == (layer.status == "missing_b")


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
