"""Which axes are hidden units, by names as libraries write them."""

import pytest

from megasim.anatomy.hidden_units import hidden_units
from megasim.words import Axis


def axes_of(shapes: dict[str, tuple[int, ...]]) -> list[tuple[int, list[tuple[str, str, int]]]]:
    return [
        (units.size, [(a.key.removesuffix(".weight"), str(a.axis), a.start) for a in units.axes])
        for units in hidden_units({f"{module}.weight": shape for module, shape in shapes.items()})
    ]


@pytest.mark.parametrize(
    ("shapes", "writes", "reads", "size"),
    [
        ({"0.mlp.fc1": (64, 16), "0.mlp.fc2": (16, 64)}, ["0.mlp.fc1"], "0.mlp.fc2", 64),
        (
            {
                "layer.3.intermediate.dense": (64, 16),
                "layer.3.output.dense": (16, 64),
                "layer.3.attention.output.dense": (16, 16),
            },
            ["layer.3.intermediate.dense"],
            "layer.3.output.dense",
            64,
        ),
        (
            {"mlp.down_proj": (16, 48), "mlp.gate_proj": (48, 16), "mlp.up_proj": (48, 16)},
            ["mlp.gate_proj", "mlp.up_proj"],
            "mlp.down_proj",
            48,
        ),
        (
            {"layer1.0.conv1": (32, 64, 1, 1), "layer1.0.conv2": (48, 32, 3, 3)},
            ["layer1.0.conv1"],
            "layer1.0.conv2",
            32,
        ),
        (
            {"in_layers.2": (32, 16, 3, 3), "out_layers.3": (16, 32, 3, 3)},
            ["in_layers.2"],
            "out_layers.3",
            32,
        ),
        ({"net.0": (32, 8), "net.10": (20, 32)}, ["net.0"], "net.10", 32),
    ],
)
def test_rows_of_one_layer_are_the_columns_of_the_next(
    shapes: dict[str, tuple[int, ...]], writes: list[str], reads: str, size: int
) -> None:
    rows = [(module, "rows", 0) for module in writes]
    assert axes_of(shapes) == [(size, [*rows, (reads, "columns", 0)])]


@pytest.mark.parametrize("sets", [1, 2])
def test_a_gated_projection_holds_two_sets(sets: int) -> None:
    shapes = {"ff.net.0.proj": (sets * 64, 16), "ff.net.2": (16, 64)}
    rows = [("ff.net.0.proj", "rows", 64 * i) for i in range(sets)]
    assert axes_of(shapes) == [(64, [*rows, ("ff.net.2", "columns", 0)])]


def test_a_library_may_keep_matrices_the_other_way_round() -> None:
    shapes = {"h.0.mlp.c_fc": (16, 64), "h.0.mlp.c_proj": (64, 16)}
    expected = [("h.0.mlp.c_fc", "columns", 0), ("h.0.mlp.c_proj", "rows", 0)]
    assert axes_of(shapes) == [(64, expected)]


@pytest.mark.parametrize(
    "shapes",
    [
        {"wte": (1000, 64), "lm_head": (1000, 64)},  # tokens
        {"self_attn.q_proj": (64, 64), "self_attn.o_proj": (64, 64)},  # heads
        {"encoder.0": (32, 784), "decoder.0": (784, 32)},  # pixels
        {"conv1": (32, 3, 3, 3), "conv2": (32, 1, 3, 3)},  # one column for each group
        {"fc1": (64, 16), "fc2": (10, 32)},  # another size
        {"fc1": (8, 16), "fc2": (10, 8)},  # too few to say anything
        {"norm1": (64,), "norm2": (64,)},
    ],
)
def test_what_stands_for_something_outside_is_not_hidden(
    shapes: dict[str, tuple[int, ...]],
) -> None:
    assert axes_of(shapes) == []


def test_axes_are_words() -> None:
    (units,) = hidden_units({"fc1.weight": (16, 4), "fc2.weight": (4, 16)})
    assert [axis.axis for axis in units.axes] == [Axis.ROWS, Axis.COLUMNS]
