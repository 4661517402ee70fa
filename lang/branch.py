"""A branch of a program: what was appended to it, its variables and its roles.

What a branch says is a list of pieces, and everything that can be asked of it (its text, its messages, what it
sends to a backend) is read off that list.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from types import FrameType
from typing import Any

from branchwork.lang.adapter import adapter_of, origin_of
from branchwork.lang.cursor import Cursor, Forked, Piece, Said
from branchwork.lang.ir import Const, Echo, Expr, Gen, Media, Reasoning, RoleMark, Select, walk
from branchwork.lang.program import Program
from branchwork.lang.reasoning import splitter
from branchwork.lang.slot import Slot, Where
from branchwork.lang.variable import Derived, Gathered, Span
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.errors import BranchworkError, ProgramError, RoleError, SlotError


class Branch:
    """One branch of a program. What a body may do to it is in `branchwork.lang.state`.

    A forked branch continues `base` after the first `base_len` pieces of it. `backend` is whom it is said to: the
    program's own, unless it is told another.
    """

    __slots__ = (
        "_cursors",
        "_names",
        "_num_unnamed",
        "_spans",
        "backend",
        "base",
        "base_len",
        "ended",
        "messages",
        "pieces",
        "program",
        "role",
        "variables",
    )

    def __init__(
        self, program: Program, base: "Branch | None" = None, backend: Backend | None = None
    ) -> None:
        self.program = program
        self.base = base
        self.base_len = 0 if base is None else len(base.pieces)
        self.pieces: list[Piece] = []
        self.variables: dict[str, Any] = {} if base is None else dict(base.variables)
        self.messages: list[tuple[str, Span]] = [] if base is None else list(base.messages)
        self.role: tuple[str, Span] | None = None
        self.ended = False
        self._names: set[str] = set()
        self._num_unnamed = 0
        self._spans: list[Span] = []
        if base is not None and base.role is not None:
            self.role = (base.role[0], Span(base.role[1].pieces))
            self._spans.append(self.role[1])
        inherited: Backend = program.backends[0] if base is None else base.backend
        self.backend: Backend = backend or inherited
        program.use(self.backend)
        main = Cursor(program, self.backend, self.pieces, forked=base is not None)
        self._cursors: dict[object, Cursor] = {_key(self.backend): main}
        program.parties.append(self)

    # ------------------------------------------------------------------ appending

    def append(
        self, expr: Expr, frame: FrameType | None = None, where: Where | None = None
    ) -> None:
        """Append `expr`; slots in it are asked for at once. `frame` or `where` is where the author wrote it."""
        self._check_open()
        with self.program.lock:
            parts = walk(expr)
            thinking = _thinking(parts)
            asked = False
            for part in parts:
                if frame is not None and not isinstance(part, Const | RoleMark):
                    where = (frame.f_code, frame.f_lineno)
                if thinking and id(part) in thinking and isinstance(part, Gen):
                    self._append_thinking(part, thinking[id(part)], where)
                    asked = True
                else:
                    asked |= self._append_part(part, where)
            if asked:
                self._advance()
            self.program.changed()

    def _append_part(self, part: Expr, where: Where | None) -> bool:
        """Whether the part holds a slot."""
        if isinstance(part, Const):
            self._add(part)
        elif isinstance(part, Gen | Select):
            self._append_slot(part, where)
            return True
        elif isinstance(part, RoleMark):
            if part.edge == "begin":
                self._begin_role(part)
            else:
                self._end_role(part)
        elif isinstance(part, Echo):
            self._add(Said(part.slot))
        elif isinstance(part, Reasoning):
            pass  # its slots come before it
        else:
            assert isinstance(part, Media)
            model = self.backend.welcome.model
            kind = "an image" if part.frames is None else "a video"
            raise ProgramError(
                f"{kind} cannot be shown to {model}: it is sent text only ({part.path!r})"
            )
        return False

    def _add(self, piece: Piece) -> None:
        self.pieces.append(piece)
        for span in self._spans:
            span.pieces.append(piece)

    def _append_slot(self, expr: Gen | Select, where: Where | None) -> None:
        if (
            isinstance(expr, Gen)
            and expr.options.get("max_tokens") == 0
            and expr.options.get("return_logprob")
        ):
            return self._append_look(expr, where)
        slot = self._declare(expr, where)
        cursor = self._cursor(expr.on)
        num_samples = expr.options.get("n", 1) if isinstance(expr, Gen) else 1
        if num_samples > 1:
            samples = [self._sample(slot, cursor.backend, i) for i in range(1, num_samples)]
            self._add(Forked(samples))
        cursor.will_fill(slot)
        self._add(slot)

    def _append_look(self, expr: Gen, where: Where | None) -> None:
        """No token is asked for but the likelihood of the next: it is drawn beside the branch, and not said."""
        slot = self._declare(
            Gen(expr.name, {**expr.options, "max_tokens": 1}, expr.hole, expr.on), where
        )
        slot.said = _nothing
        self._add(Forked([self._aside(slot, self._cursor(expr.on).backend)]))
        self._add(slot)

    def _declare(self, expr: Gen | Select, where: Where | None) -> Slot:
        name = expr.name
        if name is None:
            self._num_unnamed += 1
            wire_name = f"_{self._num_unnamed}"
        else:
            if name in self._names:
                raise SlotError(
                    f"slot {name!r} exists already in this branch; give each slot its own name"
                )
            self._names.add(name)
            wire_name = name
        slot = Slot(wire_name, expr, where)
        self.program.slots.append(slot)
        if name is not None:
            self.variables[name] = slot
        return slot

    def _sample(self, slot: Slot, backend: Backend, number: int) -> Cursor:
        sample = Slot(slot.wire_name, slot.expr, slot.where)
        slot.samples.append(sample)
        return self._aside(sample, backend, number)

    def _aside(self, slot: Slot, backend: Backend, number: int = 0) -> Cursor:
        """A cursor that fills one slot from here, beside the branch."""
        pieces: list[Piece] = [slot]
        cursor = Cursor(self.program, backend, pieces, forked=True, sample=number)
        cursor.will_fill(slot)
        cursor.close()
        self._cursors[cursor] = cursor
        return cursor

    def _append_thinking(self, expr: Gen, reasoning: Reasoning, where: Where | None) -> None:
        """The slot is filled beside the branch, which goes on with what was said and without what was thought."""
        thought, said = splitter(reasoning.model_type)
        slot = self._declare(expr, where)
        slot.said = said
        self._add(Forked([self._aside(slot, self._cursor(expr.on).backend)]))
        self._add(slot)
        if expr.name is not None:
            self.variables[reasoning.process_name_for_reasoning(expr.name)] = Derived(slot, thought)

    def _cursor(self, backend: Backend | None) -> Cursor:
        """The cursor of `backend` (None: the branch's own); a new one has all of the branch still to read."""
        if backend is None:
            return self._cursors[_key(self.backend)]
        cursor = self._cursors.get(_key(backend))
        if cursor is None:
            for piece in self.all_pieces():
                if isinstance(piece, RoleMark):
                    _check_role(piece.role, backend)
            self.program.use(backend)
            prefix = self.base.all_pieces(self.base_len) if self.base else []
            cursor = Cursor(self.program, backend, self.pieces, prefix=prefix)
            self._cursors[_key(backend)] = cursor
        return cursor

    # ------------------------------------------------------------------ roles and scopes

    def _begin_role(self, mark: RoleMark) -> None:
        if self.role is not None:
            raise RoleError(f"{mark.role} begins inside {self.role[0]}; roles do not nest")
        for cursor in self._cursors.values():
            _check_role(mark.role, cursor.backend)
        chat_format = self.backend.welcome.chat_format
        if chat_format.default_system and mark.role != "system" and not self.messages:
            for part in (
                RoleMark("system", "begin"),
                Const(chat_format.default_system),
                RoleMark("system", "end"),
            ):
                self._append_part(part, None)
        self._add(mark)
        span = Span()
        self.role = (mark.role, span)
        self._spans.append(span)

    def _end_role(self, mark: RoleMark) -> None:
        if self.role is None:
            raise RoleError(f"{mark.role} ends, but no role has begun")
        role, span = self.role
        if role != mark.role:
            raise RoleError(f"{mark.role} ends inside {role}; roles do not nest")
        self._spans.remove(span)
        self.role = None
        self.messages.append((role, span))
        self._add(mark)

    def open_scope(self) -> Span:
        """A span of what is appended from here on, until `close_scope`."""
        with self.program.lock:
            span = Span()
            self._spans.append(span)
            return span

    def close_scope(self, name: str, span: Span) -> None:
        """What was appended since becomes the variable `name`."""
        with self.program.lock:
            self._spans.remove(span)
            self.variables[name] = span

    # ------------------------------------------------------------------ forks

    def fork(self, size: int) -> "list[Branch]":
        """`size` branches that continue this one; nothing is sent again."""
        self._check_open()
        with self.program.lock:
            children: list[Branch] = [type(self)(self.program, self) for _ in range(size)]
            main = _key(self.backend)
            self.pieces.append(Forked([child._cursors[main] for child in children]))
            self._advance()
            return children

    def gather(self, children: "Sequence[Branch]") -> None:
        """Each variable that is new in the children becomes a list here, in their order."""
        with self.program.lock:
            known = set(self.variables)
            names = dict.fromkeys(
                name for child in children for name in child.variables if name not in known
            )
            for name in names:
                self.variables[name] = Gathered(
                    [each.variables[name] for each in children if name in each.variables]
                )
            for child in children:
                child.end()

    def append_branches(self, children: "Sequence[Branch]") -> None:
        """What the children have appended follows here, in their order."""
        self._check_open()
        with self.program.lock:
            for child in children:
                for piece in child.pieces:
                    if not isinstance(piece, Forked):
                        self._add(piece)
                child.end()

    # ------------------------------------------------------------------ reading

    def all_pieces(self, end: int | None = None) -> list[Piece]:
        """The pieces from the root of the fork tree on, up to `end` of this branch's own."""
        chain: list[tuple[Branch, int | None]] = [(self, end)]
        while (branch := chain[-1][0]).base is not None:
            chain.append((branch.base, branch.base_len))
        return [piece for branch, stop in reversed(chain) for piece in branch.pieces[:stop]]

    def variable(self, name: str) -> Any:
        """What `name` holds. Raises SlotError, which names those that exist."""
        try:
            return self.variables[name]
        except KeyError:
            known = ", ".join(self.variables) or "none yet"
            near = get_close_matches(name, self.variables, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SlotError(f"no slot named {name!r}{hint} (known: {known})") from None

    # ------------------------------------------------------------------ the end

    def end(self) -> None:
        """Nothing more may be appended; an open role is closed."""
        if self.ended:
            return
        if self.role is not None:
            self._end_role(RoleMark(self.role[0], "end"))
        self.ended = True
        for cursor in list(self._cursors.values()):
            cursor.close()

    def abort(self) -> None:
        """Stop now."""
        self.ended = True
        for cursor in self._cursors.values():
            cursor.abort()

    def fail(self, error: BranchworkError) -> None:
        """The backend is gone."""
        for cursor in self._cursors.values():
            cursor.fail(error)

    def _advance(self) -> None:
        for cursor in list(self._cursors.values()):
            cursor.advance()

    def _check_open(self) -> None:
        if self.ended:
            raise ProgramError("this state has ended; nothing can be appended to it")


def _key(backend: Backend) -> object:
    """Equal for what computes the same; a backend itself need not be hashable."""
    return id(origin_of(backend)), adapter_of(backend)


def _nothing(_: str) -> str:
    return ""


def _thinking(parts: tuple[Expr, ...]) -> dict[int, Reasoning]:
    """The parts whose thoughts are to be split off."""
    if Reasoning not in map(type, parts):
        return {}
    marks = [part for part in parts if isinstance(part, Reasoning)]
    return {id(inner): mark for mark in marks for inner in walk(mark.inner)}


def _check_role(role: str, backend: Backend) -> None:
    known = backend.welcome.chat_format.begin
    if role not in known:
        names = ", ".join(known) or "no roles"
        raise RoleError(f"{backend.welcome.model} has no role {role!r}; it knows {names}")
