"""Products by the matrix unit of Intel's processors (AMX): 16 rows × 16 columns × 32 k in one instruction.

The unit has eight tiles of 16 rows of 64 bytes. Packed columns (`tile.pack_columns`) are its second factor as they
lie, rows of bfloat16 its first, float32 sums its third. A result is the sum over k in rising order, two k at a
time, whatever stands in the tile's other rows: so a row's numbers never depend on the batch, and tiles are always
whole. What lies beyond the last row is read and written, and means nothing.

Measured on one core of an Emerald Rapids: up to 1.8 TFLOP/s, where VDPBF16PS gives 0.2. A tile's shape is set once a
job (`begin`): setting it takes longer than a small product.
"""

import ctypes
import os
import sys
from functools import cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from branchwork.kernels.cpu.vector import inlined

TILE_ROWS = 16
"""Rows of a product come in tiles of so many."""
TILE_STEPS = 16
"""Steps of two k in a tile: k must be a multiple of 32."""

_FEATURES = llvm.get_host_cpu_features()
HAS_AMX = bool(_FEATURES.get("amx-tile") and _FEATURES.get("amx-bf16"))

TILE_BYTES = 1024
_DEPTH = 28
"""Tiles of k at a time: fewer, and sums are written and read again too often; more, and rows leave the caches."""
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18

_USUAL, _FLUSHING = 0x1F80, 0x9FC0
"""Round to nearest, raise nothing; and subnormal numbers count as zero, which they always do in the unit."""

_VOID, _I8, _I64 = ir.VoidType(), ir.IntType(8), ir.IntType(64)


@cache
def usable() -> bool:
    """Whether this process may use the unit: the processor has it, the kernel permits it (asked for here, for all
    threads), and `BRANCHWORK_AMX` is not 0."""
    if not HAS_AMX or sys.platform != "linux" or os.environ.get("BRANCHWORK_AMX") == "0":
        return False
    system_call = ctypes.CDLL(None).syscall
    return bool(system_call(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0)


def _emit(b: ir.IRBuilder, name: str, *arguments: Any) -> None:
    """One instruction of the unit; nothing where the processor has none, since it is never reached there."""
    if not HAS_AMX:
        return
    name = f"llvm.x86.{name}"
    signature = ir.FunctionType(_VOID, [argument.type for argument in arguments])
    function = b.module.globals.get(name) or ir.Function(b.module, signature, name)
    b.call(function, arguments)


def _address(b: ir.IRBuilder, address: Any) -> Any:
    return b.inttoptr(address, _I8.as_pointer())


def _set_mode(b: ir.IRBuilder, mode: int) -> None:
    """Of this thread's arithmetic in vectors (MXCSR)."""
    place = cgutils.global_constant(b, "arithmetic_mode", ir.Constant(ir.IntType(32), mode))
    _emit(b, "sse.ldmxcsr", b.bitcast(place, _I8.as_pointer()))


@intrinsic
def begin(_: Any) -> Any:
    """Give every tile of this thread its whole shape, and have vectors round as the unit does. `end` must follow."""
    shape = [1, 0] + [0] * 14 + [64, 0] * 8 + [0] * 16 + [TILE_ROWS] * 8 + [0] * 8

    def generate(context: Any, b: ir.IRBuilder, _s: Any, _a: Any) -> Any:
        values = ir.Constant(ir.ArrayType(_I8, 64), bytearray(shape))
        constant = cgutils.global_constant(b, "tile_shapes", values)
        _emit(b, "ldtilecfg", b.bitcast(constant, _I8.as_pointer()))
        _set_mode(b, _FLUSHING)
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def end(_: Any) -> Any:
    """Leave the unit: threads that do not use it are switched faster. Vectors round as they do in any process."""

    def generate(context: Any, b: ir.IRBuilder, _s: Any, _a: Any) -> Any:
        _emit(b, "tilerelease")
        _set_mode(b, _USUAL)
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic(prefer_literal=True)
def _zero(_: Any, tile: Any) -> Any:
    number = tile.literal_value

    def generate(context: Any, b: ir.IRBuilder, _s: Any, _a: Any) -> Any:
        _emit(b, "tilezero", _I8(number))
        return context.get_dummy_value()

    return types.void(tile), generate


@intrinsic(prefer_literal=True)
def _load(_: Any, tile: Any, address: Any, stride: Any) -> Any:
    number = tile.literal_value

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        _emit(b, "tileloadd64", _I8(number), _address(b, args[1]), args[2])
        return context.get_dummy_value()

    return types.void(tile, types.int64, types.int64), generate


@intrinsic(prefer_literal=True)
def _store(_: Any, tile: Any, address: Any, stride: Any) -> Any:
    number = tile.literal_value

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        _emit(b, "tilestored64", _I8(number), _address(b, args[1]), args[2])
        return context.get_dummy_value()

    return types.void(tile, types.int64, types.int64), generate


@intrinsic(prefer_literal=True)
def _multiply(_: Any, sums: Any, rows: Any, columns: Any) -> Any:
    """sums += rows · columns, tiles all."""
    numbers = [kind.literal_value for kind in (sums, rows, columns)]

    def generate(context: Any, b: ir.IRBuilder, _s: Any, _a: Any) -> Any:
        _emit(b, "tdpbf16ps", *map(_I8, numbers))
        return context.get_dummy_value()

    return types.void(sums, rows, columns), generate


@inlined
def begin_sums() -> Any:
    """Four tiles of sums, nothing yet."""
    _zero(0)
    _zero(1)
    _zero(2)
    _zero(3)


@inlined
def _two_by_two(
    x: Any, x_tile: Any, x_row: Any, x_line: Any, w: Any, w_stride: Any, first: Any, last: Any,
    out: Any, out_stride: Any, goes_on: Any,
) -> Any:  # fmt: skip
    """32 rows × 32 columns over some tiles of k; goes on from `out` where these are not the first."""
    x_below, out_below = x + x_tile, out + TILE_ROWS * out_stride
    if first == 0 and goes_on == 0:
        begin_sums()
    else:
        _load(0, out, out_stride)
        _load(1, out + 64, out_stride)
        _load(2, out_below, out_stride)
        _load(3, out_below + 64, out_stride)
    for k in range(first, last):
        _load(4, x + k * x_line, x_row)
        _load(6, w + k * TILE_BYTES, 64)
        _multiply(0, 4, 6)
        _load(7, w + w_stride + k * TILE_BYTES, 64)
        _multiply(1, 4, 7)
        _load(5, x_below + k * x_line, x_row)
        _multiply(2, 5, 6)
        _multiply(3, 5, 7)
    _store(0, out, out_stride)
    _store(1, out + 64, out_stride)
    _store(2, out_below, out_stride)
    _store(3, out_below + 64, out_stride)


@inlined
def _one_by_four(
    x: Any, x_row: Any, x_line: Any, w: Any, w_stride: Any, last: Any,
    out: Any, out_stride: Any, goes_on: Any,
) -> Any:  # fmt: skip
    """16 rows × 64 columns over all tiles of k."""
    if goes_on == 0:
        begin_sums()
    else:
        _load(0, out, out_stride)
        _load(1, out + 64, out_stride)
        _load(2, out + 128, out_stride)
        _load(3, out + 192, out_stride)
    for k in range(last):
        column = w + k * TILE_BYTES
        _load(4, x + k * x_line, x_row)
        _load(5, column, 64)
        _multiply(0, 4, 5)
        _load(6, column + w_stride, 64)
        _multiply(1, 4, 6)
        _load(7, column + 2 * w_stride, 64)
        _multiply(2, 4, 7)
        _load(5, column + 3 * w_stride, 64)
        _multiply(3, 4, 5)
    _store(0, out, out_stride)
    _store(1, out + 64, out_stride)
    _store(2, out + 128, out_stride)
    _store(3, out + 192, out_stride)


@inlined
def _one_by_two(
    x: Any, x_row: Any, x_line: Any, w: Any, w_stride: Any, last: Any,
    out: Any, out_stride: Any, goes_on: Any,
) -> Any:  # fmt: skip
    """16 rows × 32 columns over all tiles of k."""
    if goes_on == 0:
        _zero(0)
        _zero(1)
    else:
        _load(0, out, out_stride)
        _load(1, out + 64, out_stride)
    for k in range(last):
        column = w + k * TILE_BYTES
        _load(4, x + k * x_line, x_row)
        _load(5, column, 64)
        _multiply(0, 4, 5)
        _load(6, column + w_stride, 64)
        _multiply(1, 4, 6)
    _store(0, out, out_stride)
    _store(1, out + 64, out_stride)


def product(rows, x, x_tile, x_row, x_line, w, w_stride, steps, out, out_stride, columns, goes_on):  # type: ignore[no-untyped-def]
    """As `tile.partial_product`, by addresses; rows of x (`rows.Rows`) and out exist up to a multiple of 16.

    Between `begin` and `end`.
    """
    tiles = steps // TILE_STEPS
    wide = columns // 64 * 64
    many = (rows + TILE_ROWS - 1) // (2 * TILE_ROWS) * (2 * TILE_ROWS)
    for first in range(0, tiles, _DEPTH):
        last = min(first + _DEPTH, tiles)
        for column in range(0, columns, 32):
            for row in range(0, many, 2 * TILE_ROWS):
                _two_by_two(
                    x + row // TILE_ROWS * x_tile, x_tile, x_row, x_line,
                    w + column // 16 * w_stride, w_stride, first, last,
                    out + row * out_stride + column * 4, out_stride, goes_on,
                )  # fmt: skip
    if many >= rows:
        return
    x_last, out_last = x + many // TILE_ROWS * x_tile, out + many * out_stride
    if rows - many == 1:  # sixteen times the same row leaves the first-level cache to the weights
        x_row = out_stride = 0
    for column in range(0, wide, 64):
        _one_by_four(
            x_last, x_row, x_line, w + column // 16 * w_stride, w_stride, tiles,
            out_last + column * 4, out_stride, goes_on,
        )  # fmt: skip
    for column in range(wide, columns, 32):
        _one_by_two(
            x_last, x_row, x_line, w + column // 16 * w_stride, w_stride, tiles,
            out_last + column * 4, out_stride, goes_on,
        )  # fmt: skip


@inlined
def add_scores(rows: Any, strides: Any, columns: Any, depth: Any, halves: Any) -> Any:
    """Add the products of 32 · halves rows with 16 packed columns.

    rows, strides  arrays of 4: address of each sixteen rows, and bytes from row to row
    columns        address of `depth` tiles: k is 32 · depth
    """
    row_0, row_1, row_2, row_3 = rows[0], rows[1], rows[2], rows[3]
    for k in range(depth):
        _load(4, columns + k * TILE_BYTES, 64)
        _load(5, row_0 + k * 64, strides[0])
        _multiply(0, 5, 4)
        _load(6, row_1 + k * 64, strides[1])
        _multiply(1, 6, 4)
        if halves > 1:
            _load(7, row_2 + k * 64, strides[2])
            _multiply(2, 7, 4)
            _load(5, row_3 + k * 64, strides[3])
            _multiply(3, 5, 4)


@inlined
def end_scores(out: Any, halves: Any) -> Any:
    """Write them: a line of 16 for each row."""
    _store(0, out, 64)
    _store(1, out + TILE_BYTES, 64)
    if halves > 1:
        _store(2, out + 2 * TILE_BYTES, 64)
        _store(3, out + 3 * TILE_BYTES, 64)


@inlined
def add_product(
    x: Any, x_stride: Any, w: Any, w_stride: Any, depth: Any, out: Any, out_stride: Any, pairs: Any
) -> Any:
    """out += x · w, for 16 rows, k of 32 · depth (1 or 2), and `pairs` times 32 columns. Addresses and bytes.

    w_stride  from the tiles of one 32 k to those of the next
    """
    _load(0, x, x_stride)
    if depth > 1:
        _load(1, x + 64, x_stride)
    for pair in range(pairs):
        at, to = w + 2 * pair * TILE_BYTES, out + 2 * pair * 64
        _load(2, to, out_stride)
        _load(4, at, 64)
        _multiply(2, 0, 4)
        _load(3, to + 64, out_stride)
        _load(5, at + TILE_BYTES, 64)
        _multiply(3, 0, 5)
        if depth > 1:
            _load(6, at + w_stride, 64)
            _multiply(2, 1, 6)
            _load(7, at + w_stride + TILE_BYTES, 64)
            _multiply(3, 1, 7)
        _store(2, to, out_stride)
        _store(3, to + 64, out_stride)
