"""A small grammar as a table over tokens, which a device can follow without the host.

Most grammars have too many places for that; a choice, a number, a short pattern have few. The places are found through
the matcher itself, a byte at a time, so a machine allows and forbids exactly what the matcher does.
"""

import logging
import time
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from branchwork.runtime.grammar.interface import Grammar, MaskRow, Matcher, Vocabulary
from branchwork.runtime.grammar.machine.jit import compiled
from branchwork.runtime.grammar.machine.program import Bytes, Code, Words

log = logging.getLogger(__name__)

# A grammar with more places between two bytes than this is followed by the host.
MAX_PLACES = 128
# Those between two tokens, and one for the end: as many lines of masks, of 19 kB each at 151k tokens.
MAX_STATES = 64
# Transitions: states × classes of tokens.
MAX_CELLS = 1 << 16

# CPU time. To follow a byte takes microseconds; a grammar with which 256 keep a step waiting is left to the host.
MAX_EXPLORE_S = 0.05

_DEAD = -1

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class TokenMachine:
    """State 0 is the beginning. Compared by identity.

    masks       int32 [states, mask words]: what may follow, the ends of sequence where the text may end
    class_of    int16 [tokens]: tokens that lead alike from every state share a class
    next_state  int32 [states, classes]: below 0, the token may not follow
    is_done, is_forced  bool [states]: nothing may follow but an end; what follows is decided for a byte at least
    state_of    the state of a matcher's place
    """

    masks: npt.NDArray[np.int32]
    class_of: npt.NDArray[np.int16]
    next_state: npt.NDArray[np.int32]
    is_done: npt.NDArray[np.bool_]
    is_forced: npt.NDArray[np.bool_]
    state_of: dict[Hashable, int]


class TokenTable:
    """The bytes of a vocabulary's tokens, laid out to be walked all at once. Made once a vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        lengths = np.array([len(data) for data in vocabulary.token_bytes], np.int64)
        self.num_tokens = len(lengths)
        self.eos_ids = np.array(vocabulary.eos_ids, np.int64)
        self.mask_words = vocabulary.mask_words
        self._lengths = lengths
        self._begin = np.cumsum(lengths) - lengths
        self._data = np.frombuffer(b"".join(vocabulary.token_bytes), np.uint8)

    def walk(
        self, moves: npt.NDArray[np.int32], place: int, allowed: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.int32]:
        """Where each allowed token leads from a place, by `moves` [places, 256]; −1 for all others."""
        ends = np.full(self.num_tokens, _DEAD, np.int32)
        _walk(self._data, self._begin, self._lengths, moves, place, allowed, ends)
        return ends


@compiled
def _walk(
    data: Bytes, begin: Words, lengths: Words, moves: Code, place: int, allowed: Flags, ends: Code
) -> None:
    for token in range(len(lengths)):
        if allowed[token]:
            at = place
            for i in range(begin[token], begin[token] + lengths[token]):
                at = moves[at, data[i]]
                if at < 0:
                    break
            # A token without bytes leads nowhere.
            ends[token] = at if lengths[token] else -1


class MachineBuilder:
    """Builds a grammar's machine a little at a time, between two steps of the engine.

    `machine` is there once `work` has said that nothing is left to do; None then: the grammar is too big for one, or
    following it takes too long or fails. Only while it works does it hold more than the grammar or the machine.
    """

    def __init__(self, grammar: Grammar, table: TokenTable) -> None:
        self.machine: TokenMachine | None = None
        self._waiting: tuple[Grammar, TokenTable] | None = (grammar, table)
        self._search: _Search | None = None

    def work(self) -> bool:
        """Look at one place more; True when nothing is left to do. Raises nothing."""
        try:
            if self._waiting is not None:
                self._search, self._waiting = _Search(*self._waiting), None
            if self._search is None or not self._search.work():
                return self._search is None
            self.machine = self._search.machine
        except (
            Exception
        ) as error:  # the boundary: its requests meet the same where it fails them alone
            log.debug("a constraint has no machine: %s", type(error).__name__)
        self._waiting = self._search = None
        return True


class _Search:
    """The places of a grammar as far as they are found."""

    def __init__(self, grammar: Grammar, table: TokenTable) -> None:
        self.machine: TokenMachine | None = None
        self._table = table
        self._matchers: list[Matcher] = []
        self._number: dict[Hashable, int] = {}
        self._moves = np.full((MAX_PLACES, 256), _DEAD, np.int32)
        self._num_explored = 0
        self._states = [0]  # the places that tokens lead to
        self._masks: list[MaskRow] = []
        self._rows: list[npt.NDArray[np.int32]] = []  # by state: the place that each token leads to
        self._classes = np.zeros(table.num_tokens, np.int64)
        self._is_too_big = self._add(grammar.start()) != 0

    def work(self) -> bool:
        """Look at one place more; True when nothing is left to do."""
        if self._is_too_big:
            return True
        if self._num_explored < len(self._matchers):
            self._explore(self._num_explored)
            self._num_explored += 1
        elif len(self._rows) < len(self._states):
            self._walk(self._states[len(self._rows)])
        else:
            self.machine = self._finish()
            return True
        return self._is_too_big

    def _add(self, matcher: Matcher) -> int:
        """The number of the matcher's place; dead, and the end of it, if it is one too many or cannot be told."""
        place = matcher.place()
        number = _DEAD if place is None else self._number.get(place, len(self._matchers))
        if number == MAX_PLACES or place is None:
            self._is_too_big = True
            return _DEAD
        if number == len(self._matchers):
            self._number[place] = number
            self._matchers.append(matcher)
        return number

    def _explore(self, number: int) -> None:
        """Where each byte leads from a place."""
        latest_s = time.thread_time() + MAX_EXPLORE_S
        for byte in range(256):
            if time.thread_time() > latest_s:
                self._is_too_big = True
                return
            matcher = self._matchers[number].copy()
            if matcher.accept_bytes(bytes((byte,))):
                self._moves[number, byte] = self._add(matcher)

    def _walk(self, number: int) -> None:
        """Where each token leads from a place, and what may follow there."""
        table, matcher = self._table, self._matchers[number]
        mask = matcher.mask()
        allowed = np.unpackbits(mask.view(np.uint8), bitorder="little")[: table.num_tokens] != 0
        allowed[table.eos_ids[table.eos_ids < table.num_tokens]] = False
        row = table.walk(self._moves, number, allowed)
        if (row[allowed] < 0).any():  # the matcher knows more than its bytes tell
            self._is_too_big = True
            return
        self._masks.append(mask)
        self._rows.append(row)
        met = np.flatnonzero(np.bincount(row + 1)[1:]).tolist()
        self._states += [place for place in met if place not in self._states]
        self._refine(row)
        num_classes = int(self._classes.max(initial=0)) + 1
        num_states = len(self._states) + 1
        if num_states > MAX_STATES or num_states * (num_classes + 1) > MAX_CELLS:
            self._is_too_big = True

    def _refine(self, row: npt.NDArray[np.int32]) -> None:
        """Tell those tokens apart that one state's row does."""
        keys = self._classes * (MAX_PLACES + 1) + (row + 1)
        is_used = np.bincount(keys) > 0
        self._classes = (np.cumsum(is_used) - 1)[keys]

    def _finish(self) -> TokenMachine:
        """The states in the order in which they were met, and one more behind them: the end of the sequence."""
        num, end = len(self._states), len(self._states)
        state_of_place = np.full(MAX_PLACES + 1, _DEAD, np.int32)  # the last one for dead
        state_of_place[self._states] = np.arange(num)
        # The ends of sequence lead alike, and as no other token does.
        classes = self._classes.copy()
        eos_ids = self._table.eos_ids[self._table.eos_ids < self._table.num_tokens]
        classes[eos_ids] = classes.max(initial=0) + 1
        next_state = np.full((num + 1, int(classes.max(initial=0)) + 1), _DEAD, np.int32)
        for state, row in enumerate(self._rows):
            next_state[state, classes] = state_of_place[row]
        can_end = np.array([self._matchers[place].can_end() for place in self._states])
        if len(eos_ids):
            next_state[:num, classes[eos_ids[0]]] = np.where(can_end, end, _DEAD)
        end_mask = np.zeros(self._table.mask_words, np.int32)
        for token in self._table.eos_ids.tolist():
            end_mask[token >> 5] |= np.uint32(1 << (token & 31)).astype(np.int32)
        outlooks = [self._matchers[place].outlook() for place in self._states]
        return TokenMachine(
            masks=np.stack([*self._masks, end_mask]),
            class_of=classes.astype(np.int16),
            next_state=next_state,
            is_done=np.array([*(outlook.must_end for outlook in outlooks), True]),
            is_forced=np.array([*(outlook.is_forced for outlook in outlooks), False]),
            state_of={
                place: int(state_of_place[number])
                for place, number in self._number.items()
                if state_of_place[number] >= 0
            },
        )
