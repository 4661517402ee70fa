"""The prefix tree: which runs of tokens have their K/V in the pool, and where.

After RadixAttention (Zheng et al. 2024, "SGLang", section 3): edges are runs of token ids, values are pool
slots, and memory comes back by evicting the least recently used leaf that nobody has locked.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import heapify, heappop, heappush
from typing import NamedTuple

import numpy as np

from branchwork.runtime.engine.buffer import Ints, common_len

TOKEN_BYTES = 4


class Namespace(NamedTuple):
    """What separates caches: equal tokens of different namespaces share nothing.

    `adapter` numbers the low-rank adapter whose K/V it is (`Segment.adapter`), 0: none.
    """

    salt: str = ""
    adapter: int = 0


class Node:
    """One edge: the tokens of `key` follow the parent's prefix, and their K/V is in `slots`.

    A key is the tokens' int32s as bytes: a dictionary finds the first of them and one comparison tells the others,
    which with arrays takes ten times as long. `children` go by the bytes of their first token.

    `end` is the length of the prefix that ends with this node. `locks` counts the holders of this prefix or a
    longer one: locked slots are never evicted. `keeps` counts those who would like it to stay.
    An evicted node keeps its `parent`, so that a late `unkeep` still finds its way up.
    """

    __slots__ = (
        "children",
        "end",
        "entry",
        "keeps",
        "key",
        "last_used",
        "locks",
        "parent",
        "slots",
    )

    def __init__(self, parent: "Node | None", key: bytes, slots: Ints, end: int) -> None:
        self.parent = parent
        self.key = key
        self.slots = slots
        self.end = end
        self.children: dict[bytes, Node] = {}
        self.locks = 0
        self.keeps = 0
        self.last_used = 0
        self.entry: _Entry | None = None  # its valid entry in the eviction heap

    @property
    def token_ids(self) -> Ints:
        """The tokens of the edge, not to be written to."""
        return np.frombuffer(self.key, np.int32)

    @property
    def evictable(self) -> bool:
        """Whether this is a leaf that nobody has locked."""
        return not self.locks and not self.children and len(self.slots) > 0

    def path(self) -> Iterator["Node"]:
        """This node, its parent, and so on up to the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent


class _Entry(NamedTuple):
    """A place in the order of eviction: smallest first. `ticket` makes entries unique."""

    kept: bool
    last_used: int
    ticket: int
    node: Node


class Found(NamedTuple):
    """The longest cached prefix: it has `length` tokens and ends in `node` (inside it if node.end > length)."""

    node: Node | None
    length: int


_NOTHING: Ints = np.empty(0, np.int32)


class RadixTree:
    """A dictionary from token prefixes to slots that shares what prefixes have in common.

    `num_tokens` counts all cached tokens, `num_unlocked` those that `evict` could give back. `generation` changes
    whenever an earlier `Found` may be out of date.
    """

    def __init__(self) -> None:
        self.num_tokens = 0
        self.num_unlocked = 0
        self.generation = 0
        self._roots: dict[Namespace, Node] = {}
        self._spaces: dict[Node, Namespace] = {}
        self._heap: list[_Entry] = []
        self._clock = 0
        self._tickets = 0

    # ------------------------------------------------------------------ look

    def find(self, namespace: Namespace, token_ids: Ints) -> Found:
        """The longest cached prefix of `token_ids`. Nothing changes; nothing is locked."""
        root = self._roots.get(namespace)
        if root is None:
            return Found(None, 0)
        return Found(*_descend(root, token_ids.tobytes()))

    def slots_of(self, node: Node, start: int = 0) -> Ints:
        """The slots of positions [start, node.end) of the node's prefix."""
        parts = []
        edge: Node | None = node
        while edge is not None and edge.end > start:
            parts.append(edge.slots)
            edge = edge.parent
        slots = parts[0] if len(parts) == 1 else np.concatenate([_NOTHING, *parts[::-1]])
        return slots[max(0, len(slots) - (node.end - start)) :]

    def tokens_of(self, node: Node) -> Ints:
        """The tokens of the node's prefix."""
        parts = [edge.key for edge in node.path()]
        return np.frombuffer(b"".join(parts[::-1]), np.int32)

    def namespace_of(self, node: Node) -> Namespace:
        """The namespace of a node that has not been evicted."""
        *_, root = node.path()
        return self._spaces[root]

    # ------------------------------------------------------------------ hold

    def hold(self, namespace: Namespace, found: Found) -> Node:
        """The node at the end of a prefix that `find` has just found, locked until `unlock`; its `end` is the length.

        A node may be split, but the set of cached tokens never changes. O(depth).
        """
        node, length = found
        node = self._root(namespace) if node is None else self._split(node, length)
        self._clock += 1
        edge: Node | None = node
        while edge is not None:
            if edge.locks == 0:
                self.num_unlocked -= len(edge.slots)
            edge.locks += 1
            edge.last_used = self._clock
            edge = edge.parent
        return node

    def unlock(self, node: Node) -> None:
        """Undo one `hold`."""
        edge: Node | None = node
        while edge is not None:
            edge.locks -= 1
            assert edge.locks >= 0, "unlocked more often than locked"
            if edge.locks == 0:
                self.num_unlocked += len(edge.slots)
            edge = edge.parent
        self._offer(node)  # those above it have a child
        self._forget_empty_root(node)

    def touch(self, node: Node) -> None:
        """The prefix that ends with `node` has just been used."""
        self._clock += 1
        for edge in node.path():
            edge.last_used = self._clock

    def keep(self, node: Node) -> None:
        """Ask that the prefix that ends with `node` be evicted after all that nobody keeps."""
        edge: Node | None = node
        while edge is not None:
            edge.keeps += 1
            edge = edge.parent

    def unkeep(self, node: Node) -> None:
        """Undo one `keep`; right also when the node has been evicted since."""
        edge: Node | None = node
        while edge is not None:
            edge.keeps -= 1
            assert edge.keeps >= 0, "unkept more often than kept"
            if edge.keeps == 0 and not edge.children:
                self._offer(edge)
                self._forget_empty_root(edge)
            edge = edge.parent

    # ------------------------------------------------------------------ change

    def extend(self, node: Node, token_ids: Ints, slots: Ints) -> tuple[Node, int]:
        """Cache the K/V, in `slots`, of tokens that follow the prefix of `node`, which the caller holds.

        The caller's hold moves on to where the tokens end. Returns that node, and how many of the tokens were cached
        before: their slots stay what they were, and the caller still owns his own of that part. The others belong to
        the tree now.
        """
        key = token_ids.tobytes()
        end, known = _descend(node, key)
        end = self._split(end, node.end + known)
        self._clock += 1
        edge = end
        if known < len(slots):
            rest = key[known * TOKEN_BYTES :]
            leaf = Node(end, rest, slots[known:].copy(), node.end + len(slots))
            leaf.locks, leaf.last_used = 1, self._clock
            end.children[rest[:TOKEN_BYTES]] = leaf
            self.num_tokens += len(leaf.slots)
            self.generation += 1
            end = leaf
        while edge is not node:
            if edge.locks == 0:
                self.num_unlocked -= len(edge.slots)
            edge.locks += 1
            edge.last_used = self._clock
            assert edge.parent is not None
            edge = edge.parent
        above: Node | None = node
        while above is not None:
            above.last_used = self._clock
            above = above.parent
        return end, known

    def evict(self, count: int, leaving: Callable[[Node, int], None] | None = None) -> Ints:
        """Forget tokens from the ends of unlocked leaves, least recently used first, kept ones last.

        `leaving` is told of each leaf before it is shortened, and how many of its tokens are left.

        Returns the slots, which are the caller's then: `count` of them, or all that are unlocked if fewer.
        """
        freed: list[Ints] = []
        missing = count
        while missing > 0 and self._heap:
            entry = heappop(self._heap)
            node = entry.node
            if entry is not node.entry:
                continue  # an older entry of a node that has a newer one, or is gone
            node.entry = None
            if not node.evictable:
                continue  # offered again by `unlock`, or when its last child goes
            if (entry.kept, entry.last_used) != (node.keeps > 0, node.last_used):
                self._offer(node)
                continue
            left = max(0, len(node.slots) - missing)
            if leaving is not None:
                leaving(node, left)
            freed.append(node.slots[left:])
            missing -= len(freed[-1])
            self._shorten(node, left)
        return np.concatenate(freed) if freed else _NOTHING

    def flush(self, salt: str | None = None) -> Ints:
        """Forget all that is unlocked, of one salt (with whatever adapter) or of all; returns the slots."""
        freed: list[Ints] = []
        leaves = [
            node
            for space, root in self._roots.items()
            if salt is None or space.salt == salt
            for node in _below(root)
            if not node.children
        ]
        for leaf in leaves:
            for node in list(leaf.path()):
                if node.locks or node.children or node.parent is None:
                    break
                freed.append(node.slots)
                self._shorten(node, 0)
        self._heap = [entry for entry in self._heap if entry is entry.node.entry]
        heapify(self._heap)
        return np.concatenate(freed) if freed else _NOTHING

    # ------------------------------------------------------------------ account

    def leaves(self) -> Iterator[tuple[Namespace, Ints, Ints]]:
        """Every cached leaf prefix as (namespace, token ids, slots)."""
        for space, root in self._roots.items():
            for node in _below(root):
                if not node.children:
                    yield space, self.tokens_of(node), self.slots_of(node)

    def prefixes(self) -> Iterator[tuple[Namespace, tuple[int, ...], tuple[int, ...]]]:
        """The same in plain ints; for tests and reports."""
        for space, tokens, slots in self.leaves():
            yield space, tuple(tokens.tolist()), tuple(slots.tolist())

    def roots(self) -> Iterator[tuple[Namespace, Node]]:
        """The root of each namespace; for reports, which change nothing."""
        yield from self._roots.items()

    def nodes(self) -> Iterator[Node]:
        """All nodes, roots included."""
        for root in self._roots.values():
            yield root
            yield from _below(root)

    @property
    def clock(self) -> int:
        """How often the tree was used; `Node.last_used` is in its terms."""
        return self._clock

    def recount(self, held: Iterable[Node], kept: Mapping[Node, int]) -> None:
        """Make the account anew: of the nodes there are, those of them that are held, and how often one is kept.

        For after a fault in the midst of a change: what was counted may be wrong then.
        """
        nodes = list(self.nodes())
        for node in nodes:
            node.locks, node.keeps, node.entry = 0, 0, None
        for node in held:
            for edge in node.path():
                edge.locks += 1
        for node in kept:  # some may have been evicted
            for edge in node.path():
                edge.keeps = 0
        for node, count in kept.items():
            for edge in node.path():
                edge.keeps += count
        self.num_tokens = sum(len(node.slots) for node in nodes)
        self.num_unlocked = sum(len(node.slots) for node in nodes if not node.locks)
        self.generation += 1
        self._heap = []
        for node in nodes:
            self._offer(node)
            self._forget_empty_root(node)

    def check(self) -> None:
        """Assert that the counters equal a recount of the tree."""
        total = unlocked = 0
        for root in self._roots.values():
            assert root.parent is None
            assert root.end == 0
            for node in (root, *_below(root)):
                total += len(node.slots)
                unlocked += 0 if node.locks else len(node.slots)
                assert node.locks >= sum(child.locks for child in node.children.values())
                assert node.keeps >= 0
                assert not node.evictable or node.entry is not None, "a leaf is not offered"
                for first, child in node.children.items():
                    assert child.parent is node
                    assert child.end == node.end + len(child.slots)
                    assert len(child.key) == TOKEN_BYTES * len(child.slots) > 0
                    assert first == child.key[:TOKEN_BYTES]
        assert (total, unlocked) == (self.num_tokens, self.num_unlocked)

    # ------------------------------------------------------------------ inside

    def _root(self, namespace: Namespace) -> Node:
        root = self._roots.get(namespace)
        if root is None:
            root = self._roots[namespace] = Node(None, b"", _NOTHING, 0)
            self._spaces[root] = namespace
            self.generation += 1
        return root

    def _split(self, node: Node, length: int) -> Node:
        """Make `length` the end of a node; the lower part stays the node it was, since others hold it."""
        if node.end == length:
            return node
        cut = length - (node.end - len(node.slots))
        assert node.parent is not None
        key, rest = node.key[: cut * TOKEN_BYTES], node.key[cut * TOKEN_BYTES :]
        upper = Node(node.parent, key, node.slots[:cut].copy(), length)
        upper.locks, upper.keeps, upper.last_used = node.locks, node.keeps, node.last_used
        upper.children[rest[:TOKEN_BYTES]] = node
        lower = node.slots[cut:].copy()
        node.parent.children[key[:TOKEN_BYTES]] = upper
        node.parent, node.key, node.slots = upper, rest, lower
        self.generation += 1
        return upper

    def _offer(self, node: Node) -> None:
        """Enter a leaf that may be evicted into the heap, under its present place in the order.

        A place further back is corrected when the entry comes up; one further ahead needs a new entry.
        """
        if not node.evictable:
            return
        kept, last_used = node.keeps > 0, node.last_used
        if node.entry is None or (kept, last_used) < node.entry[:2]:
            self._tickets += 1
            node.entry = _Entry(kept, last_used, self._tickets, node)
            heappush(self._heap, node.entry)

    def _shorten(self, node: Node, length: int) -> None:
        """Drop a leaf's tokens from `length` on; with none left, the leaf itself."""
        dropped = len(node.slots) - length
        self.num_tokens -= dropped
        self.num_unlocked -= dropped
        self.generation += 1
        if length:
            node.key, node.slots = node.key[: length * TOKEN_BYTES], node.slots[:length]
            node.end -= dropped
            self._offer(node)
            return
        parent = node.parent
        assert parent is not None
        del parent.children[node.key[:TOKEN_BYTES]]
        node.key, node.slots, node.entry = b"", _NOTHING, None
        self._offer(parent)
        self._forget_empty_root(parent)

    def _forget_empty_root(self, node: Node) -> None:
        if node.parent is None and not node.children and not node.locks and not node.keeps:
            space = self._spaces.pop(node, None)
            if space is not None:  # else it was forgotten before, and somebody still kept it
                del self._roots[space]
                self.generation += 1


def _descend(node: Node, key: bytes) -> tuple[Node, int]:
    """From the end of a node on: the deepest node that shares tokens with the key, and how many are shared in all."""
    at, total = 0, len(key)
    while at < total:
        child = node.children.get(key[at : at + TOKEN_BYTES])
        if child is None:
            break
        node = child
        if not key.startswith(child.key, at):
            rest = np.frombuffer(key, np.int32, offset=at)
            at += common_len(child.token_ids, rest) * TOKEN_BYTES
            break
        at += len(child.key)
    return node, at // TOKEN_BYTES


def _below(root: Node) -> Iterator[Node]:
    """All nodes under `root`, without recursion: chains can be long."""
    stack = list(root.children.values())
    while stack:
        node = stack.pop()
        stack.extend(node.children.values())
        yield node
