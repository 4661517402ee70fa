"""The operations of the runtime on its device: one function each, and the only module of kernels it imports.

Outputs and workspaces are the caller's, except where a library makes its own (`linear`). A call is checked, and then
goes to the form for the tensors' device: Triton on a GPU, else `kernels.reference` (the CPU's fast form is a whole
network, `Network`). Raises KernelError; nothing is launched then. No operation reads a value of the device on the host.

T new tokens in a step · R requests in it · S slots in the pool · V vocabulary
"""

import importlib
import os
from typing import Any

import torch
from torch import Tensor

from branchwork.kernels import linear as _linear
from branchwork.kernels import reference
from branchwork.kernels.attention import (
    AttentionWorkspace,
    SharedPrefixes,
    make_workspace,
    num_lines,
)
from branchwork.kernels.automaton import DONE, FORCED, Automata, Places
from branchwork.kernels.configs import (
    HEAD_DIMS,
    MAX_QUANTIZED_ROWS,
    SPLIT_TILES,
    WIDE_BYTES,
    num_splits,
    quantized_linear_config,
)
from branchwork.kernels.cpu.compiling import is_compiled, start_compiling
from branchwork.kernels.cpu.host import Network, runs_compiled
from branchwork.kernels.cpu.identity import code_identity
from branchwork.kernels.device_rows import (
    DeviceRows,
    SamplingWorkspace,
    device_rows,
    make_sampling_workspace,
)
from branchwork.kernels.errors import KernelError
from branchwork.kernels.lanes import Lanes, RowState, make_lanes
from branchwork.kernels.linear import PackedLinear
from branchwork.kernels.linear import pack as pack_linear
from branchwork.kernels.low_rank import AdapterRows, check_adapters, make_adapter_rows, splits_of
from branchwork.kernels.quantized import (
    BITS_OF_HEAD,
    BITS_OF_LAYERS,
    INT4_GROUP,
    Bits,
    LinearRoom,
    Quantize,
    QuantizedLinear,
    largest_stored,
    quantize_linear,
    quantized_bytes,
)
from branchwork.kernels.sampling import NO_TOKEN, SamplingRows
from branchwork.kernels.weights import (
    AdapterWeights,
    DecoderWeights,
    ExpertWeights,
    LayerAdapters,
    LayerWeights,
    LowRank,
)

__all__ = [
    "BITS_OF_HEAD",
    "BITS_OF_LAYERS",
    "DONE",
    "FORCED",
    "HEAD_DIMS",
    "INT4_GROUP",
    "NO_TOKEN",
    "AdapterRows",
    "AdapterWeights",
    "AttentionWorkspace",
    "Automata",
    "Bits",
    "DecoderWeights",
    "DeviceRows",
    "ExpertWeights",
    "KernelError",
    "Lanes",
    "LayerAdapters",
    "LayerWeights",
    "LinearRoom",
    "LowRank",
    "Network",
    "PackedLinear",
    "Places",
    "Quantize",
    "QuantizedLinear",
    "RowState",
    "SamplingRows",
    "SamplingWorkspace",
    "SharedPrefixes",
    "add_rms_norm",
    "advance_rows",
    "attend",
    "check_adapters",
    "check_slots",
    "code_identity",
    "combine",
    "device_rows",
    "embed",
    "expert_linear",
    "fill_lanes",
    "fsm_advance",
    "group_rows",
    "is_compiled",
    "largest_stored",
    "linear",
    "low_rank",
    "make_adapter_rows",
    "make_lanes",
    "make_room",
    "make_sampling_workspace",
    "make_workspace",
    "pack_linear",
    "quantize_linear",
    "quantized_bytes",
    "quantized_linear",
    "rms_norm",
    "rope_store_kv",
    "route",
    "runs_compiled",
    "runs_triton",
    "sample",
    "sample_on_device",
    "silu_mul",
    "start_compiling",
    "target_logprobs",
    "top_logprobs",
    "widen",
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


def _require_ints(
    name: str, tensor: Tensor, *shape: int, device: torch.device | None = None
) -> None:
    if tensor.dtype is not torch.int32:
        raise KernelError(name, "int32", str(tensor.dtype))
    if device is not None and tensor.device != device:
        raise KernelError(name, f"a tensor on {device}", str(tensor.device))
    _require(name, tensor, tensor, *shape)


def _require_head_dim(name: str, tensor: Tensor) -> None:
    """On a GPU a tile holds a whole head."""
    if runs_triton(tensor) and tensor.shape[-1] not in HEAD_DIMS:
        raise KernelError(name, f"a head dimension of {HEAD_DIMS}", str(tensor.shape[-1]))


# Triton's own switch: its interpreter takes any tensor for one on a GPU.
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def runs_triton(tensor: Tensor) -> bool:
    """Whether the operations on such a tensor are Triton's: on a GPU, and in Triton's interpreter."""
    return tensor.device.type == "cuda" or _INTERPRETED


def _form(tensor: Tensor, module: str) -> Any:
    """The module whose functions compute on the tensor's device."""
    if not runs_triton(tensor):
        return reference
    # Triton is there on Linux only, and takes a second to import: only a GPU needs it.
    return importlib.import_module(f"branchwork.kernels.triton.{module}")


def embed(token_ids: Tensor, table: Tensor, out: Tensor) -> None:
    """out[t] = table[token_ids[t]].

    token_ids  [T]          int32, each below V
    table      [V, hidden]  float32 | bfloat16
    out        [T, hidden]  as table
    """
    _require_ints("token_ids", token_ids, -1, device=table.device)
    _require("out", out, table, token_ids.shape[0], table.shape[1])
    _form(table, "pointwise").embed(token_ids, table, out)


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """out = x / sqrt(mean(x²) + eps) · weight over the last dimension (Zhang, Sennrich 2019).

    x, out  [T, hidden]  float32 | bfloat16; may be the same tensor. The mean is taken in float32.
    weight  [hidden]
    """
    _require("weight", weight, x, x.shape[-1])
    _require("out", out, x, *x.shape)
    _form(x, "pointwise").rms_norm(x, weight, eps, out)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """residual += x, and then out = rms_norm(residual).

    x, residual, out  [T, hidden]  float32 | bfloat16
    """
    _require("residual", residual, x, *x.shape)
    _require("weight", weight, x, x.shape[-1])
    _require("out", out, x, *x.shape)
    _form(x, "pointwise").add_rms_norm(x, residual, weight, eps, out)


def linear(
    x: Tensor, weight: PackedLinear | QuantizedLinear, room: LinearRoom | None = None
) -> Tensor:
    """x Wᵀ + b, [T, out_features]; the library behind it makes the output.

    x     [T, in_features], contiguous, of the dtype the weight was packed in; float32 | bfloat16 if it is quantised
    room  of `make_room`, which a quantised weight needs
    """
    if x.dim() != 2 or x.shape[1] != weight.in_features:
        raise KernelError("x", f"shape [-1, {weight.in_features}]", f"shape {list(x.shape)}")
    if isinstance(weight, PackedLinear):
        return _linear.apply(x, weight)
    out = x.new_empty(len(x), weight.out_features)
    if len(x) <= MAX_QUANTIZED_ROWS:
        quantized_linear(x, weight, out, room)
    else:
        _widened_linear(x, weight, out, room)
    return out


def make_room(
    dtype: torch.dtype, device: torch.device | str, num_bytes: int = WIDE_BYTES
) -> LinearRoom:
    """A workspace of `linear` for x of a dtype: made once, used by every product."""
    return LinearRoom(
        torch.empty(num_bytes // dtype.itemsize, dtype=dtype, device=device),
        torch.zeros(SPLIT_TILES, dtype=torch.int32, device=device),
    )


def _require_room(room: LinearRoom | None, x: Tensor, num_elements: int) -> LinearRoom:
    if room is None or room.wide.numel() < num_elements:
        found = "none" if room is None else str(room.wide.numel())
        raise KernelError("room", f"at least {num_elements} elements", found)
    _require("room", room.wide, x, -1)
    return room


def _split_elements(x: Tensor, weight: QuantizedLinear) -> int:
    """Of the room, for the float32 sums of splits."""
    config, num_groups = quantized_linear_config(len(x)), -(-weight.in_features // weight.group)
    splits = num_splits(weight.out_features, num_groups, config)
    return 0 if splits == 1 else splits * len(x) * weight.out_features * 4 // x.element_size()


def _widened_linear(
    x: Tensor, weight: QuantizedLinear, out: Tensor, room: LinearRoom | None
) -> None:
    """As `quantized_linear`, with as many outputs at a time as there is room for their weights."""
    width, multiple = weight.in_features, 64  # outputs of a part: its first scale lies on 16 bytes
    wide = _require_room(room, x, multiple * width).wide
    at_once = wide.numel() // width // multiple * multiple
    for first in range(0, weight.out_features, at_once):
        last = min(first + at_once, weight.out_features)
        some = wide[: (last - first) * width].view(last - first, width)
        widen(weight, first, some)
        bias = None if weight.bias is None else weight.bias[first:last]
        _linear.product(x, some, bias, out[:, first:last])


def widen(weight: QuantizedLinear, first: int, out: Tensor) -> None:
    """out[i] = the weights of output first + i as numbers.

    out  [n, in_features]  float32 | bfloat16; `first` is a multiple of 16
    """
    last = first + len(out)
    if first % 16 or not 0 <= first <= last <= weight.out_features:
        raise KernelError(
            "first", f"a multiple of 16 within {weight.out_features} outputs", f"{first}"
        )
    _require("out", out, out, -1, weight.in_features)
    _form(out, "linear").widen(weight, first, out)


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
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
) -> None:
    """Rotate q into `q_out`; rotate k and write k and v to their slots. A token with slot < 0 writes nothing.

    qkv            [T, (heads + 2 · kv_heads) · D]  q, then k, then v
    cos, sin       [length, D / 2]                  float32, by position
    positions      [T]                              int32
    slots          [T]                              int32, each slot at most once
    k_pool, v_pool [S, kv_heads, D]                 as qkv; or float8_e4m3fn | int8, and then with scales:
    k_scale, v_scale [S, kv_heads]                  float32: stored · scale is the value, and the largest of a head fits
    q_out          [T, heads, D]                    as qkv
    q_norm, k_norm [D]                              if given, each head of q and k goes through rms_norm first
    """
    num_tokens, (num_heads, head_dim), kv_heads = qkv.shape[0], q_out.shape[1:], k_pool.shape[1]
    _require("qkv", qkv, qkv, num_tokens, (num_heads + 2 * kv_heads) * head_dim)
    _require("q_out", q_out, qkv, num_tokens, num_heads, head_dim)
    _require_pool(qkv, k_pool, v_pool, k_scale, v_scale)
    _require_ints("positions", positions, num_tokens, device=qkv.device)
    _require_ints("slots", slots, num_tokens, device=qkv.device)
    _require_head_dim("q_out", q_out)
    if cos.dtype is not torch.float32 or cos.shape != sin.shape or cos.shape[1] * 2 != head_dim:
        raise KernelError(
            "cos", f"float32 [length, {head_dim // 2}]", f"{cos.dtype} {list(cos.shape)}"
        )
    if (q_norm is None) != (k_norm is None):
        raise KernelError("k_norm", "a norm for both of q and k, or for none", "one alone")
    _form(qkv, "pointwise").rope_store_kv(
        qkv,
        cos,
        sin,
        positions,
        slots,
        k_pool,
        v_pool,
        q_out,
        q_norm,
        k_norm,
        eps,
        k_scale,
        v_scale,
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
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    workspace: AttentionWorkspace | None = None,
    max_new_tokens: int = 0,
    shared: SharedPrefixes | None = None,
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
    k_scale, …      as in `rope_store_kv`

    A GPU needs the rest, the reference ignores it: room for partial results, how many new tokens a request has at most
    (1: each has one), and which decoding requests share their first slots, which are then read once.
    """
    num_requests, head_dim, kv_heads = rows.shape[0], q.shape[2], k_pool.shape[1]
    _require("out", out, q, *q.shape)
    _require("q", q, q, -1, q.shape[1], head_dim)
    _require_pool(q, k_pool, v_pool, k_scale, v_scale)
    if q.shape[1] % kv_heads:
        raise KernelError("q", f"a multiple of {kv_heads} heads", f"{q.shape[1]}")
    _require_ints("slot_table", slot_table, -1, -1, device=q.device)
    _require_ints("rows", rows, num_requests, device=q.device)
    _require_ints("query_start", query_start, num_requests + 1, device=q.device)
    _require_ints("kv_len", kv_len, num_requests, device=q.device)
    arguments = (
        q, k_pool, v_pool, slot_table, rows, query_start, kv_len, out, scale, window, k_scale, v_scale
    )  # fmt: skip
    if not runs_triton(q):
        reference.attend(*arguments)
        return
    if workspace is None or max_new_tokens < 1:
        raise KernelError("workspace", "a workspace and max_new_tokens of at least 1", "none")
    _require_head_dim("q", q)
    lines = num_lines(num_requests, q.shape[0], q.shape[1], head_dim)
    if workspace.lse.numel() < lines or workspace.partial.numel() < lines * head_dim:
        raise KernelError("workspace", f"room for {lines} lines", str(workspace.lse.numel()))
    if workspace.arrived.numel() < num_requests * kv_heads:
        found = str(workspace.arrived.numel())
        raise KernelError("workspace", f"counts of {num_requests * kv_heads}", found)
    _form(q, "attention").attend(*arguments, workspace, max_new_tokens, shared)


def _require_pool(
    like: Tensor, k_pool: Tensor, v_pool: Tensor, k_scale: Tensor | None, v_scale: Tensor | None
) -> None:
    """K and V of one shape and dtype: that of `like`, or a quantised one with scales."""
    num_slots, kv_heads, head_dim = k_pool.shape
    if (k_scale is None) != (v_scale is None):
        raise KernelError("v_scale", "scales for both of K and V, or for none", "one alone")
    if k_scale is None or v_scale is None:
        _require(
            "k_pool",
            k_pool,
            like,
            num_slots,
            kv_heads,
            like.shape[-1] if like.dim() == 3 else head_dim,
        )
    elif not largest_stored(k_pool.dtype):
        raise KernelError("k_pool", "float8_e4m3fn or int8 beside scales", str(k_pool.dtype))
    else:
        for name, scales in (("k_scale", k_scale), ("v_scale", v_scale)):
            if scales.dtype is not torch.float32:
                raise KernelError(name, "float32", str(scales.dtype))
            _require(name, scales, scales, num_slots, kv_heads)
    _require("v_pool", v_pool, k_pool, num_slots, kv_heads, head_dim)


def check_slots(slot_table: Tensor, rows: Tensor, kv_len: Tensor, num_slots: int) -> None:
    """For debugging, for it waits for the device: every slot that attention would read is in the pool."""
    for row, length in zip(rows.tolist(), kv_len.tolist(), strict=True):
        used = slot_table[row, :length]
        if length and not 0 <= int(used.min()) <= int(used.max()) < num_slots:
            raise KernelError(
                "slot_table",
                f"slots 0 to {num_slots - 1}",
                f"{int(used.min())} to {int(used.max())} in row {row}",
            )


def quantized_linear(
    x: Tensor, weight: QuantizedLinear, out: Tensor, room: LinearRoom | None = None
) -> None:
    """out = x Wᵀ + b with W in 8 or 4 bits, for up to 64 tokens: beyond, weights are better widened once (`linear`).

    x     [T, in]   float32 | bfloat16
    out   [T, out]  as x
    room  of `make_room`, for x's dtype; only a GPU needs it
    """
    if x.shape[0] > MAX_QUANTIZED_ROWS:
        raise KernelError("x", f"at most {MAX_QUANTIZED_ROWS} rows", str(x.shape[0]))
    _require("x", x, x, -1, weight.in_features)
    _require("out", out, x, x.shape[0], weight.out_features)
    if runs_triton(x):
        _require_room(room, x, _split_elements(x, weight))
    _form(x, "linear").quantized_linear(x, weight, out, room)


def route(
    scores: Tensor, normalised: bool, weight: Tensor, expert: Tensor, count: Tensor, pairs: Tensor
) -> None:
    """Send each token to the experts of its highest scores; of equal ones the lower number first, NaN last.

    A token and one of its experts are a *pair*: number token · choices + choice.

    scores  [T, E]        float32 | bfloat16
    weight  [T, choices]  float32: softmax(scores) of the chosen; `normalised`: they sum to 1
    expert  [T, choices]  int32: the chosen, best first
    count   [E]           int32: pairs of each expert
    pairs   [E, T]        int32: their numbers, in any order; past `count` whatever was there
    """
    num_tokens, num_experts = scores.shape
    _require("scores", scores, scores, num_tokens, num_experts)
    _require("weight", weight, weight, num_tokens, -1)
    if weight.dtype is not torch.float32 or not 1 <= weight.shape[1] <= num_experts:
        found = f"{weight.dtype} {list(weight.shape)}"
        raise KernelError("weight", f"float32 [{num_tokens}, 1 to {num_experts}]", found)
    _require_ints("expert", expert, *weight.shape, device=scores.device)
    _require_ints("count", count, num_experts, device=scores.device)
    _require_ints("pairs", pairs, num_experts, num_tokens, device=scores.device)
    _form(scores, "experts").route(scores, normalised, weight, expert, count, pairs)


def expert_linear(x: Tensor, weight: Tensor, count: Tensor, pairs: Tensor, out: Tensor) -> None:
    """out[p] = x[token or p] Wᵀ of the expert of pair p; sums in float32.

    x             [T, in], a row for each token, or [T · choices, in], one for each pair; float32 | bfloat16
    weight        [E, out, in]        as x
    count, pairs  of `route`
    out           [T · choices, out]  as x
    """
    num_experts, num_columns, num_inputs = weight.shape
    _require("x", x, weight, -1, num_inputs)
    _require("weight", weight, x, num_experts, num_columns, num_inputs)
    _require("out", out, x, -1, num_columns)
    if len(out) % len(x):
        raise KernelError("out", f"a multiple of {len(x)} rows", str(len(out)))
    _require_ints("count", count, num_experts, device=x.device)
    _require_ints("pairs", pairs, num_experts, -1, device=x.device)
    _form(x, "experts").expert_linear(x, weight, count, pairs, out)


def combine(values: Tensor, weight: Tensor, out: Tensor) -> None:
    """out[t] = the sum of a token's pairs, each by its weight.

    values  [T · choices, hidden]  float32 | bfloat16
    weight  [T, choices]           float32
    out     [T, hidden]            as values
    """
    _require("values", values, values, weight.numel(), -1)
    _require("out", out, values, weight.shape[0], values.shape[1])
    _form(values, "experts").combine(values, weight, out)


def group_rows(adapter: Tensor, rows: AdapterRows) -> None:
    """Find each adapter's tokens.

    adapter  [T] int32: 0: none; n from 1 to N: adapter n − 1 of the weights; no other (`check_adapters`), which would
             be none too
    """
    num_adapters = len(rows.count)
    _require_ints("adapter", adapter, -1)
    _require_ints("rows.count", rows.count, num_adapters, device=adapter.device)
    _require_ints("rows.rows", rows.rows, num_adapters, len(adapter), device=adapter.device)
    _form(adapter, "low_rank").group_rows(adapter, rows)


def low_rank(x: Tensor, weights: LowRank, rows: AdapterRows, out: Tensor) -> None:
    """out[t] += B (A x[t]) with the weights of the token's adapter; rows without one are neither read nor written.

    A x is summed in float32 and rounded to the type of x; B (A x) is summed in float32, and so is what is in `out`.

    x    [T, in]   float32 | bfloat16
    out  [T, out]  as x
    """
    num_adapters, num_values, num_inputs = weights.shrink.shape
    num_columns, rank = weights.expand.shape[1:]
    _require("x", x, weights.shrink, -1, num_inputs)
    _require("weights.shrink", weights.shrink, x, num_adapters, len(weights.widths) * rank, -1)
    _require("weights.expand", weights.expand, x, num_adapters, sum(weights.widths), rank)
    _require("out", out, x, len(x), num_columns)
    _require_ints("rows.count", rows.count, num_adapters, device=x.device)
    _require_ints("rows.rows", rows.rows, num_adapters, len(x), device=x.device)
    if not runs_triton(x):
        reference.low_rank(x, weights, rows, out)
        return
    elements = splits_of(weights) * num_values * len(x)
    if rows.room.dtype is not torch.float32 or rows.room.numel() < elements:
        found = f"{rows.room.numel()} of {rows.room.dtype}"
        raise KernelError("rows.room", f"at least {elements} of float32", found)
    _form(x, "low_rank").low_rank(x, weights, rows, out)


def fsm_advance(tokens: Tensor, automata: Automata, places: Places) -> None:
    """Follow each request's token in its machine: `places` then says where it stands and what that means.

    tokens  [R] int32; NO_TOKEN ends the request
    """
    _require_ints("tokens", tokens, places.grammar.shape[0])
    _form(tokens, "automaton").fsm_advance(tokens, automata, places)


def fill_lanes(rows: RowState, slot_table: Tensor, lanes: Lanes) -> None:
    """The beginning of a decode step: fill the lanes from the state of the rows that `lanes.row` names.

    slot_table  [rows, max_len] int32; where a live row's token stands, its slot must be there
    """
    num_lanes, num_rows = lanes.row.shape[0], slot_table.shape[0]
    _require_ints("slot_table", slot_table, -1, -1)
    _require_rows(rows, num_rows)
    for name in ("row", "token", "position", "slot", "kv_len", "state", "mask_row"):
        _require_ints(name, getattr(lanes, name), num_lanes, device=slot_table.device)
    _form(slot_table, "lanes").fill_lanes(rows, slot_table, lanes)


def advance_rows(chosen: Tensor, lanes: Lanes, rows: RowState) -> None:
    """The end of a decode step: the chosen tokens are what the lanes' rows compute next, each one place further on.

    chosen  [B] int32; where it is NO_TOKEN, the row goes on with token 0, which nobody will ask for
    A row stands in one lane at most. `lanes.state` and `lanes.mask_row` are those after the token.
    """
    _require_ints("chosen", chosen, lanes.row.shape[0])
    _require_rows(rows, rows.token.shape[0] - 1)
    _form(chosen, "lanes").advance_rows(chosen, lanes, rows)


def _require_rows(rows: RowState, num_rows: int) -> None:
    for name in ("token", "position", "state", "mask_row"):
        _require_ints(f"rows.{name}", getattr(rows, name), num_rows + 1)


def sample_on_device(
    logits: Tensor,
    rows: DeviceRows,
    out: Tensor,
    workspace: SamplingWorkspace,
    logprobs: Tensor | None = None,
) -> None:
    """As `sample`, with all its inputs on the logits' device; the same choice.

    logits    [R, V]  float32 | bfloat16; rows may lie apart
    logprobs  [R]     float32: of the chosen token in the model's own distribution; −inf where nothing may follow
    """
    _require_ints("out", out, logits.shape[0])
    if logits.stride(1) != 1:
        raise KernelError("logits", "rows without gaps", f"strides {logits.stride()}")
    _require("temperature", rows.temperature, rows.temperature, logits.shape[0])
    if runs_triton(logits):
        _form(logits, "sampling").sample(logits, rows, out, logprobs, workspace)
    else:
        reference.sample_on_device(logits, rows, out, logprobs)


def silu_mul(gate_up: Tensor, out: Tensor) -> None:
    """out = silu(gate) · up (Shazeer 2020).

    gate_up  [T, 2 · width]  gate, then up
    out      [T, width]
    """
    _require("out", out, gate_up, gate_up.shape[0], gate_up.shape[1] // 2)
    _form(gate_up, "pointwise").silu_mul(gate_up, out)


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
