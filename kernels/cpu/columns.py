"""Attention by the matrix unit: sixteen rows of queries stand in the columns of a tile, and keys go down it.

Keys enter as they lie in the pool, as the unit's first factor. So their scores come out as lines of sixteen
columns, and a maximum, a sum, an exponential is a plain operation on vectors. Weights are turned around in
registers, values are zipped in pairs of rows; of heads of few rows values are summed in vectors (`values`).

Heads of few rows share a tile: in the packed queries of one head the columns of the others are zeros, as are the
others' rows in its weights, so what a head adds to their sums is nothing, to the last bit.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from branchwork.kernels.cpu.amx import (
    TILE_ROWS,
    add_product,
    add_scores,
    begin_sums,
    end_scores,
)
from branchwork.kernels.cpu.layout import copy_rows, lie_evenly, transpose, zip_rows
from branchwork.kernels.cpu.memory import zeros
from branchwork.kernels.cpu.rows import address
from branchwork.kernels.cpu.softening import (
    give_32,
    hide_keys,
    scale_line,
    soften_columns,
    soften_lines,
)
from branchwork.kernels.cpu.tile import LANES, PANEL
from branchwork.kernels.cpu.values import MOST_ROWS, add_values
from branchwork.kernels.cpu.vector import LOG2_E, fill, inlined, kernel

_HALF = PANEL // 2
_LINE = 64
_LINE_DIM = 32
"""bfloat16 of a line of memory: a head is whole lines."""


class ColumnScratch(NamedTuple):
    """One thread's working memory for this form of attention."""

    rows: npt.NDArray[np.int64]  # [16] addresses
    queries: npt.NDArray[np.uint32]  # [tiles and heads in them, lines of a head, 16, 16]
    places: npt.NDArray[np.int32]  # [rows] which of the piece's tokens
    tiles: npt.NDArray[np.int64]  # [4] addresses of sixteen keys
    strides: npt.NDArray[np.int64]  # [4] bytes from key to key
    is_run: npt.NDArray[np.bool_]  # [4]
    keys: npt.NDArray[np.uint16]  # [64, head_dim]
    values: npt.NDArray[np.uint32]  # [2, 2 · lines of a head, 16, 16]
    scores: npt.NDArray[np.float32]  # [64, 16]
    shrink: npt.NDArray[np.float32]  # [16]
    weights: npt.NDArray[np.uint16]  # [heads in a tile, 16, 64]
    weight_rows: npt.NDArray[np.int64]  # [16] addresses
    laid_for: npt.NDArray[np.int64]  # [1] the rows of a head that these are for


def make_columns(rows: int, num_kv_heads: int, head_dim: int) -> ColumnScratch:
    """Working memory for pieces of up to `rows` rows, padding counted."""
    lines = head_dim // _LINE_DIM
    return ColumnScratch(
        rows=zeros(TILE_ROWS, np.int64),
        queries=zeros((max(rows // TILE_ROWS, num_kv_heads), lines, LANES, LANES), np.uint32),
        places=zeros(rows, np.int32),
        tiles=zeros(PANEL // TILE_ROWS, np.int64),
        strides=zeros(PANEL // TILE_ROWS, np.int64),
        is_run=zeros(PANEL // TILE_ROWS, np.bool_),
        keys=zeros((PANEL, head_dim), np.uint16),
        values=zeros((2, 2 * lines, LANES, LANES), np.uint32),
        scores=zeros((PANEL, LANES), np.float32),
        shrink=zeros(LANES, np.float32),
        weights=zeros((TILE_ROWS, TILE_ROWS, PANEL), np.uint16),
        weight_rows=zeros(TILE_ROWS, np.int64),
        laid_for=zeros(1, np.int64),
    )


def fits_columns(head_dim: int) -> bool:
    """Whether heads are whole lines."""
    return head_dim % _LINE_DIM == 0


@inlined
def heads_of_tile(rows: Any) -> Any:
    """How many heads of so many rows share a tile."""
    return max(TILE_ROWS // rows, 1)


@inlined
def tiles_of_head(rows: Any) -> Any:
    """How many tiles a head of so many rows takes."""
    return (rows + TILE_ROWS - 1) // TILE_ROWS


@inlined
def first_row(head: Any, rows: Any) -> Any:
    """Where the rows of a piece's head begin, of which each head has so many."""
    together = heads_of_tile(rows)
    return head // together * tiles_of_head(rows) * TILE_ROWS + head % together * rows


@inlined
def all_rows(heads: Any, rows: Any) -> Any:
    """How many rows so many heads take, padding counted: whole tiles."""
    together = heads_of_tile(rows)
    return (heads + together - 1) // together * tiles_of_head(rows) * TILE_ROWS


@kernel
def lay_queries(q: Any, num_tokens: Any, heads: Any, scratch: Any) -> None:
    """Pack the rows of a piece; tell which tokens they are, and where the weights of a tile's rows go."""
    columns, rows = scratch.columns, num_tokens * heads.group
    together, tiles = heads_of_tile(rows), tiles_of_head(rows)
    fill(columns.places[: all_rows(heads.count, rows)], num_tokens - 1)
    for h in range(heads.count):
        first = first_row(h, rows)
        for r in range(rows):
            columns.places[first + r] = r // heads.group
        for tile in range(tiles):
            fill(columns.rows, scratch.nothing.ctypes.data)
            for r in range(tile * TILE_ROWS, min(rows, (tile + 1) * TILE_ROWS)):
                head = (heads.first + h) * heads.group + r % heads.group
                token = scratch.tokens[r // heads.group]
                columns.rows[(first + r) % TILE_ROWS] = (
                    q.ctypes.data + token * q.strides[0] + head * heads.dim * q.itemsize
                )
            packed = columns.queries[h * tiles + tile]
            for line in range(heads.dim // _LINE_DIM):
                transpose(columns.rows.ctypes.data, line * _LINE, packed[line].ctypes.data)
    if columns.laid_for[0] != rows:
        columns.laid_for[0] = rows
        _lay_weights(rows, together, columns)


@kernel
def _lay_weights(rows: Any, together: Any, columns: Any) -> None:
    """Heads of so many rows share a tile: a row's weights go to its own head's, and are zeros in the others'."""
    for r in range(TILE_ROWS):
        share = min(r // rows, together - 1) if together > 1 else 0
        columns.weight_rows[r] = columns.weights[share, r].ctypes.data
    if together > 1:
        fill(columns.weights[:together].reshape(-1), 0)


@kernel
def see_block_in_columns(
    num_tokens: Any,
    heads: Any,
    first_place: Any,
    count: Any,
    k_stride: Any,
    window: Any,
    scratch: Any,
) -> None:
    """Let all rows of a piece see a block, whose keys and values are at `scratch.k_rows` and `scratch.v_rows`.

    first_place  of the first token, relative to the block's first key
    count        keys there are; what rows hold from there on is zeros
    k_stride     bytes from slot to slot
    """
    columns, rows = scratch.columns, num_tokens * heads.group
    together, tiles = heads_of_tile(rows), tiles_of_head(rows)
    _find_runs(scratch.k_rows, count, k_stride, tiles, columns)
    for head in range(0, heads.count, together):
        last_head = min(head + together, heads.count)
        for tile in range(tiles):
            first = first_row(head, rows) + tile * TILE_ROWS
            lowest = first_place + (0 if together > 1 else columns.places[first])
            highest = first_place + (
                num_tokens - 1 if together > 1 else columns.places[first + TILE_ROWS - 1]
            )
            halves = (min(max(highest + 1, 0), PANEL) + _HALF - 1) // _HALF
            if halves > 0:
                begin_sums()
            for h in range(head, last_head):
                offset = (heads.first + h) * heads.dim * 2
                if tile == 0:
                    _lay_keys(scratch.k_rows, offset, count, heads.dim, k_stride, scratch)
                if halves > 0:
                    queries = columns.queries[h * tiles + tile].ctypes.data
                    add_scores(
                        columns.tiles, columns.strides, queries, heads.dim // _LINE_DIM, halves
                    )
            if halves > 0:
                end_scores(columns.scores.ctypes.data, halves)
                whole = lowest >= halves * _HALF - 1 and (window == 0 or highest < window)
                _soften(
                    first, rows, halves, first_place, whole, heads.scale * LOG2_E, window, scratch
                )
            if rows <= MOST_ROWS:
                for h in range(head, last_head):
                    row = first + (h - head) * rows
                    add_values(
                        rows, scratch.v_rows.ctypes.data, (heads.first + h) * heads.dim * 2, halves,
                        columns.scores.ctypes.data + (h - head) * rows * 4,
                        scratch.sums[row].ctypes.data, scratch.sums.strides[0],
                        heads.dim // _LINE_DIM,
                    )  # fmt: skip
                continue
            for h in range(head, last_head):
                if tile == 0:
                    offset = (heads.first + h) * heads.dim * 2
                    zip_rows(
                        scratch.v_rows, offset, heads.dim // _LINE_DIM, columns.values.ctypes.data
                    )
                if halves > 0:
                    add_product(
                        columns.weights[h - head].ctypes.data, 2 * PANEL,
                        columns.values.ctypes.data, columns.values.strides[0], halves,
                        scratch.sums[first].ctypes.data, scratch.sums.strides[0],
                        heads.dim // _LINE_DIM,
                    )  # fmt: skip


@inlined
def _soften(
    first: Any,
    rows: Any,
    halves: Any,
    first_place: Any,
    whole: Any,
    scale: Any,
    window: Any,
    scratch: Any,
) -> None:
    """Scores become weights, and what a tile's rows have summed so far shrinks as they need it."""
    columns, scores = scratch.columns, scratch.columns.scores.ctypes.data
    if not whole:
        hide_keys(scores, halves * _HALF, first_place, window, columns.places[first:].ctypes.data)
    highest, total = scratch.highest[first:].ctypes.data, scratch.total[first:].ctypes.data
    shrink = columns.shrink.ctypes.data
    if rows <= MOST_ROWS:
        changed = soften_lines(scores, halves, scale, highest, total, shrink)
    else:
        changed = soften_columns(
            scores, halves, scale, highest, total, shrink, columns.weight_rows.ctypes.data
        )
    if changed:
        for r in range(TILE_ROWS):
            sums = scratch.sums[first + r].ctypes.data
            for line in range(0, scratch.sums.strides[0], _LINE):
                scale_line(sums + line, columns.shrink[r])


@inlined
def _find_runs(k_rows: Any, count: Any, k_stride: Any, tiles: Any, columns: Any) -> None:
    """Which sixteens of keys lie evenly in memory and are read but once: they need not be copied."""
    for t in range(len(columns.tiles)):
        first = t * TILE_ROWS
        is_whole = tiles == 1 and first + TILE_ROWS <= count
        columns.is_run[t] = is_whole and lie_evenly(k_rows[first:].ctypes.data, k_stride)


@inlined
def _lay_keys(k_rows: Any, offset: Any, count: Any, dim: Any, k_stride: Any, scratch: Any) -> None:
    """Tell where one head's keys are, sixteen by sixteen, after copying those that lie scattered."""
    columns = scratch.columns
    for t in range(len(columns.tiles)):
        first = t * TILE_ROWS
        if first >= count:
            columns.tiles[t], columns.strides[t] = scratch.nothing.ctypes.data, 0
        elif columns.is_run[t]:
            columns.tiles[t], columns.strides[t] = k_rows[first] + offset, k_stride
        else:
            to = columns.keys[first].ctypes.data
            copy_rows(k_rows[first:], TILE_ROWS, offset, dim // _LINE_DIM, to)
            columns.tiles[t], columns.strides[t] = to, 2 * dim


@kernel
def give_columns(out: Any, num_tokens: Any, heads: Any, scratch: Any) -> None:
    """Write what the rows have summed, divided by their weights' sums, to Rows."""
    rows, lines = num_tokens * heads.group, heads.dim // _LINE_DIM
    for h in range(heads.count):
        first = first_row(h, rows)
        for token in range(num_tokens):
            for g in range(heads.group):
                row, head = first + token * heads.group + g, (heads.first + h) * heads.group + g
                sums, total = scratch.sums[row].ctypes.data, scratch.total[row]
                for line in range(lines):
                    to = address(out, scratch.tokens[token], head * lines + line)
                    give_32(sums + 2 * line * _LINE, total, to)
