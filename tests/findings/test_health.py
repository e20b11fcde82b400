"""Oddities of single models, and what their metadata claims."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megasim.errors import UsageError
from megasim.findings.health import describe_positions, metadata_claims, model_health
from megasim.store.rows import Store
from megasim.workspace import open_store
from tests.models import write_model
from tests.small_sd import POSITIONS, TEXT, UNET, VAE, cast, only, small_sd, without


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("health")
    base = small_sd()
    broken = base | {POSITIONS: torch.arange(77).reshape(1, 77).to(torch.float32)}
    broken[POSITIONS][0, 41] = 40.96875
    broken[POSITIONS][0, 7] = 7.25
    whole_floats = base | {POSITIONS: torch.arange(77).reshape(1, 77).to(torch.float16)}
    sick = {key: value.clone() for key, value in base.items()}
    sick[UNET + "out.2.weight"][0, 0, 0, :2] = torch.nan
    sick[TEXT + "encoder.layers.3.mlp.fc1.weight"][0, 0] = torch.inf
    sick[VAE + "decoder.conv_in.weight"][:] = 0
    mixed = cast(base, torch.float16) | only(base, UNET + "out")
    models = {
        "fine": base,
        "broken": broken,
        "whole-floats": whole_floats,
        "sick": sick,
        "mixed": mixed,
        "unet": only(base, UNET),
        "no-encoder": without(base, VAE + "encoder"),
        "vae": only(base, VAE),
    }
    paths = [write_model(folder / f"{name}.safetensors", state) for name, state in models.items()]
    claims = {
        "modelspec.title": "\x1b[31mred",
        "ss_steps": "1200",
        "ss_tag_frequency": "{...}",
        "sd_merge_recipe": "x" * 5000,
        "thumbnail": "data:image/png;base64,...",
        "epoch": "None",
    }
    paths.append(write_model(folder / "claiming.safetensors", base, **claims))
    with open_store(folder / "store.duckdb") as workspace:
        assert not workspace.ingest(*paths).failed
        yield workspace.store


def notes(store: Store, model: str) -> list[tuple[str, str]]:
    return [(note.kind, note.text) for note in model_health(store, [model])]


@pytest.mark.parametrize("model", ["fine", "whole-floats", "vae", "claiming"])
def test_nothing_odd(store: Store, model: str) -> None:
    assert notes(store, model) == []


def test_broken_positions(store: Store) -> None:
    ((kind, text),) = notes(store, "broken")
    assert kind == "broken_positions"
    assert "broken: 7.25 at 7, 40.9688 at 41; as int64, 41 became 40 (" in text
    assert text.endswith("embeddings.position_ids, float32)")


def test_nan_inf_and_zeros_by_key(store: Store) -> None:
    assert notes(store, "sick") == [
        ("non_finite", "text encoder: 1 infinite in 1 key: layers.3.mlp.fc1.weight"),
        ("non_finite", "UNet: 2 NaN in 1 key: out.2.weight"),
        ("zero_layers", "VAE decoder: 1 key all zero: conv_in.weight"),
    ]


def test_mixed_dtypes(store: Store) -> None:
    assert notes(store, "mixed") == [
        ("mixed_dtypes", "UNet: 7 keys in float16 and 1 key in float32")
    ]


def test_missing_parts(store: Store) -> None:
    assert notes(store, "unet") == [
        ("missing_parts", "no text encoder, no VAE: load them from elsewhere")
    ]
    assert notes(store, "no-encoder") == [
        ("missing_parts", "no VAE encoder: load it from elsewhere")
    ]


def test_notes_of_all_models_come_in_the_order_of_the_models(store: Store) -> None:
    order = list(store.model_ids())
    places = [order.index(note.model) for note in model_health(store)]
    assert places == sorted(places)
    assert model_health(store) == [n for name in order for n in model_health(store, [name])]


def test_claims_are_shown_shortened_and_harmless(store: Store) -> None:
    claims = {claim.key: claim.value for claim in metadata_claims(store, ["claiming"])}
    assert sorted(claims) == ["modelspec.title", "sd_merge_recipe", "ss_steps"]
    assert claims["modelspec.title"] == "\\x1b[31mred"
    assert len(claims["sd_merge_recipe"]) == 240
    with pytest.raises(UsageError):
        metadata_claims(store, ["nobody"])


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=77))
def test_positions_are_whole_exactly_when_nothing_is_said(values: list[float]) -> None:
    text = describe_positions(values)
    assert (text == "") == (values == list(range(len(values))))
    moved = [place for place, value in enumerate(values) if int(value) != place]
    if text and not moved:
        assert text.endswith("as int64 they are whole again")


def test_what_a_merge_in_half_precision_does() -> None:
    share = torch.tensor(0.2, dtype=torch.float16)
    whole = torch.arange(77, dtype=torch.float16)
    merged = (whole * share + whole * (1 - share)).tolist()
    lost = sorted(set(range(77)) - {int(value) for value in merged})
    text = describe_positions(merged)
    assert 41 in lost
    assert all(f"{place} became {place - 1}" in text for place in lost[:5])
