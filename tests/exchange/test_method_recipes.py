"""Recipe files of merges that are no sums of whole tensors: what they say, and that it is so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megasim import cli
from megasim.errors import NoAnswerError
from megasim.exchange.recipe_files import mecha_text, mergekit_yaml
from megasim.workspace import Workspace, open_store
from tests.exchange.method_merges import merges, parents, write_folder

yaml = pytest.importorskip("yaml", reason="the extra `recipes` is not installed")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("methods")
    with open_store(folder / "s.duckdb") as workspace:
        for name, state in {**parents(), **merges()}.items():
            workspace.ingest(write_folder(folder / name, state))
        workspace.compare()
    return folder / "s.duckdb"


@pytest.fixture
def store(path: Path) -> Workspace:
    with open_store(path, "read") as store:
        yield store


def written(store: Workspace, model: str) -> Any:
    """Return the file that is written of a model, as YAML is read, with names for paths."""
    text = mergekit_yaml(store.merge_plan(model, store.recipes(model)))
    assert text.startswith(f"# {model}, run with: mergekit-yaml ")

    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: named(each) for key, each in value.items()}
        if isinstance(value, list):
            return [named(each) for each in value]
        is_path = isinstance(value, str) and "/" in value
        return Path(value).name if is_path else value

    return named(yaml.safe_load(text))


def test_a_slerp_says_its_share(store: Workspace) -> None:
    assert written(store, "slerp") == {
        "models": [{"model": "A"}, {"model": "B"}],
        "merge_method": "slerp",
        "base_model": "A",
        "parameters": {"t": [{"value": 0.3}]},
        "dtype": "float16",
    }


def test_a_slerp_by_role_says_the_share_of_each(store: Workspace) -> None:
    found = written(store, "slerp-by-role")
    first = found["base_model"]
    shares = {each.get("filter", ""): each["value"] for each in found["parameters"]["t"]}

    def share(key: str) -> float:
        return next(value for part, value in shares.items() if part in key)

    for key, of_b in {"layers.1.self_attn.q_proj.weight": 0.3, "mlp.up_proj.weight": 0.8}.items():
        full = f"model.layers.1.{key}" if key.startswith("mlp") else f"model.{key}"
        assert share(full) == pytest.approx(of_b if first == "A" else 1 - of_b, abs=0.005)


def test_ties_says_base_weights_and_densities(store: Workspace) -> None:
    found = written(store, "ties")
    assert (found["merge_method"], found["base_model"]) == ("ties", "base")
    assert found["parameters"] == {"normalize": True}
    told = {each["model"]: each.get("parameters") for each in found["models"]}
    assert told == {
        "base": None,
        "A": {"weight": 0.7, "density": 0.5},
        "B": {"weight": 0.3, "density": 0.5},
    }


def test_dare_says_that_other_elements_would_be_kept(store: Workspace) -> None:
    found = written(store, "dare")
    assert (found["merge_method"], found["base_model"]) == ("dare_linear", "base")
    told = {each["model"]: each["parameters"] for each in found["models"] if len(each) > 1}
    assert told["A"] == pytest.approx({"weight": 0.6, "density": 0.5}, abs=0.02)
    assert told["B"] == pytest.approx({"weight": 0.4, "density": 0.5}, abs=0.02)
    text = mergekit_yaml(store.merge_plan("dare", store.recipes("dare")))
    assert "# which elements are kept follows from a seed" in text


def test_a_stack_says_its_slices(store: Workspace) -> None:
    found = written(store, "stack")
    assert found["slices"] == [
        {"sources": [{"model": "A", "layer_range": [0, 2]}]},
        {"sources": [{"model": "B", "layer_range": [1, 3]}]},
    ]
    assert found["merge_method"] == "passthrough"


@pytest.mark.parametrize("model", ["slerp", "slerp-by-role", "ties", "dare", "stack"])
def test_what_is_written_is_confirmed(path: Path, tmp_path: Path, model: str) -> None:
    file = tmp_path / "r.yaml"
    assert cli.run(["--db", str(path), "recipe", model, "-o", str(file)]) == 0
    assert cli.run(["--db", str(path), "recipe", model, "--check", str(file)]) == 0
    other = "ties" if model == "slerp" else "slerp"
    assert cli.run(["--db", str(path), "recipe", other, "--check", str(file)]) == 5


def test_other_forms_say_that_they_have_no_words_for_it(store: Workspace) -> None:
    plan = store.merge_plan("ties", store.recipes("ties"))
    with pytest.raises(NoAnswerError, match="made by TIES") as caught:
        mecha_text(plan)
    assert "yaml" in caught.value.remedy


def test_single_files_cannot_be_stacked(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.duckdb") as workspace:
        for name, state in {**parents(), "stack": merges()["stack"]}.items():
            file = write_folder(tmp_path / name, state) / "model.safetensors"
            workspace.ingest(file.rename(tmp_path / f"{name}.safetensors"))
        workspace.compare()
        with pytest.raises(NoAnswerError, match="model folders alone"):
            mergekit_yaml(workspace.merge_plan("stack", workspace.recipes("stack")))
