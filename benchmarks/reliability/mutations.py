"""Mutated files of every format that is read: each gives an error with a remedy, or a checkpoint.

Files are mutated as bytes, and behind the guards that random damage does not get past: the pickle
in a zip is packed again with a right checksum, the JSON of a header again with its right length.
All that a reader then says is in a file is read to its end. One in some hundred is ingested into a
store as well, which the doctor must find sound.
"""

from __future__ import annotations

import io
import json
import random
import resource
import shutil
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from benchmarks.reliability.forked import must
from benchmarks.reliability.stores import PhaseReport, faults, scratch, write_models
from megasim.checkpoint import file_stamp
from megasim.checkpoint.opening import TensorReader, TensorRef, find_checkpoints, open_checkpoint
from megasim.errors import MegasimError
from megasim.workspace import open_store

_BATCH = 2_000
_PATIENCE = 5.0  # seconds that one file may take, on a machine that does nothing else
_LOAD = 6.0  # how much longer it may take where the machine does
_OPCODES = (b"2", b"h\0", b"R", b"}", b"t", b"(", b"]", b"\x94", b"Q", b"b", b"\x81", b".")
_PIECES = (b"", b"\0", b"\xff", b"\xff\xff\xff\xff", b"1e999", *_OPCODES)
_NUMBERS = ("-1", "0", "9223372036854775808", "1e999", "[]", "{}", '"x"', "null", "true", "NaN")

Files = dict[str, dict[str, bytes]]  # form → the names and bytes of its files


def honest_files() -> Files:
    """Return a small honest file, or folder, of each format."""
    torch.manual_seed(0)
    weights = {"a.weight": torch.randn(6, 4), "a.bias": torch.randn(3).half(), "n": torch.tensor(3)}
    shared = torch.randn(8, 3)
    content = {
        "state_dict": {**weights, "tied": shared, "again": shared, "turned": shared.T},
        "ema": {"shadow": [torch.randn(2), torch.randn(6, 4)]},
        "optimizer": {"state": {0: {"exp_avg": torch.randn(6, 4)}}, "param_groups": [{"lr": 0.1}]},
        "sparse": torch.eye(5).to_sparse(),
        "codes": torch.quantize_per_tensor(torch.randn(4, 4), 0.1, 2, torch.qint8),
        "array": np.arange(6, dtype=">f4").reshape(2, 3),
        "epoch": 7,
    }
    module = torch.jit.script(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)))
    script, npz, npy = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.jit.save(module, script)
    np.savez(npz, w=np.arange(6.0).reshape(2, 3), b=np.arange(3, dtype=">i2"))
    np.save(npy, np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    flat = save(weights, {"epoch": "3"})
    index = {
        "metadata": {"total_size": 1},
        "weight_map": dict.fromkeys(weights, "x-00001-of-00001.safetensors"),
    }
    config = {"_class_name": "P", "unet": ["diffusers", "U"], "vae": ["diffusers", "V"]}
    return {
        "safetensors": {"m.safetensors": flat},
        "torch zip": {"m.ckpt": _saved(content, True)},
        "torch legacy": {"m.pt": _saved(content, False)},
        "torchscript": {"m.jit": script.getvalue()},
        "npz": {"m.npz": npz.getvalue()},
        "npy": {"m.npy": npy.getvalue()},
        "shards": {
            "x.safetensors.index.json": json.dumps(index).encode(),
            "x-00001-of-00001.safetensors": flat,
        },
        "pipeline": {
            "model_index.json": json.dumps(config).encode(),
            "unet/diffusion_pytorch_model.safetensors": flat,
            "unet/config.json": b'{"in_channels": 4}',
        },
    }


def _saved(content: object, new: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return bytes with some changes: flips, cuts, insertions, copies of other places."""
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        at = rng.randrange(len(raw)) if raw else 0
        kind = rng.randrange(6)
        if kind == 0 and raw:
            raw[at] = rng.randrange(256)
        elif kind == 1 and raw:
            raw[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            raw[at : at + rng.randrange(9)] = rng.choice(_PIECES)
        elif kind == 3:
            begin = rng.randrange(len(raw) or 1)
            raw[at:at] = raw[begin : begin + rng.randrange(40)]
        elif kind == 4 and raw:
            raw[at : at + 8] = rng.getrandbits(64).to_bytes(8, "little")
        elif rng.random() < 0.3:
            del raw[at:]
    return bytes(raw)


def _mutated_json(text: bytes, rng: random.Random) -> bytes:
    """Return JSON in which one number or word is another."""
    words = [i for i, byte in enumerate(text) if byte in b'0123456789[{"']
    if not words or rng.random() < 0.4:
        return mutated(text, rng)
    at = rng.choice(words)
    return text[:at] + rng.choice(_NUMBERS).encode() + text[at + rng.randrange(1, 4) :]


def mutant(form: str, files: dict[str, bytes], rng: random.Random) -> dict[str, bytes]:
    """Return the files of a form, one of them mutated."""
    name = rng.choice(list(files))
    data = files[name]
    if rng.random() < 0.4:
        new = mutated(data, rng)
    elif data[:2] == b"PK":
        new = _packed_again(data, rng)
    elif name.endswith(".safetensors"):
        size = int.from_bytes(data[:8], "little")
        header = _mutated_json(data[8 : 8 + size], rng)
        new = len(header).to_bytes(8, "little") + header + data[8 + size :]
    elif name.endswith(".json"):
        new = _mutated_json(data, rng)
    else:
        new = mutated(data[: rng.choice((400, 4000))], rng) + data[4000:]
    return {**files, name: new}


def _packed_again(data: bytes, rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        entries = old.namelist()
        pickles = [e for e in entries if e.endswith((".pkl", ".npy", ".py"))]
        chosen = rng.choice(pickles if rng.random() < 0.8 else entries)
        for entry in entries:
            body = old.read(entry)
            if entry == chosen:
                body = mutated(body, rng)
            if rng.random() > 0.01:
                new.writestr(entry, body)
    return buffer.getvalue()


def measure_mutations(folder: Path, count: int, workers: int, seed: int = 0) -> PhaseReport:
    """Read so many mutated files, of each format in turn."""
    place = scratch(folder, "mutations")
    report = PhaseReport("mutations")
    batches = [(seed * 1_000_003 + i, min(_BATCH, count - i)) for i in range(0, count, _BATCH)]
    told: Counter[str] = Counter()
    slowest, largest = 0.0, 0
    work = [(place / f"b{number}", number, size) for number, size in batches]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for i, (counted, wrong, slow, memory) in enumerate(pool.map(_read_batch, work), 1):
            told.update(counted)
            slowest, largest = max(slowest, slow), max(largest, memory)
            report.done += sum(counted.values())
            for what in wrong:
                report.tell(what)
            if PhaseReport.asked_to_stop:
                for process in tuple(pool._processes.values()):
                    process.terminate()
                break
            if i % 15 == 0:
                print(f"  mutations: {report.done:,}, {len(report.wrong)} wrong", flush=True)
    others = _others(place / "others", count // 100, seed, report)
    report.figures = {
        "read or refused": dict(sorted(told.items())),
        "of results and fingerprints": others,
        "slowest seconds": round(slowest, 2),
        "largest process MiB": largest,
    }
    shutil.rmtree(place, ignore_errors=True)
    return report


def _read_batch(given: tuple[Path, int, int]) -> tuple[Counter[str], list[str], float, int]:
    """Read one batch of mutants; what became of them, what went wrong, and the slowest."""
    place, number, size = given
    rng = random.Random(number)
    honest = honest_files()
    forms = list(honest)
    # a file that was just written is not looked at for some milliseconds, which is not of use here
    file_stamp.time.sleep = lambda _: None  # type: ignore[attr-defined]
    told: Counter[str] = Counter()
    wrong: list[str] = []
    slowest = 0.0
    for i in range(size):
        form = forms[i % len(forms)]
        target = place / "one"
        _write(target, mutant(form, honest[form], rng))
        began = time.perf_counter()
        what = _outcome(partial(_read_all, target))
        seconds = time.perf_counter() - began
        slowest = max(slowest, seconds)
        told[f"{form}: {'read' if not what else 'refused'}"] += 1
        if what.startswith("WRONG") or seconds > _PATIENCE * _LOAD:
            wrong.append(f"seed {number}, file {i} ({form}): {seconds:.1f} s, {what}")
        if i % 100 == 0:
            _write(place / "kept" / str(i), mutant(form, honest[form], rng))
        shutil.rmtree(target, ignore_errors=True)
    db = place / "s.duckdb"
    with open_store(db) as store:
        what = _outcome(lambda: store.ingest(place / "kept", workers=1))
        what = what or _outcome(lambda: store.compare(workers=1))
    if what.startswith("WRONG"):
        wrong.append(f"seed {number}, ingested: {what}")
    wrong += [f"seed {number}, ingested: {fault}" for fault in faults(db)]
    shutil.rmtree(place, ignore_errors=True)
    return told, wrong, slowest, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _outcome(work: Callable[[], object]) -> str:
    """Run something; "" where it succeeds, else the error, marked where it is none of megasim's."""
    try:
        work()
    except MegasimError as error:
        text = str(error)
        if not text.replace("\n", "").isprintable() or len(text) > 2000:
            return f"WRONG: an error that cannot be printed: {text!r}"[:400]
        return text
    except Exception as error:
        return f"WRONG: {type(error).__name__}: {error}"[:400]
    return ""


def _read_all(folder: Path) -> None:
    for path in find_checkpoints(folder) if not list(folder.glob("m.np*")) else folder.iterdir():
        checkpoint = open_checkpoint(path)
        with TensorReader() as reader:
            for part in checkpoint.parts:
                for ref in _refs(part.tensors.values()):
                    reader.read(ref)


def _refs(refs: Iterable[TensorRef]) -> Iterable[TensorRef]:
    """The tensors of a mutant; of an expanded one only the beginning is worth the time."""
    return (ref for ref in refs if ref.nbytes < 64 << 20)


def _others(place: Path, count: int, seed: int, report: PhaseReport) -> dict[str, int]:
    """Import mutated results of mega_cmp and fingerprint files; the store stays sound."""
    must(place.parent / "own.duckdb", "ingest", *write_models(place.parent / "own", 2, 8))
    own = place.parent / "own.duckdb"
    must(own, "compare")
    place.mkdir(parents=True)
    must(own, "export", "--fingerprints", place / "prints.parquet")
    must(own, "export", "--format", "mega-cmp", place / "results")
    honest = {path: path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}
    rng = random.Random(seed)
    told = {"read": 0, "refused": 0}
    db = place.parent / "others.duckdb"
    for i in range(count):
        if PhaseReport.asked_to_stop:
            break
        path = rng.choice(list(honest))
        data = honest[path]
        path.write_bytes(_mutated_json(data, rng) if path.suffix == ".json" else mutated(data, rng))
        with open_store(db) as store:
            what = _outcome(partial(store.import_path, path))
        told["refused" if what else "read"] += 1
        if what.startswith("WRONG"):
            report.tell(f"import {i} of {path.name}: {what}")
        path.write_bytes(data)
        report.done += 1
        if i % 500 == 499:
            for fault in faults(db):
                report.tell(f"imported: {fault}")
            db.unlink()
    if db.exists():
        for fault in faults(db):
            report.tell(f"imported: {fault}")
    return told
