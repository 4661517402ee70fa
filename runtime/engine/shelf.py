"""Which blocks of prefixes a store holds, and in which order they go when it is full. Plain values; no I/O.

Blocks form a tree like prefixes do, and are found by their tokens, one by one: the key, a hash of all tokens up to the
block's end, only names it to the store.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from branchwork.runtime.engine.buffer import Ints


class Block:
    """Some tokens that follow the parent's prefix; `end` is the length with them.

    `size` is what it takes of the store, in bytes. 0: not stored, only on the way to blocks that are.
    """

    __slots__ = ("_hash", "children", "end", "key", "parent", "size", "tokens")

    def __init__(self, parent: "Block | None", tokens: bytes, digest: Any) -> None:
        self.parent = parent
        self.tokens = tokens
        self.end: int = 0 if parent is None else parent.end + len(tokens) // 4
        self.children: dict[bytes, Block] = {}
        self.size = 0
        self._hash = digest
        self.key: str = digest.hexdigest()

    def child(self, tokens: bytes) -> "Block":
        """The block of these tokens after this one, made if need be."""
        found = self.children.get(tokens)
        if found is None:
            digest = self._hash.copy()
            digest.update(tokens)
            found = self.children[tokens] = Block(self, tokens, digest)
        return found

    def path(self) -> "Iterator[Block]":
        """This block, the one before it, and so on to the first."""
        block = self
        while block.parent is not None:
            yield block
            block = block.parent

    def prefix(self) -> Ints:
        """All tokens up to its end."""
        return np.frombuffer(b"".join([block.tokens for block in self.path()][::-1]), np.int32)


class Shelf:
    """The account of a store of `max_bytes`.

    `identity` tells of an adapter's number whose K/V that is: of two, equal tokens have two keys.
    """

    def __init__(self, identity: Callable[[int], str], max_bytes: int, block_tokens: int) -> None:
        self.max_bytes = max_bytes
        self.block_tokens = block_tokens
        self.num_bytes = 0
        self._identity = identity
        self._roots: dict[int, Block] = {}  # by the number of the adapter
        # Of every stored block, least recently used first. A block's use is also one of those before it, which come
        # behind it here: so the ends of prefixes go first. None: a stranger's block, which only takes room.
        self._stored: dict[str, Block | None] = {}
        self._strangers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._stored)

    def find(self, adapter: int, token_ids: Ints, known: int) -> list[Block]:
        """The stored blocks that carry on a prefix of which `known` tokens are at hand, without a gap.

        The first begins at or before `known`, the last ends within `token_ids`; none, if they would add nothing.
        """
        found: list[Block] = []
        block, size = self._root(adapter), self.block_tokens
        for end in range(size, len(token_ids) + 1, size):
            child = block.children.get(_bytes(token_ids[end - size : end]))
            if child is None:
                break
            block = child
            if end > known:
                if not block.size:
                    break
                found.append(block)
        return found

    def walk(self, adapter: int, token_ids: Ints) -> Iterator[Block]:
        """All whole blocks of these tokens, stored or not. Who goes no further prunes the last one."""
        block, size = self._root(adapter), self.block_tokens
        for end in range(size, len(token_ids) + 1, size):
            block = block.child(_bytes(token_ids[end - size : end]))
            yield block

    def put(self, block: Block, size: int) -> None:
        """The block is in the store from now on, and takes `size` bytes there."""
        assert not block.size, "a block is stored twice"
        block.size = size
        self.num_bytes += size
        self._stored[block.key] = block
        self.touch(block)

    def put_stranger(self, key: str, size: int) -> None:
        """Something in the store that is never found, but takes its room, and goes like all else."""
        if key not in self._stored:
            self._stored[key] = None
            self._strangers[key] = size
            self.num_bytes += size

    def touch(self, block: Block) -> list[str]:
        """The block was used, and so were those before it; returns the keys of those that are stored."""
        keys = [one.key for one in block.path() if one.size]
        for key in keys:
            self._stored[key] = self._stored.pop(key)
        return keys

    def drop(self, key: str) -> None:
        """The store has no such block any more; nothing happens if it had none."""
        if key not in self._stored:
            return
        block = self._stored.pop(key)
        if block is None:
            self.num_bytes -= self._strangers.pop(key)
            return
        self.num_bytes -= block.size
        block.size = 0
        self.prune(block)

    def prune(self, block: Block) -> None:
        """Forget a block that is not stored and leads to none that is."""
        for one in list(block.path()):
            if one.size or one.children:
                break
            assert one.parent is not None
            del one.parent.children[one.tokens]

    def overfull(self) -> list[str]:
        """Drop least recently used blocks until the rest is within the bound; returns their keys."""
        keys: list[str] = []
        while self.num_bytes > self.max_bytes:
            key = next(iter(self._stored))
            self.drop(key)
            keys.append(key)
        return keys

    def clear(self) -> list[str]:
        """Drop all blocks that could be found; returns their keys."""
        keys = [key for key, block in self._stored.items() if block is not None]
        for key in keys:
            self.drop(key)
        return keys

    def check(self) -> None:
        """Assert that the account equals a recount of the tree."""
        seen: dict[str, int] = dict(self._strangers)
        stack = [block for root in self._roots.values() for block in root.children.values()]
        while stack:
            block = stack.pop()
            assert block.size or block.children, "a block that leads nowhere"
            if block.size:
                seen[block.key] = block.size
            stack.extend(block.children.values())
        assert seen.keys() == self._stored.keys()
        assert sum(seen.values()) == self.num_bytes

    def _root(self, adapter: int) -> Block:
        root = self._roots.get(adapter)
        if root is None:
            digest = hashlib.blake2b(self._identity(adapter).encode(), digest_size=16)
            root = self._roots[adapter] = Block(None, b"", digest)
        return root


def _bytes(token_ids: Ints) -> bytes:
    return token_ids.astype("<i4", copy=False).tobytes()
