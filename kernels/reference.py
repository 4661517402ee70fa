"""Every operation in plain torch: the oracle of all other forms, and what always works.

Shapes and meaning are those of `kernels.api`. Accepts float64 too; no speed is promised.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from branchwork.kernels.automaton import DONE, FORCED, Automata, Places
from branchwork.kernels.device_rows import DeviceRows
from branchwork.kernels.lanes import Lanes, RowState
from branchwork.kernels.low_rank import AdapterRows
from branchwork.kernels.quantized import LinearRoom, QuantizedLinear, dequantize, quantize_heads
from branchwork.kernels.sampling import NO_TOKEN, SamplingRows, random_uniform
from branchwork.kernels.weights import LowRank


def embed(token_ids: Tensor, table: Tensor, out: Tensor) -> None:
    """See `api.embed`."""
    torch.index_select(table, 0, token_ids, out=out)


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """See `api.rms_norm`."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    out.copy_(weight * (wide * scale).to(x.dtype))


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """See `api.add_rms_norm`."""
    residual.add_(x)
    rms_norm(residual, weight, eps, out)


def silu_mul(gate_up: Tensor, out: Tensor) -> None:
    """See `api.silu_mul`."""
    gate, up = gate_up.chunk(2, dim=-1)
    torch.mul(F.silu(gate), up, out=out)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate [T, heads, D] by the half-split form of RoPE (Su et al. 2021, section 3.2.2)."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)


def rope_store_kv(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    slots: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    q_out: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    eps: float,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
) -> None:
    """See `api.rope_store_kv`."""
    num_heads, head_dim = q_out.shape[1:]
    num_kv_heads = k_pool.shape[1]
    heads = qkv.view(qkv.shape[0], num_heads + 2 * num_kv_heads, head_dim)
    q, k = heads[:, :num_heads], heads[:, num_heads:-num_kv_heads]
    v = heads[:, -num_kv_heads:]
    if q_norm is not None and k_norm is not None:
        q_normed, k_normed = torch.empty_like(q), torch.empty_like(k)
        rms_norm(q, q_norm, eps, q_normed)
        rms_norm(k, k_norm, eps, k_normed)
        q, k = q_normed, k_normed
    cos_rows = cos[positions.long()].unsqueeze(1)
    sin_rows = sin[positions.long()].unsqueeze(1)
    q_out.copy_(_rotate(q, cos_rows, sin_rows))
    real = slots >= 0
    places = slots[real].long()
    _store_heads(k_pool, k_scale, places, _rotate(k, cos_rows, sin_rows)[real])
    _store_heads(v_pool, v_scale, places, v[real])


def _store_heads(pool: Tensor, scales: Tensor | None, places: Tensor, heads: Tensor) -> None:
    """Write heads [n, kv_heads, D] to their slots, with a scale for each where the pool is quantised."""
    if scales is None:
        pool[places] = heads.to(pool.dtype)
        return
    stored, scale = quantize_heads(heads, pool.dtype)
    # As bytes: float8 cannot be written by index.
    pool.view(torch.uint8)[places] = stored.view(torch.uint8)
    scales[places] = scale.to(scales.dtype)


def _read_heads(pool: Tensor, scales: Tensor | None, places: Tensor, dtype: torch.dtype) -> Tensor:
    """The heads at some slots, as numbers."""
    heads = pool[places].to(dtype)
    return heads if scales is None else heads * scales[places].to(dtype).unsqueeze(-1)


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
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
) -> None:
    """See `api.attend`; one request after another, softmax over the whole row of scores."""
    group = q.shape[1] // k_pool.shape[1]
    wide = torch.promote_types(q.dtype, torch.float32)
    for i, row in enumerate(rows.tolist()):
        first, last, length = int(query_start[i]), int(query_start[i + 1]), int(kv_len[i])
        if first == last or length == 0:
            out[first:last] = 0
            continue
        slots = slot_table[row, :length].long()
        k = _read_heads(k_pool, k_scale, slots, wide).repeat_interleave(group, 1)
        v = _read_heads(v_pool, v_scale, slots, wide).repeat_interleave(group, 1)
        scores = torch.einsum("qhd,nhd->hqn", q[first:last].to(wide), k) * scale
        place = torch.arange(length - (last - first), length).unsqueeze(1)
        key_place = torch.arange(length).unsqueeze(0)
        hidden = key_place > place
        if window:
            hidden |= key_place <= place - window
        scores = scores.masked_fill(hidden, -math.inf)
        out[first:last] = torch.einsum("hqn,nhd->qhd", scores.softmax(-1), v)


def quantized_linear(
    x: Tensor, weight: QuantizedLinear, out: Tensor, room: LinearRoom | None = None
) -> None:
    """See `api.quantized_linear`; it needs no room."""
    wide = torch.promote_types(x.dtype, torch.float32)
    bias = None if weight.bias is None else weight.bias.to(wide)
    out.copy_(F.linear(x.to(wide), dequantize(weight).to(wide), bias))


def widen(weight: QuantizedLinear, first: int, out: Tensor) -> None:
    """See `api.widen`."""
    out.copy_(dequantize(weight)[first : first + len(out)])


def route(
    scores: Tensor, normalised: bool, weight: Tensor, expert: Tensor, count: Tensor, pairs: Tensor
) -> None:
    """See `api.route`; one expert after another."""
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    wide = torch.where(wide.isnan(), -math.inf, wide)
    # Rows in which nothing is finite have no distribution.
    shares = wide.softmax(-1).nan_to_num()
    ordered = shares.sort(descending=True, stable=True)
    choices = weight.shape[1]
    chosen = ordered.values[:, :choices]
    if normalised:
        total = chosen.sum(-1, keepdim=True)
        chosen = chosen / torch.where(total > 0, total, 1.0)
    weight.copy_(chosen)
    expert.copy_(ordered.indices[:, :choices])
    for number in range(scores.shape[1]):
        mine = (expert.view(-1) == number).nonzero().view(-1)
        count[number] = len(mine)
        pairs[number, : len(mine)] = mine.to(pairs.dtype)


def expert_linear(x: Tensor, weight: Tensor, count: Tensor, pairs: Tensor, out: Tensor) -> None:
    """See `api.expert_linear`; one expert after another."""
    wide = torch.promote_types(x.dtype, torch.float32)
    choices = len(out) // len(x)
    for number, size in enumerate(count.tolist()):
        mine = pairs[number, :size].long()
        product = F.linear(x[mine // choices].to(wide), weight[number].to(wide))
        out[mine] = product.to(out.dtype)


def combine(values: Tensor, weight: Tensor, out: Tensor) -> None:
    """See `api.combine`."""
    wide = torch.promote_types(values.dtype, torch.float32)
    shaped = values.to(wide).view(*weight.shape, -1)
    out.copy_((shaped * weight.to(wide).unsqueeze(-1)).sum(1))


def group_rows(adapter: Tensor, rows: AdapterRows) -> None:
    """See `api.group_rows`; one adapter after another."""
    for number in range(len(rows.count)):
        mine = (adapter == number + 1).nonzero().view(-1)
        rows.count[number] = len(mine)
        rows.rows[number, : len(mine)] = mine.to(torch.int32)


def low_rank(x: Tensor, weights: LowRank, rows: AdapterRows, out: Tensor) -> None:
    """See `api.low_rank`; one adapter after another."""
    wide, rank = torch.promote_types(x.dtype, torch.float32), weights.expand.shape[2]
    for number, size in enumerate(rows.count.tolist()):
        if not size:
            continue
        mine = rows.rows[number, :size].long()
        values = F.linear(x[mine].to(wide), weights.shrink[number].to(wide)).to(x.dtype).to(wide)
        parts = torch.split(weights.expand[number].to(wide), list(weights.widths))
        values_of = torch.split(values, rank, 1)
        added = [F.linear(own, part) for own, part in zip(values_of, parts, strict=True)]
        out[mine] = (out[mine].to(wide) + torch.cat(added, 1)).to(out.dtype)


def fsm_advance(tokens: Tensor, automata: Automata, places: Places) -> None:
    """See `api.fsm_advance`; one request after another."""
    for i, grammar in enumerate(places.grammar.tolist()):
        if grammar < 0:
            places.done[i], places.forced[i] = 0, 0
            continue
        state, token = int(places.state[i]), int(tokens[i])
        following = -1
        if token >= 0:
            kind = int(automata.class_of[automata.class_start[grammar] + token])
            line = automata.next_start[grammar] + state * automata.num_classes[grammar]
            following = int(automata.next_state[line + kind])
        if following >= 0:
            state = following
        row = int(automata.state_start[grammar]) + state
        flags = int(automata.flags[row])
        done = bool(flags & DONE) or following < 0
        places.state[i], places.mask_row[i] = state, row
        places.done[i], places.forced[i] = done, bool(flags & FORCED) and not done


def fill_lanes(rows: RowState, slot_table: Tensor, lanes: Lanes) -> None:
    """See `api.fill_lanes`; one lane after another."""
    num_rows = slot_table.shape[0]
    for lane, row in enumerate(lanes.row.tolist()):
        position = int(rows.position[row])
        lanes.token[lane], lanes.position[lane] = rows.token[row], position
        lanes.slot[lane] = slot_table[row, position] if row < num_rows else -1
        lanes.kv_len[lane] = position + 1 if row < num_rows else 0
        lanes.drawn_at[lane] = position + 1
        lanes.state[lane], lanes.mask_row[lane] = rows.state[row], rows.mask_row[row]


def advance_rows(chosen: Tensor, lanes: Lanes, rows: RowState) -> None:
    """See `api.advance_rows`; one lane after another."""
    for lane, row in enumerate(lanes.row.tolist()):
        if row < rows.token.shape[0] - 1:
            rows.token[row] = max(int(chosen[lane]), 0)
            rows.position[row] += 1
            rows.state[row], rows.mask_row[row] = lanes.state[lane], lanes.mask_row[lane]


def target_logprobs(logits: Tensor, targets: Tensor, out: Tensor) -> None:
    """See `api.target_logprobs`."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    chosen = wide.gather(1, targets.long().unsqueeze(1)).squeeze(1)
    out.copy_(chosen - wide.logsumexp(-1))


def top_logprobs(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """See `api.top_logprobs`."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    values, ids = wide.topk(k, dim=-1)
    return ids, values - wide.logsumexp(-1, keepdim=True)


def _allowed(mask_row: Tensor, vocab_size: int) -> Tensor:
    """Unpack a row of mask words into bools."""
    bits = (mask_row.unsqueeze(1) >> torch.arange(32, dtype=torch.int32)) & 1
    return bits.view(-1)[:vocab_size].bool()


def _penalised(scores: Tensor, rows: SamplingRows, row: int) -> Tensor:
    """Apply repetition (Keskar et al. 2019, section 4.1), frequency and presence penalties to one row."""
    repetition = float(rows.repetition_penalty[row])
    if repetition != 1.0:
        seen = torch.from_numpy(np.unique(rows.context_of(row))).long()
        old = scores[seen]
        scores[seen] = torch.where(old > 0, old / repetition, old * repetition)
    counts = torch.bincount(
        torch.from_numpy(rows.generated_of(row)).long(), minlength=scores.shape[0]
    ).to(scores.dtype)
    scores -= float(rows.frequency_penalty[row]) * counts
    scores -= float(rows.presence_penalty[row]) * (counts > 0).to(scores.dtype)
    return scores


def choice_weights(logits_row: Tensor, rows: SamplingRows, row: int) -> Tensor:
    """The distribution that one row's token is drawn from: float64 [vocab], sums to 1, or all 0 if nothing may follow.

    Penalties, then bias and bans, then the mask, then temperature, top-k, top-p among what top-k kept,
    min-p; equal probabilities are kept in the order of their ids.
    """
    scores = logits_row.double()
    scores = torch.where(scores.isnan(), -math.inf, scores)
    if rows.has_penalties[row]:
        scores = _penalised(scores, rows, row)
    ids, values = rows.edits_of(row)
    scores.index_add_(0, torch.from_numpy(ids).long(), torch.from_numpy(values).double())
    if rows.has_mask[row]:
        mask = torch.from_numpy(rows.mask[row])
        scores = scores.masked_fill(~_allowed(mask, scores.shape[0]), -math.inf)
    cut = float(rows.temperature[row]), int(rows.top_k[row]), float(rows.top_p[row])
    return _weights(scores, *cut, float(rows.min_p[row]))


def _weights(scores: Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> Tensor:
    """The distribution over one row's scores in float64, cut; all 0 if nothing may follow."""
    best = scores.max()
    if best == -math.inf:
        return torch.zeros_like(scores)
    if temperature == 0.0:
        weights = torch.zeros_like(scores)
        weights[(scores == best).nonzero()[0, 0]] = 1.0
        return weights
    weights = ((scores - best) / temperature).exp()
    order = weights.sort(descending=True, stable=True)
    kept = order.values.clone()
    if top_k > 0:
        kept[top_k:] = 0.0
    if top_p < 1.0:
        before = kept.cumsum(0) - kept
        kept[before >= top_p * kept.sum()] = 0.0
    kept[order.values < min_p] = 0.0
    kept[0] = order.values[0]
    weights = torch.zeros_like(weights).index_copy_(0, order.indices, kept)
    return weights / weights.sum()


def _draw(weights: Tensor, seed: int, position: int) -> int:
    """A token by the inverse of the cumulative distribution in the order of ids; NO_TOKEN where nothing may follow."""
    if not bool(weights.any()):
        return NO_TOKEN
    point = random_uniform(seed, position)
    place = int(torch.searchsorted(weights.cumsum(0), point, right=True))
    # The last kept token takes what rounding leaves.
    return min(place, int(weights.nonzero()[-1, 0]))


def sample(logits: Tensor, rows: SamplingRows, out: Tensor) -> None:
    """See `api.sample`."""
    for row in range(rows.num_rows):
        weights = choice_weights(logits[row], rows, row)
        out[row] = _draw(weights, int(rows.seed[row]), int(rows.position[row]))


def sample_on_device(
    logits: Tensor, rows: DeviceRows, out: Tensor, logprobs: Tensor | None
) -> None:
    """See `api.sample_on_device`; one row after another."""
    num_ids = logits.shape[1]
    for row in range(len(out)):
        scores = logits[row].double()
        scores = torch.where(scores.isnan(), -math.inf, scores)
        raw = scores
        if rows.edited is not None and rows.seen is not None and rows.bias is not None:
            repetition = float(rows.repetition_penalty[row])
            scaled = torch.where(scores > 0, scores / repetition, scores * repetition)
            scores = torch.where((rows.seen[row] & 1) != 0, scaled, scores)
            count = rows.seen[row] >> 1
            scores = scores - float(rows.frequency_penalty[row]) * count
            scores = scores - float(rows.presence_penalty[row]) * (count > 0).double()
            scores = scores + rows.bias[row].double()
        line = int(rows.mask_row[row])
        if line >= 0:
            scores = scores.masked_fill(~_allowed(rows.mask[line], num_ids), -math.inf)
        cut = float(rows.temperature[row]), int(rows.top_k[row]), float(rows.top_p[row])
        weights = _weights(scores, *cut, float(rows.min_p[row]))
        out[row] = token = _draw(weights, int(rows.seed[row]), int(rows.position[row]))
        if logprobs is not None:
            logprobs[row] = raw[token] - raw.logsumexp(0) if token >= 0 else -math.inf
