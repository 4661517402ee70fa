"""Causal attention over scattered slots on the CPU, in blocks of 64 keys with a running softmax.

The same blocks, at the same absolute positions, in the same order, for one new token or a thousand, alone or with
others, with a prefix from the cache or not: so a token's result is the same to the last bit however its request was
cut into steps. (Running softmax: Milakov, Gimelshein 2018; blocks: Dao et al. 2022, algorithm 1.)
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from branchwork.kernels.cpu.columns import (
    ColumnScratch,
    all_rows,
    first_row,
    fits_columns,
    give_columns,
    lay_queries,
    make_columns,
    see_block_in_columns,
)
from branchwork.kernels.cpu.layout import pack_keys, pack_values, rows_of_slots
from branchwork.kernels.cpu.memory import zeros
from branchwork.kernels.cpu.softening import shrink_add, soften
from branchwork.kernels.cpu.tile import LANES, PANEL, Tiles, padded_rows, product
from branchwork.kernels.cpu.vector import copy, exp, fill, inlined, kernel, narrow

BLOCK = PANEL
"""Keys at a time."""
QUERY_ROWS = 192
"""(head, token) pairs that go over the keys together; their sums stay in the second-level cache."""

SOME_ROWS = 32
"""Of these, so many see a block together."""

_LOWEST = np.float32(-1e30)


class AttentionScratch(NamedTuple):
    """One thread's working memory; `stored` is float32, or bfloat16 as uint16."""

    tiles: Tiles
    columns: ColumnScratch
    in_columns: bool  # whether rows stand in columns, where the matrix unit has them
    tokens: npt.NDArray[np.int32]  # [rows] the tokens at hand, by their number in the step
    q: npt.NDArray[Any]  # [rows, head_dim] stored
    k_rows: npt.NDArray[np.int64]  # [BLOCK] addresses
    v_rows: npt.NDArray[np.int64]  # [BLOCK]
    nothing: npt.NDArray[Any]  # [kv_heads · head_dim] stored, zeros
    keys: npt.NDArray[np.uint32]  # [BLOCK / 16, steps, 16]
    values: npt.NDArray[np.uint32]  # [padded head_dim / 16, steps, 16]
    scores: npt.NDArray[np.float32]  # [SOME_ROWS, BLOCK]
    shrink: npt.NDArray[np.float32]  # [SOME_ROWS]
    weights: npt.NDArray[Any]  # [SOME_ROWS, BLOCK] stored
    partial: npt.NDArray[np.float32]  # [SOME_ROWS, padded head_dim]
    sums: npt.NDArray[np.float32]  # [rows, padded head_dim]
    highest: npt.NDArray[np.float32]  # [rows]
    total: npt.NDArray[np.float32]  # [rows]


class Heads(NamedTuple):
    """Some key heads, first to first + count, and the query heads that share them."""

    first: int
    count: int
    group: int  # query heads of a key head
    dim: int
    scale: np.float32


class Sums(NamedTuple):
    """What rows have summed over a prefix that is shared; a line for each token of a step."""

    sums: npt.NDArray[np.float32]  # [T, heads, padded head_dim]
    highest: npt.NDArray[np.float32]  # [T, heads]
    total: npt.NDArray[np.float32]  # [T, heads]


def make_scratch(
    num_heads: int, num_kv_heads: int, head_dim: int, stored: npt.DTypeLike, tiles: Tiles
) -> AttentionScratch:
    """Working memory for one thread."""
    per_step = 4 // np.dtype(stored).itemsize
    # Heads of more than eight rows begin a tile of sixteen; a product reads whole tiles, from any row on.
    rows = 2 * padded_rows(max(QUERY_ROWS, num_heads)) + padded_rows(1)
    padded = _padded(head_dim)
    return AttentionScratch(
        tiles=tiles,
        columns=make_columns(rows, num_kv_heads, head_dim),
        in_columns=tiles.matrix_unit != 0 and fits_columns(head_dim),
        tokens=zeros(rows, np.int32),
        q=zeros((rows, head_dim), stored),
        k_rows=zeros(BLOCK, np.int64),
        v_rows=zeros(BLOCK, np.int64),
        nothing=zeros(num_kv_heads * head_dim, stored),
        keys=zeros((BLOCK // LANES, head_dim // per_step, LANES), np.uint32),
        values=zeros((padded // LANES, BLOCK // per_step, LANES), np.uint32),
        scores=zeros((SOME_ROWS, BLOCK), np.float32),
        shrink=zeros(SOME_ROWS, np.float32),
        weights=zeros((SOME_ROWS, BLOCK), stored),
        partial=zeros((SOME_ROWS, padded), np.float32),
        sums=zeros((rows, padded), np.float32),
        highest=zeros(rows, np.float32),
        total=zeros(rows, np.float32),
    )


def make_sums(num_tokens: int, num_heads: int, head_dim: int) -> Sums:
    """Room for the rows of as many tokens."""
    return Sums(
        sums=zeros((num_tokens, num_heads, _padded(head_dim)), np.float32),
        highest=zeros((num_tokens, num_heads), np.float32),
        total=zeros((num_tokens, num_heads), np.float32),
    )


def _padded(head_dim: int) -> int:
    """Columns of the narrowest products that hold a head."""
    return -(-head_dim // (2 * LANES)) * 2 * LANES


@kernel
def _gather_rows(pool: Any, slots: Any, count: Any, nothing: Any, rows: Any) -> None:
    """Addresses of a block's rows in the pool; those past `count` are of a row of zeros.

    So what a slot that is not in use holds, NaN perhaps, is never read.
    """
    first, stride = pool.ctypes.data, pool.strides[0]
    whole = count // LANES * LANES
    for j in range(0, whole, LANES):
        rows_of_slots(slots[j:].ctypes.data, first, stride, rows[j:].ctypes.data)
    for j in range(whole, count):
        rows[j] = first + np.int64(slots[j]) * stride
    for j in range(count, BLOCK):
        rows[j] = nothing.ctypes.data


@kernel
def take_rows(q: Any, num_tokens: Any, heads: Any, scratch: Any) -> None:
    """Begin with the rows of `scratch.tokens[:num_tokens]` in some heads: nothing is summed yet."""
    rows = num_tokens * heads.group
    end = all_rows(heads.count, rows)
    fill(scratch.sums[:end].reshape(-1), np.float32(0))
    fill(scratch.highest[:end], _LOWEST)
    fill(scratch.total[:end], np.float32(0))
    if scratch.in_columns:
        lay_queries(q, num_tokens, heads, scratch)
        return
    for h in range(heads.count):
        first = first_row(h, rows)
        for r in range(rows):
            at = ((heads.first + h) * heads.group + r % heads.group) * heads.dim
            copy(q[scratch.tokens[r // heads.group], at : at + heads.dim], scratch.q[first + r])


@kernel
def keep_sums(states: Any, num_tokens: Any, heads: Any, scratch: Any) -> None:
    """Put away what the rows have summed so far."""
    rows = num_tokens * heads.group
    for h in range(heads.count):
        for r in range(rows):
            row, token = first_row(h, rows) + r, scratch.tokens[r // heads.group]
            head = (heads.first + h) * heads.group + r % heads.group
            copy(scratch.sums[row], states.sums[token, head])
            states.highest[token, head] = scratch.highest[row]
            states.total[token, head] = scratch.total[row]


@kernel
def resume_sums(states: Any, num_tokens: Any, heads: Any, scratch: Any) -> None:
    """Go on from what `keep_sums` has put away."""
    rows = num_tokens * heads.group
    for h in range(heads.count):
        for r in range(rows):
            row, token = first_row(h, rows) + r, scratch.tokens[r // heads.group]
            head = (heads.first + h) * heads.group + r % heads.group
            copy(states.sums[token, head], scratch.sums[row])
            scratch.highest[row] = states.highest[token, head]
            scratch.total[row] = states.total[token, head]


@kernel
def see_keys(
    num_tokens: Any,
    heads: Any,
    first_position: Any,
    blocks: Any,
    num_keys: Any,
    k_pool: Any,
    v_pool: Any,
    slots: Any,
    window: Any,
    scratch: Any,
) -> None:
    """Let the rows see some blocks of keys, each row those up to its own position.

    first_position  of the first token; the others follow it
    blocks          (first, last): keys 64 · first to 64 · last
    num_keys        keys from there on are not read
    slots           the slots of the keys, by position
    """
    rows = num_tokens * heads.group
    for block in range(blocks[0], blocks[1]):
        base = block * BLOCK
        count = min(BLOCK, num_keys - base)
        _gather_rows(k_pool, slots[base:], count, scratch.nothing, scratch.k_rows)
        _gather_rows(v_pool, slots[base:], count, scratch.nothing, scratch.v_rows)
        if scratch.in_columns:
            see_block_in_columns(
                num_tokens, heads, first_position - base, count, k_pool.strides[0], window, scratch
            )
            continue
        for h in range(heads.count):
            offset = (heads.first + h) * heads.dim * scratch.q.itemsize
            pack_keys(scratch.k_rows, offset, scratch.keys)
            pack_values(scratch.v_rows, offset, heads.dim, scratch.values)
            for row in range(0, rows, SOME_ROWS):
                _see_block(
                    first_row(h, rows) + row, min(rows - row, SOME_ROWS), row, heads,
                    first_position - base, window, scratch,
                )  # fmt: skip


@kernel
def give_rows(out: Any, num_tokens: Any, heads: Any, scratch: Any) -> None:
    """Write what the rows have summed, divided by their weights' sums, to Rows: in order, unless `in_columns`."""
    if scratch.in_columns:
        give_columns(out, num_tokens, heads, scratch)
        return
    rows = num_tokens * heads.group
    for h in range(heads.count):
        for r in range(rows):
            at = ((heads.first + h) * heads.group + r % heads.group) * heads.dim
            row = first_row(h, rows) + r
            _divide(
                scratch.sums[row], scratch.total[row],
                out.memory[scratch.tokens[r // heads.group], at : at + heads.dim],
            )  # fmt: skip


@inlined
def _see_block(
    first_row: Any,
    num_rows: Any,
    first_query: Any,
    heads: Any,
    first_place: Any,
    window: Any,
    scratch: Any,
) -> None:
    """Let up to SOME_ROWS rows of the scratch see the packed block.

    Row first_row + r is query first_query + r of its head, whose position relative to the block is
    first_place + (first_query + r) // group.
    """
    per_step = 4 // scratch.q.itemsize
    product(
        scratch.tiles, scratch.q[first_row:], num_rows, scratch.keys, heads.dim // per_step,
        scratch.scores, BLOCK,
    )  # fmt: skip
    for r in range(num_rows):
        place = first_place + (first_query + r) // heads.group
        first = max(place - window + 1, 0) if window else 0
        last = min(place + 1, BLOCK)
        if last <= first:
            fill(scratch.weights[r], 0)
            scratch.shrink[r] = 1
            continue
        row = first_row + r
        before = scratch.highest[row]
        highest, total = soften(
            scratch.scores[r].ctypes.data, first, last, heads.scale, before, scratch.weights[r]
        )
        shrink = exp(before - highest)
        scratch.highest[row] = highest
        scratch.total[row] = scratch.total[row] * shrink + total
        scratch.shrink[r] = shrink
    product(
        scratch.tiles, scratch.weights, num_rows, scratch.values, BLOCK // per_step,
        scratch.partial, scratch.partial.shape[1],
    )  # fmt: skip
    for r in range(num_rows):
        sums, partial = scratch.sums[first_row + r].ctypes.data, scratch.partial[r].ctypes.data
        for at in range(0, 4 * scratch.partial.shape[1], 4 * LANES):
            shrink_add(sums + at, scratch.shrink[r], partial + at)


@kernel
def _divide(sums: Any, total: Any, out: Any) -> None:
    for d in range(len(out)):
        out[d] = narrow(sums[d] / total, out)
