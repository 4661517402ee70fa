"""The vocabulary as a trie in preorder: equal prefixes of tokens are walked once, dead ones skipped whole.

One int32 array: [num_nodes, num_tokens], then per node its byte, its depth, the node behind its subtree, its parent,
and in two words the groups of its byte and of all below it (`program.GROUPS`); then where each node's tokens begin
(num_nodes + 1 words), then the token ids in this order, then how many characters each token begins. Node 0 is the
root.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from branchwork.runtime.grammar import dfa
from branchwork.runtime.grammar.jit import compiled, int64
from branchwork.runtime.grammar.machine import MAX_DEPTH
from branchwork.runtime.grammar.program import GROUPS, IRREGULAR, Bytes, Words

Trie = npt.NDArray[np.int32]

HEAD = 2


def build_trie(token_bytes: Sequence[bytes]) -> Trie:
    """The trie of all tokens that have bytes (and fewer than `MAX_DEPTH`); tokens of equal bytes share a node."""
    order = [t for t, data in enumerate(token_bytes) if 0 < len(data) < MAX_DEPTH]
    order.sort(key=token_bytes.__getitem__)
    lengths = np.array([len(token_bytes[t]) for t in order], np.int64)
    data = np.frombuffer(b"".join(token_bytes[t] for t in order), np.uint8)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    text = dfa.any_text()
    utf8 = text.table[:, text.classes].astype(np.int64)
    return _build(data, offsets, np.array(order, np.int32), len(data) + 1, utf8)


@compiled
def _build(data: Bytes, offsets: Words, ids: Trie, most: int, utf8: Words) -> Trie:
    byte = np.zeros(most, np.int32)
    depth = np.zeros(most, np.int32)
    end = np.zeros(most, np.int32)
    parent = np.zeros(most, np.int32)
    first_token = np.zeros(most + 1, np.int32)
    path = np.zeros(MAX_DEPTH + 1, np.int32)
    nodes, open_depth = 1, 0
    for t in range(len(ids)):
        start, length = offsets[t], offsets[t + 1] - offsets[t]
        shared = 0
        while shared < min(length, open_depth) and data[start + shared] == byte[path[shared + 1]]:
            shared += 1
        for d in range(shared + 1, open_depth + 1):
            end[path[d]] = nodes
        for d in range(shared, length):
            byte[nodes], depth[nodes], parent[nodes] = data[start + d], d + 1, path[d]
            first_token[nodes] = t
            path[d + 1] = nodes
            nodes += 1
        open_depth = length
    for d in range(open_depth + 1):
        end[path[d]] = nodes
    trie = np.zeros(HEAD + 7 * nodes + 1 + 2 * len(ids), np.int32)
    trie[0], trie[1] = nodes, len(ids)
    at = HEAD
    # Where each path stands in UTF-8: 0 is no text, 1 the beginning of a character.
    chars = np.zeros(nodes, np.int64)
    chars[0] = 1
    for i in range(1, nodes):
        chars[i] = utf8[chars[parent[i]], byte[i]]
    groups = np.zeros(nodes, np.int64)
    irregular = int64(1) << IRREGULAR
    for i in range(nodes - 1, -1, -1):
        trie[at + i], trie[at + nodes + i] = byte[i], depth[i]
        trie[at + 2 * nodes + i], trie[at + 3 * nodes + i] = end[i], parent[i]
        groups[i] |= int64(1) << GROUPS[byte[i]]
        if chars[i] == 0:
            groups[i] |= irregular
        if i > 0:
            groups[parent[i]] |= groups[i]
        if chars[parent[i]] != 1:
            groups[i] |= irregular
        trie[at + 4 * nodes + i] = groups[i] & 0x7FFFFFFF
        trie[at + 5 * nodes + i] = groups[i] >> 31
    starts = at + 6 * nodes
    # A node's tokens are sorted between its first and the first of the next node.
    token = len(ids)
    trie[starts + nodes] = token
    for i in range(nodes - 1, -1, -1):
        # Only the last node of a token's path owns it: those before it begin at the same token.
        if i > 0 and depth[i] == offsets[first_token[i] + 1] - offsets[first_token[i]]:
            token = first_token[i]
        trie[starts + i] = token
    for t in range(len(ids)):
        trie[starts + nodes + 1 + t] = ids[t]
        begun = 0
        for i in range(offsets[t], offsets[t + 1]):
            begun += data[i] & 0xC0 != 0x80
        trie[starts + nodes + 1 + len(ids) + t] = begun
    return trie


@compiled
def first_token_of(trie: Trie, node: int) -> int:
    """Where in the order of tokens those of a node (and of what is below it) begin."""
    return int64(trie[HEAD + 6 * trie[0] + node])


@compiled
def token_at(trie: Trie, place: int) -> int:
    """The token at a place of the order."""
    return int64(trie[HEAD + 7 * trie[0] + 1 + place])


@compiled
def chars_at(trie: Trie, place: int) -> int:
    """How many characters the token at a place of the order begins."""
    return int64(trie[HEAD + 7 * trie[0] + 1 + trie[1] + place])


@compiled
def groups_of(trie: Trie, node: int) -> int:
    """The groups of a node's byte and of all below it."""
    at, num = HEAD + 4 * trie[0] + node, trie[0]
    return int64(trie[at]) | int64(trie[at + num]) << 31
