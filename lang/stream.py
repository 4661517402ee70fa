"""Reading a program while it runs: what is new in its text, or in one of its slots."""

from collections.abc import Sequence

from branchwork.lang.branch import Branch
from branchwork.lang.cursor import Piece, Said
from branchwork.lang.program import Program
from branchwork.lang.report import failure
from branchwork.lang.slot import Slot
from branchwork.lang.variable import render, slots_of


class TextStream:
    """The text of a branch, or of its variable `name`, as it grows. Its methods are called under the program's lock.

    `slot` is the one that the last text came from; `num_told` how many tokens of each the reader has been told of.
    """

    def __init__(self, branch: Branch, name: str | None) -> None:
        self._branch = branch
        self._name = name
        self._next = 0
        self._shown_len = 0
        self.slot: Slot | None = None
        self.num_told: dict[Slot, int] = {}

    def take(self) -> str | None:
        """What is new; "" where nothing is, and None when nothing will be.

        Raises the error of a slot that failed or of the body, and SlotError when the body has ended without `name`.
        """
        branch = self._branch
        program = branch.program
        pieces = self._pieces()
        if pieces is None:
            if branch.ended or program.ended:
                _raise_error(program)
                branch.variable(self._name or "")
            return ""
        out: list[str] = []
        while self._next < len(pieces):
            piece = pieces[self._next]
            slot = _slot_of(piece)
            if slot is not None:
                self.slot = slot
                text = slot.spoken if slot.done else slot.text if slot.said is None else ""
                out.append(text[self._shown_len :])
                self._shown_len = len(text)
                if not slot.done or (slot.error is not None and any(out)):
                    break
                if slot.error is not None:
                    raise failure(program, slot, slot.error)
            else:
                out.append(render([piece], program.backends[0].welcome.chat_format))
            self._next += 1
            self._shown_len = 0
        text = "".join(out)
        if text:
            return text
        if self._next < len(pieces) or not (
            self._name is not None or branch.ended or program.ended
        ):
            return ""
        if self._name is None:
            _raise_error(program)
        return None

    def has_more(self) -> bool:
        """Whether `take` may give something else than ""; cheap enough to ask at every event."""
        ended = self._branch.ended or self._branch.program.ended
        pieces = self._pieces()
        if pieces is None:
            return ended
        if self._next >= len(pieces):
            return ended or self._name is not None
        slot = _slot_of(pieces[self._next])
        if slot is None or slot.done:
            return True
        return slot.said is None and len(slot.text) > self._shown_len

    def _pieces(self) -> Sequence[Piece] | None:
        if self._name is None:
            return self._branch.all_pieces() if self._branch.base else self._branch.pieces
        if self._name not in self._branch.variables:
            return None
        return tuple(slots_of(self._branch.variables[self._name]))


def _slot_of(piece: Piece) -> Slot | None:
    if isinstance(piece, Said):
        return piece.slot
    return piece if isinstance(piece, Slot) else None


def _raise_error(program: Program) -> None:
    if program.error is not None:
        raise program.error
