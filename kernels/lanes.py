"""What a device keeps between decode steps, so that a step needs no host: by row, and by lane of the step's batch."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class RowState:
    """What comes next for each row, int32 [rows + 1]; the last line belongs to padding.

    token     what is computed next: mostly what the row's last step chose
    position  where it stands
    state     the row's place in its machine
    mask_row  the line of the masks under which the token after it is chosen; below 0: any
    """

    token: Tensor
    position: Tensor
    state: Tensor
    mask_row: Tensor

    @staticmethod
    def of(lines: Tensor) -> "RowState":
        """The columns of a tensor [4, rows + 1]."""
        return RowState(*lines.unbind(0))


@dataclass(frozen=True, slots=True)
class Lanes:
    """One decode step's batch, a request in each lane or padding; int32 [B].

    row        the request's line in the slot table; padding: the line after the last
    token      the token that the step computes
    position   where it stands
    slot       where its K and V go, out of the slot table; padding: −1
    kv_len     tokens so far, with it; padding: 0
    drawn_at   int64: the position of the token that the step chooses
    state, mask_row   as in RowState
    """

    row: Tensor
    token: Tensor
    position: Tensor
    slot: Tensor
    kv_len: Tensor
    drawn_at: Tensor
    state: Tensor
    mask_row: Tensor


def make_lanes(row: Tensor) -> Lanes:
    """Lanes of these rows, to be filled."""

    def ints(dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.zeros(len(row), dtype=dtype, device=row.device)

    return Lanes(row, ints(), ints(), ints(), ints(), ints(torch.int64), ints(), ints())
