"""The io thread: messages of clients to operations for the engine, and the engine's events back to their clients."""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import msgspec

from branchwork.runtime.inbox import Operation
from branchwork.runtime.io.intake import Compiler, Encoding, Intake, Taken, TextEncoder
from branchwork.runtime.io.outlet import Outlet
from branchwork.runtime.io.router import Router
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import BranchworkError, InternalError, RequestError
from branchwork.runtime.wire.messages import (
    PROTOCOL_VERSION,
    ClientMessage,
    Heartbeat,
    Hello,
    Refused,
    Reply,
    Request,
    Welcome,
)
from branchwork.runtime.wire.validate import Limits

logger = logging.getLogger(__name__)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[ClientMessage]).decode

# Whatever happens wakes the loop; this only bounds a sleep in which nothing does.
_IDLE_S = 60.0
_DRAINING_S = 0.02

# Threads that tokenise long texts: two, so that one very long text does not hold up all others.
NUM_ENCODERS = 2


@dataclass(frozen=True, slots=True)
class Host:
    """What stands behind the io thread.

    `put` queues operations for the engine, `steps` is its counter of passes, `ask` answers a `Request`.
    """

    config: RuntimeConfig
    welcome: Welcome
    encoder: TextEncoder
    compiler: Compiler
    put: Callable[[Sequence[Operation]], None]
    steps: Callable[[], int]
    ask: Callable[[str, str], "str | Future[str]"]


class IoLoop:
    """Runs until `stop`. Nothing that a client sends ends it: who sends what cannot be read is refused and given up."""

    def __init__(self, host: Host, router: Router, outlet: Outlet) -> None:
        self._host = host
        self._router = router
        self._outlet = outlet
        self._limits = Limits.of(host.welcome)
        self._intakes: dict[bytes, Intake] = {}
        self._num_bad_frames = self._num_failed_messages = self._num_ignored = 0
        self._encoders = ThreadPoolExecutor(NUM_ENCODERS, "encoder")
        self._encoded: deque[tuple[bytes, int]] = deque()
        self._answered: deque[tuple[Intake, int]] = (
            deque()
        )  # questions, by the size of their bodies
        self._deadline: float | None = None

    def run(self) -> None:
        """Serve clients until stopped and drained."""
        while not self._is_drained():
            self._router.sleep(_IDLE_S if self._deadline is None else _DRAINING_S)
            self._note_endings()
            self._collect()
            self._resume()
            for client in self._router.tend(_encode([Heartbeat(self._host.steps())])):
                self._forget(client)
        self._encoders.shutdown(wait=False, cancel_futures=True)

    def stats(self) -> dict[str, int]:
        """Clients, and since the start: frames that were no messages, messages that met a bug of ours, messages
        for branches that had ended, clients that could not be sent what was theirs.
        """
        intakes = list(self._intakes.values())
        return {
            "clients": len(intakes),
            "bad_frames": self._num_bad_frames,
            "failed_messages": self._num_failed_messages,
            "ignored_messages": self._num_ignored + sum(intake.ignored for intake in intakes),
            "clients_given_up": self._outlet.num_given_up,
        }

    def stop(self, drain_s: float) -> None:
        """End when no slot is open, and after `drain_s` seconds in any case. Any thread; signal handlers, too."""
        deadline = time.monotonic() + drain_s
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)
        self._router.wake()

    def _is_drained(self) -> bool:
        if self._deadline is None:
            return False
        self._note_endings()
        is_idle = all(intake.is_idle for intake in self._intakes.values())
        return is_idle or time.monotonic() >= self._deadline

    def _note_endings(self) -> None:
        for client, event in self._outlet.take_endings():
            intake = self._intakes.get(client)
            if intake is not None:
                intake.sent(event)
        while self._answered:
            asker, size = self._answered.popleft()
            asker.answered(size)

    def _collect(self) -> None:
        """Read what clients have sent."""
        for client, frame in self._router.receive():
            try:
                messages = _decode(frame)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                self._num_bad_frames += 1
                self._refuse_unread(client, error)
                continue
            taken = Taken()
            for message in messages:
                try:
                    self._take(client, message, taken)
                except (
                    Exception
                ):  # what this leaves unsaid nobody knows, so the client must not wait for it
                    self._num_failed_messages += 1
                    logger.exception(
                        "%s was not taken; its client is given up", type(message).__name__
                    )
                    self._router.give_up(client)
                    break
            self._pass_on(client, taken)

    def _refuse_unread(self, client: bytes, error: Exception) -> None:
        """What a frame asked for that cannot be read nobody knows, so its client must not wait for it."""
        if client in self._intakes:
            reason = Refused("invalid_parameter", f"the runtime cannot read a message: {error}")
            self._outlet.answer(client, [reason])
            self._router.give_up(client)

    def _take(self, client: bytes, message: ClientMessage, taken: Taken) -> None:
        answers = taken.answers
        intake = self._intakes.get(client)
        if isinstance(message, Hello):
            answers.append(self._greet(client, message))
        elif intake is None:
            if not answers:  # once is enough for a frame
                answers.append(Refused("transport", "the runtime does not know this connection"))
        elif isinstance(message, Heartbeat):
            answers.append(Heartbeat(self._host.steps()))
        elif isinstance(message, Request):
            self._request(client, intake, message)
        else:
            intake.take(message, taken)

    def _pass_on(self, client: bytes, taken: Taken) -> None:
        if taken.operations:
            self._host.put(taken.operations)
        if taken.answers:
            self._outlet.answer(client, taken.answers)

    def _resume(self) -> None:
        """Go on where a long text has been tokenised."""
        while self._encoded:
            client, branch = self._encoded.popleft()
            intake = self._intakes.get(client)
            if intake is not None:
                taken = Taken()
                intake.resume(branch, taken)
                self._pass_on(client, taken)

    def _greet(self, client: bytes, hello: Hello) -> Welcome | Refused:
        if hello.version != PROTOCOL_VERSION:
            return Refused(
                "version_mismatch",
                f"the runtime speaks version {PROTOCOL_VERSION} of the protocol, the client "
                f"{hello.version}",
            )
        if self._deadline is not None:
            return Refused("unreachable", "the runtime is shutting down")
        if client not in self._intakes:
            host = self._host
            self._intakes[client] = Intake(
                client,
                host.config,
                self._limits,
                host.encoder,
                host.compiler,
                self._late,
                partial(self._encode_elsewhere, client),
            )
            self._router.greet(client)
        return self._host.welcome

    def _late(self, operation: Operation) -> None:
        self._host.put([operation])

    def _encode_elsewhere(
        self, client: bytes, encoding: Encoding, branch: int
    ) -> "Future[tuple[int, ...]]":
        def done(_: object) -> None:
            self._encoded.append((client, branch))
            self._router.wake()

        future = self._encoders.submit(encoding)
        future.add_done_callback(done)
        return future

    def _request(self, client: bytes, intake: Intake, request: Request) -> None:
        try:
            intake.ask(len(request.body))
        except RequestError as error:
            self._reply(client, request, error)
            return
        try:
            answer = self._host.ask(request.what, request.body)
        except RequestError as error:
            self._reply(client, request, error)
        except Exception:
            logger.exception("request %s failed", request.what)
            self._reply(client, request, InternalError("the runtime has failed on this request"))
        else:
            if not isinstance(answer, str):
                answer.add_done_callback(
                    lambda done: self._reply_later(client, intake, request, done)
                )
                return
            self._reply(client, request, answer)
        intake.answered(len(request.body))

    def _reply_later(
        self, client: bytes, intake: Intake, request: Request, done: "Future[str]"
    ) -> None:
        if done.cancelled():
            return  # the runtime is shutting down
        error = done.exception()
        if error is not None and not isinstance(error, BranchworkError):
            error = InternalError("the runtime has failed on this request")
        self._reply(client, request, error or done.result())
        self._answered.append((intake, len(request.body)))
        self._router.wake()

    def _reply(self, client: bytes, request: Request, answer: "str | BranchworkError") -> None:
        if isinstance(answer, BranchworkError):
            reply = Reply(request.number, str(answer), answer.code)
        else:
            reply = Reply(request.number, answer)
        self._outlet.send([(client, reply)])

    def _forget(self, client: bytes) -> None:
        intake = self._intakes.pop(client, None)
        if intake is not None:
            self._num_ignored += intake.ignored
            self._host.put([intake.leave()])
