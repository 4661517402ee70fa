"""Rows that enter a product, and where their lines of 64 bytes lie: row after row, or in tiles of sixteen rows.

The matrix unit loads sixteen rows' lines at once. Where rows lie one after the other these are of as many pages, and of
few sets of the first-level cache; in tiles they are one KiB of memory.
"""

from typing import Any, NamedTuple

import numpy.typing as npt

from branchwork.kernels.cpu.amx import TILE_BYTES, TILE_ROWS, TILE_STEPS
from branchwork.kernels.cpu.vector import inlined

LINE_BYTES = 64


class Rows(NamedTuple):
    """Row t's line i begins t // 16 tiles, t % 16 rows and i lines after the memory."""

    memory: npt.NDArray[Any]  # [rows up to a multiple of 16, ≥ k] stored
    tile_bytes: int
    row_bytes: int
    line_bytes: int


@inlined
def in_order(memory: Any) -> Any:
    """Rows as an array has them."""
    return Rows(memory, TILE_ROWS * memory.strides[0], memory.strides[0], LINE_BYTES)


@inlined
def rows_for(tiles: Any, steps: Any, count: Any, memory: Any) -> Any:
    """Some rows of a product of so many steps, as its form reads them best. One row alone is read in order."""
    stride = memory.strides[0]
    in_tiles = count > 1 and tiles.matrix_unit != 0 and steps % TILE_STEPS == 0
    row, line = (LINE_BYTES, TILE_BYTES) if in_tiles else (stride, LINE_BYTES)
    return Rows(memory, TILE_ROWS * stride, row, line)


@inlined
def address(rows: Any, row: Any, line: Any) -> Any:
    """Of one line of one row."""
    of_tile = rows.memory.ctypes.data + row // TILE_ROWS * rows.tile_bytes
    return of_tile + row % TILE_ROWS * rows.row_bytes + line * rows.line_bytes
