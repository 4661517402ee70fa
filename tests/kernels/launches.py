"""The launches that are compiled ahead of time: those of Llama-3-8B (32 query heads, 8 key heads, D 128)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from branchwork.kernels import api
from branchwork.kernels.attention import SharedPrefixes, make_workspace
from branchwork.kernels.automaton import Automata, Places
from branchwork.kernels.configs import (
    cascade_config,
    decode_config,
    extend_config,
    sample_config,
)
from branchwork.kernels.device_rows import DeviceRows, make_sampling_workspace
from branchwork.kernels.lanes import Lanes, RowState
from branchwork.kernels.low_rank import AdapterRows
from branchwork.kernels.quantized import QuantizedLinear
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
from branchwork.kernels.weights import LowRank

HEADS, KV_HEADS, D, HIDDEN, WIDTH, VOCAB = 32, 8, 128, 4096, 14336, 128_256
BF16 = torch.bfloat16


def empty(*shape: int, dtype: torch.dtype = BF16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def ints(*shape: int) -> Tensor:
    return empty(*shape, dtype=torch.int32)


def floats(*shape: int) -> Tensor:
    return empty(*shape, dtype=torch.float32)


def pool(dtype: torch.dtype = BF16, slots: int = 2**20, dim: int = D) -> attention.Pool:
    k = empty(slots, KV_HEADS, dim, dtype=dtype)
    scale = None if dtype is BF16 else floats(slots, KV_HEADS)
    return k, k, scale, scale, ints(64, 8192), ints(64)


def decode(
    arch: int, dtype: torch.dtype = BF16, window: int = 0, shared: bool = False, dim: int = D
) -> None:
    groups = SharedPrefixes(ints(33), ints(64), ints(32), ints(64)) if shared else None
    q = empty(64, HEADS, dim)
    work = make_workspace(64, 2048, HEADS, dim, "meta")
    quantized = dtype is not BF16
    configs = decode_config(dim, arch, quantized), cascade_config(dim, arch, quantized)
    attention.decode(
        q, pool(dtype, dim=dim), ints(64), q, dim**-0.5, window, work, groups, *configs
    )


def extend(arch: int, dtype: torch.dtype = BF16, window: int = 0, dim: int = D) -> None:
    q = empty(2048, HEADS, dim)
    work = make_workspace(64, 2048, HEADS, dim, "meta")
    config = extend_config(dim, arch, dtype is not BF16)
    attention.extend(
        q, pool(dtype, dim=dim), ints(65), ints(64), q, dim**-0.5, window, work, 2048, config
    )


def rope(dtype: torch.dtype = BF16, norm: bool = False) -> None:
    k, v, k_scale, v_scale, *_ = pool(dtype)
    weight = empty(D) if norm else None
    pointwise.rope_store_kv(
        empty(64, (HEADS + 2 * KV_HEADS) * D), floats(8192, D // 2), floats(8192, D // 2), ints(64), ints(64),
        k, v, empty(64, HEADS, D), weight, weight, 1e-6, k_scale, v_scale,
    )  # fmt: skip


def pointwise_all() -> None:
    x, weight = empty(64, HIDDEN), empty(HIDDEN)
    pointwise.embed(ints(64), empty(VOCAB, HIDDEN), x)
    pointwise.rms_norm(x, weight, 1e-6, x)
    pointwise.add_rms_norm(x, x, weight, 1e-6, x)
    pointwise.silu_mul(empty(64, 2 * WIDTH), empty(64, WIDTH))


def sample(arch: int, edits: bool = True) -> None:
    rows = 64
    words = (VOCAB + 31) // 32
    table = (ints(rows, words), ints(rows, VOCAB), floats(rows, VOCAB)) if edits else (None,) * 3
    settings = DeviceRows(
        floats(rows), floats(rows), floats(rows), ints(rows), floats(rows), floats(rows), floats(rows),
        empty(rows, dtype=torch.int64), empty(rows, dtype=torch.int64), ints(rows, words), ints(rows), *table,
    )  # fmt: skip
    work = make_sampling_workspace(rows, VOCAB, "meta")
    sampling.sample(
        empty(rows, VOCAB), settings, ints(rows), floats(rows), work, sample_config(arch)
    )


def advance() -> None:
    flags = empty(64, dtype=torch.int8)
    starts = empty(4, dtype=torch.int64)
    machines = Automata(
        empty(VOCAB, dtype=torch.int16),
        ints(4096),
        empty(4096, dtype=torch.int8),
        starts,
        starts,
        ints(4),
        ints(4),
    )
    automaton.fsm_advance(ints(64), machines, Places(ints(64), ints(64), ints(64), flags, flags))


def lanes_of_a_step() -> None:
    rows = RowState(*(ints(257) for _ in range(4)))
    filled = Lanes(
        *(empty(64, dtype=torch.int64 if n == "drawn_at" else torch.int32) for n in Lanes.__slots__)
    )
    lanes.fill_lanes(rows, ints(256, 8192), filled)
    lanes.advance_rows(ints(64), filled, rows)


def levels(bits: Any, columns: int, inputs: int) -> QuantizedLinear:
    padded = -(-inputs // 128) * 128
    stored = (
        empty(columns, padded // 2, dtype=torch.uint8)
        if bits == 4
        else empty(columns, padded, dtype=torch.int8)
    )
    scale = floats(columns, padded // 128 if bits == 4 else 1)
    return QuantizedLinear(stored, scale, None, bits, 128, inputs, columns)


def quantized(bits: int, rows: int, inputs: int = WIDTH, columns: int = HIDDEN) -> None:
    room = api.make_room(BF16, "meta")
    linear.quantized_linear(
        empty(rows, inputs), levels(bits, columns, inputs), empty(rows, columns), room
    )


def widen(bits: int) -> None:
    linear.widen(levels(bits, HIDDEN, WIDTH), 1024, empty(1024, WIDTH))


def mixture(num_tokens: int, num_experts: int, choices: int, hidden: int, width: int) -> None:
    """Routing and both products of a layer."""
    pairs, count = ints(num_experts, num_tokens), ints(num_experts)
    weight, num_pairs = floats(num_tokens, choices), num_tokens * choices
    experts.route(
        empty(num_tokens, num_experts), True, weight, ints(num_tokens, choices), count, pairs
    )
    x, values = empty(num_tokens, hidden), empty(num_pairs, hidden)
    experts.expert_linear(
        x, empty(num_experts, 2 * width, hidden), count, pairs, empty(num_pairs, 2 * width)
    )
    experts.combine(values, weight, x)


def adapters(number: int, rank: int, inputs: int, *widths: int) -> None:
    """Tokens grouped by adapter, and what is added to the product of matrices that are applied together."""
    weights = LowRank(
        empty(number, len(widths) * rank, inputs), empty(number, sum(widths), rank), widths
    )
    grouped = AdapterRows(ints(number), ints(number, 64), floats(2**22))
    low_rank.group_rows(ints(64), grouped)
    low_rank.low_rank(empty(64, inputs), weights, grouped, empty(64, sum(widths)))


LAUNCHES: dict[str, Callable[[int], None]] = {
    "decode": lambda arch: decode(arch, shared=True),
    "decode, window": lambda arch: decode(arch, window=4096),
    "decode, fp8 kv": lambda arch: decode(arch, torch.float8_e4m3fn, shared=True),
    "decode, int8 kv": lambda arch: decode(arch, torch.int8, shared=True),
    "extend": extend,
    "extend, window": lambda arch: extend(arch, window=4096),
    "extend, fp8 kv": lambda arch: extend(arch, torch.float8_e4m3fn),
    "extend, int8 kv": lambda arch: extend(arch, torch.int8),
    "decode, D 64": lambda arch: decode(arch, shared=True, dim=64),
    "decode, D 256": lambda arch: decode(arch, shared=True, dim=256),
    "extend, D 64": lambda arch: extend(arch, dim=64),
    "extend, D 256": lambda arch: extend(arch, dim=256),
    "decode, int8 kv, D 64": lambda arch: decode(arch, torch.int8, shared=True, dim=64),
    "decode, int8 kv, D 256": lambda arch: decode(arch, torch.int8, shared=True, dim=256),
    "extend, int8 kv, D 64": lambda arch: extend(arch, torch.int8, dim=64),
    "extend, int8 kv, D 256": lambda arch: extend(arch, torch.int8, dim=256),
    "decode, fp8 kv, D 64": lambda arch: decode(arch, torch.float8_e4m3fn, shared=True, dim=64),
    "decode, fp8 kv, D 256": lambda arch: decode(arch, torch.float8_e4m3fn, shared=True, dim=256),
    "extend, fp8 kv, D 64": lambda arch: extend(arch, torch.float8_e4m3fn, dim=64),
    "extend, fp8 kv, D 256": lambda arch: extend(arch, torch.float8_e4m3fn, dim=256),
    "rope": lambda arch: rope(),
    "rope, head norm": lambda arch: rope(norm=True),
    "rope, fp8 kv": lambda arch: rope(torch.float8_e4m3fn),
    "rope, int8 kv": lambda arch: rope(torch.int8),
    "pointwise": lambda arch: pointwise_all(),
    "sample": sample,
    "sample, no edits": lambda arch: sample(arch, edits=False),
    "fsm_advance": lambda arch: advance(),
    "lanes": lambda arch: lanes_of_a_step(),
    "int4 linear": lambda arch: quantized(4, 16),
    "int8 linear": lambda arch: quantized(8, 16),
    "int4 linear, 32 tokens": lambda arch: quantized(4, 32),
    "int8 linear, 32 tokens": lambda arch: quantized(8, 32),
    "int4 linear, 64 tokens": lambda arch: quantized(4, 64),
    "int8 linear, 64 tokens": lambda arch: quantized(8, 64),
    "int4 linear, 960 inputs": lambda arch: quantized(4, 16, 960),
    "int8 linear, 960 inputs": lambda arch: quantized(8, 16, 960),
    "int4 linear, not split": lambda arch: quantized(4, 16, HIDDEN, 16 * HIDDEN),
    "int8 linear, not split": lambda arch: quantized(8, 16, HIDDEN, 16 * HIDDEN),
    "experts, 16 tokens, 8 experts": lambda arch: mixture(16, 8, 2, HIDDEN, WIDTH),
    "experts, 256 tokens, 8 experts": lambda arch: mixture(256, 8, 2, HIDDEN, WIDTH),
    "experts, 2,048 tokens, 128 experts": lambda arch: mixture(2048, 128, 8, 2048, 768),
    "widen int4": lambda arch: widen(4),
    "widen int8": lambda arch: widen(8),
    "adapters, rank 16, q k v": lambda arch: adapters(8, 16, HIDDEN, 4096, 1024, 1024),
    "adapters, rank 16": lambda arch: adapters(8, 16, WIDTH, HIDDEN),
    "adapters, rank 64": lambda arch: adapters(64, 64, WIDTH, HIDDEN),
    "adapters, rank 128, q k v": lambda arch: adapters(8, 128, HIDDEN, 4096, 1024, 1024),
}
"""What is launched, given the compute capability of the device."""
