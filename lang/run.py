"""How a body is run: here, beside, or on an asyncio loop; and how its end becomes the caller's."""

import threading
from collections.abc import Callable
from typing import Any

import msgspec

from branchwork.lang.branch import Branch
from branchwork.lang.driver import DIRECT, Driver, current_driver
from branchwork.lang.ir import expression
from branchwork.lang.options import Defaults
from branchwork.lang.program import Program
from branchwork.lang.report import located
from branchwork.lang.slot import Slot
from branchwork.lang.state import Appending, State
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.errors import InvalidParameter, TransportError

RETRY_AFTER_S = 0.25
"""Before the first retry; each further one waits twice as long."""


class Call(msgspec.Struct, frozen=True):
    """One call of a function: the body with its arguments, and how to run it.

    `takes_state` tells the two forms apart: a body that appends to its first parameter, and one that returns an
    expression. `backend` is asked for at each attempt. `retries` is how often the whole program is run again when
    the transport has failed.
    """

    name: str
    body: Callable[..., Any]
    takes_state: bool
    is_async: bool
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    backend: Callable[[], Backend]
    defaults: Defaults
    timeout_s: float | None = None
    retries: int = 0

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise InvalidParameter(f"retries={self.retries}: must be 0 or more", "retries")


def run(call: Call) -> State:
    """Run to the end. Raises what the body raises, or what became of a slot that the body did not read."""
    return raise_error(attempt(call, current_driver()))


def raise_error(state: State) -> State:
    """`state`, unless its program has failed: then raises why."""
    error = state.branch.program.error
    if error is not None:
        raise error
    return state


def attempt(call: Call, driver: Driver, *, shared: bool = False) -> State:
    """Run to the end, well or badly; `state.branch.program.error` says which."""
    retried = 0
    while True:
        state = start(call, driver, shared=shared)
        _run_body(call, state)
        if retried == call.retries or not isinstance(state.branch.program.error, TransportError):
            return state
        driver.sleep(RETRY_AFTER_S * 2**retried)
        retried += 1


def start(call: Call, driver: Driver, *, shared: bool = False) -> State:
    """A new program with its first branch."""
    program = Program(
        call.name, call.backend(), call.defaults, driver, shared=shared, timeout_s=call.timeout_s
    )
    return State(Branch(program))


def _run_body(call: Call, state: State) -> None:
    program = state.branch.program
    try:
        state.ret_value = apply(call, state)
        program.close()
        for slot in program.slots:
            program.wait_for(slot)
        settle(program)
    except BaseException as error:
        program.abort(error)
        if not isinstance(error, Exception):
            raise
    program.finish()


def apply(call: Call, state: Appending) -> Any:
    """Call the body: with the state, or for the expression that it returns."""
    if call.takes_state:
        return call.body(state, *call.args, **call.kwargs)
    result = call.body(*call.args, **call.kwargs)
    append_result(call, state, result)
    return result


def append_result(call: Call, state: Appending, result: Any) -> None:
    """Append the expression that a body has returned."""
    code = call.body.__code__
    state.branch.append(expression(result), where=(code, code.co_firstlineno))


def settle(program: Program) -> None:
    """Raise the error of the first slot that failed unheard."""
    slot = program.first_unreported()
    if slot is not None and slot.failure is not None:
        raise located(slot, slot.failure)


# ---------------------------------------------------------------------- beside the caller


def run_beside(call: Call) -> State:
    """Start the program and return at once; its body has a thread until it ends, its slots need none."""
    inner = start(call, DIRECT, shared=True)
    outer = State(inner.branch, outside=True)
    threading.Thread(
        target=_run_beside, args=(call, inner, outer), name=f"branchwork-{call.name}", daemon=True
    ).start()
    return outer


def _run_beside(call: Call, inner: State, outer: State) -> None:
    program = inner.branch.program
    try:
        outer.ret_value = apply(call, inner)
        program.close()
    except Exception as error:  # it is raised where the stream is read
        program.abort(error)
    else:
        finish_when_done(program)


def finish_when_done(program: Program) -> None:
    """End the program when its last slot has ended, on whichever thread that becomes known."""
    with program.lock:
        each = [sample for slot in program.slots for sample in (slot, *slot.samples)]
        remaining = len(each) + 1

        def one_less() -> None:
            nonlocal remaining
            remaining -= 1
            if remaining == 0 and not program.ended:
                slot = program.first_unreported()
                program.error = None if slot is None else _error_of(slot)
                program.finish()

        for sample in each:
            sample.when_done(one_less)
        one_less()


def _error_of(slot: Slot) -> BaseException:
    assert slot.failure is not None
    return located(slot, slot.failure)
