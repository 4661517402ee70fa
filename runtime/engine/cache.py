"""The KV pool and the prefix tree as one account of memory, and what one request holds of it.

    free + cached + locked == total      (slots, after every step)

free: in the pool · cached: in the tree, evictable · locked: in the tree under a running request, or a request's own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from branchwork.runtime.engine.buffer import IntBuffer, Ints
from branchwork.runtime.engine.pool import SlotPool
from branchwork.runtime.engine.radix import Found, Namespace, Node, RadixTree

# A full pool is asked for a few slots in every step: some more are evicted at a time, if they are a small part.
EVICTED_AT_ONCE = 256

_EMPTY: Ints = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class Replaced:
    """Positions [start, start + len(slots)) of a request lie in other slots than before."""

    start: int
    slots: Ints


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
        missing = count - self.num_free
        if missing > 0:
            count_evicted = max(missing, min(EVICTED_AT_ONCE, self.num_cached // 16))
            slots = self.tree.evict(count_evicted, self.on_evict)
            self.num_evicted += len(slots)
            self.pool.free(slots)
        return self.pool.allocate(count)

    def keep(self, node: Node) -> None:
        """Evict the node's prefix after all that nobody keeps."""
        self.tree.keep(node)

    def unkeep(self, node: Node) -> None:
        """Undo one `keep`."""
        self.tree.unkeep(node)

    def flush(self, namespace: Namespace | None = None) -> int:
        """Forget every prefix that is not in use; returns how many slots became free."""
        slots = self.tree.flush(namespace)
        self.pool.free(slots)
        return len(slots)

    def check(self, leases: "list[Lease]") -> None:
        """Assert that every slot is in exactly one place: the pool, the tree, or one of all open leases."""
        self.pool.check()
        self.tree.check()
        own = sum(len(lease.slots) - lease.shared for lease in leases)
        assert self.num_free + self.tree.num_tokens + own == self.num_total, "slots are missing"
        locked_in_tree = self.tree.num_tokens - self.tree.num_unlocked
        assert self.num_locked == locked_in_tree + own
        used = np.zeros(self.num_total, np.int32)
        for lease in leases:
            used[lease.slots.view(lease.shared, len(lease.slots))] += 1
            if self.enabled:
                in_tree = self.tree.slots_of(lease.node)
                assert (lease.slots.view(0, lease.shared) == in_tree).all()
        assert used.max(initial=0) <= 1, "a slot is lent twice"


class Lease:
    """The slots of one running request, one for each position from 0 on.

    Positions [0, shared) belong to the tree and are locked; the others are the request's own. `node` is the
    end of the shared part. A lease ends with `close`, exactly once.
    """

    __slots__ = ("_cache", "_namespace", "node", "shared", "slots")

    def __init__(self, cache: PrefixCache, namespace: Namespace, token_ids: Ints) -> None:
        """Take the longest cached prefix of `token_ids`."""
        self._cache = cache
        self._namespace = namespace
        self.node = cache.tree.match(namespace, token_ids if cache.enabled else _EMPTY)
        self.shared = self.node.end
        self.slots = IntBuffer(cache.tree.slots_of(self.node))

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
        self._cache.pool.free(surplus)
        self.slots.truncate(length)
        return len(surplus)

    def publish(self, token_ids: Ints) -> Replaced | None:
        """Give the computed K/V of these tokens (all from position 0) to the tree, so that others share it.

        Where another request was first, its slots take the place of ours. The whole is locked for us after it.
        """
        if not self._cache.enabled or len(token_ids) <= self.shared:
            return None
        tree, length = self._cache.tree, len(token_ids)
        node, known = tree.insert(self._namespace, token_ids, self.slots.view(0, length))
        tree.lock(node)
        tree.unlock(self.node)
        replaced = None
        if known > self.shared:
            ours = self.slots.view(self.shared, known)
            theirs = tree.slots_of(node, self.shared)[: known - self.shared]
            self._cache.pool.free(ours.copy())
            ours[:] = theirs
            replaced = Replaced(self.shared, theirs)
        self.node, self.shared = node, length
        return replaced

    def close(self, token_ids: Ints) -> Node:
        """Leave the computed K/V of these tokens to the tree and give all else back; returns where they end."""
        self.publish(token_ids)
        self.trim(self.shared)
        self._cache.tree.unlock(self.node)
        return self.node
