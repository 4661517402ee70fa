"""A vocabulary as the machine needs it: its trie, its bytes, the base masks, and room to work in.

One `Lexicon` serves every grammar of a vocabulary. Base masks are kept by the key of the piece's language, so the
inside of a JSON string is walked once in the life of a runtime. Least recently used ones go when they are too many.
"""

import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from branchwork.runtime.grammar.interface import MaskRow, Vocabulary
from branchwork.runtime.grammar.machine import walk
from branchwork.runtime.grammar.machine.piece import need_of
from branchwork.runtime.grammar.machine.program import CHARS, NONE, Bytes, Code, Program, Words
from branchwork.runtime.grammar.machine.stack import (
    ENDED,
    FAILED,
    MAX_DEPTH,
    TEXT_READ,
    WORKSPACE_WORDS,
)
from branchwork.runtime.grammar.machine.trie import HEAD, TRIE_WORDS, build_trie
from branchwork.runtime.grammar.machine.views import MAX_VIEW_WORDS
from branchwork.runtime.wire.errors import ConstraintError

# Base masks of one vocabulary: some hundreds of states at 151k tokens.
MAX_BASE_BYTES = 64 << 20
# A value of the machine: 5,000 nested arrays need 50,000 words.
MAX_STATE_WORDS = 1 << 18
# Wide configurations that are masked by their bases; more of them are walked like narrow ones.
MAX_WIDE = 512
# Tokens with more bytes than this are few: they are looked at one by one.
LONG_TOKEN = 16
# Rows that one base keeps for what is left of a count, and sets of following bytes whose edges it keeps.
MAX_LIMITED = 64
MAX_EDGE_SETS = 16


class Workspace(threading.local):
    """What a walk needs to work in; each thread has its own."""

    def __init__(self) -> None:
        self.words: Words = np.zeros(WORKSPACE_WORDS, np.int64)
        self.state: Words = np.zeros(MAX_STATE_WORDS, np.int64)
        self.wide: Words = np.zeros(walk.WIDE_WORDS * MAX_WIDE, np.int64)
        self.view: Words = np.zeros(MAX_VIEW_WORDS, np.int64)
        self.scratch: Bytes = np.zeros(4 * MAX_DEPTH, np.uint8)
        self.run: Bytes = np.zeros(1 << 16, np.uint8)
        self.byte = self.run[:1]
        self._edges: Edges = (np.zeros(0, np.int32), np.zeros(0, np.int32))

    def edges(self, num_nodes: int) -> "Edges":
        """Room for as many edges as the trie has nodes."""
        if len(self._edges[0]) < num_nodes:
            self._edges = (np.zeros(num_nodes, np.int32), np.zeros(num_nodes, np.int32))
        return self._edges

    def text(self, size: int) -> Bytes:
        """Room for `size` bytes, and a token behind them."""
        if len(self.scratch) < size + 2 * MAX_DEPTH:
            self.scratch = np.zeros(2 * size + 2 * MAX_DEPTH, np.uint8)
        return self.scratch


Edges = tuple[Code, Code]
"""The nodes that edges lead to, and the counts before each; in the order of their bytes."""


class Limit(Enum):
    """How far the bound of a counted piece is: there is none; only long tokens can reach it; any token can."""

    NONE, FAR, NEAR = range(3)


@dataclass(slots=True)
class Base:
    """What a wide state allows whatever its stack is.

    row         the tokens that stay inside the piece
    need        [vocabulary size] uint16: counts each of them needs; None where nobody counts
    limited     rows for when only so many counts are left
    edges       where the piece can be left, by the set of bytes that can follow
    """

    row: MaskRow
    need: npt.NDArray[np.uint16] | None
    max_need: int
    limited: dict[int, MaskRow] = field(default_factory=dict)
    edges: dict[bytes, Edges] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Memory held."""
        held = self.row.nbytes * (1 + len(self.limited))
        held += 0 if self.need is None else self.need.nbytes
        return held + sum(child.nbytes + counted.nbytes for child, counted in self.edges.values())


@dataclass(frozen=True, slots=True)
class Look:
    """What may follow a value.

    row         the tokens, with the ends of sequence if the text may end
    can_end     whether it may
    text_read   whether that depends on more of the text than the value's view holds (see `views`)
    """

    row: MaskRow
    can_end: bool
    text_read: bool


class Lexicon:
    """A vocabulary's trie, token bytes and base masks. Safe to use from several threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        # Not the vocabulary itself: it is what keeps its lexicon alive, not the other way round.
        self.mask_words = vocabulary.mask_words
        self.num_tokens = len(vocabulary.token_bytes)
        self.eos_ids = frozenset(vocabulary.eos_ids)
        self.trie = build_trie(
            [
                b"" if token in vocabulary.eos_ids else data
                for token, data in enumerate(vocabulary.token_bytes)
            ]
        )
        self.work = Workspace()
        lengths = [len(data) for data in vocabulary.token_bytes]
        self.offsets = [0, *np.cumsum(lengths).tolist()]
        self._ends: Words = np.array(self.offsets, np.int64)
        self._by_length: Words = np.argsort(np.array(lengths, np.int64), kind="stable")
        self._lengths = np.sort(np.array(lengths, np.int64))
        self.data: Bytes = np.frombuffer(b"".join(vocabulary.token_bytes), np.uint8).copy()
        self._every: MaskRow = np.zeros(vocabulary.mask_words, np.int32)
        walk.allow(self.trie, 0, int(self.trie[1]), self._every)
        self.end_row: MaskRow = np.zeros(vocabulary.mask_words, np.int32)
        for token in vocabulary.eos_ids:
            self.end_row[token >> 5] |= np.uint32(1 << (token & 31)).astype(np.int32)
        self.end_row.flags.writeable = False
        self._bases: OrderedDict[tuple[bytes, int, Limit], Base] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def token(self, token_id: int) -> Bytes:
        """A token's bytes; empty for special ones and ids outside of the vocabulary."""
        if not 0 <= token_id < len(self.offsets) - 1:
            return self.data[:0]
        return self.data[self.offsets[token_id] : self.offsets[token_id + 1]]

    def base(
        self, program: Program, piece: int, state: int, limit: Limit, following: Words
    ) -> Base:
        """The base of a piece's state, with the edges for the `following` bytes (256 bits)."""
        key = (program.pieces[piece], state, limit)
        bits = following.tobytes()
        with self._lock:
            base = self._bases.get(key)
            if base is not None:
                self._bases.move_to_end(key)
                if bits in base.edges:
                    return base
                self._bytes -= base.size_bytes
            base = self._bases[key] = self._walk(program, piece, state, limit, base, following)
            self._bytes += base.size_bytes
            while self._bytes > MAX_BASE_BYTES and len(self._bases) > 1:
                self._bytes -= self._bases.popitem(last=False)[1].size_bytes
        return base

    def _walk(
        self,
        program: Program,
        piece: int,
        state: int,
        limit: Limit,
        base: Base | None,
        following: Words,
    ) -> Base:
        """Walk the trie for a new base, or for further edges of a known one."""
        new, work = base is None, self.work
        row: MaskRow = np.zeros(self.mask_words if new else 0, np.int32)
        counts = limit is Limit.NEAR
        usual = min(need_of(program.code, piece, state), 65535)
        need = np.full(self.num_tokens if new and counts else 0, usual, np.uint16)
        child, counted = work.edges(int(self.trie[0]))
        num = walk.base_walk(
            program.code,
            work.words,
            self.trie,
            piece,
            state,
            following,
            limit is not Limit.NONE,
            self._every,
            row,
            need,
            child,
            counted,
        )
        order = np.argsort(self.trie[HEAD + TRIE_WORDS * child[:num]] & 255, kind="stable")
        if base is None:
            base = Base(row, need if counts else None, int(need.max(initial=0)))
        if len(base.edges) >= MAX_EDGE_SETS:
            base.edges.clear()
        base.edges[following.tobytes()] = (child[:num][order], counted[:num][order])
        return base

    def _limited(self, base: Base, code: Code, piece: int, state: int, left: int) -> MaskRow:
        """The base's row when `left` more elements may come."""
        row = base.limited.get(left)
        if row is not None:
            return row
        if base.need is None:
            # What is left over for the token itself, whatever is needed after it; each byte counts once at most.
            at_least = left - int(code[piece + 3])
            longer = self._by_length[np.searchsorted(self._lengths, at_least, side="right") :]
            if not len(longer):
                return base.row
            row = base.row.copy()
            walk.forbid_longer(code, piece, state, left, self.data, self._ends, longer, row)
        elif left >= base.max_need:
            return base.row
        else:
            allowed = np.zeros(32 * len(base.row), np.bool_)
            allowed[: len(base.need)] = base.need <= left
            row = base.row & np.packbits(allowed, bitorder="little").view(np.int32)
        with self._lock:
            if len(base.limited) >= MAX_LIMITED:
                self._bytes -= row.nbytes * len(base.limited)
                base.limited.clear()
            base.limited[left] = row
            self._bytes += row.nbytes
        return row

    def look(self, program: Program, state: Words, text: Bytes, pos: int) -> Look:
        """What may follow a value of the machine at `pos`."""
        work, trie, code = self.work, self.trie, program.code
        row: MaskRow = np.zeros(self.mask_words, np.int32)
        found = walk.narrow_mask(code, work.words, text, trie, state, pos, row, work.wide)
        can_end = bool(work.words[ENDED])
        for k in range(found):
            wide = work.wide[walk.WIDE_WORDS * k : walk.WIDE_WORDS * (k + 1)]
            index, address, piece_state, count, record = wide[:5].tolist()
            piece, is_limited = (
                int(code[address + 3]),
                bool(code[address] == CHARS and code[address + 5] != NONE),
            )
            left = int(code[address + 5]) - count
            limit = Limit.NONE
            if is_limited:
                limit = Limit.NEAR if left - int(code[piece + 3]) < LONG_TOKEN else Limit.FAR
            base = self.base(program, piece, piece_state, limit, wide[5:])
            inside = base.row
            if is_limited:
                inside = self._limited(base, code, piece, piece_state, left)
            if record:
                inside = inside.copy()
                walk.forbid_repeated(
                    code, work.words, text, trie, address, piece_state, record, pos, inside
                )
            row |= inside
            child, counted = base.edges[wide[5:].tobytes()]
            if len(child):
                walk.wide_mask(code, work.words, text, trie, index, pos, row, child, counted)
        if found < 0 or work.words[FAILED]:
            raise too_ambiguous()
        if can_end:
            row |= self.end_row
        return Look(row, can_end, bool(work.words[TEXT_READ]))


def too_ambiguous() -> ConstraintError:
    """For a text that has more readings than there is fuel."""
    return ConstraintError("the text has too many readings under this constraint to be enforced")


_LEXICONS: dict[int, tuple["weakref.ref[Vocabulary]", Lexicon]] = {}


def lexicon_of(vocabulary: Vocabulary) -> Lexicon:
    """The lexicon of a vocabulary, built on first use and kept as long as the vocabulary lives.

    By identity: to hash or compare 151k tokens would cost more than all that follows.
    """
    number = id(vocabulary)
    known = _LEXICONS.get(number)
    if known is not None and known[0]() is vocabulary:
        return known[1]
    lexicon = Lexicon(vocabulary)
    _LEXICONS[number] = (weakref.ref(vocabulary), lexicon)
    weakref.finalize(vocabulary, _LEXICONS.pop, number, None).atexit = False
    return lexicon
