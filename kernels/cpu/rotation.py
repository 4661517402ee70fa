"""Rotary positions of a token's heads, halves against each other (Su et al. 2021), in vectors of sixteen.

Written in LLVM's vectors: of a loop over half a head, sixteen numbers perhaps, which reads four rows and writes two, a
compiler makes one number at a time.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from branchwork.kernels.cpu.emitting import FLOATS, HALVES, fused, narrowed
from branchwork.kernels.cpu.tile import LANES
from branchwork.kernels.cpu.vector import kernel, narrow

_I64 = ir.IntType(64)


def _store(b: ir.IRBuilder, value: Any, address: Any, is_half: bool) -> None:
    kind, size = (HALVES, 2) if is_half else (FLOATS, 4)
    stored = narrowed(b, value) if is_half else value
    b.store(stored, b.inttoptr(address, kind.as_pointer()), align=size)


@intrinsic
def _rotate_vectors(
    _: Any, x: Any, count: Any, half: Any, cos: Any, sin: Any, out: Any, like: Any
) -> Any:
    """Rotate `count` heads that lie in a row, of 2 · half numbers each, half a multiple of 16. Addresses.

    like  an array of the type that `out` stores
    """
    is_half = like.dtype == types.uint16
    size = 2 if is_half else 4

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        x, count, half, cos, sin, out, _like = args

        def at(address: Any, index: Any, bytes_each: int) -> Any:
            return b.add(address, b.mul(index, _I64(bytes_each)))

        def load(address: Any, index: Any) -> Any:
            return b.load(b.inttoptr(at(address, index, 4), FLOATS.as_pointer()), align=4)

        with cgutils.for_range(b, b.udiv(half, _I64(LANES))) as vector:
            first = b.mul(vector.index, _I64(LANES))
            cosines, sines = load(cos, first), load(sin, first)
            with cgutils.for_range(b, count) as head:
                low = b.add(first, b.mul(head.index, b.mul(half, _I64(2))))
                high = b.add(low, half)
                lows, highs = load(x, low), load(x, high)
                turned = fused(b, lows, cosines, b.fneg(b.fmul(highs, sines)))
                _store(b, turned, at(out, low, size), is_half)
                turned = fused(b, highs, cosines, b.fmul(lows, sines))
                _store(b, turned, at(out, high, size), is_half)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6, like), generate


@intrinsic
def _store_vectors(_: Any, x: Any, count: Any, out: Any, like: Any) -> Any:
    """Write `count` float32, a multiple of 16, as `like` stores them. Addresses."""
    is_half = like.dtype == types.uint16

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        x, count, out, _like = args
        with cgutils.for_range(b, b.udiv(count, _I64(LANES))) as vector:
            first = b.mul(vector.index, _I64(LANES))
            source = b.inttoptr(b.add(x, b.mul(first, _I64(4))), FLOATS.as_pointer())
            target = b.add(out, b.mul(first, _I64(2 if is_half else 4)))
            _store(b, b.load(source, align=4), target, is_half)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, like), generate


@kernel
def rotate(x: Any, cos: Any, sin: Any, out: Any) -> None:
    """Rotate heads by their position's cosines and sines, halves against each other.

    x         [heads · head_dim] float32
    cos, sin  [head_dim / 2]
    out       [heads, head_dim], as it is stored
    """
    half = cos.shape[0]
    if half % LANES == 0:
        _rotate_vectors(
            x.ctypes.data, len(out), half, cos.ctypes.data, sin.ctypes.data, out.ctypes.data, out
        )
        return
    for h in range(len(out)):
        low, high = h * 2 * half, (h * 2 + 1) * half
        for i in range(half):
            out[h, i] = narrow(x[low + i] * cos[i] - x[high + i] * sin[i], out)
            out[h, half + i] = narrow(x[high + i] * cos[i] + x[low + i] * sin[i], out)


@kernel
def store_heads(x: Any, out: Any) -> None:
    """Write heads [heads · head_dim] to [heads, head_dim], as it is stored."""
    dim = out.shape[1]
    if dim % LANES == 0:
        _store_vectors(x.ctypes.data, len(out) * dim, out.ctypes.data, out)
        return
    for h in range(len(out)):
        for d in range(dim):
            out[h, d] = narrow(x[h * dim + d], out)
