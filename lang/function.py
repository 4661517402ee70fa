"""`@function`: a Python function that becomes a program."""

from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from branchwork.lang import run
from branchwork.lang.adapter import adapter_of, with_adapter
from branchwork.lang.batch import MAX_RUNNING, Fresh, OnError, run_batch
from branchwork.lang.default import resolve
from branchwork.lang.ir import Gen, Seq
from branchwork.lang.options import RUN_OPTIONS, Defaults, normalise, unknown_option
from branchwork.lang.run import Call
from branchwork.lang.state import Appending, State
from branchwork.lang.trace import Trace, trace, tracing
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.errors import ProgramError

if TYPE_CHECKING:
    from branchwork.lang.checkpoint import Resumed

# Bits of a code object's flags, as in `inspect`, which itself is 16 ms to import.
_HAS_KEYWORDS, _IS_COROUTINE = 0x08, 0x80
_IS_GENERATOR = 0x20 | 0x200

T = TypeVar("T")

_STATE_TYPES = ("State", "AsyncState")


class Function:
    """A program. Its body, `func`, appends to its first parameter, `s`, or returns an expression.

    An argument of `run` is the body's own where the body has a parameter of that name, and else an option of
    `gen` (`temperature=0`), which holds for every slot that says nothing else.

    >>> capital.run(country="France", temperature=0)["city"]
    ' Paris'
    """

    def __init__(
        self,
        body: Callable[..., Any],
        num_api_spec_tokens: int | None = None,
        bound: Mapping[str, Any] | None = None,
        adapter: str | None = None,
    ) -> None:
        code = body.__code__
        if code.co_flags & _IS_GENERATOR:
            raise ProgramError(
                f"{body.__name__}: a body must not yield; append with s += …, and stream with run(stream=True)"
            )
        self.func = body
        self.num_api_spec_tokens = num_api_spec_tokens
        self.adapter = adapter
        self.bound = dict(bound or {})
        self.is_async = bool(code.co_flags & _IS_COROUTINE)
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        self.takes_state = bool(names) and _is_state(names[0], body)
        self.parameters = names[1:] if self.takes_state else names
        self._positional = code.co_varnames[int(self.takes_state) : code.co_argcount]
        self._takes_any = bool(code.co_flags & _HAS_KEYWORDS)
        self.__name__ = body.__name__
        self.__doc__ = body.__doc__
        self.__wrapped__ = body

    # ------------------------------------------------------------------ one program

    def run(
        self,
        *args: Any,
        stream: bool = False,
        backend: Backend | None = None,
        adapter: str | None = None,
        timeout: float | None = None,
        retries: int = 0,
        **kwargs: Any,
    ) -> State:
        """Run the program, and return its state when body and slots have ended.

        `stream=True` returns at once: read the state with `text_iter`. `adapter` names a low-rank adapter of the
        runtime ("": none, whatever the function says); the whole program is computed with it. `timeout` (seconds) ends
        the program with DeadlineExceeded. `retries` runs it again when the transport failed. Raises what the body
        raises, or what became of a slot.

        >>> capital.run(country="France", timeout=10).text()
        'The capital of France is Paris'
        """
        tracer = tracing.get()
        if tracer is not None:
            return tracer.call(
                lambda state: self._inline(state, args, {**self.bound, **kwargs}),
                self.adapter if adapter is None else adapter,
            )
        if self.is_async:
            return _run_coroutine(
                self.arun(
                    *args,
                    stream=stream,
                    backend=backend,
                    adapter=adapter,
                    timeout=timeout,
                    retries=retries,
                    **kwargs,
                )
            )
        call = self._call(args, kwargs, (backend, adapter), stream, timeout, retries)
        return run.run_beside(call) if stream else run.run(call)

    async def arun(
        self,
        *args: Any,
        stream: bool = False,
        backend: Backend | None = None,
        adapter: str | None = None,
        timeout: float | None = None,
        retries: int = 0,
        **kwargs: Any,
    ) -> State:
        """As `run`, on the running asyncio loop, for `async def` bodies and plain ones alike.

        >>> asyncio.run(capital.arun(country="France"))["city"]
        ' Paris'
        """
        # asyncio is 35 ms to import; only asynchronous programs need it.
        from branchwork.lang import arun  # noqa: PLC0415

        call = self._call(args, kwargs, (backend, adapter), stream, timeout, retries)
        return await (arun.arun_beside(call) if stream else arun.arun(call))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """With a state as first argument: run the body on that state, as a part of its program. Else as `run`.

        Raises ProgramError where the function has an adapter of its own, and the state's branch another.
        """
        if args and isinstance(args[0], Appending):
            self._check_adapter(adapter_of(args[0].branch.backend))
            return self._inline(args[0], args[1:], {**self.bound, **kwargs})
        return self.run(*args, **kwargs)

    def _check_adapter(self, there: str) -> None:
        if self.adapter is not None and self.adapter != there:
            raise ProgramError(
                f"{self.__name__} is computed with {_named(self.adapter)}, and this branch with {_named(there)} for "
                f"all its life; {self.__name__}.run(…) makes a branch of its own"
            )

    def _inline(self, state: Appending, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.takes_state:
            return self.func(state, *args, **kwargs)
        result = self.func(*args, **kwargs)
        state.append(result)
        return result

    # ------------------------------------------------------------------ many programs

    @overload
    def run_batch(
        self, batch: Sequence[Any], *, generator_style: Literal[False] = False, **kwargs: Any
    ) -> list[State]: ...

    @overload
    def run_batch(
        self, batch: Sequence[Any], *, generator_style: Literal[True], **kwargs: Any
    ) -> Iterator[State]: ...

    def run_batch(
        self,
        batch: Sequence[Any],
        *,
        num_threads: int | Literal["auto"] = "auto",
        progress_bar: bool = False,
        generator_style: bool = False,
        on_error: OnError = "raise",
        backend: Backend | None = None,
        adapter: str | None = None,
        timeout: float | None = None,
        retries: int = 0,
        checkpoint: str | None = None,
        **kwargs: Any,
    ) -> list[State] | Iterator[State]:
        """Run the program once for each item of `batch` (a dict or a sequence of arguments), in one thread.

        `num_threads` is how many programs run at once; none of them needs a thread. With `generator_style` the
        states come one by one, in order. With `on_error="return"` a failed program's state is returned as well
        (`state.error()` says why), else its error is raised and the others end. `checkpoint` is a file to which
        finished programs are written; a batch that finds some there does not run them again. The rest is as in `run`.

        >>> states = capital.run_batch([{"country": "France"}, {"country": "Japan"}])
        >>> [state["city"] for state in states]
        [' Paris', ' Tokyo']
        """
        whole = _resumed(
            self._calls(batch, kwargs, (backend, adapter), timeout, retries), checkpoint
        )
        num_running = _num_running(num_threads)
        states: Iterable[State]
        if self.is_async:
            states = _run_coroutine(self._arun_calls(whole, num_running, on_error, progress_bar))
        else:
            states = run_batch(whole.todo, num_running, on_error, progress_bar, whole.save)
        merged = whole.merged(states)
        return merged if generator_style else list(merged)

    async def arun_batch(
        self,
        batch: Sequence[Any],
        *,
        num_threads: int | Literal["auto"] = "auto",
        progress_bar: bool = False,
        on_error: OnError = "raise",
        backend: Backend | None = None,
        adapter: str | None = None,
        timeout: float | None = None,
        retries: int = 0,
        checkpoint: str | None = None,
        **kwargs: Any,
    ) -> list[State]:
        """As `run_batch`, on the running asyncio loop.

        >>> states = asyncio.run(capital.arun_batch([("France",), ("Japan",)], num_threads=2))
        >>> [state["city"] for state in states]
        [' Paris', ' Tokyo']
        """
        whole = _resumed(
            self._calls(batch, kwargs, (backend, adapter), timeout, retries), checkpoint
        )
        num_running = _num_running(num_threads)
        return list(
            whole.merged(await self._arun_calls(whole, num_running, on_error, progress_bar))
        )

    async def _arun_calls(
        self, whole: "Fresh | Resumed", num_running: int, on_error: OnError, progress_bar: bool
    ) -> list[State]:
        # asyncio is 35 ms to import; only asynchronous programs need it.
        from branchwork.lang.abatch import arun_batch  # noqa: PLC0415

        return await arun_batch(whole.todo, num_running, on_error, progress_bar, whole.save)

    # ------------------------------------------------------------------ without running

    def trace(self, *, backend: Backend | None = None, **arguments: Any) -> Trace:
        """The program's shape, with names for the arguments that are not given.

        As SGLang's, it refuses a name inside an f-string (TypeError); `graph` takes it. `backend` is not asked.

        >>> capital.trace().slots
        [Slot('city', open)]
        """
        return self._trace(arguments, strict=True)

    def graph(self, **arguments: Any) -> Trace:
        """The program's shape, with names for the arguments that are not given; printed, it is a tree.

        >>> print(capital.graph())
        capital(country)
        ├─ 'The capital of '
        ├─ {country}
        ├─ ' is'
        ├─ gen("city")
        """
        return self._trace(arguments, strict=False)

    def _trace(self, arguments: dict[str, Any], strict: bool) -> Trace:
        if self.is_async:
            raise ProgramError("an async program cannot be traced")

        def run_body(state: State, values: dict[str, Any]) -> None:
            self._inline(state, (), values)

        given = {**self._fixed_defaults(), **self.bound, **arguments}
        return trace(self.__name__, self.parameters, run_body, given, strict, self.adapter or "")

    def compile(self, *, backend: Backend | None = None) -> "Function":
        """The program as what it appends, with holes for its arguments and answers: its body is not run again.

        Raises ProgramError for a body that looks at an argument or an answer. `backend` is not asked.

        >>> capital.compile().run(country="France")["city"]
        ' Paris'
        """
        made = self._trace({}, strict=False)
        if made.ended is not None:
            raise ProgramError(f"{self.__name__} cannot be compiled: {made.ended}")
        defaults = self._defaults()

        def compiled(s: State, **arguments: Any) -> None:
            made.run_on(s, {**defaults, **arguments})

        function = Function(compiled, self.num_api_spec_tokens, self.bound, self.adapter)
        function.parameters = function._positional = self.parameters
        function._takes_any = False
        function.__name__ = self.__name__
        function.graph = self.graph  # type: ignore[method-assign]
        return function

    def cache(self, backend: Backend | None = None) -> None:
        """Have the runtime compute what every run of this program begins with.

        >>> capital.cache()
        """
        prefix = self._trace({}, strict=False).prefix()
        if prefix:
            body = lambda: Seq((*prefix, Gen(None, {"max_tokens": 0})))  # noqa: E731
            warm = Function(body, adapter=self.adapter)
            warm.run(backend=backend)

    def _defaults(self) -> dict[str, Any]:
        values = self.func.__defaults__ or ()
        defaults = dict(
            zip(self._positional[len(self._positional) - len(values) :], values, strict=True)
        )
        return {**defaults, **(self.func.__kwdefaults__ or {})}

    def _fixed_defaults(self) -> dict[str, Any]:
        """Defaults that are no text: what the body does with them cannot wait until they are known."""
        return {
            name: value for name, value in self._defaults().items() if not isinstance(value, str)
        }

    # ------------------------------------------------------------------ arguments

    def bind(self, **kwargs: Any) -> "Function":
        """The same program with some arguments given. Raises UnknownOption for a name that it does not have.

        >>> capital.bind(country="France").run()["city"]
        ' Paris'
        """
        for name in kwargs:
            if name not in self.parameters and not self._takes_any:
                raise unknown_option(name, self.parameters)
        bound = {**self.bound, **kwargs}
        return Function(self.func, self.num_api_spec_tokens, bound, self.adapter)

    def _call(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        backend: tuple[Any, str | None],
        stream: bool,
        timeout: float | None,
        retries: int,
    ) -> Call:
        arguments, options = self._divide(kwargs)
        return Call(
            self.__name__,
            self.func,
            self.takes_state,
            self.is_async,
            args,
            arguments,
            lambda: self._backend(*backend),
            Defaults(options, stream),
            timeout,
            retries,
        )

    def _calls(
        self,
        batch: Sequence[Any],
        kwargs: Mapping[str, Any],
        backend: tuple[Any, str | None],
        timeout: float | None,
        retries: int,
    ) -> list[Call]:
        arguments, options = self._divide(kwargs)
        defaults = Defaults(options)
        return [
            Call(
                self.__name__,
                self.func,
                self.takes_state,
                self.is_async,
                (),
                {**arguments, **self._item(item)},
                lambda: self._backend(*backend),
                defaults,
                timeout,
                retries,
            )
            for item in batch
        ]

    def _backend(self, given: Any, adapter: str | None) -> Backend:
        """The backend to run on; an API that can write ahead does so when the function asks for it.

        The adapter is the run's, else the function's, else the backend's own.
        """
        backend = resolve(given)
        wanted = self.adapter if adapter is None else adapter
        if wanted is not None:
            backend = with_adapter(wanted, backend)
        speculating = getattr(backend, "speculating", None)
        if self.num_api_spec_tokens is None or speculating is None:
            return backend
        return speculating(self.num_api_spec_tokens)  # type: ignore[no-any-return]

    def _divide(self, kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The body's arguments, and the options for its slots. Raises UnknownOption for what is neither."""
        arguments = dict(self.bound)
        options: dict[str, Any] = {}
        for name, value in kwargs.items():
            if name in self.parameters or (self._takes_any and name not in RUN_OPTIONS):
                arguments[name] = value
            else:
                options[name] = value
        return arguments, normalise(options, also_known=self.parameters)

    def _item(self, item: Any) -> dict[str, Any]:
        if isinstance(item, Mapping):
            return dict(item)
        values = tuple(item) if isinstance(item, list | tuple) else (item,)
        if len(values) > len(self._positional):
            raise ProgramError(
                f"{self.__name__} takes {len(self._positional)} arguments; an item has {len(values)}"
            )
        return dict(zip(self._positional, values, strict=False))

    def __repr__(self) -> str:
        return f"function({self.__name__})"


def _named(adapter: str) -> str:
    return f"the adapter {adapter!r}" if adapter else "none"


def _is_state(name: str, body: Callable[..., Any]) -> bool:
    annotation = body.__annotations__.get(name)
    named = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return name == "s" or named.rpartition(".")[2] in _STATE_TYPES


def _num_running(num_threads: int | str) -> int:
    if num_threads == "auto":
        return MAX_RUNNING
    if not isinstance(num_threads, int) or num_threads < 1:
        raise ProgramError(f'num_threads={num_threads!r}: must be at least 1, or "auto"')
    return num_threads


def _resumed(calls: Sequence[Call], checkpoint: str | None) -> "Fresh | Resumed":
    if checkpoint is None:
        return Fresh(calls)
    # hashlib and pathlib are 8 ms to import; only a checkpoint needs them.
    from branchwork.lang.checkpoint import Resumed  # noqa: PLC0415

    return Resumed(calls, checkpoint)


def _run_coroutine(coroutine: Coroutine[Any, Any, T]) -> T:
    # asyncio is 35 ms to import; only asynchronous programs need it.
    import asyncio  # noqa: PLC0415

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    coroutine.close()
    raise ProgramError(
        "an async program cannot be run from inside a running loop; await its arun instead"
    )


@overload
def function(body: Callable[..., Any]) -> Function: ...


@overload
def function(
    *, num_api_spec_tokens: int | None = None, adapter: str | None = None
) -> Callable[[Callable[..., Any]], Function]: ...


def function(
    body: Callable[..., Any] | None = None,
    num_api_spec_tokens: int | None = None,
    adapter: str | None = None,
) -> Function | Callable[[Callable[..., Any]], Function]:
    """Make a Python function a program: `@function`, or `@function(num_api_spec_tokens=64)`.

    The body's first parameter is the state (it is named `s`, or annotated State or AsyncState); or the body has no
    such parameter and returns the expression to run. `num_api_spec_tokens` lets an API write so many tokens ahead
    in one call, from which the following slots are read when they fit. `adapter` names the low-rank adapter that its
    runs are computed with, where they name no other.

    >>> @bw.function
    ... def greet(s: bw.State, name: str) -> None:
    ...     s += "Hello " + name + ". " + bw.gen("answer")
    >>> greet.run(name="Ada").text()
    'Hello Ada. Fine.'
    """
    if body is not None:
        return Function(body, num_api_spec_tokens, adapter=adapter)
    return lambda body: Function(body, num_api_spec_tokens, adapter=adapter)
