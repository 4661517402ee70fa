"""Products with weights in 8 or 4 bits: directly for a few tokens, and by making numbers of them for many.

    4 bits, one group of inputs of one output     byte j = level of input j │ level of input j + group / 2
                                                           low nibble        high nibble

So both halves of a group come out of its bytes in their order, and meet the halves of x without a shuffle.
WHOLE: the inputs are a whole number of groups. Else the levels of the last one end with zeros, and x has none there.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from branchwork.kernels.configs import (
    WIDEN_COLUMNS,
    GemmConfig,
    num_splits,
    quantized_linear_config,
)
from branchwork.kernels.quantized import LinearRoom, QuantizedLinear

_NIBBLES = tl.constexpr("""{
    .reg .b32 low, high, one, middle;
    and.b32 low, $4, 0x0F0F0F0F;
    shr.b32 high, $4, 4;
    and.b32 high, high, 0x0F0F0F0F;
    prmt.b32 $0, low, 0x43434343, 0x4140;
    prmt.b32 $1, low, 0x43434343, 0x4342;
    prmt.b32 $2, high, 0x43434343, 0x4140;
    prmt.b32 $3, high, 0x43434343, 0x4342;
    mov.b32 one, 0x3F803F80;
    mov.b32 middle, 0xC308C308;
    fma.rn.bf16x2 $0, $0, one, middle;
    fma.rn.bf16x2 $1, $1, one, middle;
    fma.rn.bf16x2 $2, $2, one, middle;
    fma.rn.bf16x2 $3, $3, one, middle;
}""")
"""Four bytes → the levels in their low nibbles and in their high ones, bfloat16. A nibble n below the byte 0x43 is the
number 128 + n, from which 136 is taken. A conversion takes four times as many instructions, and with few tokens a
product would wait for those, not for its weights."""


@triton.jit
def _load_x(x, row, first, real_row, num_inputs, WIDTH: tl.constexpr, WHOLE: tl.constexpr):
    """x[row, first : first + WIDTH]."""
    at = first + tl.arange(0, WIDTH)
    real = real_row[:, None]
    if not WHOLE:
        real = real & (at < num_inputs)[None, :]
    return tl.load(x + row[:, None].to(tl.int64) * num_inputs + at[None, :], mask=real, other=0.0)


@triton.jit
def _levels_of_bytes(packed, dtype: tl.constexpr):
    """The levels in the low and in the high nibbles, as numbers of x's type."""
    if dtype == tl.bfloat16:
        low, high = tl.inline_asm_elementwise(
            _NIBBLES, "=r,=r,=r,=r,r", [packed], dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=4
        )  # fmt: skip
    else:
        low = ((packed & 15).to(tl.int8) - 8).to(dtype)
        high = ((packed >> 4).to(tl.int8) - 8).to(dtype)
    return low, high


@triton.jit
def int4_linear_kernel(
    x, weight, scale, bias, out, partial, arrived, num_rows, num_columns, num_inputs, SPLITS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, GROUP: tl.constexpr, WHOLE: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """One program: a tile of outputs, over a split's inputs a group at a time; a group's scale follows its product."""
    row, column = (
        tl.arange(0, BLOCK_ROWS),
        tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS),
    )
    real_row, real_column = row < num_rows, column < num_columns
    num_groups = tl.cdiv(num_inputs, GROUP)
    each = num_groups // SPLITS
    first = tl.program_id(1) * each
    line = column[:, None].to(tl.int64) * (num_groups * (GROUP // 2))
    weight_at = weight + line + tl.arange(0, GROUP // 2)[None, :]
    sums = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    for group in tl.range(first, first + each, num_stages=STAGES):
        packed = tl.load(weight_at + group * (GROUP // 2), mask=real_column[:, None], other=0)
        low = _load_x(x, row, group * GROUP, real_row, num_inputs, GROUP // 2, WHOLE)
        high = _load_x(x, row, group * GROUP + GROUP // 2, real_row, num_inputs, GROUP // 2, WHOLE)
        low_levels, high_levels = _levels_of_bytes(packed, x.dtype.element_ty)
        part = tl.dot(low, low_levels.T, input_precision="ieee")
        part = tl.dot(high, high_levels.T, part, input_precision="ieee")
        factor = tl.load(scale + column * num_groups + group, mask=real_column, other=0.0)
        sums += part * factor[None, :]
    _finish_tile(
        sums, None, bias, out, partial, arrived, row, column, num_rows, num_columns, SPLITS
    )


@triton.jit
def int8_linear_kernel(
    x, weight, scale, bias, out, partial, arrived, num_rows, num_columns, num_inputs, SPLITS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, GROUP: tl.constexpr, WHOLE: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """One program: a tile of outputs, over a split's inputs; an output has one scale, which comes last."""
    row, column = (
        tl.arange(0, BLOCK_ROWS),
        tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS),
    )
    real_row, real_column = row < num_rows, column < num_columns
    num_groups = tl.cdiv(num_inputs, GROUP)
    each = num_groups // SPLITS
    first = tl.program_id(1) * each
    line = column[:, None].to(tl.int64) * (num_groups * GROUP)
    weight_at = weight + line + tl.arange(0, GROUP)[None, :]
    sums = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    for group in tl.range(first, first + each, num_stages=STAGES):
        levels = tl.load(weight_at + group * GROUP, mask=real_column[:, None], other=0)
        values = _load_x(x, row, group * GROUP, real_row, num_inputs, GROUP, WHOLE)
        sums = tl.dot(values, levels.to(x.dtype.element_ty).T, sums, input_precision="ieee")
    _finish_tile(
        sums, scale, bias, out, partial, arrived, row, column, num_rows, num_columns, SPLITS
    )


@triton.jit
def _finish_tile(
    sums,
    scale,
    bias,
    out,
    partial,
    arrived,
    row,
    column,
    num_rows,
    num_columns,
    SPLITS: tl.constexpr,
):
    """Store a tile that has no splits; else leave this split's sums, and the last of them to come adds them all up.

    Which one is last is chance, but it adds the splits in their order, so nothing of a sum is. What the others have
    stored is seen by it: their stores come before the barrier, that before the count, which releases
    them and acquires them (PTX's causality order).
    """
    if SPLITS > 1:
        real = (row < num_rows)[:, None] & (column < num_columns)[None, :]
        at = partial + row[:, None] * num_columns + column[None, :]
        tl.store(at + tl.program_id(1).to(tl.int64) * num_rows * num_columns, sums, mask=real)
        tl.debug_barrier()
        count = tl.atomic_add(arrived + tl.program_id(0), 1, sem="acq_rel")
        if count == SPLITS - 1:
            tl.debug_barrier()
            # Past the first-level cache, which others' stores do not reach.
            sums = tl.load(at, mask=real, other=0.0, cache_modifier=".cg")
            for _ in tl.range(1, SPLITS, loop_unroll_factor=4):
                at += num_rows * num_columns
                sums += tl.load(at, mask=real, other=0.0, cache_modifier=".cg")
            tl.store(arrived + tl.program_id(0), 0)
            _store_tile(sums, scale, bias, out, row, column, num_rows, num_columns)
    else:
        _store_tile(sums, scale, bias, out, row, column, num_rows, num_columns)


@triton.jit
def _store_tile(sums, scale, bias, out, row, column, num_rows, num_columns):
    if scale is not None:
        sums *= tl.load(scale + column, mask=column < num_columns, other=0.0)[None, :]
    if bias is not None:
        sums += tl.load(bias + column, mask=column < num_columns, other=0.0).to(tl.float32)[None, :]
    target = out + row[:, None].to(tl.int64) * num_columns + column[None, :]
    real = (row < num_rows)[:, None] & (column < num_columns)[None, :]
    tl.store(target, sums.to(out.dtype.element_ty), mask=real)


@triton.jit
def widen_kernel(
    weight, scale, out, num_columns, num_inputs, BITS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
    GROUP: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """One program: the weights of BLOCK_COLUMNS outputs for one group of inputs, as numbers."""
    column = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    real = column < num_columns
    group, num_groups = tl.program_id(1), tl.cdiv(num_inputs, GROUP)
    line = column[:, None].to(tl.int64) * (num_groups * GROUP * BITS // 8)
    inner = tl.arange(0, GROUP * BITS // 8)
    stored = tl.load(
        weight + line + group * (GROUP * BITS // 8) + inner[None, :], mask=real[:, None], other=0
    )
    if BITS == 8:
        factor = tl.load(scale + column, mask=real, other=0.0)
        _store_wide(stored, factor, out, column, group * GROUP + inner, real, num_inputs, WHOLE)
    else:
        factor = tl.load(scale + column * num_groups + group, mask=real, other=0.0)
        low, high = (stored & 15).to(tl.int8) - 8, (stored >> 4).to(tl.int8) - 8
        at = group * GROUP + inner
        _store_wide(low, factor, out, column, at, real, num_inputs, WHOLE)
        _store_wide(high, factor, out, column, at + GROUP // 2, real, num_inputs, WHOLE)


@triton.jit
def _store_wide(levels, factor, out, column, at, real, num_inputs, WHOLE: tl.constexpr):
    mask = real[:, None]
    if not WHOLE:
        mask = mask & (at < num_inputs)[None, :]
    target = out + column[:, None].to(tl.int64) * num_inputs + at[None, :]
    wide = levels.to(tl.float32) * factor[:, None]
    tl.store(target, wide.to(out.dtype.element_ty), mask=mask)


def quantized_linear(
    x: Tensor,
    weight: QuantizedLinear,
    out: Tensor,
    room: LinearRoom,
    config: GemmConfig | None = None,
) -> None:
    """See `api.quantized_linear`."""
    num_rows, num_columns = out.shape
    tile = config or quantized_linear_config(num_rows)
    kernel = int4_linear_kernel if weight.bits == 4 else int8_linear_kernel
    num_tiles = triton.cdiv(num_columns, tile.block_columns)
    splits = num_splits(num_columns, triton.cdiv(weight.in_features, weight.group), tile)
    kernel[(num_tiles, splits)](
        x, weight.weight, weight.scale, weight.bias, out, room.wide.view(torch.float32), room.arrived, num_rows,
        num_columns, weight.in_features, SPLITS=splits, BLOCK_ROWS=tile.block_rows,
        BLOCK_COLUMNS=tile.block_columns, GROUP=weight.group,
        WHOLE=weight.in_features % weight.group == 0, STAGES=tile.stages, num_warps=tile.warps,
    )  # fmt: skip


def widen(weight: QuantizedLinear, first: int, out: Tensor) -> None:
    """See `api.widen`."""
    num_columns, num_inputs = out.shape
    grid = (triton.cdiv(num_columns, WIDEN_COLUMNS), triton.cdiv(num_inputs, weight.group))
    widen_kernel[grid](
        weight.weight[first:], weight.scale[first:], out, num_columns, num_inputs, BITS=weight.bits,
        BLOCK_COLUMNS=WIDEN_COLUMNS, GROUP=weight.group, WHOLE=num_inputs % weight.group == 0, num_warps=4,
    )  # fmt: skip
