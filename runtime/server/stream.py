"""Server-sent events: one answer of the runtime after another, written as they come."""

import asyncio
import time
from typing import Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from branchwork.runtime.server.errors import ApiError, openai_body
from branchwork.runtime.server.gateway import Gateway, Running
from branchwork.runtime.server.generation import Generation
from branchwork.runtime.server.jobs import ClientGone
from branchwork.runtime.wire.messages import SlotEvent, Usage

DONE = b"data: [DONE]\n\n"

Events = list[tuple[int, SlotEvent]]


class Writer(Protocol):
    """Puts events into a route's own words."""

    @property
    def usage(self) -> Usage:
        """What the request cost; whole after the last event."""
        ...

    def write(self, events: Events) -> bytes:
        """What goes out for these events."""
        ...

    def error(self, error: ApiError) -> bytes:
        """How a stream ends that has already begun."""
        ...

    def end(self) -> bytes:
        """What follows the last answer."""
        ...


def data(value: object) -> bytes:
    """One event of OpenAI's streams."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def error_data(error: ApiError) -> bytes:
    """An error in mid-stream, in OpenAI's shape, and the stream's end."""
    return b"data: " + openai_body(error) + b"\n\n" + DONE


async def stream(
    gateway: Gateway, request: Request, generations: list[Generation], writer: Writer
) -> Response:
    """Start the generations and answer with a stream of their events.

    The first event is awaited before the status is sent, so that what is refused is refused with its own status.
    Raises ApiError.
    """
    running = gateway.start(request, generations)
    try:
        first = await running.job.batch()
    except BaseException:
        gateway.finish(running)
        raise
    return EventStream(gateway, running, first, writer)


class EventStream(Response):
    """A response whose body is written as the runtime's events come, one piece for each wake-up."""

    media_type = "text/event-stream"

    def __init__(self, gateway: Gateway, running: Running, first: Events, writer: Writer) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._gateway = gateway
        self._running = running
        self._first = first
        self._writer = writer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write until the last answer, a failure, or the reader's end."""
        running = self._running
        running.task = asyncio.current_task()
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        # The layers around this one look at the start only; the pieces need not pass through them.
        send_piece: Send = scope["state"]["send"]
        try:
            await send(start)
            try:
                await self._write(send_piece)
                last = self._writer.end()
            except ApiError as error:
                last = self._writer.error(error)
            await send_piece({"type": "http.response.body", "body": last, "more_body": False})
            self._gateway.metrics.add_usage(self._writer.usage)
        except ClientGone:
            pass  # nobody reads any more; the job is aborted already
        finally:
            self._gateway.finish(running)

    async def _write(self, send: Send) -> None:
        metrics, running, write = self._gateway.metrics, self._running, self._writer.write
        events, before = self._first, running.began
        duration = metrics.first_token
        while events:
            if body := write(events):
                running.blocked_since = time.monotonic()
                await send({"type": "http.response.body", "body": body, "more_body": True})
                running.blocked_since = None
                now = time.monotonic()
                duration.observe(now - before)
                duration, before = metrics.between_tokens, now
            events = await running.job.batch()
