"""The account of a store: what is found, in which order blocks go, and what takes room."""

import random

import numpy as np

from branchwork.runtime.engine.buffer import Ints
from branchwork.runtime.engine.shelf import Block, Shelf


def ids(*token_ids: int) -> Ints:
    return np.array(token_ids, np.int32)


def make_shelf(max_bytes: int, identity: str = "model") -> Shelf:
    return Shelf(lambda adapter: f"{identity} {adapter}", max_bytes, 2)


def put(shelf: Shelf, token_ids: Ints, size: int = 1, adapter: int = 0) -> Block:
    """Store the last block of the tokens."""
    *_, block = shelf.walk(adapter, token_ids)
    shelf.put(block, size)
    return block


def test_blocks_are_found_where_the_known_prefix_ends_and_up_to_the_first_gap() -> None:
    shelf = make_shelf(100)
    second = put(shelf, ids(1, 2, 3, 4))
    third = put(shelf, ids(1, 2, 3, 4, 5, 6))
    put(shelf, ids(1, 2, 3, 4, 5, 6, 7, 8, 9, 10))
    prefix = ids(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
    assert shelf.find(0, prefix, 0) == []
    assert shelf.find(0, prefix, 1) == []
    assert shelf.find(0, prefix, 2) == [second, third]
    assert shelf.find(0, prefix, 3) == [second, third]
    assert shelf.find(0, prefix, 4) == [third]
    assert shelf.find(0, prefix, 6) == []
    assert shelf.find(0, prefix[:5], 2) == [second]
    assert shelf.find(0, ids(1, 2, 9, 4, 5, 6), 2) == []


def test_equal_tokens_of_two_identities_have_different_keys() -> None:
    keys = {put(make_shelf(100, identity), ids(1, 2)).key for identity in ("one", "two")}
    assert len(keys) == 2


def test_a_block_is_found_with_the_adapter_that_it_was_computed_with() -> None:
    shelf = make_shelf(100)
    plain = put(shelf, ids(1, 2))
    assert shelf.find(1, ids(1, 2), 0) == []
    adapted = put(shelf, ids(1, 2), adapter=1)
    assert shelf.find(0, ids(1, 2), 0) == [plain]
    assert shelf.find(1, ids(1, 2), 0) == [adapted]
    assert plain.key != adapted.key
    shelf.check()
    shelf.drop(plain.key)
    assert shelf.find(1, ids(1, 2), 0) == [adapted]


def test_the_least_recently_used_goes_first_and_a_prefix_from_its_end() -> None:
    shelf = make_shelf(4)
    first = put(shelf, ids(1, 2))
    second = put(shelf, ids(1, 2, 3, 4))
    other = put(shelf, ids(7, 8), size=2)
    assert shelf.overfull() == []
    shelf.touch(second)
    put(shelf, ids(9, 9))
    assert shelf.overfull() == [other.key]
    put(shelf, ids(9, 9, 9, 9))
    put(shelf, ids(9, 9, 9, 9, 9, 9))
    assert shelf.overfull() == [second.key]
    assert shelf.find(0, ids(1, 2, 3, 4), 0) == [first]
    shelf.check()


def test_strangers_take_room_and_go_like_all_else_but_are_never_found() -> None:
    shelf = make_shelf(10)
    shelf.put_stranger("ab", 6)
    block = put(shelf, ids(1, 2), size=5)
    assert shelf.num_bytes == 11
    assert shelf.clear() == [block.key]
    put(shelf, ids(3, 4), size=5)
    assert shelf.overfull() == ["ab"]
    shelf.check()


def test_the_account_equals_a_naive_one_after_random_use() -> None:
    choice = random.Random(0)
    shelf = make_shelf(40)
    stored: dict[tuple[int, ...], str] = {}
    for _ in range(3000):
        tokens = [choice.randrange(3) for _ in range(2 * choice.randint(1, 4))]
        action = choice.random()
        if action < 0.5:
            *_, block = shelf.walk(0, ids(*tokens))
            if not block.size:
                shelf.put(block, choice.randint(1, 4))
                stored[tuple(tokens)] = block.key
        elif action < 0.7 and stored:
            key = stored.pop(choice.choice(list(stored)))
            shelf.drop(key)
        else:
            found = shelf.find(0, ids(*tokens), 0)
            expected = 0
            while tuple(tokens[: expected + 2]) in stored and expected < len(tokens):
                expected += 2
            assert [block.end for block in found] == list(range(2, expected + 1, 2))
            if found:
                shelf.touch(found[-1])
        gone = set(shelf.overfull())
        stored = {prefix: key for prefix, key in stored.items() if key not in gone}
        assert shelf.num_bytes <= 40
        assert len(shelf) == len(stored)
        shelf.check()
