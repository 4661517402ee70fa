"""The forms of each operation under one name and one set of arguments: the reference, and Triton with small blocks."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from tests.kernels.cases import F32, ints, poisoned, starts
from torch import Tensor
from triton import next_power_of_2

from branchwork.kernels import reference
from branchwork.kernels.api import make_room
from branchwork.kernels.attention import AttentionWorkspace, SharedPrefixes
from branchwork.kernels.configs import (
    DECODE_BLOCKS,
    MERGED_VALUES,
    AttentionConfig,
    ExpertsConfig,
    LowRankConfig,
    SampleConfig,
    cascade_config,
    decode_config,
    extend_config,
    quantized_linear_config,
)
from branchwork.kernels.device_rows import device_rows, make_sampling_workspace
from branchwork.kernels.low_rank import AdapterRows
from branchwork.kernels.quantized import QuantizedLinear
from branchwork.kernels.sampling import SamplingRows
from branchwork.kernels.triton import (
    attention,
    automaton,
    experts,
    lanes,
    linear,
    low_rank,
    pointwise,
    sampling,
)
from branchwork.kernels.triton.capability import capability_of
from branchwork.kernels.weights import LowRank

Call = Callable[..., None]

SMALL = AttentionConfig(
    block_rows=16, block_keys=16, split_keys=32, max_splits=4, few_tokens=4, warps=4, stages=1
)
FEW_PAIRS = ExpertsConfig(block_rows=16, block_columns=32, block_inputs=32, warps=4, stages=1)
FEW_COLUMNS = LowRankConfig(block_rows=16, block_columns=32, block_inputs=32, warps=4, stages=1)
CHUNKS = SampleConfig(chunk=32, search_block=64, warps=4, choose_warps=4, cut_blocks=60)
"""Rows of 100 tokens are four chunks; with 20 to 50 rows a program looks through two of them, or all."""


def reference_attend(groups: Any = (), capability: int = 0, **arguments: Any) -> None:
    """Sharing and tuning are how it is computed, not what."""
    reference.attend(**arguments)


def triton_attend(
    q: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    slot_table: Tensor,
    rows: Tensor,
    query_start: Tensor,
    kv_len: Tensor,
    out: Tensor,
    scale: float,
    window: int,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    groups: tuple[tuple[tuple[int, ...], int], ...] = (),
    capability: int = 0,
) -> None:
    """Decode where every request has one new token, else extend, in a poisoned workspace.

    With the blocks of a device of this capability, on a GPU of its own; 0: with small ones.
    """
    num_heads, head_dim = q.shape[1:]
    if capability and q.is_cuda:
        capability = capability_of(q.device)
    of = head_dim, capability, k_scale is not None
    own, common, new = (
        (decode_config(*of), cascade_config(*of), extend_config(*of))
        if capability
        else (SMALL, SMALL, SMALL)
    )
    splits = own.max_splits + common.max_splits
    lines = max(len(rows) * splits, len(q) * new.max_splits) * num_heads
    work = AttentionWorkspace(
        poisoned(lines * head_dim, dtype=F32).to(q.device), poisoned(lines, dtype=F32).to(q.device),
        torch.zeros(len(rows) * k_pool.shape[1], dtype=torch.int32, device=q.device),
    )  # fmt: skip
    pool = (k_pool, v_pool, k_scale, v_scale, slot_table, rows)
    counts = query_start.diff().tolist()
    if set(counts) == {1}:
        shared = shared_prefixes(groups, len(rows), q.device) if groups and not window else None
        kv_heads = k_pool.shape[1]
        # Of the four splits that small blocks make, each program takes two, and two are merged at a time.
        few = (2 * len(rows) * kv_heads, 2 * next_power_of_2(num_heads // kv_heads) * head_dim)
        sizes = (DECODE_BLOCKS, MERGED_VALUES) if capability else few
        attention.decode(q, pool, kv_len, out, scale, window, work, shared, own, common, *sizes)
        assert not work.arrived.any(), "the next launch would find a count"
    else:
        attention.extend(q, pool, query_start, kv_len, out, scale, window, work, max(counts), new)


def shared_prefixes(
    groups: tuple[tuple[tuple[int, ...], int], ...], num_requests: int, device: torch.device
) -> SharedPrefixes:
    shared_len = torch.zeros(num_requests, dtype=torch.int32)
    for members, length in groups:
        shared_len[list(members)] = length
    members = [member for group, _ in groups for member in group]
    return SharedPrefixes(
        starts([len(group) for group, _ in groups]).to(device),
        ints(*members, *[0] * (num_requests - len(members))).to(device),
        ints(*(length for _, length in groups)).to(device),
        shared_len.to(device),
    )


def reference_sample(logits: Tensor, rows: SamplingRows, out: Tensor, logprobs: Tensor) -> None:
    reference.sample(logits, rows, out)
    # The model's own distribution; where nothing may follow, no token has a probability.
    clean = logits.nan_to_num(nan=-math.inf)
    reference.target_logprobs(clean, out.clamp_min(0), logprobs)
    logprobs[out < 0] = -math.inf


def triton_sample(logits: Tensor, rows: SamplingRows, out: Tensor, logprobs: Tensor) -> None:
    work = make_sampling_workspace(len(out), logits.shape[1], logits.device, CHUNKS)
    for tensor in (
        work.chunk_highest,
        work.chunk_sum,
        work.raw_highest,
        work.raw_sum,
        work.list_weight,
    ):
        tensor.fill_(math.nan)
    for tensor in (work.chunk_token, work.chunk_count, work.list_token):
        tensor.fill_(2**31 - 1)
    there = device_rows(rows, logits.shape[1], lambda a: torch.from_numpy(a).to(logits.device))
    sampling.sample(logits, there, out, logprobs, work, CHUNKS)


def experts_of(forms: Any, silu: Any, *tile: ExpertsConfig) -> Call:
    """A layer's experts: routed, gated and summed by the operations of one module."""

    def work(
        x: Tensor, scores: Tensor, choices: int, gate_up: Tensor, down: Tensor, out: Tensor
    ) -> None:
        num_tokens, num_experts = scores.shape
        weight = poisoned(num_tokens, choices, dtype=F32).to(x.device)
        expert = torch.full((num_tokens, choices), 2**30, dtype=torch.int32, device=x.device)
        count = torch.full((num_experts,), 2**30, dtype=torch.int32, device=x.device)
        pairs = torch.full((num_experts, num_tokens), 2**30, dtype=torch.int32, device=x.device)
        forms.route(scores, True, weight, expert, count, pairs)
        both = x.new_full((num_tokens * choices, gate_up.shape[1]), math.nan)
        forms.expert_linear(x, gate_up, count, pairs, both, *tile)
        gated = x.new_full((len(both), down.shape[2]), math.nan)
        silu.silu_mul(both, gated)
        values = x.new_full((len(both), down.shape[1]), math.nan)
        forms.expert_linear(gated, down, count, pairs, values, *tile)
        forms.combine(values, weight, out)

    return work


def adapters_of(forms: Any, **tile: Any) -> Call:
    """Tokens grouped by adapter and their products, with poison wherever nothing is to be read."""

    def work(
        x: Tensor, adapter: Tensor, shrink: Tensor, expand: Tensor, widths: Any, out: Tensor
    ) -> None:
        weights = LowRank(shrink, expand, widths)
        room = poisoned(len(x) * shrink.shape[1] * 8, dtype=F32).to(x.device)
        count = torch.full((len(shrink),), 2**30, dtype=torch.int32, device=x.device)
        rows = torch.full((len(shrink), len(x)), 2**30, dtype=torch.int32, device=x.device)
        grouped = AdapterRows(count, rows, room)
        forms.group_rows(adapter, grouped)
        forms.low_rank(x, weights, grouped, out, **tile)

    return work


def advance(form: Call) -> Call:
    """A case names the tensors of `places` too, as what is written."""
    return lambda tokens, automata, places, **_: form(tokens, automata, places)


def fill(form: Call) -> Call:
    return lambda rows, slot_table, lanes, **_: form(rows, slot_table, lanes)


def end(form: Call) -> Call:
    return lambda chosen, lanes, rows, **_: form(chosen, lanes, rows)


def triton_quantized_linear(
    x: Tensor, weight: QuantizedLinear, out: Tensor, split_groups: int | None = None
) -> None:
    """Twice in one room, poisoned before each time: what a product leaves there must not reach the next."""
    config = quantized_linear_config(len(x))
    config = replace(config, split_groups=split_groups or config.split_groups)
    room = make_room(x.dtype, x.device, 1 << 16)
    for _ in range(2):
        room.wide.fill_(math.nan)
        out.fill_(math.nan)
        linear.quantized_linear(x, weight, out, room, config)


REFERENCE: dict[str, Call] = {
    "attend": reference_attend,
    "attend_as_tuned": reference_attend,
    "rope_store_kv": reference.rope_store_kv,
    "rms_norm": reference.rms_norm,
    "add_rms_norm": reference.add_rms_norm,
    "silu_mul": reference.silu_mul,
    "embed": reference.embed,
    "sample": reference_sample,
    "fsm_advance": advance(reference.fsm_advance),
    "fill_lanes": fill(reference.fill_lanes),
    "advance_rows": end(reference.advance_rows),
    "route": reference.route,
    "expert_linear": reference.expert_linear,
    "combine": reference.combine,
    "experts": experts_of(reference, reference),
    "quantized_linear": reference.quantized_linear,
    "quantized_linear_split": reference.quantized_linear,
    "widen": reference.widen,
    "low_rank": adapters_of(reference),
}

TRITON: dict[str, Call] = {
    "attend": triton_attend,
    "attend_as_tuned": triton_attend,
    "rope_store_kv": lambda k_scale=None, v_scale=None, **rest: pointwise.rope_store_kv(
        **rest, k_scale=k_scale, v_scale=v_scale
    ),
    "rms_norm": pointwise.rms_norm,
    "add_rms_norm": pointwise.add_rms_norm,
    "silu_mul": pointwise.silu_mul,
    "embed": pointwise.embed,
    "sample": triton_sample,
    "fsm_advance": advance(automaton.fsm_advance),
    "fill_lanes": fill(lanes.fill_lanes),
    "advance_rows": end(lanes.advance_rows),
    "route": experts.route,
    "expert_linear": partial(experts.expert_linear, config=FEW_PAIRS),
    "combine": experts.combine,
    "experts": experts_of(experts, pointwise, FEW_PAIRS),
    "quantized_linear": triton_quantized_linear,
    "quantized_linear_split": partial(triton_quantized_linear, split_groups=1),
    "widen": linear.widen,
    "low_rank": adapters_of(low_rank, config=FEW_COLUMNS, split_inputs=64),
}
