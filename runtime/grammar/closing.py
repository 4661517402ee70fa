"""The shortest way to an end, when always going towards the nearest one does not lead there.

Unique items and keys that must be new can bar the straight way. Then the places are searched best first (weighted A*,
with the machine's own estimate of what is left), a forced run at a time.
"""

import heapq
import itertools

import numpy as np

from branchwork.runtime.grammar.machine import jump, values
from branchwork.runtime.grammar.machine.program import Bytes, Code, Words
from branchwork.runtime.grammar.machine.stack import MAX_DEPTH
from branchwork.runtime.grammar.masks import Workspace

# Places that are looked at: some 50 ms.
MAX_PLACES = 400
# What is left counts double: to find a short way soon matters more than to find the shortest.
WEIGHT = 2
# Bytes that lead to the same place are tried again where the text matters (they make another key), but not all.
MAX_SAME = 4


def close(code: Code, work: Workspace, text: Bytes, state: Words, pos: int) -> bytes | None:
    """Bytes after which the text may end, from a value of the machine at `pos`; None if none were found."""
    length = jump.closing_run(code, work.words, text, state, pos, work.run)
    if length >= 0:
        return work.run[:length].tobytes()
    search = _Search(code, work, text, pos)
    search.add(b"", state)
    return search.run()


class _Search:
    """Best first over the bytes after `pos`."""

    def __init__(self, code: Code, work: Workspace, text: Bytes, pos: int) -> None:
        self._code, self._work, self._text, self._pos = code, work, text, pos
        self._heap: list[tuple[int, int, int, bytes, Words]] = []
        self._order = itertools.count()

    def add(self, before: bytes, state: Words) -> None:
        """Note a place; of those that promise the same, the one nearer to the end comes first."""
        self._write(before)
        at = self._pos + len(before)
        left = jump.least_cost(self._code, self._work.words, self._text, state, at)
        promise = len(before) + WEIGHT * int(left)
        heapq.heappush(self._heap, (promise, -len(before), next(self._order), before, state))

    def run(self) -> bytes | None:
        """The best whole way."""
        for _ in range(MAX_PLACES):
            if not self._heap:
                return None
            *_, before, state = heapq.heappop(self._heap)
            at = self._pos + len(before)
            self._write(before)
            if values.may_end(self._code, self._work.words, self._text, state, at):
                return before
            if at + 2 * MAX_DEPTH > len(self._text):
                continue
            self._expand(before, state, at)
        return None

    def _expand(self, before: bytes, state: Words, at: int) -> None:
        length = jump.forced_run(
            self._code, self._work.words, self._text, state, at, self._work.run[:256]
        )
        if length:
            run = self._work.run[:length].tobytes()
            following = self._step(before, state, run)
            if following is not None:
                self.add(before + run, following)
            return
        same: dict[bytes, int] = {}
        for byte in range(256):
            following = self._step(before, state, bytes((byte,)))
            if following is None:
                continue
            key = following.tobytes()
            same[key] = same.get(key, 0) + 1
            if same[key] <= (MAX_SAME if following[2] & 2 else 1):
                self.add(before + bytes((byte,)), following)

    def _step(self, before: bytes, state: Words, data: bytes) -> Words | None:
        self._write(before)
        moved = np.frombuffer(data, np.uint8).copy()
        at, work = self._pos + len(before), self._work
        length = values.run(self._code, work.words, self._text, state, moved, at, work.state)
        return work.state[:length].copy() if length > 0 else None

    def _write(self, before: bytes) -> None:
        self._text[self._pos : self._pos + len(before)] = np.frombuffer(before, np.uint8)
