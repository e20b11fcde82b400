"""Running statistics follow the data that a training saw, and make no edge of a tree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from megasim.workspace import open_store


def test_siblings_that_saw_the_same_data_are_not_joined_by_their_running_statistics(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    base = {
        "conv.weight": rng.normal(size=(48, 64)),
        "norm.weight": 1 + 0.1 * rng.normal(size=48),
        "norm.running_mean": rng.normal(size=48),
        "norm.running_var": 1 + rng.random(48),
    }
    # a and b were trained on one set of images, c on another
    seen = {"ab": 3 * rng.normal(size=48), "c": 3 * rng.normal(size=48)}
    models = {"base": base}
    for name in "abc":
        weights = {key: value + 0.05 * rng.normal(size=value.shape) for key, value in base.items()}
        weights["norm.running_mean"] = seen["c" if name == "c" else "ab"]
        models[name] = weights
    (tmp_path / "models").mkdir()
    for name, weights in models.items():
        file = tmp_path / "models" / f"{name}.safetensors"
        save_file({key: value.astype(np.float32) for key, value in weights.items()}, file)

    with open_store(tmp_path / "store.duckdb") as store:
        store.ingest(tmp_path / "models")
        store.compare()
        lengths = store.matrix("all")
        at = {name: i for i, name in enumerate(lengths.models)}
        assert lengths.values[at["a"], at["b"]] < lengths.values[at["base"], at["a"]] / 3
        found = store.lineage("all")
    drawn = {frozenset((e.parent, e.child)): e for e in found.edges}
    assert drawn.keys() == {frozenset(("base", name)) for name in "abc"}
    # the length is that which every other answer gives for the pair
    edge = drawn[frozenset(("base", "a"))]
    assert edge.length == lengths.values[at["base"], at["a"]]


def test_models_of_another_architecture_in_the_store_change_no_tree(tmp_path: Path) -> None:
    """Their layers are in none of the family, which is not that distances are not known."""
    rng = np.random.default_rng(1)
    shapes = {"conv.weight": (48, 64), "norm.running_var": (48,)}
    base = {key: 1 + rng.random(shape) for key, shape in shapes.items()}
    models = {"base": base}
    for name in "ab":
        models[name] = {k: v + 0.05 * rng.normal(size=v.shape) for k, v in base.items()}
    other = {"up.weight": rng.normal(size=(40, 80))}
    models |= {"x": other, "y": {k: v + 0.05 * rng.normal(size=v.shape) for k, v in other.items()}}
    for name, weights in models.items():
        file = tmp_path / f"{name}.safetensors"
        save_file({key: value.astype(np.float32) for key, value in weights.items()}, file)
    with open_store(tmp_path / "store.duckdb") as store:
        store.ingest(tmp_path)
        store.compare()
        found = store.lineage("all")
    assert sorted(f.models for f in found.families) == [("a", "b", "base"), ("x", "y")]
    assert all(np.isfinite(f.root_probability) for f in found.families)
    drawn = {frozenset((e.parent, e.child)) for e in found.edges}
    assert drawn == {frozenset("xy"), frozenset(("base", "a")), frozenset(("base", "b"))}


def test_a_step_of_running_statistics_alone_has_the_direction_of_its_batches(
    tmp_path: Path,
) -> None:
    """It has no length in the tree, from which nothing follows, for other steps neither."""
    rng = np.random.default_rng(2)
    base = {"conv.weight": rng.normal(size=(48, 64)), "norm.running_var": 1 + rng.random(48)}
    again = base | {"norm.running_var": 1 + 3 * rng.random(48)}
    models = {"base": (8, base), "again": (13, again)}
    for name in "ab":
        trained = {k: v + 0.05 * rng.normal(size=v.shape) for k, v in again.items()}
        models[name] = (14, trained)
    for name, (batches, weights) in models.items():
        tensors = {key: value.astype(np.float32) for key, value in weights.items()}
        tensors["norm.num_batches_tracked"] = np.array(batches)
        save_file(tensors, tmp_path / f"{name}.safetensors")
    with open_store(tmp_path / "store.duckdb") as store:
        store.ingest(tmp_path)
        store.compare()
        found = store.lineage("all")
    assert [family.root for family in found.families] == ["base"]
    assert all(0 < family.root_probability <= 1 for family in found.families)
    assert ("base", "again") in {(e.parent, e.child) for e in found.edges}


def test_a_head_of_another_shape_hides_no_distance_of_the_other_layers(tmp_path: Path) -> None:
    """Nor is it taken for a distance of 0: the model hangs where its other layers say."""
    rng = np.random.default_rng(3)
    shapes = {"conv.weight": (48, 64), "fc.weight": (10, 48), "norm.running_var": (48,)}
    base = {key: 1 + rng.random(shape) for key, shape in shapes.items()}
    models = {"base": (8, base)}
    for name in "abc":
        models[name] = (12, {k: v + 0.05 * rng.normal(size=v.shape) for k, v in base.items()})
    models["c"][1]["fc.weight"] = rng.normal(size=(17, 48))
    for name, (batches, weights) in models.items():
        tensors = {key: value.astype(np.float32) for key, value in weights.items()}
        tensors["norm.num_batches_tracked"] = np.array(batches)
        save_file(tensors, tmp_path / f"{name}.safetensors")
    with open_store(tmp_path / "store.duckdb") as store:
        store.ingest(tmp_path)
        store.compare()
        found = store.lineage("all")
    assert [family.root for family in found.families] == ["base"]
    assert all(0 < family.root_probability <= 1 for family in found.families)
    assert {(e.parent, e.child) for e in found.edges} == {("base", name) for name in "abc"}
    assert any("rests on the 1 keys" in note for note in found.notes)
