"""The trie's arrays against the tokens themselves."""

import numpy as np
from tests.runtime.grammar.vocabularies import json_pieces, letters

from branchwork.runtime.grammar.interface import Vocabulary
from branchwork.runtime.grammar.machine import trie as tries
from branchwork.runtime.grammar.machine.program import GROUPS
from branchwork.runtime.grammar.machine.trie import build_trie


def nodes_of(trie: tries.Trie) -> dict[bytes, int]:
    """Each node by the bytes that lead to it."""
    paths = {0: b""}
    for node in range(1, int(trie[0])):
        above = tries.parent_of(trie, node)
        paths[node] = paths[above] + bytes((tries.byte_of(trie, node),))
    return {path: node for node, path in paths.items()}


def check(vocabulary: Vocabulary) -> None:
    trie = build_trie(vocabulary.token_bytes)
    nodes = nodes_of(trie)
    prefixes = {data[:n] for data in vocabulary.token_bytes for n in range(len(data) + 1)}
    assert set(nodes) == prefixes
    for path, node in nodes.items():
        below = [data for data in vocabulary.token_bytes if data and data.startswith(path)]
        assert tries.depth_of(trie, node) == len(path)
        assert tries.behind(trie, node) - node == sum(p.startswith(path) for p in prefixes)
        first, last = tries.first_token_of(trie, node), tries.first_token_of(trie, node + 1)
        tokens = {tries.token_at(trie, place) for place in range(first, last)}
        assert tokens == {t for t, d in enumerate(vocabulary.token_bytes) if d == path and d}
        for byte in range(256):
            child = path + bytes((byte,))
            assert tries.find_child(trie, node, byte) == nodes.get(child, 0)
        if path:
            begun = [sum(b & 0xC0 != 0x80 for b in data[len(path) - 1 :]) for data in below]
            assert not tries.is_within(trie, node, -1, max(begun) - 1)
            assert tries.is_within(trie, node, -1, max(begun))


def test_the_trie_holds_every_token_once_under_its_bytes() -> None:
    check(letters())
    check(json_pieces())


def test_a_subtree_is_of_a_family_if_all_characters_below_it_are() -> None:
    words = ("ab", "abé", "x日", "xé", "z")
    halves = (b"q" + "é".encode()[:1], "é".encode()[1:])
    trie = build_trie([*(word.encode() for word in words), *halves])
    nodes = nodes_of(trie)

    def family(chars: str) -> int:
        return int(np.bitwise_or.reduce([1 << int(GROUPS[char.encode()[0]]) for char in chars]))

    assert tries.is_within(trie, nodes[b"a"], family("aé"), 9)
    assert not tries.is_within(trie, nodes[b"a"], family("a"), 9)
    assert tries.is_within(trie, nodes[b"x"], family("x日é"), 9)
    assert not tries.is_within(trie, nodes[b"x"], family("x日"), 9)
    assert tries.is_within(trie, nodes[b"q"], family("qé"), 9)
    assert not tries.is_within(trie, nodes["é".encode()[1:]], family("aé"), 9)
    assert not tries.is_within(trie, nodes["xé".encode()], family("xé"), 9)
