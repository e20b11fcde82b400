"""A gate for pipelines: what the hashes prove passes, and nothing else."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megasim import cli, open_store
from megasim.answers.held_keys import HeldKeys, keys_of
from megasim.answers.verification import Allowance, Outcome, verify_keys
from megasim.errors import UsageError
from tests.models import nudged, random_model, write_model

BASE = random_model(0, keys=5, shape=(24, 16))
BASE["norm.bias"] = torch.arange(5.0)
FLOATS = {k: v.clone() for k, v in BASE.items()}


def no_store() -> None:
    raise AssertionError("no store is needed for files")


def renamed(model: dict) -> dict:
    return {f"wrapped.{key}": value for key, value in model.items()}


def quantised(model: dict) -> dict:
    found = {}
    for key, value in model.items():
        if value.dim() < 2:
            found[key] = value
            continue
        scale = value.abs().amax() / 127
        found[key] = (value / scale).round().to(torch.int8)
        found[f"{key}_scale"] = scale.reshape(1)
    return found


def swapped(model: dict) -> dict:
    first, second, *_ = model
    return {**model, first: model[second], second: model[first]}


# what was done → (the model, what is allowed, what comes of it)
CASES: dict[str, tuple[Callable[[], dict], str, Outcome]] = {
    "nothing": (lambda: BASE, "", Outcome.VERIFIED),
    "a value": (lambda: nudged(BASE, 1, "block.3.weight", by=1e-6), "", Outcome.DIFFERS),
    "a value, all allowed": (
        lambda: nudged(BASE, 1, "block.3.weight", by=1e-3),
        "cast,prune,rename,quant",
        Outcome.DIFFERS,
    ),
    "half": (lambda: {k: v.half() for k, v in BASE.items()}, "", Outcome.DIFFERS),
    "half, allowed": (lambda: {k: v.half() for k, v in BASE.items()}, "cast", Outcome.VERIFIED),
    "bfloat16, allowed": (
        lambda: {k: v.bfloat16() for k, v in BASE.items()},
        "cast",
        Outcome.VERIFIED,
    ),
    "wider, allowed": (lambda: {k: v.double() for k, v in BASE.items()}, "cast", Outcome.VERIFIED),
    "half of other values": (
        lambda: {k: v.half() for k, v in nudged(BASE, 1, by=0.01).items()},
        "cast",
        Outcome.DIFFERS,
    ),
    "half and back": (
        lambda: {k: v.half().float() for k, v in BASE.items()},
        "cast",
        Outcome.DIFFERS,
    ),
    "half that overflows": (
        lambda: {**BASE, "norm.bias": (BASE["norm.bias"] * 1e5).half()},
        "cast",
        Outcome.DIFFERS,
    ),
    "float8": (
        lambda: {k: v.to(torch.float8_e4m3fn) for k, v in BASE.items()},
        "cast",
        Outcome.UNPROVED,
    ),
    "fewer keys": (
        lambda: {k: v for k, v in BASE.items() if k != "norm.bias"},
        "",
        Outcome.DIFFERS,
    ),
    "fewer keys, allowed": (
        lambda: {k: v for k, v in BASE.items() if k != "norm.bias"},
        "prune",
        Outcome.VERIFIED,
    ),
    "nothing in common": (lambda: {"other": torch.ones(3)}, "prune", Outcome.DIFFERS),
    "a key more": (lambda: {**BASE, "more": torch.ones(3)}, "prune,cast", Outcome.DIFFERS),
    "renamed": (lambda: renamed(BASE), "cast,prune", Outcome.DIFFERS),
    "renamed, allowed": (lambda: renamed(BASE), "rename", Outcome.VERIFIED),
    "renamed and cast": (
        lambda: renamed({k: v.half() for k, v in BASE.items()}),
        "rename,cast",
        Outcome.VERIFIED,
    ),
    "renamed and changed": (
        lambda: renamed(nudged(BASE, 1, "block.2.weight")),
        "rename",
        Outcome.DIFFERS,
    ),
    "layers swapped": (lambda: swapped(BASE), "rename", Outcome.DIFFERS),
    "another shape": (
        lambda: {k: v.reshape(-1) for k, v in BASE.items()},
        "cast,prune",
        Outcome.DIFFERS,
    ),
    "quantised": (lambda: quantised(BASE), "", Outcome.DIFFERS),
    "quantised, allowed": (lambda: quantised(BASE), "quant", Outcome.UNPROVED),
    "quantised, with another bias": (
        lambda: quantised(nudged(BASE, 1, "norm.bias")),
        "quant",
        Outcome.DIFFERS,
    ),
}


def held(path: Path) -> HeldKeys:
    return keys_of(path, no_store)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES)
def test_what_is_proved_passes_and_nothing_else(tmp_path: Path, case: str) -> None:
    make, allowed, expected = CASES[case]
    base = dict(BASE)
    if case == "half that overflows":
        base["norm.bias"] = BASE["norm.bias"] * 1e5
    a = write_model(tmp_path / "a.safetensors", base)
    b = write_model(tmp_path / "b.safetensors", make())
    found = verify_keys(held(a), held(b), [one for one in allowed.split(",") if one])
    assert found.outcome is expected, found.lines()
    assert bool(found.differences) == (expected is Outcome.DIFFERS)
    if expected is Outcome.UNPROVED:
        assert all(key.problem for key in found.unproved)


@settings(max_examples=30, deadline=None)
@given(
    place=st.integers(0, 23),
    bit=st.integers(0, 31),
    allow=st.sets(st.sampled_from([*map(str, Allowance)])),
)
def test_one_bit_is_never_let_through(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int, allow: set[str]
) -> None:
    folder = tmp_path_factory.mktemp("bit")
    whole = torch.randn(24, generator=torch.Generator().manual_seed(1))
    other = whole.clone()
    bits = other.view(torch.int32)
    bits[place] ^= -(1 << 31) if bit == 31 else 1 << bit
    a = write_model(folder / "a.pt", {"w": whole, "v": BASE["norm.bias"]})
    b = write_model(folder / "b.pt", {"w": other, "v": BASE["norm.bias"]})
    assert verify_keys(held(a), held(b), allow).outcome is Outcome.DIFFERS


def test_the_command_its_codes_and_its_forms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = str(write_model(tmp_path / "a.safetensors", BASE))
    half = {k: v.half() for k, v in BASE.items()}
    b = str(write_model(tmp_path / "b.safetensors", half))
    q = str(write_model(tmp_path / "q.safetensors", quantised(BASE)))
    db = ["--db", str(tmp_path / "no.duckdb")]
    assert cli.run([*db, "verify", a, b, "--allow", "cast"]) == 0
    assert "b is a up to cast (keys: cast 6)" in capsys.readouterr().out
    assert cli.run([*db, "verify", a, b]) == 5
    assert "block.0.weight: float16 instead of float32" in capsys.readouterr().out
    xml = tmp_path / "r.xml"
    assert cli.run([*db, "verify", a, q, "--allow", "quant", "--json", "--junit", str(xml)]) == 6
    told = json.loads(capsys.readouterr().out)
    assert (told["outcome"], told["differences"]) == ("unproved", [])
    assert told["counts"] == {"identical": 1, "quant": 5}
    suite = ET.fromstring(xml.read_text())
    assert (suite.get("failures"), suite.get("errors")) == ("0", "1")
    assert cli.run([*db, "verify", a, b, "--junit", str(xml)]) == 5
    assert ET.fromstring(xml.read_text()).get("failures") == "2"  # of block and norm
    assert cli.run([*db, "verify", a]) == 2
    assert cli.run([*db, "verify", a, b, "--allow", "magic"]) == 2
    assert cli.run([*db, "verify", a, str(tmp_path / "absent.safetensors")]) == 2
    assert not (tmp_path / "no.duckdb").exists()


def test_what_compare_measured_proves_a_quantised_copy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(2)
    tuned = {k: v + 0.02 * v.std() * torch.randn(v.shape) for k, v in BASE.items()}
    models = {
        "a": BASE,
        "q": quantised(BASE),
        "far": {**quantised(tuned), "norm.bias": BASE["norm.bias"]},
    }
    models["cast"] = {k: v.to(torch.float8_e5m2) if v.dim() > 1 else v for k, v in BASE.items()}
    for name, model in models.items():
        write_model(tmp_path / f"{name}.safetensors", model)
    db = ["--db", str(tmp_path / "s.duckdb")]
    assert cli.run([*db, "ingest", str(tmp_path)]) == 0
    assert cli.run([*db, "verify", "a", "q", "--allow", "quant"]) == 6  # not compared yet
    assert cli.run([*db, "compare"]) == 0
    assert cli.run([*db, "verify", "a", "q", "--allow", "quant"]) == 0
    assert cli.run([*db, "verify", "a", "q", "--allow", "cast"]) == 5
    assert cli.run([*db, "verify", "a", "cast", "--allow", "cast"]) == 0
    capsys.readouterr()
    assert cli.run([*db, "verify", "a", "far", "--allow", "quant"]) == 6
    assert "values lie more than half a step from those of int8 scaled" in capsys.readouterr().out
    with open_store(tmp_path / "s.duckdb") as opened:
        assert opened.verify("a", "q", ["quant"]).outcome is Outcome.VERIFIED


def test_models_of_the_store_and_fingerprints_without_weights(tmp_path: Path) -> None:
    a = write_model(tmp_path / "a.safetensors", BASE)
    prints = tmp_path / "prints.parquet"
    with open_store(tmp_path / "s.duckdb") as store:
        store.ingest(a)
        store.export_fingerprints(prints)
        a.unlink()
        b = write_model(tmp_path / "b.pt", {k: v.half() for k, v in BASE.items()})
        for source in (None, prints):
            assert store.verify("a", b, ["cast"], against=source).outcome is Outcome.VERIFIED
            assert store.verify("a", b, against=source).outcome is Outcome.DIFFERS
        with pytest.raises(UsageError, match="does not tell of 'c'"):
            store.verify("c", b, against=prints)
    assert cli.run(["verify", str(b), "--against", str(prints), "--allow", "cast"]) == 0


def test_parts_and_what_cannot_be_read(tmp_path: Path) -> None:
    ema = {"model": dict(BASE), "model_ema": nudged(BASE, 3), "optimizer": {"state": {}}}
    torch.save(ema, tmp_path / "a.pt")
    torch.save({"model": dict(BASE)}, tmp_path / "b.pt")
    whole, pruned = held(tmp_path / "a.pt"), held(tmp_path / "b.pt")
    assert verify_keys(whole, pruned, []).outcome is Outcome.DIFFERS
    assert verify_keys(whole, pruned, ["prune"]).outcome is Outcome.VERIFIED
    assert verify_keys(pruned, whole, ["prune"]).outcome is Outcome.DIFFERS
    codes = {**BASE, "odd": torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}
    torch.save(codes, tmp_path / "c.pt")
    assert verify_keys(held(tmp_path / "c.pt"), held(tmp_path / "c.pt")).outcome is Outcome.VERIFIED
    codes["odd"] = torch.ones(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    torch.save(codes, tmp_path / "d.pt")
    found = verify_keys(held(tmp_path / "c.pt"), held(tmp_path / "d.pt"), ["cast"])
    assert [key.how for key in found.differences] == ["unread"]
