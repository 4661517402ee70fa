"""The vocabulary as a trie in preorder: equal prefixes of tokens are walked once, dead ones skipped whole.

One int32 array: [num_nodes, num_tokens], then per node its byte, its depth, the node behind its subtree, its parent;
then where each node's tokens begin (num_nodes + 1 words), then the token ids. Node 0 is the root.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from branchwork.runtime.grammar.jit import compiled
from branchwork.runtime.grammar.machine import MAX_DEPTH
from branchwork.runtime.grammar.program import Bytes, Words

Trie = npt.NDArray[np.int32]

HEAD = 2


def build_trie(token_bytes: Sequence[bytes]) -> Trie:
    """The trie of all tokens that have bytes (and fewer than `MAX_DEPTH`); tokens of equal bytes share a node."""
    order = [t for t, data in enumerate(token_bytes) if 0 < len(data) < MAX_DEPTH]
    order.sort(key=token_bytes.__getitem__)
    lengths = np.array([len(token_bytes[t]) for t in order], np.int64)
    data = np.frombuffer(b"".join(token_bytes[t] for t in order), np.uint8)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return _build(data, offsets, np.array(order, np.int32), len(data) + 1)


@compiled
def _build(data: Bytes, offsets: Words, ids: Trie, most: int) -> Trie:
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
    # A node's tokens are those sorted between its first and the first of the next node.
    trie = np.zeros(HEAD + 5 * nodes + 1 + len(ids), np.int32)
    trie[0], trie[1] = nodes, len(ids)
    at = HEAD
    for i in range(nodes):
        trie[at + i], trie[at + nodes + i] = byte[i], depth[i]
        trie[at + 2 * nodes + i], trie[at + 3 * nodes + i] = end[i], parent[i]
    starts = at + 4 * nodes
    token = len(ids)
    trie[starts + nodes] = token
    for i in range(nodes - 1, -1, -1):
        # Only the last node of a token's path owns it: those before it begin at the same token.
        owner = i > 0 and depth[i] == offsets[first_token[i] + 1] - offsets[first_token[i]]
        if owner:
            token = first_token[i]
        trie[starts + i] = token
    for t in range(len(ids)):
        trie[starts + nodes + 1 + t] = ids[t]
    return trie
