"""The vocabulary as a trie in preorder: equal prefixes of tokens are walked once, dead ones skipped whole.

One int32 array: [num_nodes, num_tokens], then for each node, and one more, a record of `TRIE_WORDS`
    its byte | depth << 8 | height << 19 (the most characters that begin at it and on a way down from it),
    the node behind its subtree, its parent, in two words the groups of the characters that begin at it and below it
    (`program.GROUPS`), where its tokens begin, where its children begin, 0;
then the children of all nodes (byte << 24 | node, in the order of the bytes), the token ids in this order, how many
characters each token begins. Node 0 is the root. A record is half a line of a cache: a walk looks at most of its words.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from branchwork.runtime.grammar import dfa
from branchwork.runtime.grammar.machine.jit import compiled, int64, makes_arrays
from branchwork.runtime.grammar.machine.program import GROUPS, IRREGULAR, Bytes, Words
from branchwork.runtime.grammar.machine.stack import MAX_DEPTH

Trie = npt.NDArray[np.int32]

HEAD = 2
TRIE_WORDS = 8
DEPTH_SHIFT, HEIGHT_SHIFT = 8, 19
DEPTH_MASK = (1 << (HEIGHT_SHIFT - DEPTH_SHIFT)) - 1
CHILD_SHIFT = 24
CHILD_MASK = (1 << CHILD_SHIFT) - 1


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


@makes_arrays
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
    children = HEAD + TRIE_WORDS * (nodes + 1)
    tokens = children + nodes - 1
    trie = np.zeros(tokens + 2 * len(ids), np.int32)
    trie[0], trie[1] = nodes, len(ids)
    # Where each path stands in UTF-8: 0 is no text, 1 the beginning of a character.
    chars = np.zeros(nodes, np.int64)
    chars[0] = 1
    for i in range(1, nodes):
        chars[i] = utf8[chars[parent[i]], byte[i]]
    groups = np.zeros(nodes, np.int64)
    height = np.zeros(nodes, np.int32)
    irregular = int64(1) << IRREGULAR
    # A node's tokens are sorted between its first and the first of the next node.
    token = len(ids)
    trie[HEAD + TRIE_WORDS * nodes + 5] = token
    for i in range(nodes - 1, -1, -1):
        if byte[i] & 0xC0 != 0x80:
            height[i] += 1
            groups[i] |= int64(1) << GROUPS[byte[i]]
        if chars[i] == 0:
            groups[i] |= irregular
        if i > 0:
            groups[parent[i]] |= groups[i]
            height[parent[i]] = max(height[parent[i]], height[i])
        if chars[parent[i]] != 1:
            groups[i] |= irregular
        p = HEAD + TRIE_WORDS * i
        trie[p] = byte[i] | depth[i] << DEPTH_SHIFT | height[i] << HEIGHT_SHIFT
        trie[p + 1], trie[p + 2] = end[i], parent[i]
        trie[p + 3], trie[p + 4] = groups[i] & 0x7FFFFFFF, groups[i] >> 31
        # Only the last node of a token's path owns it: those before it begin at the same token.
        if i > 0 and depth[i] == offsets[first_token[i] + 1] - offsets[first_token[i]]:
            token = first_token[i]
        trie[p + 5] = token
    at = int64(children)
    for i in range(nodes):
        trie[HEAD + TRIE_WORDS * i + 6] = at
        below = i + 1
        while below < end[i]:
            trie[at] = np.int32(np.uint32(byte[below]) << np.uint32(CHILD_SHIFT) | np.uint32(below))
            at += 1
            below = end[below]
    trie[HEAD + TRIE_WORDS * nodes + 6] = at
    for t in range(len(ids)):
        trie[tokens + t] = ids[t]
        begun = 0
        for i in range(offsets[t], offsets[t + 1]):
            begun += data[i] & 0xC0 != 0x80
        trie[tokens + len(ids) + t] = begun
    return trie


@compiled
def byte_of(trie: Trie, node: int) -> int:
    """The last of the bytes that lead to a node."""
    return int64(trie[HEAD + TRIE_WORDS * node] & 255)


@compiled
def depth_of(trie: Trie, node: int) -> int:
    """How many bytes lead to a node."""
    return int64(trie[HEAD + TRIE_WORDS * node] >> DEPTH_SHIFT & DEPTH_MASK)


@compiled
def behind(trie: Trie, node: int) -> int:
    """The node behind a node's subtree."""
    return int64(trie[HEAD + TRIE_WORDS * node + 1])


@compiled
def parent_of(trie: Trie, node: int) -> int:
    """The node before a node."""
    return int64(trie[HEAD + TRIE_WORDS * node + 2])


@compiled
def is_within(trie: Trie, node: int, family: int, span: int) -> bool:
    """Whether the ways from above a node to the ends of its tokens are texts of a family, and within a span."""
    p = HEAD + TRIE_WORDS * node
    if trie[p] >> HEIGHT_SHIFT > span:
        return False
    groups = int64(trie[p + 3]) | int64(trie[p + 4]) << 31
    return groups & ~family == 0


@compiled
def first_token_of(trie: Trie, node: int) -> int:
    """Where in the order of tokens those of a node (and of what is below it) begin."""
    return int64(trie[HEAD + TRIE_WORDS * node + 5])


@compiled
def tokens_begin(trie: Trie) -> int:
    """Where the token ids stand: behind the records and the children, of which all nodes but the root are one."""
    return int64(HEAD + (TRIE_WORDS + 1) * trie[0] + TRIE_WORDS - 1)


@compiled
def token_at(trie: Trie, place: int) -> int:
    """The token at a place of the order."""
    return int64(trie[tokens_begin(trie) + place])


@compiled
def chars_at(trie: Trie, place: int) -> int:
    """How many characters the token at a place of the order begins."""
    return int64(trie[tokens_begin(trie) + trie[1] + place])


@compiled
def first_child_of(trie: Trie, node: int) -> int:
    """Where a node's children begin; they end where those of the next node begin."""
    return int64(trie[HEAD + TRIE_WORDS * node + 6])


@compiled
def child_place(trie: Trie, node: int, byte: int) -> int:
    """Where the child of a node by a byte stands, or would stand, among the children."""
    low, high = first_child_of(trie, node), first_child_of(trie, node + 1)
    while low < high:
        middle = (low + high) >> 1
        if trie[middle] >> CHILD_SHIFT & 255 < byte:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def find_child(trie: Trie, node: int, byte: int) -> int:
    """The child of a node by its byte, or 0."""
    at = child_place(trie, node, byte)
    if at < first_child_of(trie, node + 1) and trie[at] >> CHILD_SHIFT & 255 == byte:
        return int64(trie[at] & CHILD_MASK)
    return 0
