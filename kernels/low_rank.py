"""Which tokens of a step are computed with which adapter, and what lies between the two products of one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from branchwork.kernels.configs import SHRINK_INPUTS
from branchwork.kernels.errors import KernelError
from branchwork.kernels.weights import AdapterWeights, LowRank


@dataclass(frozen=True, slots=True)
class AdapterRows:
    """The tokens of each adapter; filled by `api.group_rows`, once a step, and read by every product.

    count  [N]     int32: tokens of each adapter
    rows   [N, T]  int32: their places in the step, in any order; past `count` whatever was there
    room   float32: a workspace of `api.low_rank`
    """

    count: Tensor
    rows: Tensor
    room: Tensor


def check_adapters(adapters: Sequence[int] | npt.NDArray[np.int32], number: int) -> None:
    """Each is one of so many, counted from 1, or none (0). Raises KernelError."""
    lowest, highest = int(np.min(adapters)), int(np.max(adapters))
    if lowest < 0 or highest > number:
        raise KernelError("adapters", f"numbers from 0 to {number}", f"{lowest} to {highest}")


def make_adapter_rows(
    weights: AdapterWeights, num_tokens: int, device: torch.device | str
) -> AdapterRows:
    """For steps of so many tokens."""

    def ints(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.int32, device=device)

    every = (one for layer in weights.layers for one in layer.every if one is not None)
    widest = max((splits_of(one) * one.shrink.shape[1] for one in every), default=0)
    room = torch.empty(widest * num_tokens, dtype=torch.float32, device=device)
    return AdapterRows(ints(weights.number), ints(weights.number, num_tokens), room)


def splits_of(weights: LowRank) -> int:
    """Parts that the sum over the inputs is made in: by their number alone, so that a row has the same bits always."""
    return -(-weights.shrink.shape[2] // SHRINK_INPUTS)
