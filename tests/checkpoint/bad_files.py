"""Small files of each format, to be damaged, and what is said of a bad one."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from safetensors.torch import save

from megasim.checkpoint.limits import DEFAULT_LIMITS, Limits
from megasim.checkpoint.opening import TensorReader, open_checkpoint
from megasim.errors import CheckpointError

often = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def torch_bytes(content: Any, *, new: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


CONTENT = {"state_dict": {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2).half()}}
FILES = {
    "zip": torch_bytes(CONTENT),
    "legacy": torch_bytes(CONTENT, new=False),
    "safetensors": save(CONTENT["state_dict"], {"epoch": "3"}),
}


def read_all(path: Path, limits: Limits = DEFAULT_LIMITS) -> dict[str, bytes]:
    with TensorReader() as reader:
        found = open_checkpoint(path, limits).tensors
        return {key: reader.read(ref).tobytes() for key, ref in found.items()}


def problem(path: Path, limits: Limits = DEFAULT_LIMITS) -> str:
    """The error of a bad file, in at most two short lines that name it and can be printed."""
    with pytest.raises(CheckpointError) as caught:
        read_all(path, limits)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert caught.value.remedy
    assert len(text.splitlines()) == 2
    assert all(c.isprintable() or c == "\n" for c in text)
    assert len(text) < 1000
    return text


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tar(first: str = "sys_info") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(first))
    return buffer.getvalue()


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def unzipped(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
