"""The state of a program, as its body sees it: append to it, read from it, fork it.

`State` is what a plain body gets, and what a run returns: reading waits. `AsyncState` is what an `async def` body
gets: appending is the same, and reading is awaited (`await s["answer"]`).
"""

import math
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from branchwork.lang import meta
from branchwork.lang.branch import Branch
from branchwork.lang.driver import current_driver
from branchwork.lang.group import Group
from branchwork.lang.ir import Expr, RoleMark, Select, expression
from branchwork.lang.program import Program
from branchwork.lang.report import failure, located, undecodable
from branchwork.lang.slot import Slot
from branchwork.lang.stream import TextStream
from branchwork.lang.variable import Span, render, slots_in, slots_of, value_of
from branchwork.runtime.wire.errors import Aborted, ProgramError, SlotError
from branchwork.runtime.wire.messages import ChatFormat

if TYPE_CHECKING:
    from branchwork.lang.loop import LoopDriver


class Appending:
    """What a plain state and an asynchronous one have in common: all that does not wait."""

    __slots__ = ("__weakref__", "branch", "outside", "ret_value")

    def __init__(self, branch: Branch, *, outside: bool = False) -> None:
        self.branch = branch
        self.outside = outside
        self.ret_value: Any = None

    def __iadd__(self, other: Expr | str) -> Self:
        """Append text or an expression. What the model fills is asked for at once, and nothing waits."""
        self.branch.append(expression(other), sys._getframe(1))
        return self

    def append(self, other: Expr | str) -> None:
        """As `s += other`, for a state that is not a name of the body's own.

        >>> bw.function(lambda s: s.append("Hello")).run().text()
        'Hello'
        """
        self.branch.append(expression(other), sys._getframe(1))

    def set_var(self, name: str, value: Any) -> None:
        """Give `name` a value; nothing is appended.

        >>> state = capital.run(country="France")
        >>> state.set_var("country", "France")
        >>> state["country"], "town" in state
        ('France', False)
        """
        self.branch.variables[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        self.set_var(name, value)

    def __contains__(self, name: object) -> bool:
        return name in self.branch.variables

    # ------------------------------------------------------------------ roles and scopes

    def system(self, expr: Expr | str | None = None) -> "RoleScope":
        """A system message: `s.system(text)`, or `with s.system():` around what it holds.

        >>> @bw.function
        ... def chat(s: bw.State) -> None:
        ...     s.system("Be brief.")
        >>> chat.run().messages()
        [{'role': 'system', 'content': 'Be brief.'}]
        """
        return self._role("system", expr, sys._getframe(1))

    def user(self, expr: Expr | str | None = None) -> "RoleScope":
        """A user's message: `s.user(text)`, or `with s.user():` around what it holds.

        >>> @bw.function
        ... def chat(s: bw.State) -> None:
        ...     with s.user():
        ...         s += "Who are you?"
        >>> chat.run().messages()
        [{'role': 'user', 'content': 'Who are you?'}]
        """
        return self._role("user", expr, sys._getframe(1))

    def assistant(self, expr: Expr | str | None = None) -> "RoleScope":
        """A message of the model: `s.assistant(gen("x"))`, or `with s.assistant():` around what it holds.

        >>> @bw.function
        ... def chat(s: bw.State) -> None:
        ...     s.user("Well?")
        ...     s.assistant(bw.gen("answer"))
        >>> chat.run().messages()[1]
        {'role': 'assistant', 'content': 'Fine.'}
        """
        return self._role("assistant", expr, sys._getframe(1))

    def role(self, name: str, expr: Expr | str | None = None) -> "RoleScope":
        """A message of another role that the model's template knows, such as "tool".

        >>> bw.function(lambda s: s.role("tool", "21 degrees")).run().messages()
        [{'role': 'tool', 'content': '21 degrees'}]
        """
        return self._role(name, expr, sys._getframe(1))

    def _role(self, name: str, expr: Expr | str | None, frame: FrameType) -> "RoleScope":
        if expr is not None:
            self.branch.append(
                RoleMark(name, "begin") + expression(expr) + RoleMark(name, "end"), frame
            )
        return RoleScope(self.branch, name)

    @contextmanager
    def var_scope(self, name: str) -> Generator[None, None, None]:
        """What is appended inside becomes the variable `name`, as text.

        >>> @bw.function
        ... def record(s: bw.State) -> None:
        ...     with s.var_scope("json"):
        ...         s += '{"name": ' + bw.gen("name") + "}"
        >>> record.run()["json"]
        '{"name": "Ada"}'
        """
        span = self.branch.open_scope()
        try:
            yield
        finally:
            self.branch.close_scope(name, span)

    # ------------------------------------------------------------------ forks

    def fork(self, size: int = 1) -> Group[Self]:
        """`size` states that continue from here; they share all that was said so far, and nothing is sent again.

        >>> @bw.function
        ... def compare(s: bw.State) -> None:
        ...     forks = s.fork(2)
        ...     forks += lambda i: f"Capital {i}:" + bw.gen("city")
        ...     forks.join()
        >>> compare.run()["city"]
        [' Paris', ' Tokyo']
        """
        if size < 1:
            raise ProgramError(f"fork({size}): a fork has at least one branch")
        states = [type(self)(branch) for branch in self.branch.fork(size)]
        return Group(states, self.branch)

    @contextmanager
    def copy(self) -> Generator[Self, None, None]:
        """One fork, joined at the end of the block.

        >>> @bw.function
        ... def aside(s: bw.State) -> None:
        ...     with s.copy() as beside:
        ...         beside += "Well?" + bw.gen("answer")
        >>> aside.run()["answer"]
        ['Fine.']
        """
        group = self.fork(1)
        try:
            yield group[0]
        finally:
            group.join()

    def cancel(self) -> None:
        """Stop the program now; its memory in the runtime is free at once.

        >>> state = capital.run(country="France", stream=True)
        >>> state.cancel()
        >>> type(state.error()).__name__ in ("Aborted", "NoneType")
        True
        """
        self.branch.program.abort(Aborted("the program was cancelled"))

    # ------------------------------------------------------------------ once nothing is left to wait for

    def _value(self, variable: Any) -> Any:
        for slot in slots_of(variable):
            self._raise_failure(slot)
        try:
            return value_of(variable, self.chat_format)
        except (ValueError, TypeError, KeyError) as error:
            slot = next(iter(slots_of(variable)))
            raise undecodable(slot, error) from error

    def _raise_failure(self, slot: Slot) -> None:
        error = slot.failure
        if error is not None:
            raise failure(self.branch.program, slot, error)

    def _slot(self, name: str) -> Slot:
        variable = self.branch.variable(name)
        if not isinstance(variable, Slot):
            raise SlotError(f"{name!r} is a variable, not a slot that the model filled")
        return variable

    def _meta_info(self, slot: Slot) -> dict[str, Any]:
        return meta.meta_info(slot, self._with_text)

    @property
    def _with_text(self) -> bool:
        return bool(self.branch.program.defaults.options.get("return_text_in_logprobs", False))

    def _probs(self, slot: Slot) -> dict[Any, float]:
        self._raise_failure(slot)
        expr = slot.expr
        if not isinstance(expr, Select) or slot.result is None:
            raise SlotError(
                f"{slot.wire_name!r} was generated, not selected: it has no probabilities of choices"
            )
        scores = slot.result.scores
        highest = max(score.logprob for score in scores)
        weights = [math.exp(score.logprob - highest) for score in scores]
        labels = expr.values or expr.choices
        return {label: weight / sum(weights) for label, weight in zip(labels, weights, strict=True)}

    def _text(self) -> str:
        return render(self.branch.all_pieces(), self.chat_format)

    def _messages(self) -> list[dict[str, str]]:
        messages = list(self.branch.messages)
        return [{"role": role, "content": self._content(span)} for role, span in messages]

    def _content(self, span: Span) -> str:
        return render(span.pieces, self.chat_format).lstrip()

    @property
    def chat_format(self) -> ChatFormat:
        """The text around messages, as the program's backend writes them."""
        return self.branch.program.backends[0].welcome.chat_format

    def _open_slots(self) -> list[Slot]:
        return list(slots_in(self.branch.all_pieces()))

    def _error(self) -> BaseException | None:
        program = self.branch.program
        if program.error is not None:
            return program.error
        slot = program.first_unreported() or next(
            (s for s in program.slots if s.failure is not None), None
        )
        return None if slot is None or slot.failure is None else located(slot, slot.failure)


class State(Appending):
    """A state whose reads wait: what a plain body gets, and what a run returns.

    >>> state = capital.run(country="France")
    >>> state["city"], state.text()
    (' Paris', 'The capital of France is Paris')
    """

    __slots__ = ()

    def __getitem__(self, name: str) -> Any:
        return self.get_var(name)

    def get_var(self, name: str) -> Any:
        """The value of a slot or variable; waits for it. Raises SlotError, or what became of the slot.

        >>> capital.run(country="France").get_var("city")
        ' Paris'
        """
        variable = self._variable(name)
        self._wait(variable)
        return self._value(variable)

    def get_meta_info(self, name: str) -> dict[str, Any]:
        """The slot's numbers, once it has ended: tokens, finish reason, log-probabilities.

        >>> capital.run(country="France").get_meta_info("city")["prompt_tokens"]
        5
        """
        self._variable(name)
        slot = self._slot(name)
        self._wait(slot)
        self._raise_failure(slot)
        return self._meta_info(slot)

    def probs(self, name: str) -> dict[Any, float]:
        """Every choice of a `select` with its probability among them; they sum to 1.

        >>> state = bw.function(lambda: "Is it" + bw.select("mood", [" good", " bad"])).run()
        >>> {choice: round(p, 2) for choice, p in state.probs("mood").items()}
        {' good': 0.88, ' bad': 0.12}
        """
        self._variable(name)
        slot = self._slot(name)
        self._wait(slot)
        return self._probs(slot)

    def text(self) -> str:
        """All that was said in this branch, from its root on.

        >>> capital.run(country="France").text()
        'The capital of France is Paris'
        """
        self.sync()
        return self._text()

    def messages(self) -> list[dict[str, str]]:
        """The messages that have ended, each a dict with "role" and "content".

        >>> bw.function(lambda: bw.user("Who?") + bw.assistant(bw.gen("answer"))).run().messages()
        [{'role': 'user', 'content': 'Who?'}, {'role': 'assistant', 'content': 'Fine.'}]
        """
        self.sync()
        return self._messages()

    def sync(self) -> Self:
        """Wait until all slots of this branch have ended; a failed one raises when it is read, not here.

        >>> capital.run(country="France", stream=True).sync()["city"]
        ' Paris'
        """
        program = self.branch.program
        if self.outside:
            _wait_for_change(program, lambda: program.ended)
        for slot in self._open_slots():
            program.wait_for(slot)
        return self

    def error(self) -> BaseException | None:
        """What went wrong first, or None.

        >>> backend = Scripted({"city": InvalidParameter("no such city")})
        >>> capital.run_batch([("Oz",)], backend=backend, on_error="return")[0].error().code
        'invalid_parameter'
        """
        self.sync()
        return self._error()

    def _variable(self, name: str) -> Any:
        branch, program = self.branch, self.branch.program
        if self.outside:
            _wait_for_change(
                program, lambda: name in branch.variables or branch.ended or program.ended
            )
            if name not in branch.variables and program.error is not None:
                raise program.error
        return branch.variable(name)

    def _wait(self, variable: Any) -> None:
        for slot in slots_of(variable):
            self.branch.program.wait_for(slot)

    # ------------------------------------------------------------------ streams

    def text_iter(self, var_name: str | None = None) -> Iterator[str]:
        """The text of the branch, or of one variable, piece by piece as it comes.

        >>> list(capital.run(country="France", stream=True).text_iter("city"))
        [' Paris']
        """
        stream = TextStream(self.branch, var_name)
        while (text := self._take(stream)) is not None:
            if text:
                yield text
            else:
                _wait_for_change(self.branch.program, stream.has_more)

    def object_iter(self, name: str) -> Iterator[Any]:
        """A typed slot as it grows: objects as complete as the text so far allows; the last is the value.

        >>> program = bw.function(lambda: bw.gen("person", type=dict[str, str | int]))
        >>> list(program.run(stream=True).object_iter("person"))[-1]
        {'name': 'Ada', 'age': 36}
        """
        last: Any = _NOTHING
        text = ""
        for chunk in self.text_iter(name):
            text += chunk
            partial = _partial(self._slot(name), text)
            if partial is not _NOTHING and partial != last:
                last = partial
                yield partial
        value = self.get_var(name)
        if last is _NOTHING or value != last:
            yield value

    @overload
    def text_async_iter(
        self, var_name: str | None = None, return_meta_data: Literal[False] = False
    ) -> AsyncIterator[str]: ...

    @overload
    def text_async_iter(
        self, var_name: str | None = None, *, return_meta_data: Literal[True]
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]: ...

    @overload
    def text_async_iter(
        self, var_name: str | None, return_meta_data: Literal[True]
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]: ...

    async def text_async_iter(
        self, var_name: str | None = None, return_meta_data: bool = False
    ) -> AsyncIterator[Any]:
        """As `text_iter`, for `async for`; with `return_meta_data`, pairs of text and what is new in `get_meta_info`.

        Of the tokens' log-probabilities a pair holds those that came with its text; the counts are of all so far.

        >>> async def read() -> list[str]:
        ...     state = await capital.arun(country="France", stream=True)
        ...     return [text async for text in state.text_async_iter("city")]
        >>> asyncio.run(read())
        [' Paris']
        """
        program = self.branch.program
        stream = TextStream(self.branch, var_name)
        while (text := self._take(stream)) is not None:
            if not text:
                program.share()
                await _loop_driver().wait_async(program, stream.has_more, program.when_changed)
            elif return_meta_data:
                yield text, self._news(stream)
            else:
                yield text

    def _take(self, stream: TextStream) -> str | None:
        with self.branch.program.lock:
            return stream.take()

    def _news(self, stream: TextStream) -> dict[str, Any]:
        slot = stream.slot
        if slot is None:
            return {}
        with self.branch.program.lock:
            known = stream.num_told.get(slot, 0)
            told = meta.news(slot, known, self._with_text)
            stream.num_told[slot] = told["output_token_logprobs_length"]
            return told

    # ------------------------------------------------------------------ how it looks

    def show(self, *, colour: bool | None = None) -> None:
        """Print the program's tree, each stretch of text coloured by how it came about.

        `colour` None: when the output is a terminal.

        >>> capital.run(country="France").show(colour=False)  # doctest: +ELLIPSIS
        [cached: cached]  prefilled  [sampled: sampled]  ...
        ┌─ capital
        │ The capital of France is[sampled:  Paris] (city: 1 tokens, ... ms)
        """
        self.sync()
        in_colour = sys.stdout.isatty() if colour is None else colour
        print(_show().as_text(self.branch.program, in_colour))

    def to_html(self) -> str:
        """The program's tree as one self-contained piece of HTML.

        >>> " Paris" in capital.run(country="France").to_html()
        True
        """
        self.sync()
        return str(_show().as_html(self.branch.program))

    def _repr_html_(self) -> str:
        return self.to_html()

    def __repr__(self) -> str:
        with self.branch.program.lock:
            return f"ProgramState({self._text()})"


class AsyncState(Appending):
    """A state whose reads are awaited: what an `async def` body gets.

    >>> @bw.function
    ... async def answer(s: bw.AsyncState) -> str:
    ...     s += "Well?" + bw.gen("answer")
    ...     return await s["answer"]
    >>> asyncio.run(answer.arun()).ret_value
    'Fine.'
    """

    __slots__ = ()

    def __getitem__(self, name: str) -> "Reading":
        return Reading(self, name)

    async def get(self, name: str) -> Any:
        """The value of a slot or variable. Raises SlotError, or what became of the slot."""
        variable = self.branch.variable(name)
        await self._wait(*slots_of(variable))
        return self._value(variable)

    get_var = get

    async def get_meta_info(self, name: str) -> dict[str, Any]:
        """The slot's numbers, once it has ended: tokens, finish reason, log-probabilities."""
        slot = self._slot(name)
        await self._wait(slot)
        self._raise_failure(slot)
        return self._meta_info(slot)

    async def probs(self, name: str) -> dict[Any, float]:
        """Every choice of a `select` with its probability among them; they sum to 1."""
        slot = self._slot(name)
        await self._wait(slot)
        return self._probs(slot)

    async def text(self) -> str:
        """All that was said in this branch, from its root on."""
        await self.sync()
        return self._text()

    async def messages(self) -> list[dict[str, str]]:
        """The messages that have ended, each a dict with "role" and "content"."""
        await self.sync()
        return self._messages()

    async def sync(self) -> Self:
        """Wait until all slots of this branch have ended; a failed one raises when it is read, not here."""
        await self._wait(*self._open_slots())
        return self

    async def _wait(self, *slots: Slot) -> None:
        for slot in slots:
            await wait_for_async(self.branch.program, slot)

    def __repr__(self) -> str:
        with self.branch.program.lock:
            return f"ProgramState({self._text()})"


class Reading:
    """`s["x"]` of an asynchronous state: `await` it. Any other use says so, and never gets into a prompt."""

    __slots__ = ("_name", "_state")

    def __init__(self, state: AsyncState, name: str) -> None:
        self._state = state
        self._name = name

    def __await__(self) -> Generator[Any, None, Any]:
        return self._state.get(self._name).__await__()

    def _misused(self, *_: object) -> Any:
        raise ProgramError(
            f's["{self._name}"] must be awaited in an async program: await s["{self._name}"]'
        )

    __str__ = __format__ = __bool__ = __eq__ = __add__ = __radd__ = __len__ = __iter__ = _misused
    __hash__ = None  # type: ignore[assignment]


class RoleScope:
    """`with s.user(): …`: the message ends with the block, also when the block ends with an exception."""

    __slots__ = ("_branch", "_role")

    def __init__(self, branch: Branch, role: str) -> None:
        self._branch = branch
        self._role = role

    def __enter__(self) -> None:
        self._branch.append(RoleMark(self._role, "begin"))

    def __exit__(self, *_: object) -> None:
        branch = self._branch
        if not branch.ended and branch.role is not None and branch.role[0] == self._role:
            branch.append(RoleMark(self._role, "end"))


async def wait_for_async(program: Program, slot: Slot) -> None:
    """Await until `slot` and its samples have ended. Raises DeadlineExceeded."""
    for each in (slot, *slot.samples):
        if not each.done:
            await _loop_driver().wait_async(program, each.is_done, each.when_done)


def _wait_for_change(program: Program, ready: Callable[[], bool]) -> None:
    if program.shared:
        program.driver.wait_outside(program, ready, program.when_changed)
    else:
        current_driver().wait(program, ready, program.when_changed)


def _loop_driver() -> "LoopDriver":
    # asyncio is 35 ms to import; only asynchronous programs need it.
    from branchwork.lang.loop import loop_driver  # noqa: PLC0415

    return loop_driver()


def _show() -> ModuleType:
    # html and json are 10 ms to import; only who looks at a run needs them.
    from branchwork.lang import show  # noqa: PLC0415

    return show


_NOTHING = object()


def _partial(slot: Slot, text: str) -> Any:
    expr = slot.expr
    if isinstance(expr, Select) or expr.hole.partial is None:
        return _NOTHING
    try:
        return expr.hole.partial(text)
    except ValueError:
        return _NOTHING
