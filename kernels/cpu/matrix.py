"""The weights of a linear as they lie in memory, and its product with rows: plain, or from levels of 8 or 4 bits."""

from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from branchwork.kernels.cpu.levels import (
    CHUNK,
    CHUNK_STEPS,
    compiled_expansion,
    expand,
    pack_levels,
)
from branchwork.kernels.cpu.memory import zeros
from branchwork.kernels.cpu.tile import LANES, PANEL, pack_columns, partial_product
from branchwork.kernels.cpu.vector import inlined, kernel
from branchwork.kernels.quantized import Bits, quantize_linear, stored_levels

PRODUCT_ROWS = 128
"""Rows whose products wait for what follows them (a sum, SiLU) in the first-level cache."""

_COLUMNS_AT_ONCE = 64 * PANEL
"""Columns that are laid out at a time: rounding takes eight bytes a weight meanwhile."""


class Matrix(NamedTuple):
    """W [columns, k] of L layers, in panels of 64 columns: packed columns, or levels and their scales.

    A level is a whole number. In 8 bits a column has one scale, in 4 bits one for each CHUNK of its inputs.
    """

    panels: npt.NDArray[np.uint8]  # [L, P, bytes of a panel]
    scales: npt.NDArray[np.float32]  # [L, P, scales of a column, 64]; of packed columns: none
    steps: int  # of k, as `product` counts them
    expansion: int  # address of the function that makes packed columns of levels; 0: they are packed columns


class ProductScratch(NamedTuple):
    """Where a thread's products are before they go on."""

    sums: npt.NDArray[np.float32]  # [PRODUCT_ROWS, PANEL]
    part: npt.NDArray[np.float32]  # the same, of one chunk
    expanded: npt.NDArray[np.uint16]  # [CHUNK · PANEL] packed columns


def make_product_scratch() -> ProductScratch:
    """For one thread."""
    sums, part = (zeros((PRODUCT_ROWS, PANEL), np.float32) for _ in range(2))
    return ProductScratch(sums, part, zeros(CHUNK * PANEL, np.uint16))


def pack_matrix(num_layers: int, layers: Iterable[Tensor], bits: Bits | None = None) -> Matrix:
    """Lay out W [columns, k] of each layer, float32 or bfloat16 on the CPU. `bits` of levels: bfloat16 only.

    One layer is taken after the other, so that no two need to be in memory.
    """
    rest = iter(layers)
    first_layer = next(rest)
    columns, k = first_layer.shape
    num_panels, steps = -(-columns // PANEL), k * first_layer.dtype.itemsize // 4
    if bits is None:
        panel_bytes, num_scales = PANEL * 4 * steps, 0
    else:
        chunks = -(-k // CHUNK)
        panel_bytes, num_scales = PANEL * CHUNK * chunks * bits // 8, 1 if bits == 8 else chunks
    matrix = Matrix(
        zeros((num_layers, num_panels, panel_bytes), np.uint8),
        zeros((num_layers, num_panels, num_scales, PANEL), np.float32),
        steps,
        0 if bits is None else compiled_expansion(bits),
    )
    every = chain([first_layer], rest)
    for weight, panels, scales in zip(every, matrix.panels, matrix.scales, strict=True):
        for first in range(0, columns, _COLUMNS_AT_ONCE):
            some = weight[first : first + _COLUMNS_AT_ONCE]
            at = slice(first // PANEL, -(-(first + len(some)) // PANEL))
            if bits is None:
                panels[at] = pack_columns(_array_of(some)).view(np.uint8).reshape(-1, panel_bytes)
            else:
                panels[at], scales[at] = _levels(some, bits)
    return matrix


def num_bytes(matrix: Matrix) -> int:
    """What is read of it for a row."""
    return matrix.panels.nbytes + matrix.scales.nbytes


def _levels(weight: Tensor, bits: Bits) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Panels and scales of some columns, rounded as `quantize_linear` does."""
    columns, k = weight.shape
    padded = pad(weight, (0, -k % CHUNK, 0, -columns % PANEL))
    linear = quantize_linear(padded, bits, CHUNK)
    scales = linear.scale.view(-1, PANEL, linear.scale.shape[1]).transpose(1, 2)
    return pack_levels(stored_levels(linear).numpy(), bits), scales.numpy()


def _array_of(tensor: Tensor) -> npt.NDArray[Any]:
    bits = tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor
    array: npt.NDArray[Any] = bits.numpy()
    return array


@kernel
def multiply(
    tiles: Any, x: Any, first: Any, rows: Any, matrix: Any, layer: Any, panel: Any, scratch: Any
) -> None:  # fmt: skip
    """scratch.sums[r, j] = sum over k of x[first + r, k] · W[64 panel + j, k], for rows 0 to `rows` ≤ PRODUCT_ROWS.

    Between `begin_products` and `end_products`; x are Rows, `first` is a multiple of 16.
    """
    if matrix.expansion == 0:
        partial_product(
            tiles, x, first, 0, rows, matrix.panels[layer, panel], matrix.steps * 4 * LANES, matrix.steps,
            scratch.sums, PANEL, 0,
        )  # fmt: skip
    else:
        levels, scales = matrix.panels[layer, panel], matrix.scales[layer, panel]
        _multiply_levels(
            tiles, x, first, rows, levels, scales, matrix.steps, matrix.expansion, scratch
        )


@inlined
def lies_whole(matrix: Any, columns: Any) -> Any:
    """Whether a product with so many of a panel's columns may go to its place without a stop in the scratch."""
    return matrix.expansion == 0 and columns % (2 * LANES) == 0


@kernel
def multiply_into(
    tiles: Any, x: Any, first: Any, rows: Any, matrix: Any, layer: Any, panel: Any, out: Any,
    columns: Any, goes_on: Any,
) -> None:  # fmt: skip
    """As `multiply`, for columns that are `lies_whole`: out[r, j] = that sum; with `goes_on` (1) it is added.

    out  float32 [≥ rows up to a multiple of 16, ≥ columns]; what lies beyond `rows` is overwritten
    """
    partial_product(
        tiles, x, first, 0, rows, matrix.panels[layer, panel], matrix.steps * 4 * LANES, matrix.steps,
        out, columns, goes_on,
    )  # fmt: skip


@kernel
def _multiply_levels(
    tiles: Any, x: Any, first_row: Any, rows: Any,
    levels: Any, scales: Any, steps: Any, expansion: Any, scratch: Any,
) -> None:  # fmt: skip
    """Chunk by chunk of k; a scale multiplies sums, of a chunk or of all."""
    num_chunks = -(-steps // CHUNK_STEPS)
    chunk_bytes = len(levels) // num_chunks
    for chunk in range(num_chunks):
        expand(expansion, levels[chunk * chunk_bytes :].ctypes.data, scratch.expanded.ctypes.data)
        first = chunk * CHUNK_STEPS
        some = min(steps - first, CHUNK_STEPS)
        if len(scales) == 1:
            partial_product(
                tiles, x, first_row, first, rows, scratch.expanded, CHUNK_STEPS * 4 * LANES, some,
                scratch.sums, PANEL, chunk,
            )  # fmt: skip
        else:
            partial_product(
                tiles, x, first_row, first, rows, scratch.expanded, CHUNK_STEPS * 4 * LANES, some,
                scratch.part, PANEL, 0,
            )  # fmt: skip
            for r in range(rows):
                if chunk == 0:
                    _scale(scratch.part[r], scales[0], scratch.sums[r])
                else:
                    _add_scaled(scratch.part[r], scales[chunk], scratch.sums[r])
    if len(scales) == 1:
        for r in range(rows):
            _scale(scratch.sums[r], scales[0], scratch.sums[r])


@kernel
def _scale(sums: Any, scales: Any, out: Any) -> None:
    for j in range(PANEL):
        out[j] = sums[j] * scales[j]


@kernel
def _add_scaled(sums: Any, scales: Any, out: Any) -> None:
    for j in range(PANEL):
        out[j] += sums[j] * scales[j]
