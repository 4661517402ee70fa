"""What numba lacks for numeric code on bits: bfloat16 kept as uint16, a vectorisable exponential, atomics.

Everything here is inlined into the kernels. numba and numpy are all it imports, so a kernel can be
compiled in a process that never loads torch.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

Function = TypeVar("Function", bound=Callable[..., Any])

LOG2_E = np.float32(1.4426950408889634)


def kernel(function: Function) -> Function:
    """A function that only compiled code calls. Sums may be reordered; infinities and NaN keep their meaning.

    It makes no arrays, and counts no references to those it is given (`cached.borrowing_entry_point`).
    Division follows numpy: a check for zero would keep a loop from being vectorised.
    """
    rules = {"contract", "reassoc", "nsz", "arcp"}
    # Without the wrappers for Python and C it compiles in half the time.
    compiled: Function = njit(
        fastmath=rules,
        error_model="numpy",
        no_cpython_wrapper=True,
        no_cfunc_wrapper=True,
        _nrt=False,
    )(function)
    return compiled


def inlined(function: Function) -> Function:
    """A part of the kernels that call it."""
    compiled: Function = njit(inline="always", error_model="numpy")(function)
    return compiled


@intrinsic
def float_of_bits(_: Any, bits: Any) -> Any:
    """The float32 whose bits are a uint32."""
    return types.float32(types.uint32), lambda _c, b, _s, args: b.bitcast(args[0], ir.FloatType())


@intrinsic
def bits_of_float(_: Any, value: Any) -> Any:
    """The bits of a float32 as a uint32."""
    return types.uint32(types.float32), lambda _c, b, _s, args: b.bitcast(args[0], ir.IntType(32))


@intrinsic
def atomic_add(_: Any, address: Any, value: Any) -> Any:
    """Add to the int64 at an address; returns what was there. Orders memory as acquire and release."""

    def generate(_c: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        place = b.inttoptr(args[0], ir.IntType(64).as_pointer())
        return b.atomic_rmw("add", place, args[1], "acq_rel")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def atomic_load(_: Any, address: Any) -> Any:
    """The int64 at an address, with what was written before it."""

    def generate(_c: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        place = b.inttoptr(args[0], ir.IntType(64).as_pointer())
        return b.load_atomic(place, "acquire", 8)

    return types.int64(types.int64), generate


@intrinsic
def prefetch(_: Any, address: Any) -> Any:
    """Bring a line of memory that will be read into the caches. Never faults."""

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        signature = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        name = "llvm.prefetch.p0"
        function = b.module.globals.get(name) or ir.Function(b.module, signature, name)
        b.call(function, [b.inttoptr(args[0], byte), word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


def widen(value: Any) -> Any:
    """A stored number (float32, or bfloat16 as uint16) as float32."""
    raise NotImplementedError("compiled code only")


@overload(widen, inline="always")
def _widen(value: Any) -> Any:
    def of_bfloat16(value: Any) -> Any:
        return float_of_bits(np.uint32(value) << np.uint32(16))

    def of_float32(value: Any) -> Any:
        return value

    return of_bfloat16 if value == types.uint16 else of_float32


def narrow(value: Any, array: Any) -> Any:
    """A float32 as `array` stores it, rounded to nearest even."""
    raise NotImplementedError("compiled code only")


@overload(narrow, inline="always")
def _narrow(value: Any, array: Any) -> Any:
    def as_bfloat16(value: Any, array: Any) -> Any:
        return _bfloat16_of(value)

    def as_float32(value: Any, array: Any) -> Any:
        return np.float32(value)

    return as_bfloat16 if array.dtype == types.uint16 else as_float32


@inlined
def _bfloat16_of(value: Any) -> Any:
    bits = bits_of_float(np.float32(value))
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return np.uint16((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))


@inlined
def exp(x: Any) -> Any:
    """e**x in float32 to about 2e-7, 0 below -87, e**88 above 88; unlike math.exp it vectorises.

    2**n · 2**f with a polynomial of degree 6 for 2**f on [-1/2, 1/2].
    """
    low = x < np.float32(-87.0)
    x = np.float32(88.0) if x > np.float32(88.0) else x
    # Rounded to an integer by truncation, above zero. It stays an int32: numba would widen
    # it to 64 bits in any sum, and half as many fit a register.
    shifted = np.int32(x * LOG2_E + np.float32(128.5))
    n = np.float32(shifted) - np.float32(128)
    # ln 2 in two parts, so that f is exact.
    f = (x - n * np.float32(0.693145751953125)) - n * np.float32(1.428606765330187e-06)
    p = np.float32(1.0 / 720.0)
    p = p * f + np.float32(1.0 / 120.0)
    p = p * f + np.float32(1.0 / 24.0)
    p = p * f + np.float32(1.0 / 6.0)
    p = p * f + np.float32(0.5)
    p = p * f + np.float32(1.0)
    p = p * f + np.float32(1.0)
    value = p * float_of_bits(np.uint32((np.uint32(shifted) - np.uint32(1)) << np.uint32(23)))
    return np.float32(0) if low else value


@kernel
def fill(out: Any, value: Any) -> None:
    """Set every element of a row. numba's own slice assignment takes ten times as long to compile."""
    for i in range(len(out)):
        out[i] = value


@kernel
def copy(x: Any, out: Any) -> None:
    """Copy a row into one of the same length."""
    for i in range(len(out)):
        out[i] = x[i]
