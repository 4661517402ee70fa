"""Compiled attention against the reference, over slots in any order."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numba import njit

from branchwork.kernels import reference
from branchwork.kernels.cpu import network
from branchwork.kernels.cpu.amx import usable
from branchwork.kernels.cpu.attention import make_scratch, make_sums
from branchwork.kernels.cpu.host import array_of
from branchwork.kernels.cpu.network import Cache, Shape, Shared, Thread, Tokens, Workspace
from branchwork.kernels.cpu.rows import in_order
from branchwork.kernels.cpu.team import make_team, meet
from branchwork.kernels.cpu.tile import begin_products, compiled_tiles, end_products

NUM_SLOTS, MAX_LEN = 2000, 400
HEADS = [(1, 1, 64), (7, 1, 32), (8, 4, 32), (4, 2, 80), (2, 2, 8)]
UNIT = [False, True] if usable() else [False]
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


@njit(_nrt=False)
def attend_layer(
    shape: Any, window: Any, work: Any, cache: Any, tokens: Any, shared: Any, thread: Any
) -> None:
    """What the compiled network does for attention in a layer."""
    begin_products(thread.tiles)
    if len(shared.length) > 0:
        network._attend_shared(shape, 0, work, cache, tokens, shared, thread)
        meet(thread.team)
    network._attend(shape, 0, window, work, cache, tokens, shared, in_order(work.attended), thread)
    end_products(thread.tiles)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def compiled_attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    table: torch.Tensor,
    new: list[int],
    lengths: list[int],
    window: int = 0,
    groups: tuple[tuple[tuple[int, ...], int], ...] = (),
    matrix_unit: bool = True,
) -> torch.Tensor:
    """Run one layer's attention over requests with `new` tokens each of `lengths` in all."""
    num_tokens, num_heads, dim = q.shape
    kv_heads, stored = k.shape[1], array_of(q).dtype
    out = torch.empty_like(q)
    nothing = np.zeros((0, 0), np.float32)
    work = Workspace(
        hidden=nothing,
        normed=array_of(q.view(num_tokens, -1)),
        qkv=nothing,
        q=array_of(q.view(num_tokens, -1)),
        attended=array_of(out.view(num_tokens, -1)),
        activated=array_of(q.view(num_tokens, -1)),
        logits=nothing,
        shared=make_sums(num_tokens, num_heads, dim),
    )
    cache = Cache(array_of(k[None]), array_of(v[None]), table.numpy(), nothing, nothing)
    starts = ints(*itertools.accumulate(new, initial=0))
    rows = np.arange(len(new), dtype=np.int32)
    none = ints()
    tokens = Tokens(none, none, none, rows, starts, ints(*lengths))
    blocks = np.zeros(len(new), np.int32)
    for members, length in groups:
        blocks[list(members)] = length // 64
    shared = Shared(
        ints(*itertools.accumulate((len(m) for m, _ in groups), initial=0)),
        ints(*(i for members, _ in groups for i in members)),
        ints(*(length for _, length in groups)),
        blocks,
    )
    shape = Shape(num_heads, kv_heads, dim, 1e-6, False)
    tiles = compiled_tiles(stored, matrix_unit)
    scratch = make_scratch(num_heads, kv_heads, dim, stored, tiles)
    products = np.zeros((1, 64), np.float32)
    thread = Thread(0, make_team(1), tiles, scratch, products, nothing)
    attend_layer(shape, window, work, cache, tokens, shared, thread)
    return out


def given(
    heads: tuple[int, int, int], dtype: torch.dtype, new: list[int], lengths: list[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random q and pool; every request's slots anywhere, and all other slots NaN."""
    num_heads, kv_heads, dim = heads
    torch.manual_seed(sum(lengths))
    q = torch.randn(sum(new), num_heads, dim).to(dtype)
    k = torch.full((NUM_SLOTS, kv_heads, dim), torch.nan, dtype=dtype)
    v = k.clone()
    slots = torch.randperm(NUM_SLOTS)[: sum(lengths)]
    k[slots] = torch.randn(len(slots), kv_heads, dim).to(dtype)
    v[slots] = torch.randn(len(slots), kv_heads, dim).to(dtype)
    table = torch.full((len(new), MAX_LEN), NUM_SLOTS - 1, dtype=torch.int32)
    for row, own in enumerate(slots.split(lengths)):
        table[row, : len(own)] = own
    return q, k, v, table


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("window", [0, 70])
@pytest.mark.parametrize("matrix_unit", UNIT, ids="unit={}".format)
def test_compiled_attention_equals_the_reference(
    heads: tuple[int, int, int], dtype: torch.dtype, window: int, matrix_unit: bool
) -> None:
    new, lengths = [1, 1, 1, 5, 130, 64, 2], [1, 64, 129, 5, 333, 64, 65]
    q, k, v, table = given(heads, dtype, new, lengths)
    expected = torch.empty(q.shape)
    starts = torch.tensor([0, *itertools.accumulate(new)], dtype=torch.int32)
    rows = torch.arange(len(new), dtype=torch.int32)
    reference.attend(
        q.float(), k.float(), v.float(), table, rows, starts,
        torch.tensor(lengths, dtype=torch.int32), expected, heads[2] ** -0.5, window,
    )  # fmt: skip

    out = compiled_attend(q, k, v, table, new, lengths, window, matrix_unit=matrix_unit)

    assert (out.float() - expected).abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("matrix_unit", UNIT, ids="unit={}".format)
def test_a_shared_prefix_gives_the_same_bits_as_each_alone(
    heads: tuple[int, int, int], matrix_unit: bool
) -> None:
    new, lengths = [1] * 5 + [3], [150, 131, 300, 129, 128, 140]
    q, k, v, table = given(heads, torch.bfloat16, new, lengths)
    for row in (1, 2, 3):
        table[row, :129] = table[0, :129]
    alone = compiled_attend(q, k, v, table, new, lengths, matrix_unit=matrix_unit)
    together = compiled_attend(
        q, k, v, table, new, lengths, groups=(((0, 1, 2, 3), 129),), matrix_unit=matrix_unit
    )
    assert torch.equal(alone, together)
    assert not alone.isnan().any()


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("window", [0, 70])
@pytest.mark.parametrize("in_a_row", [False, True], ids=["scattered", "in a row"])
def test_a_token_has_the_same_bits_however_its_request_is_cut(
    heads: tuple[int, int, int], window: int, in_a_row: bool
) -> None:
    length = 150
    q, k, v, table = given(heads, torch.bfloat16, [length], [length])
    whole = compiled_attend(q, k, v, table, [length], [length], window)
    if in_a_row:
        own = table[0, :length].long()
        k[100 : 100 + length], v[100 : 100 + length] = k[own], v[own]
        table[0, :length] = torch.arange(100, 100 + length)
    for size in (1, 3, 64):
        starts = range(0, length, size)
        parts = [
            compiled_attend(
                q[at : at + size],
                k,
                v,
                table,
                [min(size, length - at)],
                [min(at + size, length)],
                window,
            )
            for at in starts
        ]
        assert torch.equal(torch.cat(parts), whole), size
