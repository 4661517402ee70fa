"""A scripted backend whose answers come word by word, each when the test lets it come."""

import heapq
from collections.abc import Iterable, Iterator
from typing import TypeVar

from branchwork.lang.testing.scripted import Script, Scripted

Item = TypeVar("Item")

NEVER_S = 3600.0


class Paced(Scripted):
    """As `Scripted`; after `release` the next event comes."""

    def __init__(self, **answers: Script) -> None:
        super().__init__(answers, delay_s=NEVER_S)

    def release(self) -> None:
        """Let the next event come; wait until one has been asked for."""
        with self._changed:
            assert self._changed.wait_for(lambda: bool(self._later), 60)
            _, _, listener, event = heapq.heappop(self._later)
            self._now.append((listener, event))
            self._changed.notify_all()

    def one_by_one(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items of a stream, for each of which an event must come."""
        iterator = iter(items)
        while True:
            self.release()
            try:
                yield next(iterator)
            except StopIteration:
                return
