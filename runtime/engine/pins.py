"""Prefixes that stay kept for a time after their branch has been closed."""

from collections.abc import Callable

from branchwork.runtime.engine.cache import PrefixCache
from branchwork.runtime.engine.radix import Node

# Pinned prefixes together are at most this part of the pool: the rest is for those that run and those that live.
SHARE_OF_POOL = 0.5

MAX_PINS = 1024


class Pins:
    """Each pin is one `keep` of the cache until its time is over: like a live program's prefix, it goes last.

    A pin never takes memory from a running request. Where there are too many, those that would end first go.
    """

    def __init__(self, cache: PrefixCache, clock: Callable[[], float]) -> None:
        self._cache = cache
        self._clock = clock
        self._until: dict[Node, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def add(self, node: Node, seconds: float) -> None:
        """Keep the prefix that ends with `node`; a pin that is there already is made longer, never shorter."""
        until = self._clock() + seconds
        known = self._until.get(node)
        if known is None:
            self._cache.keep(node)
        self._until[node] = until if known is None else max(known, until)
        most = int(self._cache.num_total * SHARE_OF_POOL)
        while len(self._until) > MAX_PINS or sum(one.end for one in self._until) > most:
            self._remove(min(self._until, key=self._until.__getitem__))

    def expire(self) -> None:
        """End the pins whose time is over."""
        now = self._clock()
        for node in [one for one, until in self._until.items() if until <= now]:
            self._remove(node)

    def _remove(self, node: Node) -> None:
        del self._until[node]
        self._cache.unkeep(node)
