"""Products with weights in 8 or 4 bits: directly for a few tokens, and by making numbers of them for many.

    4 bits, one group of inputs of one output     byte j = level of input j │ level of input j + group / 2
                                                           low nibble        high nibble

So both halves of a group come out of its bytes in their order, and meet the halves of x without a shuffle.
WHOLE: the inputs are a whole number of groups. Else the levels of the last one end with zeros, and x has none there.
"""

import triton
import triton.language as tl
from torch import Tensor

from branchwork.kernels.configs import WIDEN_COLUMNS, GemmConfig, quantized_linear_config
from branchwork.kernels.quantized import QuantizedLinear


@triton.jit
def _load_x(x, row, first, real_row, num_inputs, WIDTH: tl.constexpr, WHOLE: tl.constexpr):
    """x[row, first : first + WIDTH]."""
    at = first + tl.arange(0, WIDTH)
    real = real_row[:, None]
    if not WHOLE:
        real = real & (at < num_inputs)[None, :]
    return tl.load(x + row[:, None].to(tl.int64) * num_inputs + at[None, :], mask=real, other=0.0)


@triton.jit
def int4_linear_kernel(
    x, weight, scale, bias, out, num_rows, num_columns, num_inputs, BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr, GROUP: tl.constexpr, WHOLE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One program: a tile of outputs, over the inputs a group at a time; a group's scale comes after its product."""
    row = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    real_row, real_column = row < num_rows, column < num_columns
    num_groups = tl.cdiv(num_inputs, GROUP)
    line = column[:, None].to(tl.int64) * (num_groups * (GROUP // 2))
    weight_at = weight + line + tl.arange(0, GROUP // 2)[None, :]
    sums = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    for group in tl.range(0, num_groups, num_stages=STAGES):
        packed = tl.load(weight_at + group * (GROUP // 2), mask=real_column[:, None], other=0)
        low = _load_x(x, row, group * GROUP, real_row, num_inputs, GROUP // 2, WHOLE)
        high = _load_x(x, row, group * GROUP + GROUP // 2, real_row, num_inputs, GROUP // 2, WHOLE)
        low_levels = ((packed & 15).to(tl.int8) - 8).to(x.dtype.element_ty)
        high_levels = ((packed >> 4).to(tl.int8) - 8).to(x.dtype.element_ty)
        part = tl.dot(low, low_levels.T, input_precision="ieee")
        part = tl.dot(high, high_levels.T, part, input_precision="ieee")
        factor = tl.load(scale + column * num_groups + group, mask=real_column, other=0.0)
        sums += part * factor[None, :]
    _store_tile(sums, bias, out, row, column, num_rows, num_columns)


@triton.jit
def int8_linear_kernel(
    x, weight, scale, bias, out, num_rows, num_columns, num_inputs, BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr, GROUP: tl.constexpr, WHOLE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One program: a tile of outputs, over all inputs; an output has one scale, which comes last."""
    row = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    real_row, real_column = row < num_rows, column < num_columns
    num_groups = tl.cdiv(num_inputs, GROUP)
    line = column[:, None].to(tl.int64) * (num_groups * GROUP)
    weight_at = weight + line + tl.arange(0, GROUP)[None, :]
    sums = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    for group in tl.range(0, num_groups, num_stages=STAGES):
        levels = tl.load(weight_at + group * GROUP, mask=real_column[:, None], other=0)
        values = _load_x(x, row, group * GROUP, real_row, num_inputs, GROUP, WHOLE)
        sums = tl.dot(values, levels.to(x.dtype.element_ty).T, sums, input_precision="ieee")
    sums *= tl.load(scale + column, mask=real_column, other=0.0)[None, :]
    _store_tile(sums, bias, out, row, column, num_rows, num_columns)


@triton.jit
def _store_tile(sums, bias, out, row, column, num_rows, num_columns):
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
    x: Tensor, weight: QuantizedLinear, out: Tensor, config: GemmConfig | None = None
) -> None:
    """See `api.quantized_linear`."""
    num_rows, num_columns = out.shape
    tile = config or quantized_linear_config(num_rows)
    kernel = int4_linear_kernel if weight.bits == 4 else int8_linear_kernel
    grid = (triton.cdiv(num_columns, tile.block_columns), triton.cdiv(num_rows, tile.block_rows))
    kernel[grid](
        x, weight.weight, weight.scale, weight.bias, out, num_rows, num_columns, weight.in_features,
        BLOCK_ROWS=tile.block_rows, BLOCK_COLUMNS=tile.block_columns, GROUP=weight.group,
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
