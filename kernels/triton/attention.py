"""Causal attention over scattered slots: decode, extend, and a prefix that several requests share.

A request's keys are cut into splits, by a rule of its length alone that each program works out for itself: a launch
is the same for every length, so one captured graph serves them all, and the host never waits for a length.

    keys of a request    |—— shared with others ——|—————————— its own ——————————|
    read by              cascade, once for all     split 0 │ split 1 │ split 2
    partial results      [max_splits …]            [0]       [1]       [2]        merged by log-sum-exp

A split alone writes the output itself. Partial results of decode are merged by the program that is the last to come to
its request and key head, those of extend by a launch of their own. The rows of a tile are (new token, query head) pairs
that share a key head (grouped-query attention: Ainslie et al. 2023), so K and V are read once for all of them. Running
softmax: Milakov, Gimelshein 2018; splits of the keys: Dao et al., Flash-Decoding, 2023; shared prefixes: Juravsky et
al. 2024.
Scores are in units of log2, for exp2 is one instruction.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from branchwork.kernels.attention import AttentionWorkspace, SharedPrefixes
from branchwork.kernels.configs import (
    DECODE_BLOCKS,
    MERGED_VALUES,
    AttentionConfig,
    cascade_config,
    decode_config,
    extend_config,
)
from branchwork.kernels.triton.capability import capability_of
from branchwork.kernels.triton.early import after_the_last, early

_LOG2_E = 1.4426950408889634


@triton.jit
def _split_keys(
    num_keys, SPLIT_KEYS: tl.constexpr, MAX_SPLITS: tl.constexpr, BLOCK_KEYS: tl.constexpr
):
    """Keys of each split but the last: at least SPLIT_KEYS, whole blocks, at most MAX_SPLITS splits."""
    even = tl.cdiv(tl.cdiv(num_keys, MAX_SPLITS), BLOCK_KEYS) * BLOCK_KEYS
    return tl.maximum(even, SPLIT_KEYS)


@triton.jit
def _over_keys(
    q, highest, total, sums, k_pool, v_pool, k_scale, v_scale, slots, first, last, kv_head, position,
    window, scale, KV_HEADS: tl.constexpr, D: tl.constexpr, BLOCK_KEYS: tl.constexpr, MASKED: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Add the keys at places first to last to the running softmax of a tile of rows.

    Row r sees the places up to position[r], and `window` of them if there is a window. MASKED False: every row sees
    every key, and first to last is whole blocks.
    """
    dim = tl.arange(0, D)
    for start in tl.range(first, last, BLOCK_KEYS, num_stages=STAGES):
        place = start + tl.arange(0, BLOCK_KEYS)
        inside = place < last
        slot = tl.load(slots + place, mask=inside, other=0).to(tl.int64)
        line = slot * KV_HEADS + kv_head  # 64 bits: a pool has more than 2^31 elements
        k_at = k_pool + line[None, :] * D + dim[:, None]
        v_at = v_pool + line[:, None] * D + dim[None, :]
        if MASKED:
            k = tl.load(k_at, mask=inside[None, :], other=0.0)
        else:
            k = tl.load(k_at)
        scores = tl.dot(q, k.to(q.dtype), input_precision="ieee") * scale
        if k_scale is not None:
            scores *= tl.load(k_scale + line, mask=inside, other=0.0)[None, :]
        if MASKED:
            seen = inside[None, :] & (place[None, :] <= position[:, None])
            if window is not None:
                seen = seen & (place[None, :] > position[:, None] - window)
            scores = tl.where(seen, scores, -float("inf"))
        new_highest = tl.maximum(highest, tl.max(scores, 1))
        # A row that has seen nothing yet has -inf here; relative to 0 its weights are 0, not NaN.
        anchor = tl.where(new_highest == -float("inf"), 0.0, new_highest)
        shrink = tl.exp2(highest - anchor)
        weights = tl.exp2(scores - anchor[:, None])
        total = total * shrink + tl.sum(weights, 1)
        if v_scale is not None:
            weights *= tl.load(v_scale + line, mask=inside, other=0.0)[None, :]
        if MASKED:
            v = tl.load(v_at, mask=inside[:, None], other=0.0)
        else:
            v = tl.load(v_at)
        sums = sums * shrink[:, None]
        sums += tl.dot(weights.to(q.dtype), v.to(q.dtype), input_precision="ieee")
        highest = new_highest
    return highest, total, sums


@triton.jit
def _store_rows(
    whole, out, partial, lse, token, head, real, split, highest, total, sums, HEADS: tl.constexpr,
    D: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """Write a tile's result: to the output when it is the `whole`, else as the partial result of a split."""
    dim = tl.arange(0, D)
    sums = sums / tl.where(total > 0, total, 1.0)[:, None]
    line = token.to(tl.int64) * HEADS + head
    if whole:
        target = out + line[:, None] * D + dim[None, :]
        tl.store(target, sums.to(out.dtype.element_ty), mask=real[:, None])
    else:
        place = line * SLOTS + split
        tl.store(partial + place[:, None] * D + dim[None, :], sums, mask=real[:, None])
        tl.store(lse + place, highest + tl.log2(total), mask=real)


@triton.jit
def _is_last(arrived, num_programs):
    """Whether this program is the last of so many to come here; the count is 0 again then, for the next launch.

    What the others have stored is seen by the last: their stores come before the barrier, that before the count, which
    releases them and acquires them (PTX's causality order). Who is last is chance: no result may depend on it.
    """
    tl.debug_barrier()
    count = num_programs - 1
    if num_programs > 1:
        count = tl.atomic_add(arrived, 1, sem="acq_rel")
    last = count == num_programs - 1
    if last & (num_programs > 1):
        tl.store(arrived, 0)
    tl.debug_barrier()
    return last


@triton.jit
def _merge_rows(
    out, partial, lse, lines, real, num_own, first_shared, num_shared, D: tl.constexpr, SLOTS: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,
):  # fmt: skip
    """Join the partial results of some (token, head) lines, in their order: each weighs what its log-sum-exp says.

    They are those from 0 to num_own, and num_shared from first_shared on: all of them were written, no other is read.
    """
    dim = tl.arange(0, D)
    highest = tl.full([lines.shape[0]], -float("inf"), tl.float32)
    total = tl.zeros([lines.shape[0]], tl.float32)
    sums = tl.zeros([lines.shape[0], D], tl.float32)
    end = tl.where(num_shared > 0, first_shared + num_shared, num_own)
    for start in tl.range(0, end, BLOCK_PARTS, num_stages=1):
        place = start + tl.arange(0, BLOCK_PARTS)
        present = (place < num_own) | (
            (place >= first_shared) & (place < first_shared + num_shared)
        )
        mask = real[:, None] & present[None, :]
        at = (lines * SLOTS)[:, None] + place[None, :]
        # Past the first-level cache, which others' stores do not reach.
        parts = tl.load(lse + at, mask=mask, other=-float("inf"), cache_modifier=".cg")
        values = tl.load(
            partial + at[:, :, None] * D + dim[None, None, :], mask=mask[:, :, None], other=0.0, cache_modifier=".cg"
        )  # fmt: skip
        new_highest = tl.maximum(highest, tl.max(parts, 1))
        anchor = tl.where(new_highest == -float("inf"), 0.0, new_highest)
        shrink = tl.exp2(highest - anchor)
        weights = tl.exp2(parts - anchor[:, None])
        total = total * shrink + tl.sum(weights, 1)
        sums = sums * shrink[:, None] + tl.sum(values * weights[:, :, None], 1)
        highest = new_highest
    merged = sums / tl.where(total > 0, total, 1.0)[:, None]
    target = out + lines[:, None] * D + dim[None, :]
    tl.store(target, merged.to(out.dtype.element_ty), mask=real[:, None])


@triton.jit
def decode_kernel(
    q, k_pool, v_pool, k_scale, v_scale, slot_table, rows, kv_len, shared_len, out, partial, lse, arrived, scale,
    window, max_len, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr, SPLIT_KEYS: tl.constexpr, MAX_SPLITS: tl.constexpr, SHARED_BLOCK_KEYS: tl.constexpr,
    SHARED_SPLIT_KEYS: tl.constexpr, SHARED_SPLITS: tl.constexpr, PADDED_GROUP: tl.constexpr,
    BLOCK_PARTS: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One program: some splits of one request's own keys, for the query heads of one key head.

    How many programs share a request's splits is the host's choice, for which it needs no length; what a split is
    follows from the length alone. The last of them to come merges the splits, and those of the prefix that the request
    shares, which are there already.
    """
    after_the_last(EARLY)
    request, kv_head = tl.program_id(0), tl.program_id(1)
    length = tl.load(kv_len + request)
    line = tl.load(rows + request)  # here, so that it is on its way together with the length
    shared = 0
    if shared_len is not None:
        shared = tl.load(shared_len + request)
    begin = shared
    if window is not None:
        begin = tl.maximum(begin, length - window)
    each = _split_keys(length - begin, SPLIT_KEYS, MAX_SPLITS, BLOCK_KEYS)
    num_splits = tl.maximum(tl.cdiv(length - begin, each), 1)
    if tl.program_id(2) >= num_splits:
        return
    GROUP: tl.constexpr = HEADS // KV_HEADS
    SLOTS: tl.constexpr = MAX_SPLITS + SHARED_SPLITS
    row = tl.arange(0, BLOCK_ROWS)
    real = row < GROUP
    head = kv_head * GROUP + row
    dim = tl.arange(0, D)
    q_at = q + (request * HEADS + head[:, None]) * D + dim[None, :]
    tile = tl.load(q_at, mask=real[:, None], other=0.0)
    slots = slot_table + line.to(tl.int64) * max_len
    position = tl.full([BLOCK_ROWS], 0, tl.int32) + (length - 1)
    whole = (num_splits == 1) & (shared == 0)
    for split in tl.range(tl.program_id(2), num_splits, tl.num_programs(2)):
        first = begin + split * each
        last = tl.minimum(first + each, length)
        highest, total, sums = _over_keys(
            tile, tl.full([BLOCK_ROWS], -float("inf"), tl.float32), tl.zeros([BLOCK_ROWS], tl.float32),
            tl.zeros([BLOCK_ROWS, D], tl.float32), k_pool, v_pool, k_scale, v_scale, slots, first, last, kv_head,
            position, window, scale, KV_HEADS, D, BLOCK_KEYS, True, STAGES,
        )  # fmt: skip
        _store_rows(
            whole, out, partial, lse, row * 0 + request, head, real, split, highest, total, sums, HEADS, D, SLOTS
        )  # fmt: skip
    if not whole:
        num_programs = tl.minimum(num_splits, tl.num_programs(2))
        if _is_last(arrived + request * KV_HEADS + kv_head, num_programs):
            num_shared = tl.cdiv(
                shared, _split_keys(shared, SHARED_SPLIT_KEYS, SHARED_SPLITS, SHARED_BLOCK_KEYS)
            )
            member = tl.arange(0, PADDED_GROUP)
            lines = request.to(tl.int64) * HEADS + kv_head * GROUP + member
            _merge_rows(
                out, partial, lse, lines, member < GROUP, num_splits, MAX_SPLITS, num_shared, D, SLOTS, BLOCK_PARTS
            )  # fmt: skip


@triton.jit
def cascade_kernel(
    q, k_pool, v_pool, k_scale, v_scale, slot_table, rows, group_start, members, group_len, partial, lse, scale,
    max_len, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr, SPLIT_KEYS: tl.constexpr, MAX_SPLITS: tl.constexpr, FIRST_SLOT: tl.constexpr,
    SLOTS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One program: a split of the keys that a group of requests shares, for BLOCK_ROWS (request, head) pairs.

    The slots are those of the group's first member. An empty group leaves at once.
    """
    group, split = tl.program_id(0) // MAX_SPLITS, tl.program_id(0) % MAX_SPLITS
    kv_head, tile_id = tl.program_id(1), tl.program_id(2)
    member = tl.load(group_start + group)
    GROUP: tl.constexpr = HEADS // KV_HEADS
    num_rows = (tl.load(group_start + group + 1) - member) * GROUP
    if tile_id * BLOCK_ROWS >= num_rows:
        return
    length = tl.load(group_len + group)
    each = _split_keys(length, SPLIT_KEYS, MAX_SPLITS, BLOCK_KEYS)
    first = split * each
    last = tl.minimum(first + each, length)
    if first >= length:
        return
    row = tile_id * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    real = row < num_rows
    request = tl.load(members + member + row // GROUP, mask=real, other=0)
    head = kv_head * GROUP + row % GROUP
    dim = tl.arange(0, D)
    q_at = q + (request * HEADS + head)[:, None] * D + dim[None, :]
    tile = tl.load(q_at, mask=real[:, None], other=0.0)
    slots = slot_table + tl.load(rows + tl.load(members + member)).to(tl.int64) * max_len
    highest, total, sums = _over_keys(
        tile, tl.full([BLOCK_ROWS], -float("inf"), tl.float32), tl.zeros([BLOCK_ROWS], tl.float32),
        tl.zeros([BLOCK_ROWS, D], tl.float32), k_pool, v_pool, k_scale, v_scale, slots, first, last, kv_head,
        tl.full([BLOCK_ROWS], 0, tl.int32) + (length - 1), None, scale, KV_HEADS, D, BLOCK_KEYS, True, STAGES,
    )  # fmt: skip
    _store_rows(
        False, partial, partial, lse, request, head, real, FIRST_SLOT + split, highest, total, sums, HEADS, D, SLOTS
    )  # fmt: skip


@triton.jit
def extend_kernel(
    q, k_pool, v_pool, k_scale, v_scale, slot_table, rows, query_start, kv_len, out, partial, lse, scale,
    window, max_len, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, PADDED_GROUP: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, SPLIT_KEYS: tl.constexpr, MAX_SPLITS: tl.constexpr,
    FEW_TOKENS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One program: a tile of a request's new tokens in the query heads of one key head, over all keys or a split.

    Few new tokens are few tiles, so their keys are split; many need no splits. What a program does follows from its
    number and the request's own counts.

        tile 0   [t0 h0, t0 h1, …, t1 h0, …]      tokens in order, PADDED_GROUP heads each
    """
    request, kv_head, number = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    token = tl.load(query_start + request)
    num_new = tl.load(query_start + request + 1) - token
    length = tl.load(kv_len + request)
    few = num_new <= FEW_TOKENS
    tile_id, split = number, 0
    TOKENS: tl.constexpr = BLOCK_ROWS // PADDED_GROUP
    if few:
        tile_id, split = number // MAX_SPLITS, number % MAX_SPLITS
    else:
        # The last tile has the most keys: it begins first, so that the others end with it.
        tile_id = tl.cdiv(num_new, TOKENS) - 1 - number
    if (tile_id < 0) | (tile_id * TOKENS >= num_new):
        return
    before = length - num_new + tile_id * TOKENS  # keys that come before the tile's first token
    end = tl.maximum(tl.minimum(length, before + TOKENS), 0)
    each = end
    if few:
        each = _split_keys(end, SPLIT_KEYS, MAX_SPLITS, BLOCK_KEYS)
    first = split * each
    if (first >= end) & (split > 0):
        return
    last = tl.minimum(first + each, end)

    GROUP: tl.constexpr = HEADS // KV_HEADS
    row = tl.arange(0, BLOCK_ROWS)
    new = tile_id * TOKENS + row // PADDED_GROUP
    real = (new < num_new) & (row % PADDED_GROUP < GROUP)
    head = kv_head * GROUP + row % PADDED_GROUP
    position = length - num_new + new
    dim = tl.arange(0, D)
    q_at = q + ((token + new).to(tl.int64) * HEADS + head)[:, None] * D + dim[None, :]
    tile = tl.load(q_at, mask=real[:, None], other=0.0)
    slots = slot_table + tl.load(rows + request).to(tl.int64) * max_len
    highest = tl.full([BLOCK_ROWS], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    sums = tl.zeros([BLOCK_ROWS, D], tl.float32)
    masked_from = first
    if window is None:
        # Whole blocks that the tile's first token sees, and so all of its tokens: no mask is needed.
        whole_blocks = (before + 1) // BLOCK_KEYS * BLOCK_KEYS
        masked_from = tl.maximum(first, tl.minimum(whole_blocks, last))
        highest, total, sums = _over_keys(
            tile, highest, total, sums, k_pool, v_pool, k_scale, v_scale, slots, first, masked_from, kv_head,
            position, None, scale, KV_HEADS, D, BLOCK_KEYS, False, STAGES,
        )  # fmt: skip
    else:
        seen_from = tl.maximum(before - window + 1, 0) // BLOCK_KEYS * BLOCK_KEYS
        masked_from = tl.maximum(first, seen_from)
    highest, total, sums = _over_keys(
        tile, highest, total, sums, k_pool, v_pool, k_scale, v_scale, slots, masked_from, last, kv_head,
        position, window, scale, KV_HEADS, D, BLOCK_KEYS, True, STAGES,
    )  # fmt: skip
    _store_rows(
        end <= each, out, partial, lse, token + new, head, real, split, highest, total, sums, HEADS, D, MAX_SPLITS
    )  # fmt: skip


@triton.jit
def merge_extend_kernel(
    out, partial, lse, query_start, kv_len, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr,
    PADDED_GROUP: tl.constexpr, TOKENS: tl.constexpr, BLOCK_KEYS: tl.constexpr, SPLIT_KEYS: tl.constexpr,
    MAX_SPLITS: tl.constexpr, FEW_TOKENS: tl.constexpr, BLOCK_PARTS: tl.constexpr,
):  # fmt: skip
    """One program: the query heads of one key head, of one of the first FEW_TOKENS new tokens of a request."""
    request, new = tl.program_id(0) // FEW_TOKENS, tl.program_id(0) % FEW_TOKENS
    token = tl.load(query_start + request)
    num_new = tl.load(query_start + request + 1) - token
    if (num_new > FEW_TOKENS) | (new >= num_new):
        return
    length = tl.load(kv_len + request)
    end = tl.maximum(tl.minimum(length, length - num_new + (new // TOKENS + 1) * TOKENS), 0)
    num_splits = tl.cdiv(end, _split_keys(end, SPLIT_KEYS, MAX_SPLITS, BLOCK_KEYS))
    if num_splits <= 1:
        return
    GROUP: tl.constexpr = HEADS // KV_HEADS
    member = tl.arange(0, PADDED_GROUP)
    lines = (token + new).to(tl.int64) * HEADS + tl.program_id(1) * GROUP + member
    _merge_rows(
        out, partial, lse, lines, member < GROUP, num_splits, 0, 0, D, MAX_SPLITS, BLOCK_PARTS
    )


def attend(
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
    k_scale: Tensor | None,
    v_scale: Tensor | None,
    workspace: AttentionWorkspace,
    max_new_tokens: int,
    shared: SharedPrefixes | None,
) -> None:
    """See `api.attend`. With one new token a request it is decode, and q[i] is request i's."""
    pool = (k_pool, v_pool, k_scale, v_scale, slot_table, rows)
    device = q.shape[2], capability_of(q.device), k_scale is not None, q.dtype is torch.float32
    if max_new_tokens == 1:
        # Beyond a window the shared keys are not looked at: then each request reads its own few.
        decode(
            q, pool, kv_len, out, scale, window, workspace, None if window else shared,
            decode_config(*device[:3]), cascade_config(*device),
        )  # fmt: skip
    else:
        extend(
            q, pool, query_start, kv_len, out, scale, window, workspace, max_new_tokens,
            extend_config(*device),
        )  # fmt: skip


Pool = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor, Tensor]
"""k_pool, v_pool, k_scale, v_scale, slot_table, rows."""


def _parts_at_once(slots: int, values: int, at_most: int) -> int:
    """Partial results, of so many values each, that are merged at a time."""
    most: int = triton.next_power_of_2(slots)
    return min(most, max(1, at_most // values))


def decode(
    q: Tensor,
    pool: Pool,
    kv_len: Tensor,
    out: Tensor,
    scale: float,
    window: int,
    workspace: AttentionWorkspace,
    shared: SharedPrefixes | None,
    own: AttentionConfig,
    common: AttentionConfig,
    blocks: int = DECODE_BLOCKS,
    merged: int = MERGED_VALUES,
) -> None:
    """Attention of one new token a request; requests that share a prefix read it once.

    blocks  of threads, about; merged  values of partial results that are merged at a time
    """
    num_requests, num_heads, head_dim = q.shape
    kv_heads, max_len = pool[0].shape[1], pool[4].shape[1]
    partial, lse = workspace.partial, workspace.lse
    limit = window or None
    log2_scale = scale * _LOG2_E
    heads = {"HEADS": num_heads, "KV_HEADS": kv_heads, "D": head_dim}
    shared_len = None if shared is None else shared.shared_len
    if shared is not None:
        num_groups = shared.group_len.shape[0]
        tiles = triton.cdiv(num_requests * (num_heads // kv_heads), common.block_rows)
        cascade_kernel[(num_groups * common.max_splits, kv_heads, tiles)](
            q, *pool, shared.group_start, shared.members, shared.group_len, partial, lse, log2_scale, max_len,
            **heads, BLOCK_ROWS=common.block_rows, BLOCK_KEYS=common.block_keys, SPLIT_KEYS=common.split_keys,
            MAX_SPLITS=common.max_splits, FIRST_SLOT=own.max_splits, SLOTS=own.max_splits + common.max_splits,
            STAGES=common.stages, num_warps=common.warps,
        )  # fmt: skip
    padded_group = triton.next_power_of_2(num_heads // kv_heads)
    programs = min(own.max_splits, triton.cdiv(blocks, num_requests * kv_heads))
    decode_kernel[(num_requests, kv_heads, programs)](
        q, *pool, kv_len, shared_len, out, partial, lse, workspace.arrived, log2_scale, limit, max_len, **heads,
        BLOCK_ROWS=max(own.block_rows, padded_group), BLOCK_KEYS=own.block_keys, SPLIT_KEYS=own.split_keys,
        MAX_SPLITS=own.max_splits, SHARED_BLOCK_KEYS=common.block_keys, SHARED_SPLIT_KEYS=common.split_keys,
        SHARED_SPLITS=common.max_splits, PADDED_GROUP=padded_group,
        BLOCK_PARTS=_parts_at_once(own.max_splits + common.max_splits, padded_group * head_dim, merged),
        STAGES=own.stages, num_warps=own.warps, **early(q.device),
    )  # fmt: skip


def extend(
    q: Tensor,
    pool: Pool,
    query_start: Tensor,
    kv_len: Tensor,
    out: Tensor,
    scale: float,
    window: int,
    workspace: AttentionWorkspace,
    max_new_tokens: int,
    own: AttentionConfig,
) -> None:
    """Attention of any number of new tokens a request, up to `max_new_tokens`."""
    num_requests = kv_len.shape[0]
    num_heads, head_dim = q.shape[1:]
    kv_heads, max_len = pool[0].shape[1], pool[4].shape[1]
    partial, lse = workspace.partial, workspace.lse
    padded_group = triton.next_power_of_2(num_heads // kv_heads)
    tokens = own.block_rows // padded_group
    few_tiles = triton.cdiv(min(max_new_tokens, own.few_tokens), tokens)
    programs = max(triton.cdiv(max_new_tokens, tokens), few_tiles * own.max_splits)
    heads = {"HEADS": num_heads, "KV_HEADS": kv_heads, "D": head_dim}
    splits = {
        "BLOCK_KEYS": own.block_keys, "SPLIT_KEYS": own.split_keys,
        "MAX_SPLITS": own.max_splits, "FEW_TOKENS": own.few_tokens,
    }  # fmt: skip
    extend_kernel[(num_requests, kv_heads, programs)](
        q, *pool, query_start, kv_len, out, partial, lse, scale * _LOG2_E, window or None, max_len, **heads,
        PADDED_GROUP=padded_group, BLOCK_ROWS=own.block_rows, **splits, STAGES=own.stages, num_warps=own.warps,
    )  # fmt: skip
    merge_extend_kernel[(num_requests * own.few_tokens, kv_heads)](
        out, partial, lse, query_start, kv_len, **heads, PADDED_GROUP=padded_group, TOKENS=tokens, **splits,
        BLOCK_PARTS=_parts_at_once(own.max_splits, padded_group * head_dim, MERGED_VALUES), num_warps=4,
    )  # fmt: skip
