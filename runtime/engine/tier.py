"""A tier below the pool: K/V of prefixes that leave the pool goes to a store, and comes back on a match.

What comes back is put into the prefix tree, as if it had been computed there; requests that would compute it are held
back meanwhile, for a bounded time. So a load touches no request, and whatever becomes of it, they go on. Only prefixes
without a salt are stored: what is salted is to be shared with nobody, whoever opens the store next.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from branchwork.runtime.engine.admission import find
from branchwork.runtime.engine.buffer import Ints
from branchwork.runtime.engine.cache import Lease, PrefixCache
from branchwork.runtime.engine.radix import Namespace, Node
from branchwork.runtime.engine.request import Load, Req
from branchwork.runtime.engine.shelf import Block, Shelf
from branchwork.runtime.kv import (
    KvArrays,
    KvMemory,
    Loaded,
    Store,
    StoreReport,
    Wanted,
    num_bytes,
)

log = logging.getLogger(__name__)

# Others wait while a load is copied into the pool: some milliseconds, at a memory's speed.
MAX_LOAD_BYTES = 32 << 20

# A request waits so long for a load, at most; then its prefix is computed.
LOAD_S = 2.0

# Beside its K/V and tokens a block takes about so much of a store: names, shapes and the checksum.
OVERHEAD_BYTES = 1024

# So many blocks are copied out between two passes when all is to be saved.
SAVED_AT_ONCE = 4


@dataclass(slots=True)
class _Loading:
    """A load on its way, for the requests that wait for it."""

    load: Load
    namespace: Namespace
    prefix: Ints  # up to the end of the last block
    blocks: list[Block]  # none: they are to be forgotten


class Tier:
    """Decides what is stored, loaded and dropped. Belongs to the engine's thread."""

    def __init__(
        self, cache: PrefixCache, memory: KvMemory, store: Store, clock: Callable[[], float]
    ) -> None:
        self.num_saved = self.num_loaded = self.num_skipped = self.num_lost = 0
        self.shelf = Shelf(store.identity, store.max_bytes, store.block_tokens)
        self._cache = cache
        self._memory = memory
        self._store = store
        self._clock = clock
        self._size = store.block_tokens
        self._loads: dict[int, _Loading] = {}
        self._num_loads = 0
        self._unsaved: deque[tuple[Namespace, Ints]] = deque()  # of which some may be saved
        self._kv_bytes = num_bytes(memory.kv_shapes(self._size))
        cache.on_evict = self.leaving

    def open(self, report: Callable[[Sequence[StoreReport]], None]) -> None:
        """Begin to use the store: find what it holds."""
        for stored in self._store.start(report):
            if stored.prefix is None:
                self.shelf.put_stranger(stored.key, stored.size)
                continue
            *_, block = self.shelf.walk(stored.adapter, stored.prefix)
            if block.size or block.key != stored.key:
                self.shelf.put_stranger(stored.key, stored.size)
            else:
                self.shelf.put(block, stored.size)
        self._store.remove(self.shelf.overfull())

    # ------------------------------------------------------------------ down

    def leaving(self, node: Node, left: int) -> None:
        """The tokens of a leaf from its `left`th on are about to be evicted: save the blocks that end among them."""
        first = node.end - len(node.slots) + left
        if node.end // self._size > first // self._size:
            tree = self._cache.tree
            try:
                namespace = tree.namespace_of(node)
                if not namespace.salt:
                    tokens = tree.tokens_of(node)
                    self.num_skipped += not self._save(namespace.adapter, node, tokens, first)
            except Exception:
                # The boundary: nobody has asked for this, so nobody may be hurt by it.
                self.num_skipped += 1
                self._could_not_save()

    def save_all(self) -> int:
        """Begin to save every cached prefix; `turn` goes on with it. Returns how many prefixes are looked through."""
        leaves = self._cache.tree.leaves()
        self._unsaved = deque([(space, tokens) for space, tokens, _ in leaves if not space.salt])
        return len(self._unsaved)

    @property
    def is_saving(self) -> bool:
        """Whether `turn` has something to do."""
        return bool(self._unsaved)

    def turn(self) -> None:
        """Save a little of what `save_all` found, if the store has room for it."""
        if self._store.state == "broken":
            self._unsaved.clear()
        num_left = SAVED_AT_ONCE
        while self._unsaved and num_left > 0:
            before = self.num_saved
            try:
                if not self._save_found(*self._unsaved[0], num_left):
                    return
            except Exception:  # the boundary, as in `leaving`
                self._could_not_save()
                return
            num_left -= self.num_saved - before
            if num_left > 0:
                self._unsaved.popleft()

    def finish(self, seconds: float) -> None:
        """Save every cached prefix for the next runtime, for so long at most, and close the store."""
        deadline = time.monotonic() + seconds
        if self._store.outlives:
            self.save_all()
        while self._unsaved and time.monotonic() < deadline:
            before = self.num_saved
            self.turn()
            if self.num_saved == before and self._unsaved:
                time.sleep(0.002)  # what waits is being written
        self._store.close(max(0.0, deadline - time.monotonic()))

    def _could_not_save(self) -> None:
        log.exception("K/V was not stored")
        self._unsaved.clear()

    def _save_found(self, namespace: Namespace, tokens: Ints, at_most: int) -> bool:
        """As `_save`, of what is cached of these tokens."""
        found = self._cache.find(namespace, tokens)
        if found.node is None:
            return True
        return self._save(namespace.adapter, found.node, tokens[: found.length], 0, at_most)

    def _save(
        self, adapter: int, node: Node, tokens: Ints, first: int, at_most: int = 1 << 30
    ) -> bool:
        """Store the blocks of a prefix cached without a salt that end after `first` and are not stored yet.

        False: the store takes no more now.
        """
        slots: Ints | None = None
        for block in self.shelf.walk(adapter, tokens):
            end = block.end
            if block.size or end <= first:
                continue
            if at_most == 0 or self._store.state != "open":
                self.shelf.prune(block)
                return at_most == 0
            if slots is None:
                slots = self._cache.tree.slots_of(node)
            try:
                kv = self._memory.read_kv(slots[end - self._size : end])
            except Exception:
                self.shelf.prune(block)
                raise
            self._store.save(Wanted(block.key, tokens[:end].copy(), adapter), kv)
            at_most -= 1
            self.num_saved += 1
            self.shelf.put(block, self._kv_bytes + 4 * end + OVERHEAD_BYTES)
            self._store.remove(self.shelf.overfull())
            if not block.size:  # the store cannot hold a prefix so long
                break
        return True

    # ------------------------------------------------------------------ up

    def holds(self, req: Req) -> bool:
        """Whether a waiting request should wait on, since more of its prefix is being loaded.

        Begins to load what it can use. A load that brought nothing is not asked for again by the same request.
        """
        load = req.load
        if load is not None and not load.done:
            if self._clock() < load.until_s:
                return True
            load.done, load.known = True, len(req.tokens)  # too slow: compute
        if req.namespace.salt or not len(self.shelf):
            return False
        found = find(req, self._cache)
        known = found.length
        limit = min(len(req.tokens), req.task.reuse_limit())
        if load is not None and known <= load.known:
            return False
        if limit - known > self._cache.num_available:
            return False
        blocks = self.shelf.find(req.namespace.adapter, req.tokens.view(0, limit), known)
        if not blocks:
            req.load = Load(known=limit, done=True)
            return False
        if found.node is not None:  # what goes on from there had better find it there
            self._cache.tree.touch(found.node)
        req.load = self._begin(req, blocks, known)
        return True

    def _begin(self, req: Req, blocks: list[Block], known: int) -> Load:
        """Load these blocks, or wait for who does."""
        for loading in self._loads.values():
            if loading.blocks and loading.blocks[0] is blocks[0]:
                return loading.load
        num_bytes = 0
        for count, block in enumerate(blocks):
            num_bytes += block.size
            if count and num_bytes > MAX_LOAD_BYTES:
                del blocks[count:]
                break
        load = Load(known=known, until_s=self._clock() + LOAD_S)
        prefix = req.tokens.view(0, blocks[-1].end).copy()
        self._num_loads += 1
        self._loads[self._num_loads] = _Loading(load, req.namespace, prefix, blocks)
        adapter = req.namespace.adapter
        wanted = [Wanted(block.key, prefix[: block.end], adapter) for block in blocks]
        self._store.used(self.shelf.touch(blocks[-1]))
        self._store.load(self._num_loads, wanted)
        return load

    def take(self, report: StoreReport) -> None:
        """Book what the store has done."""
        try:
            self._take(report)
        except Exception:  # the boundary: what cannot be put back is computed
            log.exception("a report of the store was not taken")

    def _take(self, report: StoreReport) -> None:
        if not isinstance(report, Loaded):
            self.num_lost += 1
            self.shelf.drop(report.key)
            return
        loading = self._loads.pop(report.number)
        loading.load.done = True
        for key in report.lost:
            self.num_lost += 1
            self.shelf.drop(key)
        if report.blocks and loading.blocks:
            self._restore(loading, report.blocks)

    def _restore(self, loading: _Loading, blocks: tuple[KvArrays, ...]) -> None:
        """Put loaded K/V into the pool and the tree, if there is memory for it and the prefix before it is there."""
        start = loading.prefix.size - self._size * len(loading.blocks)
        end = start + self._size * len(blocks)
        tokens = loading.prefix[:end]
        lease = Lease(self._cache, loading.namespace, tokens)
        try:
            known = lease.shared
            if known < start or known >= end or not lease.reserve(end):
                tokens = tokens[:0]
                return
            for number, kv in enumerate(blocks):
                at = start + number * self._size
                skip = max(0, known - at)
                if skip < self._size:
                    part = {name: array[:, skip:] for name, array in kv.items()}
                    self._memory.write_kv(lease.slots.view(at + skip, at + self._size), part)
            self.num_loaded += end - known
        except Exception:
            tokens = tokens[:0]
            raise
        finally:
            lease.close(tokens)

    # ------------------------------------------------------------------ forget

    def stats(self) -> dict[str, int]:
        """Blocks and bytes in the store now, and what came and went since the start."""
        return {
            "store_blocks": len(self.shelf),
            "store_bytes": self.shelf.num_bytes,
            "store_blocks_saved": self.num_saved,
            "store_blocks_skipped": self.num_skipped,
            "store_blocks_lost": self.num_lost,
            "store_tokens_loaded": self.num_loaded,
        }

    def forget(self, salt: str | None) -> None:
        """Drop all that is stored of a salt, or of all."""
        if not salt:  # what has one is not stored
            self._unsaved.clear()
            for loading in self._loads.values():
                loading.blocks.clear()
            self._store.remove(self.shelf.clear())
