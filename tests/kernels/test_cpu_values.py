"""Values summed in vectors have the bits that the matrix unit gives them."""

from typing import Any

import numpy as np
import pytest
from numba import njit

from branchwork.kernels.cpu import amx
from branchwork.kernels.cpu.layout import zip_rows
from branchwork.kernels.cpu.memory import zeros
from branchwork.kernels.cpu.values import MOST_ROWS, add_values

KEYS = 64


@njit(_nrt=False)
def both(
    rows: Any, halves: Any, lines: Any, num_rows: Any,
    weights: Any, weight_lines: Any, zipped: Any, by_unit: Any, by_vectors: Any,
) -> None:  # fmt: skip
    amx.begin()
    zip_rows(rows, 0, lines, zipped.ctypes.data)
    amx.add_product(
        weights.ctypes.data, 2 * KEYS, zipped.ctypes.data, zipped.strides[0], halves,
        by_unit.ctypes.data, by_unit.strides[0], lines,
    )  # fmt: skip
    add_values(
        num_rows, rows.ctypes.data, 0, halves, weight_lines.ctypes.data,
        by_vectors.ctypes.data, by_vectors.strides[0], lines,
    )  # fmt: skip
    amx.end()


def halves_of(x: np.ndarray) -> np.ndarray:
    """float32 as bfloat16, cut off."""
    return (x.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


@pytest.mark.skipif(not amx.usable(), reason="needs a matrix unit")
@pytest.mark.parametrize("kind", ["normal", "wide", "tiny"])
@pytest.mark.parametrize("dim", [32, 64, 128])
def test_values_summed_in_vectors_have_the_bits_of_the_matrix_unit(dim: int, kind: str) -> None:
    draw = np.random.default_rng(dim)
    for num_rows in range(1, MOST_ROWS + 1):
        for halves in (1, 2):
            v = draw.standard_normal((KEYS, dim)).astype(np.float32)
            w = draw.random((KEYS, 16)).astype(np.float32)
            if kind == "wide":
                v *= np.exp2(draw.integers(-60, 60, v.shape)).astype(np.float32)
                w *= np.exp2(draw.integers(-60, 0, w.shape)).astype(np.float32)
            elif kind == "tiny":  # products and sums that are subnormal
                v *= np.exp2(draw.integers(-126, -60, v.shape)).astype(np.float32)
                w *= np.exp2(draw.integers(-60, 0, w.shape)).astype(np.float32)
            stored, lines = zeros((KEYS, dim), np.uint16), dim // 32
            stored[...] = halves_of(v)
            order = draw.permutation(KEYS)
            rows = stored.ctypes.data + order.astype(np.int64) * stored.strides[0]
            weights, weight_lines = zeros((16, KEYS), np.uint16), zeros((KEYS, 16), np.float32)
            weights[...] = halves_of(w).T
            weight_lines[...] = (halves_of(w).astype(np.uint32) << np.uint32(16)).view(np.float32)
            by_unit, by_vectors = (zeros((16, dim), np.float32) for _ in range(2))
            by_unit[...] = draw.standard_normal((16, dim))
            if kind == "tiny":
                by_unit[...] = 0
            by_vectors[...] = by_unit
            zipped = zeros((2, 2 * lines, 16, 16), np.uint32)
            both(rows, halves, lines, num_rows, weights, weight_lines, zipped, by_unit, by_vectors)
            assert np.array_equal(
                by_unit[:num_rows].view(np.uint32), by_vectors[:num_rows].view(np.uint32)
            )
