"""A block's values, weighted and summed in vectors of sixteen, for heads whose rows are few.

The matrix unit takes sixteen rows whatever there are, and wants values zipped for it; one to four rows are summed
sooner as values lie. The unit sums what stands at even k and at odd k apart, 16 fused products each from nothing, then
adds both and adds that to what was there: so is it done here, and a row has the same bits in either form.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from branchwork.kernels.cpu.amx import TILE_STEPS
from branchwork.kernels.cpu.emitting import FLOATS, everywhere, fused, splat
from branchwork.kernels.cpu.tile import LANES
from branchwork.kernels.cpu.vector import inlined

MOST_ROWS = 4
"""Rows of a head, up to which this is the sooner: each line of values takes two instructions, and two more a row."""

_F32, _I16, _I64 = ir.FloatType(), ir.IntType(16), ir.IntType(64)
_HALVES = ir.VectorType(_I16, 2 * LANES)
_LINE, _KEYS = 64, 2 * TILE_STEPS


def _widened(b: ir.IRBuilder, at: Any) -> list[Any]:
    """A line of 32 bfloat16 as two vectors, in the order of `layout.zip_rows`."""
    line = b.load(b.inttoptr(at, _HALVES.as_pointer()), align=2)
    nothing = ir.Constant(_HALVES, [0] * (2 * LANES))
    parts = []
    for upper in (0, 1):
        places = [8 * (i // 4) + 4 * upper + i % 4 for i in range(LANES)]
        picks = [pick for place in places for pick in (2 * LANES, place)]
        order = ir.Constant(ir.VectorType(ir.IntType(32), 2 * LANES), picks)
        parts.append(b.bitcast(b.shuffle_vector(line, nothing, order), FLOATS))
    return parts


@intrinsic(prefer_literal=True)
def _add_32(
    _: Any, num_rows: Any, rows: Any, offset: Any, weights: Any, sums: Any, stride: Any
) -> Any:
    """Add 32 keys' values, a line of 32 columns, to some rows (a literal). `add_values` says what is what."""
    count = num_rows.literal_value

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        _n, rows, offset, weights, sums, stride = args

        def sum_of() -> Any:
            return cgutils.alloca_once_value(b, everywhere(FLOATS, 0.0))

        apart = [[[sum_of() for _ in "lu"] for _ in range(count)] for _ in "eo"]
        with cgutils.for_range(b, _I64(TILE_STEPS)) as loop:
            for odd in (0, 1):
                key = b.add(b.mul(loop.index, _I64(2)), _I64(odd))
                row = b.load(b.inttoptr(b.add(rows, b.mul(key, _I64(8))), _I64.as_pointer()))
                values = _widened(b, b.add(row, offset))
                at = b.add(weights, b.mul(key, _I64(4 * LANES)))
                for r in range(count):
                    weight = b.load(b.inttoptr(b.add(at, _I64(4 * r)), _F32.as_pointer()))
                    for slot, value in zip(apart[odd][r], values, strict=True):
                        b.store(fused(b, splat(b, weight), value, b.load(slot)), slot)
        for r in range(count):
            for upper in (0, 1):
                even, odd_sum = (b.load(apart[odd][r][upper]) for odd in (0, 1))
                place = b.add(sums, b.add(b.mul(stride, _I64(r)), _I64(_LINE * upper)))
                at = b.inttoptr(place, FLOATS.as_pointer())
                b.store(b.fadd(b.load(at, align=4), b.fadd(even, odd_sum)), at, align=4)
        return context.get_dummy_value()

    return types.void(num_rows, *[types.int64] * 5), generate


@inlined
def add_values(
    num_rows: Any, rows: Any, offset: Any, halves: Any, weights: Any, sums: Any, stride: Any, lines: Any
) -> Any:  # fmt: skip
    """sums[r, :] += sum over k of weights[k, r] · values[k, :], for up to MOST_ROWS rows and 32 · halves keys.

    rows     address of the addresses of values, of each `lines` lines of 32 columns; `offset` bytes after they begin
    weights  address of lines of 16 float32, the weights of sixteen rows for a key; the first row's
    sums     address, in the order of `layout.zip_rows`; `stride` bytes from row to row
    """
    for half in range(halves):
        some, weight = rows + half * _KEYS * 8, weights + half * _KEYS * _LINE
        for line in range(lines):
            at, to = offset + line * _LINE, sums + 2 * line * _LINE
            if num_rows == 1:
                _add_32(1, some, at, weight, to, stride)
            elif num_rows == 2:
                _add_32(2, some, at, weight, to, stride)
            elif num_rows == 3:
                _add_32(3, some, at, weight, to, stride)
            else:
                _add_32(4, some, at, weight, to, stride)
