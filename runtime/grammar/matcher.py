"""A compiled grammar over one vocabulary, and the matchers that follow it: `interface.Grammar` and `Matcher`."""

import itertools
from collections import OrderedDict

import numpy as np

from branchwork.runtime.grammar.closing import close
from branchwork.runtime.grammar.interface import MaskRow, Outlook
from branchwork.runtime.grammar.machine import jump, values, views
from branchwork.runtime.grammar.machine.program import Bytes, Program, Words
from branchwork.runtime.grammar.machine.stack import MAX_DEPTH
from branchwork.runtime.grammar.masks import Lexicon, too_ambiguous
from branchwork.runtime.wire.errors import ConstraintError

# Places kept for one grammar, with their masks: some 1,600 at 151k tokens.
MAX_SPOT_BYTES = 32 << 20

# What it takes to remember where a token leads.
LINK_BYTES = 100

# What a way around keys that were there before may cost more than the straight one.
BARRED_BYTES = 8

AT_END = Outlook(must_end=True, is_forced=False, closing_len=0)

_numbers = itertools.count(1)


class View:
    """What can be told of a place without the text before it, but for what its view holds (see `views`)."""

    __slots__ = ("can_end", "row")

    def __init__(self) -> None:
        self.row: MaskRow | None = None
        self.can_end: bool | None = None


class Spot:
    """A place in a grammar: the machine's value there, and what was found out about it.

    `following` are the places that tokens have led to from here.
    """

    __slots__ = ("closing", "following", "forced", "outlook", "state", "view")

    def __init__(self, state: Words, view: View) -> None:
        self.state = state
        self.view = view
        self.forced: bytes | None = None
        self.closing: bytes | None = None
        self.outlook: Outlook | None = None
        self.following: dict[int, Spot] = {}

    @property
    def is_textual(self) -> bool:
        """Whether what may follow depends on the text before it."""
        return bool(self.state[2] & 2)


class MachineGrammar:
    """A program with a vocabulary. Its places are shared by all its matchers, least recently used out first."""

    def __init__(self, program: Program, lexicon: Lexicon) -> None:
        # The workspace's memo belongs to the program whose number is in word 0.
        program.code[0] = next(_numbers)
        self.program = program
        self.lexicon = lexicon
        self._spots: OrderedDict[bytes, Spot] = OrderedDict()
        self._row_bytes = 4 * lexicon.mask_words
        self._spot_bytes = 0
        work = lexicon.work
        length = values.begin(program.code, work.words, work.text(0), program.entry, work.state)
        if length == 0:
            raise too_ambiguous()
        self._first = self.spot(work.state[:length].copy(), work.text(0), 0)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is not enforced, a sentence each."""
        return self.program.warnings

    @property
    def size_bytes(self) -> int:
        """The program, and the places as far as they are made."""
        return self.program.code.nbytes + self._spot_bytes

    def start(self) -> "MachineMatcher":
        """A matcher at the beginning."""
        return MachineMatcher(self, self._first, np.zeros(0, np.uint8), 0, False)

    def spot(self, state: Words, text: Bytes, pos: int) -> Spot:
        """The place with that value; of one that depends on the text, only the view is shared."""
        textual = bool(state[2] & 2)
        if textual:
            work = self.lexicon.work
            length = views.view(self.program.code, text, state, pos, work.view)
            if length == 0:
                return Spot(state, View())
            key = work.view[:length].tobytes()
        else:
            key = state.tobytes()
        kept = self._spots.get(key)
        if kept is None:
            kept = Spot(state, View())
            self._keep(key, kept)
        else:
            self._spots.move_to_end(key)
        return Spot(state, kept.view) if textual else kept

    def link(self, spot: Spot, token_id: int, following: Spot) -> None:
        """Remember where a token leads, if that is the same whatever the text was."""
        if not self.program.records:
            spot.following[token_id] = following
            self._spot_bytes += LINK_BYTES
            self._forget()

    def _keep(self, key: bytes, spot: Spot) -> None:
        self._spots[key] = spot
        self._spot_bytes += self._size(key, spot)
        self._forget()

    def _size(self, key: bytes, spot: Spot) -> int:
        return len(key) + spot.state.nbytes + self._row_bytes

    def _forget(self) -> None:
        """When places are too many, drop the half that was used least recently; and what leads to any of them."""
        if self._spot_bytes <= MAX_SPOT_BYTES:
            return
        for spot in self._spots.values():
            spot.following.clear()
        self._spot_bytes = sum(self._size(key, spot) for key, spot in self._spots.items())
        while self._spot_bytes > MAX_SPOT_BYTES // 2 and len(self._spots) > 1:
            key, old = self._spots.popitem(last=False)
            self._spot_bytes -= self._size(key, old)


class MachineMatcher:
    """Where one request stands. Every call costs microseconds; see `interface.Matcher` for the contract.

    Raises ConstraintError, for this request alone, where the text has too many readings.
    """

    __slots__ = ("_ended", "_grammar", "_pos", "_spot", "_text")

    def __init__(
        self, grammar: MachineGrammar, spot: Spot, text: Bytes, pos: int, ended: bool
    ) -> None:
        self._grammar = grammar
        self._spot = spot
        self._text = text
        self._pos = pos
        self._ended = ended

    def copy(self) -> "MachineMatcher":
        """An independent matcher at the same place."""
        text = self._text.copy() if self._pos else self._text
        return MachineMatcher(self._grammar, self._spot, text, self._pos, self._ended)

    def place(self) -> bytes | None:
        """The machine's value; None where more than it decides: the text so far, or an end."""
        if self._ended or self._grammar.program.records or self._spot.is_textual:
            return None
        return self._spot.state.tobytes()

    def mask(self) -> MaskRow:
        """The tokens that may follow; the end-of-sequence bits say whether the text may end here."""
        if self._ended:
            return self._grammar.lexicon.end_row
        known = self._spot.view.row
        return self._look() if known is None else known

    def _look(self) -> MaskRow:
        grammar, spot = self._grammar, self._spot
        look = grammar.lexicon.look(grammar.program, spot.state, self._room(0), self._pos)
        if look.text_read:
            spot.view = View()
        look.row.flags.writeable = False
        spot.view.row, spot.view.can_end = look.row, look.can_end
        return look.row

    def accept(self, token_id: int) -> bool:
        """Advance over a token (an end-of-sequence id where the text may end)."""
        before = self._spot
        known = before.following.get(token_id)
        if known is not None and not self._ended:
            self._spot = known
            return True
        lexicon = self._grammar.lexicon
        if token_id in lexicon.eos_ids:
            self._ended = self._ended or self.can_end()
            return self._ended
        if not self._advance(lexicon.token(token_id)):
            return False
        self._grammar.link(before, token_id, self._spot)
        return True

    def accept_bytes(self, data: bytes) -> bool:
        """Advance over bytes that need not be whole tokens."""
        if not data:
            return True
        return self._advance(np.frombuffer(data, np.uint8).copy())

    def _advance(self, data: Bytes) -> bool:
        if len(data) == 0 or self._ended:
            return False
        grammar, work = self._grammar, self._grammar.lexicon.work
        text = self._room(len(data))
        length = values.run(
            grammar.program.code, work.words, text, self._spot.state, data, self._pos, work.state
        )
        if length < 0:
            return False
        if length == 0:
            raise too_ambiguous()
        if grammar.program.records:
            self._pos += len(data)
        self._spot = grammar.spot(work.state[:length].copy(), text, self._pos)
        return True

    def _room(self, size: int) -> Bytes:
        """The text so far with room for more: our own if the grammar needs it, else anybody's."""
        if not self._grammar.program.records:
            return self._grammar.lexicon.work.text(size)
        needed = self._pos + size + 2 * MAX_DEPTH
        if len(self._text) < needed:
            longer = np.zeros(2 * needed, np.uint8)
            longer[: self._pos] = self._text[: self._pos]
            self._text = longer
        return self._text

    def can_end(self) -> bool:
        """Whether the text so far is a whole sentence."""
        view = self._spot.view
        if view.can_end is None:
            code, work = self._grammar.program.code, self._grammar.lexicon.work
            view.can_end = bool(
                values.may_end(code, work.words, self._room(0), self._spot.state, self._pos)
            )
        return view.can_end

    def outlook(self) -> Outlook:
        """What may come from here, in short."""
        if self._ended:
            return AT_END
        known = self._spot.outlook
        return self._look_out() if known is None else known

    def _look_out(self) -> Outlook:
        spot, code, work = self._spot, self._grammar.program.code, self._grammar.lexicon.work
        text, state, pos = self._room(len(work.byte)), spot.state, self._pos
        may_go_on = not self.can_end() or values.may_go_on(code, work.words, text, state, pos)
        is_forced = jump.forced_run(code, work.words, text, state, pos, work.byte) > 0
        closing_len = int(jump.least_cost(code, work.words, text, state, pos))
        # Where keys or items must be new, the way straight to the end may be barred.
        if closing_len and self._grammar.program.records:
            closing_len += BARRED_BYTES
        spot.outlook = Outlook(not may_go_on, is_forced, closing_len)
        return spot.outlook

    def forced(self) -> bytes:
        """The longest run of bytes that every continuation begins with."""
        spot = self._spot
        if spot.forced is None:
            code, work = self._grammar.program.code, self._grammar.lexicon.work
            text = self._room(len(work.run))
            length = jump.forced_run(code, work.words, text, spot.state, self._pos, work.run)
            spot.forced = work.run[:length].tobytes()
        return b"" if self._ended else spot.forced

    def closing(self) -> bytes:
        """A shortest run of bytes after which the text may end; ConstraintError if it is longer than 64 KiB."""
        spot = self._spot
        if spot.closing is None:
            code, work = self._grammar.program.code, self._grammar.lexicon.work
            text = self._room(len(work.run))
            spot.closing = close(code, work, text, spot.state, self._pos)
            if spot.closing is None:
                raise ConstraintError("no way was found to close the constraint from here")
            if spot.outlook is not None:
                spot.outlook = spot.outlook._replace(closing_len=len(spot.closing))
        return b"" if self._ended else spot.closing
