"""Models whose keys a wrapper renamed: what lies inside is found, in either order of the files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megasim.findings.component_groups import group_sentences, shared_components
from megasim.findings.relations import model_relations
from megasim.findings.verdicts import pair_findings
from megasim.store.rows import Store
from megasim.workspace import open_store
from tests.findings.sentences import related, related_files
from tests.models import random_model
from tests.small_networks import StateDict, convolutional, noise, transformer
from tests.small_sd import cast, compared_store


@pytest.mark.parametrize("wrapper", ["a_swa", "swa"])
def test_components_of_a_wrapped_model_are_not_taken_for_one_another(
    tmp_path: Path, wrapper: str
) -> None:
    plain = {f"{name}.weight": noise(i, 40, 40) for i, name in enumerate(("dec", "enc"))}
    wrapped = {f"module.{key}": value for key, value in plain.items()}
    torch.save(plain, tmp_path / "plain.pt")
    torch.save({**wrapped, "n_averaged": torch.tensor(5)}, tmp_path / f"{wrapper}.pt")
    with open_store(tmp_path / "store.duckdb") as workspace:
        workspace.ingest(*sorted(tmp_path.glob("*.pt")))
        workspace.compare()
        (text,) = [relation.text for relation in model_relations(workspace.store)]
        assert text == f"plain is {wrapper} without n_averaged"
        # all of "module" is neither "dec" nor "enc"
        assert shared_components(workspace.store) == []


def test_a_small_model_renamed_and_cast_at_once_is_a_cast(tmp_path: Path) -> None:
    full = {"enc.w": noise(1, 30, 20), "enc.b": noise(2, 30), "dec.w": noise(3, 20, 30)}
    names = ("e.0.weight", "e.0.bias", "d.0.weight")
    half = {name: value.half() for name, value in zip(names, full.values(), strict=True)}
    assert related(tmp_path, a=full, b=half) == ["b is a cast to float16"]


def test_weights_that_stand_twice_under_other_keys(tmp_path: Path) -> None:
    base = random_model(1)
    average = {
        **{"module.a." + key: value for key, value in base.items()},
        **{"module.b." + key: value for key, value in base.items()},
        "n_averaged": torch.tensor(5),
    }
    with Store(compared_store(tmp_path, {"base": base, "average": average})) as store:
        assert not any(
            "average, average" in text for text in group_sentences(shared_components(store))
        )
        (text,) = [relation.text for relation in model_relations(store)]
    assert text.startswith("all 4 tensors of base that can tell models apart stand in average")


def wrapped(state: StateDict, prefix: str, steps: int) -> StateDict:
    return {prefix + key: value for key, value in state.items()} | {
        "n_averaged": torch.tensor(steps)
    }


# In a store the file that comes first gives the components their names.
ORDERS = [("a_wrapped", "plain"), ("wrapped", "a_plain")]


@pytest.mark.parametrize(("around", "inside"), ORDERS)
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "net.student."])
def test_a_wrapper_with_a_counter_of_its_own(
    tmp_path: Path, around: str, inside: str, prefix: str
) -> None:
    base = convolutional(3, 7) | {"fc.weight": noise(50, 10, 8), "fc.bias": noise(51, 10)}
    files = {around: wrapped(base, prefix, 5), inside: base}
    assert related(tmp_path, **dict(sorted(files.items()))) == [
        f"{inside} is {around} without n_averaged"
    ]


@pytest.mark.parametrize(("around", "inside"), ORDERS)
def test_a_wrapper_whose_counters_of_batches_differ(
    tmp_path: Path, around: str, inside: str
) -> None:
    base, later = convolutional(3, 7), convolutional(3, 900)
    files = {around: wrapped(later, "module.", 5), inside: base}
    path = compared_store(tmp_path, dict(sorted(files.items())))
    with Store(path) as store:
        assert sum(f.l2 or 0 for f in pair_findings(store)) == 0
        (relation,) = model_relations(store)
    assert relation.text == (
        f"{inside} is {around} without n_averaged; counters of training steps differ"
    )


@pytest.mark.parametrize(("around", "inside"), ORDERS)
def test_a_wrapped_model_that_was_cast_at_once(tmp_path: Path, around: str, inside: str) -> None:
    base = transformer(4)
    files = {around: wrapped(cast(base, torch.float16), "module.", 5), inside: base}
    (text,) = related(tmp_path, **dict(sorted(files.items())))
    assert text in (  # what lies beside named components is one of its own
        f"{around} is {inside} cast to float16, plus n_averaged",
        f"{around} is {inside} cast to float16; {around} alone holds counters of training steps "
        "(n_averaged)",
    )


def test_counters_that_an_older_file_lacks(tmp_path: Path) -> None:
    new = convolutional(3, 7)
    old = {key: value for key, value in new.items() if value.dtype != torch.int64}
    assert related(tmp_path, new=new, old=old) == [
        "new and old hold the same weights; new alone holds counters of training steps "
        "(features.0.bn.num_batches_tracked, features.1.bn.num_batches_tracked, "
        "features.2.bn.num_batches_tracked)"
    ]


def test_lost_keys_beside_new_ones_of_the_same_shapes_are_no_renames(tmp_path: Path) -> None:
    """The rest of the model is equal, so that a layer under another name would be equal too."""
    names = ("q", "k", "v")
    body = {
        f"layers.{i}.{n}.weight": noise(10 * i + j, 8, 16)
        for i in range(3)
        for j, n in enumerate(names)
    }
    lost = {key: value for key, value in body.items() if not key.startswith("layers.0.")}
    new = {f"new.{i}.weight": noise(90 + i, 8, 16) for i in range(3)}
    (text,) = related(tmp_path, one=body, two=lost | new)
    assert text.startswith("one and two are equal in the 6 keys that both hold; one alone holds")


def test_a_torch_average_of_a_model_in_a_file_of_its_own(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16))
    averaged = torch.optim.swa_utils.AveragedModel(net)
    averaged.update_parameters(net)
    torch.save(averaged.state_dict(), tmp_path / "average.pt")
    torch.save(net.state_dict(), tmp_path / "net.pt")
    texts = related_files(tmp_path, tmp_path / "average.pt", tmp_path / "net.pt")
    assert texts == ["net is average without n_averaged"]
