"""What a decoder layer does beside products and attention: gather, norms, rotation, gate. One pass over memory each.

Every value is widened to float32 right after its load and narrowed at its store.
"""

import triton
import triton.language as tl
from torch import Tensor

from branchwork.kernels.configs import POINTWISE_BLOCK, ROPE_HEADS
from branchwork.kernels.quantized import largest_stored
from branchwork.kernels.triton.early import after_the_last, early


@triton.jit
def embed_kernel(token_ids, table, out, width, BLOCK: tl.constexpr):
    """One program: BLOCK elements of one token's row."""
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(token_ids + token).to(tl.int64)
    tl.store(
        out + token * width + at, tl.load(table + row * width + at, mask=at < width), at < width
    )


@triton.jit
def rms_norm_kernel(x, residual, weight, out, width, eps, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """One program: one row. With a residual, it takes x in first, rounded as it is stored."""
    after_the_last(EARLY)
    row = tl.program_id(0).to(tl.int64) * width
    at = tl.arange(0, BLOCK)
    real = at < width
    value = tl.load(x + row + at, mask=real, other=0.0).to(tl.float32)
    if residual is not None:
        value += tl.load(residual + row + at, mask=real, other=0.0).to(tl.float32)
        value = value.to(x.dtype.element_ty).to(tl.float32)
        tl.store(residual + row + at, value.to(x.dtype.element_ty), mask=real)
    value *= tl.rsqrt(tl.sum(value * value, 0) / width + eps)
    value = value.to(x.dtype.element_ty).to(tl.float32)
    gain = tl.load(weight + at, mask=real, other=0.0).to(tl.float32)
    tl.store(out + row + at, (gain * value).to(x.dtype.element_ty), mask=real)


@triton.jit
def silu_mul_kernel(gate_up, out, width, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """One program: BLOCK elements of one row."""
    after_the_last(EARLY)
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real = at < width
    gate = tl.load(gate_up + row * 2 * width + at, mask=real, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + at, mask=real, other=0.0).to(tl.float32)
    value = gate * tl.sigmoid(gate) * up
    tl.store(out + row * width + at, value.to(out.dtype.element_ty), mask=real)


@triton.jit
def _head_norm(left, right, q_norm, k_norm, is_q, at, eps, D: tl.constexpr, stored: tl.constexpr):
    """rms_norm of each head, given as its two halves, by the weight of q or of k."""
    scale = tl.rsqrt(tl.sum(left * left + right * right, 1) / D + eps)[:, None]
    q_left, k_left = tl.load(q_norm + at).to(tl.float32), tl.load(k_norm + at).to(tl.float32)
    q_right = tl.load(q_norm + D // 2 + at).to(tl.float32)
    k_right = tl.load(k_norm + D // 2 + at).to(tl.float32)
    left = (left * scale).to(stored).to(tl.float32) * tl.where(is_q, q_left, k_left)
    right = (right * scale).to(stored).to(tl.float32) * tl.where(is_q, q_right, k_right)
    return left.to(stored).to(tl.float32), right.to(stored).to(tl.float32)


@triton.jit
def _store_head(
    pool, scales, place, at, left, right, write, D: tl.constexpr, LARGEST: tl.constexpr
):
    """Write heads to their places in a pool, each divided by its own scale where the pool is quantised."""
    if scales is not None:
        top = tl.maximum(tl.max(tl.abs(left), 1), tl.max(tl.abs(right), 1))
        scale = tl.where(top > 0, top / LARGEST, 1.0)
        tl.store(scales + place, scale, mask=write)
        left, right = left / scale[:, None], right / scale[:, None]
        if pool.dtype.element_ty == tl.int8:
            left, right = tl.floor(left + 0.5), tl.floor(right + 0.5)
    target = pool + place[:, None] * D + at[None, :]
    tl.store(target, left.to(pool.dtype.element_ty), mask=write[:, None])
    tl.store(target + D // 2, right.to(pool.dtype.element_ty), mask=write[:, None])


@triton.jit
def rope_store_kv_kernel(
    qkv, cos, sin, positions, slots, k_pool, v_pool, k_scale, v_scale, q_out, q_norm, k_norm, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, BLOCK_HEADS: tl.constexpr,
    LARGEST: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_HEADS of a token's heads, of q, k and v alike; where each goes is a matter of masks.

    qkv row   q0 q1 … | k0 … | v0 …      left and right half of each head: a tile [BLOCK_HEADS, D / 2]
    """
    after_the_last(EARLY)
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    at = tl.arange(0, D // 2)
    real = (head < HEADS + 2 * KV_HEADS)[:, None]
    is_q = head < HEADS
    is_k = (head >= HEADS) & (head < HEADS + KV_HEADS)
    is_v = (head >= HEADS + KV_HEADS) & (head < HEADS + 2 * KV_HEADS)

    source = qkv + (token * (HEADS + 2 * KV_HEADS) + head[:, None]) * D + at[None, :]
    left = tl.load(source, mask=real, other=0.0).to(tl.float32)
    right = tl.load(source + D // 2, mask=real, other=0.0).to(tl.float32)
    slot = tl.load(slots + token).to(tl.int64)
    kept = slot >= 0  # a padding token has no slot: it writes nothing
    place = slot * KV_HEADS + (head - HEADS - KV_HEADS)
    _store_head(v_pool, v_scale, place, at, left, right, is_v & kept, D, LARGEST)

    if q_norm is not None:
        left, right = _head_norm(
            left, right, q_norm, k_norm, is_q[:, None], at[None, :], eps, D, qkv.dtype.element_ty
        )
    angle = tl.load(positions + token).to(tl.int64) * (D // 2) + at
    cosine, sine = tl.load(cos + angle)[None, :], tl.load(sin + angle)[None, :]
    turned_left = left * cosine - right * sine
    turned_right = right * cosine + left * sine
    target = q_out + (token * HEADS + head[:, None]) * D + at[None, :]
    tl.store(target, turned_left.to(q_out.dtype.element_ty), mask=is_q[:, None])
    tl.store(target + D // 2, turned_right.to(q_out.dtype.element_ty), mask=is_q[:, None])
    place = slot * KV_HEADS + (head - HEADS)
    _store_head(k_pool, k_scale, place, at, turned_left, turned_right, is_k & kept, D, LARGEST)


def embed(token_ids: Tensor, table: Tensor, out: Tensor) -> None:
    """See `api.embed`."""
    grid = (out.shape[0], triton.cdiv(out.shape[1], POINTWISE_BLOCK))
    embed_kernel[grid](token_ids, table, out, out.shape[1], BLOCK=POINTWISE_BLOCK, num_warps=4)


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """See `api.rms_norm`."""
    _norm(x, None, weight, eps, out)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """See `api.add_rms_norm`."""
    _norm(x, residual, weight, eps, out)


def _norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, out: Tensor) -> None:
    block = triton.next_power_of_2(x.shape[1])
    rms_norm_kernel[(x.shape[0],)](
        x, residual, weight, out, x.shape[1], eps, BLOCK=block, num_warps=8 if block > 2048 else 4,
        **early(x.device),
    )  # fmt: skip


def silu_mul(gate_up: Tensor, out: Tensor) -> None:
    """See `api.silu_mul`."""
    grid = (out.shape[0], triton.cdiv(out.shape[1], POINTWISE_BLOCK))
    silu_mul_kernel[grid](
        gate_up, out, out.shape[1], BLOCK=POINTWISE_BLOCK, num_warps=4, **early(out.device)
    )


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
    k_scale: Tensor | None,
    v_scale: Tensor | None,
) -> None:
    """See `api.rope_store_kv`."""
    num_tokens, num_heads, head_dim = q_out.shape
    kv_heads = k_pool.shape[1]
    grid = (num_tokens, triton.cdiv(num_heads + 2 * kv_heads, ROPE_HEADS))
    rope_store_kv_kernel[grid](
        qkv, cos, sin, positions, slots, k_pool, v_pool, k_scale, v_scale, q_out, q_norm, k_norm, eps,
        HEADS=num_heads, KV_HEADS=kv_heads, D=head_dim, BLOCK_HEADS=ROPE_HEADS,
        LARGEST=largest_stored(k_pool.dtype), num_warps=4, **early(qkv.device),
    )  # fmt: skip
