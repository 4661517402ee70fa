"""What low-rank adapters add to a product, B (A x), row by row with each row's own adapter (Hu et al. 2021).

Rows are taken adapter by adapter, sixteen at a time (a *tile*), as in Punica and S-LoRA (Chen et al. 2023, Sheng et al.
2023): before the product their values A x are made by one stage of all threads, and where 64 columns of the product are
summed, those of B times the values are added. A row's numbers depend on its own adapter alone.

Values lie in whole tiles of the matrix unit, with zeros behind the last of each part, so the unit can be used whatever
the rank; of B, which is not padded, it then multiplies what lies next by these zeros: so weights must be finite.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from branchwork.kernels.cpu.amx import TILE_BYTES, TILE_ROWS, TILE_STEPS
from branchwork.kernels.cpu.layout import copy_line
from branchwork.kernels.cpu.lines import add_panel, store_16
from branchwork.kernels.cpu.matrix import PRODUCT_ROWS
from branchwork.kernels.cpu.memory import zeros
from branchwork.kernels.cpu.rows import LINE_BYTES, address, in_order
from branchwork.kernels.cpu.team import take
from branchwork.kernels.cpu.tile import LANES, PANEL, padded_rows, partial_product
from branchwork.kernels.cpu.vector import kernel, narrow

_HALF = PANEL // 2
_MAX_PARTS = 3
"""q, k and v."""

Ints = npt.NDArray[np.int32]
Array = npt.NDArray[Any]


class LowMatrix(NamedTuple):
    """A and B of N adapters for a matrix of L layers, as packed columns.

    B lies in *pieces*: 64 columns of a panel, or 32 of its halves, that belong to one of the matrices which are applied
    together; columns of a piece that belong to another are zeros there.
    """

    shrink: npt.NDArray[np.uint8]  # [L, N, bytes]
    steps: int  # of its inputs, as `product` counts them
    columns: int  # of A, padded to whole halves of a panel
    parts: int
    rank: int
    expand: npt.NDArray[np.uint8]  # [L, N, bytes]
    rank_steps: int
    unit_steps: int  # the same for the matrix unit
    is_there: npt.NDArray[np.bool_]  # [L]; False: no adapter touches the matrix
    first_piece: Ints  # [P + 1]; panel p has pieces first_piece[p] to first_piece[p + 1]
    column: Ints  # [pieces] in its panel
    width: Ints  # [pieces] columns: 64 or 32
    part: Ints  # [pieces] whose values it multiplies
    start: Ints  # [pieces] in bytes
    goes_on: Ints  # [pieces] not 0: the piece before has columns of the same half


class Adapted(NamedTuple):
    """A step's rows that have an adapter, in tiles of one adapter; or room for as many as a step may have."""

    rows: Ints  # [rows] by adapter
    start: Ints  # [tiles + 1]; tile i has rows start[i] to start[i + 1]
    adapter: Ints  # [tiles]
    of_block: Ints  # [blocks + 1]; of the step's PRODUCT_ROWS rows at a time, the tiles
    values: Array  # [rows, parts · whole tiles of a rank] stored: A x, in the order of `rows`


def padded_rank(rank: int) -> int:
    """Values of one part, in whole tiles."""
    tile = 2 * TILE_STEPS
    return -(-rank // tile) * tile


def make_room(max_tokens: int, rank: int, stored: npt.DTypeLike) -> Adapted:
    """For steps of so many tokens."""
    values = _MAX_PARTS * padded_rank(rank)

    def ints(length: int) -> Ints:
        return np.zeros(length, np.int32)

    blocks = -(-max_tokens // PRODUCT_ROWS)
    return Adapted(
        ints(max_tokens), ints(max_tokens + 1), ints(max_tokens), ints(blocks + 1),
        zeros((padded_rows(max_tokens) + TILE_ROWS, values), stored),
    )  # fmt: skip


def lay_rows(adapters: Ints, room: Adapted) -> int:
    """Put the rows whose adapter is not 0 in tiles; how many tiles there are."""
    found = np.flatnonzero(adapters)
    keys = found // PRODUCT_ROWS << 32 | adapters[found]
    order = np.argsort(keys, kind="stable")
    rows, keys = found[order], keys[order]
    # A tile begins with a key's first row, and with every sixteenth after it.
    runs = np.flatnonzero(np.diff(keys, prepend=-1))
    place = np.arange(len(rows)) - np.repeat(runs, np.diff(runs, append=len(rows)))
    starts = np.flatnonzero(place % TILE_ROWS == 0)
    count = len(starts)
    room.rows[: len(rows)] = rows
    room.start[:count], room.start[count] = starts, len(rows)
    room.adapter[:count] = (keys[starts] & 0xFFFFFFFF) - 1
    blocks = np.arange(len(room.of_block))
    room.of_block[:] = np.searchsorted(rows[starts] // PRODUCT_ROWS, blocks)
    return count


def pack_low(
    layers: Sequence[tuple[Array, Array] | None],
    rows: npt.NDArray[np.int64],
    widths: Sequence[int],
    steps: int,
    num_adapters: int,
    rank: int,
    stored: np.dtype[Any],
) -> LowMatrix:
    """Lay out A [N, parts · rank, in] and B [N, out, rank] of each layer; None: the layer has none.

    rows    [P · 64] of each column of the product its row of B; below 0: padding
    widths  outputs of each of the matrices that are applied together
    steps   of `in`
    """
    per_step = 4 // stored.itemsize
    num_columns = -(-rank * len(widths) // _HALF) * _HALF
    parts = np.where(rows < 0, -1, np.searchsorted(np.cumsum(widths), rows, side="right"))
    pieces = _pieces(parts)
    columns = np.concatenate([np.arange(c, c + width) for c, width, _, _ in pieces])
    own = np.concatenate([np.full(width, part) for _, width, part, _ in pieces]) == parts[columns]
    low = LowMatrix(
        shrink=zeros((len(layers), num_adapters, num_columns * steps * 4), np.uint8),
        steps=steps,
        columns=num_columns,
        parts=len(widths),
        rank=rank,
        expand=_with_room_behind((len(layers), num_adapters, len(columns) * rank * stored.itemsize)),
        rank_steps=rank // per_step,
        unit_steps=padded_rank(rank) // per_step,
        is_there=np.array([layer is not None for layer in layers]),
        first_piece=np.searchsorted([c // PANEL for c, *_ in pieces], range(len(parts) // PANEL + 1)).astype(np.int32),
        column=_ints(c % PANEL for c, *_ in pieces),
        width=_ints(width for _, width, _, _ in pieces),
        part=_ints(part for _, _, part, _ in pieces),
        start=_ints(np.cumsum([0, *(width * rank * stored.itemsize for _, width, _, _ in pieces)])[:-1]),
        goes_on=_ints(goes_on for *_, goes_on in pieces),
    )  # fmt: skip
    for i, layer in enumerate(layers):
        if layer is None:
            continue
        for n, (a, b) in enumerate(zip(*layer, strict=True)):
            padded = np.zeros((num_columns, a.shape[1]), stored)
            padded[: len(a)] = a
            low.shrink[i, n] = _in_blocks(padded).view(np.uint8).reshape(-1)
            some = np.where(own[:, None], b[rows[columns]], stored.type(0))
            low.expand[i, n] = _in_blocks(some).view(np.uint8).reshape(-1)
    return low


def _with_room_behind(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Zeros, and more of them for whoever reads a tile where the last block begins."""
    size = int(np.prod(shape))
    whole: npt.NDArray[np.uint8] = zeros(size + TILE_BYTES * TILE_STEPS, np.uint8)
    return whole[:size].reshape(shape)


def _pieces(parts: npt.NDArray[np.int64]) -> list[tuple[int, int, int, int]]:
    """(first column, columns, part, whether it goes on) of each piece, panel by panel."""
    out = []
    for first in range(0, len(parts), PANEL):
        panel = parts[first : first + PANEL]
        here = [sorted(set(half.tolist()) - {-1}) for half in (panel[:_HALF], panel[_HALF:])]
        every = sorted({*here[0], *here[1]})
        if len(every) == 1:
            out.append((first, PANEL, every[0], 0))
            continue
        for half, found in enumerate(here):
            for i, part in enumerate(found or every[:1]):
                out.append((first + half * _HALF, _HALF, part, int(i > 0)))
    return out


def _in_blocks(weight: Array) -> Array:
    """As `tile.pack_columns`, of columns that are a multiple of 16."""
    per_step = 4 // weight.itemsize
    blocks = weight.reshape(-1, LANES, weight.shape[1] // per_step, per_step)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3))


def _ints(values: Any) -> Ints:
    return np.fromiter(values, np.int32)


@kernel
def shrink_rows(x: Any, low: Any, layer: Any, adapted: Any, thread: Any) -> None:
    """adapted.values = A x for every row that has an adapter. A thread takes 64 columns of A for a tile at a time."""
    panels = -(-low.columns // PANEL)
    piece = take(thread.team, 1)
    while piece < len(adapted.adapter) * panels:
        tile, first_column = piece // panels, piece % panels * PANEL
        first, last = adapted.start[tile], adapted.start[tile + 1]
        columns = min(low.columns - first_column, PANEL)
        for i in range(last - first):
            _copy_row(x, adapted.rows[first + i], low.steps, thread.gathered[i])
        a = low.shrink[layer, adapted.adapter[tile]]
        stride, sums = low.steps * 4 * LANES, thread.products.sums
        partial_product(
            thread.tiles, in_order(thread.gathered), 0, 0, last - first,
            a[first_column // LANES * stride :], stride, low.steps, sums, columns, 0,
        )  # fmt: skip
        for i in range(last - first):
            _keep_values(sums[i], first_column, columns, low, adapted.values[first + i])
        piece = take(thread.team, 1)


@kernel
def _keep_values(sums: Any, first_column: Any, columns: Any, low: Any, values: Any) -> None:
    """Some columns of a row's A x, each part where it belongs."""
    width = values.shape[0] // _MAX_PARTS
    for part in range(low.parts):
        offset = part * low.rank - first_column  # of the part's first value among the sums
        j, last = max(-offset, 0), min(low.rank, columns - offset)
        while j + LANES <= last:
            store_16(sums[offset + j :].ctypes.data, values[part * width + j :].ctypes.data, values)
            j += LANES
        while j < last:
            values[part * width + j] = narrow(sums[offset + j], values)
            j += 1


@kernel
def _copy_row(x: Any, row: Any, steps: Any, out: Any) -> None:
    """A row of Rows, in order."""
    lines = steps * 4 // LINE_BYTES
    for line in range(lines):
        copy_line(address(x, row, line), out.ctypes.data + line * LINE_BYTES)
    # What is no whole line lies in order.
    for i in range(lines * LINE_BYTES // x.memory.itemsize, steps * 4 // x.memory.itemsize):
        out[i] = x.memory[row, i]


@kernel
def add_expanded(
    row: Any, low: Any, layer: Any, panel: Any, adapted: Any, sums: Any, columns: Any, thread: Any
) -> None:  # fmt: skip
    """Add B times the values to some columns of a panel; `sums` are those of PRODUCT_ROWS rows from `row` on."""
    part = thread.products.part
    block, width = row // PRODUCT_ROWS, adapted.values.shape[1] // _MAX_PARTS
    steps = low.unit_steps if thread.tiles.matrix_unit != 0 else low.rank_steps
    tile, end = adapted.of_block[block], adapted.of_block[block + 1]
    while tile < end:
        first, adapter = adapted.start[tile], adapted.adapter[tile]
        # Two tiles at a time, which the matrix unit has room for; of more, the sums would leave the first-level cache.
        tile += 2 if tile + 1 < end and adapted.adapter[tile + 1] == adapter else 1
        last, b = adapted.start[tile], low.expand[layer, adapter]
        for piece in range(low.first_piece[panel], low.first_piece[panel + 1]):
            values = adapted.values[first:, low.part[piece] * width :]
            partial_product(
                thread.tiles, in_order(values), 0, 0, last - first, b[low.start[piece] :],
                low.rank_steps * 4 * LANES, steps, part[:, low.column[piece] :], low.width[piece],
                low.goes_on[piece],
            )  # fmt: skip
        for i in range(last - first):
            to = sums[adapted.rows[first + i] - row]
            if columns == PANEL:
                add_panel(part[i].ctypes.data, to.ctypes.data)
            else:
                for j in range(columns):
                    to[j] += part[i, j]
