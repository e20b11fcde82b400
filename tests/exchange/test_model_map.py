"""model_map.json of mega_cmp names checkpoints and limits the pairs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megasim.errors import UsageError
from megasim.exchange.model_map import ModelMap, read_model_map


def write(folder: Path, content: object) -> Path:
    path = folder / "model_map.json"
    path.write_text(json.dumps(content))
    return path


def test_the_published_map(shared: Path) -> None:
    path = shared / "published" / "v1" / "model_map.json"
    found = read_model_map(path)
    assert list(found.groups) == [
        *("vae", "sd1", "nai", "any3", "yiff", "nmfsan", "bp", "photo", "disco", "sd2", "te_cmp")
    ]
    assert found.groups["bp"] == (
        ("ac", "mk0"),
        ("mk0", "mk3"),
        ("mk3", "mk5"),
        ("mk5", "nman"),
        ("ac", "nman"),
    )
    assert sum(len(pairs) for pairs in json.loads(path.read_text()) for pairs in pairs[1:]) == 42
    assert len(found.pairs) == 42
    assert found.models["mk5"].name == "bp_mk5.safetensors"
    # One name, two files: "sd14" is the EMA file in one group, the pruned one in the others.
    assert found.renamed == {"sd14.sd-v1-4": "sd14"}
    assert found.models["sd14"].name == "sd-v1-4-full-ema.ckpt"
    assert found.models["sd14.sd-v1-4"].name == "sd-v1-4.ckpt"
    assert found.groups["sd1"] == (("sd12", "sd14"),)
    assert ("sd14.sd-v1-4", "sd21") in found.groups["sd2"]


def test_paths_are_meant_from_the_map_and_else_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps, here = tmp_path / "maps", tmp_path / "here"
    for file in (maps / "a.pt", here / "a.pt", here / "b.pt"):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    monkeypatch.chdir(here)
    absolute = str(tmp_path / "abs.pt")
    pairs = [[["a", "a.pt"], ["b", "b.pt"]], [["a", "a.pt"], ["c", absolute]]]
    found = read_model_map(write(maps, [["g", [*pairs, [["a", "a.pt"], ["n", "none.pt"]]]]]))
    assert found == ModelMap(
        models={
            "a": maps / "a.pt",
            "b": here / "b.pt",
            "c": Path(absolute),
            "n": maps / "none.pt",
        },
        groups={"g": (("a", "b"), ("a", "c"), ("a", "n"))},
        renamed={},
    )


def test_three_files_of_one_name(tmp_path: Path) -> None:
    pairs = [[["x", f"{f}/m.pt"], ["y", "y.pt"]] for f in ("one", "two", "three", "two")]
    found = read_model_map(write(tmp_path, [["g", pairs]]))
    assert list(found.models) == ["x", "y", "x.m", "x.m.2"]
    assert found.groups["g"][3] == ("x.m", "y")
    assert found.pairs == (("x", "y"), ("x.m", "y"), ("x.m.2", "y"))


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        [1],
        [["g"]],
        [[1, []]],
        [["g", []]],
        [["g", {}]],
        [["g", [1]]],
        [["g", [["a", "b"]]]],
        [["g", [[["a", "p"]]]]],
        [["g", [[["a", "p"], ["b", 1]]]]],
        [["g", [[["", "p"], ["b", "q"]]]]],
        [["g", [[["a", "p\0"], ["b", "q"]]]]],
        [["g", [[["a", "p"], ["b", "q"]]]], ["g", [[["a", "p"], ["b", "q"]]]]],
    ],
)
def test_maps_of_another_form(tmp_path: Path, content: object) -> None:
    with pytest.raises(UsageError) as caught:
        read_model_map(write(tmp_path, content))
    assert "the form is" in caught.value.remedy


def test_files_that_are_no_map(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_model_map(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="UTF-8"):
        read_model_map(tmp_path / "bad.json")
