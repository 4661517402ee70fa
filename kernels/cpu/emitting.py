"""Vectors of sixteen as LLVM has them: what several kernels emit that are written in its instructions."""

from typing import Any

import numpy as np
from llvmlite import ir

from branchwork.kernels.cpu.tile import BFLOATS, HAS_BF16_DOT, LANES
from branchwork.kernels.cpu.vector import LOG2_E

_F32, _I32 = ir.FloatType(), ir.IntType(32)
FLOATS, WORDS = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)
HALVES = ir.VectorType(ir.IntType(16), LANES)

# ln 2 in two parts, so that what is left after whole powers of two is exact.
_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.428606765330187e-06
_COEFFICIENTS = (1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0)
_LEAST = -87.0


def everywhere(kind: Any, value: float) -> Any:
    """The constant vector of one number."""
    # llvmlite writes a float's constant in double precision, which must then be a float32.
    exact = value if kind is WORDS else float(np.float32(value))
    return ir.Constant(kind, [exact] * LANES)


def splat(b: ir.IRBuilder, value: Any) -> Any:
    """The vector of one value."""
    kind = ir.VectorType(value.type, LANES)
    undefined = ir.Constant(kind, ir.Undefined)
    first = b.insert_element(undefined, value, _I32(0))
    return b.shuffle_vector(first, undefined, ir.Constant(WORDS, [0] * LANES))


def call(b: ir.IRBuilder, name: str, result: Any, *arguments: Any, flags: Any = ()) -> Any:
    """Call one of LLVM's intrinsic functions."""
    signature = ir.FunctionType(result, [argument.type for argument in arguments])
    function = b.module.globals.get(name) or ir.Function(b.module, signature, name)
    return b.call(function, arguments, fastmath=flags)


def fused(b: ir.IRBuilder, x: Any, y: Any, z: Any) -> Any:
    """x · y + z, rounded once."""
    return call(b, f"llvm.fma.v{LANES}f32", FLOATS, x, y, z)


def exp_below_zero(b: ir.IRBuilder, x: Any) -> Any:
    """`vector.exp` of what is not above zero."""
    whole = call(b, f"llvm.rint.v{LANES}f32", FLOATS, b.fmul(x, everywhere(FLOATS, LOG2_E)))
    rest = fused(b, whole, everywhere(FLOATS, -_LN2_HIGH), x)
    rest = fused(b, whole, everywhere(FLOATS, -_LN2_LOW), rest)
    value = everywhere(FLOATS, 1 / 720)
    for coefficient in _COEFFICIENTS:
        value = fused(b, value, rest, everywhere(FLOATS, coefficient))
    power = b.shl(b.fptosi(whole, WORDS), everywhere(WORDS, 23))
    value = b.bitcast(b.add(b.bitcast(value, WORDS), power), FLOATS)
    small = b.fcmp_ordered("<", x, everywhere(FLOATS, _LEAST))
    return b.select(small, everywhere(FLOATS, 0.0), value)


def narrowed(b: ir.IRBuilder, x: Any) -> Any:
    """bfloat16, rounded to nearest even."""
    if HAS_BF16_DOT:
        name = f"llvm.x86.avx512bf16.cvtneps2bf16.{32 * LANES}"
        return b.bitcast(call(b, name, ir.VectorType(BFLOATS.element, LANES), x), HALVES)
    bits = b.bitcast(x, WORDS)
    odd = b.and_(b.lshr(bits, everywhere(WORDS, 16)), everywhere(WORDS, 1))
    rounded = b.add(b.add(bits, everywhere(WORDS, 0x7FFF)), odd)
    return b.trunc(b.lshr(rounded, everywhere(WORDS, 16)), HALVES)


def put(b: ir.IRBuilder, value: Any, at: Any, is_half: bool) -> None:
    """Store sixteen float32 at an address, as they are or as bfloat16."""
    kind, size = (HALVES, 2) if is_half else (FLOATS, 4)
    stored = narrowed(b, value) if is_half else value
    b.store(stored, b.inttoptr(at, kind.as_pointer()), align=size)
