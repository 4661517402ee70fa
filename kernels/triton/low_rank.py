"""What low-rank adapters add to a product, B (A x), for tokens that have an adapter each (Hu et al. 2021).

    adapter [T] → group_rows → for each adapter how many tokens it has, and which
    x [T, in]   → shrink → [splits, T, parts · rank] float32 → expand → added to out [T, out]

Shrink and expand, in blocks of one adapter: Punica (Chen et al. 2023), S-LoRA (Sheng et al. 2023). A x has few columns,
so its sum is split over many blocks of threads; expand adds the splits in their order, without atomics. Tiles are of
one size in all steps, so a token's bits depend on its own adapter alone.
"""

import triton
import triton.language as tl
from torch import Tensor

from branchwork.kernels.configs import (
    POINTWISE_BLOCK,
    SHRINK_INPUTS,
    LowRankConfig,
    low_rank_config,
)
from branchwork.kernels.low_rank import AdapterRows
from branchwork.kernels.triton.grouping import members_of_block, num_blocks
from branchwork.kernels.weights import LowRank


@triton.jit
def group_rows_kernel(
    adapter, count, rows, num_tokens, ADAPTERS: tl.constexpr, BLOCK: tl.constexpr
):
    """One program: BLOCK tokens. They come to an adapter's list in any order."""
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    number = tl.load(adapter + token, mask=token < num_tokens, other=0) - 1
    real = (number >= 0) & (number < ADAPTERS)
    place = tl.atomic_add(count + number, 1, mask=real)
    tl.store(rows + number.to(tl.int64) * num_tokens + place, token, mask=real)


@triton.jit
def shrink_kernel(
    x, weight, count, rows, room, num_tokens, num_values, num_inputs, ADAPTERS: tl.constexpr, PADDED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_VALUES: tl.constexpr, BLOCK_INPUTS: tl.constexpr, SPLIT_INPUTS: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_VALUES values of BLOCK_ROWS tokens of one adapter, over SPLIT_INPUTS of the inputs."""
    adapter, row, real_row = members_of_block(
        count, rows, tl.program_id(1), num_tokens, ADAPTERS, PADDED, BLOCK_ROWS
    )
    if adapter >= ADAPTERS:
        return
    split = tl.program_id(2)
    value = tl.program_id(0) * BLOCK_VALUES + tl.arange(0, BLOCK_VALUES)
    real_value = value < num_values
    inner = tl.arange(0, BLOCK_INPUTS)
    x_at = x + row[:, None].to(tl.int64) * num_inputs + inner[None, :]
    line = adapter.to(tl.int64) * num_values + value
    weight_at = weight + line[:, None] * num_inputs + inner[None, :]
    sums = tl.zeros([BLOCK_ROWS, BLOCK_VALUES], tl.float32)
    end = tl.minimum((split + 1) * SPLIT_INPUTS, num_inputs)
    for start in tl.range(split * SPLIT_INPUTS, end, BLOCK_INPUTS, num_stages=STAGES):
        inside = (start + inner < num_inputs)[None, :]
        values = tl.load(x_at + start, mask=real_row[:, None] & inside, other=0.0)
        weights = tl.load(weight_at + start, mask=real_value[:, None] & inside, other=0.0)
        sums = tl.dot(values, weights.T, sums, input_precision="ieee")
    target = room + (split.to(tl.int64) * num_tokens + row[:, None]) * num_values + value[None, :]
    tl.store(target, sums, mask=real_row[:, None] & real_value[None, :])


@triton.jit
def expand_kernel(
    room, weight, count, rows, out, num_tokens, num_columns, first_end, second_end, ADAPTERS: tl.constexpr,
    PADDED: tl.constexpr, PARTS: tl.constexpr, RANK: tl.constexpr, PADDED_RANK: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program: a tile of outputs for BLOCK_ROWS tokens of one adapter.

    Matrices that are applied together end at columns first_end, second_end and num_columns; a tile that has columns of
    several adds each one's own product.
    """
    adapter, row, real_row = members_of_block(
        count, rows, tl.program_id(1), num_tokens, ADAPTERS, PADDED, BLOCK_ROWS
    )
    if adapter >= ADAPTERS:
        return
    first = tl.program_id(0) * BLOCK_COLUMNS
    column = first + tl.arange(0, BLOCK_COLUMNS)
    inner = tl.arange(0, PADDED_RANK)
    real_inner = inner < RANK
    line = adapter.to(tl.int64) * num_columns + column
    weight_at = weight + line[:, None] * RANK + inner[None, :]
    value_at = room + row[:, None].to(tl.int64) * (PARTS * RANK) + inner[None, :]
    sums = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    begin = 0
    for part in tl.static_range(PARTS):
        end = num_columns if part == PARTS - 1 else (first_end if part == 0 else second_end)
        if (first < end) & (first + BLOCK_COLUMNS > begin):
            real_value = real_row[:, None] & real_inner[None, :]
            values = tl.zeros([BLOCK_ROWS, PADDED_RANK], tl.float32)
            for split in tl.static_range(SPLITS):
                at = value_at + (split * num_tokens).to(tl.int64) * (PARTS * RANK) + part * RANK
                values += tl.load(at, mask=real_value, other=0.0)
            own = (column >= begin) & (column < end)
            weights = tl.load(weight_at, mask=own[:, None] & real_inner[None, :], other=0.0)
            sums = tl.dot(values.to(weights.dtype), weights.T, sums, input_precision="ieee")
        begin = end
    target = out + row[:, None].to(tl.int64) * num_columns + column[None, :]
    mask = real_row[:, None] & (column < num_columns)[None, :]
    sums += tl.load(target, mask=mask, other=0.0).to(tl.float32)
    tl.store(target, sums.to(out.dtype.element_ty), mask=mask)


def group_rows(adapter: Tensor, rows: AdapterRows) -> None:
    """See `api.group_rows`."""
    num_tokens = len(adapter)
    rows.count.zero_()
    group_rows_kernel[(triton.cdiv(num_tokens, POINTWISE_BLOCK),)](
        adapter, rows.count, rows.rows, num_tokens, ADAPTERS=len(rows.count), BLOCK=POINTWISE_BLOCK, num_warps=4
    )  # fmt: skip


def low_rank(
    x: Tensor,
    weights: LowRank,
    rows: AdapterRows,
    out: Tensor,
    config: LowRankConfig | None = None,
    split_inputs: int = SHRINK_INPUTS,
) -> None:
    """See `api.low_rank`."""
    num_adapters, num_values, num_inputs = weights.shrink.shape
    num_columns, rank = weights.expand.shape[1:]
    parts, num_tokens, tile = len(weights.widths), len(x), config or low_rank_config(rank)
    blocks = num_blocks(num_tokens, num_adapters, tile.block_rows)
    splits = -(-num_inputs // split_inputs)
    padded = triton.next_power_of_2(num_adapters)
    block_values = min(64, max(16, triton.next_power_of_2(num_values)))
    shrink_kernel[(triton.cdiv(num_values, block_values), blocks, splits)](
        x, weights.shrink, rows.count, rows.rows, rows.room, num_tokens, num_values, num_inputs,
        ADAPTERS=num_adapters, PADDED=padded, BLOCK_ROWS=tile.block_rows, BLOCK_VALUES=block_values,
        BLOCK_INPUTS=tile.block_inputs, SPLIT_INPUTS=split_inputs, STAGES=tile.stages, num_warps=tile.warps,
    )  # fmt: skip
    first_end = weights.widths[0]
    second_end = first_end + weights.widths[1] if parts > 2 else num_columns
    expand_kernel[(triton.cdiv(num_columns, tile.block_columns), blocks)](
        rows.room, weights.expand, rows.count, rows.rows, out, num_tokens, num_columns, first_end, second_end,
        ADAPTERS=num_adapters, PADDED=padded, PARTS=parts, RANK=rank,
        PADDED_RANK=max(16, triton.next_power_of_2(rank)), SPLITS=splits, BLOCK_ROWS=tile.block_rows,
        BLOCK_COLUMNS=tile.block_columns, num_warps=tile.warps,
    )  # fmt: skip
