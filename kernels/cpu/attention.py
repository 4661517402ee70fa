"""Causal attention over scattered slots on the CPU, in blocks of 64 keys with a running softmax.

The same blocks, at the same absolute positions, in the same order, for one new token or a thousand, alone or with
others, with a prefix from the cache or not: so a token's result is the same to the last bit however its request was
cut into steps. (Running softmax: Milakov, Gimelshein 2018; blocks: Dao et al. 2022, algorithm 1.)
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from branchwork.kernels.cpu.layout import highest_of_64, pack_keys, pack_values
from branchwork.kernels.cpu.tile import LANES, MAX_ROWS, PANEL, Tiles, compiled_tiles, product
from branchwork.kernels.cpu.vector import copy, exp, fill, inlined, kernel, narrow

BLOCK = PANEL
"""Keys at a time."""
QUERY_ROWS = 192
"""(head, token) pairs that go over the keys together; their sums stay in the second-level cache."""

_LOWEST = np.float32(-1e30)


class AttentionScratch(NamedTuple):
    """One thread's working memory; `stored` is float32, or bfloat16 as uint16."""

    tiles: Tiles
    q: npt.NDArray[Any]  # [rows, head_dim] stored
    k_rows: npt.NDArray[np.int64]  # [BLOCK] addresses
    v_rows: npt.NDArray[np.int64]  # [BLOCK]
    nothing: npt.NDArray[Any]  # [kv_heads · head_dim] stored, zeros
    keys: npt.NDArray[np.uint32]  # [BLOCK / 16, steps, 16]
    values: npt.NDArray[np.uint32]  # [padded head_dim / 16, steps, 16]
    scores: npt.NDArray[np.float32]  # [MAX_ROWS, BLOCK]
    shrink: npt.NDArray[np.float32]  # [MAX_ROWS]
    weights: npt.NDArray[Any]  # [MAX_ROWS, BLOCK] stored
    partial: npt.NDArray[np.float32]  # [MAX_ROWS, padded head_dim]
    sums: npt.NDArray[np.float32]  # [rows, padded head_dim]
    highest: npt.NDArray[np.float32]  # [rows]
    total: npt.NDArray[np.float32]  # [rows]


def make_scratch(
    num_heads: int, num_kv_heads: int, head_dim: int, stored: npt.DTypeLike
) -> AttentionScratch:
    """Working memory for one thread."""
    per_step = 4 // np.dtype(stored).itemsize
    rows = max(QUERY_ROWS, num_heads)
    padded = -(-head_dim // (2 * LANES)) * 2 * LANES
    return AttentionScratch(
        tiles=compiled_tiles(np.dtype(stored)),
        q=np.zeros((rows, head_dim), stored),
        k_rows=np.zeros(BLOCK, np.int64),
        v_rows=np.zeros(BLOCK, np.int64),
        nothing=np.zeros(num_kv_heads * head_dim, stored),
        keys=np.zeros((BLOCK // LANES, head_dim // per_step, LANES), np.uint32),
        values=np.zeros((padded // LANES, BLOCK // per_step, LANES), np.uint32),
        scores=np.zeros((MAX_ROWS, BLOCK), np.float32),
        shrink=np.zeros(MAX_ROWS, np.float32),
        weights=np.zeros((MAX_ROWS, BLOCK), stored),
        partial=np.zeros((MAX_ROWS, padded), np.float32),
        sums=np.zeros((rows, padded), np.float32),
        highest=np.zeros(rows, np.float32),
        total=np.zeros(rows, np.float32),
    )


@kernel
def _gather_rows(pool: Any, slots: Any, count: Any, nothing: Any, rows: Any) -> None:
    """Addresses of a block's rows in the pool; those past `count` are of a row of zeros.

    So what a slot that is not in use holds, NaN perhaps, is never read.
    """
    first, stride = pool.ctypes.data, pool.strides[0]
    for j in range(count):
        rows[j] = first + np.int64(slots[j]) * stride
    for j in range(count, BLOCK):
        rows[j] = nothing.ctypes.data


@kernel
def _soften(scores: Any, first: Any, last: Any, scale: Any, highest: Any, weights: Any) -> Any:
    """Turn a block's scores into weights relative to the new highest score; keys outside first to last get 0.

    Returns the new highest score and the weights' sum. `scale` is positive.
    """
    fill(scores[:first], _LOWEST)
    fill(scores[last:], _LOWEST)
    highest = max(highest, highest_of_64(scores.ctypes.data) * scale)
    total = np.float32(0)
    for j in range(BLOCK):
        weight = exp(scores[j] * scale - highest)
        weights[j] = narrow(weight, weights)
        total += weight
    return highest, total


@kernel
def attend_tokens(
    q: Any,
    out: Any,
    first_token: Any,
    num_tokens: Any,
    first_position: Any,
    first_head: Any,
    num_heads: Any,
    k_pool: Any,
    v_pool: Any,
    slots: Any,
    scale: Any,
    window: Any,
    scratch: Any,
) -> None:
    """Attention of some tokens of one request, in the query heads of some key heads.

    q, out        [T, heads · head_dim] stored; tokens first_token to first_token + num_tokens, at consecutive positions
    first_head    the key heads first_head to first_head + num_heads; with their query heads, times the
                  tokens, they are at most the rows of the scratch
    slots         the request's line of the slot table
    """
    head_dim = k_pool.shape[2]
    group = q.shape[1] // head_dim // k_pool.shape[1]
    rows = num_tokens * group
    for h in range(num_heads):
        for r in range(rows):
            at = ((first_head + h) * group + r % group) * head_dim
            copy(q[first_token + r // group, at : at + head_dim], scratch.q[h * rows + r])
            fill(scratch.sums[h * rows + r], np.float32(0))
            scratch.highest[h * rows + r] = _LOWEST
            scratch.total[h * rows + r] = 0
    last_position = first_position + num_tokens
    first_block = max(first_position - window + 1, 0) // BLOCK if window else 0
    for block in range(first_block, (last_position + BLOCK - 1) // BLOCK):
        base = block * BLOCK
        count = min(BLOCK, last_position - base)
        _gather_rows(k_pool, slots[base:], count, scratch.nothing, scratch.k_rows)
        _gather_rows(v_pool, slots[base:], count, scratch.nothing, scratch.v_rows)
        for h in range(num_heads):
            offset = (first_head + h) * head_dim * q.itemsize
            pack_keys(scratch.k_rows, offset, scratch.keys)
            pack_values(scratch.v_rows, offset, head_dim, scratch.values)
            for row in range(0, rows, MAX_ROWS):
                _attend_block(
                    h * rows + row, min(rows - row, MAX_ROWS), row, group,
                    first_position - base, scale, window, scratch,
                )  # fmt: skip
    for h in range(num_heads):
        for r in range(rows):
            at = ((first_head + h) * group + r % group) * head_dim
            _divide(
                scratch.sums[h * rows + r], scratch.total[h * rows + r],
                out[first_token + r // group, at : at + head_dim],
            )  # fmt: skip


@inlined
def _attend_block(
    first_row: Any,
    num_rows: Any,
    first_query: Any,
    group: Any,
    first_place: Any,
    scale: Any,
    window: Any,
    scratch: Any,
) -> None:
    """Let up to MAX_ROWS rows of the scratch see the packed block.

    Row first_row + r is query first_query + r of its head, whose position relative to the block is
    first_place + (first_query + r) // group.
    """
    head_dim, per_step = scratch.q.shape[1], 4 // scratch.q.itemsize
    product(
        scratch.tiles, scratch.q[first_row:], num_rows, scratch.keys, head_dim // per_step,
        scratch.scores, BLOCK,
    )  # fmt: skip
    for r in range(num_rows):
        place = first_place + (first_query + r) // group
        first = max(place - window + 1, 0) if window else 0
        last = min(place + 1, BLOCK)
        if last <= first:
            fill(scratch.weights[r], 0)
            scratch.shrink[r] = 1
            continue
        row = first_row + r
        before = scratch.highest[row]
        highest, total = _soften(scratch.scores[r], first, last, scale, before, scratch.weights[r])
        shrink = exp(before - highest)
        scratch.highest[row] = highest
        scratch.total[row] = scratch.total[row] * shrink + total
        scratch.shrink[r] = shrink
    product(
        scratch.tiles, scratch.weights, num_rows, scratch.values, BLOCK // per_step,
        scratch.partial, scratch.partial.shape[1],
    )  # fmt: skip
    for r in range(num_rows):
        _add(scratch.sums[first_row + r], scratch.shrink[r], scratch.partial[r])


@kernel
def _add(sums: Any, shrink: Any, partial: Any) -> None:
    for d in range(len(sums)):
        sums[d] = sums[d] * shrink + partial[d]


@kernel
def _divide(sums: Any, total: Any, out: Any) -> None:
    for d in range(len(out)):
        out[d] = narrow(sums[d] / total, out)
