"""What a device knows from one step to the next, and what the host knows of it: only what has changed is sent."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from branchwork.kernels import api as kernels
from branchwork.runtime.grammar.token_machine import MAX_CELLS, MAX_STATES, TokenMachine
from branchwork.runtime.models.device import Device, Uploads
from branchwork.runtime.plan import CHOSEN, Place, Plan, Sample, Segment, Slots

Ints = npt.NDArray[np.int32]

_KEEP = -(2**31)
"""In a line that is sent for a row: what the device has there stays."""


class SlotTable:
    """The slot table on the device, and the same on the host to compare with."""

    def __init__(self, device: Device, uploads: Uploads, max_rows: int, max_len: int) -> None:
        self.tensor = torch.zeros(max_rows, max_len, dtype=torch.int32, device=device.where)
        self._known = np.zeros((max_rows, max_len), np.int32)
        self._uploads = uploads
        self._changed: list[npt.NDArray[np.int64]] = []

    def put(self, row: int, start: int, slots: Slots) -> None:
        """Have these slots there from the next `send` on."""
        line = self._known[row, start : start + len(slots)]
        differs = np.flatnonzero(line != slots)
        if len(differs):
            line[:] = slots
            self._changed.append(row * self._known.shape[1] + start + differs)

    def send(self) -> None:
        """Send what has been put."""
        if self._changed:
            places = np.unique(
                np.concatenate(self._changed)
            )  # a place that was put twice has its last value
            self._changed = []
            copy = self._uploads.copy
            values = copy(self._known.reshape(-1)[places])
            self.tensor.view(-1).index_copy_(0, copy(places), values)


class Masks:
    """Lines of packed bits over the vocabulary: those of the machines' states, and one of its own for each row."""

    def __init__(
        self, device: Device, uploads: Uploads, num_machines: int, max_rows: int, num_ids: int
    ) -> None:
        self._first = num_machines * MAX_STATES
        self._words = -(-num_ids // 32)
        self._uploads = uploads
        lines = self._first + max_rows
        self.tensor = torch.zeros(lines, self._words, dtype=torch.int32, device=device.where)
        self._bans: dict[
            int, tuple[int, ...]
        ] = {}  # what a row's line forbids, if it allows all else
        self._lines: list[int] = []
        self._values: list[Ints] = []

    def line_of(self, row: int, sample: Sample) -> int:
        """The line under which the row's next token is chosen; below 0: any may follow."""
        banned = (*sample.sampler.banned, *sample.banned)
        if sample.mask is None and not banned:
            return -1
        line = self._first + row
        if sample.mask is None and self._bans.get(row) == banned:
            return line
        self._bans.pop(row, None)
        if sample.mask is None:
            value = np.full(self._words, -1, np.int32)
            self._bans[row] = banned
        else:
            value = sample.mask[: self._words].copy()
        for token in banned:
            if 0 <= token < 32 * self._words:
                value.view(np.uint32)[token >> 5] &= np.uint32(0xFFFF_FFFF ^ 1 << (token & 31))
        self._lines.append(line)
        self._values.append(value)
        return line

    def send(self) -> None:
        """Send the lines that have changed."""
        if self._lines:
            copy = self._uploads.copy
            lines = copy(np.array(self._lines, np.int64))
            self.tensor.index_copy_(0, lines, copy(np.stack(self._values)))
            self._lines, self._values = [], []


class DeviceMachines:
    """Token machines on the device, each in a block of its own."""

    def __init__(
        self, device: Device, uploads: Uploads, num_blocks: int, num_ids: int, masks: Masks
    ) -> None:
        self._uploads = uploads
        self._num_ids = num_ids
        self._masks = masks.tensor
        self._held: list[TokenMachine | None] = [None] * num_blocks
        blocks = torch.arange(max(1, num_blocks), device=device.where)
        sizes = len(blocks) * num_ids, len(blocks) * MAX_CELLS, len(blocks) * MAX_STATES
        self.automata = kernels.Automata(
            class_of=torch.zeros(sizes[0], dtype=torch.int16, device=device.where),
            next_state=torch.full((sizes[1],), -1, dtype=torch.int32, device=device.where),
            flags=torch.zeros(sizes[2], dtype=torch.int8, device=device.where),
            class_start=blocks * num_ids,
            next_start=blocks * MAX_CELLS,
            num_classes=torch.zeros_like(blocks, dtype=torch.int32),
            state_start=(blocks * MAX_STATES).int(),
        )

    def hold(self, place: Place) -> None:
        """Have the place's machine in its block."""
        block, machine = place.block, place.machine
        if self._held[block] is machine:
            return
        assert place.state is not None, "a machine was taken from under a request"
        self._held[block] = machine
        automata, copy = self.automata, self._uploads.copy
        num_states, num_classes = machine.next_state.shape
        flags = kernels.DONE * machine.is_done + kernels.FORCED * machine.is_forced
        first = block * MAX_STATES
        words = self._masks.shape[1]
        self._masks[first : first + num_states] = copy(machine.masks[:, :words])
        automata.flags[first : first + num_states] = copy(flags.astype(np.int8))
        classes = machine.class_of[: self._num_ids]
        at = block * self._num_ids
        automata.class_of[at : at + len(classes)] = copy(classes)
        cells = block * MAX_CELLS
        automata.next_state[cells : cells + num_states * num_classes] = copy(
            machine.next_state.reshape(-1)
        )
        automata.num_classes[block : block + 1] = copy(np.array([num_classes], np.int32))


class DeviceState:
    """Slot table, rows, masks and machines. `send` brings them to where a plan's step needs them."""

    def __init__(
        self,
        device: Device,
        uploads: Uploads,
        max_rows: int,
        max_len: int,
        num_ids: int,
        num_machines: int,
    ) -> None:
        self.table = SlotTable(device, uploads, max_rows, max_len)
        self.masks = Masks(device, uploads, num_machines, max_rows, num_ids)
        self.machines = DeviceMachines(device, uploads, num_machines, num_ids, self.masks)
        self._lines = torch.zeros(4, max_rows + 1, dtype=torch.int32, device=device.where)
        self._lines[3] = -1
        self.rows = kernels.RowState.of(self._lines)
        self._uploads = uploads
        self._mask_row: dict[int, int] = {}  # by row: what the host knows to stand there

    def send(self, plan: Plan) -> None:
        """Everything that the device cannot know by itself."""
        for write in plan.table_writes:
            self.table.put(write.row, write.start, write.slots)
        for segment in plan.segments:
            self.table.put(segment.row, segment.start, segment.slots)
        self.table.send()
        # A guess is checked under masks of its own, and nothing is known of what comes after it.
        lines = [
            (segment.row, self._line(segment, segment.sample))
            for segment in plan.segments
            if segment.sample is not None and not segment.guessed
        ]
        self.masks.send()
        self._send_rows([(row, line) for row, line in lines if line.count(_KEEP) < len(line)])

    def _line(self, segment: Segment, sample: Sample) -> tuple[int, int, int, int]:
        """What the device is to know of a row: token, position, state, line of the masks."""
        token = position = state = mask_row = _KEEP
        if segment.token_ids != (CHOSEN,):
            token = segment.token_ids[-1]
            position = segment.start + len(segment.token_ids) - 1
        place = sample.place
        if place is None:
            mask_row = self.masks.line_of(segment.row, sample)
            if self._mask_row.get(segment.row) == mask_row:
                mask_row = _KEEP
            else:
                self._mask_row[segment.row] = mask_row
            return token, position, state, mask_row
        self._mask_row.pop(segment.row, None)
        self.machines.hold(place)
        if place.state is not None:
            state = place.state
            mask_row = place.block * MAX_STATES + place.state
        return token, position, state, mask_row

    def _send_rows(self, lines: Sequence[tuple[int, tuple[int, int, int, int]]]) -> None:
        if not lines:
            return
        copy = self._uploads.copy
        rows = copy(np.array([row for row, _ in lines], np.int64))
        values = copy(np.array([line for _, line in lines], np.int32).T)
        kept = torch.where(values == _KEEP, self._lines[:, rows], values)
        self._lines.index_copy_(1, rows, kept)
