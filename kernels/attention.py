"""What attention on a device needs beside its inputs: room for partial results, and which requests share a prefix."""

from dataclasses import dataclass

import torch
from torch import Tensor

from branchwork.kernels.configs import CASCADE, DECODE, EXTEND


@dataclass(frozen=True, slots=True)
class AttentionWorkspace:
    """Partial results of splits: made once, used by every layer and step. Nothing in it outlives a call.

    partial  float32, sums of values for each (token, head, split)
    lse      float32, log2 of the sum of weights for each (token, head, split)
    arrived  int32, for each (request, key head) how many programs of decode are done; 0 between two calls
    """

    partial: Tensor
    lse: Tensor
    arrived: Tensor


def make_workspace(
    max_requests: int,
    max_tokens: int,
    num_heads: int,
    head_dim: int,
    device: torch.device | str,
) -> AttentionWorkspace:
    """Room for steps of up to so many requests and new tokens."""
    lines = num_lines(max_requests, max_tokens, num_heads, head_dim)
    return AttentionWorkspace(
        torch.empty(lines * head_dim, dtype=torch.float32, device=device),
        torch.empty(lines, dtype=torch.float32, device=device),
        torch.zeros(max_requests * num_heads, dtype=torch.int32, device=device),
    )


def num_lines(num_requests: int, num_tokens: int, num_heads: int, head_dim: int) -> int:
    """Partial results of a step at most, each of head_dim sums and one lse."""
    decode = num_requests * (DECODE[head_dim].max_splits + CASCADE[head_dim].max_splits)
    return max(decode, num_tokens * EXTEND[head_dim].max_splits) * num_heads


@dataclass(frozen=True, slots=True)
class SharedPrefixes:
    """Groups of decoding requests whose first slots are the very same; int32 tensors on the device.

    The number of groups is the tensors' size: a captured graph has a fixed one, and empty groups cost nothing.

    group_start  [G + 1]  group g's members are members[group_start[g] : group_start[g + 1]]
    members      [R]      requests by number
    group_len    [G]      how many first tokens the group shares
    shared_len   [R]      the same for each request; 0: in no group
    """

    group_start: Tensor
    members: Tensor
    group_len: Tensor
    shared_len: Tensor
