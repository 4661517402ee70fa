"""One step's work as arrays: what a decoder reads. Made from a `Plan` by the model runner."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from branchwork.kernels import api as kernels
from branchwork.kernels.api import (
    AdapterRows,
    AdapterWeights,
    AttentionWorkspace,
    SharedPrefixes,
    largest_stored,
)
from branchwork.runtime.kv import KvArrays, KvShapes
from branchwork.runtime.models.config import ModelConfig
from branchwork.runtime.models.rope import Rotation
from branchwork.runtime.plan import Plan

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
    adapters                     [R] as `Segment.adapter`; None: no request has one
    """

    token_ids: Ints
    positions: Ints
    slots: Ints
    rows: Ints
    query_start: Ints
    kv_len: Ints
    max_position: int
    shared_prefixes: tuple[tuple[tuple[int, ...], int], ...] = ()
    adapters: Ints | None = None

    def rows_of_tokens(self) -> Ints:
        """The line in the slot table of each token's request, [T]."""
        return self._of_tokens(self.rows)

    @property
    def adapters_of_tokens(self) -> Ints | None:
        """The adapter of each token's request, [T]."""
        return None if self.adapters is None else self._of_tokens(self.adapters)

    def _of_tokens(self, values: Ints) -> Ints:
        if len(values) == len(self.token_ids):
            return values
        return np.repeat(values, np.diff(self.query_start))

    def tensors(self, adapters: AdapterWeights | None = None) -> "BatchTensors":
        """The same for a decoder on the CPU, which has these adapters."""
        numbers, adapted = self.adapters_of_tokens, None
        if numbers is not None:
            kernels.check_adapters(numbers, 0 if adapters is None else adapters.number)
        if adapters is not None and numbers is not None:
            adapted = kernels.make_adapter_rows(adapters, len(numbers), "cpu")
            kernels.group_rows(torch.from_numpy(numbers), adapted)
        return BatchTensors(
            token_ids=torch.from_numpy(self.token_ids),
            positions=torch.from_numpy(self.positions),
            slots=torch.from_numpy(self.slots),
            rows=torch.from_numpy(self.rows),
            query_start=torch.from_numpy(self.query_start),
            kv_len=torch.from_numpy(self.kv_len),
            adapted=adapted,
        )


@dataclass(frozen=True, slots=True)
class BatchTensors:
    """A batch on its decoder's device, and what attention on a GPU needs beside it (see `kernels.attend`).

    `adapted` None: no token has an adapter.
    """

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    rows: Tensor
    query_start: Tensor
    kv_len: Tensor
    workspace: AttentionWorkspace | None = None
    max_new_tokens: int = 0
    shared: SharedPrefixes | None = None
    adapted: AdapterRows | None = None


def make_batch(plan: Plan) -> Batch:
    """The plan's tokens in a row, and what belongs to them."""
    # One transposition for all: what is done for each segment counts at 32 of them a step.
    of_rows, starts, token_ids, slots, *_, adapters = zip(*plan.segments, strict=True)
    counts = list(map(len, token_ids))
    num_tokens, num_requests = sum(counts), len(counts)
    if num_tokens == num_requests:  # all decode, in short steps: one array for all
        ends = [start + 1 for start in starts]
        places = range(num_requests + 1)
        ints = _ints([*chain.from_iterable(token_ids), *starts, *of_rows, *ends, *places])
        ids, positions, rows, kv_len = ints[: 4 * num_tokens].reshape(4, num_tokens)
        query_start, max_position = ints[4 * num_tokens :], max(starts)
    else:
        lengths, firsts, rows = _ints(counts), _ints(starts), _ints(of_rows)
        query_start = np.zeros(num_requests + 1, dtype=np.int32)
        np.cumsum(lengths, out=query_start[1:])
        kv_len = firsts + lengths
        # Token t of request i stands at starts[i] + (t - query_start[i]).
        positions = np.arange(num_tokens, dtype=np.int32)
        positions += np.repeat(firsts - query_start[:-1], lengths)
        ids = np.fromiter(chain.from_iterable(token_ids), np.int32, num_tokens)
        max_position = int(kv_len.max()) - 1
    return Batch(
        token_ids=ids,
        positions=positions,
        slots=np.concatenate(slots, dtype=np.int32),
        rows=rows,
        query_start=query_start,
        kv_len=kv_len,
        max_position=max_position,
        shared_prefixes=shared_prefixes(plan) if plan.shared_prefixes else (),
        adapters=_ints(adapters) if any(adapters) else None,
    )


def shared_prefixes(plan: Plan) -> tuple[tuple[tuple[int, ...], int], ...]:
    """The plan's groups by the numbers of their requests: those that decode, and each in its first group only."""
    decoding = {s.row: i for i, s in enumerate(plan.segments) if len(s.token_ids) == 1}
    groups = []
    for prefix in plan.shared_prefixes:
        members = tuple(decoding.pop(row) for row in prefix.rows if row in decoding)
        if len(members) > 1:
            groups.append((members, prefix.length))
    return tuple(groups)


def _ints(values: Sequence[int]) -> Ints:
    return np.array(values, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class KvCache:
    """What is kept from step to step: the pool of K and V, and which slots each request's tokens have.

    k, v              [layers, num_slots, kv_heads, head_dim]
    slot_table        [max_rows, max_len] int32
    rotation          of all positions
    k_scale, v_scale  [layers, num_slots, kv_heads] float32, where K and V are quantised
    """

    k: Tensor
    v: Tensor
    slot_table: Tensor
    rotation: Rotation
    k_scale: Tensor | None = None
    v_scale: Tensor | None = None

    @property
    def layers(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]:
        """K, V and their scales, layer by layer."""
        none = [None] * len(self.k)
        k_scales = none if self.k_scale is None else self.k_scale
        v_scales = none if self.v_scale is None else self.v_scale
        return zip(self.k, self.v, k_scales, v_scales, strict=True)

    def read(self, slots: Ints) -> KvArrays:
        """As `KvMemory.read_kv`: floats go as whole numbers of their bits, which numpy has for all."""
        index = torch.from_numpy(slots).to(self.k.device, torch.int64)
        return {
            name: bits.index_select(1, index).cpu().numpy() for name, bits in self._bits.items()
        }

    def write(self, slots: Ints, kv: KvArrays) -> None:
        """As `KvMemory.write_kv`."""
        index = torch.from_numpy(slots).to(self.k.device, torch.int64)
        for name, bits in self._bits.items():
            # A copy: what a store has read may not be written to, which torch warns of.
            values = torch.from_numpy(kv[name].copy())
            bits.index_copy_(1, index, values.to(bits.device))

    def shapes(self, num_tokens: int) -> KvShapes:
        """As `KvMemory.kv_shapes`."""
        return {
            name: (f"i{bits.dtype.itemsize}", (len(bits), num_tokens, *bits.shape[2:]))
            for name, bits in self._bits.items()
        }

    @property
    def _bits(self) -> dict[str, Tensor]:
        """All that a slot has, as whole numbers: float8 cannot be indexed."""
        parts = {"k": self.k, "v": self.v, "k_scale": self.k_scale, "v_scale": self.v_scale}
        return {n: t.view(_BITS[t.dtype.itemsize]) for n, t in parts.items() if t is not None}


def make_cache(
    config: ModelConfig,
    num_slots: int,
    dtype: torch.dtype,
    slot_table: Tensor,
    rotation: Rotation,
) -> KvCache:
    """A pool beside its slot table; untouched memory. `dtype` int8 or float8_e4m3fn: with scales."""
    place = slot_table.device
    shape = (config.num_layers, num_slots, config.num_kv_heads, config.head_dim)
    k, v = (torch.empty(shape, dtype=dtype, device=place) for _ in "kv")
    if not largest_stored(dtype):
        return KvCache(k, v, slot_table, rotation)
    scales = (torch.empty(shape[:-1], dtype=torch.float32, device=place) for _ in "kv")
    return KvCache(k, v, slot_table, rotation, *scales)
