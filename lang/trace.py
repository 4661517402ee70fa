"""Looking at a program without running it: its body is run once on names in place of arguments and answers.

A trace sees the program's shape: texts, arguments, slots, roles, forks, and the programs that it calls. It ends
where the body looks at what an argument or an answer says, since what follows depends on it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NoReturn

from branchwork.lang.adapter import Adapted, adapter_of, origin_of, with_adapter
from branchwork.lang.branch import Branch
from branchwork.lang.cursor import Forked, Said
from branchwork.lang.driver import Ready, Subscribe, Waiting
from branchwork.lang.ir import Const, Echo, Expr, RoleMark, Seq, walk
from branchwork.lang.options import Defaults
from branchwork.lang.placeholder import mark
from branchwork.lang.program import Program
from branchwork.lang.report import described
from branchwork.lang.slot import Slot, Where
from branchwork.lang.state import State
from branchwork.lang.variable import Span
from branchwork.runtime.wire.backend import Backend, Listener
from branchwork.runtime.wire.errors import ProgramError
from branchwork.runtime.wire.messages import (
    PROTOCOL_VERSION,
    BranchId,
    ChatFormat,
    Instruction,
    Welcome,
)


class Param(Const, frozen=True, eq=False):
    """An argument, by name; its text is `{name}`."""

    name: str = ""


class Answer(Const, frozen=True, eq=False):
    """What a slot will say; its text is `{name}`."""

    slot: Any = None


class Unknown(str):
    """A text that is not known while its program is traced: it can be appended, and nothing can be asked of it."""

    __slots__ = ("_strict", "_what")
    _what: str
    _strict: bool

    def __new__(cls, part: Const, what: str, strict: bool) -> "Unknown":
        """A text that becomes `part` where it is appended; `strict` refuses it in an f-string, as SGLang does."""
        made = super().__new__(cls, mark(part))
        made._what = what
        made._strict = strict
        return made

    def __format__(self, spec: str) -> str:
        if self._strict or spec:
            raise TypeError(
                f"{self._what} cannot be put into an f-string of a program that is traced"
            )
        return str.__format__(self, "")

    def _looked_at(self, *_: object, **__: object) -> NoReturn:
        raise TraceEnd(f"the body looks at {self._what}")


for _question in (
    *("__len__", "__iter__", "__getitem__", "__contains__", "__bool__"),
    *("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__mul__", "__rmul__", "__mod__"),
    *("upper", "lower", "title", "strip", "lstrip", "rstrip", "split", "splitlines", "partition"),
    *("startswith", "endswith", "find", "index", "count", "replace", "join"),
):
    setattr(Unknown, _question, Unknown._looked_at)


class TraceEnd(ProgramError):
    """Where a trace cannot go on; the message says why."""


class Nowhere:
    """A backend that takes everything and answers nothing."""

    def __init__(self, chat_format: ChatFormat | None = None) -> None:
        any_role = chat_format or ChatFormat(begin=_AnyRole(), end=_AnyRole())
        self.welcome = Welcome(
            PROTOCOL_VERSION, "", "a trace", "", 0, 0, (), any_role, {}, heartbeat_s=1.0, pid=0
        )

    def new_branch(self, listener: Listener) -> BranchId:
        """Any id."""
        return 0

    def send(self, instructions: Sequence[Instruction]) -> None:
        """Nothing."""

    def wait(self, ready: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Nothing is ever waited for."""
        return ready()

    def deliver_in_background(self) -> None:
        """Nothing is ever delivered."""

    def request(self, what: str, body: str = "{}", timeout_s: float | None = 60.0) -> str:
        """An empty answer."""
        return "{}"

    def close(self) -> None:
        """Nothing."""


class _NeverWaits:
    """A driver for traces: whoever would wait has come to the trace's end."""

    def send(self, program: Waiting, backend: Backend, instructions: Sequence[Instruction]) -> None:
        """Nothing."""

    def wait(self, program: Waiting, ready: Ready, subscribe: Subscribe) -> None:
        """Raises TraceEnd."""
        raise TraceEnd("the body waits for an answer")

    def wait_outside(self, program: Waiting, ready: Ready, subscribe: Subscribe) -> None:
        """Raises TraceEnd."""
        self.wait(program, ready, subscribe)

    def sleep(self, seconds: float) -> None:
        """Nothing is tried again."""


class _AnyRole(dict[str, str]):
    """The markup of a trace, which knows every role and writes none."""

    def __contains__(self, role: object) -> bool:
        return True

    def __missing__(self, role: str) -> str:
        return ""


class Replay:
    """A traced program on its way to be run: the real branches, slots and spans for those of the trace."""

    def __init__(self, root: Branch, traced: Branch, arguments: dict[str, Any]) -> None:
        self._branches = {traced: root}
        self._slots: dict[Slot, Slot] = {}
        self._spans: dict[Span, Span] = {}
        self._arguments = arguments

    def append(self, branch: Branch, expr: Expr, made: Sequence[Slot], where: Where | None) -> None:
        """Append what was appended, with arguments and answers in their places."""
        program = self._branches[branch].program
        first = len(program.slots)
        self._branches[branch].append(fill(expr, self._arguments, self._slots), where=where)
        self._slots.update(zip(made, program.slots[first:], strict=True))

    def start(self, branch: Branch, adapter: str | None) -> None:
        """A program that the body called: a branch that begins empty, with the adapter that it named, if any."""
        program = next(iter(self._branches.values())).program
        backend = None if adapter is None else with_adapter(adapter, program.backends[0])
        self._branches[branch] = Branch(program, backend=backend)

    def fork(self, branch: Branch, children: Sequence[Branch]) -> None:
        """Fork what was forked."""
        made = self._branches[branch].fork(len(children))
        self._branches.update(zip(children, made, strict=True))

    def gather(self, branch: Branch, children: Sequence[Branch]) -> None:
        """Join what was joined."""
        self._branches[branch].gather([self._branches[each] for each in children])

    def append_branches(self, branch: Branch, children: Sequence[Branch]) -> None:
        """Join what was joined."""
        self._branches[branch].append_branches([self._branches[each] for each in children])

    def open_scope(self, branch: Branch, span: Span) -> None:
        """Begin what was begun."""
        self._spans[span] = self._branches[branch].open_scope()

    def close_scope(self, branch: Branch, name: str, span: Span) -> None:
        """End what was begun."""
        self._branches[branch].close_scope(name, self._spans[span])


Step = Callable[[Replay], None]


class TracedBranch(Branch):
    """A branch that remembers how it came about."""

    __slots__ = ()

    def append(self, expr: Expr, frame: Any = None, where: Where | None = None) -> None:
        """As Branch."""
        if frame is not None:
            where = (frame.f_code, frame.f_lineno)
        first = len(self.program.slots)
        super().append(expr, where=where)
        made = self.program.slots[first:]
        self._note(lambda replay: replay.append(self, expr, made, where))

    def fork(self, size: int) -> list[Branch]:
        """As Branch."""
        children = super().fork(size)
        self._note(lambda replay: replay.fork(self, children))
        return children

    def gather(self, children: Sequence[Branch]) -> None:
        """As Branch."""
        super().gather(children)
        self._note(lambda replay: replay.gather(self, children))

    def append_branches(self, children: Sequence[Branch]) -> None:
        """As Branch."""
        super().append_branches(children)
        self._note(lambda replay: replay.append_branches(self, children))

    def open_scope(self) -> Span:
        """As Branch."""
        span = super().open_scope()
        self._note(lambda replay: replay.open_scope(self, span))
        return span

    def close_scope(self, name: str, span: Span) -> None:
        """As Branch."""
        super().close_scope(name, span)
        self._note(lambda replay: replay.close_scope(self, name, span))

    def _note(self, step: Step) -> None:
        tracer = tracing.get()
        if tracer is not None:
            tracer.steps.append(step)


class TracedState(State):
    """A state whose reads give texts that nobody knows yet."""

    __slots__ = ()

    def get_var(self, name: str) -> Any:
        """What the slot will say."""
        variable = self.branch.variable(name)
        if not isinstance(variable, Slot):
            return super().get_var(name)
        tracer = tracing.get()
        strict = tracer is not None and tracer.strict
        return Unknown(Answer(f"{{{name}}}", slot=variable), f"the slot {name!r}", strict)


class Trace:
    """The shape of a program. `ended` says why the trace could not go on, None where it saw all."""

    def __init__(
        self, name: str, parameters: Sequence[str], strict: bool, adapter: str = ""
    ) -> None:
        self.name = name
        self.parameters = tuple(parameters)
        self.strict = strict
        self.steps: list[Step] = []
        self.ended: str | None = None
        self.program = Program(name, _adapted(Nowhere(), adapter), Defaults({}), _NeverWaits())
        self.branch: Branch = TracedBranch(self.program)

    def call(self, run_body: Callable[[State], Any], adapter: str | None = None) -> State:
        """A program that the traced body calls is a part of the trace; `adapter` is the one that it names."""
        main = self.program.backends[0]
        backend = main if adapter is None else _adapted(origin_of(main), adapter)
        branch = TracedBranch(self.program, backend=backend)
        self.steps.append(lambda replay: replay.start(branch, adapter))
        state = TracedState(branch)
        state.ret_value = run_body(state)
        return state

    @property
    def slots(self) -> list[Slot]:
        """The slots of all branches, in the order in which they are asked for."""
        return list(self.program.slots)

    def prefix(self) -> list[Expr]:
        """What every run of the program begins with: the texts and roles before the first argument, slot or fork."""
        found: list[Expr] = []
        for piece in self.branch.pieces:
            if isinstance(piece, Param | Answer) or not isinstance(piece, Const | RoleMark):
                break
            found.append(piece)
        return found

    def run_on(self, state: State, arguments: dict[str, Any]) -> None:
        """Append to `state` what the trace has seen, with `arguments` in their places."""
        replay = Replay(state.branch, self.branch, arguments)
        for step in self.steps:
            step(replay)

    @property
    def last_node(self) -> "Trace":
        """The trace itself, where SGLang's programs ask for the last node of a graph."""
        return self

    def print_graph_dfs(self) -> str:
        """The tree as text."""
        return str(self)

    def __str__(self) -> str:
        lines = [f"{self.name}({', '.join(self.parameters)}){_with(self.branch)}"]
        for branch in self.program.parties:
            if isinstance(branch, Branch) and branch.base is None:
                lines += (
                    [f"calls{_with(branch)}", *_drawn(branch, "")]
                    if branch is not self.branch
                    else _drawn(branch, "")
                )
        return "\n".join(lines + ([f"… {self.ended}"] if self.ended else []))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        escaped = str(self).replace("&", "&amp;").replace("<", "&lt;")
        return f"<pre>{escaped}</pre>"


tracing: ContextVar[Trace | None] = ContextVar("tracing", default=None)
"""The trace that the running body is a part of."""


def trace(
    name: str,
    parameters: Sequence[str],
    run_body: Callable[[State, dict[str, Any]], None],
    given: dict[str, Any],
    strict: bool,
    adapter: str = "",
) -> Trace:
    """Trace a body; arguments that are not `given` stay names. Raises what the body raises."""
    made = Trace(name, parameters, strict, adapter)
    arguments = {each: _argument(each, given, strict) for each in parameters}
    token = tracing.set(made)
    try:
        run_body(TracedState(made.branch), arguments)
    except TraceEnd as end:
        made.ended = str(end)
    finally:
        tracing.reset(token)
    return made


def _adapted(nowhere: Backend, adapter: str) -> Backend:
    """A trace asks no backend which adapters it has."""
    return Adapted(nowhere, adapter) if adapter else nowhere


def _with(branch: Branch) -> str:
    adapter = adapter_of(branch.backend)
    return f" with adapter {adapter!r}" if adapter else ""


def _argument(name: str, given: dict[str, Any], strict: bool) -> Any:
    if name in given:
        return given[name]
    return Unknown(Param(f"{{{name}}}", name=name), f"its argument {name!r}", strict)


def fill(expr: Expr, arguments: dict[str, Any], slots: dict[Slot, Slot]) -> Expr:
    """The expression with arguments and answers in their places. Raises ProgramError for one that is no text."""
    return Seq(tuple(_filled(part, arguments, slots) for part in walk(expr)))


def _filled(part: Expr, arguments: dict[str, Any], slots: dict[Slot, Slot]) -> Expr:
    if isinstance(part, Answer):
        return Echo(slots[part.slot])
    if not isinstance(part, Param):
        return part
    if part.name not in arguments:
        raise ProgramError(f"the argument {part.name!r} is missing")
    value = arguments[part.name]
    if not isinstance(value, str):
        raise ProgramError(f"the argument {part.name!r} must be text, not {type(value).__name__}")
    return Const(value)


def _drawn(branch: Branch, indent: str) -> Iterator[str]:
    """A line for each piece, with the branches that were forked there below it."""
    children = [
        each for each in branch.program.parties if isinstance(each, Branch) and each.base is branch
    ]
    for i, piece in enumerate(branch.pieces):
        if isinstance(piece, Forked):
            for number, child in enumerate(each for each in children if each.base_len == i):
                yield f"{indent}├─ fork {number}"
                yield from _drawn(child, f"{indent}│  ")
        elif isinstance(piece, Slot):
            yield f"{indent}├─ {described(piece.expr)}"
        elif isinstance(piece, RoleMark):
            yield f"{indent}├─ {piece.role} {piece.edge}s"
        elif isinstance(piece, Said):
            yield f"{indent}├─ {{{piece.slot.wire_name}}}"
        elif isinstance(piece, Param | Answer):
            yield f"{indent}├─ {piece.text}"
        else:
            yield f"{indent}├─ {piece.text!r}"
