"""Products of a few tokens with weights in 8 or 4 bits: what is read is the weights, so their bytes are the time.

    4 bits, one group of inputs of one output     byte j = level of input j │ level of input j + group / 2
                                                           low nibble        high nibble

So both halves of a group come out of its bytes in their order, and meet the halves of x without a shuffle.
"""

import triton
import triton.language as tl
from torch import Tensor

from branchwork.kernels.configs import QUANTIZED_LINEAR, GemmConfig
from branchwork.kernels.quantized import QuantizedLinear


@triton.jit
def int4_linear_kernel(
    x, weight, scale, bias, out, num_rows, num_columns, num_inputs,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, GROUP: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One program: a tile of outputs, over the inputs a group at a time; a group's scale comes after its product."""
    row = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    real_row, real_column = (row < num_rows)[:, None], (column < num_columns)[:, None]
    half = tl.arange(0, GROUP // 2)
    x_at = x + row[:, None].to(tl.int64) * num_inputs + half[None, :]
    weight_at = weight + column[:, None].to(tl.int64) * (num_inputs // 2) + half[None, :]
    num_groups = num_inputs // GROUP
    sums = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    for group in tl.range(0, num_groups, num_stages=STAGES):
        packed = tl.load(weight_at + group * (GROUP // 2), mask=real_column, other=0)
        low = tl.load(x_at + group * GROUP, mask=real_row, other=0.0)
        high = tl.load(x_at + group * GROUP + GROUP // 2, mask=real_row, other=0.0)
        low_levels = ((packed & 15).to(tl.int8) - 8).to(x.dtype.element_ty)
        high_levels = ((packed >> 4).to(tl.int8) - 8).to(x.dtype.element_ty)
        part = tl.dot(low, low_levels.T, input_precision="ieee")
        part = tl.dot(high, high_levels.T, part, input_precision="ieee")
        factor = tl.load(scale + column * num_groups + group, mask=column < num_columns, other=0.0)
        sums += part * factor[None, :]
    _store_tile(sums, bias, out, row, column, num_rows, num_columns)


@triton.jit
def int8_linear_kernel(
    x, weight, scale, bias, out, num_rows, num_columns, num_inputs,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, GROUP: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One program: a tile of outputs, over all inputs; an output has one scale, which comes last."""
    row = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    real_row, real_column = (row < num_rows)[:, None], (column < num_columns)[:, None]
    inner = tl.arange(0, GROUP)
    x_at = x + row[:, None].to(tl.int64) * num_inputs + inner[None, :]
    weight_at = weight + column[:, None].to(tl.int64) * num_inputs + inner[None, :]
    sums = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    for start in tl.range(0, num_inputs, GROUP, num_stages=STAGES):
        levels = tl.load(weight_at + start, mask=real_column, other=0).to(x.dtype.element_ty)
        values = tl.load(x_at + start, mask=real_row, other=0.0)
        sums = tl.dot(values, levels.T, sums, input_precision="ieee")
    sums *= tl.load(scale + column, mask=column < num_columns, other=0.0)[None, :]
    _store_tile(sums, bias, out, row, column, num_rows, num_columns)


@triton.jit
def _store_tile(sums, bias, out, row, column, num_rows, num_columns):
    if bias is not None:
        sums += tl.load(bias + column, mask=column < num_columns, other=0.0).to(tl.float32)[None, :]
    target = out + row[:, None].to(tl.int64) * num_columns + column[None, :]
    real = (row < num_rows)[:, None] & (column < num_columns)[None, :]
    tl.store(target, sums.to(out.dtype.element_ty), mask=real)


def quantized_linear(
    x: Tensor, weight: QuantizedLinear, out: Tensor, config: GemmConfig | None = None
) -> None:
    """See `api.quantized_linear`."""
    tile = config or QUANTIZED_LINEAR[weight.bits]
    kernel = int4_linear_kernel if weight.bits == 4 else int8_linear_kernel
    num_rows, num_columns = out.shape
    grid = (triton.cdiv(num_columns, tile.block_columns), triton.cdiv(num_rows, tile.block_rows))
    kernel[grid](
        x, weight.weight, weight.scale, weight.bias, out, num_rows, num_columns, weight.in_features,
        BLOCK_ROWS=tile.block_rows, BLOCK_COLUMNS=tile.block_columns, GROUP=weight.group, STAGES=tile.stages,
        num_warps=tile.warps,
    )  # fmt: skip
