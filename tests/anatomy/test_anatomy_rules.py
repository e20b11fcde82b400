"""Rules of the user: they come first, and their mistakes are named."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megasim.anatomy.classification import classify_keys, load_rules
from megasim.errors import UsageError
from megasim.zoo import architectures as zoo

Shapes = dict[str, tuple[int, ...]]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_rules_of_the_user_come_first(tmp_path: Path) -> None:
    table = write(
        tmp_path / "mine.csv",
        "# my models\n"
        "family, pattern, canonical, component, block, role\n"
        "\n"
        ", backbone.stage{i}.**, , trunk, stage {i:02},\n"
        "generic, **.gate.*, , , , gate\n"
        ", old.{name}.**, new.{name}.**\n"
        "SD1, model.diffusion_model.out.**, , , HEAD\n",
    )
    rules = load_rules(table)
    assert rules.digest != load_rules().digest
    parts = classify_keys(
        {"backbone.stage3.gate.weight": (2,), "old.fc.weight": (2,), "head.weight": (2,)}, rules
    ).parts
    assert [(p.canonical_key, p.component, p.block, p.role) for p in parts] == [
        ("backbone.stage3.gate.weight", "trunk", "stage 03", "gate"),
        ("head.weight", "head", None, "head"),
        ("new.fc.weight", "new", None, "head"),
    ]
    shapes = zoo.sd1_shapes(1 / 32)
    blocks = Counter(p.block for p in classify_keys(shapes, rules).parts)
    assert blocks["HEAD"] == 4
    assert blocks["OUT"] == 0
    assert Counter(p.block for p in classify_keys(shapes).parts)["OUT"] == 4


def test_a_rename_of_the_user_can_make_a_model_known(tmp_path: Path) -> None:
    table = write(tmp_path / "mine.csv", "pattern,canonical\nnet.**,model.diffusion_model.**\n")
    unet = {k: s for k, s in zoo.sd1_shapes(1 / 32).items() if k.startswith("model.")}
    other = {key.replace("model.diffusion_model.", "net."): shape for key, shape in unet.items()}
    assert classify_keys(other).family == "generic"
    anatomy = classify_keys(other, load_rules(table))
    assert anatomy.family == "SD1"
    assert {part.canonical_key for part in anatomy.parts} == set(unet)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it contains no table"),
        ("# only a comment\n", "it contains no table"),
        ("family,component\n", "line 1.*'pattern' must stand once"),
        ("pattern,colour\n", "line 1.*'colour' is not one of them"),
        ("pattern,role\na.**,x,y\n", "line 2: 3 cells for 2 columns"),
        ("pattern,role\n\n# b\n,x\n", "line 4, column 'pattern': the pattern is empty"),
        ("pattern,role\na.{I}.*,x\n", "line 2, column 'pattern': unexpected '{'"),
        ("pattern,role\na.(b|c,x\n", "line 2, column 'pattern': a parenthesis"),
        ("pattern,role\na.b|c,x\n", "line 2, column 'pattern': parentheses"),
        ("pattern,role\na.{i}.{i},x\n", r"line 2, column 'pattern': \{i\} stands twice"),
        ("pattern,block\na.{i}.*,x {j}\n", r"line 2, column 'block': \{j\} does not stand"),
        ("pattern,block\na.{i}.*,x {i+}\n", "line 2, column 'block'.*neither a name nor a sum"),
        ("pattern,canonical\na.*,b.**\n", r"line 2, column 'canonical': \*\* does not stand"),
        ("pattern,role\na.**,\n", "line 2, column 'pattern': the row says nothing"),
        ("pattern,component\na.**,-\n", "line 2, column 'component': every tensor"),
        ("family,pattern,role\nSD9,a.**,x\n", "line 2, column 'family': no family 'SD9'"),
        ("pattern,canonical,role\na,b,c\n", "line 2, column 'role': a row with a canonical"),
        ("family,pattern,canonical\nSD1,a,b\n", "line 2, column 'family': a row with a canonical"),
    ],
)
def test_mistakes_in_rules_are_named_with_line_and_column(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        load_rules(write(tmp_path / "mine.csv", text))


def test_files_that_are_no_rules_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large").write_bytes(b" " * (1 << 20) + b"!")
    for name, message in (("binary", "UTF-8"), ("large", "too large"), ("absent", "No such file")):
        with pytest.raises(UsageError, match=message):
            load_rules(tmp_path / name)


_WORDS = [
    "model",
    "diffusion_model",
    "layers",
    "blocks",
    "attn1",
    "attn2",
    "norm1",
    "bn2",
    "conv_in",
    "double_blocks",
    "img_mlp",
    "proj",
    "lora_unet_x",
    "out",
    "weight",
    "bias",
    "0",
    "7",
    "12",
    "0123456789012",
]


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(keys=st.lists(st.lists(st.sampled_from(_WORDS), min_size=1, max_size=5), max_size=40))
def test_what_is_remembered_does_not_depend_on_what_came_before(
    tmp_path: Path, keys: list[list[str]]
) -> None:
    """Keys that differ in the numbers of layers alone are decided once."""
    names = [".".join(words) for words in keys]
    table = write(tmp_path / "mine.csv", "family, pattern, role\ngeneric, no.such.key, role\n")
    one, other = load_rules(table), load_rules(table)
    for family in (*(signature.name for signature in one.families), "generic"):
        first, second = one.of_family(family), other.of_family(family)
        labels = {name: first.labels(name) for name in names}
        assert {name: second.labels(name) for name in reversed(names)} == labels


def test_numbers_in_a_rule_are_told_apart(tmp_path: Path) -> None:
    table = write(
        tmp_path / "mine.csv",
        "family, pattern, component, block, role\n"
        "generic, **.layers.1.**, , , first\n"
        "generic, **.layers.*.**, , , other\n",
    )
    shapes: Shapes = {f"m.layers.{i}.weight": (2,) for i in range(3)}
    parts = classify_keys(shapes, load_rules(table)).parts
    assert [part.role for part in parts] == ["other", "first", "other"]
