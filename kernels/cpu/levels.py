"""Weights as levels of 8 or 4 bits, and how they become the bfloat16 that a product reads, a piece of k at a time.

A level is a small whole number, which bfloat16 holds exactly: so the product runs over levels, and the scales
multiply its float32 sums. What is read from memory is a half or a quarter of bfloat16; what it is expanded to stays
in the first-level cache.

Levels lie in the order in which they are expanded most easily. A vector of 64 bytes holds 16 columns, of
    8 bits: two steps, in turns of 8 bytes (4 columns). A level is sign and magnitude: the two bytes of its bfloat16
            are looked up each by the magnitude's lower six bits (VPERMB, where there is AVX-512), and from 64 on are
            the magnitude's own bits. Elsewhere it is put into the bits of 2²³, which float32 subtracts again
    4 bits: four steps, which are the nibbles of words. A nibble is a level + 8, and looked up (VPERMW: 32 levels in
            one instruction), where there is AVX-512
"""

from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from branchwork.kernels.cpu.cached import c_function_address
from branchwork.kernels.cpu.tile import LANES, PANEL
from branchwork.kernels.cpu.vector import prefetch
from branchwork.kernels.quantized import INT4_GROUP

CHUNK = INT4_GROUP
"""The k of a piece: a panel of 128 is 16 KiB of bfloat16."""
CHUNK_STEPS = CHUNK // 2

_AHEAD = 4096
"""Bytes before they are read that they are asked for: twice as fast as without, from memory."""
_BLOCKS = PANEL // LANES
_FEATURES = llvm.get_host_cpu_features()
_LOOKS_UP_WORDS, _LOOKS_UP_BYTES = (bool(_FEATURES.get(f"avx512{x}")) for x in ("bw", "vbmi"))

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_BYTES, _HALVES = ir.VectorType(_I8, 4 * LANES), ir.VectorType(_I16, 2 * LANES)
_WIDE, _WIDE_FLOATS = ir.VectorType(_I32, 2 * LANES), ir.VectorType(ir.FloatType(), 2 * LANES)


def pack_levels(levels: npt.NDArray[np.int8], bits: int) -> npt.NDArray[np.uint8]:
    """Lay levels [columns, k] out for `compiled_expansion`: [columns / 64, bytes of a panel].

    k is a multiple of CHUNK; columns are padded with zeros to a multiple of 64.
    """
    columns, k = levels.shape
    padded = np.zeros((-(-columns // PANEL) * PANEL, k), np.int8)
    padded[:columns] = levels
    coded = padded + 8 if bits == 4 else np.abs(padded) | (padded & -128)
    at_once = 16 // bits  # steps of a vector
    lanes = coded.view(np.uint8).reshape(
        -1, _BLOCKS, 4, LANES // 4, k // CHUNK, CHUNK_STEPS // at_once, at_once, 2
    )
    panel, block, turn, column, chunk, vector, step, half = range(8)
    if bits == 8:
        stored = lanes.transpose(panel, chunk, block, vector, turn, step, column, half)
    else:
        ordered = lanes.transpose(panel, chunk, block, vector, turn, column, half, step)
        stored = ordered[..., ::2] | ordered[..., 1::2] << 4
    return np.ascontiguousarray(stored).reshape(len(padded) // PANEL, -1)


@cache
def compiled_expansion(bits: int) -> int:
    """Address of the compiled function (levels of one chunk of a panel, where its packed columns go)."""
    signature = types.void(types.int64, types.int64)
    return c_function_address(signature, _expand_int8 if bits == 8 else _expand_int4)


def _expand_int8(levels, out):  # type: ignore[no-untyped-def]
    for vector in range(CHUNK * PANEL // 64):
        prefetch(levels + vector * 64 + _AHEAD)
        _expand_vector(8, levels + vector * 64, out + vector * 128)


def _expand_int4(levels, out):  # type: ignore[no-untyped-def]
    for vector in range(CHUNK * PANEL // 128):
        prefetch(levels + vector * 64 + _AHEAD)
        _expand_vector(4, levels + vector * 64, out + vector * 256)


@intrinsic
def expand(_: Any, address: Any, levels: Any, out: Any) -> Any:
    """Call a compiled expansion by its address."""

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        signature = ir.FunctionType(ir.VoidType(), [_I64] * 2)
        b.call(b.inttoptr(args[0], signature.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


@intrinsic(prefer_literal=True)
def _expand_vector(_: Any, bits: Any, levels: Any, out: Any) -> Any:
    """64 bytes of levels to bfloat16, 32 of them a step."""
    emit: Any
    if bits.literal_value == 8:
        emit = _emit_int8_looked_up if _LOOKS_UP_BYTES else _emit_int8
    else:
        emit = _emit_int4_looked_up if _LOOKS_UP_WORDS else _emit_int4

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        for step, vector in enumerate(emit(b, args[1])):
            at = b.add(args[2], _I64(4 * LANES * step))
            b.store(vector, b.inttoptr(at, vector.type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(bits, types.int64, types.int64), generate


def _load(b: ir.IRBuilder, address: Any, kind: Any) -> Any:
    return b.load(b.inttoptr(address, kind.as_pointer()), align=4)


def _function(b: ir.IRBuilder, name: str, result: Any, arguments: list[Any]) -> Any:
    signature = ir.FunctionType(result, arguments)
    return b.module.globals.get(name) or ir.Function(b.module, signature, name)


def _all(kind: Any, value: Any) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def _bfloat16_bits(values: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    bits: npt.NDArray[np.uint32] = np.asarray(values, np.float32).view(np.uint32) >> 16
    return bits


def _emit_int8_looked_up(b: ir.IRBuilder, levels: Any) -> list[Any]:
    codes = _load(b, levels, _BYTES)
    look_up = _function(b, "llvm.x86.avx512.permvar.qi.512", _BYTES, [_BYTES] * 2)
    small = _bfloat16_bits(np.arange(64))
    lower, upper = (
        b.call(look_up, [ir.Constant(_BYTES, [int(byte) for byte in half]), codes])
        for half in (small & 255, small >> 8)
    )
    # From 64 to 127 the exponent is one and the same, and its lowest bit lies where twice the magnitude has it.
    is_small = b.icmp_unsigned("==", b.and_(codes, _all(_BYTES, 64)), _all(_BYTES, 0))
    lower = b.select(is_small, lower, b.add(codes, codes))
    upper = b.select(is_small, upper, _all(_BYTES, int(_bfloat16_bits(64)) >> 8))
    upper = b.or_(upper, b.and_(codes, _all(_BYTES, 128)))
    return [
        b.shuffle_vector(lower, upper, _picks([at + 64 * byte for at in places for byte in (0, 1)]))
        for places in _PLACES
    ]


_PLACES = [[16 * turn + 8 * step + i for turn in range(4) for i in range(8)] for step in range(2)]
"""Of each step's levels in a vector of 8 bits."""


def _picks(places: list[int]) -> Any:
    return ir.Constant(ir.VectorType(_I32, len(places)), places)


def _emit_int8(b: ir.IRBuilder, levels: Any) -> list[Any]:
    codes = _load(b, levels, _BYTES)
    vectors = []
    for places in _PLACES:
        code = b.zext(b.shuffle_vector(codes, codes, _picks(places)), _HALVES)
        magnitude = b.zext(b.and_(code, _all(_HALVES, 127)), _WIDE)
        number = b.bitcast(b.or_(magnitude, _all(_WIDE, 0x4B000000)), _WIDE_FLOATS)
        bits = b.bitcast(b.fsub(number, _all(_WIDE_FLOATS, float(2**23))), _WIDE)
        sign = b.shl(b.and_(code, _all(_HALVES, 128)), _all(_HALVES, 8))
        vectors.append(b.or_(b.trunc(b.lshr(bits, _all(_WIDE, 16)), _HALVES), sign))
    return vectors


def _nibbles(b: ir.IRBuilder, levels: Any) -> list[Any]:
    """Each step's in the lowest bits of its words; the others follow above."""
    words = _load(b, levels, _HALVES)
    return [b.lshr(words, _all(_HALVES, 4 * step)) for step in range(4)]


def _emit_int4_looked_up(b: ir.IRBuilder, levels: Any) -> list[Any]:
    # The instruction reads five bits, of which the fifth is the next step's: so each level stands there twice.
    look_up = _function(b, "llvm.x86.avx512.permvar.hi.512", _HALVES, [_HALVES] * 2)
    values = [int(value) for value in _bfloat16_bits(np.arange(-8, 8))]
    table = ir.Constant(_HALVES, values * 2)
    return [b.call(look_up, [table, words]) for words in _nibbles(b, levels)]


def _emit_int4(b: ir.IRBuilder, levels: Any) -> list[Any]:
    vectors = []
    for words in _nibbles(b, levels):
        level = b.sub(b.and_(words, _all(_HALVES, 15)), _all(_HALVES, 8))
        number = b.sitofp(b.sext(level, _WIDE), _WIDE_FLOATS)
        vectors.append(b.trunc(b.lshr(b.bitcast(number, _WIDE), _all(_WIDE, 16)), _HALVES))
    return vectors
