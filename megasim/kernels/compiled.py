"""How inner loops are compiled, and the few instructions that numba has no words for."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any, TypeVar, cast

import llvmlite.binding  # type: ignore[import-untyped]
import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from megasim.kernels.state import Halves, Singles

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums may be taken in any order and with fused multiply-add; NaN and inf keep their meaning.
REORDER = frozenset({"reassoc", "contract", "nsz"})
SINGLE_INF = np.uint32(0x7F800000)


def compiled(flags: frozenset[str] = frozenset()) -> Callable[[Function], Function]:
    """Return a decorator that compiles a function on first use and lets go of the GIL in it.

    What is compiled is kept by `machine_code`, of whole loops. A compiled function cannot
    allocate arrays: without numba's memory management a slice costs nothing, while with it each
    one counts references, which took a fifth of the time of the loops over tiles.
    """
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": set(flags),
        "_nrt": False,
    }

    def decorate(function: Function) -> Function:
        return cast(Function, numba.njit(**options)(function))

    return decorate


def inlined(function: Function) -> Function:
    """Decorate a function that becomes part of those that call it: it may return slices."""
    options: dict[str, Any] = {"inline": "always", "error_model": "numpy", "_nrt": False}
    return cast(Function, numba.njit(**options)(function))


# numba's own decorator is typed as if its first argument were the caller's.
instruction: Callable[[Callable[..., Any]], Any] = intrinsic


# --- single instructions -----------------------------------------------------------------------


@instruction
def bits_of(_: Any, value: Any) -> Any:
    """float32 → its bits."""
    return numba.uint32(numba.float32), lambda context, b, sig, args: b.bitcast(
        args[0], ir.IntType(32)
    )


@instruction
def single_of(_: Any, bits: Any) -> Any:
    """Bits → the float32."""
    return numba.float32(numba.uint32), lambda context, b, sig, args: b.bitcast(
        args[0], ir.FloatType()
    )


@instruction
def larger(_: Any, a: Any, b: Any) -> Any:
    """Maximum of two uint32; Python's max() would widen them and halve the vectors."""
    return numba.uint32(numba.uint32, numba.uint32), lambda context, b, sig, args: b.select(
        b.icmp_unsigned(">", args[0], args[1]), args[0], args[1]
    )


@instruction
def count_if(_: Any, count: Any, condition: Any) -> Any:
    """`count` (int32) plus one if `condition`, in 32 bits for the reason of `larger`."""
    return numba.int32(numba.int32, numba.boolean), lambda context, b, sig, args: b.add(
        args[0], b.zext(b.trunc(args[1], ir.IntType(1)), ir.IntType(32))
    )


@instruction
def root(_: Any, value: Any) -> Any:
    """Square root of a float64 that is not negative; Python's would call the library's."""
    kind = ir.FunctionType(ir.DoubleType(), [ir.DoubleType()])

    def call(_: Any, b: Any, __: Any, args: Any) -> Any:
        return b.call(b.module.declare_intrinsic("llvm.sqrt", [ir.DoubleType()], kind), args)

    return numba.float64(numba.float64), call


@instruction
def _widen_by_hardware(_: Any, half: Any) -> Any:
    return numba.float32(numba.uint16), lambda context, b, sig, args: b.fpext(
        b.bitcast(args[0], ir.HalfType()), ir.FloatType()
    )


@instruction
def _narrow_by_hardware(_: Any, single: Any) -> Any:
    return numba.uint16(numba.float32), lambda context, b, sig, args: b.bitcast(
        b.fptrunc(args[0], ir.HalfType()), ir.IntType(16)
    )


@compiled()
def _widen_by_bits(half: np.uint16) -> Any:
    """float16 → float32 on any processor: the exponent is rebiased by a multiplication."""
    magnitude = np.uint32(half & np.uint16(0x7FFF))
    bits = np.uint32(magnitude << np.uint32(13))
    scaled = bits_of(single_of(bits) * np.float32(2.0**112))
    if magnitude >= np.uint32(0x7C00):
        scaled = np.uint32(bits | SINGLE_INF)
    return single_of(np.uint32(scaled | np.uint32((half & np.uint16(0x8000)) << np.uint32(16))))


@compiled()
def _narrow_by_bits(single: np.float32) -> np.uint16:
    """float32 → float16 on any processor, to nearest, ties to even (F. Giesen, 2012)."""
    bits = np.int64(bits_of(single))
    sign = (bits >> 16) & 0x8000
    bits = bits & 0x7FFFFFFF
    if bits >= 0x47800000:  # 65536 and more
        half = np.int64(0x7E00 if bits > 0x7F800000 else 0x7C00)
    elif bits < 0x38800000:  # a subnormal float16: an addition to 0.5 rounds at the right bit
        half = np.int64(bits_of(single_of(np.uint32(bits)) + np.float32(0.5))) - 0x3F000000
    else:
        half = (bits - 0x38000000 + 0xFFF + ((bits >> 13) & 1)) >> 13
    return np.uint16(half | sign)


def _converts_halves() -> bool:
    """Whether the target has instructions for float16; else LLVM calls a function we lack."""
    if getattr(numba.config, "CPU_NAME", None):  # compiling for another processor than this one
        return False
    known = llvmlite.binding.get_host_cpu_features()
    return bool(known.get("f16c")) or platform.machine().lower() in ("aarch64", "arm64")


widen, narrow = (
    (_widen_by_hardware, _narrow_by_hardware)
    if _converts_halves()
    else (_widen_by_bits, _narrow_by_bits)
)


# --- conversion --------------------------------------------------------------------------------


@compiled()
def half_to_single(half: Halves, out: Singles) -> None:
    """float16, as its bits, to float32, exactly; `out` may be longer."""
    for i in range(half.shape[0]):
        out[i] = widen(half[i])


@compiled()
def bfloat16_to_single(bits: Halves, out: Singles) -> None:
    """bfloat16, as its bits, to float32, exactly; `out` may be longer."""
    for i in range(bits.shape[0]):
        out[i] = single_of(np.uint32(np.uint32(bits[i]) << np.uint32(16)))


@compiled()
def round_to_half(single: Singles, out: Halves) -> np.uint32:
    """Round to float16; returns nonzero if that changed any element."""
    lost = np.uint32(0)
    for i in range(single.shape[0]):
        value = single[i]
        half = narrow(value)
        out[i] = half
        lost |= bits_of(value) ^ bits_of(widen(half))
    return lost


@compiled()
def fill_tile(part: Any, tile: Any) -> None:
    """Copy to the front of a tile, and fill the rest with zeros.

    Loops, for an assignment to a slice is not compiled to vector instructions.
    """
    for i in range(part.shape[0]):
        tile[i] = part[i]
    for i in range(part.shape[0], tile.shape[0]):
        tile[i] = 0
