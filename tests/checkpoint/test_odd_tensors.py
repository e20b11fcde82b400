"""What is no plain tensor: its values are read where they can be, else its bytes are found."""

from __future__ import annotations

import pickle
import re
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save_file

from megasim.checkpoint.contents import UnreadTensor
from megasim.checkpoint.opening import Checkpoint, TensorReader, open_checkpoint, transpose_ref
from megasim.errors import CheckpointError
from megasim.fingerprint.tensor import fingerprint_refs
from megasim.words import Unread

W = torch.arange(6.0).reshape(2, 3)
many_times = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    def write(content: Any, **options: Any) -> Path:
        path = tmp_path / "model.ckpt"
        options["_use_new_zipfile_serialization"] = request.param
        torch.save({"plain": W, **content}, path, **options)
        return path

    return write


def dense_of(checkpoint: Checkpoint, key: str) -> np.ndarray:
    ref = checkpoint.tensors[key]
    with TensorReader() as reader:
        return reader.read(ref).reshape(ref.shape)


def stored_bytes(tensor: UnreadTensor) -> list[bytes]:
    with TensorReader() as reader:
        return [reader.read(ref).tobytes() for ref in tensor.stored]


# Sparse tensors


@st.composite
def dense_tensors(draw: st.DrawFn, block: int = 1) -> torch.Tensor:
    rows, columns = draw(st.integers(1, 4)) * block, draw(st.integers(1, 5)) * block
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = rng.standard_normal((rows, columns)) * (rng.random((rows, columns)) < 0.4)
    name = draw(st.sampled_from(["float32", "float64", "float16", "bfloat16", "int64"]))
    return torch.from_numpy(10 * values + 0.0).to(getattr(torch, name))  # no −0: not stored


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "coo": torch.Tensor.to_sparse_coo,
    "csr": torch.Tensor.to_sparse_csr,
    "csc": torch.Tensor.to_sparse_csc,
    "bsr": lambda t: t.to_sparse_bsr((2, 2)),
    "bsc": lambda t: t.to_sparse_bsc((2, 2)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@many_times
@given(data=st.data())
def test_sparse_tensors_are_read_as_their_dense_values(
    layout: str, data: st.DataObject, tmp_path: Path
) -> None:
    dense = data.draw(dense_tensors(2 if layout.startswith("bs") else 1))
    torch.save({"s": LAYOUTS[layout](dense)}, tmp_path / "m.pt")
    ref = open_checkpoint(tmp_path / "m.pt").tensors["s"]
    assert ref.shape == tuple(dense.shape)
    expected = dense.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    start = data.draw(st.integers(0, ref.numel))
    stop = data.draw(st.integers(start, ref.numel))
    size = dense.element_size()
    with TensorReader() as reader:
        assert reader.read(ref).tobytes() == expected
        assert reader.read(ref, start, stop).tobytes() == expected[size * start : size * stop]


def test_what_is_held_apart_is_transposed_and_fingerprinted_as_what_is_not(
    save: Callable[..., Path],
) -> None:
    dense = torch.tensor([[0.0, 2.0, 0.0], [1.5, 0.0, -3.0]])
    content = {"coo": dense.to_sparse(), "csr": dense.to_sparse_csr(), "array": dense.numpy()}
    refs = open_checkpoint(save({"dense": dense, **content})).tensors
    whole = fingerprint_refs(list(refs.values()))
    assert len({found.content_hash for found in whole[1:]}) == 1
    with TensorReader() as reader:
        for key in ("dense", *content):
            turned = transpose_ref(refs[key])
            assert reader.read(turned).tolist() == dense.T.flatten().tolist()
            assert reader.read(transpose_ref(turned)).tolist() == dense.flatten().tolist()


def test_elements_stored_twice_are_added(save: Callable[..., Path]) -> None:
    index = torch.tensor([[1, 0, 1], [2, 1, 2]])
    twice = torch.sparse_coo_tensor(index, torch.tensor([1.0, 5.0, 0.25]), (2, 3))
    checkpoint = open_checkpoint(save({"s": twice}))
    assert np.array_equal(dense_of(checkpoint, "s"), twice.to_dense().numpy())


def test_hybrid_and_complex_sparse_tensors(save: Callable[..., Path]) -> None:
    index = torch.tensor([[3, 0]])
    hybrid = torch.sparse_coo_tensor(index, torch.ones(2, 4) * W[0, 1], (5, 4)).coalesce()
    waves = torch.tensor([[0, 1 + 2j], [3j, 0]])
    checkpoint = open_checkpoint(
        save({"h": hybrid, "coo": waves.to_sparse(), "csr": waves.to_sparse_csr()})
    )
    assert np.array_equal(dense_of(checkpoint, "h"), hybrid.to_dense().numpy())
    for key in ("coo", "csr"):
        assert np.array_equal(dense_of(checkpoint, key), torch.view_as_real(waves).numpy())


def test_a_sparse_index_beyond_the_shape_is_damage(tmp_path: Path) -> None:
    index, values = torch.tensor([[0], [2]]), torch.ones(1)
    sparse = torch.sparse_coo_tensor(index, values, (1, 3)).coalesce()
    path = tmp_path / "m.pt"
    torch.save({"s": sparse}, path)
    honest = path.read_bytes()
    path.write_bytes(honest.replace(bytes([0] * 8 + [2] + [0] * 7), bytes([0] * 8 + [9] + [0] * 7)))
    ref = open_checkpoint(path).tensors["s"]
    with (
        TensorReader() as reader,
        pytest.raises(CheckpointError, match=r"key s: .*beyond its shape"),
    ):
        reader.read(ref)


def test_a_sparse_tensor_too_large_to_be_walked_is_unread(save: Callable[..., Path]) -> None:
    huge = torch.sparse_coo_tensor(torch.tensor([[7], [9]]), torch.ones(1), (1 << 30, 1 << 30))
    found = open_checkpoint(save({"huge": huge.coalesce()})).unread["huge"]
    assert (found.reason, found.shape) == (Unread.LAYOUT, (1 << 30, 1 << 30))
    assert len(stored_bytes(found)) == 2


# numpy


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@many_times
@given(data=st.data())
def test_arrays_are_read_bit_for_bit(protocol: int, data: st.DataObject, tmp_path: Path) -> None:
    kinds = hnp.boolean_dtypes() | hnp.integer_dtypes() | hnp.floating_dtypes(sizes=(16, 32, 64))
    kinds |= hnp.complex_number_dtypes(sizes=(64, 128))
    array = data.draw(hnp.arrays(kinds, hnp.array_shapes(min_dims=0, min_side=0)))
    if data.draw(st.booleans()):
        array = np.asfortranarray(array)
    torch.save({"a": array, "plain": W}, tmp_path / "m.pt", pickle_protocol=protocol)
    checkpoint = open_checkpoint(tmp_path / "m.pt")
    expected = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    pair = (2,) if array.dtype.kind == "c" else ()
    assert checkpoint.tensors["a"].shape == (*array.shape, *pair)
    assert dense_of(checkpoint, "a").tobytes() == expected.tobytes()


def test_arrays_that_are_no_numbers(save: Callable[..., Path]) -> None:
    content = {
        "objects": np.array([{}, None], dtype=object),
        "text": np.array(["ab", "c"]),
        "records": np.zeros(2, dtype=[("x", "f4")]),
    }
    found = open_checkpoint(save(content)).unread
    assert {k: (t.reason, t.shape) for k, t in found.items()} == {
        "objects": (Unread.OBJECT, (2,)),
        "text": (Unread.DTYPE, (2,)),
        "records": (Unread.DTYPE, (2,)),
    }
    assert found["objects"].stored == ()
    assert stored_bytes(found["text"]) == [content["text"].tobytes()]


def test_numbers_of_numpy_are_metadata(save: Callable[..., Path]) -> None:
    content = {"state_dict": {"w": W}, "epoch": np.int64(7), "loss": np.float32(0.5)}
    assert open_checkpoint(save(content)).metadata == {"epoch": 7, "loss": 0.5}


# What is not decoded

KINDS: dict[str, tuple[Callable[[], object], Unread]] = {
    "sub-byte": (
        lambda: torch.arange(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
        Unread.DTYPE,
    ),
    "quantized": (lambda: torch.quantize_per_tensor(W, 0.1, 0, torch.qint8), Unread.DTYPE),
    "by channel": (
        lambda: torch.quantize_per_channel(
            W, torch.tensor([0.1, 0.2]), torch.zeros(2), 0, torch.quint8
        ),
        Unread.DTYPE,
    ),
    "conjugate": (lambda: torch.ones(2, dtype=torch.complex64).conj(), Unread.LAYOUT),
    "nested": (lambda: torch.nested.nested_tensor([W, W[:1]]), Unread.LAYOUT),
    "jagged": (
        lambda: torch.nested.nested_tensor([W, W[:1]], layout=torch.jagged),
        Unread.LAYOUT,
    ),
    "masked": (lambda: torch.masked.masked_tensor(W, W > 2), Unread.LAYOUT),
    "batched csr": (lambda: torch.stack([W, W]).to_sparse_csr(), Unread.LAYOUT),
    "storage": (lambda: torch.ones(3).untyped_storage(), Unread.OBJECT),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_of_what_is_not_decoded_are_found(kind: str, save: Callable[..., Path]) -> None:
    make, reason = KINDS[kind]
    path = save({"odd": make()})
    checkpoint = open_checkpoint(path)
    assert set(checkpoint.tensors) == {"plain"}
    found = checkpoint.unread["odd"]
    assert found.reason is reason
    assert found.stored
    assert sum(map(len, stored_bytes(found))) > 0


def test_what_differs_only_in_its_scale_differs(save: Callable[..., Path]) -> None:
    said = set()
    for scale in (0.1, 0.2):
        codes = torch.quantize_per_tensor(torch.zeros(3), scale, 0, torch.qint8)
        said.add(open_checkpoint(save({"q": codes})).unread["q"].said)
    assert len(said) == 2


def test_meta_tensors_are_placeholders(save: Callable[..., Path]) -> None:
    found = open_checkpoint(save({"m": torch.empty(3, 4, device="meta")})).unread["m"]
    assert (found.reason, found.shape, found.dtype) == (Unread.PLACEHOLDER, (3, 4), "float32")


def test_empty_tensors_are_placeholders_where_they_are_most_or_no_matrix_is_left(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    empty = torch.zeros(0)
    norms = {f"norm.{i}": torch.ones(3) for i in range(4)}
    shard = {"a": empty, "b": empty, **norms}  # as ZeRO-3 leaves it
    for path in (tmp_path / "m.pt", tmp_path / "m.safetensors"):
        save_file(shard, path) if path.suffix == ".safetensors" else torch.save(shard, path)
        found = open_checkpoint(path)
        assert {k: t.reason for k, t in found.unread.items()} == {
            "a": Unread.PLACEHOLDER,
            "b": Unread.PLACEHOLDER,
        }
        assert set(found.tensors) == set(norms)
    whole = open_checkpoint(save({"bias": empty, **norms}))  # as a layer of e3nn without a bias
    assert whole.tensors["bias"].shape == (0,)
    assert not whole.unread


def rewritten(path: Path, old: bytes, new: bytes) -> None:
    """Change the pickle of a zip, as a later version of torch would write it."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = next(n for n in entries if n.endswith("data.pkl"))
    assert old in entries[name]
    entries[name] = entries[name].replace(old, new)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)


def test_a_dtype_of_the_future_does_not_refuse_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"plain": W, "new": torch.zeros(3, dtype=torch.uint16)}, path)
    rewritten(path, b"ctorch\nuint16\n", b"ctorch\nfloat5_new\n")
    checkpoint = open_checkpoint(path)
    assert set(checkpoint.tensors) == {"plain"}
    found = checkpoint.unread["new"]
    assert "unknown dtype float5_new" in found.note
    assert stored_bytes(found) == [bytes(6)]


class _Local:
    """Pickles as a DTensor does, whose module is not there when the file is read."""

    def __init__(self, whole: tuple[int, ...], local: torch.Tensor) -> None:
        self.whole, self.local = whole, local

    def __reduce__(self) -> tuple[object, ...]:
        inner = (torch.Tensor, torch.float32, self.whole, (1,), 0, None, None, False)
        state = {"_local_tensor": self.local, "_spec": [0]}
        rebuild = torch._utils._rebuild_wrapper_subclass  # type: ignore[attr-defined]
        return torch._tensor._rebuild_from_type_v2, (rebuild, torch.Tensor, inner, state)  # type: ignore[attr-defined]


def test_a_whole_dtensor_is_read_and_a_share_is_not(save: Callable[..., Path]) -> None:
    checkpoint = open_checkpoint(save({"one": _Local((2, 3), W), "two": _Local((8, 3), W)}))
    assert np.array_equal(dense_of(checkpoint, "one"), W.numpy())
    found = checkpoint.unread["two"]
    assert found.note == "a DTensor, of which this file holds 2x3 of 8x3"
    assert found.shape == (8, 3)
    assert stored_bytes(found) == [W.numpy().tobytes()]


class _Quantized:
    """Pickles as torchao does: a subclass that is made of codes and scales in its state."""

    def __reduce__(self) -> tuple[object, ...]:
        inner = (_AffineQuantizedTensor, torch.float32, (2, 3), (3, 1), 0, None, None, False)
        state = {"tensor_impl": W, "block_size": (1, 3)}
        rebuild = torch._utils._rebuild_wrapper_subclass  # type: ignore[attr-defined]
        kind = _AffineQuantizedTensor
        return torch._tensor._rebuild_from_type_v2, (rebuild, kind, inner, state)  # type: ignore[attr-defined]


class _AffineQuantizedTensor:
    """Stands for the class of torchao."""


@pytest.mark.parametrize(
    ("odd", "held", "cure"),
    [
        (_Local((8, 3), W), "a DTensor, of which this file holds 2x3 of 8x3", "full_state_dict"),
        (
            torch.quantize_per_tensor(W, 0.1, 0, torch.qint8),
            "a quantized tensor (qint8), whose codes are not decoded",
            "before they were quantized",
        ),
        (_Quantized(), "a _AffineQuantizedTensor of torchao, a tensor subclass", "dequantize"),
    ],
)
def test_a_file_of_which_nothing_is_decoded_says_what_it_holds(
    odd: object, held: str, cure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.pt"
    home = types.ModuleType("torchao.dtypes")
    home._AffineQuantizedTensor = _AffineQuantizedTensor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchao", types.ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, home.__name__, home)
    monkeypatch.setattr(_AffineQuantizedTensor, "__module__", home.__name__)
    torch.save({"a.w": odd, "b.w": odd}, path)
    with pytest.raises(CheckpointError, match=re.escape(held)) as refusal:
        open_checkpoint(path)
    assert "no tensor that can be compared (not read: 2): key a.w" in str(refusal.value)
    assert cure in refusal.value.remedy


def test_tensors_within_tensors_without_end_are_damage(tmp_path: Path) -> None:
    nested: object = W
    for _ in range(30):
        nested = _Local((2, 3), nested)  # type: ignore[arg-type]
    torch.save({"w": nested}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="unknown way"):
        open_checkpoint(tmp_path / "m.pt")


@pytest.mark.parametrize("numbers", [[1.5, -2.0, 0.0], [0.0, 1.0, 2.0], [7e5, 1e-9, 3.0]])
def test_python_2_wrote_arrays_as_text(numbers: list[float], tmp_path: Path) -> None:
    array = np.array(numbers, dtype="<f4")
    text = (
        b"\x80\x02}X\x01\0\0\0acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85"
        b"U\x01b\x87R(K\x01K\x03\x85cnumpy\ndtype\nU\x02f4K\0K\x01\x87R(K\x03U\x01<NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89U\x0c" + array.tobytes() + b"tbs."
    )
    assert pickle.loads(text, encoding="latin-1")["a"].tolist() == array.tolist()
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", text)
    assert np.array_equal(dense_of(open_checkpoint(path), "a"), array)


@many_times
@given(data=st.data())
def test_files_of_numpy_are_read_bit_for_bit(data: st.DataObject, tmp_path: Path) -> None:
    kinds = hnp.boolean_dtypes() | hnp.integer_dtypes(endianness="<")
    kinds |= hnp.floating_dtypes(sizes=(16, 32, 64), endianness="<")
    kinds |= hnp.complex_number_dtypes(sizes=(64, 128), endianness="<")
    arrays = {
        name: data.draw(hnp.arrays(kinds, hnp.array_shapes(min_dims=0, min_side=0)))
        for name in ("a", "b.weight")
    }
    if data.draw(st.booleans()):
        arrays["a"] = np.asfortranarray(arrays["a"])
    np.savez(tmp_path / "m.npz", **arrays)
    np.save(tmp_path / "m.npy", arrays["a"])
    checkpoint = open_checkpoint(tmp_path / "m.npz")
    assert (checkpoint.format, set(checkpoint.tensors)) == ("npz", set(arrays))
    for key, array in arrays.items():
        assert dense_of(checkpoint, key).tobytes() == np.ascontiguousarray(array).tobytes()
    alone = open_checkpoint(tmp_path / "m.npy")
    assert dense_of(alone, "array").tobytes() == np.ascontiguousarray(arrays["a"]).tobytes()


def test_odd_arrays_in_files_of_numpy(tmp_path: Path) -> None:
    content = {
        "plain": np.ones(3),
        "big": np.arange(3, dtype=">f4"),
        "text": np.array(["a", "bc"]),
        "objects": np.array([{}], dtype=object),
    }
    np.savez(tmp_path / "m.npz", **content)
    checkpoint = open_checkpoint(tmp_path / "m.npz")
    assert set(checkpoint.tensors) == {"plain"}
    assert {k: (t.reason, bool(t.stored)) for k, t in checkpoint.unread.items()} == {
        "big": (Unread.DTYPE, True),
        "text": (Unread.DTYPE, True),
        "objects": (Unread.OBJECT, False),
    }
    assert stored_bytes(checkpoint.unread["big"]) == [content["big"].tobytes()]
    np.savez_compressed(tmp_path / "packed.npz", plain=np.zeros(3000))
    with pytest.raises(CheckpointError, match="are compressed"):
        open_checkpoint(tmp_path / "packed.npz")


def test_every_truncation_of_an_array_is_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.arange(4.0))
    whole = (tmp_path / "m.npy").read_bytes()
    for size in range(1, len(whole)):
        (tmp_path / "cut.npy").write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            open_checkpoint(tmp_path / "cut.npy")
