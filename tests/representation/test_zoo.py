"""Copies of a Llama and of a Flux transformer by the real libraries, through the command line.

Each is found to be its original, quantised; and none is for the model one small training step away.
`write_zoo` wrote them, and states the versions.
"""

from __future__ import annotations

import json
import tarfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint
from safetensors.torch import load_file

import megasim
from megasim import cli
from megasim.answers.adapter_files import open_adapter
from megasim.answers.adapter_pairs import compare_adapters
from megasim.findings.relations import model_relations
from megasim.workspace.opened import Workspace
from megasim.workspace.shards import compare_shard
from tests.models import write_model
from tests.representation.flux_names import of_black_forest_labs

ZOO = Path(__file__).parent / "zoo.tar.xz"
COMPONENT = {"llama": "layers", "flux": "transformer"}
# These change values by more than rounding on purpose: GPTQ makes up for it, AWQ scales inputs.
PROOFS = {
    "gptq": "of 7 keys the 672 values that were rounded first, of each a column, lie within half a "
    "step of their block, and the others were moved to make up for it, as GPTQ does",
    "awq": "every value of 2 keys lies within half a step of its block; every value of 5 keys does "
    "so once each input, or output, has a factor, as AWQ scales them, and 2 plain keys were "
    "divided by these factors",
}
PROOFS["gptqmodel"] = PROOFS["gptq"]
PROOFS["gptq-other-order"] = "; 4 keys of few rows fit this, and would prove nothing alone"
PROOFS["llm-compressor-awq"] = PROOFS["awq"].replace("2 keys", "1 key").replace("5 keys", "6 keys")

Tensors = dict[str, torch.Tensor]


def is_matrix(key: str, value: torch.Tensor) -> bool:
    return value.ndim == 2 and ("proj" in key or ".attn" in key or ".ff" in key)


def cast(base: Tensors) -> Tensors:
    return {k: v.to(torch.float8_e4m3fn) if is_matrix(k, v) else v for k, v in base.items()}


def of_comfyui(base: Tensors) -> Tensors:
    found = {}
    for key, value in base.items():
        found[key] = value
        if is_matrix(key, value):
            scale = (value.float().abs().max() / 448).reshape(1)
            found[key] = (value.float() / scale).to(torch.float8_e4m3fn)
            found[f"{key.removesuffix('weight')}scale_weight"] = scale
    return found


def of_deepseek(base: Tensors) -> Tensors:
    """In blocks of 128 × 128."""
    found = {}
    for key, value in base.items():
        found[key] = value
        if is_matrix(key, value):
            rows, columns = value.shape
            down, across = -(-rows // 128), -(-columns // 128)
            padded = torch.zeros(down * 128, across * 128)
            padded[:rows, :columns] = value.float()
            scale = padded.reshape(down, 128, across, 128).abs().amax((1, 3)) / 448
            spread = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
            found[key] = (value.float() / spread[:rows, :columns]).to(torch.float8_e4m3fn)
            found[f"{key}_scale_inv"] = scale
    return found


def cast_fnuz(base: Tensors) -> Tensors:
    """As for AMD's MI300."""
    return {k: v.to(torch.float8_e4m3fnuz) if is_matrix(k, v) else v for k, v in base.items()}


@dataclass(frozen=True)
class Family:
    """A family of the zoo in a store: the name of it, and of the copies of `base`."""

    name: str
    database: Path
    copies: dict[str, str]  # name → a scheme that it is quantised to

    def run(self, *arguments: str, capture: pytest.CaptureFixture[str]) -> Any:
        capture.readouterr()
        assert cli.run(["--db", str(self.database), *arguments, "--json"]) == 0
        return json.loads(capture.readouterr().out)


def schemes(store: Workspace) -> dict[str, str]:
    rows = store.sql(
        "select model, min(if(dtype like 'float8%', dtype, representation)) as scheme "
        "from layers where representation <> 'plain' or dtype like 'float8%' group by model"
    )
    return dict(zip(rows["model"], rows["scheme"], strict=True))


@pytest.fixture(scope="module", params=["llama", "flux"])
def family(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Family]:
    folder = tmp_path_factory.mktemp(request.param)
    with tarfile.open(ZOO) as archive:
        archive.extractall(folder, filter="data")
    files = folder / request.param
    base = load_file(files / "base.safetensors")
    write_model(files / "fp8-cast.safetensors", cast(base))
    write_model(files / "fp8-comfyui.safetensors", of_comfyui(base))
    write_model(files / "fp8-deepseek.safetensors", of_deepseek(base))
    write_model(files / "fp8-fnuz.safetensors", cast_fnuz(base))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it saves in one process
        torch.distributed.checkpoint.save(dict(of_comfyui(base)), checkpoint_id=files / "fp8-dcp")
    if request.param == "flux":
        write_model(files / "fp8-bfl.safetensors", of_black_forest_labs(cast(base)))
    database = folder / "s.duckdb"
    assert cli.run(["--db", str(database), "ingest", str(files)]) == 0
    assert cli.run(["--db", str(database), "compare"]) == 0
    with megasim.open_store(database) as store:
        found = schemes(store)
        assert set(store.sql("select name from models")["name"]) - found.keys() == {
            "base",
            "tuned",
        }
        assert store.sql("select count(*) as n from unread_key")["n"][0] == 0
    yield Family(request.param, database, found)


def test_each_is_found_to_be_its_original(
    family: Family, capsys: pytest.CaptureFixture[str]
) -> None:
    with megasim.open_store(family.database) as store:
        found = model_relations(store.store, [("base", copy) for copy in family.copies])
    told = {relation.model: relation for relation in found}
    assert told.keys() == family.copies.keys()
    for copy, scheme in family.copies.items():
        assert told[copy].kind == "quantised", copy
        assert told[copy].text.startswith(f"{copy} is base quantised to ")
        assert scheme.replace("float8", "fp8") in told[copy].text
        assert PROOFS.get(copy, "lies within half a step of its block") in told[copy].text
    for copy in ("fp8-cast", "bnb-nf4"):
        said = family.run("findings", "base", copy, capture=capsys)[0]["relations"]
        assert said == [told[copy].text]


def test_none_is_made_of_the_model_a_step_away(family: Family) -> None:
    with megasim.open_store(family.database) as store:
        found = model_relations(store.store, [("tuned", copy) for copy in family.copies])
    assert {relation.model for relation in found} == family.copies.keys()
    for relation in found:
        assert relation.text.startswith(f"{relation.model} is quantised to ")
        assert "and changed from tuned beyond rounding" in relation.text


def test_the_original_is_nearest_to_each_and_each_to_it(
    family: Family, capsys: pytest.CaptureFixture[str]
) -> None:
    component = COMPONENT[family.name]
    proved = family.copies.keys()
    with megasim.open_store(family.database) as store:
        for copy in proved:
            rows = store.nearest(copy, [component], k=60)
            names = rows["model"].tolist()
            same = int((rows["l2"] == 0).sum())  # the same codes in another file
            assert names[same] == "base", copy
            assert rows["quantised"][same]
            assert names.index("base") < names.index("tuned")
    near = family.run("nearest", "base", "-k", "60", "-c", component, capture=capsys)
    names = [row["model"] for row in near]
    assert set(names[: len(proved)]) == proved
    assert not near[names.index("tuned")]["quantised"]


def test_they_hang_on_their_original_in_the_lineage(
    family: Family, capsys: pytest.CaptureFixture[str]
) -> None:
    told = family.run("lineage", "-c", COMPONENT[family.name], capture=capsys)
    edges = {edge["child"]: edge for edge in told["edges"]}
    for copy in family.copies:
        edge = edges[copy]
        while edge["kind"] == "copy":  # the same values in another file, or nearly
            edge = edges[edge["parent"]]
        assert edge["parent"] == "base", copy
        assert edge["kind"] == "quantised"
        assert edge["confidence"] > 0.9
    (step,) = [e for e in told["edges"] if {e["parent"], e["child"]} == {"base", "tuned"}]
    assert step["kind"] == "fine-tune"  # which came first, one step does not say


def test_they_stand_at_their_original_on_the_map(
    family: Family, capsys: pytest.CaptureFixture[str]
) -> None:
    told = family.run("map", "-c", COMPONENT[family.name], capture=capsys)
    at = dict(zip(told["models"], told["coordinates"], strict=True))
    proved = family.copies.keys()
    assert told["quantised"] == dict.fromkeys(sorted(proved), "base")
    for copy in proved:
        assert at[copy] == pytest.approx(at["base"], abs=1e-9)
    assert at["tuned"] != pytest.approx(at["base"], abs=1e-3)
    assert told["evidence"][0].startswith("Quantised copies stand where their originals do")


def roundings(store: Workspace) -> list[tuple[Any, ...]]:
    """Return what is known of all quantised copies and plain models, by their contents."""
    return store.store.connection.execute(
        "select least(a.content_hash, b.content_hash), greatest(a.content_hash, b.content_hash), "
        "measured, within, excess, basis, proving from tensor_rounding "
        "join tensor a on a.id = tensor_a join tensor b on b.id = tensor_b order by all"
    ).fetchall()


def test_machines_that_share_a_comparison_prove_the_same(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """In shards, and on a cluster: also what no tensor proves alone, as AWQ."""
    pytest.importorskip("distributed", reason="the extra cluster is not installed")
    folder = tmp_path_factory.mktemp("shared")
    with tarfile.open(ZOO) as archive:
        archive.extractall(folder, filter="data")
    files = [folder / "llama" / name for name in ("base.safetensors", "awq", "gptqmodel")]
    found = {}
    for way in ("one machine", "shards", "cluster"):
        with megasim.open_store(folder / f"{way}.duckdb") as store:
            store.ingest(*files)
            if way == "shards":
                parts = [folder / f"{i}.parquet" for i in (1, 2, 3)]
                for i, part in enumerate(parts, 1):
                    compare_shard(part, f"{i}/{len(parts)}", folder / f"{way}.duckdb")
                store.import_path(*parts)
            else:
                store.compare(cluster="local:2" if way == "cluster" else None)
            found[way] = roundings(store)
    bases = {basis for *_, basis, _ in found["one machine"]}
    assert {"compensated", "scaled"} <= bases
    assert found["shards"] == found["one machine"]
    assert found["cluster"] == found["one machine"]


SPELLINGS = {
    "peft": "peft",
    "diffusers": "diffusers/pytorch_lora_weights.safetensors",
    "older diffusers": "diffusers-older.safetensors",
    "kohya": "kohya.safetensors",
    "lycoris": "lycoris.safetensors",
}


def test_one_adapter_in_the_spellings_of_the_libraries_that_wrote_it(tmp_path: Path) -> None:
    with tarfile.open(ZOO) as archive:
        archive.extractall(tmp_path, filter="data")
    base = load_file(tmp_path / "flux" / "base.safetensors")
    changes = peft_changes(load_file(tmp_path / "adapters" / "peft" / "adapter_model.safetensors"))
    for strength in (0.3, 0.7, 1.0):
        baked = {k: (v + strength * changes.get(k, 0)).bfloat16() for k, v in base.items()}
        write_model(tmp_path / f"baked-{strength}.safetensors", baked)
    adapters = {n: open_adapter(tmp_path / "adapters" / p, n) for n, p in SPELLINGS.items()}
    for name, adapter in adapters.items():
        pair = compare_adapters(adapters["peft"], adapter)
        assert pair.layers and not pair.only_a and not pair.only_b and not pair.not_compared, name
        assert pair.l2 <= 1e-6 * pair.norm_a, name
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(tmp_path / "flux" / "base.safetensors", *tmp_path.glob("baked-*.safetensors"))
        for name, path in SPELLINGS.items():
            for strength in (0.3, 0.7, 1.0):
                answer = store.adapter(
                    tmp_path / "adapters" / path, base="base", model=f"baked-{strength}"
                )
                assert answer.baked is not None
                assert answer.baked.whole.value == pytest.approx(strength, abs=0.01), name


def peft_changes(factors: Tensors) -> Tensors:
    """Return what the LoRA of rank 4 and alpha 2 adds to each weight."""
    found = {}
    for key, down in factors.items():
        if "lora_A" in key:
            name = key.removeprefix("base_model.model.").replace(".lora_A", "")
            found[name] = factors[key.replace("lora_A", "lora_B")] @ down * (2 / 4)
    return found
