"""One step's work as arrays: what a decoder reads. Made from a `Plan` by the model runner."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from branchwork.runtime.kv import KvArrays, KvShapes
from branchwork.runtime.models.rope import Rotation

Ints = npt.NDArray[np.int32]

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32}


@dataclass(frozen=True, slots=True)
class Batch:
    """T new tokens of R requests, int32 all.

    token_ids, positions, slots  [T]
    rows, kv_len                 [R]      line in the slot table; tokens so far with the new ones
    query_start                  [R + 1]  request i's new tokens are query_start[i] to query_start[i + 1]
    max_position                 the largest of `positions`
    shared_prefixes              (requests by number, length): their first positions are the very same slots, and each
                                 has one new token; a request is in one of them at most
    """

    token_ids: Ints
    positions: Ints
    slots: Ints
    rows: Ints
    query_start: Ints
    kv_len: Ints
    max_position: int
    shared_prefixes: tuple[tuple[tuple[int, ...], int], ...] = ()


@dataclass(frozen=True, slots=True)
class KvCache:
    """What is kept from step to step: the pool of K and V, and which slots each request's tokens have.

    k, v        [layers, num_slots, kv_heads, head_dim]
    slot_table  [max_rows, max_len] int32
    rotation    of all positions
    """

    k: Tensor
    v: Tensor
    slot_table: Tensor
    rotation: Rotation

    def read(self, slots: Ints) -> KvArrays:
        """As `KvMemory.read_kv`: 16-bit floats go as int16, which numpy has."""
        index = torch.from_numpy(slots).to(self.k.device, torch.int64)
        return {
            name: pool.index_select(1, index).cpu().view(_BITS[pool.dtype.itemsize]).numpy()
            for name, pool in (("k", self.k), ("v", self.v))
        }

    def write(self, slots: Ints, kv: KvArrays) -> None:
        """As `KvMemory.write_kv`."""
        index = torch.from_numpy(slots).to(self.k.device, torch.int64)
        for name, pool in (("k", self.k), ("v", self.v)):
            # A copy: what a store has read may not be written to, which torch warns of.
            values = torch.from_numpy(kv[name].copy()).view(pool.dtype)
            pool.index_copy_(1, index, values.to(pool.device))

    def shapes(self, num_tokens: int) -> KvShapes:
        """As `KvMemory.kv_shapes`."""
        layers, _, *rest = self.k.shape
        about = f"i{self.k.dtype.itemsize}", (layers, num_tokens, *rest)
        return {"k": about, "v": about}
