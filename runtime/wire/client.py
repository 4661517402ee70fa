"""The client of a runtime: the `Backend` that programs and the gateway run against.

*Whoever waits reads the socket.* The first thread that waits leads: it sleeps on the socket and delivers events, its
own and everyone's; the others sleep until the leader finds their condition met, or leaves and hands over (the
leader/followers pattern, Schmidt et al. 2000). So an answer reaches a lone thread without a hop through another one.
"""

import atexit
import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence

from branchwork.runtime.wire import curve
from branchwork.runtime.wire.backend import Listener
from branchwork.runtime.wire.errors import (
    BranchworkError,
    DeadlineExceeded,
    InvalidParameter,
    QueueFull,
    RuntimeDied,
    RuntimeUnreachable,
    TransportError,
    error_from,
)
from branchwork.runtime.wire.messages import (
    BranchId,
    ClientMessage,
    Heartbeat,
    Hello,
    Instruction,
    Open,
    Reply,
    Request,
    Welcome,
)
from branchwork.runtime.wire.session import Session, encode
from branchwork.runtime.wire.transport import Transport

_HEARTBEAT_FRAME = encode([Heartbeat()])


def connect(
    address: str,
    *,
    key_file: str = "",
    name: str = "",
    timeout_s: float = 10.0,
    obituary: Callable[[], str] | None = None,
) -> "Client":
    """Join the runtime at `address` (ipc://… or tcp://…).

    `obituary` gives the sentence of a later RuntimeDied, where the caller knows how the process ended.
    Raises RuntimeUnreachable when nobody answers, VersionMismatch, and ConfigError for tcp:// without a key file.
    """
    transport = Transport(address, curve.key_for(address, key_file))
    client = Client(transport, address, obituary)
    try:
        client.greet(name, timeout_s)
    except BaseException:
        client.close()
        raise
    return client


class _Waiter:
    """A thread that sleeps until its condition is met, or until it is its turn to lead."""

    __slots__ = ("_signal", "ready")

    def __init__(self, ready: Callable[[], bool]) -> None:
        self.ready = ready
        self._signal = threading.Lock()
        self._signal.acquire()

    def sleep(self, timeout_s: float | None) -> None:
        self._signal.acquire(timeout=-1 if timeout_s is None else max(0.0, timeout_s))

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has been woken already
            self._signal.release()

    def is_ready(self) -> bool:
        try:
            return self.ready()
        except Exception:
            return True  # let it raise on the thread that it belongs to


class Client:
    """One connection to a runtime; made by `connect`. Its methods may be called from any thread of its process."""

    def __init__(
        self, transport: Transport, address: str, obituary: Callable[[], str] | None
    ) -> None:
        self.address = address
        self.last_seen = time.monotonic()
        self._transport = transport
        self._session = Session()
        self._obituary = obituary
        self._pid = os.getpid()
        self._heartbeat_s = 2.0
        self._max_frame_bytes = 1 << 20
        self._last_heartbeat = self.last_seen
        self._lock = threading.Lock()
        self._waiters: list[_Waiter] = []
        self._has_leader = False
        self._leader_thread = 0
        self._background: _Waiter | None = None
        self._background_thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._closed = threading.Event()
        atexit.register(self.close)

    @property
    def welcome(self) -> Welcome:
        """Who answers, and within which limits."""
        assert self._session.welcome is not None, "connect() returns after the Welcome"
        return self._session.welcome

    @property
    def alive(self) -> bool:
        """Whether the connection stands, as far as anyone has noticed."""
        return self._session.error is None and not self._transport.gone

    @property
    def steps(self) -> int:
        """The engine's step counter in the runtime's last heartbeat."""
        return self._session.steps

    def new_branch(self, listener: Listener) -> BranchId:
        """A fresh branch id whose events go to `listener` until its `Closed`."""
        return self._session.add_branch(listener)

    def send(self, instructions: Sequence[Instruction]) -> None:
        """Queue instructions as one frame (as several, if they are more than the runtime takes in one).

        Raises TransportError when the runtime is gone, InvalidParameter when one instruction alone is too large: then
        none is sent, and of branches that were to be opened nothing more is heard.
        """
        try:
            self._send(instructions)
        except BranchworkError:
            for instruction in instructions:
                if isinstance(instruction, Open):
                    self._session.forget_branch(instruction.branch)
            raise

    def wait(self, ready: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Block until `ready()` or the time is over; returns `ready()`. Events are delivered meanwhile.

        `ready` must be quick and may be called on any thread. Raises TransportError when the runtime is gone and
        `ready()` is still false, so that nobody waits for what cannot come.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        waiter = _Waiter(ready)
        while not ready():
            self._check()
            if deadline is not None and deadline <= time.monotonic():
                return False
            if self._enter(waiter):
                try:
                    self._lead(ready, deadline)
                finally:
                    self._leave()
            else:
                try:
                    if not waiter.is_ready():
                        waiter.sleep(None if deadline is None else deadline - time.monotonic())
                finally:
                    self._withdraw(waiter)
        return True

    def deliver_in_background(self) -> None:
        """From here on a thread delivers events while nobody waits."""
        with self._lock:
            if self._background_thread is not None or self._closing.is_set():
                return
            self._background = _Waiter(self._closing.is_set)
            self._background_thread = threading.Thread(
                target=self._run_background, name="branchwork-events", daemon=True
            )
        self._background_thread.start()

    def request(self, what: str, body: str = "{}", timeout_s: float | None = 60.0) -> str:
        """Ask for something beside the branches and wait for the answer's body.

        Raises what the runtime answers, DeadlineExceeded after `timeout_s`, TransportError when the runtime is gone.
        """
        answers: list[Reply | BranchworkError] = []
        number = self._session.add_request(answers.append)
        try:
            self._send([Request(number, what, body)])
            if not self.wait(lambda: bool(answers), timeout_s):
                raise DeadlineExceeded(f"{what}: no answer within {timeout_s} s")
        finally:
            self._session.forget_request(number)
        answer = answers[0]
        if isinstance(answer, BranchworkError):
            raise _copy(answer)
        if answer.error is not None:
            raise error_from(answer.error, answer.body)
        return answer.body

    def close(self) -> None:
        """Leave: open branches are aborted by the runtime, and their listeners told. Later calls do nothing."""
        atexit.unregister(self.close)
        if self._pid != os.getpid():
            return  # a forked child has no share in the parent's connection
        self._session.fail(TransportError("the client was closed"))
        self._closing.set()
        if self._enter(None):
            self._leave()
        elif self._leader_thread != threading.get_ident():
            self._transport.wake()
            self._closed.wait(2.0)  # the leader closes the socket as it leaves

    def greet(self, name: str, timeout_s: float) -> None:
        """Exchange Hello and Welcome, before anything else. Errors as `connect`."""
        self._send([Hello(name=name)])
        session = self._session
        self._lead(lambda: session.welcome is not None, time.monotonic() + timeout_s)
        if session.welcome is None:
            if session.error is None or isinstance(session.error, RuntimeDied):
                raise RuntimeUnreachable(f"nobody answers at {self.address}")
            raise _copy(session.error)
        self._heartbeat_s = session.welcome.heartbeat_s
        self._max_frame_bytes = session.welcome.limits["max_text_bytes"]

    def _send(self, messages: Sequence[ClientMessage]) -> None:
        self._check()
        for frame in self._frames(messages):
            self._transport.send(frame)
        if self._transport.gone:
            self._check()  # it may have been closed here
            raise RuntimeDied(self._describe_death())

    def _frames(self, messages: Sequence[ClientMessage]) -> list[bytes]:
        """The messages in as few frames as the runtime takes. Raises InvalidParameter."""
        frame = encode(messages)
        if len(frame) <= self._max_frame_bytes:
            return [frame]
        if len(messages) > 1:
            middle = len(messages) // 2
            return [*self._frames(messages[:middle]), *self._frames(messages[middle:])]
        raise InvalidParameter(
            f"one message of {len(frame)} bytes; the runtime takes {self._max_frame_bytes} "
            "(--max-text-bytes)",
            "text",
        )

    def _check(self) -> None:
        if self._session.error is not None:
            raise _copy(self._session.error)
        if self._pid != os.getpid():
            raise TransportError("a connection cannot be used in a forked process; connect anew")

    def _enter(self, waiter: _Waiter | None) -> bool:
        """Become the leader (true), or else one of those who sleep."""
        with self._lock:
            if not self._has_leader:
                self._has_leader = True
                self._leader_thread = threading.get_ident()
                return True
            if waiter is not None:
                self._waiters.append(waiter)
            return False

    def _leave(self) -> None:
        """End leading: hand over to the next in line, or close what nobody uses any more."""
        with self._lock:
            if self._closing.is_set():
                self._transport.close()
                self._closed.set()
            self._has_leader = False
            self._promote()

    def _withdraw(self, waiter: _Waiter) -> None:
        with self._lock:
            self._waiters.remove(waiter)
            self._promote()

    def _promote(self) -> None:
        if not self._has_leader:
            successor = self._waiters[0] if self._waiters else self._background
            if successor is not None:
                successor.wake()

    def _lead(self, ready: Callable[[], bool], deadline: float | None) -> None:
        """Read the socket until `ready()`, the deadline, or the end of the connection."""
        while not ready() and self._session.error is None:
            timeout_s = self._heartbeat_s
            if deadline is not None:
                timeout_s = min(timeout_s, deadline - time.monotonic())
                if timeout_s <= 0:
                    return
            self._pump(timeout_s)
            # A copy, and outside the lock: what `ready` does is its own affair.
            for waiter in self._waiters.copy():
                if waiter.is_ready() or self._session.error is not None:
                    waiter.wake()

    def _pump(self, timeout_s: float) -> None:
        frames = self._transport.receive()
        if not frames and not self._transport.gone:
            self._transport.sleep(timeout_s)
            frames = self._transport.receive()
        now = time.monotonic()
        if frames:
            self.last_seen = now
            for frame in frames:
                self._session.take(frame)
        elif self._transport.gone:
            self._session.fail(RuntimeDied(self._describe_death()))
            return
        if now - self._last_heartbeat > self._heartbeat_s:
            self._last_heartbeat = now
            with contextlib.suppress(QueueFull):  # then the runtime has enough to read
                self._transport.send(_HEARTBEAT_FRAME)

    def _describe_death(self) -> str:
        ending = self._obituary() if self._obituary is not None else ""
        return ending or f"the runtime at {self.address} is gone"

    def _run_background(self) -> None:
        assert self._background is not None, "made before the thread"
        while self._session.error is None:
            if self._enter(None):
                try:
                    self._lead(self._closing.is_set, None)
                finally:
                    self._leave()
            else:
                self._background.sleep(None)


def _copy(error: BranchworkError) -> BranchworkError:
    # One exception object raised on many threads would collect all their tracebacks.
    return error_from(error.code, str(error))
