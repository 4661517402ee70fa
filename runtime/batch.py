"""One step's work as tensors: what the decoder reads. Made from a `Plan` by the model runner."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """T new tokens of R requests, int32 all.

    token_ids, positions, slots  [T]
    rows, kv_len                 [R]      line in the slot table; tokens so far with the new ones
    query_start                  [R + 1]  request i's new tokens are query_start[i] to query_start[i + 1]
    max_position                 the largest of `positions`
    """

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    rows: Tensor
    query_start: Tensor
    kv_len: Tensor
    max_position: int


@dataclass(frozen=True, slots=True)
class KvCache:
    """The pool of K and V, and which slots each request's tokens have.

    k, v        one [num_slots, kv_heads, head_dim] for each layer
    slot_table  [max_rows, max_len] int32
    """

    k: tuple[Tensor, ...]
    v: tuple[Tensor, ...]
    slot_table: Tensor
