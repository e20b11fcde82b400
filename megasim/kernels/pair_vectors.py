"""Runs of pairs of rows as LLVM vectors, where that is faster than what LLVM makes of the loop.

Of `for i: count += d != 0; size += |d|; square += d * d` LLVM makes vectors of 16 lanes where the
processor has AVX-512, four of them at a time, and puts together the lanes of every sum by itself.
Here one row is compared with up to four others at a time, so that it is loaded once for them and
the lanes of eight sums are put together in common vectors. Sums are taken in the order that LLVM 22
chose, so that results keep every bit: lane i of 64 takes the elements i, i + 64 …; then four
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
# Rows that one row is compared with at a time: eight sums fill a vector of float64.
MOST_AT_ONCE = 4
# Sums of squares between these lost nothing to the range of float32.
TINY, HUGE = 1e-24, 1e30
_LANES, _VECTORS, _SUMS = 16, 4, 8
# Where LLVM itself takes vectors of 16 lanes; with Intel's it prefers 8, and sums in another order.
_PROCESSORS = ("znver4", "znver5")

_VECTOR = ir.VectorType(ir.FloatType(), _LANES)
_I32, _I64, _DOUBLE = ir.IntType(32), ir.IntType(64), ir.DoubleType()


def has_vector_runs() -> bool:
    """Whether runs give on this processor what the plain loop does, to the last bit."""
    if getattr(numba.config, "CPU_NAME", None):  # compiling for another processor than this one
        return False
    known = llvmlite.binding.get_host_cpu_features()
    return llvmlite.binding.get_host_cpu_name() in _PROCESSORS and bool(known.get("avx512bw"))


def _adder(others: int) -> Any:
    """Return the instruction that adds a run of `others` pairs of one row to their sums.

    It takes, and returns whether it has added them, for it adds nothing where one sum of squares
    left the range of float32:

        rows: (N, n) float32.
        start: the first of `RUN` columns.
        pairs: (P, 2) int32.
        p: the first pair; those that follow have the same first row.
        counts: (P,) numbers of differing elements, int64.
        sums: (P, 2) sums of |a − b| and of (a − b)², float64.
    """

    def add(_: Any, rows: Any, start: Any, pairs: Any, p: Any, counts: Any, sums: Any) -> Any:
        def made(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            rows, start, pairs, p, counts, sums = _unpacked(context, builder, signature, arguments)
            places = _places(builder, rows, start, pairs, p, others)
            found, lanes = _run(builder, places)
            return _keep(builder, found, lanes, counts.data, sums.data, p)

        return numba.boolean(rows, start, pairs, p, counts, sums), made

    return instruction(add)


add_one, add_two, add_three, add_four = map(_adder, range(1, 5))


def _unpacked(context: Any, builder: Any, signature: Any, arguments: Any) -> list[Any]:
    """Return arrays as what has `data` and `shape`, and numbers as they are."""
    return [
        context.make_array(kind)(context, builder, value) if hasattr(kind, "ndim") else value
        for kind, value in zip(signature.args, arguments, strict=True)
    ]


def _places(builder: Any, rows: Any, start: Any, pairs: Any, p: Any, others: int) -> list[Any]:
    """Return where a column lies of the first row of a pair, and of the second rows from it on."""
    length = builder.extract_value(rows.shape, 1)
    at = builder.shl(p, _I64(1))
    columns = [builder.add(at, _I64(column)) for column in (0, *range(1, 2 * others, 2))]
    places = []
    for column in columns:
        row = builder.sext(builder.load(builder.gep(pairs.data, [column])), _I64)
        places.append(builder.gep(rows.data, [builder.add(builder.mul(row, length), start)]))
    return places


def _keep(builder: Any, found: list[Any], lanes: list[Any], counts: Any, sums: Any, p: Any) -> Any:
    """Add counts, and sums of the given lanes, to those of pairs; return whether that was done."""
    totals = builder.fpext(_totals(builder, lanes), ir.VectorType(_DOUBLE, _SUMS))
    whole = _are_whole(builder, found, totals)
    with builder.if_then(whole, likely=True):
        for i, count in enumerate(found):
            _add_to(builder, builder.gep(counts, [builder.add(p, _I64(i))]), count, builder.add)
        place = builder.gep(sums, [builder.shl(p, _I64(1))])
        # a vector is a power of two of them
        for first, size in {1: [(0, 2)], 2: [(0, 4)], 3: [(0, 4), (4, 2)], 4: [(0, 8)]}[len(found)]:
            some = _chosen(builder, totals, totals, range(first, first + size))
            there = builder.gep(place, [_I64(first)])
            _add_to(builder, there, some, builder.fadd)
    return whole


def _add_to(builder: Any, place: Any, value: Any, add: Any) -> None:
    place = _as_vector(builder, place, value.type)
    before = builder.load(place, align=8)
    builder.store(add(before, value), place, align=8)


def _end(builder: Any, number: int) -> Any:
    """Return a number that LLVM does not know: loops that it unrolled took more registers than
    there are."""
    return builder.asm(ir.FunctionType(_I64, [_I64]), "", "=r,0", [_I64(number)], side_effect=False)


def _loop(builder: Any, first: int, end: Any, step: int, starts: list[Any], body: Any) -> list[Any]:
    """Write a loop from one place to another; `body` takes a place and values, and returns them."""
    before = builder.block
    loop = builder.append_basic_block("run")
    after = builder.append_basic_block("after_run")
    builder.branch(loop)
    builder.position_at_end(loop)
    place = builder.phi(_I64)
    old = [builder.phi(start.type) for start in starts]
    new: list[Any] = body(place, old)
    new_place = builder.add(place, _I64(step))
    for phi, start, then in zip(
        [place, *old], [_I64(first), *starts], [new_place, *new], strict=True
    ):
        phi.add_incoming(start, before)
        phi.add_incoming(then, loop)
    builder.cbranch(builder.icmp_unsigned("<", new_place, end), loop, after)
    builder.position_at_end(after)
    return new


def _count(builder: Any, before: Any, unequal: Any) -> Any:
    """Return a count and the lanes that are set."""
    word = builder.bitcast(unequal, ir.IntType(unequal.type.count))
    ones = _declared(builder.module, "llvm.ctpop.i64", _I64, [_I64])
    return builder.add(before, builder.call(ones, [builder.zext(word, _I64)]))


def _run(builder: Any, places: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return of each pair the count, and 16 lanes each of its sums of magnitudes and squares."""
    module, zeros = builder.module, ir.Constant(_VECTOR, [0.0] * _LANES)
    magnitude = _declared(module, f"llvm.fabs.v{_LANES}f32", _VECTOR, [_VECTOR])
    add_product = _declared(module, f"llvm.fma.v{_LANES}f32", _VECTOR, [_VECTOR] * 3)
    others = len(places) - 1

    def body(place: Any, old: list[Any]) -> list[Any]:
        counts, sums = old[:others], old[others:]
        x, *ys = (
            builder.load(_as_vector(builder, builder.gep(at, [place]), _VECTOR), align=4)
            for at in places
        )
        new = []
        for k, y in enumerate(ys):
            d = builder.fsub(x, y)
            counts[k] = _count(builder, counts[k], builder.fcmp_unordered("!=", d, zeros))
            new.append(builder.fadd(sums[2 * k], builder.call(magnitude, [d])))
            new.append(builder.call(add_product, [d, d, sums[2 * k + 1]]))
        return counts + new

    counts: list[Any] = [_I64(0)] * others
    end, quarters = _end(builder, RUN), []
    for i in range(_VECTORS):
        starts = [*counts, *[zeros] * (2 * others)]
        found = _loop(builder, i * _LANES, end, _LANES * _VECTORS, starts, body)
        counts = found[:others]
        quarters.append(found[others:])
    return counts, [_pairwise(builder, list(some)) for some in zip(*quarters, strict=True)]


def _as_vector(builder: Any, place: Any, vector: Any) -> Any:
    return builder.bitcast(place, vector.as_pointer())


def _pairwise(builder: Any, vectors: list[Any]) -> Any:
    """Return the sum of four vectors, or whatever power of two, in LLVM's order."""
    while len(vectors) > 1:
        vectors = [builder.fadd(a, b) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    return vectors[0]


def _totals(builder: Any, vectors: list[Any]) -> Any:
    """Return eight numbers, the first of them the sums of all lanes of up to eight vectors.

    Each is summed in LLVM's order: the upper half is added to the lower, and so on. Two vectors of
    which half is left are put into one, and added together.
    """
    vectors = vectors + vectors[-1:] * (_SUMS - len(vectors))
    width = _LANES
    while width > 2:
        half = width // 2
        lower, upper = (
            [
                group * width + first + lane
                for group in range(_LANES // width)
                for lane in range(half)
            ]
            for first in (0, half)
        )
        vectors = [
            builder.fadd(
                _chosen(builder, a, b, [*upper, *(_LANES + lane for lane in upper)]),
                _chosen(builder, a, b, [*lower, *(_LANES + lane for lane in lower)]),
            )
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        width = half
    (left,) = vectors
    return builder.fadd(
        _chosen(builder, left, left, range(1, _LANES, 2)),
        _chosen(builder, left, left, range(0, _LANES, 2)),
    )


def _are_whole(builder: Any, counts: list[Any], totals: Any) -> Any:
    """Whether of each pair no element differs, or the sum of squares is between the bounds."""
    whole = ir.Constant(ir.IntType(1), 1)
    for i, count in enumerate(counts):
        square = builder.extract_element(totals, _I32(2 * i + 1))
        fits = builder.and_(
            builder.fcmp_ordered(">", square, _DOUBLE(TINY)),
            builder.fcmp_ordered("<", square, _DOUBLE(HUGE)),
        )
        same = builder.icmp_unsigned("==", count, _I64(0))
        whole = builder.and_(whole, builder.or_(same, fits))
    return whole


def _declared(module: Any, name: str, returns: Any, takes: Any) -> Any:
    """Return an intrinsic of LLVM, declared once in a module."""
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(returns, takes), name)


def _chosen(builder: Any, a: Any, b: Any, lanes: Any) -> Any:
    return builder.shuffle_vector(
        a, b, ir.Constant(ir.VectorType(_I32, len(lanes)), [_I32(lane) for lane in lanes])
    )
