"""Samples: the same elements in every model, of known weight, and an error that is the true one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megasim.checkpoint.opening import TensorReader, open_checkpoint
from megasim.compare.sample_piece import BlockSums, SamplePosition, run_sample_piece
from megasim.errors import UsageError
from megasim.fingerprint.sample import sample_refs
from megasim.fingerprint.sample_places import (
    STEP,
    WHOLE,
    SampledBlocks,
    SampleSize,
    parse_sample_size,
    sample_level,
    sampled_blocks,
    sampled_elements,
)
from megasim.ingest.reading import assemble_ref
from tests.models import write_model

LEVELS = (2 * STEP, 4 * STEP + 10, 5 * STEP)


@given(st.integers(1, 3_000_000), st.integers(0, 6 * STEP))
@settings(deadline=None, max_examples=60)
def test_blocks_lie_in_order_and_stand_for_all_elements(numel: int, level: int) -> None:
    blocks = sampled_blocks(numel, level)
    assert (blocks.starts < blocks.stops).all() and blocks.stops[-1] <= numel
    assert (blocks.starts[1:] >= blocks.stops[:-1]).all()
    assert (blocks.weights * (blocks.stops - blocks.starts)).sum() == pytest.approx(numel)
    if numel <= WHOLE:
        assert blocks.numel == numel


@given(st.integers(WHOLE, 3_000_000), st.integers(0, 5 * STEP), st.integers(0, 2 * STEP))
@settings(deadline=None, max_examples=40)
def test_a_coarser_sample_is_part_of_a_finer_one(numel: int, level: int, more: int) -> None:
    fine, coarse = sampled_blocks(numel, level), sampled_blocks(numel, level + more)
    if len(fine.starts) > 1:
        assert set(coarse.starts.tolist()) <= set(fine.starts.tolist())


def test_a_sample_is_no_larger_than_asked_for() -> None:
    numels = [1 << 20, 3 << 22, 70_000, 300]
    for share in (0.5, 0.1, 0.05, 0.02):
        level = sample_level(numels, SampleSize(share=share))
        assert sum(sampled_elements(n, level) for n in numels) <= share * sum(numels)
        finer = sum(sampled_elements(n, level - 1) for n in numels)
        assert finer > share * sum(numels)
    assert sample_level(numels, SampleSize(nbytes=1 << 40)) == 0


@pytest.mark.parametrize("text", ["", "5", "0M", "0%", "101%", "-3M", "1e9", "M", "5 apples"])
def test_what_is_no_size_is_refused(text: str) -> None:
    if text == "5":
        assert parse_sample_size(text) == SampleSize(nbytes=5)
        return
    with pytest.raises(UsageError, match="no size of a sample"):
        parse_sample_size(text)


def estimates(squares: np.ndarray, level: int) -> tuple[float, float]:
    """Return the estimated sum of some squares, and its standard error."""
    blocks = sampled_blocks(len(squares), level)
    sums = BlockSums(1)
    for start, stop, weight in zip(blocks.starts, blocks.stops, blocks.weights, strict=True):
        found = squares[start:stop].sum()
        sums.add(weight, np.array([stop - start]), np.array([[0.0, found]]))
    found = sums.distances(blocks, len(squares))
    return float(found.whole_l2[0]) ** 2, float(2 * found.l2_error[0] * found.whole_l2[0])


def test_estimates_have_no_bias_and_errors_cover_the_truth() -> None:
    rng = np.random.default_rng(5)
    relative, covered = [], []
    for width in range(200, 360, 2):
        # rows differ in size by far more than their elements do, as those of real layers do
        rows = np.exp(0.7 * rng.standard_normal(1200))[:, None]
        squares = (rows * rng.standard_normal((1200, width)) ** 2).ravel()
        for level in LEVELS:
            found, error = estimates(squares, level)
            relative.append(found / squares.sum() - 1)
            covered.append(abs(found - squares.sum()) / error)
    spread = np.std(relative) / np.sqrt(len(relative))
    assert abs(np.mean(relative)) < 3 * spread
    assert np.mean(np.array(covered) < 1) > 0.65
    assert np.mean(np.array(covered) < 2) > 0.93
    # where rows are longer than a stratum it says too much, but not by far
    assert np.sqrt(np.mean(np.square(covered))) > 0.5


def test_a_single_block_that_differs_has_an_error_as_large_as_itself() -> None:
    numel = 1 << 20
    blocks = sampled_blocks(numel, 5 * STEP)
    squares = np.zeros(numel)
    squares[blocks.starts[10]] = 4.0
    found, error = estimates(squares, 5 * STEP)
    assert error == pytest.approx(found, rel=0.02)
    squares[:] = 0
    sums = BlockSums(1)
    for weight in blocks.weights:
        sums.add(weight, np.array([0]), np.zeros((1, 2)))
    nothing = sums.distances(blocks, numel)
    assert nothing.whole_l2[0] == 0 and np.isnan(nothing.l2_error[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_distances_are_exact_on_what_was_read(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    a, b = (torch.randn(700, 300).to(dtype) for _ in range(2))
    paths = [write_model(tmp_path / f"{n}.safetensors", {"w": x}) for n, x in (("a", a), ("b", b))]
    refs = tuple(open_checkpoint(path).tensors["w"] for path in paths)
    pairs = np.array([[0, 1]], dtype=np.int32)
    (found,) = run_sample_piece([SamplePosition(refs, pairs, 3 * STEP)])
    blocks: SampledBlocks = sampled_blocks(a.numel(), 3 * STEP)
    chosen = np.concatenate([np.arange(*s) for s in zip(blocks.starts, blocks.stops, strict=True)])
    difference = (a.double() - b.double()).ravel()[torch.from_numpy(chosen)]
    assert found.sampled == len(chosen) < a.numel()
    assert found.l0[0] == int((difference != 0).sum())
    assert found.l1[0] == pytest.approx(float(difference.abs().sum()), rel=1e-6)
    assert found.l2[0] == pytest.approx(float(difference.norm()), rel=1e-6)


def test_a_sample_knows_its_elements_whatever_way_they_are_stored(tmp_path: Path) -> None:
    """The same values joined of parts, transposed in the file, or plain: one sample, one norm."""
    torch.manual_seed(2)
    w = torch.randn(600, 200)
    whole = write_model(tmp_path / "whole.safetensors", {"w": w})
    turned = write_model(tmp_path / "turned.safetensors", {"w": w.T})
    parts = write_model(tmp_path / "parts.safetensors", {"a": w[:250], "b": w[250:]})
    refs = [
        assemble_ref(open_checkpoint(whole).tensors, ("w",), False),
        assemble_ref(open_checkpoint(turned).tensors, ("w",), True),
        assemble_ref(open_checkpoint(parts).tensors, ("a", "b"), False),
    ]
    prints = sample_refs(refs, 3 * STEP)
    assert len({dataclasses.astuple(found) for found in prints}) == 1
    assert prints[0].l2 == pytest.approx(float(w.norm()), rel=0.05)
    with TensorReader() as reader:
        assert np.array_equal(reader.read(refs[1]), w.numpy().ravel())
