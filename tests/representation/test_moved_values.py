"""Copies by methods that move values on purpose, as GPTQ and AWQ, are proved by what they leave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from megasim.checkpoint.tensors import TensorReader, TensorRef
from megasim.representation.opening import open_model
from megasim.representation.rounding import Rounding, measure_rounding
from megasim.representation.scaled_inputs import explains, input_factors, slack_of_factors
from tests.models import write_model

ROWS, COLUMNS, GROUP = 384, 64, 32
Array = np.ndarray


def matrix(seed: int = 0, rows: int = ROWS) -> Array:
    values = np.random.default_rng(seed).normal(0, 0.02, (rows, COLUMNS))
    return values.astype(np.float32)


def scales_of(values: Array) -> Array:
    groups = np.abs(values).reshape(len(values), -1, GROUP).max(2)
    return np.repeat((groups / 7.5).astype(np.float16).astype(np.float32), GROUP, axis=1)


def compensated(values: Array, order: Array) -> tuple[Array, Array]:
    """Return the codes, 0 to 15, and scales of GPTQ with static groups, columns in an order.

    For each column: round it, then move those to come by its error times a row of the Cholesky
    factor of the inverse Hessian (Frantar et al. 2023, algorithm 1).
    """
    inputs = np.random.default_rng(9).normal(size=(256, COLUMNS)) @ np.random.default_rng(8).normal(
        size=(COLUMNS, COLUMNS)
    )
    hessian = (inputs.T @ inputs)[np.ix_(order, order)]
    hessian += 0.01 * np.diag(hessian).mean() * np.eye(COLUMNS)
    factor = np.linalg.cholesky(np.linalg.inv(hessian)).T
    scales = scales_of(values)
    work, codes = values[:, order].astype(np.float64), np.empty(values.shape, np.uint8)
    for i, column in enumerate(order):
        scale = scales[:, column]
        code = np.clip(np.round(work[:, i] / scale) + 8, 0, 15)
        codes[:, column] = code
        error = (work[:, i] - (code - 8) * scale) / factor[i, i]
        work[:, i + 1 :] -= np.outer(error, factor[i, i + 1 :])
    return codes, scales


def coded(codes: Array, scales: Array, folder: Path) -> TensorRef:
    """Write codes as compressed-tensors packs them, and open them."""
    places = np.arange(0, 32, 4, dtype=np.uint32)
    words = (codes.astype(np.uint32).reshape(len(codes), -1, 8) << places).sum(2, dtype=np.uint32)
    path = write_model(
        folder / "coded.safetensors",
        {
            "w.weight_packed": torch.from_numpy(words.view(np.int32)),
            "w.weight_scale": torch.from_numpy(scales[:, ::GROUP].copy()).half(),
            "w.weight_shape": torch.tensor(codes.shape),
        },
    )
    return open_model(path).tensors["w.weight"]


def plain(values: Array, folder: Path) -> TensorRef:
    path = folder / f"plain-{len(list(folder.iterdir()))}.safetensors"
    write_model(path, {"w": torch.from_numpy(values)})
    return open_model(path).tensors["w"]


def measured(ref: TensorRef, values: Array, folder: Path) -> Rounding:
    with TensorReader() as reader:
        found = measure_rounding(reader, ref, plain(values, folder))
    assert found is not None
    return found


def stepped(values: Array) -> Array:
    """Return a matrix one small step away, of 0.3 % of the norm."""
    step = np.random.default_rng(5).normal(size=values.shape)
    step *= 0.003 * np.linalg.norm(values) / np.linalg.norm(step)
    return (values + step).astype(np.float32)


@pytest.mark.parametrize("order", ["given", "other"])
def test_the_column_that_is_rounded_first_tells_the_original(order: str, tmp_path: Path) -> None:
    values = matrix()
    places = np.arange(COLUMNS)
    if order == "other":
        places = np.random.default_rng(2).permutation(COLUMNS)
        assert places[0] != 0
    ref = coded(*compensated(values, places), tmp_path)
    found = measured(ref, values, tmp_path)
    assert found.within < 0.98 * values.size
    assert (found.basis, found.proving) == ("compensated", ROWS)
    away = measured(ref, stepped(values), tmp_path)
    assert (away.basis, away.proving) == ("", 0)


def test_few_rows_prove_nothing_where_any_column_may_be_the_first(tmp_path: Path) -> None:
    """Of 8 values a column lies within by chance: it fits, and is no proof."""
    values = matrix(rows=8)
    order = np.roll(np.arange(COLUMNS), 5)
    found = measured(coded(*compensated(values, order), tmp_path), values, tmp_path)
    assert found.within < found.measured
    assert (found.basis, found.proving) == ("compensated", 0)


def test_a_column_that_a_step_left_alone_proves_nothing(tmp_path: Path) -> None:
    """A copy rounded to nearest of a fine-tune whose first column did not move."""
    values = matrix()
    tuned = stepped(values)
    tuned[:, 0] = values[:, 0]
    scales = scales_of(tuned)
    codes = np.clip(np.round(tuned / scales) + 8, 0, 15).astype(np.uint8)
    found = measured(coded(codes, scales, tmp_path), values, tmp_path)
    assert found.within < found.measured
    assert found.basis == ""


def scaled(values: Array, inputs: Array, outputs: Array, cut: float, folder: Path) -> TensorRef:
    """Round values times factors, those of each group cut off at a part of its largest."""
    moved = values * inputs * outputs[:, None]
    scales = scales_of(moved * cut)
    return coded(np.clip(np.round(moved / scales) + 8, 0, 15).astype(np.uint8), scales, folder)


@pytest.mark.parametrize("cut", [1.0, 0.8])
@pytest.mark.parametrize("known", [True, False])
def test_factors_of_inputs(cut: float, known: bool, tmp_path: Path) -> None:
    values = matrix()
    norm = 1 + matrix(3, 1)[0]
    factors = np.exp(np.random.default_rng(4).normal(0, 0.3, COLUMNS)).astype(np.float32)
    ref = scaled(values, factors, np.ones(ROWS), cut, tmp_path)
    told = input_factors(norm, (norm / factors).astype(np.float32)) if known else None
    slack = slack_of_factors("float16", "float32")
    with TensorReader() as reader:
        assert explains(reader, ref, plain(values, tmp_path), told, slack)
        assert not explains(reader, ref, plain(stepped(values), tmp_path), told, slack)
        if known:
            ones = np.ones(COLUMNS, np.float32)
            assert not explains(reader, ref, plain(values, tmp_path), ones, slack)


def test_factors_of_outputs_beside_those_of_inputs(tmp_path: Path) -> None:
    values = matrix()
    random = np.random.default_rng(4)
    inputs, outputs = (np.exp(random.normal(0, 0.3, n)) for n in (COLUMNS, ROWS))
    ref = scaled(values, inputs, outputs, 1.0, tmp_path)
    slack = slack_of_factors("float16")
    told = inputs.astype(np.float32)
    with TensorReader() as reader:
        original = plain(values, tmp_path)
        assert explains(reader, ref, original, told, slack, outputs=True)
        assert not explains(reader, ref, original, told, slack)
        away = plain(stepped(values), tmp_path)
        assert not explains(reader, ref, away, told, slack, outputs=True)


def test_a_norm_that_was_turned_around_tells_no_factors() -> None:
    norm = np.float32([1.0, 2.0])
    assert input_factors(norm, np.float32([-1.0, 1.0])) is None
    assert input_factors(norm, np.float32([0.0, 1.0])) is None


def test_factors_of_a_handful_of_values_are_none(tmp_path: Path) -> None:
    """One factor for each input can explain what is in one row."""
    values = matrix(rows=1)
    ref = scaled(values, np.full(COLUMNS, 2.0), np.ones(1), 1.0, tmp_path)
    with TensorReader() as reader:
        assert not explains(reader, ref, plain(values, tmp_path), None, 0.0)
