"""What adapters add to a product on the CPU: rows in tiles of one adapter, and their numbers."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba import njit

from branchwork.kernels.cpu.amx import TILE_ROWS, usable
from branchwork.kernels.cpu.host import array_of
from branchwork.kernels.cpu.low_rank import (
    Adapted,
    LowMatrix,
    add_expanded,
    lay_rows,
    make_room,
    pack_low,
    shrink_rows,
)
from branchwork.kernels.cpu.matrix import PRODUCT_ROWS, make_product_scratch
from branchwork.kernels.cpu.memory import zeros
from branchwork.kernels.cpu.network import Thread
from branchwork.kernels.cpu.rows import Rows, in_order
from branchwork.kernels.cpu.team import make_team, meet
from branchwork.kernels.cpu.tile import PANEL, begin_products, compiled_tiles, end_products

NUM_ADAPTERS = 3
UNITS = pytest.mark.parametrize(
    "matrix_unit", [False, True] if usable() else [False], ids="unit={}".format
)
MIXED = [0, 3, 1, 0, 2, 3, 3, 1, 0, 2, 1, 3] + [3] * 17 + [0, 2] + [1, 0] * 60 + [2] * 20


@settings(max_examples=100)
@example(MIXED)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=300))
def test_rows_lie_in_tiles_of_one_adapter_and_of_one_block(adapters: list[int]) -> None:
    room = make_room(300, 8, np.float32)
    count = lay_rows(np.array(adapters, np.int32), room)
    starts = room.start[: count + 1].tolist()
    tiles = [room.rows[first:last].tolist() for first, last in pairwise(starts)]
    assert sorted(row for tile in tiles for row in tile) == [i for i, a in enumerate(adapters) if a]
    for number, tile in enumerate(tiles):
        assert 1 <= len(tile) <= TILE_ROWS
        assert {adapters[row] - 1 for row in tile} == {room.adapter[number]}
        block = tile[0] // PRODUCT_ROWS
        assert {row // PRODUCT_ROWS for row in tile} == {block}
        assert room.of_block[block] <= number < room.of_block[block + 1]


@njit(_nrt=False)
def add_all(x: Any, num_rows: Any, low: Any, adapted: Any, out: Any, thread: Any):
    """What adapters add to every panel, as a job of its own."""
    begin_products(thread.tiles)
    shrink_rows(x, low, 0, adapted, thread)
    meet(thread.team)
    sums = thread.products.sums
    for panel in range(out.shape[1] // PANEL):
        for row in range(0, num_rows, PRODUCT_ROWS):
            sums[:] = 0
            add_expanded(row, low, 0, panel, adapted, sums, PANEL, thread)
            for r in range(min(PRODUCT_ROWS, num_rows - row)):
                for j in range(PANEL):
                    out[row + r, panel * PANEL + j] = sums[r, j]
    end_products(thread.tiles)


def added(
    x: torch.Tensor, low: LowMatrix, rank: int, rows: np.ndarray, adapters: list[int], unit: bool
) -> np.ndarray:
    """What is added to each row of x, [rows, columns]."""
    stored = array_of(x)
    room = make_room(len(adapters), rank, stored.dtype)
    count = lay_rows(np.array(adapters, np.int32), room)
    adapted = Adapted(
        room.rows, room.start[: count + 1], room.adapter[:count], room.of_block, room.values
    )
    tiles, scratch = compiled_tiles(stored.dtype, unit), make_product_scratch()
    gathered = zeros((TILE_ROWS, x.shape[1]), stored.dtype)
    thread: Any = Thread(0, make_team(1), tiles, None, scratch, gathered)
    lies: Rows = in_order(stored)
    out = np.full((len(adapters), len(rows)), np.nan, np.float32)
    add_all(lies, len(adapters), low, adapted, out, thread)
    return out


def made(
    rank: int, widths: tuple[int, ...], k: int, dtype: torch.dtype, in_turns: bool
) -> tuple[torch.Tensor, torch.Tensor, LowMatrix, np.ndarray]:
    """A and B of some adapters, the same laid out, and where the columns of the product come from."""
    torch.manual_seed(rank + k)
    a = (torch.randn(NUM_ADAPTERS, len(widths) * rank, k) / k**0.5).to(dtype)
    b = torch.randn(NUM_ADAPTERS, sum(widths), rank).to(dtype)
    order = np.arange(sum(widths))
    if in_turns:
        padded = np.full((2, -(-widths[0] // 32) * 32), -1)
        padded[:, : widths[0]] = order.reshape(2, -1)
        order = padded.reshape(2, -1, 32).transpose(1, 0, 2).reshape(-1)
    rows = np.full(-(-len(order) // PANEL) * PANEL, -1)
    rows[: len(order)] = order
    steps = k * dtype.itemsize // 4
    layer = array_of(a), array_of(b)
    low = pack_low([layer, None], rows, widths, steps, NUM_ADAPTERS, rank, layer[0].dtype)
    return a, b, low, rows


@UNITS
@pytest.mark.parametrize(
    ("rank", "widths", "k", "dtype", "in_turns"),
    [
        (8, (70,), 64, torch.bfloat16, False),
        (16, (128, 64, 64), 96, torch.bfloat16, False),
        (40, (37, 5, 33), 50, torch.bfloat16, False),
        (24, (45, 45), 64, torch.bfloat16, True),
        (32, (64, 64), 40, torch.bfloat16, True),
        (8, (37, 5, 33), 30, torch.float32, False),
    ],
)
def test_what_adapters_add_equals_float64_and_is_the_same_bits_for_a_row_alone(
    rank: int,
    widths: tuple[int, ...],
    k: int,
    dtype: torch.dtype,
    in_turns: bool,
    matrix_unit: bool,
) -> None:
    a, b, low, rows = made(rank, widths, k, dtype, in_turns)
    x = torch.randn(len(MIXED), k).to(dtype)
    has_one = torch.tensor(MIXED) > 0
    x[~has_one] = torch.nan
    found = added(x, low, rank, rows, MIXED, matrix_unit)
    assert not found[~has_one.numpy()].any()
    real = rows >= 0
    assert not found[:, ~real].any()
    for row, adapter in enumerate(MIXED):
        if not adapter:
            continue
        values = (a[adapter - 1].float() @ x[row].float()).to(dtype).double().split(rank)
        parts = zip(values, b[adapter - 1].double().split(widths), strict=True)
        want = torch.cat([part @ value for value, part in parts]).numpy()[rows[real]]
        tolerance = 5e-2 if dtype is torch.bfloat16 else 1e-4
        assert np.abs(found[row, real] - want).max() <= tolerance
        if row < 40:
            alone = added(x[row : row + 1], low, rank, rows, [adapter], matrix_unit)
            assert np.array_equal(alone[0], found[row])
