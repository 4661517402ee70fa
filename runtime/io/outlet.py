"""The way out: events of the engine to their clients, sent by whoever has them.

The engine's thread sends its own events. A hop to the io thread would cost a small model more than its step: two Python
threads that wake each other contend for the interpreter. Nothing here waits for a client.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from branchwork.runtime.io.router import Router
from branchwork.runtime.wire.messages import Closed, Done, Failed, RuntimeMessage, Tokens

logger = logging.getLogger(__name__)

Ending = Done | Failed | Closed

_encode = msgspec.msgpack.Encoder().encode


class Outlet:
    """The engine's `Outbox`. Any thread may send; what ends a slot or a branch is also told to the io thread."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._endings: deque[tuple[bytes, Ending]] = deque()
        self.num_given_up = 0

    def send(self, events: Sequence[tuple[bytes, RuntimeMessage]]) -> None:
        """Send (client, message) pairs, those of one client as one frame; never blocks."""
        frames: dict[bytes, list[RuntimeMessage]] = {}
        for client, message in events:
            frames.setdefault(client, []).append(message)
            if type(message) is not Tokens and isinstance(message, Ending):
                # Before it is sent: what the client sends in answer finds the branch as it is.
                self._endings.append((client, message))
        for client, batch in frames.items():
            self._deliver(self._router.send, client, batch)

    def answer(self, client: bytes, messages: Sequence[RuntimeMessage]) -> None:
        """Answer what a client, or a stranger, has just said; one frame."""
        self._deliver(self._router.answer, client, messages)

    def _deliver(
        self,
        send: Callable[[bytes, bytes], None],
        client: bytes,
        messages: Sequence[RuntimeMessage],
    ) -> None:
        """A client that cannot be sent what is its due is given up: the answer to its next word tells it so."""
        try:
            send(client, encode_events(messages))
        except Exception:  # the boundary of one client
            logger.exception("a client is given up")
            self.num_given_up += 1
            self._router.give_up(client)

    def take_endings(self) -> list[tuple[bytes, Ending]]:
        """What has ended since the last call; for the io thread."""
        endings = []
        while self._endings:
            endings.append(self._endings.popleft())
        return endings


def encode_events(events: Sequence[RuntimeMessage]) -> bytes:
    """One frame. An event that a bug of ours has made unfit to be sent becomes its slot's Failed."""
    try:
        return _encode(events)
    except (TypeError, ValueError, OverflowError):
        logger.exception("an event cannot be sent")
        return _encode([fit for event in events if (fit := _made_fit(event)) is not None])


def _made_fit(event: RuntimeMessage) -> RuntimeMessage | None:
    try:
        _encode([event])
    except (TypeError, ValueError, OverflowError):
        if isinstance(event, Done | Failed):
            return Failed(event.branch, event.slot, "internal", "the runtime has failed here")
        return None
    return event
