"""GGUF: every block format as ggml reads it, and models under their own names and row orders."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megasim.checkpoint.limits import Limits
from megasim.checkpoint.opening import find_checkpoints, open_stored
from megasim.checkpoint.tensors import TensorReader
from megasim.errors import CheckpointError
from megasim.representation.boxes import Box
from megasim.representation.gguf_blocks import _GRIDS, _LOOPS, _TABLES, decode_blocks
from megasim.representation.opening import open_model
from megasim.workspace import Workspace, open_store
from tests.models import write_model
from tests.representation.gguf_llama import Array, Encode, converted, llama, permuted, write_gguf

gguf = pytest.importorskip("gguf", reason="the extra [gguf] is not installed")

GOLDEN = Path(__file__).parents[1] / "golden" / "gguf"
BLOCKS = dict(np.load(GOLDEN / "blocks.npz"))
FORMATS = sorted(name for name in BLOCKS if " " not in name)


def plain(kind: str) -> Encode:
    """Return what stores matrices plainly or in a format that gguf itself writes."""

    def encode(name: str, values: Array) -> tuple[Array, Any]:
        code = gguf.GGMLQuantizationType[kind if values.ndim > 1 else "F32"]
        return gguf.quants.quantize(values, code), code

    return encode


def read_all(path: Path) -> dict[str, Array]:
    """Return the values of all tensors of a file."""
    with TensorReader() as reader:
        opened = open_model(path)
        assert not opened.unread
        return {key: reader.read(ref).reshape(ref.shape) for key, ref in opened.tensors.items()}


def as_torch(state: dict[str, Array], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value).to(dtype) for key, value in state.items()}


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with open_store(tmp_path / "store.duckdb") as opened:
        yield opened


@pytest.mark.parametrize("name", FORMATS)
def test_blocks_are_the_values_that_ggml_reads(name: str) -> None:
    expected = BLOCKS[f"{name} values"]
    np.testing.assert_array_equal(
        decode_blocks(BLOCKS[name], name).view(np.uint32), expected.view(np.uint32)
    )


@pytest.mark.parametrize("name", FORMATS)
def test_any_range_of_a_file_is_that_of_its_values(tmp_path: Path, name: str) -> None:
    code = gguf.GGMLQuantizationType[name]
    path = write_gguf(tmp_path / "m.gguf", {"w": BLOCKS[name]}, lambda _, v: (v, code), "none")
    expected = BLOCKS[f"{name} values"]
    opened = open_model(path)
    ref = opened.tensors["w"]
    assert (ref.shape, ref.dtype, opened.format) == (expected.shape, "float32", "gguf")
    with TensorReader() as reader:
        for start, stop in ((0, ref.numel), (1, 2), (37, 300), (500, 1100), (1023, 1024)):
            np.testing.assert_array_equal(
                reader.read(ref, start, stop), expected.ravel()[start:stop]
            )


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_a_plain_copy_has_the_names_and_the_rows_of_the_original(tmp_path: Path, kind: str) -> None:
    state = llama()
    found = read_all(write_gguf(tmp_path / "m.gguf", converted(state), plain(kind)))
    assert found.keys() == state.keys()
    for key, weight in state.items():
        values = found[key]
        if values.dtype == np.uint16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        expected = weight if kind != "F16" or weight.ndim == 1 else weight.astype(np.float16)
        np.testing.assert_array_equal(values.astype(np.float32), expected.astype(np.float32))


def test_a_mixed_copy_by_ggml_is_its_original_but_for_rounding() -> None:
    found, state = read_all(GOLDEN / "llama-q4_k_m.gguf"), llama()
    assert found.keys() == state.keys()
    for key, weight in state.items():
        error = np.linalg.norm(found[key] - weight) / np.linalg.norm(weight)
        assert error == 0 if weight.ndim == 1 else 0.01 < error < 0.08


def test_a_copy_is_nearer_to_its_original_than_a_fine_tune(
    workspace: Workspace, tmp_path: Path
) -> None:
    state = llama()
    random = np.random.default_rng(1)
    write_model(tmp_path / "original.safetensors", as_torch(state, torch.bfloat16))
    tuned = {
        k: v + 0.1 * v.std() * random.standard_normal(v.shape, np.float32) for k, v in state.items()
    }
    write_model(tmp_path / "tuned.safetensors", as_torch(tuned, torch.bfloat16))
    write_model(tmp_path / "unrelated.safetensors", as_torch(llama(5), torch.bfloat16))
    for kind in ("BF16", "Q8_0"):
        write_gguf(tmp_path / f"{kind}.gguf", converted(state), plain(kind))
    (tmp_path / "Q4_K.gguf").write_bytes((GOLDEN / "llama-q4_k_m.gguf").read_bytes())
    workspace.ingest(tmp_path)
    workspace.compare()
    for name in ("BF16", "Q8_0", "Q4_K"):
        near = workspace.nearest(name, ["all"], k=9)
        order = [m for m in near["model"] if m in ("original", "tuned", "unrelated")]
        assert order == ["original", "tuned", "unrelated"], name
    same = {f.verdict for f in workspace.pair_findings("original", "BF16")}
    assert same <= {"identical", "same_values"}
    told = [relation.text for relation in workspace.findings().relations]
    for name, scheme in (("Q8_0", "gguf Q8_0"), ("Q4_K", "gguf Q4_K and gguf Q6_K")):
        assert any(text.startswith(f"{name} is original quantised to {scheme}:") for text in told)
        assert any(
            text.startswith(f"{name} is quantised to {scheme}, and changed") for text in told
        )
    schemes = workspace.sql("select distinct representation from layers where model = 'Q8_0'")
    assert set(schemes["representation"]) == {"plain", "gguf Q8_0"}


def test_a_model_in_several_files_is_one(tmp_path: Path) -> None:
    """Only the first file says of what architecture the model is, and how many heads it has."""
    state = llama()
    folder = tmp_path / "m"
    folder.mkdir()
    writer = gguf.GGUFWriter(folder / "m.gguf", "llama", split_max_tensors=5)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    for name, values in converted(state).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file(folder / "m.gguf")
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    names = ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert find_checkpoints(tmp_path) == [folder]
    found = read_all(folder)
    assert found.keys() == state.keys()
    for key, weight in state.items():
        np.testing.assert_array_equal(found[key], weight)
    alone = read_all(folder / names[1])
    for key, values in alone.items():
        np.testing.assert_array_equal(values, state[key])


def test_experts_are_tensors_of_their_own(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    experts = random.standard_normal((3, 8, 32), dtype=np.float32)
    names = {"blk.0.ffn_gate_exps.weight": experts, "blk.0.ffn_up_exps.weight": experts + 1}
    for kind in ("F32", "Q8_0"):
        path = write_gguf(tmp_path / f"{kind}.gguf", names, plain(kind), "qwen3moe")
        found = read_all(path)
        assert set(found) == {
            f"model.layers.0.mlp.experts.{e}.{n}_proj.weight"
            for e in range(3)
            for n in ("gate", "up")
        }
        for e in range(3):
            values = found[f"model.layers.0.mlp.experts.{e}.gate_proj.weight"]
            np.testing.assert_allclose(values, experts[e], atol=0 if kind == "F32" else 0.02)


def test_the_gains_of_gemma_are_stored_with_one_added(tmp_path: Path) -> None:
    gain = np.linspace(-0.5, 0.5, 64, dtype=np.float32)
    path = write_gguf(tmp_path / "m.gguf", {"output_norm.weight": gain + 1}, plain("F32"), "gemma2")
    np.testing.assert_allclose(read_all(path)["model.norm.weight"], gain, atol=1e-7)


def test_an_image_model_keeps_its_names_and_gets_its_shapes_back(tmp_path: Path) -> None:
    conv = np.arange(320, dtype=np.float32).reshape(2, 5, 4, 8)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "flux")
    writer.add_array("comfy.gguf.orig_shape.img_in.weight", [2, 5, 4, 8])
    code = gguf.GGMLQuantizationType.Q8_0
    quantised = gguf.quants.quantize(conv.reshape(10, 32), code)
    writer.add_tensor("img_in.weight", quantised, raw_dtype=code)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_all(tmp_path / "m.gguf")["img_in.weight"]
    np.testing.assert_allclose(found, conv, atol=1.5)


def test_rows_stay_in_their_order_without_a_number_of_heads(tmp_path: Path) -> None:
    """What was interleaved is not known then, so the tensor keeps the file's own name."""
    weight = np.arange(96, dtype=np.float32).reshape(6, 16)
    path = write_gguf(tmp_path / "m.gguf", {"blk.0.attn_q.weight": weight}, plain("F32"))
    np.testing.assert_array_equal(read_all(path)["blk.0.attn_q.weight"], weight)
    rows = np.arange(32, dtype=np.float32).reshape(16, 2)
    path = write_gguf(tmp_path / "n.gguf", {"blk.0.attn_q.weight": permuted(rows, 4)}, plain("F32"))
    np.testing.assert_array_equal(read_all(path)["model.layers.0.self_attn.q_proj.weight"], rows)


def test_without_the_package_a_format_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megasim.representation.gguf_blocks._decodable", lambda: frozenset(_LOOPS))
    assert not open_model(write_gguf(tmp_path / "a.gguf", converted(llama()), plain("Q8_0"))).unread
    opened = open_model(write_gguf(tmp_path / "m.gguf", converted(llama()), plain("Q5_1")))
    assert set(opened.tensors) == {k for k, v in llama().items() if v.ndim == 1}
    notes = {odd.note for odd in opened.unread.values()}
    assert notes == {"Q5_1 of GGUF: not decoded; run `pip install 'megasim[gguf]'`"}


@pytest.mark.parametrize("name", sorted(_LOOPS))
def test_random_bytes_are_decoded_as_gguf_does(name: str) -> None:
    kind = gguf.GGMLQuantizationType[name]
    size = gguf.GGML_QUANT_SIZES[kind][1]
    raw = np.random.default_rng(0).integers(0, 256, (40, 3 * size), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(raw, kind)
    np.testing.assert_array_equal(decode_blocks(raw, name), expected)


def beyond(path: Path, state: dict[str, Array]) -> dict[str, float]:
    """Return the share of values that lie outside of the intervals of their codes, by format."""
    outside: dict[str, list[float]] = {}
    opened = open_model(path)
    with TensorReader() as reader:
        for key, ref in opened.tensors.items():
            if ref.decoder is None:
                continue
            rows, columns = ref.shape
            found = ref.decoder.interval_box(reader, Box(0, rows, 0, columns))
            assert found is not None
            low, high = found
            is_outside = (state[key] < low) | (state[key] > high)
            outside.setdefault(ref.decoder.scheme, []).append(float(is_outside.mean()))
    return {scheme: float(np.mean(shares)) for scheme, shares in outside.items()}


def test_the_original_lies_within_the_intervals_of_the_codes(tmp_path: Path) -> None:
    state = llama()
    path = write_gguf(tmp_path / "m.gguf", converted(state), plain("Q8_0"))
    assert beyond(path, state) == {"gguf Q8_0": 0}
    random = np.random.default_rng(1)
    for key, weight in state.items():
        state[key] = weight + 0.003 * weight.std() * random.standard_normal(weight.shape)
    assert beyond(path, state)["gguf Q8_0"] > 0.01


def test_the_original_of_a_copy_by_ggml_lies_within_the_intervals(tmp_path: Path) -> None:
    path, state = GOLDEN / "llama-q4_k_m.gguf", llama()
    assert beyond(path, state) == {"gguf Q4_K": 0, "gguf Q6_K": 0}
    random = np.random.default_rng(1)
    for key, weight in state.items():
        state[key] = weight + 0.003 * weight.std() * random.standard_normal(weight.shape)
    shares = beyond(path, state)
    assert shares["gguf Q4_K"] > 0.004 and shares["gguf Q6_K"] > 0.015


# With an importance matrix, as those of `blocks.npz` were made, their codes need not be nearest.
OLD = {"Q4_0", "Q4_1", "Q5_0", "Q5_1"}


@pytest.mark.parametrize("name", sorted({*_GRIDS, *_TABLES} - OLD))
def test_numbers_lie_within_the_intervals_of_what_ggml_makes_of_them(name: str) -> None:
    """Those of `blocks.npz` were drawn by its seed."""
    values = np.random.default_rng(0).standard_normal(BLOCKS[f"{name} values"].shape, np.float32)
    low, high = (_GRIDS.get(name) or _TABLES[name]).intervals(BLOCKS[name], name)
    assert ((values >= low) & (values <= high)).all()
    assert np.isfinite(low).mean() > 0.3 and np.isfinite(high).mean() > 0.3


@pytest.mark.parametrize("name", sorted({*OLD, "Q8_0", "MXFP4"}))
def test_numbers_lie_within_the_intervals_of_what_gguf_makes_of_them(name: str) -> None:
    values = np.random.default_rng(0).standard_normal((40, 320), np.float32)
    blocks = gguf.quants.quantize(values, gguf.GGMLQuantizationType[name])
    low, high = (_GRIDS.get(name) or _TABLES[name]).intervals(blocks, name)
    assert ((values >= low) & (values <= high)).all()
    tuned = values + 0.003 * np.random.default_rng(1).standard_normal(values.shape)
    assert ((tuned < low) | (tuned > high)).mean() > 0.001


# Files that are broken, or made to do harm


def header(
    *, version: int = 3, tensors: int = 1, pairs: bytes = b"", count: int = 0, info: bytes = b""
) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, count) + pairs + info


def text(value: bytes, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if size is None else size) + value


def info(name: bytes, sizes: tuple[int, ...], kind: int, offset: int) -> bytes:
    sized = struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
    return text(name) + sized + struct.pack("<IQ", kind, offset)


ABSURD = (1 << 63) - 1
BAD = {
    "cut short in the version": (b"GGUF\3\0", "cut short"),
    "version 1": (header(version=1), "version 1"),
    "the other byte order": (header(version=3 << 24), "byte order"),
    "more tensors than may be": (header(tensors=1 << 40), "tensors"),
    "more pairs than may be": (header(count=1 << 40), "values"),
    "a text without end": (header(count=1, pairs=text(b"k", ABSURD)), "bytes"),
    "an array without end": (
        header(count=1, pairs=text(b"k") + struct.pack("<IIQ", 9, 8, ABSURD)), "values"
    ),
    "an array of numbers without end": (
        header(count=1, pairs=text(b"k") + struct.pack("<IIQ", 9, 4, 1 << 40)), "cut short"
    ),
    "arrays in arrays": (
        header(count=1, pairs=text(b"k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 4),
        "unknown type",
    ),
    "a type of metadata that is none": (
        header(count=1, pairs=text(b"k") + struct.pack("<I", 77)), "unknown type"
    ),
    "five dimensions": (header(info=info(b"w", (1,) * 5, 0, 0)), "dimensions"),
    "an absurd size": (header(info=info(b"w", (ABSURD,), 0, 0)), "absurd"),
    "more bytes than there are": (header(info=info(b"w", (1 << 40,), 0, 0)), "cut short"),
    "an offset beyond the end": (header(info=info(b"w", (4,), 0, 1 << 50)), "cut short"),
    "rows that are no whole blocks": (header(info=info(b"w", (33, 2), 8, 0)), "blocks of 32"),
    "one name twice": (
        header(tensors=2, info=info(b"w", (1,), 0, 0) + info(b"w", (1,), 0, 32))
        + bytes(99),
        "twice",
    ),
    "tensors over each other": (
        header(tensors=2, info=info(b"w", (8,), 0, 0) + info(b"v", (8,), 0, 16)) + bytes(99),
        "overlaps",
    ),
    "an absurd alignment": (
        header(
            count=1,
            pairs=text(b"general.alignment") + struct.pack("<II", 4, 0),
            info=info(b"w", (1,), 0, 0),
        ),
        "alignment",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    data, problem = BAD[case]
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=problem) as error:
        open_stored(path)
    assert len(error.value.message) < 500


def test_an_unknown_type_leaves_the_others_read(tmp_path: Path) -> None:
    both = info(b"odd", (32,), 222, 0) + info(b"w", (8,), 0, 32)
    start = header(tensors=2, info=both)
    path = tmp_path / "m.gguf"
    path.write_bytes(start + bytes(-len(start) % 32) + bytes(32) + np.ones(8, np.float32).tobytes())
    opened = open_model(path)
    assert list(opened.tensors) == ["w"]
    assert "unknown type 222" in opened.unread["odd"].note


@pytest.mark.usefixtures("old_files")
def test_every_cut_of_a_file_is_an_error_and_no_crash(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "m.gguf", {"w": np.ones((2, 32), np.float32)}, plain("Q8_0"))
    data = whole.read_bytes()
    for end in range(4, len(data) - 68):
        (tmp_path / "cut.gguf").write_bytes(data[:end])
        with pytest.raises(CheckpointError):
            open_stored(tmp_path / "cut.gguf")


def test_limits_hold_for_names(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", {"w" * 60: np.ones((2, 32), np.float32)}, plain("F32"))
    with pytest.raises(CheckpointError, match="limit"):
        open_stored(path, Limits(name_bytes=50))
