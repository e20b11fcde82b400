"""What is said of quantised copies of a small Llama, and of a model one small step away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import megasim
from megasim.findings.pair_comparison import Relation
from megasim.findings.relations import model_relations
from megasim.workspace.opened import Workspace
from tests.models import write_model

Tensors = dict[str, torch.Tensor]
PROJECTIONS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")


def llama() -> Tensors:
    generator = torch.Generator().manual_seed(11)

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * 0.02).bfloat16()

    model = {"model.embed_tokens.weight": random(256, 128), "lm_head.weight": random(256, 128)}
    for i in range(2):
        layer = f"model.layers.{i}"
        for name in PROJECTIONS:
            shape = {"mlp.up_proj": (256, 128), "mlp.down_proj": (128, 256)}.get(name, (128, 128))
            model[f"{layer}.{name}.weight"] = random(*shape)
        model[f"{layer}.input_layernorm.weight"] = torch.ones(128) + random(128).float()
    return model


def tuned(model: Tensors, by: float, seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    noise = {k: torch.randn(v.shape, generator=generator) for k, v in model.items()}
    return {
        k: (v.float() + by * v.float().norm() / noise[k].norm() * noise[k]).to(v.dtype)
        for k, v in model.items()
    }


def is_projection(key: str) -> bool:
    return "_proj." in key


def fp8_scaled(model: Tensors) -> Tensors:
    found = {}
    for key, value in model.items():
        if not is_projection(key):
            found[key] = value
            continue
        scale = value.float().abs().amax(1, keepdim=True) / 448
        found[key] = (value.float() / scale).to(torch.float8_e4m3fn)
        found[f"{key}_scale"] = scale
    return found


def by_tensor(model: Tensors) -> Tensors:
    """With one scale for each matrix, as ComfyUI's."""
    found = {}
    for key, value in model.items():
        found[key] = value
        if is_projection(key):
            scale = value.float().abs().max().reshape(1) / 448
            found[key] = (value.float() / scale).to(torch.float8_e4m3fn)
            found[f"{key}_scale"] = scale
    return found


def foreign_scale(key: str, scale: torch.Tensor) -> torch.Tensor:
    """The scale of the same layer in a model that was trained otherwise."""
    generator = torch.Generator().manual_seed(len(key) + sum(map(ord, key)))
    return scale * (0.8 + 0.5 * torch.rand(1, generator=generator))


def fp8_cast(model: Tensors) -> Tensors:
    return {k: v.to(torch.float8_e4m3fn) if is_projection(k) else v for k, v in model.items()}


def packed_int4(model: Tensors) -> Tensors:
    """As compressed-tensors packs it, in groups of 32, by the nearest code."""
    found = {}
    for key, value in model.items():
        if not is_projection(key):
            found[key] = value
            continue
        rows, columns = value.shape
        groups = value.float().reshape(rows, -1, 32)
        scale = groups.abs().amax(-1) / 7.5
        codes = (groups / scale[..., None]).round().clamp(-8, 7).reshape(rows, columns).int() + 8
        words = torch.zeros(rows, columns // 8, dtype=torch.int32)
        for i in range(8):
            words |= codes[:, i::8] << (4 * i)
        name = key.removesuffix("weight")
        found[f"{name}weight_packed"] = words
        found[f"{name}weight_scale"] = scale
        found[f"{name}weight_shape"] = torch.tensor([rows, columns])
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    folder = tmp_path_factory.mktemp("quantised")
    base = llama()
    models = {
        "base": base,
        "tuned": tuned(base, 0.003, 1),
        "far": tuned(base, 0.2, 2),
        "fp8": fp8_scaled(base),
        "cast8": fp8_cast(base),
        "int4": packed_int4(base),
        "codes": {k: v for k, v in fp8_scaled(base).items() if not k.endswith("_scale")},
        "codes16": {
            k: v.bfloat16() if is_projection(k) else v
            for k, v in fp8_scaled(base).items()
            if not k.endswith("_scale")
        },
        "fp8-by-tensor": by_tensor(base),
        "foreign": {
            k: foreign_scale(k, v) if k.endswith("_scale") else v
            for k, v in by_tensor(base).items()
        },
        "int4-of-tuned": packed_int4(tuned(base, 0.003, 1)),
    }
    with megasim.open_store(folder / "s.duckdb") as opened:
        opened.ingest(*(write_model(folder / f"{n}.safetensors", m) for n, m in models.items()))
        opened.compare()
        yield opened


def relations(store: Workspace, a: str, b: str) -> list[Relation]:
    return model_relations(store.store, [(a, b)])


SCHEMES = {
    "fp8": "fp8_e4m3fn scaled by row",
    "cast8": "fp8_e4m3fn",
    "int4": "compressed-tensors int4",
}


@pytest.mark.parametrize("name", SCHEMES)
def test_a_copy_is_quantised_from_its_original(store: Workspace, name: str) -> None:
    (relation,) = relations(store, "base", name)
    assert relation.kind == "quantised"
    assert (relation.model, relation.other) == (name, "base")
    assert relation.directed
    assert relation.text == (
        f"{name} is base quantised to {SCHEMES[name]}: "
        "every value of 8 keys lies within half a step of its block"
    )


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("other", ["tuned", "far"])
def test_it_is_not_made_of_a_model_a_step_away(store: Workspace, name: str, other: str) -> None:
    found = relations(store, other, name)
    assert [relation.kind for relation in found] == ["quantised_and_changed"]
    assert "beyond rounding" in found[0].text
    assert not found[0].directed


def test_two_copies_are_of_one_model(store: Workspace) -> None:
    (relation,) = relations(store, "fp8", "int4")
    assert relation.kind == "quantised"
    assert not relation.directed
    assert relation.text.startswith("fp8 and int4 are both base quantised: that is all")
    (relation,) = relations(store, "fp8", "int4-of-tuned")
    assert relation.kind != "quantised"


def test_all_copies_are_named_with_their_originals(store: Workspace) -> None:
    """Also where not every pair is looked at."""
    found = {r.model: r.other for r in model_relations(store.store) if r.kind == "quantised"}
    for name in (*SCHEMES, "fp8-by-tensor"):
        assert name in found


def test_each_is_of_its_own_original(store: Workspace) -> None:
    (relation,) = relations(store, "int4-of-tuned", "tuned")
    assert relation.kind == "quantised"
    (relation,) = relations(store, "int4-of-tuned", "base")
    assert relation.kind == "quantised_and_changed"


@pytest.mark.parametrize("name", ["codes", "codes16"])
@pytest.mark.parametrize("other", ["base", "tuned", "fp8"])
def test_lost_scales_are_said(store: Workspace, name: str, other: str) -> None:
    (relation,) = relations(store, other, name)
    assert relation.kind == "scales_lost"
    assert (relation.model, relation.other) == (name, other)
    assert f"{name} holds weights of {other} without their scales: 8 keys of" in relation.text
    assert "times as large, in the same direction" in relation.text


@pytest.mark.parametrize("other", ["base", "tuned", "fp8-by-tensor"])
def test_scales_of_another_file_are_said(store: Workspace, other: str) -> None:
    (relation,) = relations(store, other, "foreign")
    assert relation.kind == "scales_of_another"
    assert (relation.model, relation.other) == ("foreign", other)
    assert relation.directed == (other != "fp8-by-tensor")
    assert f"foreign holds codes of {other} with the scales of another file" in relation.text
    (own,) = relations(store, other, "fp8-by-tensor") if other == "base" else [relation]
    assert own.kind == ("quantised" if other == "base" else "scales_of_another")


def test_copies_hang_on_their_original(store: Workspace) -> None:
    lineage = store.lineage("all")
    edges = {edge.child: (edge.parent, str(edge.kind)) for edge in lineage.edges}
    for name in SCHEMES:
        assert edges[name] == ("base", "quantised")
    assert edges["int4-of-tuned"] == ("tuned", "quantised")


def test_a_recipe_does_not_call_a_quantised_copy_the_very_same_weights(store: Workspace) -> None:
    recipe = store.recipe("tuned", "all")
    of_base = store.recipe("base", "all")
    assert not any("fp8" in name for name in recipe.same)
    assert "fp8" in of_base.same
    assert "cast or quantised at most" in of_base.sentence()


def test_the_store_is_sound(store: Workspace) -> None:
    from megasim.workspace.jobs import doctor

    store.store.release()
    assert doctor(store.store.path, files=True).is_sound
