"""The layers of a decoder as one compiled function: a step costs no Python and no dispatch between operations.

Activations are float32 where they are summed (the residual stream, scores), and of the weights' type where they
enter a product. Every result depends on its own row alone, never on the batch.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from branchwork.kernels.cpu.attention import (
    BLOCK,
    QUERY_ROWS,
    AttentionScratch,
    Heads,
    Sums,
    give_rows,
    keep_sums,
    resume_sums,
    see_keys,
    take_rows,
)
from branchwork.kernels.cpu.cached import borrowing_entry_point
from branchwork.kernels.cpu.lines import norm_lines, silu_mul_line
from branchwork.kernels.cpu.low_rank import Adapted, LowMatrix, add_expanded, shrink_rows
from branchwork.kernels.cpu.matrix import (
    PRODUCT_ROWS,
    Matrix,
    ProductScratch,
    lies_whole,
    multiply,
    multiply_into,
)
from branchwork.kernels.cpu.rotation import rotate, store_heads
from branchwork.kernels.cpu.rows import LINE_BYTES, address, rows_for
from branchwork.kernels.cpu.team import Team, meet, sleep, take, wake
from branchwork.kernels.cpu.tile import PANEL, Tiles, begin_products, end_products
from branchwork.kernels.cpu.vector import copy, inlined, kernel, narrow, widen

ROWS_BYTES = 1 << 20
"""Half of the second-level cache of a server's core."""
SOME_TOKENS = 8
"""Tokens of which a thread takes the small work (norms, rotation) at a time."""


class Shape(NamedTuple):
    """What the arrays do not say."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float
    qk_norm: bool
    qkv_bias: bool = True


class LowMatrices(NamedTuple):
    """What adapters add, by the matrices of a layer."""

    qkv: LowMatrix
    out: LowMatrix
    gate_up: LowMatrix
    down: LowMatrix


class Weights(NamedTuple):
    """A decoder's weights, L layers stacked.

    Norms and biases are float32; biases are as long as their padded columns, zeros where there is none.
    gate_up has 32 columns of gate, then the same 32 of up, and so on.
    """

    embedding: npt.NDArray[Any]  # [V, hidden] stored
    attention_norm: npt.NDArray[np.float32]  # [L, hidden]
    qkv: Matrix
    qkv_bias: npt.NDArray[np.float32]
    q_norm: npt.NDArray[np.float32]  # [L, head_dim]
    k_norm: npt.NDArray[np.float32]
    out: Matrix
    out_bias: npt.NDArray[np.float32]  # [L, 0] where no layer has one, as down_bias
    mlp_norm: npt.NDArray[np.float32]  # [L, hidden]
    gate_up: Matrix
    gate_up_bias: npt.NDArray[np.float32]
    down: Matrix
    down_bias: npt.NDArray[np.float32]
    windows: npt.NDArray[np.int64]  # [L]; 0: no window
    final_norm: npt.NDArray[np.float32]  # [hidden]
    head: Matrix  # of one layer, V columns
    low: LowMatrices


class Workspace(NamedTuple):
    """Activations of up to T tokens and R rows of logits."""

    hidden: npt.NDArray[np.float32]  # [T, hidden]
    normed: npt.NDArray[Any]  # [T, hidden] stored
    qkv: npt.NDArray[np.float32]  # [T, padded columns]
    q: npt.NDArray[Any]  # [T, heads · head_dim] stored
    attended: npt.NDArray[Any]  # [T, heads · head_dim] stored
    activated: npt.NDArray[Any]  # [T, padded width] stored
    logits: npt.NDArray[np.float32]  # [R, padded V]
    shared: Sums


class Cache(NamedTuple):
    """The KV pool and the rotation's tables."""

    k: npt.NDArray[Any]  # [L, S, kv_heads, head_dim] stored
    v: npt.NDArray[Any]
    slot_table: npt.NDArray[np.int32]  # [rows, max_len]
    cos: npt.NDArray[np.float32]  # [length, head_dim / 2]
    sin: npt.NDArray[np.float32]


class Tokens(NamedTuple):
    """One step's new tokens, T of R requests; or room for as many as a step may have."""

    ids: npt.NDArray[np.int32]  # [T]
    positions: npt.NDArray[np.int32]  # [T]
    slots: npt.NDArray[np.int32]  # [T]; below 0: K and V are not kept
    rows: npt.NDArray[np.int32]  # [R] lines in the slot table
    query_start: npt.NDArray[
        np.int32
    ]  # [R + 1]; request i's tokens are query_start[i] to query_start[i + 1]
    kv_len: npt.NDArray[np.int32]  # [R] tokens so far, with the new ones


class Shared(NamedTuple):
    """Groups of requests, by their number in the step, whose first positions are the very same slots.

    Each has one new token, and is in one group at most.
    """

    start: npt.NDArray[np.int32]  # [G + 1]; group g is members start[g] to start[g + 1]
    members: npt.NDArray[np.int32]
    length: npt.NDArray[np.int32]  # [G] positions that are shared
    blocks_of: npt.NDArray[np.int32]  # [R] whole blocks that a request shares; 0: none


LAYERS, HEAD, STOP = 0, 1, 2
"""Kinds of jobs."""


class Job(NamedTuple):
    """What is to be done, in memory that all threads see: a number each."""

    kind: npt.NDArray[np.int64]
    num_tokens: npt.NDArray[np.int64]
    num_requests: npt.NDArray[np.int64]
    num_groups: npt.NDArray[np.int64]
    num_tiles: npt.NDArray[np.int64]  # of `Adapted`
    num_rows: npt.NDArray[np.int64]
    of_tokens: npt.NDArray[np.int32]  # [≥ num_rows] of which tokens the logits are wanted


class Thread(NamedTuple):
    """One thread of a team, and its working memory."""

    part: int
    team: Team
    tiles: Tiles
    attention: AttentionScratch
    products: ProductScratch
    gathered: npt.NDArray[Any]  # [16, ≥ inputs of every matrix] stored


@kernel
def norm_row(x: Any, weight: Any, eps: Any, out: Any) -> None:
    """out = x / rms(x) · weight, for one row."""
    total = np.float32(0)
    for i in range(x.shape[0]):
        total += x[i] * x[i]
    factor = np.float32(1.0) / np.float32(np.sqrt(total / x.shape[0] + np.float32(eps)))
    for i in range(x.shape[0]):
        out[i] = narrow(x[i] * factor * weight[i], out)


@kernel
def _embed(tokens: Any, embedding: Any, hidden: Any, thread: Any) -> None:
    first, count = take(thread.team, SOME_TOKENS), len(tokens.ids)
    while first < count:
        for t in range(first, min(first + SOME_TOKENS, count)):
            row = embedding[tokens.ids[t]]
            for i in range(hidden.shape[1]):
                hidden[t, i] = widen(row[i])
        first = take(thread.team, SOME_TOKENS)


@inlined
def _norm_to(x: Any, weight: Any, eps: Any, out: Any, t: Any) -> Any:
    """Row t of what enters a product: x / rms(x) · weight."""
    lines = len(x) * out.memory.itemsize // LINE_BYTES
    if out.memory.itemsize == 2 and len(x) % 32 == 0:
        norm_lines(
            x.ctypes.data, weight.ctypes.data, lines, np.float32(eps), address(out, t, 0), out.line_bytes
        )  # fmt: skip
    else:
        norm_row(x, weight, eps, out.memory[t])


@kernel
def _norms(x: Any, weight: Any, eps: Any, num_tokens: Any, out: Any, thread: Any) -> None:
    first = take(thread.team, SOME_TOKENS)
    while first < num_tokens:
        for t in range(first, min(first + SOME_TOKENS, num_tokens)):
            _norm_to(x[t], weight, eps, out, t)
        first = take(thread.team, SOME_TOKENS)


@inlined
def _rows_at_once(x: Any) -> Any:
    """Rows of a product's first factor that stay in the second-level cache while columns pass by."""
    return max(ROWS_BYTES // x.memory.strides[0] // PRODUCT_ROWS, 1) * PRODUCT_ROWS


@inlined
def _each_panel(
    part: Any, x: Any, num_rows: Any, matrix: Any, layer: Any, bias: Any, low: Any, adapted: Any,
    out: Any, thread: Any,
) -> Any:  # fmt: skip
    """Each row of x Wᵀ and what its adapter adds, 64 columns at a time, by `part` to its row of `out`.

    A thread takes some columns of some rows at a time: few rows read a weight once.
    """
    panels, at_once = matrix.panels.shape[1], _rows_at_once(x)
    piece = take(thread.team, 1)
    while piece < -(-num_rows // at_once) * panels:
        start, panel = piece // panels * at_once, piece % panels
        for row in range(start, min(start + at_once, num_rows), PRODUCT_ROWS):
            n = min(num_rows - row, PRODUCT_ROWS)
            part(x, row, n, matrix, layer, panel, bias, low, adapted, out, thread)
        piece = take(thread.team, 1)


@kernel
def _project(
    x: Any, num_rows: Any, matrix: Any, layer: Any, low: Any, adapted: Any, out: Any, thread: Any
) -> None:  # fmt: skip
    """out = x Wᵀ."""
    _each_panel(_keep, x, num_rows, matrix, layer, None, low, adapted, out, thread)


@kernel
def _project_add(
    x: Any, num_rows: Any, matrix: Any, layer: Any, bias: Any, low: Any, adapted: Any, out: Any, thread: Any
) -> None:  # fmt: skip
    """out += x Wᵀ + b; no columns of b: there is none."""
    _each_panel(_add, x, num_rows, matrix, layer, bias, low, adapted, out, thread)


@kernel
def _gate(
    x: Any, num_rows: Any, matrix: Any, layer: Any, bias: Any, low: Any, adapted: Any, out: Any, thread: Any
) -> None:  # fmt: skip
    """out = silu(x Gᵀ + b) · (x Uᵀ + c), with the columns of G and U 32 by 32."""
    _each_panel(_silu_mul, x, num_rows, matrix, layer, bias, low, adapted, out, thread)


@inlined
def _shrink(x: Any, low: Any, layer: Any, adapted: Any, thread: Any) -> Any:
    """Before a product, where some of its rows have an adapter."""
    if len(adapted.adapter) > 0 and low.is_there[layer]:
        shrink_rows(x, low, layer, adapted, thread)
        meet(thread.team)


@inlined
def _sum_to(
    x: Any, row: Any, n: Any, matrix: Any, layer: Any, panel: Any, low: Any, adapted: Any, out: Any,
    columns: Any, goes_on: Any, thread: Any,
) -> Any:  # fmt: skip
    """Some columns of a panel, and what adapters add to them, to their place in `out`; with `goes_on` (1) onto it."""
    place = out[row:, panel * PANEL :]
    if lies_whole(matrix, columns):
        multiply_into(thread.tiles, x, row, n, matrix, layer, panel, place, columns, goes_on)
    else:
        multiply(thread.tiles, x, row, n, matrix, layer, panel, thread.products)
        for r in range(n):
            if goes_on == 1:
                _add_line(thread.products.sums[r], place[r, :columns])
            else:
                copy(thread.products.sums[r], place[r, :columns])
    if len(adapted.adapter) > 0 and low.is_there[layer]:
        add_expanded(row, low, layer, panel, adapted, place, columns, thread)


@inlined
def _keep(
    x: Any, row: Any, n: Any, matrix: Any, layer: Any, panel: Any, _bias: Any, low: Any, adapted: Any,
    out: Any, thread: Any,
) -> Any:  # fmt: skip
    _sum_to(x, row, n, matrix, layer, panel, low, adapted, out, PANEL, 0, thread)


@inlined
def _add(
    x: Any, row: Any, n: Any, matrix: Any, layer: Any, panel: Any, bias: Any, low: Any, adapted: Any,
    out: Any, thread: Any,
) -> Any:  # fmt: skip
    first = panel * PANEL
    columns = min(out.shape[1] - first, PANEL)  # the last panel may reach beyond the row
    _sum_to(x, row, n, matrix, layer, panel, low, adapted, out, columns, 1, thread)
    if len(bias) > 0:
        for r in range(n):
            _add_line(bias[first:], out[row + r, first : first + columns])


@kernel
def _add_line(x: Any, out: Any) -> None:
    for j in range(len(out)):
        out[j] += x[j]


@inlined
def _silu_mul(
    x: Any, row: Any, n: Any, matrix: Any, layer: Any, panel: Any, bias: Any, low: Any, adapted: Any,
    out: Any, thread: Any,
) -> Any:  # fmt: skip
    multiply(thread.tiles, x, row, n, matrix, layer, panel, thread.products)
    if len(adapted.adapter) > 0 and low.is_there[layer]:
        add_expanded(row, low, layer, panel, adapted, thread.products.sums, PANEL, thread)
    line = panel * (PANEL // 2) * out.memory.itemsize // LINE_BYTES
    for r in range(n):
        silu_mul_line(
            thread.products.sums[r].ctypes.data, bias[panel * PANEL :].ctypes.data,
            address(out, row + r, line), out.memory,
        )  # fmt: skip


@kernel
def _rope_store(
    shape: Any, weights: Any, layer: Any, work: Any, cache: Any, tokens: Any, thread: Any
) -> None:
    """Biases and norms of q and k, then rotation; q to its buffer, k and v to their slots."""
    first, count = take(thread.team, SOME_TOKENS), len(tokens.ids)
    while first < count:
        for t in range(first, min(first + SOME_TOKENS, count)):
            _rope_store_token(shape, weights, layer, work, cache, tokens, t)
        first = take(thread.team, SOME_TOKENS)


@inlined
def _rope_store_token(
    shape: Any, weights: Any, layer: Any, work: Any, cache: Any, tokens: Any, t: Any
) -> None:
    dim, num_heads, num_kv = shape.head_dim, shape.num_heads, shape.num_kv_heads
    row, slot = work.qkv[t], tokens.slots[t]
    cos, sin = cache.cos[tokens.positions[t]], cache.sin[tokens.positions[t]]
    if shape.qkv_bias:
        for i in range((num_heads + 2 * num_kv) * dim):
            row[i] += weights.qkv_bias[layer, i]
    if shape.qk_norm:
        for h in range(num_heads + num_kv):
            head = row[h * dim : (h + 1) * dim]
            norm = weights.q_norm[layer] if h < num_heads else weights.k_norm[layer]
            norm_row(head, norm, shape.eps, head)
    keys, values = num_heads * dim, (num_heads + num_kv) * dim
    rotate(row, cos, sin, work.q[t].reshape(num_heads, dim))
    if slot >= 0:
        rotate(row[keys:], cos, sin, cache.k[layer, slot])
        store_heads(row[values:], cache.v[layer, slot])


@kernel
def _attend_shared(
    shape: Any, layer: Any, work: Any, cache: Any, tokens: Any, shared: Any, thread: Any
) -> None:
    """Attention over prefixes that several requests share: each key is read and laid out once for all of them.

    Only whole blocks; what is summed there waits in `work.shared` for the request's own keys, so that the
    result is what it would be without (cascade attention, as in Ye et al. 2024).
    """
    group, scratch = shape.num_heads // shape.num_kv_heads, thread.attention
    at_once = max(QUERY_ROWS // group, 1)
    scale = np.float32(1.0 / np.sqrt(shape.head_dim))
    piece, mine = -1, take(thread.team, 1)
    for g in range(len(shared.length)):
        first, last = shared.start[g], shared.start[g + 1]
        slots = cache.slot_table[tokens.rows[shared.members[first]]]
        num_blocks = shared.length[g] // BLOCK
        for head in range(shape.num_kv_heads):
            heads = Heads(head, np.int64(1), group, shape.head_dim, scale)
            for member in range(first, last, at_once):
                piece += 1
                if piece != mine:
                    continue
                mine = take(thread.team, 1)
                num_tokens = min(last - member, at_once)
                for i in range(num_tokens):
                    scratch.tokens[i] = tokens.query_start[shared.members[member + i]]
                take_rows(work.q, num_tokens, heads, scratch)
                # Every key lies before every one of the tokens.
                position = num_blocks * BLOCK
                see_keys(
                    num_tokens, heads, position, (np.int64(0), num_blocks), position,
                    cache.k[layer], cache.v[layer], slots, 0, scratch,
                )  # fmt: skip
                keep_sums(work.shared, num_tokens, heads, scratch)


@kernel
def _attend(
    shape: Any,
    layer: Any,
    window: Any,
    work: Any,
    cache: Any,
    tokens: Any,
    shared: Any,
    out: Any,
    thread: Any,
) -> None:
    """Attention of every request, to Rows. A piece of work is some key heads of some tokens."""
    num_kv, scratch, size = shape.num_kv_heads, thread.attention, thread.team.size
    group = shape.num_heads // num_kv
    scale = np.float32(1.0 / np.sqrt(shape.head_dim))
    num_keys = np.int64(0)
    for i in range(len(tokens.kv_len)):
        num_keys += tokens.kv_len[i]
    piece, mine = -1, take(thread.team, 1)
    for i in range(len(tokens.rows)):
        first, last = tokens.query_start[i], tokens.query_start[i + 1]
        start = tokens.kv_len[i] - (last - first)
        slots = cache.slot_table[tokens.rows[i]]
        seen = shared.blocks_of[i] if window == 0 else 0
        at_once = min(max(QUERY_ROWS // group, 1), last - first)
        # All heads of a few tokens together, as their keys lie side by side in memory: unless requests are so few, or
        # one has so many of all keys, that threads would wait.
        is_large = 2 * size * tokens.kv_len[i] > num_keys
        parts = size if is_large or len(tokens.rows) < 4 * size else 1
        heads_at_once = min(max(QUERY_ROWS // (at_once * group), 1), -(-num_kv // parts))
        for head in range(0, num_kv, heads_at_once):
            heads = Heads(head, min(heads_at_once, num_kv - head), group, shape.head_dim, scale)
            for token in range(first, last, at_once):
                piece += 1
                if piece != mine:
                    continue
                mine = take(thread.team, 1)
                num_tokens, position = min(last - token, at_once), start + token - first
                for t in range(num_tokens):
                    scratch.tokens[t] = token + t
                take_rows(work.q, num_tokens, heads, scratch)
                if seen > 0:
                    resume_sums(work.shared, num_tokens, heads, scratch)
                end = position + num_tokens
                oldest = max(position - window + 1, 0) // BLOCK if window else seen
                see_keys(
                    num_tokens, heads, position, (oldest, -(-end // BLOCK)), end,
                    cache.k[layer], cache.v[layer], slots, window, scratch,
                )  # fmt: skip
                give_rows(out, num_tokens, heads, scratch)


@inlined
def attended_rows(memory: Any, steps: Any, num_tokens: Any, thread: Any) -> Any:
    """Where `_attend` writes: heads that do not stand in columns are written in order."""
    count = num_tokens if thread.attention.in_columns else 1
    return rows_for(thread.tiles, steps, count, memory)


@inlined
def _layers(
    shape: Any, weights: Any, work: Any, cache: Any, tokens: Any, shared: Any, adapted: Any, thread: Any
) -> None:  # fmt: skip
    """Compute the new tokens: their K and V go to their slots, their last hidden states to `work.hidden`."""
    num_tokens, hidden, team, low = len(tokens.ids), work.hidden, thread.team, weights.low
    normed = rows_for(thread.tiles, weights.qkv.steps, num_tokens, work.normed)
    attended = attended_rows(work.attended, weights.out.steps, num_tokens, thread)
    activated = rows_for(thread.tiles, weights.down.steps, num_tokens, work.activated)
    _embed(tokens, weights.embedding, hidden, thread)
    meet(team)
    for layer in range(weights.attention_norm.shape[0]):
        _norms(hidden, weights.attention_norm[layer], shape.eps, num_tokens, normed, thread)
        meet(team)
        _shrink(normed, low.qkv, layer, adapted, thread)
        _project(normed, num_tokens, weights.qkv, layer, low.qkv, adapted, work.qkv, thread)
        meet(team)
        _rope_store(shape, weights, layer, work, cache, tokens, thread)
        meet(team)
        if len(shared.length) > 0 and weights.windows[layer] == 0:
            _attend_shared(shape, layer, work, cache, tokens, shared, thread)
            meet(team)
        _attend(shape, layer, weights.windows[layer], work, cache, tokens, shared, attended, thread)
        meet(team)
        _shrink(attended, low.out, layer, adapted, thread)
        _project_add(
            attended, num_tokens, weights.out, layer, weights.out_bias[layer], low.out, adapted, hidden, thread
        )  # fmt: skip
        meet(team)
        _norms(hidden, weights.mlp_norm[layer], shape.eps, num_tokens, normed, thread)
        meet(team)
        _shrink(normed, low.gate_up, layer, adapted, thread)
        _gate(
            normed, num_tokens, weights.gate_up, layer, weights.gate_up_bias[layer], low.gate_up, adapted,
            activated, thread,
        )  # fmt: skip
        meet(team)
        _shrink(activated, low.down, layer, adapted, thread)
        _project_add(
            activated, num_tokens, weights.down, layer, weights.down_bias[layer], low.down, adapted, hidden, thread
        )  # fmt: skip
        meet(team)


@inlined
def _head(shape: Any, weights: Any, work: Any, of_tokens: Any, nobody: Any, thread: Any) -> None:
    """Logits of what follows some tokens, from `work.hidden`; no adapter touches them."""
    num_rows = len(of_tokens)
    normed = rows_for(thread.tiles, weights.head.steps, num_rows, work.normed)
    row = take(thread.team, 1)
    while row < num_rows:
        _norm_to(work.hidden[of_tokens[row]], weights.final_norm, shape.eps, normed, row)
        row = take(thread.team, 1)
    meet(thread.team)
    _project(normed, num_rows, weights.head, 0, weights.low.qkv, nobody, work.logits, thread)
    meet(thread.team)


@inlined
def _some(adapted: Any, num_tiles: Any) -> Any:
    """The first tiles of a step's rows."""
    start = adapted.start[: num_tiles + 1]
    return Adapted(
        adapted.rows, start, adapted.adapter[:num_tiles], adapted.of_block, adapted.values
    )


@inlined
def _do(
    shape: Any,
    weights: Any,
    work: Any,
    cache: Any,
    room: Any,
    room_shared: Any,
    room_adapted: Any,
    job: Any,
    thread: Any,
) -> None:
    """One thread's share of a job."""
    if job.kind[0] == HEAD:
        nobody = _some(room_adapted, 0)
        _head(shape, weights, work, job.of_tokens[: job.num_rows[0]], nobody, thread)
        return
    num_tokens, num_requests = job.num_tokens[0], job.num_requests[0]
    tokens = Tokens(
        room.ids[:num_tokens],
        room.positions[:num_tokens],
        room.slots[:num_tokens],
        room.rows[:num_requests],
        room.query_start[: num_requests + 1],
        room.kv_len[:num_requests],
    )
    num_groups = job.num_groups[0]
    shared = Shared(
        room_shared.start[: num_groups + 1],
        room_shared.members,
        room_shared.length[:num_groups],
        room_shared.blocks_of[:num_requests],
    )
    adapted = _some(room_adapted, job.num_tiles[0])
    _layers(shape, weights, work, cache, tokens, shared, adapted, thread)


@borrowing_entry_point
def work_on(
    shape: Any,
    weights: Any,
    work: Any,
    cache: Any,
    room: Any,
    room_shared: Any,
    room_adapted: Any,
    job: Any,
    thread: Any,
) -> None:
    """The first thread of a team: do one job with the others. The others: do their share of every job until STOP."""
    while True:
        if thread.part == 0:
            wake(thread.team)
        else:
            sleep(thread.team, thread.part)
        if job.kind[0] == STOP:
            return
        begin_products(thread.tiles)
        _do(shape, weights, work, cache, room, room_shared, room_adapted, job, thread)
        end_products(thread.tiles)
        if thread.part == 0:
            return
