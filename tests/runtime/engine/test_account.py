"""The pool, the tree and the leases under random operations, against slots that remember what was written to them."""

import random
from dataclasses import dataclass, field

import numpy as np
import pytest

from branchwork.runtime.engine.cache import Lease, PrefixCache
from branchwork.runtime.engine.radix import Namespace, Node

SPACES = (Namespace(), Namespace("salt"), Namespace("", 1))


@dataclass(eq=False, slots=True)
class Holder:
    """A request: its tokens, how many are computed, and the lease on its slots."""

    space: Namespace
    tokens: list[int]
    lease: Lease
    computed: int


@dataclass(slots=True)
class Account:
    """A cache whose slots hold the prefix that was computed into them; and all who hold something of it."""

    cache: PrefixCache
    choose: random.Random
    holders: list[Holder] = field(default_factory=list)
    kept: list[Node] = field(default_factory=list)
    contents: dict[int, tuple[Namespace, tuple[int, ...]]] = field(default_factory=dict)

    def tokens(self) -> list[int]:
        return self.choose.choices((0, 1, 2), k=self.choose.randint(1, 10))

    def open(self) -> None:
        space, tokens = self.choose.choice(SPACES), self.tokens()
        view = np.array(tokens, np.int32)
        found = self.cache.find(space, view).length
        lease = Lease(self.cache, space, view)
        assert lease.shared == found
        holder = Holder(space, tokens, lease, lease.shared)
        for place in range(lease.shared):  # what it was lent is what it asked for
            prefix = (space, tuple(tokens[: place + 1]))
            assert self.contents[lease.slots[place]] == prefix
        self.holders.append(holder)

    def compute(self, holder: Holder) -> None:
        """Some more tokens, if there is memory for them."""
        length = min(len(holder.tokens), holder.computed + self.choose.randint(1, 5))
        before = len(holder.lease.slots)
        if not holder.lease.reserve(length, ahead=self.choose.choice((0, 3))):
            assert length - before > self.cache.num_available
            assert len(holder.lease.slots) == before
            return
        for place in range(holder.computed, length):
            slot = holder.lease.slots[place]
            self.contents[slot] = (holder.space, tuple(holder.tokens[: place + 1]))
        holder.computed = length

    def publish(self, holder: Holder) -> None:
        holder.lease.publish(np.array(holder.tokens[: holder.computed], np.int32))

    def close(self, holder: Holder) -> None:
        self.holders.remove(holder)
        node = holder.lease.close(np.array(holder.tokens[: holder.computed], np.int32))
        if self.choose.random() < 0.2 and node.end:
            self.cache.keep(node)
            self.kept.append(node)

    def step(self) -> None:
        """One operation."""
        action = self.choose.random()
        if action < 0.25 and len(self.holders) < 6:
            self.open()
        elif action < 0.28:
            self.cache.flush(self.choose.choice(("", "salt", None)))
        elif action < 0.33 and self.kept:
            self.cache.unkeep(self.kept.pop(self.choose.randrange(len(self.kept))))
        elif self.holders:
            holder = self.choose.choice(self.holders)
            if action < 0.6:
                self.compute(holder)
            elif action < 0.7:
                holder.lease.trim(holder.computed)
            elif action < 0.8:
                self.publish(holder)
            elif action < 0.9:
                holder.tokens.append(self.choose.randint(0, 2))
            else:
                self.close(holder)

    def add_up(self) -> None:
        """free + cached + locked == total, counted from three sides."""
        cache, tree = self.cache, self.cache.tree
        own = sum(len(holder.lease.slots) - holder.lease.shared for holder in self.holders)
        assert 0 <= tree.num_unlocked <= tree.num_tokens
        assert cache.pool.num_free + tree.num_tokens + own == cache.num_total
        assert cache.num_locked == tree.num_tokens - tree.num_unlocked + own

    def recount(self) -> None:
        """The tree equals its recount, no slot is in two places, and every cached slot holds its prefix."""
        self.cache.check([holder.lease for holder in self.holders])
        for space, tokens, slots in self.cache.tree.prefixes():
            for length, slot in enumerate(slots, 1):
                assert self.contents[slot] == (space, tokens[:length])


def drive(seed: int, num_operations: int) -> None:
    choose = random.Random(seed)
    account = Account(PrefixCache(choose.randint(8, 96)), choose)
    for step in range(num_operations):
        account.step()
        account.add_up()
        if step % 500 == 0:
            account.recount()
    for holder in list(account.holders):
        account.close(holder)
    for node in account.kept:
        account.cache.unkeep(node)
    account.cache.flush()
    account.recount()
    assert account.cache.num_free == account.cache.num_total
    assert account.cache.tree._roots == {}


@pytest.mark.parametrize("seed", range(8))
def test_after_thousands_of_operations_every_slot_is_free_cached_or_locked(seed: int) -> None:
    drive(seed, num_operations=1_000)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100, 120))
def test_after_a_million_operations_every_slot_is_free_cached_or_locked(seed: int) -> None:
    drive(seed, num_operations=1_000_000)
