"""The launches that are compiled ahead of time: a layer of Llama-3-8B (32 query heads, 8 key heads, D 128), its ends."""

from collections.abc import Callable

import torch
from torch import Tensor

from branchwork.kernels.attention import SharedPrefixes, make_workspace
from branchwork.kernels.device_rows import DeviceRows, make_sampling_workspace
from branchwork.kernels.triton import attention, pointwise, sampling

HEADS, KV_HEADS, D, HIDDEN, WIDTH, VOCAB = 32, 8, 128, 4096, 14336, 128_256
BF16 = torch.bfloat16


def empty(*shape: int, dtype: torch.dtype = BF16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def ints(*shape: int) -> Tensor:
    return empty(*shape, dtype=torch.int32)


def floats(*shape: int) -> Tensor:
    return empty(*shape, dtype=torch.float32)


def pool(dtype: torch.dtype = BF16, slots: int = 2**20) -> attention.Pool:
    k = empty(slots, KV_HEADS, D, dtype=dtype)
    scale = None if dtype is BF16 else floats(slots, KV_HEADS)
    return k, k, scale, scale, ints(64, 8192), ints(64)


def decode(dtype: torch.dtype = BF16, window: int = 0, shared: bool = False) -> None:
    groups = SharedPrefixes(ints(33), ints(64), ints(32), ints(64)) if shared else None
    q = empty(64, HEADS, D)
    work = make_workspace(64, 2048, HEADS, D, "meta")
    attention.decode(q, pool(dtype), ints(64), q, D**-0.5, window, work, groups)


def extend(dtype: torch.dtype = BF16, window: int = 0) -> None:
    q = empty(2048, HEADS, D)
    work = make_workspace(64, 2048, HEADS, D, "meta")
    attention.extend(q, pool(dtype), ints(65), ints(64), q, D**-0.5, window, work, 2048)


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


LAUNCHES: dict[str, Callable[[], None]] = {
    "decode": lambda: decode(shared=True),
    "decode, window": lambda: decode(window=4096),
    "decode, fp8 kv": lambda: decode(torch.float8_e4m3fn),
    "decode, int8 kv": lambda: decode(torch.int8),
    "extend": extend,
    "extend, window": lambda: extend(window=4096),
    "extend, fp8 kv": lambda: extend(torch.float8_e4m3fn),
    "rope": rope,
    "rope, head norm": lambda: rope(norm=True),
    "rope, fp8 kv": lambda: rope(torch.float8_e4m3fn),
    "rope, int8 kv": lambda: rope(torch.int8),
    "pointwise": pointwise_all,
}


def sample(edits: bool = True) -> None:
    rows = 64
    words = (VOCAB + 31) // 32
    table = (ints(rows, words), ints(rows, VOCAB), floats(rows, VOCAB)) if edits else (None,) * 3
    settings = DeviceRows(
        floats(rows), floats(rows), floats(rows), ints(rows), floats(rows), floats(rows), floats(rows),
        empty(rows, dtype=torch.int64), empty(rows, dtype=torch.int64), ints(rows, words), ints(rows), *table,
    )  # fmt: skip
    work = make_sampling_workspace(rows, VOCAB, "meta")
    sampling.sample(empty(rows, VOCAB), settings, ints(rows), floats(rows), work)


LAUNCHES["sample"] = sample
LAUNCHES["sample, no edits"] = lambda: sample(edits=False)
