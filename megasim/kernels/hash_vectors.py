"""The hashes of a tile of float16 as LLVM vectors, where the processor rounds to bfloat16 itself.

The plain loop rounds two words at a time with shifts, masks and additions: ten instructions for 32
elements, besides twelve for each of two hashes. AVX-512 has one that rounds 32 float32
(`vcvtne2ps2bf16`, to nearest, ties to even, whatever the mode) and one more to put them in order.
Sums are of integers, modulo 2⁶⁴, so that hashes are the same to the last bit.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding  # type: ignore[import-untyped]
import numba
from llvmlite import ir

from megasim.kernels.compiled import instruction
from megasim.kernels.state import PASSES, TILE

_WORDS = 8  # of a vector
_STEP = TILE // 4  # words of a tile of float16

_I64 = ir.IntType(64)
_WORD_VECTOR = ir.VectorType(_I64, _WORDS)
_SINGLE_VECTOR = ir.VectorType(ir.FloatType(), 2 * _WORDS)


class _BrainFloat(ir.Type):  # type: ignore[misc]
    """bfloat16 in LLVM's language, of which llvmlite has no type."""

    def _to_string(self) -> str:
        return "bfloat"


_ROUNDED = ir.VectorType(_BrainFloat(), 4 * _WORDS)
_HALF_VECTOR = ir.VectorType(ir.IntType(16), 4 * _WORDS)
# What is rounded comes with the second half in front; of a word, it is the lower of each two.
_ORDER = [lane for i in range(2 * _WORDS) for lane in (i, 2 * _WORDS + i)]


def rounds_to_bfloat16() -> bool:
    """Whether the processor that loops are compiled for has these vectors and this rounding."""
    if getattr(numba.config, "CPU_NAME", None):  # another one than this
        return False
    return bool(llvmlite.binding.get_host_cpu_features().get("avx512bf16"))


@instruction
def hash_halves_as_vectors(_: Any, halves: Any, singles: Any, keys: Any, a: Any, b: Any) -> Any:
    """Do as `hash_loops.hash_halves`: a tile of finite float16, no zeros, and the same as float32.

    What is subnormal as float32 would be rounded to 0, but no float16 is.

    Args:
        halves: (TILE / 4,) words. singles: (TILE / 2,). keys: (TILE + PASSES − 1,).
        a, b: (PASSES,) filled with the hashes of the float16, and rounded to bfloat16.
    """
    return numba.boolean(halves, singles, keys, a, b), _hash


def _hash(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    halves, singles, keys, *outs = [
        context.make_array(kind)(context, builder, value).data
        for kind, value in zip(signature.args, arguments, strict=True)
    ]
    before = builder.block
    loop = builder.append_basic_block("words")
    after = builder.append_basic_block("after_words")
    builder.branch(loop)
    builder.position_at_end(loop)
    place = builder.phi(_I64)
    sums = [builder.phi(_WORD_VECTOR) for _ in range(2 * PASSES)]
    low, high = (
        builder.bitcast(_loaded(builder, singles, at), _SINGLE_VECTOR)
        for at in (place, builder.add(place, _I64(_STEP)))
    )
    words = (_loaded(builder, halves, place), _rounded(builder, low, high))
    added = []
    for i in range(PASSES):
        key = _loaded(builder, keys, builder.add(place, _I64(i)))
        for word, total in zip(words, (sums[i], sums[PASSES + i]), strict=True):
            product = _product_of_halves(builder, builder.add(word, key))
            added.append(builder.add(total, product))
    new = [*added[::2], *added[1::2]]
    new_place = builder.add(place, _I64(_WORDS))
    place.add_incoming(_I64(0), before)
    place.add_incoming(new_place, loop)
    for phi, then in zip(sums, new, strict=True):
        phi.add_incoming(ir.Constant(_WORD_VECTOR, [0] * _WORDS), before)
        phi.add_incoming(then, loop)
    builder.cbranch(builder.icmp_unsigned("<", new_place, _I64(_STEP)), loop, after)
    builder.position_at_end(after)
    reduce = _declared(builder.module, f"llvm.vector.reduce.add.v{_WORDS}i64", _I64, [_WORD_VECTOR])
    for i, total in enumerate(new):
        out = outs[i // PASSES]
        builder.store(builder.call(reduce, [total]), builder.gep(out, [_I64(i % PASSES)]))
    return ir.Constant(ir.IntType(1), 1)


def _loaded(builder: Any, words: Any, place: Any) -> Any:
    at = builder.bitcast(builder.gep(words, [place]), _WORD_VECTOR.as_pointer())
    return builder.load(at, align=8)


def _product_of_halves(builder: Any, words: Any) -> Any:
    lower = builder.and_(words, ir.Constant(_WORD_VECTOR, [0xFFFFFFFF] * _WORDS))
    upper = builder.lshr(words, ir.Constant(_WORD_VECTOR, [32] * _WORDS))
    return builder.mul(lower, upper)


def _rounded(builder: Any, low: Any, high: Any) -> Any:
    """Return 32 float32 as bfloat16, those of `low` in the upper halves of 32 bits."""
    name, given = "llvm.x86.avx512bf16.cvtne2ps2bf16.512", [_SINGLE_VECTOR, _SINGLE_VECTOR]
    both = builder.call(_declared(builder.module, name, _ROUNDED, given), [low, high])
    rounded = builder.bitcast(both, _HALF_VECTOR)
    order = ir.Constant(ir.VectorType(ir.IntType(32), len(_ORDER)), _ORDER)
    return builder.bitcast(builder.shuffle_vector(rounded, rounded, order), _WORD_VECTOR)


def _declared(module: Any, name: str, returns: Any, takes: Any) -> Any:
    """Return an intrinsic of LLVM, declared once in a module."""
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(returns, takes), name)
