"""A decode step as one launch: from the rows' states to the tokens that are chosen, and the rows' next states.

    rows' states → lanes → embeddings → layers → logits → choice → machines → rows' states

All buffers stay where they are, so on a GPU the whole is a captured graph. The host writes who is in which lane when
that changes, and nothing in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from branchwork.kernels import api as kernels
from branchwork.runtime.models.batch import BatchTensors, KvCache
from branchwork.runtime.models.decoder import Decoder
from branchwork.runtime.models.device import Array, Device, Uploads
from branchwork.runtime.models.device_state import DeviceState
from branchwork.runtime.plan import Sampler, Segment

MAX_GROUPS = 8
"""Shared prefixes of a step that attention reads once, at most; a group that is not there costs next to nothing."""

Groups = Sequence[tuple[tuple[int, ...], int]]


@dataclass(frozen=True, slots=True)
class Workspaces:
    """What all programs work in, one at a time."""

    attention: kernels.AttentionWorkspace
    sampling: kernels.SamplingWorkspace


class Controls:
    """What the host decides of each lane, as one block of memory that is sent whole; see `_LAYOUT`.

    `tensors` are the parts on the device. An unused lane computes the line after the last row.
    """

    def __init__(self, num_lanes: int, num_groups: int, num_rows: int, device: Device) -> None:
        self._num_lanes, self._num_groups, self._num_rows = num_lanes, num_groups, num_rows
        sizes = [2 * num_lanes, *[num_lanes] * 9, num_groups + 1, num_groups]
        self._ends = list(accumulate(sizes))
        self._host = np.zeros(self._ends[-1], np.int32)
        self._there = torch.zeros(self._ends[-1], dtype=torch.int32, device=device.where)
        starts = [0, *self._ends[:-1]]
        parts = [self._there[a:b] for a, b in zip(starts, self._ends, strict=True)]
        self.seed = parts[0].view(torch.int64)
        self.row, self.grammar, self.top_k, self.members, self.shared_len = parts[1:6]
        self.temperature, self.top_p, self.min_p = (part.view(torch.float32) for part in parts[6:9])
        self.adapter, self.group_start, self.group_len = parts[9:]

    def fill(self, segments: Sequence[Segment], groups: Groups) -> Array:
        """The block for these requests, on the host."""
        num, lanes = len(segments), self._num_lanes
        samplers = [segment.sample.sampler for segment in segments if segment.sample is not None]
        host = self._host
        host[:] = 0
        starts = [0, *self._ends[:-1]]
        parts = [host[a:b] for a, b in zip(starts, self._ends, strict=True)]
        seeds = [sampler.seed & 0xFFFF_FFFF_FFFF_FFFF for sampler in samplers]
        parts[0].view(np.int64)[:num] = np.array(seeds, np.uint64).view(np.int64)
        row, grammar, top_k, members, shared_len = parts[1:6]
        temperature, top_p, min_p = (part.view(np.float32) for part in parts[6:9])
        row[:], grammar[:], top_p[:] = self._num_rows, -1, 1.0
        row[:num] = [segment.row for segment in segments]
        grammar[:num] = [_block(segment) for segment in segments]
        top_k[:num] = [sampler.top_k for sampler in samplers]
        temperature[:num] = [sampler.temperature for sampler in samplers]
        top_p[:num] = [sampler.top_p for sampler in samplers]
        min_p[:num] = [sampler.min_p for sampler in samplers]
        assert num <= lanes
        groups = sorted(groups, key=lambda group: -(len(group[0]) - 1) * group[1])
        groups = groups[: self._num_groups]
        in_order = [member for group, _ in groups for member in group]
        members[: len(in_order)] = in_order
        adapter, group_start, group_len = parts[9:]
        adapter[:num] = [segment.adapter for segment in segments]
        for number, (group, length) in enumerate(groups):
            shared_len[list(group)] = length
            group_len[number] = length
            group_start[number + 1 :] += len(group)
        return host

    def send(self, block: Array, uploads: Uploads) -> None:
        """Put a block where the program reads it."""
        self._there.copy_(uploads.copy(block))


def _block(segment: Segment) -> int:
    place = segment.sample.place if segment.sample is not None else None
    return -1 if place is None else place.block


class DecodeProgram:
    """Steps of up to `num_lanes` requests with one new token each, over the state that the device keeps.

    `shares`: some of them read a prefix together. `adapted`: some have an adapter; without, none costs anything.
    """

    def __init__(
        self,
        num_lanes: int,
        num_ids: int,
        decoder: Decoder,
        cache: KvCache,
        state: DeviceState,
        workspaces: Workspaces,
        device: Device,
        shares: bool,
        captured: bool = True,
        adapted: bool = False,
    ) -> None:
        def ints(dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(num_lanes, dtype=dtype, device=device.where)

        num_groups = min(MAX_GROUPS, num_lanes // 2) if shares else 0
        num_rows = len(cache.slot_table)
        self.chosen = ints()
        self._num_ids = num_ids
        self._decoder, self._cache, self._state = decoder, cache, state
        self._workspaces = workspaces
        self._controls = controls = Controls(num_lanes, num_groups, num_rows, device)
        self._who: tuple[tuple[int, Sampler, int, int], ...] | None = None
        self._groups: Groups = ()
        self._lanes = lanes = kernels.make_lanes(controls.row)
        self._places = kernels.Places(
            controls.grammar, lanes.state, lanes.mask_row, ints(torch.int8), ints(torch.int8)
        )
        shared = kernels.SharedPrefixes(
            controls.group_start, controls.members, controls.group_len, controls.shared_len
        )
        self._batch = BatchTensors(
            lanes.token, lanes.position, lanes.slot, lanes.row,
            torch.arange(num_lanes + 1, dtype=torch.int32, device=device.where), lanes.kv_len,
            workspaces.attention, 1, shared if num_groups else None,
            kernels.make_adapter_rows(decoder.adapters, num_lanes, device.where)
            if adapted and decoder.adapters is not None else None,
        )  # fmt: skip
        plain = torch.zeros(num_lanes, device=device.where)
        self._rows = kernels.DeviceRows(
            controls.temperature, controls.top_p, controls.min_p, controls.top_k, plain + 1, plain, plain,
            controls.seed, lanes.drawn_at, state.masks.tensor, lanes.mask_row, None, None, None,
        )  # fmt: skip
        controls.send(controls.fill((), ()), Uploads(device, 0))
        self._work = device.capture(self._compute) if captured else self._compute

    def run(self, segments: Sequence[Segment], groups: Groups, uploads: Uploads) -> Tensor:
        """Compute a step of these requests, in this order; the chosen tokens are there until the next run."""
        who = tuple(
            (s.row, s.sample.sampler, _block(s), s.adapter)
            for s in segments
            if s.sample is not None
        )
        if who != self._who or groups != self._groups:
            self._controls.send(self._controls.fill(segments, groups), uploads)
            self._who, self._groups = who, groups
        self._work()
        return self.chosen[: len(segments)]

    def _compute(self) -> None:
        state, lanes = self._state, self._lanes
        kernels.fill_lanes(state.rows, self._cache.slot_table, lanes)
        if self._batch.adapted is not None:
            kernels.group_rows(self._controls.adapter, self._batch.adapted)
        hidden = self._decoder.forward(self._batch, self._cache)
        logits = self._decoder.logits(self._decoder.normed(hidden))
        kernels.sample_on_device(
            logits[:, : self._num_ids], self._rows, self.chosen, self._workspaces.sampling
        )
        kernels.fsm_advance(self.chosen, state.machines.automata, self._places)
        kernels.advance_rows(self.chosen, lanes, state.rows)
