"""A block of 64 scores of one row, or of sixteen, becomes weights, in vectors of 16: what attention does most often
after its products. Scores of one row lie along a line (`soften`), or those of sixteen rows down columns
(`soften_columns`), where a vector never has to be summed or searched.

Written in LLVM's vectors: the plain loops took five times as long as the products around them, since a compiler
halves the vectors' width and calls what it cannot see to be short.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from branchwork.kernels.cpu.amx import HAS_AMX
from branchwork.kernels.cpu.emitting import (
    FLOATS,
    WORDS,
    call,
    everywhere,
    exp_below_zero,
    fused,
    narrowed,
    put,
    splat,
)
from branchwork.kernels.cpu.layout import transposed
from branchwork.kernels.cpu.tile import BFLOATS, LANES, PANEL

_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VECTORS = 4

_RULED_OUT = -1e30


def _at(b: ir.IRBuilder, address: Any, index: int) -> Any:
    return b.inttoptr(b.add(address, _I64(4 * LANES * index)), FLOATS.as_pointer())


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
        low, high = (splat(b, b.trunc(bound, _I32)) for bound in (first, last))
        scales, vectors, best = splat(b, scale), [], None
        for v in range(_VECTORS):
            lanes = ir.Constant(WORDS, list(range(v * LANES, (v + 1) * LANES)))
            seen = b.and_(b.icmp_signed(">=", lanes, low), b.icmp_signed("<", lanes, high))
            raw = b.load(_at(b, scores, v), align=4)
            scaled = b.select(seen, b.fmul(raw, scales), everywhere(FLOATS, _RULED_OUT))
            vectors.append(scaled)
            best = (
                scaled
                if best is None
                else b.select(b.fcmp_ordered(">", best, scaled), best, scaled)
            )
        top = call(b, f"llvm.vector.reduce.fmax.v{LANES}f32", _F32, best, flags=("nnan",))
        top = b.select(b.fcmp_ordered(">", highest, top), highest, top)
        tops, total = splat(b, top), everywhere(FLOATS, 0.0)
        for v, scaled in enumerate(vectors):
            weight = exp_below_zero(b, b.fsub(scaled, tops))
            total = b.fadd(total, weight)
            put(b, weight, b.add(out, _I64(v * LANES * (2 if is_half else 4))), is_half)
        name = f"llvm.vector.reduce.fadd.v{LANES}f32"
        summed = call(b, name, _F32, _F32(0.0), total, flags=("reassoc",))
        return context.make_tuple(b, result, [top, summed])

    parameters = (types.int64, types.int64, types.int64, types.float32, types.float32, weights)
    return result(*parameters), generate


@intrinsic
def shrink_add(_: Any, sums: Any, shrink: Any, partial: Any) -> Any:
    """sums[i] = sums[i] · shrink + partial[i] for 16 float32. Addresses of sums and partial."""

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        sums, shrink, partial = args
        old, new = (b.load(_at(b, at, 0), align=4) for at in (sums, partial))
        b.store(fused(b, old, splat(b, shrink), new), _at(b, sums, 0), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32, types.int64), generate


_HIDDEN = -1e38
_HALF = PANEL // 2
# 2**x on [0, 1), the minimax polynomial of degree 5 that is exact at 0: off by 1e-7.
_POWER_COEFFICIENTS = (
    0.0018671308237195993,
    0.009017028685964896,
    0.05579991431864036,
    0.24016444980088647,
    0.6931513118371193,
    1.0,
)
_BYTES_64 = ir.VectorType(ir.IntType(16), 2 * LANES)


def _power_of_two(b: ir.IRBuilder, x: Any) -> Any:
    """2**x in float32, 0 far below zero. For processors that have AMX, and so AVX-512."""
    if not HAS_AMX:
        return x
    ones, floor, as_is = ir.Constant(ir.IntType(16), 0xFFFF), _I32(0x09), _I32(4)
    name = "llvm.x86.avx512.mask.{}.ps.512"
    fraction = call(b, name.format("reduce"), FLOATS, x, floor, x, ones, as_is)
    value = everywhere(FLOATS, _POWER_COEFFICIENTS[0])
    for coefficient in _POWER_COEFFICIENTS[1:]:
        value = fused(b, value, fraction, everywhere(FLOATS, coefficient))
    # Its second operand is rounded down to a whole number.
    return call(b, name.format("scalef"), FLOATS, value, x, x, ones, as_is)


def _narrow_pair(b: ir.IRBuilder, even: Any, odd: Any) -> Any:
    """Words of two bfloat16, rounded to nearest even."""
    if not HAS_AMX:
        return b.bitcast(even, WORDS)
    both = call(b, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", BFLOATS, odd, even)
    halves = b.bitcast(both, _BYTES_64)
    picks = [lane // 2 + LANES * (lane % 2) for lane in range(2 * LANES)]
    order = ir.Constant(ir.VectorType(_I32, 2 * LANES), picks)
    return b.bitcast(b.shuffle_vector(halves, halves, order), WORDS)


def _line(b: ir.IRBuilder, address: Any, index: Any) -> Any:
    """Where line `index` of 16 floats is."""
    return b.inttoptr(b.add(address, b.mul(index, _I64(4 * LANES))), FLOATS.as_pointer())


def _greater(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    return b.select(b.fcmp_ordered(">", x, y), x, y)


@intrinsic
def hide_keys(_: Any, scores: Any, count: Any, first_place: Any, window: Any, places: Any) -> Any:
    """Rule out what a column may not see: key j of a column at p = first_place + places[c], unless p − window < j ≤ p.

    scores  address of lines of 16 columns, of which the first `count` are ruled out or kept
    window  0: there is none
    places  address of 16 int32
    """

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        scores, count, first_place, window, places = args
        offsets = b.load(b.inttoptr(places, WORDS.as_pointer()), align=4)
        last = b.add(offsets, splat(b, b.trunc(first_place, _I32)))
        is_open = b.icmp_signed("==", window, _I64(0))
        reach = b.select(is_open, _I64(1 << 30), window)
        first = b.sub(last, splat(b, b.trunc(reach, _I32)))
        with cgutils.for_range(b, count) as loop:
            key = splat(b, b.trunc(loop.index, _I32))
            seen = b.and_(b.icmp_signed("<=", key, last), b.icmp_signed(">", key, first))
            at = _line(b, scores, loop.index)
            b.store(b.select(seen, b.load(at, align=4), everywhere(FLOATS, _HIDDEN)), at, align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@intrinsic
def soften_columns(
    _: Any, scores: Any, halves: Any, scale: Any, highest: Any, total: Any, shrink: Any, rows: Any
) -> Any:
    """weights[c, j] = 2 ** (scores[j, c] · scale − h[c]) for 16 columns; h is the higher of `highest` and the column's.

    scores           address of 32 · halves lines of 16 float32
    scale            above zero
    highest, total   addresses of 16 float32: in powers of two, and the sums of weights so far; both are brought up
                     to date
    shrink           address of 16 float32: what is summed so far has to be multiplied by
    rows             address of 16 addresses: where the weights of each column go, as bfloat16

    Returns whether any of `shrink` is not 1.
    """

    def generate(_c: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        *others, rows = args

        def give(half: Any, words: list[Any]) -> None:
            for column, word in enumerate(transposed(b, words)):
                row = b.load(b.inttoptr(b.add(rows, _I64(8 * column)), _I64.as_pointer()))
                at = b.add(row, b.mul(half, _I64(2 * _HALF)))
                b.store(word, b.inttoptr(at, WORDS.as_pointer()), align=4)

        return _softened(b, *others, give)

    parameters = [types.int64] * 7
    parameters[2] = types.float32
    return types.boolean(*parameters), generate


@intrinsic
def soften_lines(
    _: Any, scores: Any, halves: Any, scale: Any, highest: Any, total: Any, shrink: Any
) -> Any:
    """As `soften_columns`; the weights take the scores' places, as float32 of the bits that bfloat16 has."""

    def generate(_c: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        scores = args[0]

        def give(half: Any, words: list[Any]) -> None:
            for pair, word in enumerate(words):
                even = b.shl(word, everywhere(WORDS, 16))
                odd = b.and_(word, everywhere(WORDS, -1 << 16))
                for key, value in enumerate((even, odd)):
                    at = b.add(b.mul(half, _I64(_HALF)), _I64(2 * pair + key))
                    b.store(b.bitcast(value, FLOATS), _line(b, scores, at), align=4)

        return _softened(b, *args, give)

    parameters = [types.int64] * 6
    parameters[2] = types.float32
    return types.boolean(*parameters), generate


def _softened(
    b: ir.IRBuilder, scores: Any, halves: Any, scale: Any, highest: Any, total: Any, shrink: Any, give: Any
) -> Any:  # fmt: skip
    """`soften_columns`, but for where weights go: `give` is told them in words, each of two keys, half by half."""
    zero = _I64(0)
    scales, before = splat(b, scale), b.load(_line(b, highest, zero), align=4)
    best = [
        cgutils.alloca_once_value(b, everywhere(FLOATS, _HIDDEN)) for _ in range(4)
    ]  # four, or each would wait for the one before
    with cgutils.for_range(b, halves) as loop:
        first = b.mul(loop.index, _I64(_HALF))
        for key in range(_HALF):
            score = b.load(_line(b, scores, b.add(first, _I64(key))), align=4)
            b.store(_greater(b, b.load(best[key % 4]), score), best[key % 4])
    tops = [b.load(slot) for slot in best]
    top = _greater(b, _greater(b, tops[0], tops[1]), _greater(b, tops[2], tops[3]))
    after = _greater(b, before, b.fmul(top, scales))
    sums = [cgutils.alloca_once_value(b, everywhere(FLOATS, 0.0)) for _ in range(2)]
    below = b.fneg(after)
    with cgutils.for_range(b, halves) as loop:
        first = b.mul(loop.index, _I64(_HALF))
        words = []
        for key in range(0, _HALF, 2):
            pair = []
            for odd in (0, 1):
                score = b.load(_line(b, scores, b.add(first, _I64(key + odd))), align=4)
                weight = _power_of_two(b, fused(b, score, scales, below))
                b.store(b.fadd(b.load(sums[odd]), weight), sums[odd])
                pair.append(weight)
            words.append(_narrow_pair(b, *pair))
        give(loop.index, words)
    shrinks = _power_of_two(b, b.fsub(before, after))
    added = b.fadd(b.load(sums[0]), b.load(sums[1]))
    old = b.load(_line(b, total, zero), align=4)
    b.store(fused(b, old, shrinks, added), _line(b, total, zero), align=4)
    b.store(after, _line(b, highest, zero), align=4)
    b.store(shrinks, _line(b, shrink, zero), align=4)
    changed = b.fcmp_unordered("!=", before, after)
    return b.icmp_unsigned("!=", b.bitcast(changed, ir.IntType(16)), ir.IntType(16)(0))


@intrinsic
def scale_line(_: Any, line: Any, factor: Any) -> Any:
    """line[i] = line[i] · factor for 16 float32 at an address."""

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        at = _line(b, args[0], _I64(0))
        b.store(b.fmul(b.load(at, align=4), splat(b, args[1])), at, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), generate


@intrinsic
def give_32(_: Any, sums: Any, total: Any, out: Any) -> Any:
    """out[i] = sums[i] / total as bfloat16, for 32 columns that `layout.zip_rows` has laid out. Addresses."""

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        sums, total, out = args
        totals = splat(b, total)
        lines = [b.load(_line(b, sums, _I64(i)), align=4) for i in range(2)]
        halves = [narrowed(b, b.fdiv(line, totals)) for line in lines]
        # Four of the one, four of the other.
        picks = [4 * (i // 8) + i % 4 + LANES * (i // 4 % 2) for i in range(2 * LANES)]
        order = ir.Constant(ir.VectorType(_I32, 2 * LANES), picks)
        both = b.shuffle_vector(halves[0], halves[1], order)
        b.store(both, b.inttoptr(out, _BYTES_64.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32, types.int64), generate
