"""A branch of a backend that follows what a program appends: pieces in, instructions out, events in.

A branch of a program is a list of pieces. Each backend that works on it has a cursor into that list. Advancing a
cursor turns the next pieces into instructions, without waiting: where a piece is not known yet (an answer that
another branch gives, a choice that the caller makes), the cursor stops there and goes on by itself when it is.
"""

from collections.abc import Sequence
from contextlib import suppress

from branchwork.lang import choices
from branchwork.lang.adapter import origin_of
from branchwork.lang.ir import Const, Gen, RoleMark, Select
from branchwork.lang.program import Program
from branchwork.lang.slot import Slot
from branchwork.runtime.wire import messages as wire
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.errors import (
    Aborted,
    BranchworkError,
    ProgramError,
    error_from,
)


class Forked:
    """The point in a branch's pieces from which other cursors go their own way."""

    __slots__ = ("cursors",)

    def __init__(self, cursors: "Sequence[Cursor]") -> None:
        self.cursors = cursors


class Said:
    """What a slot has said, once more: text, not a slot to be asked for."""

    __slots__ = ("slot",)

    def __init__(self, slot: Slot) -> None:
        self.slot = slot


Piece = Const | RoleMark | Slot | Said | Forked


class Cursor:
    """One backend's branch along `pieces`; every method is called under the program's lock.

    `prefix` comes before `pieces` and does not grow. A `forked` cursor begins when a Forked piece is reached.
    """

    __slots__ = (
        "_asked",
        "_broken",
        "_closing",
        "_finished",
        "_forked",
        "_gone",
        "_id",
        "_in_chat",
        "_next",
        "_pieces",
        "_prefix",
        "_program",
        "_sample",
        "_slots",
        "backend",
    )

    def __init__(
        self,
        program: Program,
        backend: Backend,
        pieces: Sequence[Piece],
        *,
        prefix: Sequence[Piece] = (),
        forked: bool = False,
        sample: int = 0,
    ) -> None:
        self.backend = backend
        self._program = program
        self._pieces = pieces
        self._prefix = prefix
        self._forked = forked
        self._sample = sample
        self._id: wire.BranchId | None = None
        self._next = 0
        self._slots: dict[str, Slot] = {}
        self._asked: Slot | None = None
        self._in_chat = False
        self._closing = False
        self._finished = False
        self._gone = False
        self._broken: BranchworkError | None = None

    # ------------------------------------------------------------------ pieces to instructions

    def will_fill(self, slot: Slot) -> None:
        """This cursor asks for `slot` when it comes to it."""
        self._slots[slot.wire_name] = slot
        slot.backend = self.backend
        if self._broken is not None:
            slot.fail(self._broken)

    def advance(self) -> None:
        """Send what can be sent by now."""
        out: list[wire.Instruction] = []
        self._compile(out)
        if out:
            self._send(out)

    def _go_on(self) -> None:
        """As `advance`, where an event has come: whatever it raises, nobody would hear of it."""
        try:
            self.advance()
        except BranchworkError as error:
            self.fail(error)
        except Exception as error:
            failure = ProgramError(f"what follows a slot failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self.fail(failure)

    def _send(self, instructions: Sequence[wire.Instruction]) -> None:
        try:
            self._program.driver.send(self._program, self.backend, instructions)
        except BranchworkError as error:
            self.fail(error)

    def _compile(self, out: list[wire.Instruction]) -> None:
        """The instructions of the pieces from here to the end, or to the first that is not known yet."""
        if self._finished or self._broken is not None or (self._forked and self._id is None):
            return
        texts = _Texts(out)
        num_prefix = len(self._prefix)
        while self._next < num_prefix + len(self._pieces):
            at = self._next
            piece = self._prefix[at] if at < num_prefix else self._pieces[at - num_prefix]
            if self._id is None:
                self._id = self.backend.new_branch(self._on_event)
                out.append(wire.Open(self._id, program=self._program.number))
            if not self._compile_piece(piece, self._id, texts):
                break
            self._next += 1
        else:
            if self._closing and self._id is not None:
                self._finished = True
                out.append(wire.Close(self._id))
                return  # text after the last slot is nobody's prompt
        if self._id is not None:
            texts.flush(self._id)

    def _compile_piece(self, piece: Piece, branch: wire.BranchId, texts: "_Texts") -> bool:
        """Whether the piece is wholly compiled."""
        kind = type(piece)
        if isinstance(piece, Const):
            texts.add(branch, piece.text, piece.special)
        elif isinstance(piece, Slot):
            if self._slots.get(piece.wire_name) is piece:
                return self._compile_own(piece, branch, texts)
            return self._compile_foreign(piece, branch, texts)
        elif isinstance(piece, Said):
            return self._compile_foreign(piece.slot, branch, texts)
        elif isinstance(piece, RoleMark):
            texts.add(branch, self._markup(piece), True)
        else:
            assert kind is Forked
            texts.flush(branch)
            for cursor in piece.cursors:
                if cursor.backend == self.backend and cursor._id is None:
                    cursor._begin(branch, texts.out, self._in_chat)
        return True

    def _compile_own(self, slot: Slot, branch: wire.BranchId, texts: "_Texts") -> bool:
        expr = slot.expr
        if self._asked is not slot:
            texts.flush(branch)
            texts.out.append(self._ask(slot, branch))
            self._asked = slot
        if isinstance(expr, Gen) or isinstance(expr.method, str):
            return True
        return self._compile_foreign(
            slot, branch, texts
        )  # the caller decides: its choice comes as text

    def _compile_foreign(self, slot: Slot, branch: wire.BranchId, texts: "_Texts") -> bool:
        if not slot.done:
            slot.when_done(self._go_on)
            return False
        if slot.error is not None:
            self.fail(slot.error)
            return False
        token_ids = self._kept_tokens(slot)
        if token_ids:
            texts.flush(branch)
            texts.out.append(wire.Text(branch, token_ids=token_ids))
        else:
            texts.add(branch, slot.spoken, False)
        return True

    def _kept_tokens(self, slot: Slot) -> tuple[int, ...]:
        """The tokens of another branch's answer, where they are its text exactly: then its K/V may be found again."""
        result = slot.result
        if result is None or result.reason not in ("stop", "length") or slot.said is not None:
            return ()
        if slot.backend is None or origin_of(slot.backend) is not origin_of(self.backend):
            return ()
        return tuple(token for run in slot.runs for token in run.token_ids)

    def _ask(self, slot: Slot, branch: wire.BranchId) -> wire.Instruction:
        expr = slot.expr
        deadline_s = self._program.seconds_left()
        if isinstance(expr, Gen):
            return self._program.defaults.instruction(
                branch, slot.wire_name, expr, deadline_s, self._sample
            )
        method = expr.method if isinstance(expr.method, str) else "none"
        return wire.Select(branch, slot.wire_name, expr.choices, method, deadline_s)  # type: ignore[arg-type]

    def _markup(self, mark: RoleMark) -> str:
        chat_format = self.backend.welcome.chat_format
        if mark.edge == "end":
            return chat_format.end[mark.role]
        prefix = "" if self._in_chat else chat_format.prefix
        self._in_chat = True
        return prefix + chat_format.begin[mark.role]

    def _begin(self, parent: wire.BranchId, out: list[wire.Instruction], in_chat: bool) -> None:
        self._id = self.backend.new_branch(self._on_event)
        self._in_chat = in_chat
        out.append(wire.Open(self._id, parent, program=self._program.number))
        self._compile(out)

    # ------------------------------------------------------------------ events to slots

    def _on_event(self, event: wire.Event | BranchworkError) -> None:
        with self._program.lock:
            if isinstance(event, BranchworkError):
                self.fail(event)
            elif isinstance(event, wire.Closed):
                self._gone = True
            else:
                self._on_slot_event(self._slots[event.slot], event)
            self._program.changed()

    def _on_slot_event(self, slot: Slot, event: wire.SlotEvent) -> None:
        if isinstance(event, wire.Tokens):
            slot.feed(event)
        elif isinstance(event, wire.Done):
            self._finish(slot, event)
        else:
            # The slots behind it fail with the first cause, also those that are not asked for yet.
            self.fail(error_from(event.code, event.message, event.param))

    def _finish(self, slot: Slot, result: wire.Done) -> None:
        expr = slot.expr
        if not isinstance(expr, Select) or isinstance(expr.method, str):
            slot.finish(result)
            return
        try:
            slot.finish(result, choices.decide(expr.method, result.scores))
        except (
            Exception
        ) as error:  # the author's function may raise anything; it must not end the reader
            failure = ProgramError(f"the choices_method failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            slot.fail(failure)

    # ------------------------------------------------------------------ the end

    def close(self) -> None:
        """Nothing more will be appended."""
        self._closing = True
        if self._id is not None:
            self.advance()

    def abort(self) -> None:
        """Stop now."""
        if self._id is not None and not self._gone:
            # A backend that is gone holds nothing any more.
            with suppress(BranchworkError):
                self._program.driver.send(self._program, self.backend, [wire.Abort(self._id)])
        self.fail(Aborted("the program has ended"))

    def fail(self, error: BranchworkError) -> None:
        """No slot of this cursor that is still open will be filled."""
        if self._broken is None:
            self._broken = error
        for slot in self._slots.values():
            slot.fail(error)


class _Texts:
    """Texts on their way to `out`; neighbours of one kind become one instruction."""

    __slots__ = ("_special", "_texts", "out")

    def __init__(self, out: list[wire.Instruction]) -> None:
        self.out = out
        self._texts: list[str] = []
        self._special = False

    def add(self, branch: wire.BranchId, text: str, special: bool) -> None:
        if not text:
            return
        if special is not self._special:
            self.flush(branch)
            self._special = special
        self._texts.append(text)

    def flush(self, branch: wire.BranchId) -> None:
        if self._texts:
            self.out.append(wire.Text(branch, "".join(self._texts), special=self._special))
            self._texts.clear()
