"""The operations of the runtime on its device: one function each, and the only module of kernels it imports.

Outputs and workspaces are the caller's, except where a library makes its own (`linear`). A call is checked, and then
goes to the fast form for the tensors' device, or to `kernels.reference`. Raises KernelError; nothing is launched then.

T new tokens in a step · R requests in it · S slots in the pool · V vocabulary
"""

import torch
from torch import Tensor

from branchwork.kernels import linear as _linear
from branchwork.kernels import reference
from branchwork.kernels.cpu.compiling import is_compiled, start_compiling
from branchwork.kernels.cpu.host import Network, runs_compiled
from branchwork.kernels.errors import KernelError
from branchwork.kernels.linear import PackedLinear
from branchwork.kernels.linear import pack as pack_linear
from branchwork.kernels.sampling import NO_TOKEN, SamplingRows
from branchwork.kernels.weights import DecoderWeights, LayerWeights

__all__ = [
    "NO_TOKEN",
    "DecoderWeights",
    "KernelError",
    "LayerWeights",
    "Network",
    "PackedLinear",
    "SamplingRows",
    "add_rms_norm",
    "attend",
    "embed",
    "is_compiled",
    "linear",
    "pack_linear",
    "rms_norm",
    "rope_store_kv",
    "runs_compiled",
    "sample",
    "silu_mul",
    "start_compiling",
    "target_logprobs",
    "top_logprobs",
]


def _require(name: str, tensor: Tensor, like: Tensor, *shape: int) -> None:
    """Hold `tensor` to the dtype and device of `like` and to a shape (-1: any), contiguous."""
    if tensor.dtype is not like.dtype or tensor.device != like.device:
        raise KernelError(
            name, f"{like.dtype} on {like.device}", f"{tensor.dtype} on {tensor.device}"
        )
    found = tensor.shape
    if len(found) != len(shape) or any(
        want not in (-1, have) for want, have in zip(shape, found, strict=True)
    ):
        raise KernelError(name, f"shape {list(shape)}", f"shape {list(found)}")
    if not tensor.is_contiguous():
        raise KernelError(name, "a contiguous tensor", f"strides {tensor.stride()}")


def _require_ints(name: str, tensor: Tensor, *shape: int) -> None:
    if tensor.dtype is not torch.int32:
        raise KernelError(name, "int32", str(tensor.dtype))
    _require(name, tensor, tensor, *shape)


def embed(token_ids: Tensor, table: Tensor, out: Tensor) -> None:
    """out[t] = table[token_ids[t]].

    token_ids  [T]          int32, each below V
    table      [V, hidden]  float32 | bfloat16
    out        [T, hidden]  as table
    """
    _require_ints("token_ids", token_ids, -1)
    _require("out", out, table, token_ids.shape[0], table.shape[1])
    reference.embed(token_ids, table, out)


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """out = x / sqrt(mean(x²) + eps) · weight over the last dimension (Zhang, Sennrich 2019).

    x, out  [T, hidden]  float32 | bfloat16; may be the same tensor. The mean is taken in float32.
    weight  [hidden]
    """
    _require("weight", weight, x, x.shape[-1])
    _require("out", out, x, *x.shape)
    reference.rms_norm(x, weight, eps, out)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """residual += x, and then out = rms_norm(residual).

    x, residual, out  [T, hidden]  float32 | bfloat16
    """
    _require("residual", residual, x, *x.shape)
    _require("weight", weight, x, x.shape[-1])
    _require("out", out, x, *x.shape)
    reference.add_rms_norm(x, residual, weight, eps, out)


def linear(x: Tensor, weight: PackedLinear) -> Tensor:
    """x Wᵀ + b, [T, out_features]; the library behind it makes the output.

    x  [T, in_features], contiguous, of the dtype the weight was packed in.
    """
    if x.dim() != 2 or x.shape[1] != weight.in_features:
        raise KernelError("x", f"shape [-1, {weight.in_features}]", f"shape {list(x.shape)}")
    return _linear.apply(x, weight)


def rope_store_kv(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    slots: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    q_out: Tensor,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 0.0,
) -> None:
    """Rotate q into `q_out`; rotate k and write k and v to their slots. A token with slot < 0 writes nothing.

    qkv            [T, (heads + 2 · kv_heads) · D]  q, then k, then v
    cos, sin       [length, D / 2]                  float32, by position
    positions      [T]                              int32
    slots          [T]                              int32, each slot at most once
    k_pool, v_pool [S, kv_heads, D]                 as qkv
    q_out          [T, heads, D]                    as qkv
    q_norm, k_norm [D]                              if given, each head of q and k goes through rms_norm first
    """
    num_tokens, (num_heads, head_dim), kv_heads = qkv.shape[0], q_out.shape[1:], k_pool.shape[1]
    _require("qkv", qkv, k_pool, -1, (num_heads + 2 * kv_heads) * head_dim)
    _require("q_out", q_out, qkv, num_tokens, num_heads, head_dim)
    _require("k_pool", k_pool, qkv, -1, kv_heads, head_dim)
    _require("v_pool", v_pool, qkv, *k_pool.shape)
    _require_ints("positions", positions, num_tokens)
    _require_ints("slots", slots, num_tokens)
    if cos.dtype is not torch.float32 or cos.shape != sin.shape or cos.shape[1] * 2 != head_dim:
        raise KernelError(
            "cos", f"float32 [length, {head_dim // 2}]", f"{cos.dtype} {list(cos.shape)}"
        )
    reference.rope_store_kv(
        qkv, cos, sin, positions, slots, k_pool, v_pool, q_out, q_norm, k_norm, eps
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
    window: int = 0,
) -> None:
    """Causal attention of each request's new tokens over all its tokens so far, themselves included.

    The new tokens are the last ones of a request, and their K/V is in the pool already.

    q, out          [T, heads, D]       float32 | bfloat16; softmax in float32
    k_pool, v_pool  [S, kv_heads, D]    as q; heads is a multiple of kv_heads
    slot_table      [rows, max_len]     int32; entries from kv_len on are never read
    rows            [R]                 int32: the request's line in the table
    query_start     [R + 1]             int32: q[query_start[i] : query_start[i + 1]] are request i's
    kv_len          [R]                 int32, in tokens, with the new ones; 0 gives zeros
    window          how many positions a token looks back over, itself included; 0: all
    """
    num_requests, head_dim, kv_heads = rows.shape[0], q.shape[2], k_pool.shape[1]
    _require("out", out, q, *q.shape)
    _require("k_pool", k_pool, q, -1, kv_heads, head_dim)
    _require("v_pool", v_pool, q, *k_pool.shape)
    if q.shape[1] % kv_heads:
        raise KernelError("q", f"a multiple of {kv_heads} heads", f"{q.shape[1]}")
    _require_ints("slot_table", slot_table, -1, -1)
    _require_ints("rows", rows, num_requests)
    _require_ints("query_start", query_start, num_requests + 1)
    _require_ints("kv_len", kv_len, num_requests)
    reference.attend(q, k_pool, v_pool, slot_table, rows, query_start, kv_len, out, scale, window)


def silu_mul(gate_up: Tensor, out: Tensor) -> None:
    """out = silu(gate) · up (Shazeer 2020).

    gate_up  [T, 2 · width]  gate, then up
    out      [T, width]
    """
    _require("out", out, gate_up, gate_up.shape[0], gate_up.shape[1] // 2)
    reference.silu_mul(gate_up, out)


def sample(logits: Tensor, rows: SamplingRows, out: Tensor) -> None:
    """Choose a token for each row; a row's choice depends on that row alone.

    Penalties, then bias and bans, then the mask, then temperature, top-k, top-p among what top-k kept, min-p.
    What is left is drawn from in the order of ids, by `random_uniform(seed, position)`. NaN logits are never chosen.

    logits  [R, V]  float32 | bfloat16
    out     [R]     int32; NO_TOKEN where nothing may follow
    """
    _require_ints("out", out, logits.shape[0])
    if rows.num_rows != logits.shape[0]:
        raise KernelError("rows", f"{logits.shape[0]} rows", str(rows.num_rows))
    reference.sample(logits, rows, out)


def target_logprobs(logits: Tensor, targets: Tensor, out: Tensor) -> None:
    """out[i] = log softmax(logits[i])[targets[i]], in nats.

    logits  [R, V]  float32 | bfloat16
    targets [R]     int32
    out     [R]     float32
    """
    _require_ints("targets", targets, logits.shape[0])
    reference.target_logprobs(logits, targets, out)


def top_logprobs(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k most likely ids of each row and their log-probabilities, best first: [R, k] each."""
    if not 0 <= k <= logits.shape[1]:
        raise KernelError("k", f"0 to {logits.shape[1]}", str(k))
    return reference.top_logprobs(logits, k)
