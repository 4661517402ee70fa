"""Rows that lie apart in memory, laid out as `tile.product` reads them: sixteen rows at a time, in registers."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from branchwork.kernels.cpu.tile import LANES
from branchwork.kernels.cpu.vector import inlined, kernel

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_WORDS = ir.VectorType(_I32, LANES)


def _shuffled(b: ir.IRBuilder, x: Any, y: Any, picks: list[int]) -> Any:
    return b.shuffle_vector(x, y, ir.Constant(_WORDS, picks))


_LOW = [lane // 2 + LANES * (lane % 2) for lane in range(LANES)]
_HIGH = [pick + LANES // 2 for pick in _LOW]


def transposed(b: ir.IRBuilder, vectors: list[Any]) -> list[Any]:
    """Sixteen vectors of sixteen words: four perfect shuffles are a transposition."""
    for _ in range(4):
        pairs = [(vectors[i], vectors[i + LANES // 2]) for i in range(LANES // 2)]
        vectors = [_shuffled(b, x, y, half) for x, y in pairs for half in (_LOW, _HIGH)]
    return vectors


@intrinsic
def transpose(_: Any, rows: Any, offset: Any, out: Any) -> Any:
    """Sixteen words (4 bytes each) of sixteen rows: word w of row r goes to out[w, r].

    rows    address of 16 int64 addresses
    offset  bytes from there to the first word
    out     address of 16 × 16 words
    """

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        rows, offset, out = args

        def at(address: Any, index: int, kind: Any) -> Any:
            size = 64 if kind is _WORDS else 8
            return b.inttoptr(b.add(address, _I64(size * index)), kind.as_pointer())

        starts = [b.add(b.load(at(rows, r, _I64)), offset) for r in range(LANES)]
        vectors = [b.load(b.inttoptr(start, _WORDS.as_pointer()), align=2) for start in starts]
        for word, vector in enumerate(transposed(b, vectors)):
            b.store(vector, at(out, word, _WORDS), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


_ADDRESSES = ir.VectorType(_I64, LANES)


def _all(b: ir.IRBuilder, value: Any) -> Any:
    """The vector of one address or stride."""
    undefined = ir.Constant(_ADDRESSES, ir.Undefined)
    first = b.insert_element(undefined, value, _I32(0))
    return b.shuffle_vector(first, undefined, ir.Constant(_WORDS, [0] * LANES))


@intrinsic
def rows_of_slots(_: Any, slots: Any, pool: Any, stride: Any, out: Any) -> Any:
    """Addresses of the rows of sixteen slots: out[i] = pool + slots[i] · stride. `slots`: of int32, `out`: of int64."""

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        slots, pool, stride, out = args
        numbers = b.sext(b.load(b.inttoptr(slots, _WORDS.as_pointer()), align=4), _ADDRESSES)
        found = b.add(b.mul(numbers, _all(b, stride)), _all(b, pool))
        b.store(found, b.inttoptr(out, _ADDRESSES.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@intrinsic
def lie_evenly(_: Any, rows: Any, stride: Any) -> Any:
    """Whether sixteen rows lie `stride` bytes apart, one after the other. `rows`: address of their addresses."""

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        found = b.load(b.inttoptr(args[0], _ADDRESSES.as_pointer()), align=8)
        steps = b.mul(ir.Constant(_ADDRESSES, list(range(LANES))), _all(b, args[1]))
        even = b.add(_all(b, b.extract_element(found, _I32(0))), steps)
        differ = b.bitcast(b.icmp_signed("!=", found, even), ir.IntType(LANES))
        return b.icmp_unsigned("==", differ, ir.IntType(LANES)(0))

    return types.boolean(types.int64, types.int64), generate


@intrinsic
def interleave(_: Any, even: Any, odd: Any, out: Any) -> Any:
    """Sixteen halves (2 bytes each) of two rows, side by side: out[c] = even[c] | odd[c] << 16. Addresses all."""

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        kind = ir.VectorType(ir.IntType(16), LANES)
        low, high = (
            b.zext(b.load(b.inttoptr(row, kind.as_pointer()), align=2), _WORDS) for row in args[:2]
        )
        both = b.or_(low, b.shl(high, ir.Constant(_WORDS, [16] * LANES)))
        b.store(both, b.inttoptr(args[2], _WORDS.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def load_word(_: Any, address: Any) -> Any:
    """The uint32 at an address."""

    def generate(_c: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        return b.load(b.inttoptr(args[0], _I32.as_pointer()), align=2)

    return types.uint32(types.int64), generate


@intrinsic
def highest_of_64(_: Any, address: Any) -> Any:
    """The largest of 64 floats; what comes of NaN is not defined. A plain loop for it does not vectorise."""

    def generate(_c: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        kind = ir.VectorType(ir.FloatType(), LANES)
        size = _I64(4 * LANES)
        at = [b.add(args[0], b.mul(size, _I64(i))) for i in range(4)]
        vectors = [b.load(b.inttoptr(address, kind.as_pointer()), align=4) for address in at]
        best = vectors[0]
        for other in vectors[1:]:
            best = b.select(b.fcmp_ordered(">", best, other), best, other)
        name = f"llvm.vector.reduce.fmax.v{LANES}f32"
        reduce = b.module.globals.get(name) or ir.Function(
            b.module, ir.FunctionType(ir.FloatType(), [kind]), name
        )
        return b.call(reduce, [best], fastmath=("nnan",))

    return types.float32(types.int64), generate


@kernel
def pack_keys(rows: Any, offset: Any, keys: Any) -> None:
    """keys[r // 16, w, r % 16] = word w of row r.

    rows  [64]                     int64: addresses; a row begins `offset` bytes after
    keys  [4, words of a row, 16]  uint32: each a float32, or two bfloat16
    """
    num_words = keys.shape[1]
    whole = num_words // LANES * LANES
    for block in range(keys.shape[0]):
        first = block * LANES
        out = keys.ctypes.data + first * num_words * 4
        for word in range(0, whole, LANES):
            transpose(rows.ctypes.data + first * 8, offset + word * 4, out + word * LANES * 4)
        for word in range(whole, num_words):
            for r in range(LANES):
                keys[block, word, r] = load_word(rows[first + r] + offset + word * 4)


@kernel
def pack_values(rows: Any, offset: Any, head_dim: Any, values: Any) -> None:
    """Lay rows out with the rows as k: values[c // 16, s, c % 16] = column c of row s, or of rows 2 s and 2 s + 1.

    rows    [64]  int64: addresses; a row begins `offset` bytes after
    values  [column blocks, steps, 16]  uint32: 64 steps of a float32, or 32 steps of two bfloat16.
            Columns from head_dim on keep what they hold.
    """
    steps = values.shape[1]
    whole = head_dim // LANES
    for step in range(steps):
        if steps == len(rows):
            for c in range(head_dim):
                word = load_word(rows[step] + offset + c * 4)
                values[c // LANES, step, c % LANES] = word
            continue
        even, odd = rows[2 * step] + offset, rows[2 * step + 1] + offset
        for block in range(whole):
            out = values.ctypes.data + (block * steps + step) * LANES * 4
            interleave(even + block * LANES * 2, odd + block * LANES * 2, out)
        for c in range(whole * LANES, head_dim):
            values[whole, step, c % LANES] = _half(even, c) | _half(odd, c) << np.uint32(16)


@inlined
def _half(row: Any, column: Any) -> Any:
    """Column of a row of bfloat16; its word is read, as rows are of whole words."""
    word = load_word(row + column // 2 * 4)
    return word >> np.uint32(16) if column % 2 else word & np.uint32(0xFFFF)


_BYTES_64 = ir.VectorType(ir.IntType(16), 2 * LANES)


@intrinsic
def _zip_32(_: Any, even: Any, odd: Any, low: Any, high: Any) -> Any:
    """32 halves (2 bytes each) of two rows side by side: of eight the first four go to `low`, the others to `high`.

    That order costs one instruction a line; the natural one costs three. Addresses all.
    """

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        rows = [b.load(b.inttoptr(row, _BYTES_64.as_pointer()), align=2) for row in args[:2]]
        for upper, out in enumerate(args[2:]):
            picks = [
                8 * (i // 8) + 4 * upper + i % 8 // 2 + 2 * LANES * (i % 2)
                for i in range(2 * LANES)
            ]
            order = ir.Constant(ir.VectorType(_I32, 2 * LANES), picks)
            b.store(
                b.shuffle_vector(*rows, order), b.inttoptr(out, _BYTES_64.as_pointer()), align=2
            )
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@intrinsic
def copy_line(_: Any, source: Any, target: Any) -> Any:
    """64 bytes from an address to another."""

    def generate(context: Any, b: ir.IRBuilder, _s: Any, args: Any) -> Any:
        source, target = (b.inttoptr(at, _WORDS.as_pointer()) for at in args)
        b.store(b.load(source, align=2), target, align=2)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@inlined
def copy_rows(rows: Any, count: Any, offset: Any, lines: Any, out: Any) -> Any:
    """Some lines of 64 bytes of each row, one row after the other to an address.

    rows  array of int64 addresses; the lines begin `offset` bytes after
    """
    for r in range(count):
        for line in range(lines):
            copy_line(rows[r] + offset + line * 64, out + (r * lines + line) * 64)


@inlined
def zip_rows(rows: Any, offset: Any, lines: Any, out: Any) -> Any:
    """64 rows of bfloat16 as the second factor of `amx.add_product`, the rows as k, in the order of `_zip_32`.

    rows  array of 64 int64 addresses; `lines` of 32 columns each begin `offset` bytes after
    out   address of [2, 2 · lines, 16] lines
    """
    for pair in range(len(rows) // 2):
        even, odd = rows[2 * pair] + offset, rows[2 * pair + 1] + offset
        to = out + (pair // LANES * 2 * lines * LANES + pair % LANES) * 64
        for line in range(lines):
            low = to + 2 * line * LANES * 64
            _zip_32(even + line * 64, odd + line * 64, low, low + LANES * 64)
