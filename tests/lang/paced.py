"""A scripted backend whose answers come word by word, each when the test lets it come."""

import heapq
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from branchwork.lang.testing.scripted import Script, Scripted

Item = TypeVar("Item")

NEVER_S, SOON_S = 3600.0, 1.0  # an answer of n words has them n-ths of the time apart


class Paced(Scripted):
    """As `Scripted`; after `release` the next event comes."""

    def __init__(self, **answers: Script) -> None:
        super().__init__(answers, delay_s=NEVER_S)

    def release(self) -> None:
        """Let the next event come that is not due by itself; wait until one has been asked for."""
        with self._changed:
            assert self._changed.wait_for(lambda: any(map(self._is_held, self._later)), 60)
            is_held = False
            while not is_held:
                later = heapq.heappop(self._later)
                is_held = self._is_held(later)
                self._now.append(later[2:])
            self._changed.notify_all()

    @staticmethod
    def _is_held(later: Sequence[Any]) -> bool:
        return bool(later[0] > time.monotonic() + SOON_S)

    def one_by_one(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items of a stream, for each of which an event must come."""
        iterator = iter(items)
        while True:
            self.release()
            try:
                yield next(iterator)
            except StopIteration:
                return
