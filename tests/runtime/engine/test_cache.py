import numpy as np

from branchwork.runtime.engine.buffer import Ints
from branchwork.runtime.engine.cache import Lease, PrefixCache
from branchwork.runtime.engine.radix import Namespace

SPACE = Namespace()


def ints(*values: int) -> Ints:
    return np.array(values, np.int32)


def leased(cache: PrefixCache, *tokens: int) -> Lease:
    """A lease with slots for all of its tokens."""
    lease = Lease(cache, SPACE, ints(*tokens))
    assert lease.reserve(len(tokens))
    return lease


def counts(cache: PrefixCache) -> tuple[int, int, int]:
    return cache.num_free, cache.num_cached, cache.num_locked


def test_every_slot_is_free_cached_or_locked() -> None:
    cache = PrefixCache(10)
    lease = leased(cache, 1, 2, 3)
    assert counts(cache) == (7, 0, 3)
    lease.publish(ints(1, 2))
    assert counts(cache) == (7, 0, 3)
    lease.close(ints(1, 2, 3))
    assert counts(cache) == (7, 3, 0)
    cache.check([])


def test_a_later_lease_shares_what_is_cached_and_locks_it() -> None:
    cache = PrefixCache(10)
    leased(cache, 1, 2, 3).close(ints(1, 2, 3))
    lease = Lease(cache, SPACE, ints(1, 2, 9))
    assert lease.shared == 2
    assert counts(cache) == (7, 1, 2)
    cache.check([lease])


def test_allocation_evicts_what_nobody_uses() -> None:
    cache = PrefixCache(4)
    leased(cache, 1, 2, 3).close(ints(1, 2, 3))
    lease = leased(cache, 7, 8, 9)
    assert counts(cache) == (0, 1, 3)
    assert cache.num_evicted == 2
    cache.check([lease])


def test_allocation_is_all_or_nothing() -> None:
    cache = PrefixCache(4)
    first = leased(cache, 1, 2, 3)
    second = Lease(cache, SPACE, ints(7, 8))
    assert not second.reserve(2)
    assert counts(cache) == (1, 0, 3)
    cache.check([first, second])


def test_slots_ahead_are_taken_only_from_what_is_free() -> None:
    cache = PrefixCache(8)
    leased(cache, 1, 2, 3, 4).close(ints(1, 2, 3, 4))
    lease = Lease(cache, SPACE, ints(9))
    assert lease.reserve(1, ahead=10)
    assert len(lease.slots) == 1
    assert lease.reserve(2, ahead=1)
    assert len(lease.slots) == 3
    assert counts(cache) == (1, 4, 3)
    assert lease.trim(2) == 1
    assert counts(cache) == (2, 4, 2)


def test_publishing_what_a_twin_published_first_takes_the_twins_slots() -> None:
    cache = PrefixCache(10)
    first, second = leased(cache, 1, 2, 3), leased(cache, 1, 2, 4)
    first.publish(ints(1, 2, 3))
    replaced = second.publish(ints(1, 2, 4))
    assert replaced is not None
    assert (replaced.start, replaced.slots.tolist()) == (0, first.slots.view(0, 2).tolist())
    assert counts(cache) == (6, 0, 4)
    cache.check([first, second])
    first.close(ints(1, 2, 3))
    second.close(ints(1, 2, 4))
    assert counts(cache) == (6, 4, 0)


def test_closing_with_fewer_tokens_than_are_shared_gives_nothing_away() -> None:
    cache = PrefixCache(10)
    lease = leased(cache, 1, 2, 3, 4)
    lease.publish(ints(1, 2, 3))
    lease.close(ints(1, 2))
    assert counts(cache) == (7, 3, 0)
    cache.check([])


def test_a_disabled_cache_keeps_and_shares_nothing() -> None:
    cache = PrefixCache(10, enabled=False)
    lease = leased(cache, 1, 2, 3)
    assert lease.publish(ints(1, 2, 3)) is None
    lease.close(ints(1, 2, 3))
    assert counts(cache) == (10, 0, 0)
    assert Lease(cache, SPACE, ints(1, 2, 3)).shared == 0


def test_flush_frees_what_is_cached() -> None:
    cache = PrefixCache(10)
    leased(cache, 1, 2, 3).close(ints(1, 2, 3))
    lease = Lease(cache, SPACE, ints(1))
    assert cache.flush() == 2
    assert counts(cache) == (9, 0, 1)
    lease.close(ints(1))
