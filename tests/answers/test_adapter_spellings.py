"""One LoRA of an image or language model in the spellings of the libraries that write them.

Names as diffusers 0.42.1, peft 0.21.2, lycoris-lora 4.1.3, kohya's and musubi's scripts, ComfyUI,
OneTrainer, XLabs and MLX write them. Those that diffusers reads were turned by its own converters
into what the last column of each family is here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megasim.answers.adapter_pairs import compare_adapters
from megasim.answers.adapters import load_adapter, open_named_adapter
from megasim.checkpoint.adapter_keys import adapter_keys, is_adapter
from megasim.workspace import open_store
from tests.models import write_model

RANK, WIDTH = 2, 16
Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]
State = dict[str, torch.Tensor]

FAMILIES = {
    "Flux": {
        "double_blocks.0.img_attn.qkv": (3, 1),
        "double_blocks.0.txt_attn.proj": (1, 1),
        "double_blocks.0.img_mlp.0": (4, 1),
        "double_blocks.0.img_mod.lin": (6, 1),
        "single_blocks.0.linear1": (7, 1),
        "single_blocks.0.linear2": (1, 5),
        "single_blocks.0.modulation.lin": (3, 1),
    },
    "Wan": {
        "blocks.0.self_attn.q": (1, 1),
        "blocks.0.cross_attn.o": (1, 1),
        "blocks.0.cross_attn.q": (1, 1),
        "blocks.1.ffn.0": (4, 1),
        "blocks.1.ffn.2": (1, 4),
    },
    "Qwen-Image": {
        "transformer_blocks.0.attn.to_q": (1, 1),
        "transformer_blocks.0.attn.add_q_proj": (1, 1),
        "transformer_blocks.0.attn.to_out.0": (1, 1),
        "transformer_blocks.0.img_mod.1": (6, 1),
        "transformer_blocks.1.txt_mlp.net.2": (1, 4),
    },
    "HunyuanVideo": {
        "double_blocks.0.img_attn_qkv": (3, 1),
        "double_blocks.0.img_mlp.fc1": (4, 1),
        "double_blocks.0.img_mod.linear": (6, 1),
        "single_blocks.0.linear1": (7, 1),
        "single_blocks.0.modulation.linear": (3, 1),
    },
    "SD3": {
        "joint_blocks.0.x_block.attn.qkv": (3, 1),
        "joint_blocks.0.context_block.attn.proj": (1, 1),
        "joint_blocks.1.x_block.mlp.fc1": (4, 1),
    },
    # of no family that the tables know: Z-Image
    "generic": {
        "layers.0.attention.to_q": (1, 1),
        "layers.0.attention.to_out.0": (1, 1),
        "layers.1.feed_forward.w2": (1, 4),
        "layers.1.adaLN_modulation.0": (4, 1),
    },
}


def factors(shapes: dict[str, tuple[int, int]]) -> Factors:
    """Return up and down of each layer; shapes are in units of the width."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: (
            torch.randn(rows * WIDTH, RANK, generator=generator),
            torch.randn(RANK, columns * WIDTH, generator=generator),
        )
        for name, (rows, columns) in shapes.items()
    }


def dotted(prefix: str, up: str, down: str, alpha: bool = False) -> Callable[[Factors], State]:
    """Return how a library spells a LoRA that keeps the dots of names."""
    return lambda made: _spelled(made, lambda name: prefix + name, up, down, alpha)


def flat(prefix: str) -> Callable[[Factors], State]:
    """Return how a script spells a LoRA that writes the dots of names as `_`."""
    return lambda made: _spelled(
        made, lambda n: prefix + n.replace(".", "_"), "lora_up.weight", "lora_down.weight", True
    )


def _spelled(made: Factors, name: Callable[[str], str], up: str, down: str, alpha: bool) -> State:
    state: State = {}
    for layer, (one, other) in made.items():
        state |= {f"{name(layer)}.{up}": one, f"{name(layer)}.{down}": other}
        if alpha:
            state[f"{name(layer)}.alpha"] = torch.tensor(float(RANK))
    return state


A, B = "lora_A.weight", "lora_B.weight"
UP, DOWN = "lora_up.weight", "lora_down.weight"
SPELLINGS = {
    "kohya": flat("lora_unet_"),
    "onetrainer-flat": flat("lora_transformer_"),
    "lycoris": flat("lycoris_"),
    "comfy": dotted("diffusion_model.", B, A),
    "comfy-alpha": dotted("diffusion_model.", UP, DOWN, True),
    "checkpoint": dotted("model.diffusion_model.", B, A),
    "bare": dotted("", UP, DOWN, True),
    "bare-peft": dotted("", "lora_B.default.weight", "lora_A.default.weight"),
    "peft": dotted("base_model.model.", B, A),
    "simpletuner": dotted("transformer.", B, A),
    "onetrainer": dotted("transformer.", UP, DOWN, True),
    "older-diffusers": dotted("transformer.", "lora.up.weight", "lora.down.weight"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_spelling_is_the_same_change(tmp_path: Path, family: str, spelling: str) -> None:
    made = factors(FAMILIES[family])
    first = write_model(tmp_path / "a.safetensors", SPELLINGS["comfy"](made))
    second = write_model(tmp_path / "b.safetensors", SPELLINGS[spelling](made))
    one, other = (open_named_adapter(path, None) for path in (first, second))
    assert other.family == family
    pair = compare_adapters(one, other)
    assert pair.is_same
    assert pair.layers == len(made)


DIFFUSERS_WAN = {
    "self_attn.q": "attn1.to_q",
    "cross_attn.o": "attn2.to_out.0",
    "cross_attn.q": "attn2.to_q",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}


def test_wan_in_the_names_of_diffusers(tmp_path: Path) -> None:
    made = factors(FAMILIES["Wan"])
    renamed = {f"{name[:8]}.{DIFFUSERS_WAN[name[9:]]}": pair for name, pair in made.items()}
    first = write_model(tmp_path / "a.safetensors", SPELLINGS["kohya"](made))
    second = write_model(tmp_path / "b.safetensors", SPELLINGS["simpletuner"](renamed))
    assert compare_adapters(*(open_named_adapter(p, None) for p in (first, second))).is_same


def test_the_processors_of_xlabs_are_streams_of_flux(tmp_path: Path) -> None:
    made = factors(
        {
            "double_blocks.0.img_attn.qkv": (3, 1),
            "double_blocks.0.txt_attn.qkv": (3, 1),
            "double_blocks.0.img_attn.proj": (1, 1),
            "double_blocks.0.txt_attn.proj": (1, 1),
        }
    )
    names = ("qkv_lora1", "qkv_lora2", "proj_lora1", "proj_lora2")
    state: State = {}
    for name, (up, down) in zip(names, made.values(), strict=True):
        module = f"double_blocks.0.processor.{name}"
        state |= {f"{module}.up.weight": up, f"{module}.down.weight": down}
    first = write_model(tmp_path / "a.safetensors", SPELLINGS["kohya"](made))
    second = write_model(tmp_path / "b.safetensors", state)
    assert compare_adapters(*(open_named_adapter(p, None) for p in (first, second))).is_same


def _text_encoder(made: Factors, how: str) -> State:
    state: State = {}
    for name, (up, down) in made.items():
        layer, _, last = name.rpartition(".")
        if how == "kohya":
            module, ends = "lora_te_" + name.replace(".", "_"), (UP, DOWN)
        elif how == "diffusers":
            module, ends = f"text_encoder.{name}", (B, A)
        elif how == "older":
            module = f"text_encoder.{name}.lora_linear_layer"
            ends = ("up.weight", "down.weight")
        else:
            module = f"text_encoder.{layer}.to_{last.removesuffix('_proj')}_lora"
            ends = ("up.weight", "down.weight")
        state |= {f"{module}.{ends[0]}": up, f"{module}.{ends[1]}": down}
    return state


@pytest.mark.parametrize("how", ["diffusers", "older", "oldest"])
def test_a_text_encoder_in_four_spellings(tmp_path: Path, how: str) -> None:
    layer = "text_model.encoder.layers.0.self_attn"
    made = factors({f"{layer}.{n}_proj": (1, 1) for n in ("q", "k", "v", "out")})
    first = write_model(tmp_path / "a.safetensors", _text_encoder(made, "kohya"))
    second = write_model(tmp_path / "b.safetensors", _text_encoder(made, how))
    pair = compare_adapters(*(open_named_adapter(p, None) for p in (first, second)))
    assert pair.is_same and pair.layers == 4


def test_mlx_multiplies_from_the_other_side(tmp_path: Path) -> None:
    """Factors are (in, r) and (r, out), and the settings name the strength itself."""
    made = factors(
        {"model.layers.0.self_attn.q_proj": (2, 1), "model.layers.1.mlp.up_proj": (4, 1)}
    )
    state: State = {}
    for name, (up, down) in made.items():
        state |= {f"{name}.lora_a": down.T.contiguous(), f"{name}.lora_b": up.T.contiguous()}
    write_model(tmp_path / "mlx" / "adapters.safetensors", state)
    said = {"fine_tune_type": "lora", "lora_parameters": {"rank": RANK, "scale": 20.0}}
    (tmp_path / "mlx" / "adapter_config.json").write_text(json.dumps(said))
    peft = tmp_path / "peft"
    write_model(peft / "adapter_model.safetensors", SPELLINGS["peft"](made))
    (peft / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 20.0 * RANK}))
    pair = compare_adapters(*(open_named_adapter(p, None) for p in (tmp_path / "mlx", peft)))
    assert pair.is_same and pair.layers == 2 and not pair.unstated


def test_words_that_come_with_an_adapter_are_beside_it(tmp_path: Path) -> None:
    made = factors(FAMILIES["Flux"])
    words = {f"bundle_emb.word{i}.clip_l": torch.randn(4, 32) for i in range(20)}
    path = write_model(tmp_path / "a.safetensors", SPELLINGS["kohya"](made) | words)
    answer = load_adapter(None, path)
    assert answer.family == "Flux" and len(answer.layers) == len(made) and not answer.unread
    assert "beside the change: 20 keys, as bundle_emb.word0.clip_l" in "\n".join(answer.sentences())
    alone = write_model(tmp_path / "b.safetensors", SPELLINGS["comfy"](made))
    assert compare_adapters(*(open_named_adapter(p, None) for p in (path, alone))).is_same


def test_what_is_not_computed_is_named() -> None:
    """AdaLoRA, whose rank is cut while it is trained."""
    shapes = {
        "base_model.model.h.0.attn.lora_A": (4, 8),
        "base_model.model.h.0.attn.lora_B": (8, 4),
        "base_model.model.h.0.attn.lora_E": (4, 1),
        "base_model.model.h.0.attn.ranknum": (1,),
    }
    assert is_adapter(shapes)
    (layer,) = adapter_keys(shapes).layers
    assert "not computed" in layer.why


def test_a_model_with_alphas_is_no_adapter() -> None:
    keys = [f"net.{i}.{name}" for i in range(9) for name in ("alpha", "diff", "weight")]
    assert not is_adapter(keys)
    assert not is_adapter([key for key in keys if not key.endswith("weight")])


def peft_state_dict(width: int = 8) -> tuple[State, State, State]:
    """Return a small model, its adapter, and the state dict of both as peft 0.21.2 holds them."""
    generator = torch.Generator().manual_seed(3)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    model = {"model.embed_tokens.weight": noise(12, width)}
    model |= {
        f"model.layers.{i}.self_attn.{n}_proj.weight": noise(width, width)
        for i in range(2)
        for n in "qkvo"
    }
    adapter: State = {}
    whole: State = {}
    for key, value in model.items():
        layer = "base_model.model." + key.removesuffix(".weight")
        if "q_proj" in key or "v_proj" in key:
            made = {f"{layer}.lora_A": noise(RANK, width), f"{layer}.lora_B": noise(width, RANK)}
            adapter |= {f"{name}.weight": value_ for name, value_ in made.items()}
            whole[f"{layer}.base_layer.weight"] = value
            whole |= {f"{name}.default.weight": value_ for name, value_ in made.items()}
        else:
            whole[f"{layer}.weight"] = value
    return model, adapter, whole


def test_a_model_saved_with_its_adapter_is_the_model_and_the_adapter(tmp_path: Path) -> None:
    model, adapter, whole = peft_state_dict()
    with open_store(tmp_path / "store.duckdb") as workspace:
        for name, state in (("model", model), ("lora", adapter), ("whole", whole)):
            workspace.ingest(write_model(tmp_path / f"{name}.pt", state))
        workspace.compare()
        names = [m.name for m in workspace.store.models()]
        assert names == ["model", "lora", "whole", "whole#adapter"]
        text = workspace.findings("model", "whole").to_text()
        assert "model and whole hold the same weights" in text
        text = workspace.findings("lora", "whole#adapter").to_text()
        assert "make the same change of 4 layers" in text
    pair = compare_adapters(
        *(open_named_adapter(tmp_path / f"{n}.pt", None) for n in ("lora", "whole"))
    )
    assert pair.is_same


def test_the_family_in_the_store_is_that_of_the_model_it_is_for(tmp_path: Path) -> None:
    with open_store(tmp_path / "store.duckdb") as workspace:
        for family, shapes in FAMILIES.items():
            made = SPELLINGS["bare"](factors(shapes))
            workspace.ingest(write_model(tmp_path / f"{family}.safetensors", made))
        assert {m.name: m.family for m in workspace.store.models()} == {f: f for f in FAMILIES}
        counts = workspace.sql("select nature, count(*) from layers group by nature").to_numpy()
        factors_count = sum(2 * len(shapes) for shapes in FAMILIES.values())
        alphas = sum(len(shapes) for shapes in FAMILIES.values())
        assert dict(counts) == {"change": factors_count, "scale": alphas}
