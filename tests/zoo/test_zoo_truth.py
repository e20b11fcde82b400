"""The models of the zoo are what the truth beside them says."""

from __future__ import annotations

import hashlib
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from megasim.zoo.building import (
    TRUTH,
    ZooModel,
    build_recipe_zoo,
    expected_identity,
    model,
    recipe_by_ends,
)
from megasim.zoo.keys import (
    UNET,
    component_of,
    merge_block_of,
)
from megasim.zoo.weights import encoded
from tests.zoo.zoo_files import POSITIONS, Arrays


def test_contents_are_equal_exactly_when_the_truth_says_so(arrays: dict[str, Arrays]) -> None:
    digests: dict[tuple[str, str], str] = {}
    for planned in TRUTH:
        for component in planned.contents:
            digest = hashlib.sha256()
            for key, array in sorted(arrays[planned.name].items()):
                if component_of(key) == component:
                    half = array.astype(np.float16) if array.dtype.kind == "f" else array
                    digest.update(key.encode() + half.tobytes())
            digests[planned.name, component] = digest.hexdigest()
    pairs = 0
    for a, b in itertools.combinations(TRUTH, 2):
        for component in a.contents.keys() & b.contents.keys():
            same = digests[a.name, component] == digests[b.name, component]
            assert same == (expected_identity(a, b, component) != "changed"), (a.name, b.name)
            pairs += 1
    assert pairs > 1900


def test_rounding_is_not_identity(arrays: dict[str, Arrays]) -> None:
    full, half = model(TRUTH, "base-pruned"), model(TRUTH, "base-fp16")
    assert expected_identity(full, half, "unet") == "same_at_fp16"
    key = UNET + "out.2.weight"
    assert (arrays["base-pruned"][key] != arrays["base-fp16"][key]).any()
    assert expected_identity(half, model(TRUTH, "base-legacy"), "unet") == "identical"
    assert expected_identity(half, model(TRUTH, "chain-1"), "vae_decoder") == "missing_b"
    assert expected_identity(half, model(TRUTH, "chain-1"), "ema") == ""


def test_a_step_changes_every_key_it_trains_and_no_other(arrays: dict[str, Arrays]) -> None:
    counts = {}
    for planned in (m for m in TRUTH if m.trains):
        before = arrays[planned.parents[0]]
        for component in planned.contents:
            changed = sum(
                not np.array_equal(encoded(before[key].astype(np.float32), planned.dtype), after)
                for key, after in arrays[planned.name].items()
                if component_of(key) == component and key != POSITIONS
            )
            assert planned.changed_keys(component)[0] == changed, (planned.name, component)
            counts[planned.name, component] = planned.changed_keys(component)
    assert counts["dreambooth", "text_encoder"] == (64, 197)
    assert counts["dreambooth", "vae_decoder"] == (0, 138)
    assert counts["sd2-tail", "text_encoder"] == (14, 294)
    assert counts["nai-layout", "unet"] == (686, 686)


def recomputed(planned: ZooModel, key: str, parents: list[Arrays]) -> NDArray[np.float64]:
    weights = planned.weights
    if planned.kind == "block-merge":
        share = planned.block_weights[merge_block_of(key) or "BASE"]
        weights = (1 - share, share)
    terms = [w * p[key].astype(np.float64) for w, p in zip(weights, parents, strict=True)]
    return np.sum(terms, axis=0)


def assert_is_the_merge_it_says(planned: ZooModel, merged: Arrays, parents: list[Arrays]) -> None:
    assert math.isclose(sum(planned.weights), 1) or planned.kind == "block-merge"
    for key, array in merged.items():
        if array.dtype == np.float16 and not (planned.broken_positions and key == POSITIONS):
            exact = recomputed(planned, key, parents)
            # Half a unit in the last place of fp16, and the float32 sum before it.
            bound = np.maximum(np.abs(exact) * 2.0**-11, 2.0**-25) + 1e-6
            assert (np.abs(array - exact) <= bound).all(), (planned.name, key)


def test_merges_of_the_demo_are_what_they_say(arrays: dict[str, Arrays]) -> None:
    merges = [m for m in TRUTH if m.kind in ("merge", "block-merge")]
    assert [m.name for m in merges if m.kind == "merge"] == [
        *(f"mix-{percent}" for percent in (15, 30, 50, 70, 85)),
        "broken-ids",
    ]
    for planned in merges:
        parents = [arrays[name] for name in planned.parents]
        assert_is_the_merge_it_says(planned, arrays[planned.name], parents)


def test_merges_of_the_recipe_zoo_are_what_they_say(tmp_path: Path) -> None:
    plan = build_recipe_zoo(tmp_path, tunes=2)
    arrays = {m.name: load_file(tmp_path / m.file) for m in plan}
    merges = [m for m in plan if m.kind in ("merge", "block-merge")]
    assert {len(m.parents) for m in merges} == {2, 3, 4}
    for planned in merges:
        parents = [arrays[name] for name in planned.parents]
        assert_is_the_merge_it_says(planned, arrays[planned.name], parents)
    assert recipe_by_ends(plan, "nested") == pytest.approx(
        {"north": 0.21, "east": 0.39, "south": 0.4}
    )
    assert recipe_by_ends(plan, "add-full") == {"north": 1.0, "east": 1.0, "origin": -1.0}
    assert recipe_by_ends(plan, "tune-01") == recipe_by_ends(plan, "blocks") == {}
    assert len(set(model(plan, "blocks").block_weights.values())) == 26


def steps_and_end(path: list[Arrays], role: str) -> tuple[list[float], float]:
    keys = [k for k in path[-1] if k.startswith(UNET) and role in k]

    def distance(a: Arrays, b: Arrays) -> float:
        return math.sqrt(sum(float(((a[k].astype(float) - b[k]) ** 2).sum()) for k in keys))

    return [distance(a, b) for a, b in itertools.pairwise(path)], distance(path[0], path[-1])


@pytest.mark.parametrize(
    ("name", "role", "coherence"),
    [("run-e0", "", 0.35), ("chain-", ".attn1.", 0.16), ("chain-", ".attn2.", 0.0)],
)
def test_paths_drift_as_planned(
    arrays: dict[str, Arrays], name: str, role: str, coherence: float
) -> None:
    path = [arrays["base-pruned"], *(arrays[f"{name}{i}"] for i in range(1, 6))]
    steps, end = steps_and_end(path, role)
    squares = sum(step**2 for step in steps)
    assert (end**2 - squares) / (sum(steps) ** 2 - squares) == pytest.approx(coherence, abs=0.02)


def test_broken_positions_are_no_integers_any_more(arrays: dict[str, Arrays]) -> None:
    whole = np.arange(77)
    for planned in TRUTH:
        if planned.family == "sd1" and "text_encoder" in planned.contents:
            found = arrays[planned.name][POSITIONS][0]
            assert np.array_equal(found, whole) != planned.broken_positions
    broken = arrays["broken-ids"][POSITIONS][0]
    assert broken.dtype == np.float16
    assert (broken.astype(np.int64) != whole).sum() == 18


def test_damage_is_where_the_truth_says(arrays: dict[str, Arrays]) -> None:
    for planned in TRUTH:
        found = {k: int(np.isnan(a).sum()) for k, a in arrays[planned.name].items()}
        assert {k: n for k, n in found.items() if n} == dict(planned.non_finite)


def test_inpainting_starts_from_the_base(arrays: dict[str, Arrays]) -> None:
    key = UNET + "input_blocks.0.0.weight"
    before, after = arrays["base-pruned"][key], arrays["inpainting"][key].astype(np.float32)
    assert after.shape == (10, 9, 3, 3)
    assert np.linalg.norm(after[:, :4] - before) < 0.2 * np.linalg.norm(before)
    assert 0 < np.linalg.norm(after[:, 4:]) < 0.2 * np.linalg.norm(before)
