"""A logical tensor goes the whole way: fingerprints, distances, checks, as its values do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import megasim
from megasim.checkpoint.tensors import TensorReader
from megasim.fingerprint.tensor import content_hashes, fingerprint_refs
from megasim.representation.logical import logical_ref, scheme_of
from megasim.representation.opening import open_model
from megasim.workspace.jobs import doctor
from tests.models import write_model


def fp8_model(seed: int = 0, rows: int = 96, columns: int = 130) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    model = {"norm.weight": torch.rand(columns, generator=generator)}
    for i in range(3):
        values = torch.randn(rows, columns, generator=generator) * 0.02
        scale = values.abs().amax(1, keepdim=True) / 448
        model[f"layers.{i}.weight"] = (values / scale).to(torch.float8_e4m3fn)
        model[f"layers.{i}.weight_scale"] = scale
    return model


def decoded(model: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        key: value.float() * model.get(f"{key}_scale", torch.tensor(1.0))
        for key, value in model.items()
        if not key.endswith("_scale")
    }


@pytest.mark.parametrize("rows", [96, 24_000])
def test_fingerprints_are_of_the_values(tmp_path: Path, rows: int) -> None:
    """Of small tensors, walked over together, and of one that is read in pieces."""
    model = fp8_model(rows=rows)
    coded = open_model(write_model(tmp_path / "fp8.safetensors", model)).tensors
    plain = open_model(write_model(tmp_path / "plain.safetensors", decoded(model))).tensors
    assert coded.keys() == plain.keys()
    for key in coded:
        a, b = fingerprint_refs([coded[key]])[0], fingerprint_refs([plain[key]])[0]
        for field in dataclasses.fields(a):
            x, y = getattr(a, field.name), getattr(b, field.name)
            if field.name == "content_hash" and coded[key].is_decoded:
                assert x != y
                assert content_hashes([coded[key]]) == [x]
            elif isinstance(x, np.ndarray):
                assert np.array_equal(x, y), field.name
            else:
                assert x == y, field.name


def test_codes_of_a_recurrent_layer_have_scales_too(tmp_path: Path) -> None:
    """Its matrices are called `weight_hh_l0`, and their scales after them."""
    layer = torch.nn.GRU(24, 16, 2).state_dict()
    model = dict(layer)
    for key, value in layer.items():
        if value.ndim == 2:
            scale = value.abs().amax() / 448
            model |= {key: (value / scale).to(torch.float8_e4m3fn), f"{key}_scale": scale}
    tensors = open_model(write_model(tmp_path / "gru.safetensors", model)).tensors
    assert tensors.keys() == layer.keys()
    with TensorReader() as reader:
        for key, ref in tensors.items():
            expected = decoded(model)[key].numpy()
            assert np.array_equal(reader.read(ref).reshape(expected.shape), expected), key


def test_what_is_read_is_counted_in_bytes_of_the_file(tmp_path: Path) -> None:
    """Not in those of the decoded values, which are four times as many."""
    path = write_model(tmp_path / "fp8.safetensors", fp8_model())
    other = write_model(tmp_path / "other.safetensors", fp8_model(1))
    stored = sum(t.numel() * t.element_size() for t in fp8_model().values())
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        assert store.ingest(path, other).bytes_read == 2 * stored
        assert store.compare().bytes_read == 2 * stored


def test_the_content_hash_tells_codes_scales_and_scheme(tmp_path: Path) -> None:
    model = {k: v for k, v in fp8_model().items() if k.startswith("layers.0")}
    other_scale = {**model, "layers.0.weight_scale": model["layers.0.weight_scale"] * 2}
    codes = model["layers.0.weight"].view(torch.uint8).clone()
    codes[0, 0] ^= 1
    other_code = {**model, "layers.0.weight": codes.view(torch.float8_e4m3fn)}
    found = set()
    for name, tensors in {"a": model, "b": other_scale, "c": other_code, "d": model}.items():
        ref = open_model(write_model(tmp_path / f"{name}.safetensors", tensors)).tensors[
            "layers.0.weight"
        ]
        found.add(content_hashes([ref])[0])
        assert ref.decoder is not None
        turned = logical_ref(ref.key, ref.shape[::-1], ref.decoder.transposed())
        found.add(content_hashes([turned])[0])
    assert len(found) == 6


def test_a_quantised_copy_through_the_store(tmp_path: Path) -> None:
    model = fp8_model()
    original = decoded(model)
    paths = {
        "fp8": write_model(tmp_path / "fp8.safetensors", model),
        "same": write_model(tmp_path / "same.safetensors", original),
        "tuned": write_model(
            tmp_path / "tuned.safetensors", {k: v + 1e-3 for k, v in original.items()}
        ),
    }
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(*paths.values())
        store.compare()
        rows = store.sql("select key, representation, dtype from layers where model = 'fp8'")
        told = dict(zip(rows["key"], rows["representation"], strict=True))
        assert told == {
            "norm.weight": "plain",
            **{f"layers.{i}.weight": "fp8_e4m3fn scaled by row" for i in range(3)},
        }
        layers = store.sql(
            "select key_a, status, l2 from layer_distances where model_a = 'fp8' "
            "and model_b = 'same'"
        )
        assert set(layers["status"]) == {"identical", "same_values"}
        assert set(layers["l2"]) == {0.0}
        distances = store.sql(
            "select l2 from layer_distances where model_b = 'tuned' and key_a = 'layers.0.weight' "
            "or model_a = 'tuned' and key_b = 'layers.0.weight'"
        )
        expected = 1e-3 * np.sqrt(96 * 130)
        assert np.allclose(distances["l2"], expected, rtol=1e-3)
    found = doctor(tmp_path / "s.duckdb", files=True)
    assert found.is_sound and not found.files
    write_model(tmp_path / "fp8.safetensors", fp8_model(seed=1))
    (fault,) = doctor(tmp_path / "s.duckdb", files=True).files or ()
    assert fault.model == "fp8"


def test_a_joined_tensor_of_representations(tmp_path: Path) -> None:
    """q, k and v of a layout whose canonical key is the joined tensor."""
    from megasim.checkpoint.tensors import TensorReader, fuse_refs

    model = {k: v for k, v in fp8_model().items() if k != "norm.weight"}
    tensors = open_model(write_model(tmp_path / "m.safetensors", model)).tensors
    joined = fuse_refs("qkv", [tensors[f"layers.{i}.weight"] for i in range(3)])
    assert scheme_of(joined) == "fp8_e4m3fn scaled by row"
    with TensorReader() as reader:
        found = reader.read(joined).reshape(joined.shape)
    expected = torch.cat([decoded(model)[f"layers.{i}.weight"] for i in range(3)])
    assert np.array_equal(found, expected.numpy())
    print_ = fingerprint_refs([joined])[0]
    assert content_hashes([joined]) == [print_.content_hash]
