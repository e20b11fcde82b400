"""Verdicts that are easily wrong: each as the commands, their JSON and the report's page say it.

How models are related is compared in all forms by `tests.findings.sentences`.
"""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from markupsafe import Markup
from safetensors.torch import save_file

from megasim.cli import run
from megasim.report.findings import models_section
from megasim.report.lineage import lineage_section
from megasim.report.parts import unbroken
from megasim.report.trust import trust_section
from megasim.store.rows import Store
from megasim.workspace import open_store
from tests.findings.sentences import printed, related, related_files, report_page
from tests.models import nudged, random_model
from tests.small_networks import StateDict, convolutional, language_model, noise
from tests.small_sd import cast, compared_store

EMBEDDING = noise(1, 300, 64)
BODY = random_model(1)


def saved(folder: Path, **contents: Any) -> list[Path]:
    paths = [folder / f"{name}.pt" for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        torch.save(content, path)
    return paths


def lineage_page(path: Path) -> str:
    """Return the text of the report on lineage, without its tags."""
    with Store(path) as store:
        return Markup(report_page(store, (lineage_section,))).striptags()


def refused(folder: Path, path: Path) -> str:
    """Return the text of a file's refusal, which the JSON says too."""
    command = ["--db", str(folder / "refused.duckdb"), "ingest", str(path)]
    text, out = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(text):
        assert run(command) == 4
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        assert run([*command, "--json"]) == 4
    (problem,) = json.loads(out.getvalue())["failed"]
    assert problem in text.getvalue()
    return text.getvalue()


def spectral(seed: int) -> torch.Tensor:
    return torch.complex(noise(seed, 8, 8), noise(seed + 1, 8, 8))


def scales(exponent: int) -> torch.Tensor:
    return torch.full((16,), exponent, dtype=torch.uint8).view(torch.float8_e8m0fnu)


ODD = {
    "complex": (spectral(2), spectral(5)),
    "scales": (scales(120), scales(121)),
    "sparse": tuple(torch.threshold(EMBEDDING, t, 0.0).to_sparse() for t in (1, 2)),
    "array": (np.ones((4, 4), np.float32), np.zeros((4, 4), np.float32)),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_differs_in_an_odd_tensor_is_not_the_same(tmp_path: Path, kind: str) -> None:
    one, two = ODD[kind]
    paths = saved(tmp_path, a={"w": EMBEDDING, "odd": one}, b={"w": EMBEDDING, "odd": two})
    assert related_files(tmp_path, *paths) == [
        "a and b hold the same weights, but for 1 of 2 keys: odd"
    ]


@pytest.mark.parametrize("name", ["ema_state_dict", "state_dict_ema", "callbacks"])
def test_copies_beside_equal_weights_are_spoken_of(tmp_path: Path, name: str) -> None:
    def file(seed: int) -> dict[str, Any]:
        copy = random_model(seed)
        return {"state_dict": BODY, name: {"EMA": {"w": copy}} if name == "callbacks" else copy}

    place = f"{name}.EMA.w" if name == "callbacks" else name
    assert related_files(tmp_path, *saved(tmp_path, a=file(4), b=file(5))) == [
        f"a and b hold the same weights; their files differ in the part {place}"
    ]


def test_counters_take_no_part_in_a_recipe(tmp_path: Path) -> None:
    base = convolutional(1, 0)

    def moved(by: float, seed: int, batches: int) -> StateDict:
        return {
            k: torch.tensor(batches) if v.dtype == torch.int64 else v + by * noise(seed, *v.shape)
            for k, v in base.items()
        }

    a, b = moved(0.1, 900, 5000), moved(0.1, 800, 20000)
    merge = {
        k: torch.tensor(7) if v.dtype == torch.int64 else 0.3 * a[k] + 0.7 * b[k]
        for k, v in base.items()
    }
    path = compared_store(tmp_path, {"a": a, "b": b, "base": base, "m": merge})
    sentence = " = 0.7 × b + 0.3 × a; 0 % unexplained"
    assert printed(path, "recipe", "m").startswith(f"m (all){sentence}")
    assert json.loads(printed(path, "recipe", "m", "--json"))["sentence"] == f"m (all){sentence}"
    assert f"m (features){sentence}" in lineage_page(path)
    edges = json.loads(printed(path, "lineage", "--json"))["edges"]
    assert {e["child"] for e in edges if e["kind"] == "merge"} == {"m"}
    assert max(e["length"] for e in edges) < 5


def test_two_merges_of_nearly_one_ratio_are_two_models(tmp_path: Path) -> None:
    base = random_model(1, shape=(64, 64))
    a, b = nudged(base, 2, by=0.1), nudged(base, 3, by=0.1)
    files = {"a": a, "b": b}
    for name, share in (("m697", 0.697), ("m700", 0.7)):
        files[name] = {k: share * a[k] + (1 - share) * b[k] for k in base}
    files["fp8"] = {k: 500 * v.sign() for k, v in base.items()}  # codes without their scales
    path = compared_store(tmp_path, files)
    texts = printed(path, "recipe", "m700"), printed(path, "lineage"), lineage_page(path)
    assert "m700 (all) = 0.7 × a + 0.3 × b" in texts[0]
    assert "m700 (block) = 0.7 × a + 0.3 × b" in texts[2]
    for text in (*texts, printed(path, "recipe", "m700", "--json")):
        assert "another name" not in text
        assert "component swap" not in text
        assert "no merge" not in text
    found = json.loads(printed(path, "recipe", "m700", "--json"))
    assert found["same"] == []
    weights = {parent["model"]: parent["weight"] for parent in found["parents"]}
    assert weights == pytest.approx({"a": 0.7, "b": 0.3}, abs=0.01)


def test_a_model_renamed_and_cast_at_once_is_a_cast(tmp_path: Path) -> None:
    half = {f"other.{i}.gain": v.half() for i, v in enumerate(BODY.values())}
    assert related(tmp_path, a=BODY, b=half) == ["b is a cast to float16"]


def test_a_part_bit_for_bit_has_not_changed(tmp_path: Path) -> None:
    part = {key: BODY[key] for key in list(BODY)[:2]}
    assert related(tmp_path, part=part, whole=BODY) == ["part is a part of whole: 2 of its 4 keys"]


def test_a_copy_inside_of_a_training_file_is_found(tmp_path: Path) -> None:
    average = nudged(BODY, 3)
    paths = saved(tmp_path, train={"model": BODY, "ema": average}, e=average)
    path = tmp_path / "s.duckdb"
    with open_store(path) as workspace:
        assert not workspace.ingest(*paths).failed
        workspace.compare()
        page = report_page(workspace.store)
    sentence = "e is the EMA of train"
    for text in (printed(path, "findings"), printed(path, "findings", "--json"), page):
        assert sentence in text


def test_factors_of_an_adapter_change_no_embedding(tmp_path: Path) -> None:
    base = language_model(1)
    factors = {
        f"base_model.model.{key.removesuffix('.weight')}.lora_A.weight": noise(70 + i, 2, 8)
        for i, key in enumerate(k for k in base if "q_proj" in k)
    }
    assert related(tmp_path, base=base, tuned=base | factors) == [
        "base is tuned without its adapter"
    ]


def test_a_file_counts_once_however_often_it_holds_a_component(tmp_path: Path) -> None:
    dec = {f"dec.{key}": value for key, value in BODY.items()}
    train = dec | {f"dec2.{key}": value for key, value in BODY.items()}
    train |= {f"enc.{key}": value for key, value in random_model(2).items()}
    path = compared_store(
        tmp_path, {"train": train, "voice": dec, "voice_fp16": cast(dec, torch.float16)}
    )
    sentence = "dec: the same in 3 models (same at fp16): train, voice, voice_fp16"
    assert sentence in printed(path, "findings")
    with Store(path) as store:
        assert str(unbroken(sentence)) in report_page(store)
    with open_store(path, "read") as workspace:
        (group,) = workspace.findings().to_json()["groups"]
    assert group["models"] == ["train", "voice", "voice_fp16"]


def test_networks_without_a_unet_have_no_copy_of_one(tmp_path: Path) -> None:
    copy = {f"model_ema.{k.replace('.', '')}": v for k, v in nudged(BODY, 2).items()}
    (text,) = related(tmp_path, full=BODY | copy, small=BODY)
    assert "small is full without" in text
    assert "UNet" not in text


def test_a_tied_file_and_one_with_a_trained_head_are_told_apart(tmp_path: Path) -> None:
    tied = language_model(1, head=False)
    embedding = tied["model.embed_tokens.weight"]
    texts = related(
        tmp_path,
        tied=tied,
        untied=tied | {"lm_head.weight": embedding.clone()},
        trained=tied | {"lm_head.weight": noise(9, 32, 8)},
    )
    assert texts == [
        "tied and untied hold the same weights; untied holds its head beside, "
        "which repeats model.embed_tokens.weight",
        "tied is trained without its head",
        "untied and trained hold the same weights, but for 1 of 16 keys: lm_head.weight",
    ]


def test_a_tied_key_that_only_the_index_names_refuses_no_model(tmp_path: Path) -> None:
    plain, shards = language_model(1), tmp_path / "shards"
    shards.mkdir()
    save_file(plain, shards / "model-00001-of-00001.safetensors")
    names = [*plain, "lm_head.weight"]
    index = {"weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    (whole,) = saved(tmp_path, whole=plain)
    (text,) = related_files(tmp_path, whole, shards)
    assert text == "whole and shards hold the same weights (torch-zip and sharded)"


def test_files_of_placeholders_are_not_identical(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, rank0={f"w{i}": torch.zeros(0) for i in range(3)})
    text = refused(tmp_path, path)
    assert "it contains no values: all of its 3 tensors are placeholders" in text
    assert "zero_to_fp32.py" in text


def test_a_refusal_says_what_the_file_is(tmp_path: Path) -> None:
    distributed = tmp_path / "__0_0.distcp"
    distributed.write_bytes(b"PK\3\4" + bytes(600))
    text = refused(tmp_path, distributed)
    assert "a shard of torch.distributed.checkpoint, which holds pieces of tensors" in text
    assert "dcp_to_torch" in text
    packed = tmp_path / "speech.nemo"
    with tarfile.open(packed, "w") as tar:
        for path in saved(tmp_path, first=BODY, second=BODY):
            tar.add(path)
    text = refused(tmp_path, packed)
    assert "a tar file of 2 checkpoints: " in text
    assert "unpack it with `tar -xf`" in text


def test_weights_of_a_frozen_script_are_read(tmp_path: Path) -> None:
    layer = torch.nn.Linear(20, 20).eval()
    scripts = [tmp_path / f"{name}.pt" for name in ("one", "two")]
    for i, path in enumerate(scripts):
        with torch.no_grad():
            layer.weight += i
        frozen = torch.jit.freeze(torch.jit.script(layer))
        torch.jit.save(frozen, path)
    assert all("same weights" not in text for text in related_files(tmp_path, *scripts))
    rows = json.loads(printed(tmp_path / "told.duckdb", "models", "--json"))
    assert [row["name"] for row in rows] == ["one", "two"]


def test_one_nested_tensor_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    ragged = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    path = tmp_path / "s.duckdb"
    with open_store(path) as workspace:
        assert not workspace.ingest(*saved(tmp_path, j=BODY | {"odd": ragged})).failed
        page = report_page(workspace.store, (trust_section,))
    why = "a nested tensor, whose rows differ in length"
    assert f"j: 1 of 5 tensors could not be read: {why}" in printed(path, "models")
    assert json.loads(printed(path, "models", "--json"))[0]["unread"] == 1
    assert "Values of 1 tensor could not be read, in j" in page


def test_two_files_of_one_name_get_the_shortest_unique_names(tmp_path: Path) -> None:
    for i, name in enumerate(("exp1", "exp2")):
        folder = tmp_path / "runs" / name / "weights"
        folder.mkdir(parents=True)
        torch.save(random_model(i), folder / "best.pt")
    path = tmp_path / "s.duckdb"
    with open_store(path) as workspace:
        result = workspace.ingest(tmp_path / "runs")
        page = report_page(workspace.store, (models_section,))
    assert (result.added, result.failed) == (["best", "exp2-best"], [])
    assert "exp2-best" in printed(path, "models")
    assert [row["name"] for row in json.loads(printed(path, "models", "--json"))] == result.added
    assert str(unbroken("exp2-best")) in page or "exp2-best" in page


@pytest.mark.parametrize("name", ["aobp", "sdxl0"])
def test_published_results_have_families(shared: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "s.duckdb"
    with open_store(path) as workspace:
        workspace.import_path(shared / "published" / "v2" / f"{name}.json")
    found = printed(path, "lineage", "--json")
    for text in (printed(path, "lineage"), found, lineage_page(path)):
        assert "related to no other" not in text
        assert "share less than half" not in text
        assert "is related to another" not in text
    (family,) = json.loads(found)["families"]
    assert len(family["models"]) >= 10


def test_a_refused_recipe_names_its_reason(tmp_path: Path) -> None:
    base = random_model(1, shape=(64, 64))
    tunes = {f"t{i}": nudged(base, 10 + i, by=0.1) for i in range(4)}
    path = compared_store(tmp_path, {"base": base, **tunes})
    text, found = printed(path, "recipe", "t3"), json.loads(printed(path, "recipe", "t3", "--json"))
    assert found["reason"]
    assert found["reason"] in found["sentence"]
    assert found["sentence"] in text


def test_near_copies_of_a_merge_do_not_hide_its_parents(tmp_path: Path) -> None:
    base = random_model(1, shape=(64, 64))
    files = {"a": nudged(base, 2, by=0.1), "b": nudged(base, 3, by=0.1)}
    middle = {k: 0.5 * files["a"][k] + 0.5 * files["b"][k] for k in base}
    files |= {f"m{i}": nudged(middle, 20 + i, by=0.0003) for i in range(3)}
    path = compared_store(tmp_path, {"base": base, **files})
    found = json.loads(printed(path, "recipe", "m1", "--json"))
    assert {parent["model"] for parent in found["parents"]} == {"a", "b"}
    assert found["sentence"] in printed(path, "recipe", "m1")
    assert "a + 0.5 × b" in lineage_page(path) or "b + 0.5 × a" in lineage_page(path)
