"""A run of a pair of rows as LLVM vectors, where that is faster than what LLVM makes of the loop.

Of `for i: count += d != 0; size += |d|; square += d * d` LLVM makes vectors of 16 lanes where the
processor has AVX-512, four of them at a time, and counts by turning masks into vectors of integers:
seven instructions for 16 elements. Here the masks of 64 elements become one word, whose set bits
are counted by a scalar instruction beside the vector units. Sums are taken in the order that LLVM
22 chose, so that results keep every bit: lane i of 64 takes the elements i, i + 64 …; then four
vectors are added pairwise, and halves of what is left.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding  # type: ignore[import-untyped]
import numba
from llvmlite import ir

from megasim.kernels.compiled import instruction

# Elements that are summed in float32.
RUN = 512
_LANES, _VECTORS = 16, 4
# Where LLVM itself takes vectors of 16 lanes; with Intel's it prefers 8, and sums in another order.
_PROCESSORS = ("znver4", "znver5")

_VECTOR = ir.VectorType(ir.FloatType(), _LANES)
_I32, _I64 = ir.IntType(32), ir.IntType(64)


def has_vector_runs() -> bool:
    """Whether `vector_run` gives on this processor what the plain loop does, to the last bit."""
    if getattr(numba.config, "CPU_NAME", None):  # compiling for another processor than this one
        return False
    known = llvmlite.binding.get_host_cpu_features()
    return llvmlite.binding.get_host_cpu_name() in _PROCESSORS and bool(known.get("avx512bw"))


@instruction
def vector_run(_: Any, a: Any, b: Any) -> Any:
    """Number of differences of the first `RUN` elements, and sums of their magnitudes and squares.

    Takes two contiguous float32 arrays of at least `RUN` elements; returns int64 and two float64.
    """
    kinds: Any = numba.types
    returned = kinds.Tuple((numba.int64, numba.float64, numba.float64))
    return returned(a, b), _run


def _run(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    rows = [
        context.make_array(kind)(context, builder, value).data
        for kind, value in zip(signature.args, arguments, strict=True)
    ]
    module, zeros = builder.module, ir.Constant(_VECTOR, [0.0] * _LANES)
    magnitude = _declared(module, f"llvm.fabs.v{_LANES}f32", _VECTOR, [_VECTOR])
    add_product = _declared(module, f"llvm.fma.v{_LANES}f32", _VECTOR, [_VECTOR] * 3)
    bits = ir.IntType(_LANES * _VECTORS)
    ones = _declared(module, f"llvm.ctpop.i{bits.width}", bits, [bits])

    before = builder.block
    loop = builder.append_basic_block("run")
    after = builder.append_basic_block("after_run")
    builder.branch(loop)
    builder.position_at_end(loop)
    place, count = builder.phi(_I64), builder.phi(_I64)
    sizes = [builder.phi(_VECTOR) for _ in range(_VECTORS)]
    squares = [builder.phi(_VECTOR) for _ in range(_VECTORS)]
    masks, new_sizes, new_squares = [], [], []
    for i in range(_VECTORS):
        at = builder.add(place, _I64(i * _LANES))
        x, y = (
            builder.load(builder.gep(row, [at], source_etype=ir.FloatType()), align=4, typ=_VECTOR)
            for row in rows
        )
        d = builder.fsub(x, y)
        masks.append(builder.fcmp_unordered("!=", d, zeros))
        new_sizes.append(builder.fadd(sizes[i], builder.call(magnitude, [d])))
        new_squares.append(builder.call(add_product, [d, d, squares[i]]))
    word = builder.bitcast(_joined(builder, masks), bits)
    new_count = builder.add(count, builder.call(ones, [word]))
    new_place = builder.add(place, _I64(_LANES * _VECTORS))
    for phi, first, then in (
        (place, _I64(0), new_place),
        (count, _I64(0), new_count),
        *((phi, zeros, then) for phi, then in zip(sizes, new_sizes, strict=True)),
        *((phi, zeros, then) for phi, then in zip(squares, new_squares, strict=True)),
    ):
        phi.add_incoming(first, before)
        phi.add_incoming(then, loop)
    builder.cbranch(builder.icmp_unsigned("<", new_place, _I64(RUN)), loop, after)
    builder.position_at_end(after)
    double = ir.DoubleType()
    size, square = (
        builder.fpext(_sum(builder, vectors), double) for vectors in (new_sizes, new_squares)
    )
    return context.make_tuple(builder, signature.return_type, (new_count, size, square))


def _declared(module: Any, name: str, returns: Any, takes: Any) -> Any:
    """Return an intrinsic of LLVM, declared once in a module."""
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(returns, takes), name)


def _joined(builder: Any, vectors: list[Any]) -> Any:
    """Return vectors, a power of two of them, one after another in one."""
    while len(vectors) > 1:
        vectors = [
            _chosen(builder, a, b, range(2 * a.type.count))
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return vectors[0]


def _sum(builder: Any, vectors: list[Any]) -> Any:
    """Return the sum of all lanes, in LLVM's order."""
    while len(vectors) > 1:
        vectors = [builder.fadd(a, b) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    left = vectors[0]
    while left.type.count > 1:
        half = left.type.count // 2
        upper = _chosen(builder, left, left, range(half, 2 * half))
        left = builder.fadd(upper, _chosen(builder, left, left, range(half)))
    return builder.extract_element(left, _I32(0))


def _chosen(builder: Any, a: Any, b: Any, lanes: range) -> Any:
    return builder.shuffle_vector(
        a, b, ir.Constant(ir.VectorType(_I32, len(lanes)), [_I32(lane) for lane in lanes])
    )
