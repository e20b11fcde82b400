"""Readers of checkpoints: what is written is read, whole and by ranges."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from megasim.checkpoint import tensors as tensors_module
from megasim.checkpoint.opening import (
    STORAGE_DTYPES,
    TensorReader,
    TensorRef,
    fuse_refs,
    open_checkpoint,
    transpose_ref,
)
from megasim.errors import CheckpointError
from tests.checkpoint.saved_tensors import (
    COMPLEX_OF_TORCH_ALONE,
    SAVERS,
    W,
    assert_same,
    many_times,
    raw_bytes,
    tensors,
)


@pytest.mark.parametrize("form", SAVERS)
@many_times
@given(content=st.dictionaries(st.text(min_size=1, max_size=9), tensors(), min_size=1, max_size=4))
def test_torch_files_round_trip(
    form: str, content: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    content = {"plain." + key.encode("utf-8", "replace").decode(): t for key, t in content.items()}
    content |= {f"more {i}": W for i in range(8)}  # so that no empty tensor is a placeholder
    content["plain.tied"] = next(iter(content.values()))
    path = tmp_path / "model.ckpt"
    SAVERS[form](content, path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == form
    assert checkpoint.size == path.stat().st_size
    assert_same(checkpoint, content)


@many_times
@given(content=st.dictionaries(st.text(max_size=9), tensors(), min_size=1, max_size=4))
def test_safetensors_round_trip(content: dict[str, torch.Tensor], tmp_path: Path) -> None:
    content = {f"k{key}".encode("utf-8", "replace").decode(): t for key, t in content.items()}
    path = tmp_path / "model.safetensors"
    # safetensors writes complex64 only
    content = {k: t for k, t in content.items() if t.dtype not in COMPLEX_OF_TORCH_ALONE}
    content |= {f"k more {i}": W for i in range(8)}
    save_file({k: t.contiguous().clone() for k, t in content.items()}, path, {"format": "pt"})
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == "safetensors"
    assert checkpoint.metadata == {"format": "pt"}
    assert_same(checkpoint, content)


# Lengths whose bytes are also how a pickle (0x80) and a gzip file begin.
@pytest.mark.parametrize("length", [120, 128, 384, 640, 0x0280, 0x0480, 0x2A80, 0x8B1F])
def test_the_length_of_a_header_is_not_taken_for_another_format(
    length: int, tmp_path: Path
) -> None:
    header = b'{"w":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}'.ljust(length)
    path = tmp_path / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + header + b"\x01\x02")
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == "safetensors"
    assert_same(checkpoint, {"w": torch.tensor([1, 2], dtype=torch.uint8)})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_every_pickle_protocol_is_read(zipped: bool, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"w": W}, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    assert_same(open_checkpoint(path), {"w": W})


@many_times
@given(tensor=tensors(), data=st.data())
def test_any_range_is_read(tensor: torch.Tensor, data: st.DataObject, tmp_path: Path) -> None:
    torch.save({"t": tensor, "more": W}, tmp_path / "m.pt")
    ref = open_checkpoint(tmp_path / "m.pt").tensors["t"]
    start = data.draw(st.integers(0, ref.numel))
    stop = data.draw(st.integers(start, ref.numel))
    whole = np.frombuffer(raw_bytes(tensor), STORAGE_DTYPES[ref.dtype])
    out = np.zeros(stop - start, STORAGE_DTYPES[ref.dtype])
    with TensorReader() as reader:
        assert reader.read(ref, start, stop, out) is out
    assert out.tobytes() == whole[start:stop].tobytes()


@many_times
@given(data=st.data(), ahead=st.sampled_from([4, 40, 400, 1 << 24]))
def test_strided_tensors_are_read_piece_by_piece(
    data: st.DataObject, ahead: int, tmp_path: Path
) -> None:
    """In turns and from end to end, with jumps: what is read ahead is what is there."""
    shape = data.draw(st.lists(st.integers(1, 6), min_size=2, max_size=4))
    order = data.draw(st.permutations(range(len(shape))))
    whole = [torch.randn(shape).permute(order) for _ in range(2)]
    torch.save(whole, tmp_path / "m.pt")
    found = open_checkpoint(tmp_path / "m.pt").tensors
    at = [0, 0]
    with mock.patch.object(tensors_module, "_AHEAD", ahead), TensorReader() as reader:
        for i in data.draw(st.lists(st.sampled_from([0, 0, 0, 1]), max_size=12)):
            start = data.draw(st.sampled_from([at[i], at[i], at[i], 0]))
            at[i] = data.draw(st.integers(start, min(start + 40, whole[i].numel())))
            got = reader.read(found[str(i)], start, at[i])
            assert np.array_equal(got, whole[i].flatten()[start : at[i]])


@many_times
@given(data=st.data())
def test_fused_and_transposed_tensors(data: st.DataObject, tmp_path: Path) -> None:
    columns = data.draw(st.integers(0, 4))
    rows = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    whole = [torch.randn(columns, n).T if n % 2 else torch.randn(n, columns) for n in rows]
    torch.save(whole, tmp_path / "m.pt")
    found = open_checkpoint(tmp_path / "m.pt").tensors
    refs = [found[str(i)] for i in range(len(rows))]
    fused = fuse_refs("all", [fuse_refs("first", refs[:1]), *refs[1:]])
    start = data.draw(st.integers(0, fused.numel))
    expected = torch.cat(whole)
    with TensorReader(max_files=1) as reader:
        assert fused.shape == tuple(expected.shape)
        assert np.array_equal(reader.read(fused, start), expected.flatten()[start:])
        for ref, tensor in zip(refs, whole, strict=True):
            turned = transpose_ref(ref, "turned")
            assert turned.key == "turned"
            assert turned.shape == tuple(tensor.T.shape)
            assert np.array_equal(reader.read(turned), tensor.T.flatten())
            assert transpose_ref(turned, ref.key) == ref


def test_what_cannot_be_fused_or_transposed() -> None:
    a = TensorRef("a", "float32", (2, 3), "m", 0)
    for other in (replace(a, shape=(2, 4)), replace(a, dtype="int32"), replace(a, shape=())):
        with pytest.raises(ValueError, match="joined"):
            fuse_refs("x", [a, other])
    with pytest.raises(ValueError, match="nothing"):
        fuse_refs("x", [])
    with pytest.raises(ValueError, match="transposed"):
        transpose_ref(fuse_refs("x", [a, a]))
    with pytest.raises(ValueError, match="transposed"):
        transpose_ref(replace(a, shape=(6,)))


def test_a_reader_refuses_ranges_and_outputs_that_do_not_fit(tmp_path: Path) -> None:
    torch.save({"t": torch.zeros(4)}, tmp_path / "m.pt")
    ref = open_checkpoint(tmp_path / "m.pt").tensors["t"]
    with TensorReader() as reader:
        for start, stop in ((-1, 2), (3, 2), (0, 5)):
            with pytest.raises(ValueError, match="no elements"):
                reader.read(ref, start, stop)
        for out in (np.zeros(3, np.float32), np.zeros(4), np.zeros(8, np.float32)[::2]):
            with pytest.raises(ValueError, match="out must be"):
                reader.read(ref, out=out)


@pytest.mark.parametrize("turned", [False, True])
def test_a_file_that_shrinks_or_goes_is_an_error(tmp_path: Path, turned: bool) -> None:
    path = tmp_path / "m.pt"
    torch.save({"t": torch.zeros(64, 64)}, path)
    ref = open_checkpoint(path).tensors["t"]
    ref = transpose_ref(ref) if turned else ref
    os.truncate(path, 5000)
    with TensorReader() as reader, pytest.raises(CheckpointError, match="cut short"):
        reader.read(ref)
    path.unlink()
    with TensorReader() as reader, pytest.raises(CheckpointError, match="cannot be read"):
        reader.read(ref)


@pytest.mark.parametrize("strides", [None, (1, 512), (1024, 1)])
def test_a_file_cut_short_after_a_first_read_is_an_error(
    tmp_path: Path, strides: tuple[int, int] | None
) -> None:
    path = tmp_path / "m.bin"  # a memory map of it would end the process
    path.write_bytes(bytes(4 * 512 * 1024))
    ref = TensorRef("w", "float32", (512, 512), str(path), 0, strides)
    with TensorReader() as reader:
        assert not reader.read(ref).any()
        os.truncate(path, 4096)
        with pytest.raises(CheckpointError, match="cut short") as caught:
            reader.read(ref)
    assert "copy or download it again" in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((300, 700), (1, 300)),  # transposed, read row by row of the file
        ((3, 90_000), (1, 3)),  # transposed, gaps read along
        ((40, 9_000), (9_000 * 2, 2)),  # every second element
        ((3, 100_000), (150_000, 1)),  # rows larger than a piece
        ((64, 48, 5, 5), (48 * 25, 1, 240, 48)),  # channels last
        ((5, 70_000, 3), (0, 1, 0)),  # expanded
        ((70_000, 4), (1, 1)),  # rows that overlap
        ((9, 1, 20_000), (20_000, 7, 1)),  # contiguous, said so at length
    ],
)
def test_strided_elements_of_more_than_a_piece(
    tmp_path: Path, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    count = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    stored = np.arange(count, dtype=np.float32)
    (tmp_path / "m.bin").write_bytes(bytes(12) + stored.tobytes())
    ref = TensorRef("w", "float32", shape, str(tmp_path / "m.bin"), 12, strides)
    expected = torch.from_numpy(stored).as_strided(shape, strides).flatten().numpy()
    rng = np.random.default_rng(0)
    with TensorReader() as reader:
        assert np.array_equal(reader.read(ref), expected)
        for _ in range(20):
            start, stop = np.sort(rng.integers(0, ref.numel + 1, 2)).tolist()
            assert np.array_equal(reader.read(ref, start, stop), expected[start:stop])


def test_a_reader_keeps_few_files_open(tmp_path: Path) -> None:
    refs = []
    for i in range(8):
        torch.save({"t": torch.full((2, 3), i).T}, tmp_path / f"{i}.pt")
        refs.append(open_checkpoint(tmp_path / f"{i}.pt").tensors["t"])
    with TensorReader(max_files=2) as reader:
        before = len(list(Path("/dev/fd").iterdir()))
        for _ in range(2):
            for i, ref in enumerate(refs):
                assert (reader.read(ref) == i).all()
        assert len(list(Path("/dev/fd").iterdir())) <= before + 2


def test_large_files_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    size = 1 << 40  # a sparse file: a terabyte of zeros that takes no room
    header = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size, size)
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    try:
        os.truncate(path, 8 + len(header) + size)
    except OSError as e:
        pytest.skip(f"no sparse files here: {e}")
    ref = open_checkpoint(path).tensors["w"]
    with TensorReader() as reader:
        assert reader.read(ref, size - 5).tolist() == [0] * 5
