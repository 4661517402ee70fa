"""A mixture of experts: which experts a token goes to, products with each expert's own weights, and their sum.

    scores [T, E] → route → for each expert how many pairs it has, and which     pair = token · choices + choice
    x [T, …]      → expert_linear → [T · choices, …], by the pair's number → … → combine → [T, …]

A block of a product belongs to one expert (`grouping`). Pairs come to an expert's list in any order: a row's product
depends on no other row. Fedus et al. 2022.
"""

import triton
import triton.language as tl
from torch import Tensor

from branchwork.kernels.configs import POINTWISE_BLOCK, ExpertsConfig, experts_config
from branchwork.kernels.triton.grouping import members_of_block, num_blocks


@triton.jit
def route_kernel(
    scores, weight, expert, count, pairs, num_tokens, EXPERTS: tl.constexpr, PADDED: tl.constexpr,
    CHOICES: tl.constexpr, PADDED_CHOICES: tl.constexpr, NORMALISED: tl.constexpr,
):  # fmt: skip
    """One program: one token. Of equal scores the lower number is chosen first; NaN is chosen last."""
    token = tl.program_id(0)
    at, choice = tl.arange(0, PADDED), tl.arange(0, PADDED_CHOICES)
    real = at < EXPERTS
    score = tl.load(scores + token.to(tl.int64) * EXPERTS + at, mask=real, other=0.0).to(tl.float32)
    score = tl.where(real & (score == score), score, -float("inf"))
    highest = tl.max(score, 0)
    rest = tl.exp(score - tl.where(highest == -float("inf"), 0.0, highest))
    total = tl.sum(rest, 0)
    rest = tl.where(real, rest / tl.where(total > 0, total, 1.0), -1.0)
    chosen = tl.zeros([PADDED_CHOICES], tl.float32)
    for number in tl.static_range(CHOICES):
        best = tl.max(rest, 0)
        which = tl.min(tl.where(rest == best, at, PADDED), 0)
        rest = tl.where(at == which, -2.0, rest)
        chosen = tl.where(choice == number, best, chosen)
        pair = token * CHOICES + number
        tl.store(expert + pair, which)
        place = tl.atomic_add(count + which, 1)
        tl.store(pairs + which.to(tl.int64) * num_tokens + place, pair)
    if NORMALISED:
        sum_of_chosen = tl.sum(chosen, 0)
        chosen /= tl.where(sum_of_chosen > 0, sum_of_chosen, 1.0)
    tl.store(weight + token * CHOICES + choice, chosen, mask=choice < CHOICES)


@triton.jit
def expert_linear_kernel(
    x, weight, count, pairs, out, num_tokens, num_columns, num_inputs, CHOICES: tl.constexpr,
    EXPERTS: tl.constexpr, PADDED: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One program: a tile of outputs for BLOCK_ROWS pairs of one expert. CHOICES: pairs that read the same row of x."""
    expert, pair, real_row = members_of_block(
        count, pairs, tl.program_id(1), num_tokens, EXPERTS, PADDED, BLOCK_ROWS
    )
    if expert >= EXPERTS:
        return
    column = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    real_column = column < num_columns
    inner = tl.arange(0, BLOCK_INPUTS)
    x_at = x + (pair // CHOICES)[:, None].to(tl.int64) * num_inputs + inner[None, :]
    line = (
        expert.to(tl.int64) * num_columns + column
    )  # 64 bits: experts have more than 2^31 weights
    weight_at = weight + line[:, None] * num_inputs + inner[None, :]
    sums = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    for start in tl.range(0, num_inputs, BLOCK_INPUTS, num_stages=STAGES):
        inside = (start + inner < num_inputs)[None, :]
        values = tl.load(x_at + start, mask=real_row[:, None] & inside, other=0.0)
        weights = tl.load(weight_at + start, mask=real_column[:, None] & inside, other=0.0)
        sums = tl.dot(values, weights.T, sums, input_precision="ieee")
    target = out + pair[:, None].to(tl.int64) * num_columns + column[None, :]
    mask = real_row[:, None] & real_column[None, :]
    tl.store(target, sums.to(out.dtype.element_ty), mask=mask)


@triton.jit
def combine_kernel(values, weight, out, width, CHOICES: tl.constexpr, BLOCK: tl.constexpr):
    """One program: BLOCK elements of one token."""
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real = at < width
    sums = tl.zeros([BLOCK], tl.float32)
    for number in tl.static_range(CHOICES):
        pair = token * CHOICES + number
        value = tl.load(values + pair * width + at, mask=real, other=0.0).to(tl.float32)
        sums += value * tl.load(weight + pair)
    tl.store(out + token * width + at, sums.to(out.dtype.element_ty), mask=real)


def route(
    scores: Tensor, normalised: bool, weight: Tensor, expert: Tensor, count: Tensor, pairs: Tensor
) -> None:
    """See `api.route`."""
    num_tokens, num_experts = scores.shape
    choices = weight.shape[1]
    count.zero_()
    route_kernel[(num_tokens,)](
        scores, weight, expert, count, pairs, num_tokens, EXPERTS=num_experts,
        PADDED=triton.next_power_of_2(num_experts), CHOICES=choices,
        PADDED_CHOICES=triton.next_power_of_2(choices), NORMALISED=normalised, num_warps=1,
    )  # fmt: skip


def expert_linear(
    x: Tensor,
    weight: Tensor,
    count: Tensor,
    pairs: Tensor,
    out: Tensor,
    config: ExpertsConfig | None = None,
) -> None:
    """See `api.expert_linear`."""
    num_experts, num_columns, num_inputs = weight.shape
    num_pairs = len(out)
    tile = config or experts_config(num_pairs, num_experts)
    blocks = num_blocks(num_pairs, num_experts, tile.block_rows)
    expert_linear_kernel[(triton.cdiv(num_columns, tile.block_columns), blocks)](
        x, weight, count, pairs, out, pairs.shape[1], num_columns, num_inputs, CHOICES=num_pairs // len(x),
        EXPERTS=num_experts, PADDED=triton.next_power_of_2(num_experts), BLOCK_ROWS=tile.block_rows,
        BLOCK_COLUMNS=tile.block_columns, BLOCK_INPUTS=tile.block_inputs, STAGES=tile.stages, num_warps=tile.warps,
    )  # fmt: skip


def combine(values: Tensor, weight: Tensor, out: Tensor) -> None:
    """See `api.combine`."""
    num_tokens, width = out.shape
    combine_kernel[(num_tokens, triton.cdiv(width, POINTWISE_BLOCK))](
        values, weight, out, width, CHOICES=weight.shape[1], BLOCK=POINTWISE_BLOCK, num_warps=4
    )
