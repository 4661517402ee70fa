"""The inner loop of every product on the CPU: a few rows times 64 columns, summed over k in registers.

The loop is written in LLVM's vectors, because no compiler finds it: 6 rows × 4 vectors of 16 columns stay in
registers, as in Goto and van de Geijn 2008 ("Anatomy of high-performance matrix multiplication"). A result is the
sum over k in rising order whatever the number of rows, so a row's numbers never depend on the batch.

Columns are packed in blocks of 16 (`pack_columns`): for bfloat16 pairs of k lie side by side, as the
instruction VDPBF16PS reads them; a CPU without it widens both halves and multiplies in float32. Where there is a
matrix unit (`amx`), it computes the products of bfloat16 whose k is a multiple of 32, whatever the number of rows:
the two round differently.
Measured on one core of a Zen 4: 232 GFLOP/s at 6 rows and more (the instruction's peak), 86 GB/s of weights at one row
from the third-level cache; oneDNN: the same at 256 rows, 0.2 to 0.6 of it at one.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from branchwork.kernels.cpu import amx
from branchwork.kernels.cpu.cached import c_function_address
from branchwork.kernels.cpu.memory import zeros
from branchwork.kernels.cpu.rows import address, in_order
from branchwork.kernels.cpu.vector import inlined

LANES = 16
"""Columns of one vector, and of one packed block."""
PANEL = 64
"""Columns of one tile; packed weights are padded to it."""
MAX_ROWS = 6
"""Rows of one tile: 6 × 4 sums, 4 weights and one factor fill 29 of 32 registers."""

_FEATURES = llvm.get_host_cpu_features()
HAS_BF16_DOT = bool(_FEATURES.get("avx512bf16"))
_HAS_WIDE_REGISTERS = bool(_FEATURES.get("avx512f"))

_I32, _I64, _F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
_FLOATS, _WORDS = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)


class _BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash("bfloat")


BFLOATS = ir.VectorType(_BFloat(), 2 * LANES)


def _splat(b: ir.IRBuilder, value: Any, vector: Any) -> Any:
    undefined = ir.Constant(vector, ir.Undefined)
    first = b.insert_element(undefined, value, _I32(0))
    return b.shuffle_vector(first, undefined, ir.Constant(_WORDS, [0] * LANES))


def _load(b: ir.IRBuilder, address: Any, kind: Any) -> Any:
    return b.load(b.inttoptr(address, kind.as_pointer()), align=4)


def _fused_multiply_add(b: ir.IRBuilder, x: Any, y: Any, z: Any) -> Any:
    name = f"llvm.fma.v{LANES}f32"
    signature = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
    function = b.module.globals.get(name) or ir.Function(b.module, signature, name)
    return b.call(function, [x, y, z])


def _step_float32(b: ir.IRBuilder, sums: Any, rows: Any, columns: Any) -> Any:
    """One k: add factor × weights to each sum."""
    weights = [_load(b, at, _FLOATS) for at in columns]
    factors = [_splat(b, _load(b, at, _F32), _FLOATS) for at in rows]
    return [
        [_fused_multiply_add(b, x, w, s) for w, s in zip(weights, row, strict=True)]
        for x, row in zip(factors, sums, strict=True)
    ]


def _step_bf16_dot(b: ir.IRBuilder, sums: Any, rows: Any, columns: Any) -> Any:
    """Two k at once by the instruction made for it."""
    name = "llvm.x86.avx512bf16.dpbf16ps.512"
    signature = ir.FunctionType(_FLOATS, [_FLOATS, BFLOATS, BFLOATS])
    dot = b.module.globals.get(name) or ir.Function(b.module, signature, name)
    weights = [_load(b, at, BFLOATS) for at in columns]
    out = []
    for at, row in zip(rows, sums, strict=True):
        pair = b.bitcast(_splat(b, _load(b, at, _I32), _WORDS), BFLOATS)
        out.append([b.call(dot, [s, pair, w]) for w, s in zip(weights, row, strict=True)])
    return out


def _step_bf16_widened(b: ir.IRBuilder, sums: Any, rows: Any, columns: Any) -> Any:
    """Two k, one after the other, in float32: a bfloat16 is the upper half of a float32."""
    weight_words = [_load(b, at, _WORDS) for at in columns]
    row_words = [_splat(b, _load(b, at, _I32), _WORDS) for at in rows]

    def lower(words: Any) -> Any:
        return b.bitcast(b.shl(words, ir.Constant(_WORDS, [16] * LANES)), _FLOATS)

    def upper(words: Any) -> Any:
        return b.bitcast(b.and_(words, ir.Constant(_WORDS, [0xFFFF0000] * LANES)), _FLOATS)

    for half in (lower, upper):
        weights, factors = [half(w) for w in weight_words], [half(x) for x in row_words]
        sums = [
            [_fused_multiply_add(b, x, w, s) for w, s in zip(weights, row, strict=True)]
            for x, row in zip(factors, sums, strict=True)
        ]
    return sums


_STEPS = (_step_float32, _step_bf16_dot, _step_bf16_widened)
_FLOAT32 = 0
_BF16 = 1 if HAS_BF16_DOT else 2


@intrinsic(prefer_literal=True)
def _tile(
    _: Any, num_rows: Any, num_vectors: Any, step: Any,
    x: Any, x_stride: Any, w: Any, w_stride: Any, steps: Any, out: Any, out_stride: Any, goes_on: Any,
) -> Any:  # fmt: skip
    """out[r, 16 v + j] = sum over k of x[r, k] · w[k, 16 v + j].

    num_rows, num_vectors, step  literals: the tile's size, and an index of _STEPS
    x, w, out                    addresses; strides in bytes from row to row, and from block to block of w
    steps                        a step is four bytes of a row of x: one k in float32, two in bfloat16
    goes_on                      not 0: the sums begin with what is in `out`
    """
    sizes = [kind.literal_value for kind in (num_rows, num_vectors, step)]

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        _emit_tile(b, sizes[0], sizes[1], _STEPS[sizes[2]], *args[3:])
        return context.get_dummy_value()

    return types.void(num_rows, num_vectors, step, *[types.int64] * 8), generate


def _emit_tile(
    b: ir.IRBuilder, num_rows: int, num_vectors: int, step: Callable[..., Any],
    x: Any, x_stride: Any, w: Any, w_stride: Any, steps: Any, out: Any, out_stride: Any, goes_on: Any,
) -> None:  # fmt: skip
    rows = [b.add(x, b.mul(x_stride, _I64(r))) for r in range(num_rows)]
    columns = [b.add(w, b.mul(w_stride, _I64(v))) for v in range(num_vectors)]
    before, resume = b.block, b.append_basic_block()
    loop, after = b.append_basic_block(), b.append_basic_block()

    def place(r: int, v: int) -> Any:
        return b.add(out, b.add(b.mul(out_stride, _I64(r)), _I64(4 * LANES * v)))

    b.cbranch(b.icmp_signed("!=", goes_on, _I64(0)), resume, loop)
    b.position_at_end(resume)
    earlier = [
        [_load(b, place(r, v), _FLOATS) for v in range(num_vectors)] for r in range(num_rows)
    ]
    b.branch(loop)
    b.position_at_end(loop)
    k = b.phi(_I64)
    k.add_incoming(_I64(0), before)
    k.add_incoming(_I64(0), resume)
    sums = [[b.phi(_FLOATS) for _ in columns] for _ in rows]
    x_at, w_at = b.mul(k, _I64(4)), b.mul(k, _I64(4 * LANES))
    new = step(b, sums, [b.add(r, x_at) for r in rows], [b.add(c, w_at) for c in columns])
    next_k = b.add(k, _I64(1))
    k.add_incoming(next_k, loop)
    zero = ir.Constant(_FLOATS, [0.0] * LANES)
    for old_row, earlier_row, new_row in zip(sums, earlier, new, strict=True):
        for old, begun, value in zip(old_row, earlier_row, new_row, strict=True):
            old.add_incoming(zero, before)
            old.add_incoming(begun, resume)
            old.add_incoming(value, loop)
    b.cbranch(b.icmp_signed("<", next_k, steps), loop, after)
    b.position_at_end(after)
    for r, new_row in enumerate(new):
        for v, value in enumerate(new_row):
            b.store(value, b.inttoptr(place(r, v), _FLOATS.as_pointer()), align=4)


@inlined
def _any_rows(
    vectors: Any, step: Any,
    rows: Any, x: Any, x_stride: Any, w: Any, w_stride: Any, steps: Any,
    out: Any, out_stride: Any, goes_on: Any,
) -> Any:  # fmt: skip
    if rows == 6:
        _tile(6, vectors, step, x, x_stride, w, w_stride, steps, out, out_stride, goes_on)
    elif rows == 5:
        _tile(5, vectors, step, x, x_stride, w, w_stride, steps, out, out_stride, goes_on)
    elif rows == 4:
        _tile(4, vectors, step, x, x_stride, w, w_stride, steps, out, out_stride, goes_on)
    elif rows == 3:
        _tile(3, vectors, step, x, x_stride, w, w_stride, steps, out, out_stride, goes_on)
    elif rows == 2:
        _tile(2, vectors, step, x, x_stride, w, w_stride, steps, out, out_stride, goes_on)
    else:
        _tile(1, vectors, step, x, x_stride, w, w_stride, steps, out, out_stride, goes_on)


_WIDE_VECTORS = 4 if _HAS_WIDE_REGISTERS else 1
_SLIM_VECTORS = 2 if _HAS_WIDE_REGISTERS else 1
WIDE, SLIM = _WIDE_VECTORS * LANES, _SLIM_VECTORS * LANES
"""Columns of the two tiles."""


@inlined
def _all_rows(
    step: Any, rows: Any, x: Any, x_stride: Any,
    w: Any, w_stride: Any, steps: Any, out: Any, out_stride: Any, columns: Any, goes_on: Any,
) -> Any:  # fmt: skip
    """A product in tiles of the vector registers."""
    whole = columns // WIDE * WIDE
    for row in range(0, rows, MAX_ROWS):
        n = min(rows - row, MAX_ROWS)
        x_at, out_at = x + row * x_stride, out + row * out_stride
        for first in range(0, whole, WIDE):
            _any_rows(
                _WIDE_VECTORS, step, n, x_at, x_stride, w + first // LANES * w_stride, w_stride, steps,
                out_at + first * 4, out_stride, goes_on,
            )  # fmt: skip
        for first in range(whole, columns, SLIM):
            _any_rows(
                _SLIM_VECTORS, step, n, x_at, x_stride, w + first // LANES * w_stride, w_stride, steps,
                out_at + first * 4, out_stride, goes_on,
            )  # fmt: skip


def _float32(rows, x, _t, x_row, _l, w, w_stride, steps, out, out_stride, columns, goes_on):  # type: ignore[no-untyped-def]
    _all_rows(_FLOAT32, rows, x, x_row, w, w_stride, steps, out, out_stride, columns, goes_on)


def _bf16(rows, x, _t, x_row, _l, w, w_stride, steps, out, out_stride, columns, goes_on):  # type: ignore[no-untyped-def]
    _all_rows(_BF16, rows, x, x_row, w, w_stride, steps, out, out_stride, columns, goes_on)


class Tiles(NamedTuple):
    """Addresses of the compiled products for one stored type.

    They are called by address, so that LLVM compiles their large loops once, and not again in every kernel.
    """

    vectors: int
    matrix_unit: int  # 0: there is none


@cache
def compiled_tiles(stored: np.dtype[Any], matrix_unit: bool = True) -> Tiles:
    """The products for rows and weights of a type: float32, or bfloat16 as uint16.

    matrix_unit  False: without it, also where there is one
    """
    signature = types.void(*[types.int64] * 12)
    if stored == np.float32:
        return Tiles(c_function_address(signature, _float32), 0)
    with_unit = matrix_unit and amx.usable()
    return Tiles(
        c_function_address(signature, _bf16),
        c_function_address(signature, amx.product) if with_unit else 0,
    )


@intrinsic
def _call(
    _: Any,
    address: Any,
    rows: Any,
    x: Any,
    x_tile: Any,
    x_row: Any,
    x_line: Any,
    w: Any,
    w_stride: Any,
    steps: Any,
    out: Any,
    out_stride: Any,
    columns: Any,
    goes_on: Any,
) -> Any:
    """Call a product by its address."""

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        signature = ir.FunctionType(ir.VoidType(), [_I64] * 12)
        b.call(b.inttoptr(args[0], signature.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 13), generate


@inlined
def product(tiles: Any, x: Any, rows: Any, w: Any, steps: Any, out: Any, columns: Any) -> Any:
    """out[r, j] = sum over k of x[r, k] · w[k, j], for rows 0 to `rows` and columns 0 to `columns`.

    tiles     for the type of x and w; between `begin_products` and `end_products`
    x         array [≥ rows, ≥ k]; as many rows exist as `rows` rounded up to 16
    w         array that begins with packed block 0 of the columns
    steps     k (float32) or k / 2 (bfloat16)
    out       float32 array [≥ rows, ≥ columns]; as x, and what lies beyond `rows` is overwritten
    columns   a multiple of 32
    """
    partial_product(tiles, in_order(x), 0, 0, rows, w, steps * 4 * LANES, steps, out, columns, 0)


@inlined
def partial_product(
    tiles: Any, x: Any, first_row: Any, first_step: Any, rows: Any,
    w: Any, w_stride: Any, steps: Any, out: Any, columns: Any, goes_on: Any,
) -> Any:  # fmt: skip
    """As `product`, over some of k: with `goes_on` (not 0) what is in `out` are the sums over the k before.

    x          Rows, from row `first_row` (a multiple of 16) and step `first_step` (a multiple of 16) on
    w_stride   bytes from one packed block to the next
    """
    by_unit = tiles.matrix_unit != 0 and steps % amx.TILE_STEPS == 0
    _call(
        tiles.matrix_unit if by_unit else tiles.vectors,
        rows, address(x, first_row, first_step // amx.TILE_STEPS), x.tile_bytes, x.row_bytes, x.line_bytes,
        w.ctypes.data, w_stride, steps, out.ctypes.data, out.strides[0], columns, goes_on,
    )  # fmt: skip


@inlined
def begin_products(tiles: Any) -> Any:
    """Before this thread's first product of a job."""
    if tiles.matrix_unit != 0:
        amx.begin()


@inlined
def end_products(tiles: Any) -> Any:
    """After its last."""
    if tiles.matrix_unit != 0:
        amx.end()


def products_used() -> str:
    """How products of bfloat16 are computed on this machine."""
    if amx.usable():
        return "AMX"
    if HAS_BF16_DOT:
        return "AVX-512 bf16"
    return "AVX-512 in float32" if _HAS_WIDE_REGISTERS else "AVX2 in float32"


def padded_rows(rows: int) -> int:
    """How many rows an array must have, of which a product reads or writes `rows`."""
    return -(-rows // amx.TILE_ROWS) * amx.TILE_ROWS


def pack_columns(weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Lay a weight [columns, k] out for `product`: [columns / 16, steps, 16, k of a step].

    Columns are padded with zeros to a multiple of 64; k must be even in bfloat16 (uint16).
    """
    columns, k = weight.shape
    per_step = 4 // weight.itemsize
    padded = np.zeros((-(-columns // PANEL) * PANEL, k), dtype=weight.dtype)
    padded[:columns] = weight
    blocks = padded.reshape(-1, LANES, k // per_step, per_step)
    packed = zeros((len(blocks), k // per_step, LANES, per_step), weight.dtype)
    packed[...] = blocks.transpose(0, 2, 1, 3)
    return packed
