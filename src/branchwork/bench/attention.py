"""Decode attention on the CPU: over slots anywhere in the pool, beside torch's own over keys in a row."""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit

from branchwork.bench.report import Report
from branchwork.bench.rounds import alternate
from branchwork.kernels.cpu import network
from branchwork.kernels.cpu.attention import make_scratch, make_sums
from branchwork.kernels.cpu.host import array_of
from branchwork.kernels.cpu.matrix import make_product_scratch
from branchwork.kernels.cpu.network import Cache, Shape, Shared, Thread, Tokens, Workspace
from branchwork.kernels.cpu.rows import in_order
from branchwork.kernels.cpu.team import make_team, meet
from branchwork.kernels.cpu.tile import begin_products, compiled_tiles, end_products


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be changed."""
    parser.add_argument("--requests", type=int, default=32, help="at once (default: 32)")
    parser.add_argument("--tokens", type=int, default=512, help="of each request (default: 512)")
    parser.add_argument("--repeat", type=int, default=100, help="runs of each (default: 100)")


def run(options: argparse.Namespace) -> Report:
    """One thread each, 16 query heads, 8 key heads, D 128, bf16; runs alternate, so that both meet the same machine."""
    heads, kv_heads, dim = 16, 8, 128
    num_slots = options.requests * options.tokens
    torch.set_num_threads(1)
    torch.manual_seed(0)
    q = torch.randn(options.requests, heads, dim).bfloat16()
    k, v = (torch.randn(num_slots, kv_heads, dim).bfloat16() for _ in "kv")
    table = torch.randperm(num_slots, dtype=torch.int32).view(options.requests, options.tokens)
    out = torch.empty_like(q)
    ours = _over_slots(q, k, v, table, out)
    keys, values = (pool[table.long()].transpose(1, 2).contiguous() for pool in (k, v))
    # Query heads that share a key head stand in the place of tokens: torch's fused form takes no groups, and without
    # it takes five times as long.
    query = q.view(options.requests, kv_heads, heads // kv_heads, dim)

    def sdpa() -> torch.Tensor:
        return F.scaled_dot_product_attention(query, keys, values)

    ours()  # compiles
    difference = (out.float() - sdpa().reshape(out.shape).float()).abs().max().item()
    assert difference < 2e-2, f"the two differ by {difference}"
    found = alternate({"slots": ours, "row": sdpa}, _seconds, options.repeat)
    report = Report(
        f"Decode attention, {options.requests} requests x {options.tokens} tokens, one thread",
        ("form", "CPU ms, median", "CPU ms, best"),
    )
    report.add("SDPA, keys in a row", *_both(found["row"]))
    report.add("compiled, slots anywhere", *_both(found["slots"]))
    ratio = statistics.median(a / b for a, b in zip(found["slots"], found["row"], strict=True))
    best = min(found["slots"]) / min(found["row"])
    report.notes.append(
        f"Slots over a row: {ratio:.2f} (median of pairs), {best:.2f} (best of each)."
    )
    return report


def _seconds(work: Callable[[], object], _round: int) -> float:
    """Of this thread on a core: on a machine with other users the clock on the wall measures them."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def _both(seconds: list[float]) -> tuple[float, float]:
    return statistics.median(seconds) * 1e3, min(seconds) * 1e3


@njit(_nrt=False)  # type: ignore[untyped-decorator]
def _attend_layer(shape: Any, work: Any, cache: Any, tokens: Any, shared: Any, thread: Any) -> None:
    """What the compiled network does for attention in a layer."""
    begin_products(thread.tiles)
    network._attend(shape, 0, 0, work, cache, tokens, shared, in_order(work.attended), thread)
    end_products(thread.tiles)
    meet(thread.team)


def _over_slots(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor, out: torch.Tensor
) -> Callable[[], None]:
    """Our attention of one new token a request."""
    num_requests, num_heads, dim = q.shape
    nothing, none = np.zeros((0, 0), np.float32), np.zeros(0, np.int32)
    flat = array_of(q.view(num_requests, -1))
    work = Workspace(
        hidden=nothing, normed=flat, qkv=nothing, q=flat, attended=array_of(out.view(num_requests, -1)),
        activated=flat, logits=nothing, shared=make_sums(num_requests, num_heads, dim),
    )  # fmt: skip
    cache = Cache(array_of(k[None]), array_of(v[None]), table.numpy(), nothing, nothing)
    numbers = np.arange(num_requests + 1, dtype=np.int32)
    lengths = np.full(num_requests, table.shape[1], np.int32)
    tokens = Tokens(none, none, none, numbers[:-1].copy(), numbers, lengths)
    shared = Shared(np.zeros(1, np.int32), none, none, np.zeros(num_requests, np.int32))
    shape = Shape(num_heads, k.shape[1], dim, 1e-6, False)
    tiles = compiled_tiles(flat.dtype)
    scratch = make_scratch(num_heads, k.shape[1], dim, flat.dtype, tiles)
    thread = Thread(0, make_team(1), tiles, scratch, make_product_scratch(), flat[:0])

    return lambda: _attend_layer(shape, work, cache, tokens, shared, thread)
