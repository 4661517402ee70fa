"""The KV pool and the prefix tree as one account of memory, and what one request holds of it.

    free + cached + locked == total      (slots, after every step)

free: in the pool · cached: in the tree, evictable · locked: in the tree under a running request, or a request's own.

Whatever fails in the midst of a change, the account is whole afterwards: `mend` makes it anew from the tree's nodes,
the open leases and what is kept.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from branchwork.runtime.engine.buffer import IntBuffer, Ints
from branchwork.runtime.engine.pool import SlotPool
from branchwork.runtime.engine.radix import Found, Namespace, Node, RadixTree

log = logging.getLogger(__name__)

# A full pool is asked for a few slots in every step: some more are evicted at a time, if they are a small part.
EVICTED_AT_ONCE = 256

_EMPTY: Ints = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class Replaced:
    """Positions [start, start + len(slots)) of a request lie in other slots than before."""

    start: int
    slots: Ints


class Guard:
    """`with` it around a change: what fails goes on as it is, after the account has been made whole."""

    __slots__ = ("_cache",)

    def __init__(self, cache: "PrefixCache") -> None:
        self._cache = cache

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, Exception):
            self._cache.mend()


class PrefixCache:
    """All slots of the pool: those that are free, those in the tree, and those lent to requests.

    `enabled` False: nothing is kept and nothing is shared; every request computes all of its tokens.
    `on_evict` hears what is about to be evicted: a leaf, and how many of its tokens stay.
    """

    def __init__(self, num_slots: int, enabled: bool = True) -> None:
        self.enabled = enabled
        self.pool = SlotPool(num_slots)
        self.tree = RadixTree()
        self.num_evicted = 0
        self.on_evict: Callable[[Node, int], None] | None = None
        self.leases: set[Lease] = set()  # the open ones
        self.guard = Guard(self)
        self._kept: Counter[Node] = Counter()

    @property
    def num_total(self) -> int:
        """Slots there are."""
        return self.pool.num_slots

    @property
    def num_free(self) -> int:
        """Slots that hold nothing."""
        return self.pool.num_free

    @property
    def num_cached(self) -> int:
        """Slots that hold a prefix nobody uses at the moment."""
        return self.tree.num_unlocked

    @property
    def num_locked(self) -> int:
        """Slots in use by running requests."""
        return self.num_total - self.num_free - self.num_cached

    @property
    def num_available(self) -> int:
        """Slots that could be allocated at once."""
        return self.num_free + self.num_cached

    def find(self, namespace: Namespace, token_ids: Ints) -> Found:
        """The longest cached prefix; a look, not a hold."""
        return self.tree.find(namespace, token_ids) if self.enabled else Found(None, 0)

    def allocate(self, count: int) -> Ints | None:
        """`count` slots, from what is free and then by eviction; None, and nothing changes, if there are fewer."""
        if count > self.num_available:
            return None
        with self.guard:
            missing = count - self.num_free
            if missing > 0:
                count_evicted = max(missing, min(EVICTED_AT_ONCE, self.num_cached // 16))
                slots = self.tree.evict(count_evicted, self.on_evict)
                self.num_evicted += len(slots)
                self.pool.free(slots)
            return self.pool.allocate(count)

    def keep(self, node: Node) -> None:
        """Evict the node's prefix after all that nobody keeps. Never raises."""
        self._kept[node] += 1
        try:
            self.tree.keep(node)
        except Exception:
            log.exception("a prefix is kept after a fault")
            self.mend()

    def unkeep(self, node: Node) -> None:
        """Undo one `keep`. Never raises."""
        self._kept[node] -= 1
        if not self._kept[node]:
            del self._kept[node]
        try:
            self.tree.unkeep(node)
        except Exception:
            log.exception("a prefix is let go after a fault")
            self.mend()

    def flush(self, salt: str | None = None) -> int:
        """Forget every prefix that is not in use, of one salt or of all; returns how many slots became free."""
        with self.guard:
            slots = self.tree.flush(salt)
            self.pool.free(slots)
        return len(slots)

    def mend(self) -> None:
        """Make the account anew after a fault: a slot is free that is neither in the tree nor an open lease's own."""
        self.tree.recount([lease.node for lease in self.leases], self._kept)
        is_used = np.zeros(self.num_total, np.bool_)
        for node in self.tree.nodes():
            is_used[node.slots] = True
        for lease in self.leases:
            is_used[lease.own] = True
        self.pool = SlotPool(self.num_total, is_used)

    def check(self, leases: "list[Lease]") -> None:
        """Assert that every slot is in exactly one place: the pool, the tree, or one of all open leases."""
        assert self.leases == set(leases), "a lease is nobody's"
        self.pool.check()
        self.tree.check()
        own = sum(len(lease.own) for lease in leases)
        assert self.num_free + self.tree.num_tokens + own == self.num_total, "slots are missing"
        locked_in_tree = self.tree.num_tokens - self.tree.num_unlocked
        assert self.num_locked == locked_in_tree + own
        used = np.zeros(self.num_total, np.int32)
        for lease in leases:
            used[lease.own] += 1
            if self.enabled:
                in_tree = self.tree.slots_of(lease.node)
                assert (lease.slots.view(0, lease.shared) == in_tree).all()
        assert used.max(initial=0) <= 1, "a slot is lent twice"


class Lease:
    """The slots of one running request, one for each position from 0 on.

    Positions [0, shared) belong to the tree and are locked; the others are the request's own. `node` is the
    end of the shared part. A lease ends with `close`; `publish`, when it raises, has ended it.
    """

    __slots__ = ("_cache", "node", "shared", "slots")

    def __init__(
        self,
        cache: PrefixCache,
        namespace: Namespace,
        token_ids: Ints,
        found: Found | None = None,
    ) -> None:
        """Take the longest cached prefix of `token_ids`: `found`, if `cache.find` has just told it."""
        if found is None or not cache.enabled:
            found = cache.find(namespace, token_ids)
        tree = cache.tree
        slots = tree.slots_of(found.node) if found.node is not None else _EMPTY
        self._cache = cache
        self.slots = IntBuffer(slots[: found.length])
        self.shared = found.length
        with cache.guard:
            self.node = tree.hold(namespace, found)
        cache.leases.add(self)

    @property
    def own(self) -> Ints:
        """The slots that are not the tree's."""
        return self.slots.view(self.shared, self.slots.length)

    def reserve(self, length: int, ahead: int = 0) -> bool:
        """Have slots for the first `length` positions; False, and nothing changes, if there is no memory.

        When slots must be allocated and enough are free, `ahead` more are taken, so that a growing
        request asks seldom and lies in long runs.
        """
        missing = length - self.slots.length
        if missing <= 0:
            return True
        if missing + ahead <= self._cache.num_free:
            missing += ahead
        slots = self._cache.allocate(missing)
        if slots is None:
            return False
        self.slots.extend(slots)
        return True

    def trim(self, length: int) -> int:
        """Give back own slots of positions from `length` on; returns how many."""
        length = max(length, self.shared)
        surplus = self.slots.view(length, len(self.slots)).copy()
        with self._cache.guard:
            self._cache.pool.free(surplus)
        self.slots.truncate(length)
        return len(surplus)

    def publish(self, token_ids: Ints) -> Replaced | None:
        """Give the computed K/V of these tokens (all from position 0) to the tree, so that others share it.

        Where another request was first, its slots take the place of ours. The whole is locked for us after it.
        """
        if not self._cache.enabled or len(token_ids) <= self.shared:
            return None
        try:
            return self._publish(token_ids)
        except Exception:
            self.abandon()
            raise

    def _publish(self, token_ids: Ints) -> Replaced | None:
        tree, start, length = self._cache.tree, self.shared, len(token_ids)
        slots = self.slots.view(start, length)
        node, known = tree.extend(self.node, token_ids[start:], slots)
        self.node, self.shared = node, length
        if not known:
            return None
        ours = slots[:known]
        theirs = tree.slots_of(node, start)[:known]
        self._cache.pool.free(ours.copy())
        ours[:] = theirs
        return Replaced(start, theirs)

    def close(self, token_ids: Ints) -> Node | None:
        """Leave the computed K/V of these tokens to the tree and give all else back; returns where they end.

        Never raises: what cannot be left to the tree is free, and that is all that is lost by it (None then, and also
        if the lease has ended before).
        """
        if self not in self._cache.leases:
            return None
        try:
            self.publish(token_ids)
            self.trim(self.shared)
            self._cache.tree.unlock(self.node)
        except Exception:  # the boundary: the request has what it wanted
            log.exception("K/V was not left to the cache")
            self.abandon()
            return None
        self._cache.leases.discard(self)
        return self.node

    def abandon(self) -> None:
        """Give all back, whatever state the account is in. O(slots)."""
        self._cache.leases.discard(self)
        self._cache.mend()
