"""Lines of rows about a product, in vectors of sixteen: a norm's, what follows the gate, and what adapters add.

Written in LLVM's vectors: what a compiler makes of the plain loops is half as wide, and rounds to bfloat16 in many
steps; of the gate that was a third of the product before it.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from branchwork.kernels.cpu.emitting import (
    FLOATS,
    call,
    everywhere,
    exp_below_zero,
    fused,
    put,
    splat,
)
from branchwork.kernels.cpu.tile import LANES, PANEL

_F32, _I64 = ir.FloatType(), ir.IntType(64)
_VECTOR_BYTES = 4 * LANES


def _floats(b: ir.IRBuilder, at: Any, vector: Any) -> Any:
    place = b.add(at, b.mul(vector, _I64(_VECTOR_BYTES)))
    return b.load(b.inttoptr(place, FLOATS.as_pointer()), align=4)


@intrinsic
def norm_lines(_: Any, x: Any, weight: Any, lines: Any, eps: Any, out: Any, line_bytes: Any) -> Any:
    """out = x / rms(x) · weight as bfloat16, for one row of 32 · lines float32.

    x, weight, out  addresses
    line_bytes      from a line of `out` (32 numbers) to the next
    """

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        x, weight, lines, eps, out, line_bytes = args
        # Two sums, or each would wait for the one before.
        sums = [cgutils.alloca_once_value(b, everywhere(FLOATS, 0.0)) for _ in range(2)]
        with cgutils.for_range(b, lines) as loop:
            for half in range(2):
                part = _floats(b, x, b.add(b.mul(loop.index, _I64(2)), _I64(half)))
                b.store(fused(b, part, part, b.load(sums[half])), sums[half])
        both = b.fadd(b.load(sums[0]), b.load(sums[1]))
        name = f"llvm.vector.reduce.fadd.v{LANES}f32"
        total = call(b, name, _F32, _F32(0.0), both, flags=("reassoc",))
        width = b.sitofp(b.mul(lines, _I64(2 * LANES)), _F32)
        root = call(b, "llvm.sqrt.f32", _F32, b.fadd(b.fdiv(total, width), eps))
        factors = splat(b, b.fdiv(_F32(1.0), root))
        with cgutils.for_range(b, lines) as loop:
            to = b.add(out, b.mul(loop.index, line_bytes))
            for half in range(2):
                vector = b.add(b.mul(loop.index, _I64(2)), _I64(half))
                scaled = b.fmul(_floats(b, x, vector), factors)
                value = b.fmul(scaled, _floats(b, weight, vector))
                put(b, value, b.add(to, _I64(2 * LANES * half)), True)
        return context.get_dummy_value()

    parameters = [types.int64] * 6
    parameters[3] = types.float32
    return types.void(*parameters), generate


@intrinsic
def silu_mul_line(_: Any, sums: Any, bias: Any, out: Any, like: Any) -> Any:
    """out[j] = silu(sums[j] + bias[j]) · (sums[32 + j] + bias[32 + j]), for 32 columns. Addresses.

    like  an array of the type that `out` stores
    """
    is_half = like.dtype == types.uint16

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        sums, bias, out, _like = args
        per_half = PANEL // 2 // LANES

        def biased(vector: int) -> Any:
            return b.fadd(_floats(b, sums, _I64(vector)), _floats(b, bias, _I64(vector)))

        for vector in range(per_half):
            gate, up = biased(vector), biased(vector + per_half)
            # e^g / (1 + e^g) below zero, 1 / (1 + e^-g) above: neither overflows.
            size = call(b, f"llvm.fabs.v{LANES}f32", FLOATS, gate)
            power, one = exp_below_zero(b, b.fneg(size)), everywhere(FLOATS, 1.0)
            is_below = b.fcmp_ordered("<", gate, everywhere(FLOATS, 0.0))
            share = b.fdiv(b.select(is_below, power, one), b.fadd(one, power))
            value = b.fmul(b.fmul(gate, share), up)
            at = b.add(out, _I64(vector * LANES * (2 if is_half else 4)))
            put(b, value, at, is_half)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, like), generate


@intrinsic
def add_panel(_: Any, x: Any, out: Any) -> Any:
    """out += x, for the 64 columns of a panel in float32. Addresses."""

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        x, out = args
        for vector in range(PANEL // LANES):
            both = b.fadd(_floats(b, out, _I64(vector)), _floats(b, x, _I64(vector)))
            put(b, both, b.add(out, _I64(vector * _VECTOR_BYTES)), False)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def store_16(_: Any, x: Any, out: Any, like: Any) -> Any:
    """Sixteen float32 at an address as the array `like` stores them, at another."""
    is_half = like.dtype == types.uint16

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        put(b, _floats(b, args[0], _I64(0)), args[1], is_half)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, like), generate
