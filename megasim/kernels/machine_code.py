"""Compiled loops kept as machine code, so that only the first run waits for the compiler.

To import numba and to load what it keeps by itself takes 0.6 s of every process, a seventh of a
comparison of six models of 2 GB. So the machine code of a loop is kept in a file of its own, which
LLVM loads in some milliseconds; numba is imported where there is no such file yet.

A file stands for one loop, the types of its arguments, the sources that it was made of, this
processor and this LLVM, and is used only if it is whole. How numba hands over arguments is no
promise of its own, so it is checked twice: names and types of all parts when a loop is compiled,
and its results on a known tile whenever one is loaded. A loop that fails either is left to numba,
and says so.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import logging
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
from typing import Any, NamedTuple

import llvmlite  # type: ignore[import-untyped]
import llvmlite.binding as llvm  # type: ignore[import-untyped]
import numpy as np

# What machine code may call that is not in it: it is loaded beside nothing but the C library.
_C_LIBRARY = {"memset", "memcpy", "memmove", "fma", "fmaf"}
# The parts of an array, as numba hands them over, and their types in LLVM.
_ARRAY_PARTS = ("meminfo", "parent", "nitems", "itemsize", "data", "shape", "strides")
_ARRAY_KINDS = ("ptr", "ptr", "i64", "i64", "ptr")
# LLVM and numba work for one thread at a time.
_compiling = threading.Lock()
_log = logging.getLogger(__name__)


class _UnfitError(Exception):
    """Numba, or the machine code made by it, is not as this module expects."""


class Loop:
    """A loop of `kernels` that numba compiles, called without numba where it was compiled before.

    It takes contiguous arrays, numbers, and named tuples of these (prepared, where they serve for
    many calls), changes the arrays, and returns nothing. Several threads may call it at a
    time: it lets go of the GIL.

    Not guaranteed: that arrays are as long as the loop takes them to be.

    Attributes:
        module, name: where the loop is written.
        known: its arguments for a known tile, one set for each combination of types that it is
            called with, and the hash of what it makes of each set; see `known_tiles`.
    """

    def __init__(self, module: str, name: str, *known: KnownTile) -> None:
        self.module, self.name, self.known = module, name, known
        self._ready: dict[str, Callable[[Prepared], None]] = {}

    def __call__(self, *arguments: Any) -> None:
        given = prepare(arguments)
        run = self._ready.get(given.kind)
        if run is None:
            with _compiling:
                run = self._ready.get(given.kind) or self._load(given)
                self._ready[given.kind] = run
        run(given)

    def is_kept(self) -> bool:
        """Whether this loop was compiled before, for arguments of any types."""
        pattern = f"{self.module}.{self.name}-*-{_made_of(self.module)}.o"
        return any(any(folder.glob(pattern)) for folder in _folders())

    def _load(self, given: Prepared) -> Callable[[Prepared], None]:
        """Return the loop for arguments of some types: the machine code, or numba's function."""
        try:
            run = self._native(given)
            self._check(run, given.kind)
        except _UnfitError as error:
            _log.warning(
                "the loop %s is left to numba, which starts more slowly: %s", self.name, error
            )
            return self._by_numba()
        return run

    def _native(self, given: Prepared) -> Callable[[Prepared], None]:
        types = hashlib.sha256(given.kind.encode()).hexdigest()[:16]
        file = f"{self.module}.{self.name}-{types}-{_made_of(self.module)}.o"
        symbol = f"megasim_{self.name}"
        code = _kept(file)
        if code is None:
            code = _compiled(self.module, self.name, symbol, given)
            _keep(file, code)
        native = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_char_p)(_address(symbol, code))

        def run(given: Prepared) -> None:
            if native(given.words):
                raise RuntimeError(f"the compiled loop {self.name} failed")

        return run

    def _check(self, run: Callable[[Prepared], None], kind: str) -> None:
        """Raise _UnfitError unless a loop makes of its known tile what it should."""
        for tile in self.known:
            given = prepare(tile.arguments())
            if given.kind == kind:
                run(given)
                if digest_of(given) != tile.digest:
                    raise _UnfitError("its machine code gives another result on a known tile")
                return
        raise _UnfitError(f"there is no known tile for arguments of the types {kind}")

    def _by_numba(self) -> Callable[[Prepared], None]:
        """Return the function as numba compiles and keeps it."""
        import numba

        written = getattr(importlib.import_module(f"{__package__}.{self.module}"), self.name)
        options = {k: v for k, v in written.targetoptions.items() if k != "nopython"}
        try:
            function = numba.njit(cache=True, **options)(written.py_func)
        except RuntimeError:  # nowhere to keep it
            function = written
        return lambda given: function(*_original(given))


class KnownTile(NamedTuple):
    """Arguments of a loop, made anew by each call, and the hash of all arrays once it has run."""

    arguments: Callable[[], tuple[Any, ...]]
    digest: str


def digest_of(given: Prepared) -> str:
    """Return a hash of all arrays among the arguments of a loop."""
    total = hashlib.sha256()

    def add(argument: Any) -> None:
        if isinstance(argument, tuple):
            for part in argument:
                add(part)
        elif isinstance(argument, np.ndarray):
            total.update(argument.tobytes())

    add(_original(given))
    return total.hexdigest()[:16]


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


def prepare(argument: Any) -> Prepared:
    """Return a contiguous array, a number, or a tuple of these and of prepared ones, prepared.

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
    if isinstance(argument, float):
        return Prepared(argument, "float", struct.pack("d", argument))
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
    """Return a note for a user who has to wait for the compiler, or None.

    Compiling all loops of a pass takes some 10 seconds of one core, once a machine.
    """
    if loop.is_kept():
        return None
    if not any(_can_keep(folder) for folder in _folders()):
        return (
            "compiling the inner loops, as on every run, because there is no folder to write them "
            "to: set NUMBA_CACHE_DIR"
        )
    return "compiling the inner loops, once on this machine: takes 10 to 30 seconds"


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

    written = getattr(importlib.import_module(f"{__package__}.{module}"), name)
    arguments = _original(given)
    fresh = numba.njit(
        written.py_func, **{k: v for k, v in written.targetoptions.items() if k != "nopython"}
    )
    fresh.compile(tuple(map(numba.typeof, arguments)))
    (compiled,) = fresh.overloads.values()
    text = compiled.library.get_llvm_str()
    loop = llvm.parse_assembly(text).get_function(compiled.fndesc.llvm_func_name)
    kinds = [str(argument.type) for argument in loop.arguments]
    expected = ["ptr", "ptr", *_expected_kinds(arguments)]
    if kinds != expected or _parts_of_arrays() != _ARRAY_PARTS:
        raise _UnfitError("numba passes arguments differently from what megasim expects")
    parsed = llvm.parse_assembly(text + _entry(symbol, loop.name, kinds))
    for function in parsed.functions:
        if not function.is_declaration and function.name != symbol:
            function.linkage = "internal"
    _drop_what_is_not_called(parsed)
    missing = {f.name for f in parsed.functions if f.is_declaration}
    missing = {m for m in missing if not m.startswith("llvm.")} - _C_LIBRARY
    if missing:
        raise _UnfitError(f"it calls {', '.join(sorted(missing))}, which is not loaded with it")
    return bytes(_machine().emit_object(parsed))


def _expected_kinds(argument: Any) -> list[str]:
    """Return the types, in LLVM, of the parts of an argument."""
    if isinstance(argument, tuple):
        return [kind for part in argument for kind in _expected_kinds(part)]
    if isinstance(argument, np.ndarray):
        return [*_ARRAY_KINDS, *["i64"] * (2 * argument.ndim)]
    if isinstance(argument, bool):
        return ["i1"]
    return ["double" if isinstance(argument, float) else "i64"]


def _parts_of_arrays() -> tuple[str, ...]:
    """Return the parts of an array in numba's order."""
    import numba
    from numba.core.datamodel.registry import default_manager

    return tuple(default_manager[numba.float32[::1]]._fields)


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
            how = {"ptr": "inttoptr", "double": "bitcast"}.get(kind, "trunc")
            lines.append(f"%arg{i} = {how} i64 %int{i} to {kind}")
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
