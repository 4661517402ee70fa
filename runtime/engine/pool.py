"""Which slots of the KV pool are free."""

from bisect import bisect_left, insort

import numpy as np
import numpy.typing as npt

from branchwork.runtime.engine.buffer import Ints


class SlotPool:
    """Hands out slots 0 … num_slots - 1, in contiguous runs where it can.

    Contiguous slots make the gather of a request's K/V mostly slices. Free slots are kept as maximal
    runs; an allocation takes the smallest run that holds it (best fit), else the largest runs first.
    """

    def __init__(self, num_slots: int, is_used: npt.NDArray[np.bool_] | None = None) -> None:
        """All slots are free but those that `is_used` marks."""
        self.num_slots = num_slots
        self.num_free = 0
        self._is_free = np.zeros(num_slots, np.bool_)
        self._by_length: list[tuple[int, int]] = []  # sorted (length, start), one for each free run
        self._end_of: dict[int, int] = {}  # start of a free run -> its end
        self._start_of: dict[int, int] = {}  # end of a free run -> its start
        slots = np.arange(num_slots, dtype=np.int32)
        self._put_back(slots if is_used is None else slots[~is_used])

    def allocate(self, count: int) -> Ints | None:
        """`count` slots, or None, and nothing changes, when fewer are free."""
        if count > self.num_free:
            return None
        index = bisect_left(self._by_length, (count,))
        if index < len(self._by_length):
            slots = self._take(self._by_length[index], count)
        else:
            parts = []
            while count > 0:
                longest = self._by_length[-1]
                parts.append(self._take(longest, min(count, longest[0])))
                count -= len(parts[-1])
            slots = np.concatenate(parts)
        self._is_free[slots] = False
        self.num_free -= len(slots)
        return slots

    def free(self, slots: Ints) -> None:
        """Take back slots that `allocate` gave."""
        if len(slots) == 0:
            return
        assert not self._is_free[slots].any(), f"slots freed twice: {slots[self._is_free[slots]]}"
        self._put_back(slots)

    def _put_back(self, slots: Ints) -> None:
        if len(slots) == 0:
            return
        self._is_free[slots] = True
        self.num_free += len(slots)
        cuts = (np.flatnonzero(slots[1:] != slots[:-1] + 1) + 1).tolist()
        for first, last in zip([0, *cuts], [*cuts, len(slots)], strict=True):
            self._add_run(int(slots[first]), int(slots[last - 1]) + 1)

    def check(self) -> None:
        """Assert that the runs, the flags and the count say the same."""
        flags = np.zeros(self.num_slots, np.bool_)
        for length, start in self._by_length:
            assert self._end_of[start] == start + length, (start, length)
            assert self._start_of[start + length] == start, (start, length)
            assert not flags[max(0, start - 1) : start + length + 1].any(), "runs touch"
            flags[start : start + length] = True
        assert len(self._by_length) == len(self._end_of) == len(self._start_of)
        assert self._by_length == sorted(self._by_length)
        assert (flags == self._is_free).all()
        assert self.num_free == int(flags.sum())

    def _take(self, run: tuple[int, int], count: int) -> Ints:
        """The head of a free run; its rest stays free."""
        length, start = run
        self._drop_run(start, start + length)
        if count < length:
            self._put_run(start + count, start + length)
        return np.arange(start, start + count, dtype=np.int32)

    def _add_run(self, start: int, end: int) -> None:
        """Add a free run and join it with its neighbours."""
        before = self._start_of.get(start)
        if before is not None:
            self._drop_run(before, start)
            start = before
        after = self._end_of.get(end)
        if after is not None:
            self._drop_run(end, after)
            end = after
        self._put_run(start, end)

    def _put_run(self, start: int, end: int) -> None:
        insort(self._by_length, (end - start, start))
        self._end_of[start] = end
        self._start_of[end] = start

    def _drop_run(self, start: int, end: int) -> None:
        del self._by_length[bisect_left(self._by_length, (end - start, start))]
        del self._end_of[start]
        del self._start_of[end]
