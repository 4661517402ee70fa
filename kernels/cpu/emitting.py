"""Vectors of sixteen as LLVM has them: what several kernels emit that are written in its instructions."""

from typing import Any

import numpy as np
from llvmlite import ir

from branchwork.kernels.cpu.tile import LANES

_F32, _I32 = ir.FloatType(), ir.IntType(32)
FLOATS, WORDS = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)
HALVES = ir.VectorType(ir.IntType(16), LANES)


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


def narrowed(b: ir.IRBuilder, x: Any) -> Any:
    """bfloat16, rounded to nearest even."""
    bits = b.bitcast(x, WORDS)
    odd = b.and_(b.lshr(bits, everywhere(WORDS, 16)), everywhere(WORDS, 1))
    rounded = b.add(b.add(bits, everywhere(WORDS, 0x7FFF)), odd)
    return b.trunc(b.lshr(rounded, everywhere(WORDS, 16)), HALVES)
