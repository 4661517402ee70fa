"""Programs on an asyncio loop: `async def` bodies that await, and plain ones that are set aside while they wait."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from threading import get_ident
from typing import TypeVar

from greenlet import getcurrent

from branchwork.lang.driver import (
    Body,
    Outgoing,
    Ready,
    Subscribe,
    Waiting,
    time_left,
    wait_for_signal,
)
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.errors import ProgramError
from branchwork.runtime.wire.messages import Instruction

T = TypeVar("T")
Future = asyncio.Future[None]


class LoopDriver:
    """Sends and waits for the programs of one loop. What they send in one turn of the loop leaves as one frame."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = get_ident()
        self._outgoing = Outgoing()
        self._to_wake: deque[Future] = deque()
        self._send_is_due = False
        self._wake_is_due = False

    def send(self, program: Waiting, backend: Backend, instructions: Sequence[Instruction]) -> None:
        """Send when the loop next turns."""
        self._outgoing.put(program, backend, instructions)
        if self._send_is_due:
            return
        self._send_is_due = True
        if get_ident() == self._thread:
            self._loop.call_soon(self._send_all)
        else:
            self._call(self._send_all)

    def wait(self, program: Waiting, ready: Ready, subscribe: Subscribe) -> None:
        """Set the running body aside until `ready()`; the loop goes on meanwhile."""
        body = getcurrent()
        if not isinstance(body, Body):
            return self.wait_outside(program, ready, subscribe)
        while True:
            future = self._subscribed(program, ready, subscribe)
            if future is None:
                return
            assert body.parent is not None
            body.parent.switch((future, time_left(program)))

    def wait_outside(self, program: Waiting, ready: Ready, subscribe: Subscribe) -> None:
        """Block another thread until `ready()`. Raises ProgramError on the loop's own, which would never turn again."""
        if get_ident() != self._thread:
            return wait_for_signal(program, ready, subscribe)
        if isinstance(getcurrent(), Body):
            return self.wait(program, ready, subscribe)
        with program.lock:
            is_ready = ready()
        if not is_ready:
            raise ProgramError(
                "this is not told yet, and to wait for it would stop the loop that the program runs on: "
                "read the stream to its end first (async for … in state.text_async_iter())"
            )
        return None

    def sleep(self, seconds: float) -> None:
        """Set the running body aside for so long."""
        body = getcurrent()
        assert isinstance(body, Body), "only a body of this loop sleeps here"
        assert body.parent is not None
        body.parent.switch((self._loop.create_future(), seconds))

    async def wait_async(self, program: Waiting, ready: Ready, subscribe: Subscribe) -> None:
        """Await until `ready()`."""
        while True:
            future = self._subscribed(program, ready, subscribe)
            if future is None:
                return
            await _within(future, time_left(program))

    async def run_body(self, run: Callable[[], T]) -> T:
        """Run a plain body on this loop. Cancelling the task raises CancelledError in the body."""
        results: list[T] = []
        body = Body(lambda: results.append(run()))
        body.driver = self
        body.gr_context = copy_context()
        pending = body.switch()
        while not body.dead:
            try:
                await _within(*pending)
            except BaseException as error:
                pending = body.throw(error)
            else:
                pending = body.switch()
        return results[0]

    def _subscribed(self, program: Waiting, ready: Ready, subscribe: Subscribe) -> Future | None:
        with program.lock:
            if ready():
                return None
            future = self._loop.create_future()
            subscribe(lambda: self._wake(future))
            return future

    def _wake(self, future: Future) -> None:
        self._to_wake.append(future)
        if not self._wake_is_due:
            self._wake_is_due = True
            self._call(self._wake_all)

    def _call(self, function: Callable[[], None]) -> None:
        # A loop that has been closed takes no calls; whoever waited on it is gone.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

    def _wake_all(self) -> None:
        self._wake_is_due = False
        while self._to_wake:
            future = self._to_wake.popleft()
            if not future.done():
                future.set_result(None)

    def _send_all(self) -> None:
        self._send_is_due = False
        self._outgoing.send_all()


async def _within(future: Future, timeout_s: float | None) -> None:
    if timeout_s is None:
        await future
    else:
        await asyncio.wait([future], timeout=timeout_s)


_drivers: dict[asyncio.AbstractEventLoop, LoopDriver] = {}


def loop_driver() -> LoopDriver:
    """The driver of the running loop."""
    loop = asyncio.get_running_loop()
    driver = _drivers.get(loop)
    if driver is None:
        for closed in [known for known in list(_drivers) if known.is_closed()]:
            _drivers.pop(closed, None)
        driver = _drivers[loop] = LoopDriver(loop)
    return driver
