"""The prefix tree: small exact cases, and a state machine against a dictionary of prefixes."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests import make_tree

from branchwork.runtime.engine.buffer import Ints
from branchwork.runtime.engine.radix import Namespace, Node, RadixTree

A, B = Namespace("a"), Namespace("b")
A_ADAPTED = Namespace("a", 1)


def ints(values: "list[int] | tuple[int, ...]") -> Ints:
    return np.array(values, np.int32)


def insert(tree: RadixTree, tokens: list[int], slots: list[int], space: Namespace = A) -> Node:
    return make_tree.insert(tree, space, ints(tokens), ints(slots))[0]


def found(tree: RadixTree, tokens: list[int], space: Namespace = A) -> list[int]:
    """The slots of the longest cached prefix."""
    node = make_tree.match(tree, space, ints(tokens))
    slots = tree.slots_of(node).tolist()
    tree.unlock(node)
    assert tree.find(space, ints(tokens)).length == len(slots)
    return slots  # type: ignore[no-any-return]


def test_a_prefix_is_found_with_its_slots() -> None:
    tree = RadixTree()
    insert(tree, [1, 2, 3], [10, 11, 12])
    assert found(tree, [1, 2, 3, 4]) == [10, 11, 12]
    assert found(tree, [1, 2]) == [10, 11]
    assert found(tree, [2]) == []


def test_insert_says_how_much_was_known_and_keeps_the_old_slots() -> None:
    tree = RadixTree()
    insert(tree, [1, 2, 3], [10, 11, 12])
    node, known = make_tree.insert(tree, A, ints([1, 2, 4]), ints([20, 21, 22]))
    assert known == 2
    assert node.end == 3
    assert found(tree, [1, 2, 4]) == [10, 11, 22]
    assert tree.num_tokens == 4


def test_inserting_a_prefix_of_what_is_cached_adds_nothing() -> None:
    tree = RadixTree()
    insert(tree, [1, 2, 3], [10, 11, 12])
    node, known = make_tree.insert(tree, A, ints([1, 2]), ints([20, 21]))
    assert (node.end, known, tree.num_tokens) == (2, 2, 3)


def test_namespaces_share_nothing() -> None:
    tree = RadixTree()
    insert(tree, [1, 2], [10, 11], A)
    assert found(tree, [1, 2], B) == []
    insert(tree, [1, 2], [20, 21], B)
    assert found(tree, [1, 2], A) == [10, 11]
    assert found(tree, [1, 2], B) == [20, 21]


def test_eviction_takes_the_least_recently_used_leaf_first() -> None:
    tree = RadixTree()
    insert(tree, [1, 2], [0, 1])
    insert(tree, [1, 3], [0, 2])
    found(tree, [1, 2])
    assert tree.evict(1).tolist() == [2]
    assert found(tree, [1, 2]) == [0, 1]
    assert found(tree, [1, 3]) == [0]


def test_eviction_takes_no_more_than_is_asked_for_and_from_the_end() -> None:
    tree = RadixTree()
    insert(tree, [1, 2, 3, 4], [0, 1, 2, 3])
    assert tree.evict(1).tolist() == [3]
    assert tree.evict(2).tolist() == [1, 2]
    assert found(tree, [1, 2, 3, 4]) == [0]


def test_a_parent_is_evicted_after_its_children() -> None:
    tree = RadixTree()
    insert(tree, [1, 2], [0, 1])
    insert(tree, [1, 3], [0, 2])
    assert sorted(tree.evict(5).tolist()) == [0, 1, 2]
    assert tree.num_tokens == 0
    tree.check()


def test_a_locked_prefix_stays_with_all_that_leads_to_it() -> None:
    tree = RadixTree()
    insert(tree, [1, 2, 3], [0, 1, 2])
    node = make_tree.match(tree, A, ints([1, 2]))
    assert tree.num_unlocked == 1
    assert tree.evict(3).tolist() == [2]
    tree.unlock(node)
    assert sorted(tree.evict(3).tolist()) == [0, 1]


def test_matching_inside_an_edge_splits_it_without_changing_what_is_cached() -> None:
    tree = RadixTree()
    insert(tree, [1, 2, 3], [0, 1, 2])
    before = list(tree.prefixes())
    tree.unlock(make_tree.match(tree, A, ints([1, 2, 9])))
    assert list(tree.prefixes()) == before
    tree.check()


def test_a_kept_prefix_is_evicted_last() -> None:
    tree = RadixTree()
    kept = insert(tree, [1, 2], [0, 1])
    tree.keep(kept)
    insert(tree, [3, 4], [2, 3])
    assert sorted(tree.evict(2).tolist()) == [2, 3]
    assert tree.evict(1).tolist() == [1]


def test_unkeep_is_right_after_the_node_was_evicted_and_its_parent_split() -> None:
    tree = RadixTree()
    insert(tree, [1, 2], [0, 1])
    kept = insert(tree, [1, 2, 3], [0, 1, 2])
    tree.keep(kept)
    tree.evict(1)
    insert(tree, [1, 9], [0, 4])
    tree.unkeep(kept)
    tree.check()
    assert sorted(tree.evict(9).tolist()) == [0, 1, 4]


def test_after_unkeep_the_leaf_takes_its_old_place_in_the_order() -> None:
    tree = RadixTree()
    first = insert(tree, [1], [0])
    tree.keep(first)
    insert(tree, [2], [1])
    tree.unkeep(first)
    assert tree.evict(1).tolist() == [0]


def test_unlocking_more_often_than_locking_is_caught() -> None:
    tree = RadixTree()
    node = insert(tree, [1], [0])
    with pytest.raises(AssertionError, match="unlocked more often"):
        tree.unlock(node)


def test_flush_of_one_salt_leaves_the_others_and_what_is_locked() -> None:
    tree = RadixTree()
    insert(tree, [1, 2, 3], [0, 1, 2], A)
    insert(tree, [1, 2], [5, 6], B)
    insert(tree, [1], [7], A_ADAPTED)
    node = make_tree.match(tree, A, ints([1]))
    assert sorted(tree.flush("a").tolist()) == [1, 2, 7]
    assert found(tree, [1, 2], B) == [5, 6]
    tree.unlock(node)
    assert sorted(tree.flush().tolist()) == [0, 5, 6]
    tree.check()


def test_an_empty_namespace_leaves_nothing_behind() -> None:
    tree = RadixTree()
    for salt in range(50):
        space = Namespace(str(salt))
        tree.unlock(make_tree.match(tree, space, ints([1])))
        insert(tree, [1], [0], space)
        tree.evict(1)
    assert tree._roots == {}
    assert tree._spaces == {}


Prefix = tuple[Namespace, tuple[int, ...]]


class NaiveCache:
    """A dictionary from (namespace, prefix) to the slot of its last token; `held` counts the locks above each."""

    def __init__(self) -> None:
        self.slots: dict[Prefix, int] = {}
        self.prefix_in: dict[int, Prefix] = {}
        self.held: Counter[Prefix] = Counter()
        self.locks: list[tuple[Namespace, tuple[int, ...], Node]] = []
        self.keeps: list[Node] = []
        self.free = list(range(100_000))[::-1]

    def put(self, prefix: Prefix, slot: int) -> None:
        self.slots[prefix] = slot
        self.prefix_in[slot] = prefix

    def drop(self, slot: int) -> Prefix:
        prefix = self.prefix_in.pop(slot)
        del self.slots[prefix]
        return prefix

    def longest(self, space: Namespace, tokens: tuple[int, ...]) -> int:
        length = 0
        while length < len(tokens) and (space, tokens[: length + 1]) in self.slots:
            length += 1
        return length

    def lock(self, space: Namespace, tokens: tuple[int, ...], node: Node) -> None:
        self.locks.append((space, tokens, node))
        for length in range(1, len(tokens) + 1):
            self.held[space, tokens[:length]] += 1

    def unlock(self, index: int) -> Node:
        space, tokens, node = self.locks.pop(index)
        for length in range(1, len(tokens) + 1):
            self.held[space, tokens[:length]] -= 1
        return node

    def num_unlocked(self) -> int:
        return sum(not self.held[prefix] for prefix in self.slots)


def insert_both(
    tree: RadixTree, naive: NaiveCache, space: Namespace, tokens: tuple[int, ...], held: int = 0
) -> Node:
    known = naive.longest(space, tokens)
    slots = [naive.free.pop() for _ in tokens]
    node, said = make_tree.insert(tree, space, ints(tokens), ints(slots), held)
    assert said == known
    naive.free.extend(slots[:known])
    for length in range(known, len(tokens)):
        naive.put((space, tokens[: length + 1]), slots[length])
    return node


def match_both(
    tree: RadixTree, naive: NaiveCache, space: Namespace, tokens: tuple[int, ...]
) -> None:
    node = make_tree.match(tree, space, ints(tokens))
    length = naive.longest(space, tokens)
    assert node.end == length
    expected = [naive.slots[space, tokens[: end + 1]] for end in range(length)]
    assert tree.slots_of(node).tolist() == expected
    naive.lock(space, tokens[:length], node)


def forget(naive: NaiveCache, slots: list[int]) -> None:
    """The tree gave up slots: leaves of the naive cache, none of them locked."""
    for prefix in [naive.drop(slot) for slot in slots]:
        assert not naive.held[prefix]
        space, tokens = prefix
        for token in (0, 1, 2):
            assert (space, (*tokens, token)) not in naive.slots, "a hole in a prefix"
    naive.free.extend(slots)


def evict_both(tree: RadixTree, naive: NaiveCache, count: int) -> None:
    unlocked = naive.num_unlocked()
    assert tree.num_unlocked == unlocked
    slots = tree.evict(count).tolist()
    assert len(slots) == min(count, unlocked)
    forget(naive, slots)


def agree(tree: RadixTree, naive: NaiveCache) -> None:
    tree.check()
    keeps = Counter(edge for node in naive.keeps for edge in node.path())
    assert all(node.keeps == keeps[node] for node in tree.nodes())
    slots = {}
    for space, tokens, places in tree.prefixes():
        for length, slot in enumerate(places, 1):
            slots[space, tokens[:length]] = slot
    assert slots == naive.slots


tokens_of = st.lists(st.integers(0, 2), min_size=1, max_size=7).map(tuple)
spaces = st.sampled_from([A, B, A_ADAPTED])


class TreeAgainstDictionary(RuleBasedStateMachine):
    """The tree is a dictionary of prefixes, whatever is locked, kept, split or evicted on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = RadixTree()
        self.naive = NaiveCache()

    @rule(space=spaces, tokens=tokens_of, held=st.integers(0, 7))
    def insert(self, space: Namespace, tokens: tuple[int, ...], held: int) -> None:
        insert_both(self.tree, self.naive, space, tokens, held)

    @rule(space=spaces, tokens=tokens_of)
    def match(self, space: Namespace, tokens: tuple[int, ...]) -> None:
        match_both(self.tree, self.naive, space, tokens)

    @precondition(lambda self: self.naive.locks)
    @rule(data=st.data())
    def unlock(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.naive.locks) - 1))
        self.tree.unlock(self.naive.unlock(index))

    @rule(space=spaces, tokens=tokens_of)
    def keep(self, space: Namespace, tokens: tuple[int, ...]) -> None:
        node = insert_both(self.tree, self.naive, space, tokens)
        self.tree.keep(node)
        self.naive.keeps.append(node)

    @precondition(lambda self: self.naive.keeps)
    @rule(data=st.data())
    def unkeep(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.naive.keeps) - 1))
        self.tree.unkeep(self.naive.keeps.pop(index))

    @rule(count=st.integers(0, 12))
    def evict(self, count: int) -> None:
        evict_both(self.tree, self.naive, count)

    @rule(salt=st.sampled_from(["a", "b", None]))
    def flush(self, salt: str | None) -> None:
        slots = self.tree.flush(salt).tolist()
        assert all(salt in (None, self.naive.prefix_in[slot][0].salt) for slot in slots)
        forget(self.naive, slots)

    @invariant()
    def the_same(self) -> None:
        agree(self.tree, self.naive)


TestTreeAgainstDictionary = TreeAgainstDictionary.TestCase
TestTreeAgainstDictionary.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)


def drive(seed: int, num_operations: int) -> None:
    """Random operations, checked against the dictionary at every match and now and then as a whole."""
    choose = random.Random(seed)
    tree, naive = RadixTree(), NaiveCache()
    nodes = naive.keeps
    for step in range(num_operations):
        space = choose.choice((A, B))
        tokens = tuple(choose.choices((0, 1, 2), k=choose.randint(1, 8)))
        action = choose.random()
        if action < 0.4:
            insert_both(tree, naive, space, tokens, choose.randint(0, len(tokens)))
        elif action < 0.6:
            match_both(tree, naive, space, tokens)
        elif action < 0.8 and naive.locks:
            tree.unlock(naive.unlock(choose.randrange(len(naive.locks))))
        elif action < 0.85:
            nodes.append(insert_both(tree, naive, space, tokens))
            tree.keep(nodes[-1])
        elif action < 0.9 and nodes:
            tree.unkeep(nodes.pop(choose.randrange(len(nodes))))
        elif len(naive.slots) > 150:
            evict_both(tree, naive, choose.randint(1, 120))
        while len(naive.locks) > 6:
            tree.unlock(naive.unlock(0))
        assert tree.num_tokens == len(naive.slots)
        if step % 1000 == 0:
            agree(tree, naive)
    agree(tree, naive)


def test_thousands_of_random_operations_agree_with_a_dictionary() -> None:
    drive(seed=0, num_operations=5_000)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(20))
def test_a_million_random_operations_agree_with_a_dictionary(seed: int) -> None:
    drive(seed, num_operations=1_000_000)
