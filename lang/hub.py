"""Many synchronous bodies in one thread: each is a greenlet that is set aside while it waits.

The hub runs every body that can go on; when none can, it sends what they have asked for as one frame and sleeps
until an answer wakes one of them.
"""

import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from threading import Event, get_ident

from greenlet import getcurrent

from branchwork.lang.driver import (
    MAX_FRAME,
    Body,
    Outgoing,
    Ready,
    Subscribe,
    Waiting,
    time_left,
    wait_for_signal,
)
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.errors import TransportError
from branchwork.runtime.wire.messages import Instruction


class Hub:
    """Runs bodies in the thread that calls `run_until`."""

    def __init__(self) -> None:
        self._ready: deque[Body] = deque()
        self._outgoing = Outgoing()
        self._num_outgoing = 0
        self._deadlines: list[tuple[float, int, Body]] = []
        self._order = itertools.count()
        self._backends: list[Backend] = []
        self._signal = Event()
        self._thread = get_ident()
        self._home = getcurrent()

    def spawn(self, run: Callable[[], None]) -> Body:
        """A body that starts at the next turn; `run` keeps its result and its errors to itself."""
        body = Body(run)
        body.driver = self
        self._ready.append(body)
        return body

    def run_until(self, finished: Callable[[], bool]) -> None:
        """Run bodies until `finished()`, which is asked after each turn of a body."""
        self._home = getcurrent()
        while not finished():
            if self._ready:
                body = self._ready.popleft()
                if not body.dead:
                    body.parent = self._home
                    body.switch()
            elif self._outgoing:
                self._send_all()
            else:
                self._sleep()

    def end(self, bodies: Sequence[Body]) -> None:
        """End bodies that still wait: GreenletExit is raised in them, and what they send then still leaves."""
        for body in bodies:
            if not body.dead:
                body.parent = getcurrent()
                body.throw()
        self._send_all()

    def send(self, program: Waiting, backend: Backend, instructions: Sequence[Instruction]) -> None:
        """Send with what the other bodies send before the hub sleeps."""
        self._outgoing.put(program, backend, instructions)
        if get_ident() != self._thread:
            self._signal.set()
            return
        self._num_outgoing += len(instructions)
        if self._num_outgoing >= MAX_FRAME:
            self._send_all()

    def wait(self, program: Waiting, ready: Ready, subscribe: Subscribe) -> None:
        """Set the running body aside until `ready()`."""
        body = getcurrent()
        if not isinstance(body, Body):
            return self.wait_outside(program, ready, subscribe)
        self._watch(program.backends)

        def wake() -> None:
            self._ready.append(body)
            if len(self._backends) != 1:
                self._signal.set()

        while True:
            with program.lock:
                if ready():
                    return
                subscribe(wake)
            if time_left(program) is not None and program.deadline is not None:
                heapq.heappush(self._deadlines, (program.deadline, next(self._order), body))
            self._home.switch()

    def wait_outside(self, program: Waiting, ready: Ready, subscribe: Subscribe) -> None:
        """Block until `ready()`; the hub's own thread runs nothing but bodies."""
        wait_for_signal(program, ready, subscribe)

    def sleep(self, seconds: float) -> None:
        """Set the running body aside for so long."""
        body = getcurrent()
        assert isinstance(body, Body), "only a body of this hub sleeps here"
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            heapq.heappush(self._deadlines, (end, next(self._order), body))
            self._home.switch()

    def _watch(self, backends: Sequence[Backend]) -> None:
        for backend in backends:
            if backend not in self._backends:
                self._backends.append(backend)
                if len(self._backends) > 1:
                    for each in self._backends:
                        each.deliver_in_background()

    def _sleep(self) -> None:
        """Until a body can go on, something can be sent, or a deadline has passed."""
        timeout = None
        if self._deadlines:
            timeout = max(self._deadlines[0][0] - time.monotonic(), 0.0)
        if len(self._backends) == 1:
            try:
                self._backends[0].wait(self._has_work, timeout)
            except TransportError:
                self._backends.clear()  # it is gone, and whoever waited on it has been told
        else:
            self._signal.wait(timeout)
            self._signal.clear()
        now = time.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            self._ready.append(heapq.heappop(self._deadlines)[2])

    def _has_work(self) -> bool:
        return bool(self._ready or self._outgoing)

    def _send_all(self) -> None:
        self._num_outgoing = 0
        self._outgoing.send_all()
