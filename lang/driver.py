"""How the body of a program waits: three drivers, one meaning.

A body asks its driver to send instructions and to wait until something is ready. `Direct` blocks the thread that
the body runs in; `branchwork.lang.hub` lets thousands of bodies share one thread; `branchwork.lang.loop` lets them
share an asyncio loop.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from threading import Event, RLock
from typing import Protocol

from greenlet import getcurrent, greenlet

from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.errors import BranchworkError, DeadlineExceeded
from branchwork.runtime.wire.messages import Instruction

Ready = Callable[[], bool]
Subscribe = Callable[[Callable[[], None]], None]
"""Registers a function to be called once, at the next change that may make something ready."""


class Waiting(Protocol):
    """What a driver needs to know of the program that waits."""

    lock: RLock
    deadline: float | None
    backends: list[Backend]
    shared: bool

    def fail(self, error: BranchworkError) -> None:
        """The backend is gone."""

    def abort(self, error: BaseException) -> None:
        """Stop now."""


class Driver(Protocol):
    """Sends for a program and waits for it. `send` may be called from any thread."""

    def send(self, program: Waiting, backend: Backend, instructions: Sequence[Instruction]) -> None:
        """Send, at the latest when the program next waits or ends."""

    def wait(self, program: Waiting, ready: Ready, subscribe: Subscribe) -> None:
        """Return when `ready()`; raises DeadlineExceeded when the program's time is over."""

    def wait_outside(self, program: Waiting, ready: Ready, subscribe: Subscribe) -> None:
        """As `wait`, for who reads a program that others run. Raises ProgramError where that could never end."""

    def sleep(self, seconds: float) -> None:
        """Return after so long; who shares the thread goes on meanwhile."""


def time_left(program: Waiting) -> float | None:
    """Seconds until the program's deadline, None without one.

    When it has passed, the program is aborted; raises DeadlineExceeded.
    """
    if program.deadline is None:
        return None
    left = program.deadline - time.monotonic()
    if left <= 0:
        error = DeadlineExceeded("the program did not end within its timeout")
        program.abort(error)
        raise error
    return left


# A runtime should start on the first programs while the later ones are still being compiled: 256 instructions
# are some 50 programs, 3 ms of work here.
MAX_FRAME = 256


class Outgoing:
    """Instructions of many programs, gathered into one frame for each backend. `put` may be called from any thread."""

    def __init__(self) -> None:
        self._queue: deque[tuple[Waiting, Backend, Sequence[Instruction]]] = deque()

    def __bool__(self) -> bool:
        return bool(self._queue)

    def put(self, program: Waiting, backend: Backend, instructions: Sequence[Instruction]) -> None:
        """Keep until `send_all`."""
        self._queue.append((program, backend, instructions))

    def send_all(self) -> None:
        """Send all that was put; a program whose backend is gone fails, the others are sent."""
        frames: dict[int, tuple[Backend, list[Waiting], list[Instruction]]] = {}
        while self._queue:
            program, backend, instructions = self._queue.popleft()
            _, programs, frame = frames.setdefault(id(backend), (backend, [], []))
            programs.append(program)
            frame.extend(instructions)
            if len(frame) >= MAX_FRAME:
                _send(*frames.pop(id(backend)))
        for backend, programs, frame in frames.values():
            _send(backend, programs, frame)


def _send(backend: Backend, programs: Sequence[Waiting], frame: Sequence[Instruction]) -> None:
    try:
        backend.send(frame)
    except BranchworkError as error:
        for program in programs:
            program.fail(error)


class Direct:
    """The body has its thread for itself: what it sends leaves at once, and a wait blocks the thread."""

    def send(self, program: Waiting, backend: Backend, instructions: Sequence[Instruction]) -> None:
        """Send now. Raises TransportError when the backend is gone."""
        backend.send(instructions)

    def wait(self, program: Waiting, ready: Ready, subscribe: Subscribe) -> None:
        """Block until `ready()`, delivering events meanwhile where this program is alone to wait for them."""
        if program.shared or len(program.backends) != 1:
            return wait_for_signal(program, ready, subscribe)
        while not program.backends[0].wait(ready, time_left(program)):
            time_left(program)

    def wait_outside(self, program: Waiting, ready: Ready, subscribe: Subscribe) -> None:
        """Block until `ready()`."""
        wait_for_signal(program, ready, subscribe)

    def sleep(self, seconds: float) -> None:
        """Block the thread."""
        time.sleep(seconds)


def wait_for_signal(program: Waiting, ready: Ready, subscribe: Subscribe) -> None:
    """Block until `ready()` while others deliver events."""
    signal = Event()
    while True:
        with program.lock:
            if ready():
                return
            signal.clear()
            subscribe(signal.set)
        signal.wait(time_left(program))


DIRECT = Direct()


class Body(greenlet):  # type: ignore[misc]  # greenlet has no types
    """A program's body that can be set aside while it waits; `driver` is who sets it aside."""

    driver: Driver


def current_driver() -> Driver:
    """The driver of the body that is running, so that a program run inside another waits as that one does."""
    current = getcurrent()
    return current.driver if isinstance(current, Body) else DIRECT
