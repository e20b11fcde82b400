"""Compiled loops kept as machine code, so that only the first run waits for the compiler.

To import numba and to load what it keeps by itself takes 0.6 s of every process, a seventh of a
comparison of six models of 2 GB. So the machine code of a loop is kept in a file of its own, which
LLVM loads in some milliseconds; numba is imported where there is no such file yet.

A file stands for one loop, the types of its arguments, the sources that it was made of, this
processor and this LLVM, and is used only if it is whole.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import os
import re
import struct
import sys
import threading
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite  # type: ignore[import-untyped]
import llvmlite.binding as llvm  # type: ignore[import-untyped]
import numpy as np

# What machine code may call that is not in it: it is loaded beside nothing but the C library.
_C_LIBRARY = {"memset", "memcpy", "memmove", "fma", "fmaf"}
# What stands for an array of one dimension.
_ARRAY = struct.Struct("7q")
# LLVM and numba work for one thread at a time.
_compiling = threading.Lock()


class Loop:
    """A loop of `kernels` that numba compiles, called without numba where it was compiled before.

    It takes contiguous arrays, integers, and named tuples of these (prepared, where they serve for
    many calls), changes the arrays, and returns nothing. Several threads may call it at a
    time: it lets go of the GIL.

    Not guaranteed: that arrays are as long as the loop takes them to be.
    """

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name
        self._natives: dict[str, Callable[..., int]] = {}

    def __call__(self, *arguments: Any) -> None:
        given = prepare(arguments)
        native = self._natives.get(given.kind)
        if native is None:
            with _compiling:
                native = self._natives.get(given.kind) or self._native(given)
                self._natives[given.kind] = native
        if native(given.words):
            raise RuntimeError(f"the compiled loop {self.name} failed")

    def is_kept(self) -> bool:
        """Whether this loop was compiled before, for arguments of any types."""
        pattern = f"{self.module}.{self.name}-*-{_made_of(self.module)}.o"
        return any(any(folder.glob(pattern)) for folder in _folders())

    def _native(self, given: Prepared) -> Callable[..., int]:
        types = hashlib.sha256(given.kind.encode()).hexdigest()[:16]
        file = f"{self.module}.{self.name}-{types}-{_made_of(self.module)}.o"
        symbol = f"megasim_{self.name}"
        code = _kept(file)
        if code is None:
            code = _compiled(self.module, self.name, symbol, given)
            _keep(file, code)
        function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_char_p)
        return function(_address(symbol, code))


class Prepared:
    """An argument of loops, ready for many calls: a named tuple of a dozen arrays takes 60 µs.

    Attributes:
        original: as the loop is written for it.
        kind: a text for its type.
        words: the 64-bit integers that numba's machine code takes for it. Of an array these are two
            owners (none), its size, the size of an element, its address, its shape, its strides.
    """

    __slots__ = ("kind", "original", "words")

    def __init__(self, original: Any, kind: str, words: bytes) -> None:
        self.original, self.kind, self.words = original, kind, words

    def head(self, size: int) -> Prepared:
        """Return the first elements of an array of one dimension; it must have as many."""
        _, _, _, itemsize, address, _, stride = _ARRAY.unpack(self.words)
        words = _ARRAY.pack(0, 0, size, itemsize, address, size, stride)
        return Prepared(self.original, self.kind, words)


def prepare(argument: Any) -> Prepared:
    """Return a contiguous array, an integer, or a tuple of these and of prepared ones, prepared.

    Raises ValueError where an array is not contiguous.
    """
    if isinstance(argument, Prepared):
        return argument
    if isinstance(argument, tuple):
        parts = [prepare(part) for part in argument]
        kind = f"{type(argument).__name__}({','.join([part.kind for part in parts])})"
        return Prepared(argument, kind, b"".join([part.words for part in parts]))
    if isinstance(argument, np.ndarray):
        if not argument.flags.c_contiguous:
            raise ValueError("compiled loops take contiguous arrays")
        address = argument.__array_interface__["data"][0]
        words = array("q", (0, 0, argument.size, argument.itemsize, address))
        words.extend((*argument.shape, *argument.strides))
        return Prepared(argument, f"{argument.dtype.str[1:]}x{argument.ndim}", words.tobytes())
    kind = "u8" if isinstance(argument, np.uint64) else type(argument).__name__
    return Prepared(argument, kind, (int(argument) % 2**64).to_bytes(8, sys.byteorder))


def _original(argument: Any) -> Any:
    """Return an argument as the loop is written for it, with nothing in it prepared."""
    if isinstance(argument, Prepared):
        return _original(argument.original)
    if isinstance(argument, tuple):
        parts = [_original(part) for part in argument]
        return type(argument)(*parts) if hasattr(argument, "_fields") else tuple(parts)
    return argument


def compile_note(loop: Loop) -> str | None:
    """Return what to tell a user who has to wait for the compiler, or None.

    Compiling all loops of a pass takes some 10 seconds of one core, once a machine.
    """
    if loop.is_kept():
        return None
    if not any(_can_keep(folder) for folder in _folders()):
        return (
            "compiling the inner loops, as on every run: no folder can keep them; "
            "name one in NUMBA_CACHE_DIR"
        )
    return "compiling the inner loops, once on this machine: some 10 to 30 seconds"


# --- what is kept ------------------------------------------------------------------------------


@cache
def _made_of(module: str) -> str:
    """Return a hash of all that the machine code of a module depends on."""
    here = Path(__file__).parent
    parts = [llvmlite.__version__, llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    parts += [(here / f"{name}.py").read_text(encoding="utf-8") for name in _sources(module)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _sources(module: str) -> list[str]:
    """Return the modules of `kernels` that a module is made of, itself among them."""
    found: set[str] = set()
    left = [module, "machine_code"]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            text = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
            left += re.findall(r"^from megasim\.kernels\.(\w+) import", text, re.MULTILINE)
    return sorted(found)


def _folders() -> list[Path]:
    """Return where machine code may lie; it is kept in the first that can be written to."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    # where there is no home, Path.expanduser would raise
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    folders = [Path(__file__).with_name("__pycache__"), Path(user) / "megasim"]
    return [Path(named), *folders] if named else folders


def _can_keep(folder: Path) -> bool:
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder.is_dir() and os.access(folder, os.W_OK)


def _kept(file: str) -> bytes | None:
    """Return the machine code in a file that is there and whole."""
    for folder in _folders():
        with suppress(OSError):
            content = (folder / file).read_bytes()
            if hashlib.sha256(content[32:]).digest() == content[:32]:
                return content[32:]
    return None


def _keep(file: str, code: bytes) -> None:
    for folder in filter(_can_keep, _folders()):
        with suppress(OSError):
            part = folder / f".{file}.{os.getpid()}"
            part.write_bytes(hashlib.sha256(code).digest() + code)
            part.replace(folder / file)
            return


# --- LLVM --------------------------------------------------------------------------------------


def _compiled(module: str, name: str, symbol: str, given: Prepared) -> bytes:
    """Return the machine code of a loop, under a name of ours and with nothing else around it."""
    import numba

    cached = getattr(importlib.import_module(f"{__package__}.{module}"), name)
    # what comes out of numba's own cache cannot be looked into
    options = {k: v for k, v in cached.targetoptions.items() if k != "nopython"}
    fresh = numba.njit(cached.py_func, **options)
    fresh.compile(tuple(map(numba.typeof, _original(given))))
    (compiled,) = fresh.overloads.values()
    text = compiled.library.get_llvm_str()
    loop = llvm.parse_assembly(text).get_function(compiled.fndesc.llvm_func_name)
    kinds = [str(argument.type) for argument in loop.arguments]
    if len(kinds) != 2 + len(given.words) // 8:
        raise RuntimeError(f"numba calls {name} otherwise than megasim expects")
    parsed = llvm.parse_assembly(text + _entry(symbol, loop.name, kinds))
    for function in parsed.functions:
        if not function.is_declaration and function.name != symbol:
            function.linkage = "internal"
    _drop_what_is_not_called(parsed)
    missing = {f.name for f in parsed.functions if f.is_declaration}
    missing = {m for m in missing if not m.startswith("llvm.")} - _C_LIBRARY
    if missing:
        raise RuntimeError(f"{name} needs more than itself: {', '.join(sorted(missing))}")
    return bytes(_machine().emit_object(parsed))


def _entry(symbol: str, loop: str, kinds: Sequence[str]) -> str:
    """Return a function, in LLVM's language, that calls a loop with integers out of an array.

    `kinds` are the types of the loop's parameters. The first two are where it would leave a
    result and an exception; the entry returns the loop's status, 0 where it has done its work.
    """
    lines = [f"define i32 @{symbol}(ptr %values) {{", "%out0 = alloca ptr", "%out1 = alloca ptr"]
    given = ["ptr %out0", "ptr %out1"]
    for i, kind in enumerate(kinds[2:]):
        lines.append(f"%at{i} = getelementptr i64, ptr %values, i64 {i}")
        lines.append(f"%int{i} = load i64, ptr %at{i}")
        if kind == "i64":
            given.append(f"i64 %int{i}")
        else:
            lines.append(
                f"%arg{i} = {'inttoptr' if kind == 'ptr' else 'trunc'} i64 %int{i} to {kind}"
            )
            given.append(f"{kind} %arg{i}")
    lines.append(f'%status = call i32 @"{loop}"({", ".join(given)})')
    return "\n".join([*lines, "ret i32 %status", "}\n"])


def _drop_what_is_not_called(module: Any) -> None:
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, llvm.create_pass_builder(_machine(), llvm.PipelineTuningOptions()))


@cache
def _machine() -> Any:
    """Return LLVM's description of this processor."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        jit=True,
    )


_engines: list[Any] = []  # machine code lives as long as what loaded it


def _address(symbol: str, code: bytes) -> int:
    """Load machine code, and return where its function lies."""
    empty = llvm.parse_assembly(f'target triple = "{llvm.get_process_triple()}"')
    engine = llvm.create_mcjit_compiler(empty, _machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return int(engine.get_function_address(symbol))
