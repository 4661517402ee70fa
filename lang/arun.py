"""Bodies on an asyncio loop, `async def` and plain ones alike."""

import asyncio
from typing import Any

from branchwork.lang.loop import LoopDriver, loop_driver
from branchwork.lang.run import (
    RETRY_AFTER_S,
    Call,
    append_result,
    apply,
    attempt,
    finish_when_done,
    raise_error,
    settle,
    start,
)
from branchwork.lang.state import AsyncState, State, wait_for_async
from branchwork.runtime.wire.errors import TransportError

_tasks: set["asyncio.Task[None]"] = set()


async def arun(call: Call) -> State:
    """Run to the end. Raises what the body raises, or what became of a slot that the body did not read."""
    return raise_error(await attempt_async(call))


async def attempt_async(call: Call) -> State:
    """Run to the end, well or badly; `state.branch.program.error` says which."""
    driver = loop_driver()
    if not call.is_async:
        return await driver.run_body(lambda: attempt(call, driver, shared=True))
    retried = 0
    while True:
        state = start(call, driver, shared=True)
        await _run_body(call, state)
        if retried == call.retries or not isinstance(state.branch.program.error, TransportError):
            return state
        await asyncio.sleep(RETRY_AFTER_S * 2**retried)
        retried += 1


async def _run_body(call: Call, state: State) -> None:
    program = state.branch.program
    try:
        state.ret_value = await _apply(call, state)
        program.close()
        for slot in program.slots:
            await wait_for_async(program, slot)
        settle(program)
    except BaseException as error:
        program.abort(error)
        if not isinstance(error, Exception):
            raise
    program.finish()


async def _apply(call: Call, state: State) -> Any:
    inner = AsyncState(state.branch)
    if call.takes_state:
        return await call.body(inner, *call.args, **call.kwargs)
    result = await call.body(*call.args, **call.kwargs)
    append_result(call, inner, result)
    return result


async def arun_beside(call: Call) -> State:
    """Start the program and return at once, to be read with `async for … in state.text_async_iter()`."""
    driver = loop_driver()
    inner = start(call, driver, shared=True)
    outer = State(inner.branch, outside=True)
    task = asyncio.create_task(_run_beside(call, driver, inner, outer))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return outer


async def _run_beside(call: Call, driver: LoopDriver, inner: State, outer: State) -> None:
    program = inner.branch.program
    try:
        if call.is_async:
            outer.ret_value = await _apply(call, inner)
        else:
            outer.ret_value = await driver.run_body(lambda: apply(call, inner))
        program.close()
    except BaseException as error:  # it is raised where the stream is read
        program.abort(error)
        if not isinstance(error, Exception):
            raise
    else:
        finish_when_done(program)
