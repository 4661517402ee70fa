"""Compiled products, in vector registers and by the matrix unit where there is one."""

from typing import Any

import numpy as np
import pytest
import torch
from numba import njit

from branchwork.kernels.cpu.amx import usable
from branchwork.kernels.cpu.host import array_of
from branchwork.kernels.cpu.tile import (
    begin_products,
    compiled_tiles,
    end_products,
    pack_columns,
    padded_rows,
    product,
)

UNIT = [False, True] if usable() else [False]
ROWS = [1, 6, 7, 16, 17, 32, 33, 48, 77]
MAX_ROWS = padded_rows(max(ROWS))


@njit
def multiply(tiles: Any, x: Any, rows: Any, w: Any, steps: Any, out: Any, columns: Any) -> None:
    """One product as a job of its own."""
    begin_products(tiles)
    product(tiles, x, rows, w, steps, out, columns)
    end_products(tiles)


def products(
    x: torch.Tensor, weight: torch.Tensor, rows: int, matrix_unit: bool = True
) -> np.ndarray:
    """The first rows of x Wᵀ."""
    stored = array_of(x)
    columns = len(weight)
    out = np.full((MAX_ROWS, columns), np.nan, np.float32)
    steps = x.shape[1] * stored.itemsize // 4
    tiles = compiled_tiles(stored.dtype, matrix_unit)
    multiply(tiles, stored, rows, pack_columns(array_of(weight)), steps, out, columns)
    return out[:rows]


def given(k: int, columns: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(k)
    return torch.randn(2 * MAX_ROWS, k).to(dtype), torch.randn(columns, k).to(dtype)


@pytest.mark.parametrize("matrix_unit", UNIT, ids="unit={}".format)
@pytest.mark.parametrize("k", [2, 40, 64, 512, 1000])
@pytest.mark.parametrize("columns", [32, 64, 160])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_product_equals_that_of_float64(
    dtype: torch.dtype, columns: int, k: int, matrix_unit: bool
) -> None:
    x, weight = given(k, columns, dtype)
    exact = (x.double() @ weight.double().T).numpy()
    for rows in ROWS:
        found = products(x, weight, rows, matrix_unit)
        # Rounding once for each k, at most.
        assert np.abs(found - exact[:rows]).max() <= 1e-6 * (k + 8)


@pytest.mark.parametrize("matrix_unit", UNIT, ids="unit={}".format)
@pytest.mark.parametrize("k", [40, 64, 512, 1000])
def test_a_row_has_the_same_bits_among_any_number_of_rows(k: int, matrix_unit: bool) -> None:
    x, weight = given(k, 96, torch.bfloat16)
    alone = np.stack([products(x[row:], weight, 1, matrix_unit)[0] for row in range(max(ROWS))])
    for rows in ROWS:
        assert np.array_equal(products(x, weight, rows, matrix_unit), alone[:rows])


@pytest.mark.parametrize("stale", [float("nan"), float("inf")])
def test_what_lies_beyond_the_last_row_changes_nothing(stale: float) -> None:
    x, weight = given(64, 64, torch.bfloat16)
    clean = products(x, weight, 3)
    x[3:] = stale
    assert np.array_equal(products(x, weight, 3), clean)


def test_k_that_fills_no_tiles_is_multiplied_in_vectors_alike_on_any_machine() -> None:
    x, weight = given(1000, 64, torch.bfloat16)
    for rows in ROWS:
        assert np.array_equal(products(x, weight, rows), products(x, weight, rows, False))
