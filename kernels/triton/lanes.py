"""The two ends of a decode step: what each lane computes, out of its row's state, and what comes next, back into it.

The host says which row is in which lane; all else is on the device already, so steps follow each other without it.
"""

import triton
import triton.language as tl
from torch import Tensor

from branchwork.kernels.lanes import Lanes, RowState

_BLOCK = 128


@triton.jit
def fill_lanes_kernel(
    rows, row_token, row_position, row_state, row_mask, slot_table, max_len, num_rows, token, position, slot, kv_len,
    drawn_at, state, mask_row, num_lanes, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK lanes. A lane of padding reads the line after the last row, and no slot."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = lane < num_lanes
    row = tl.load(rows + lane, mask=real, other=num_rows)
    live = row < num_rows
    at = tl.load(row_position + row, mask=real, other=0)
    place = tl.load(slot_table + row.to(tl.int64) * max_len + at, mask=live, other=-1)
    tl.store(token + lane, tl.load(row_token + row, mask=real, other=0), mask=real)
    tl.store(position + lane, at, mask=real)
    tl.store(slot + lane, place, mask=real)
    tl.store(kv_len + lane, tl.where(live, at + 1, 0), mask=real)
    tl.store(drawn_at + lane, (at + 1).to(tl.int64), mask=real)
    tl.store(state + lane, tl.load(row_state + row, mask=real, other=0), mask=real)
    tl.store(mask_row + lane, tl.load(row_mask + row, mask=real, other=-1), mask=real)


@triton.jit
def advance_rows_kernel(
    rows, chosen, state, mask_row, row_token, row_position, row_state, row_mask, num_rows, num_lanes,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK lanes, each with a row of its own. Padding changes nothing."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(rows + lane, mask=lane < num_lanes, other=num_rows)
    live = row < num_rows
    # Where nothing may follow the request fails, but a step may be under way that reads its token.
    token = tl.maximum(tl.load(chosen + lane, mask=live, other=0), 0)
    tl.store(row_token + row, token, mask=live)
    at = tl.load(row_position + row, mask=live, other=0)
    tl.store(row_position + row, at + 1, mask=live)
    tl.store(row_state + row, tl.load(state + lane, mask=live, other=0), mask=live)
    tl.store(row_mask + row, tl.load(mask_row + lane, mask=live, other=-1), mask=live)


def fill_lanes(rows: RowState, slot_table: Tensor, lanes: Lanes) -> None:
    """See `api.fill_lanes`."""
    num_lanes, (num_rows, max_len) = lanes.row.shape[0], slot_table.shape
    fill_lanes_kernel[(triton.cdiv(num_lanes, _BLOCK),)](
        lanes.row, rows.token, rows.position, rows.state, rows.mask_row, slot_table, max_len, num_rows, lanes.token,
        lanes.position, lanes.slot, lanes.kv_len, lanes.drawn_at, lanes.state, lanes.mask_row, num_lanes,
        BLOCK=_BLOCK, num_warps=4,
    )  # fmt: skip


def advance_rows(chosen: Tensor, lanes: Lanes, rows: RowState) -> None:
    """See `api.advance_rows`."""
    num_lanes, num_rows = lanes.row.shape[0], rows.token.shape[0] - 1
    advance_rows_kernel[(triton.cdiv(num_lanes, _BLOCK),)](
        lanes.row, chosen, lanes.state, lanes.mask_row, rows.token, rows.position, rows.state, rows.mask_row, num_rows,
        num_lanes, BLOCK=_BLOCK, num_warps=4,
    )  # fmt: skip
