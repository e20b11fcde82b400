"""Files of a matrix: what is left out, and which zeros are believed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megasim.exchange.mega_cmp_import import import_path
from megasim.exchange.mega_cmp_zeros import TOLERANCE, judge_zeros
from megasim.store.matrices import load_matrix
from megasim.store.rows import Store
from tests.exchange.files import (
    everything,
    matrix_file,
    published,
    values_of,
)


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
    # 0 is the same as 1 and as 2, which differ; a fourth model cannot say which is wrong.
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
