"""A block of 64 scores of one row becomes weights, in vectors of 16: what attention does most often after its products.

Written in LLVM's vectors: the plain loops took five times as long as the products around them, since a compiler
halves the vectors' width and calls what it cannot see to be short.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from branchwork.kernels.cpu.tile import LANES

_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_FLOATS, _WORDS = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)
_HALVES = ir.VectorType(ir.IntType(16), LANES)
_VECTORS = 4

_LOG2_E = 1.4426950408889634
# ln 2 in two parts, so that what is left after whole powers of two is exact.
_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.428606765330187e-06
_COEFFICIENTS = (1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0)
_LEAST = -87.0
_RULED_OUT = -1e30


def _all(kind: Any, value: float) -> Any:
    # llvmlite writes a float's constant in double precision, which must then be a float32.
    exact = value if kind is _WORDS else float(np.float32(value))
    return ir.Constant(kind, [exact] * LANES)


def _splat(b: ir.IRBuilder, value: Any) -> Any:
    kind = ir.VectorType(value.type, LANES)
    undefined = ir.Constant(kind, ir.Undefined)
    first = b.insert_element(undefined, value, _I32(0))
    return b.shuffle_vector(first, undefined, ir.Constant(_WORDS, [0] * LANES))


def _call(b: ir.IRBuilder, name: str, result: Any, *arguments: Any, flags: Any = ()) -> Any:
    signature = ir.FunctionType(result, [argument.type for argument in arguments])
    function = b.module.globals.get(name) or ir.Function(b.module, signature, name)
    return b.call(function, arguments, fastmath=flags)


def _fused(b: ir.IRBuilder, x: Any, y: Any, z: Any) -> Any:
    return _call(b, f"llvm.fma.v{LANES}f32", _FLOATS, x, y, z)


def _exp(b: ir.IRBuilder, x: Any) -> Any:
    """`vector.exp` of what is not above zero."""
    whole = _call(b, f"llvm.rint.v{LANES}f32", _FLOATS, b.fmul(x, _all(_FLOATS, _LOG2_E)))
    rest = _fused(b, whole, _all(_FLOATS, -_LN2_HIGH), x)
    rest = _fused(b, whole, _all(_FLOATS, -_LN2_LOW), rest)
    value = _all(_FLOATS, 1 / 720)
    for coefficient in _COEFFICIENTS:
        value = _fused(b, value, rest, _all(_FLOATS, coefficient))
    power = b.shl(b.fptosi(whole, _WORDS), _all(_WORDS, 23))
    value = b.bitcast(b.add(b.bitcast(value, _WORDS), power), _FLOATS)
    small = b.fcmp_ordered("<", x, _all(_FLOATS, _LEAST))
    return b.select(small, _all(_FLOATS, 0.0), value)


def _narrow(b: ir.IRBuilder, x: Any) -> Any:
    """bfloat16, rounded to nearest even."""
    bits = b.bitcast(x, _WORDS)
    odd = b.and_(b.lshr(bits, _all(_WORDS, 16)), _all(_WORDS, 1))
    rounded = b.add(b.add(bits, _all(_WORDS, 0x7FFF)), odd)
    return b.trunc(b.lshr(rounded, _all(_WORDS, 16)), _HALVES)


def _at(b: ir.IRBuilder, address: Any, index: int, kind: Any, size: int) -> Any:
    return b.inttoptr(b.add(address, _I64(index * LANES * size)), kind.as_pointer())


@intrinsic
def soften(
    _: Any, scores: Any, first: Any, last: Any, scale: Any, highest: Any, weights: Any
) -> Any:
    """weights[j] = exp(scores[j] · scale − h), 0 outside of first to last; h is the higher of `highest` and the row's.

    scores   address of 64 float32
    scale    above zero
    weights  array of 64, as they are stored: float32, or bfloat16 as uint16

    Returns (h, the sum of the weights before they are rounded).
    """
    is_half = weights.dtype == types.uint16
    result = types.UniTuple(types.float32, 2)

    def generate(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        scores, first, last, scale, highest, weights = args
        array = context.make_array(signature.args[-1])(context, b, weights)
        out = b.ptrtoint(array.data, _I64)
        low, high = (_splat(b, b.trunc(bound, _I32)) for bound in (first, last))
        scales, vectors, best = _splat(b, scale), [], None
        for v in range(_VECTORS):
            lanes = ir.Constant(_WORDS, list(range(v * LANES, (v + 1) * LANES)))
            seen = b.and_(b.icmp_signed(">=", lanes, low), b.icmp_signed("<", lanes, high))
            raw = b.load(_at(b, scores, v, _FLOATS, 4), align=4)
            scaled = b.select(seen, b.fmul(raw, scales), _all(_FLOATS, _RULED_OUT))
            vectors.append(scaled)
            best = (
                scaled
                if best is None
                else b.select(b.fcmp_ordered(">", best, scaled), best, scaled)
            )
        top = _call(b, f"llvm.vector.reduce.fmax.v{LANES}f32", _F32, best, flags=("nnan",))
        top = b.select(b.fcmp_ordered(">", highest, top), highest, top)
        tops, total = _splat(b, top), _all(_FLOATS, 0.0)
        for v, scaled in enumerate(vectors):
            weight = _exp(b, b.fsub(scaled, tops))
            total = b.fadd(total, weight)
            kind, size, value = (
                (_HALVES, 2, _narrow(b, weight)) if is_half else (_FLOATS, 4, weight)
            )
            b.store(value, _at(b, out, v, kind, size), align=size)
        name = f"llvm.vector.reduce.fadd.v{LANES}f32"
        summed = _call(b, name, _F32, _F32(0.0), total, flags=("reassoc",))
        return context.make_tuple(b, result, [top, summed])

    parameters = (types.int64, types.int64, types.int64, types.float32, types.float32, weights)
    return result(*parameters), generate


@intrinsic
def shrink_add(_: Any, sums: Any, shrink: Any, partial: Any) -> Any:
    """sums[i] = sums[i] · shrink + partial[i] for 16 float32. Addresses of sums and partial."""

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        sums, shrink, partial = args
        old, new = (b.load(_at(b, at, 0, _FLOATS, 4), align=4) for at in (sums, partial))
        b.store(_fused(b, old, _splat(b, shrink), new), _at(b, sums, 0, _FLOATS, 4), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32, types.int64), generate
