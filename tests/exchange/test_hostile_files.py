"""Files that are broken or hostile: refused in two lines, and the good ones read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megasim.errors import CheckpointError, UsageError
from megasim.exchange.mega_cmp_import import import_path
from megasim.exchange.mega_cmp_reading import PublishedPair, read_published
from megasim.store.rows import Store
from tests.exchange.files import (
    NOVELAI,
    matrix_file,
    pair_file,
    write,
)

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
    monkeypatch.setattr("megasim.exchange.mega_cmp_names.LARGEST_FILE", 1 << 20)
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
