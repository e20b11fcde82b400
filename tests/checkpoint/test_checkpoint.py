"""What torch and safetensors save is read back, bit for bit, whatever the type and layout."""

from __future__ import annotations

import collections
import os
import shutil
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from megasim.checkpoint import tensors as tensors_module
from megasim.checkpoint.dtypes import COMPLEX_PARTS
from megasim.checkpoint.opening import (
    STORAGE_DTYPES,
    Checkpoint,
    TensorReader,
    TensorRef,
    default_name,
    fuse_refs,
    open_checkpoint,
    transpose_ref,
)
from megasim.errors import CheckpointError
from megasim.words import PartRole

SAVERS: dict[str, Callable[[Any, Path], None]] = {
    "torch-zip": lambda content, path: torch.save(content, path),
    "torch-legacy": lambda content, path: torch.save(
        content, path, _use_new_zipfile_serialization=False
    ),
}
W = torch.arange(6.0).reshape(2, 3)
COMPLEX_OF_TORCH_ALONE = (torch.complex32, torch.complex128)
many_times = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any dtype, 0 to 4 dimensions, empty or not, contiguous or seen through a view."""
    dtype = getattr(torch, draw(st.sampled_from([*sorted(STORAGE_DTYPES), *COMPLEX_PARTS])))
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    count = int(np.prod(shape, dtype=np.int64))
    seed = draw(st.integers(0, 99))
    raw = np.random.default_rng(seed).integers(0, 256, (count + 3) * 16, dtype=np.uint8)
    if dtype == torch.bool:
        raw %= 2
    flat = torch.from_numpy(raw).view(dtype)[: count + 3]
    tensor = flat[3:].reshape(shape)  # an offset into its storage
    view = draw(st.sampled_from(["plain", "permuted", "sliced", "expanded"]))
    if view == "permuted" and shape:
        tensor = tensor.permute(*draw(st.permutations(range(len(shape)))))
    elif view == "sliced" and shape and shape[0] > 1:
        tensor = tensor[1::2]
    elif view == "expanded":
        tensor = tensor.unsqueeze(0).expand(3, *shape)
    return tensor


def raw_bytes(tensor: torch.Tensor) -> bytes:
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype)
    flat.copy_(tensor.detach().reshape(-1))
    return flat.view(torch.uint8).numpy().tobytes()


def assert_same(checkpoint: Checkpoint, expected: Mapping[str, torch.Tensor]) -> None:
    assert set(checkpoint.tensors) == set(expected)
    with TensorReader() as reader:
        for key, ref in checkpoint.tensors.items():
            tensor = expected[key]
            dtype = str(tensor.dtype).removeprefix("torch.")
            pair = (2,) if dtype in COMPLEX_PARTS else ()
            assert (ref.key, ref.shape) == (key, (*tensor.shape, *pair))
            assert ref.dtype == COMPLEX_PARTS.get(dtype, dtype)
            values = reader.read(ref)
            assert values.dtype == STORAGE_DTYPES[ref.dtype]
            assert values.tobytes() == raw_bytes(tensor)


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


# Which tensors are the model's


@pytest.fixture(params=SAVERS)
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Any], Path]:
    def write(content: Any) -> Path:
        path = tmp_path / "model.ckpt"
        SAVERS[request.param](content, path)
        return path

    return write


STATE = collections.OrderedDict({"a.weight": W, "a.bias": W[0]})

PLACES: dict[str, tuple[Any, set[str]]] = {
    "the top": (STATE, {"a.weight", "a.bias"}),
    "state_dict": ({"state_dict": STATE, "ema": {"x": W}}, {"a.weight", "a.bias"}),
    "model": ({"model": STATE, "optimizer": {"state": {0: {"m": W}}}}, {"a.weight", "a.bias"}),
    "model.state_dict": ({"model": {"state_dict": STATE}}, {"a.weight", "a.bias"}),
    "EMA only": ({"params_ema": {"w": W}}, {"w"}),
    "two wrappers": (
        {"params": {"w": W}, "params_ema": {"w": W}},
        {"w"},
    ),
    "dicts of dicts": ({"unet": {"in": {"w": W}}, "vae": {"w": W}}, {"unet.in.w", "vae.w"}),
    "one part only": ({"encoder": {"w": W}}, {"encoder.w"}),
    "a list": ([W, [W, W]], {"0", "1.0", "1.1"}),
    "a tensor": (W, {"tensor"}),
    "numbered": ({0: W, 1: {"w": W}}, {"0", "1.w"}),
    "a parameter": ({"w": torch.nn.Parameter(W)}, {"w"}),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_state_dict_is_found(save: Callable[[Any], Path], place: str) -> None:
    content, keys = PLACES[place]
    assert set(open_checkpoint(save(content)).tensors) == keys


def test_training_state_is_left_out_and_said(save: Callable[[Any], Path]) -> None:
    optimizer = {"state": {0: {"exp_avg": W, "exp_avg_sq": W.clone()}}}
    content = {
        "state_dict": STATE,
        "epoch": 7,
        "global_step": 1234,
        "loss": float("nan"),
        "pytorch-lightning_version": "1.4.2",
        "huge": 1 << 80,
        "long": "x" * 9999,
        "optimizer_states": [optimizer],
        "callbacks": {("a", 1): {"best": None}},
    }
    checkpoint = open_checkpoint(save(content))
    assert checkpoint.metadata == {
        "epoch": 7,
        "global_step": 1234,
        "loss": "nan",
        "pytorch-lightning_version": "1.4.2",
        "huge": hex(1 << 80),
        "long": "(9999 characters, left out)",
    }
    assert [(b.place, b.role, len(b.tensors)) for b in checkpoint.beside] == [
        ("optimizer_states", PartRole.OPTIMIZER, 2)
    ]


def test_what_is_no_text_for_a_key_is_said(save: Callable[[Any], Path]) -> None:
    checkpoint = open_checkpoint(save({"good": W, "none": None, "number": 3, (1, 2): W}))
    assert set(checkpoint.tensors) == {"good"}
    assert [(b.place, b.role, len(b.tensors)) for b in checkpoint.beside] == [
        ("(0)", PartRole.OTHER, 1)
    ]


@pytest.fixture
def vanishing_module() -> Iterator[types.ModuleType]:
    """A module that exists while a checkpoint is written, and is gone when it is read."""
    module = types.ModuleType("pytorch_lightning_of_old")
    sys.modules[module.__name__] = module
    yield module
    sys.modules.pop(module.__name__, None)


def test_a_lightning_checkpoint_without_lightning(
    save: Callable[[Any], Path], vanishing_module: types.ModuleType
) -> None:
    source = """
class AttributeDict(dict): pass
class ModelCheckpoint:
    def __init__(self): self.best_score = None
class DictConfig:
    def __init__(self, content): self.content, self.parent = content, self
    def __reduce__(self): return DictConfig, (self.content,), {"flags": self.content}
"""
    exec(source, vanishing_module.__dict__)
    module: Any = vanishing_module
    callback = module.ModelCheckpoint()
    callback.best_score = torch.tensor(0.25)
    path = save(
        {
            "state_dict": module.AttributeDict(STATE),
            "epoch": 3,
            "callbacks": {module.ModelCheckpoint: callback},
            "hyper_parameters": module.DictConfig({"lr": 1e-4}),
        }
    )
    del sys.modules[vanishing_module.__name__]
    checkpoint = open_checkpoint(path)
    assert_same(checkpoint, STATE)
    assert checkpoint.metadata == {"epoch": 3}
    assert [(b.place, len(b.tensors)) for b in checkpoint.beside] == [
        ("callbacks.ModelCheckpoint.best_score", 1)
    ]
    assert vanishing_module.__name__ not in sys.modules


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(2, 3)
        self.again = self.first
        self.norm = torch.nn.BatchNorm1d(3)
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("passing", torch.ones(2), persistent=False)


def test_a_pickled_module_gives_its_state_dict(save: Callable[[Any], Path]) -> None:
    net = Net()
    assert_same(open_checkpoint(save(net)), net.state_dict())
    assert_same(open_checkpoint(save({"model": net, "epoch": 1})), net.state_dict())


class Scripted(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv1d(1, 2, 1), torch.nn.BatchNorm1d(2))
        self.again = self.body
        self.plain = torch.ones(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.again(self.body(x)) + self.plain[0]
        return y


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_keys_are_those_of_its_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.jit.script(Scripted()).save(str(path))
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == "torchscript"
    assert_same(checkpoint, torch.jit.load(str(path)).state_dict())
    assert [(b.place, b.role, len(b.tensors)) for b in checkpoint.beside] == [
        ("plain", PartRole.OTHER, 1)  # an attribute, neither parameter nor buffer
    ]


# Identity


def test_identity_sees_content_size_and_time_but_no_path(save: Callable[[Any], Path]) -> None:
    path = save({"w": torch.zeros(1 << 20)})
    first = open_checkpoint(path).identity
    moved = path.with_name("moved.pt")
    shutil.move(path, moved)
    assert open_checkpoint(moved).identity == first
    torch_file = moved.read_bytes()
    position = len(torch_file) - 30_000  # among the zeros, within the last sample
    moved.write_bytes(torch_file[:position] + b"\x01" + torch_file[position + 1 :])
    os.utime(moved, ns=(first.mtime_ns, first.mtime_ns))
    changed = open_checkpoint(moved).identity
    assert (changed.size, changed.mtime_ns) == (first.size, first.mtime_ns)
    assert changed.header_hash != first.header_hash


def test_refs_survive_a_change_of_folder(
    save: Callable[[Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(STATE)
    monkeypatch.chdir(path.parent)
    ref = open_checkpoint(path.name).tensors["a.weight"]
    monkeypatch.chdir("/")
    with TensorReader() as reader:
        assert reader.read(ref).tolist() == [0, 1, 2, 3, 4, 5]
    assert default_name(path) == "model"
