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
from megasim.findings.relations import model_relations
from megasim.workspace.opened import Workspace
from tests.models import write_model

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


# The names of Black Forest Labs for those of diffusers (`convert_diffusers_to_flux` of ComfyUI's
# `utils.py`), and what diffusers has apart and they have in one.
BFL = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "transformer_blocks.0.norm1.linear": "double_blocks.0.img_mod.lin",
    "transformer_blocks.0.norm1_context.linear": "double_blocks.0.txt_mod.lin",
    "transformer_blocks.0.attn.to_out.0": "double_blocks.0.img_attn.proj",
    "transformer_blocks.0.attn.to_add_out": "double_blocks.0.txt_attn.proj",
    "transformer_blocks.0.ff.net.0.proj": "double_blocks.0.img_mlp.0",
    "transformer_blocks.0.ff.net.2": "double_blocks.0.img_mlp.2",
    "transformer_blocks.0.ff_context.net.0.proj": "double_blocks.0.txt_mlp.0",
    "transformer_blocks.0.ff_context.net.2": "double_blocks.0.txt_mlp.2",
    "single_transformer_blocks.0.norm.linear": "single_blocks.0.modulation.lin",
    "single_transformer_blocks.0.proj_out": "single_blocks.0.linear2",
    "proj_out": "final_layer.linear",
}
BFL_NORMS = {
    "transformer_blocks.0.attn.norm_q": "double_blocks.0.img_attn.norm.query_norm",
    "transformer_blocks.0.attn.norm_k": "double_blocks.0.img_attn.norm.key_norm",
    "transformer_blocks.0.attn.norm_added_q": "double_blocks.0.txt_attn.norm.query_norm",
    "transformer_blocks.0.attn.norm_added_k": "double_blocks.0.txt_attn.norm.key_norm",
    "single_transformer_blocks.0.attn.norm_q": "single_blocks.0.norm.query_norm",
    "single_transformer_blocks.0.attn.norm_k": "single_blocks.0.norm.key_norm",
}
BFL_FUSED = {
    "double_blocks.0.img_attn.qkv": ("transformer_blocks.0.attn", "to_q", "to_k", "to_v"),
    "double_blocks.0.txt_attn.qkv": (
        *("transformer_blocks.0.attn", "add_q_proj", "add_k_proj", "add_v_proj"),
    ),
    "single_blocks.0.linear1": (
        *("single_transformer_blocks.0", "attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    ),
}


def of_black_forest_labs(base: Tensors) -> Tensors:
    """Return a Flux transformer in the names and fused projections in which it is published."""
    found = {f"{BFL_NORMS[k]}.scale": base[f"{k}.weight"] for k in BFL_NORMS}
    for kind in ("weight", "bias"):
        found |= {f"{new}.{kind}": base[f"{old}.{kind}"] for old, new in BFL.items()}
        for new, (prefix, *names) in BFL_FUSED.items():
            found[f"{new}.{kind}"] = torch.cat([base[f"{prefix}.{n}.{kind}"] for n in names])
        # shift and scale stand the other way round
        first, second = base[f"norm_out.linear.{kind}"].chunk(2)
        found[f"final_layer.adaLN_modulation.1.{kind}"] = torch.cat([second, first])
    return found


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
