"""Products of the weights of a linear: plain, and in 8 and 4 bits."""

from typing import Any

import numpy as np
import pytest
import torch
from numba import njit

from branchwork.kernels.cpu.amx import usable
from branchwork.kernels.cpu.host import array_of
from branchwork.kernels.cpu.levels import CHUNK
from branchwork.kernels.cpu.matrix import Matrix, make_product_scratch, multiply, pack_matrix
from branchwork.kernels.cpu.rows import in_order
from branchwork.kernels.cpu.tile import (
    PANEL,
    begin_products,
    compiled_tiles,
    end_products,
    padded_rows,
)
from branchwork.kernels.quantized import Bits, dequantize, quantize_linear

UNIT = [False, True] if usable() else [False]
BITS = pytest.mark.parametrize("bits", [None, 8, 4], ids="bits={}".format)
UNITS = pytest.mark.parametrize("matrix_unit", UNIT, ids="unit={}".format)
ROWS = [1, 6, 7, 16, 17, 33, 48, 77]
MAX_ROWS = padded_rows(max(ROWS))


@njit(_nrt=False)
def multiply_all(tiles: Any, x: Any, rows: Any, matrix: Any, layer: Any, out: Any, scratch: Any):
    """All panels, as a job of its own."""
    begin_products(tiles)
    for panel in range(matrix.panels.shape[1]):
        multiply(tiles, in_order(x), 0, rows, matrix, layer, panel, scratch)
        for row in range(rows):
            for j in range(min(PANEL, out.shape[1] - panel * PANEL)):
                out[row, panel * PANEL + j] = scratch.sums[row, j]
    end_products(tiles)


def product(
    x: torch.Tensor, matrix: Matrix, columns: int, rows: int, matrix_unit: bool, layer: int = 0
) -> np.ndarray:
    """The first rows of x Wᵀ."""
    stored = array_of(x)
    out = np.full((rows, columns), np.nan, np.float32)
    tiles = compiled_tiles(stored.dtype, matrix_unit)
    multiply_all(tiles, stored, rows, matrix, layer, out, make_product_scratch())
    return out


def given(k: int, columns: int, num_layers: int = 1) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Rows, and weights whose columns and chunks of k differ in size."""
    torch.manual_seed(k + columns)
    sizes = torch.rand(num_layers, columns, -(-k // CHUNK)).repeat_interleave(CHUNK, 2)[..., :k]
    weights = torch.randn(num_layers, columns, k) * (0.1 + sizes)
    return torch.randn(MAX_ROWS, k).bfloat16(), list(weights.bfloat16())


def rounded(weight: torch.Tensor, bits: Bits | None) -> torch.Tensor:
    """The values that are multiplied, in float64."""
    if bits is None:
        return weight.double()
    k = weight.shape[1]
    padded = torch.nn.functional.pad(weight, (0, -k % CHUNK))
    return dequantize(quantize_linear(padded, bits, CHUNK))[:, :k].double()


@BITS
@UNITS
@pytest.mark.parametrize(
    ("k", "columns"), [(256, 64), (2, 33), (40, 130), (128, 1), (130, 64), (416, 200), (1000, 70)]
)
def test_a_product_equals_that_of_float64_with_the_rounded_weights(
    k: int, columns: int, bits: Bits | None, matrix_unit: bool
) -> None:
    x, weights = given(k, columns, num_layers=2)
    matrix = pack_matrix(2, weights, bits)
    for layer, weight in enumerate(weights):
        exact = (x.double() @ rounded(weight, bits).T).numpy()
        for rows in ROWS:
            found = product(x, matrix, columns, rows, matrix_unit, layer)
            assert np.abs(found - exact[:rows]).max() <= 2e-6 * (k + 8)


@BITS
@UNITS
@pytest.mark.parametrize("k", [40, 416])
def test_a_row_has_the_same_bits_among_any_number_of_rows(
    k: int, bits: Bits | None, matrix_unit: bool
) -> None:
    x, weights = given(k, 96)
    matrix = pack_matrix(1, weights, bits)
    x = torch.cat((x, torch.zeros_like(x)))
    alone = np.concatenate(
        [product(x[row:], matrix, 96, 1, matrix_unit) for row in range(max(ROWS))]
    )
    for rows in ROWS:
        assert np.array_equal(product(x, matrix, 96, rows, matrix_unit), alone[:rows])


@pytest.mark.parametrize("bits", [8, 4])
def test_every_level_is_expanded_to_itself(bits: Bits) -> None:
    top = 127 if bits == 8 else 7
    levels = torch.arange(-top, top + 1).float()
    weight = torch.nn.functional.pad(levels, (0, CHUNK * 2 - len(levels)))[None].bfloat16()
    x = torch.zeros(padded_rows(1), CHUNK * 2).bfloat16()
    found = []
    for place in range(len(levels)):
        x[0] = 0
        x[0, place] = 1
        found.append(product(x, pack_matrix(1, [weight], bits), 1, 1, True)[0, 0])
    assert np.array_equal(found, levels.numpy())


def test_weights_in_fewer_bits_take_a_half_and_a_quarter_of_the_memory() -> None:
    _, weights = given(512, 256)
    plain, half, quarter = (pack_matrix(1, weights, bits).panels.nbytes for bits in (None, 8, 4))
    assert (half, quarter) == (plain // 2, plain // 4)
