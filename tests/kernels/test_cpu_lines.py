"""What is written for a product to read: rows in order and in tiles, norms and gates in vectors."""

from typing import Any

import numpy as np
import pytest
import torch
from numba import njit

from branchwork.kernels.cpu.amx import usable
from branchwork.kernels.cpu.host import array_of
from branchwork.kernels.cpu.lines import norm_lines, silu_mul_line
from branchwork.kernels.cpu.memory import zeros
from branchwork.kernels.cpu.rows import LINE_BYTES, address, in_order, rows_for
from branchwork.kernels.cpu.tile import (
    begin_products,
    compiled_tiles,
    end_products,
    pack_columns,
    partial_product,
)

needs_unit = pytest.mark.skipif(not usable(), reason="no matrix unit: rows always lie in order")


@njit(_nrt=False)
def multiply(tiles: Any, x: Any, rows: Any, w: Any, steps: Any, out: Any) -> None:
    """A product of rows that lie as its form reads them best."""
    begin_products(tiles)
    laid = rows_for(tiles, steps, rows, x)
    partial_product(tiles, laid, 0, 0, rows, w, steps * LINE_BYTES, steps, out, out.shape[1], 0)
    end_products(tiles)


@njit(_nrt=False)
def offsets(tiles: Any, x: Any, steps: Any, found: Any) -> None:
    """Where each line of each row lies, in bytes after the memory."""
    laid = rows_for(tiles, steps, len(found), x)
    for row in range(found.shape[0]):
        for line in range(found.shape[1]):
            found[row, line] = address(laid, row, line) - x.ctypes.data


@needs_unit
@pytest.mark.parametrize("rows", [1, 2, 16, 17, 48, 77])
@pytest.mark.parametrize("k", [32, 512, 1024])
def test_a_product_of_rows_in_tiles_has_the_bits_of_rows_in_order(rows: int, k: int) -> None:
    torch.manual_seed(rows)
    tiles, padded = compiled_tiles(np.dtype(np.uint16)), -(-rows // 32) * 32
    ordered = zeros((padded, k), np.uint16)
    ordered[...] = array_of(torch.randn(padded, k).bfloat16())
    laid, found = zeros((padded, k), np.uint16), np.zeros((rows, k // 32), np.int64)
    offsets(tiles, laid, k // 2, found)
    for row, line in np.ndindex(found.shape):
        first = found[row, line] // 2
        laid.reshape(-1)[first : first + 32] = ordered[row, 32 * line : 32 * line + 32]
    packed = pack_columns(array_of(torch.randn(64, k).bfloat16()))
    together, alone = (np.zeros((padded, 64), np.float32) for _ in range(2))
    multiply(tiles, laid, rows, packed, k // 2, together)
    for row in range(rows):
        multiply(tiles, ordered[row:], 1, packed, k // 2, alone[row:])
    assert len(np.unique(found)) == found.size
    assert np.array_equal(together[:rows], alone[:rows])


def test_rows_lie_in_order_where_the_matrix_unit_is_not_used() -> None:
    x, found = zeros((48, 1000), np.uint16), np.zeros((40, 31), np.int64)
    in_a_row = np.arange(40)[:, None] * 2000 + np.arange(31) * LINE_BYTES
    for steps, unit in ((500, usable()), (512, False)):  # k of 1000 fills no tiles
        offsets(compiled_tiles(np.dtype(np.uint16), unit), x, steps, found)
        assert np.array_equal(found, in_a_row)


@njit(_nrt=False)
def norm(x: Any, weight: Any, out: Any) -> None:
    """One row."""
    rows = in_order(out)
    norm_lines(
        x.ctypes.data, weight.ctypes.data, len(x) // 32, np.float32(1e-6),
        address(rows, 0, 0), rows.line_bytes,
    )  # fmt: skip


@njit(_nrt=False)
def gate(sums: Any, bias: Any, out: Any) -> None:
    """One line."""
    silu_mul_line(sums.ctypes.data, bias.ctypes.data, out.ctypes.data, out)


@pytest.mark.parametrize("width", [32, 96, 896])
def test_a_norm_in_vectors_equals_that_of_float64(width: int) -> None:
    torch.manual_seed(width)
    x, weight, out = 30 * torch.randn(width), torch.randn(width), zeros((1, width), np.uint16)
    norm(x.numpy(), weight.numpy(), out)
    exact = x.double() * (x.double().square().mean() + 1e-6).rsqrt() * weight
    found = torch.from_numpy(out[0].view(np.int16)).view(torch.bfloat16)
    assert torch.allclose(found.double(), exact, rtol=2**-8, atol=1e-30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_gate_equals_that_of_float64_however_large(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for size in (1.0, 30.0, 1e4, 1e30):
        sums, bias, line = size * torch.randn(64), torch.randn(64), torch.zeros(32, dtype=dtype)
        sums[32:] /= size
        gate(sums.numpy(), bias.numpy(), array_of(line))
        both = (sums + bias).double()
        exact = torch.nn.functional.silu(both[:32]) * both[32:]
        within = 1e-6 if dtype is torch.float32 else 2**-8
        assert torch.allclose(line.double(), exact, rtol=within, atol=1e-30)


def test_what_is_no_number_stays_none() -> None:
    sums, line = np.full(64, np.nan, np.float32), zeros(32, np.float32)
    gate(sums, np.zeros(64, np.float32), line)
    assert np.isnan(line).all()
