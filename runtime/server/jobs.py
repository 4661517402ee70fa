"""A request as branches of the runtime: instructions out, and the events that answer them in, on the event loop.

The backend calls its listeners on a thread of its own. `Pump` carries the events to the loop with one wake-up for
all that came meanwhile, and each job's task wakes once for all events of its branches.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from branchwork.runtime.server.errors import from_error, from_failed
from branchwork.runtime.server.generation import Generation
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.errors import BranchworkError, InternalError
from branchwork.runtime.wire.messages import (
    Abort,
    BranchId,
    Closed,
    Done,
    Event,
    Failed,
    Instruction,
    SlotEvent,
    TokenLogprob,
    Tokens,
    Usage,
)

log = logging.getLogger(__name__)


class Taker(Protocol):
    """What events are carried to; `take` runs on the event loop."""

    def take(self, index: int, event: Event | BranchworkError) -> None:
        """One event of the branch that was opened with `index`. Raises nothing."""
        ...


class Pump:
    """Carries events from the backend's thread to the loop, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._events: deque[tuple[Taker, int, Event | BranchworkError]] = deque()
        self._woken = False

    def post(self, taker: Taker, index: int, event: Event | BranchworkError) -> None:
        """Hand over one event; any thread."""
        self._events.append((taker, index, event))
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # Cleared before the queue is read: what is posted from here on wakes the loop again.
        self._woken = False
        events = self._events
        for _ in range(len(events)):
            taker, index, event = events.popleft()
            taker.take(index, event)


class ClientGone(Exception):
    """Whoever asked has hung up; nobody reads an answer."""


class Job:
    """One request's branches. Its events are read by one task; it is used on the event loop alone.

    Answers are numbered over all generations: the answers to the first prompt, then those to the second.
    Whatever ends the job early (a failure, `abort`) aborts all its branches at once.
    """

    def __init__(self, backend: Backend, pump: Pump, request_id: str) -> None:
        self.request_id = request_id
        self.usages: list[Usage] = []
        self._backend = backend
        self._pump = pump
        self._unfinished: dict[int, BranchId] = {}
        self._fields: dict[int, str | None] = {}
        self._open: set[BranchId] = set()
        self._events: list[tuple[int, SlotEvent]] = []
        self._end: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    def start(self, generations: Iterable[Generation]) -> None:
        """Send everything as one frame. Raises ApiError when the runtime is gone."""
        frame: list[Instruction] = []
        first = 0
        for generation in generations:
            numbers = range(first, first + generation.n)
            branches = [self._branch(number) for number in numbers]
            self._unfinished.update(zip(numbers, branches, strict=True))
            self._fields.update(dict.fromkeys(numbers, generation.field))
            parent = self._branch(-1) if generation.n > 1 else branches[0]
            frame += generation.instructions(branches, parent)
            first += generation.n
        self.send(frame)

    def send(self, frame: list[Instruction]) -> None:
        """Send instructions as they are. Raises ApiError when the runtime is gone."""
        try:
            self._backend.send(frame)
        except BranchworkError as error:
            raise from_error(error) from None

    def _branch(self, number: int) -> BranchId:
        branch = self._backend.new_branch(partial(self._pump.post, self, number))
        self._open.add(branch)
        return branch

    def take(self, index: int, event: Event | BranchworkError) -> None:
        """One event, from the pump."""
        try:
            self._take(index, event)
        except Exception:  # the boundary of one request: others' events are behind this one
            log.exception("an event was not taken; its request fails")
            self._stop(from_error(InternalError("the event was not taken")))

    def _take(self, index: int, event: Event | BranchworkError) -> None:
        if isinstance(event, Closed):
            self._open.discard(event.branch)
            return
        if self._end is not None:
            return
        if isinstance(event, BranchworkError):
            self._open.clear()
            self._stop(from_error(event))
        elif index in self._unfinished:
            self._take_answer(index, event)

    def _take_answer(self, index: int, event: SlotEvent) -> None:
        if isinstance(event, Failed):
            self._stop(from_failed(event, self._fields[index]))
            return
        if isinstance(event, Done):
            del self._unfinished[index]
            self.usages.append(event.usage)
        self._events.append((index, event))
        self._wake()

    def abort(self, reason: Exception) -> None:
        """Stop now: the runtime frees the branches, and whoever reads the job gets `reason`."""
        if self._end is None and self._unfinished:
            self._stop(reason)

    def _stop(self, reason: Exception) -> None:
        self._end = reason
        open_branches, self._open = self._open, set()
        if open_branches:
            try:
                self._backend.send([Abort(branch) for branch in open_branches])
            except BranchworkError:
                self._end = reason  # the runtime is gone, and its branches with it
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def pending(self) -> int:
        """Events that nobody has read yet."""
        return len(self._events)

    async def batch(self) -> list[tuple[int, SlotEvent]]:
        """All events since the last call, at least one; [] after the last answer.

        Raises ApiError when an answer failed, or what `abort` was called with.
        """
        while not self._events:
            if self._end is not None:
                raise self._end
            if not self._unfinished:
                return []
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._end is not None:
            raise self._end
        events, self._events = self._events, []
        return events

    async def batches(self) -> AsyncIterator[list[tuple[int, SlotEvent]]]:
        """`batch` until the last answer."""
        while events := await self.batch():
            yield events

    async def answers(self) -> list["Answer"]:
        """All answers, when all are done. Raises as `batch`."""
        answers: dict[int, Answer] = {}
        async for events in self.batches():
            for index, event in events:
                answers.setdefault(index, Answer()).add(event)
        return [answers[index] for index in sorted(answers)]


@dataclass(slots=True)
class Answer:
    """What became of one branch; complete once its `Done` was added.

    `steps` are its bytes and how many tokens came with them: one step unless the answer was asked for as a stream.
    """

    text: str = ""
    reason: str = ""
    matched: str | int | None = None
    usage: Usage = field(default_factory=Usage)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    steps: list[tuple[bytes, int]] = field(default_factory=list)
    done: Done | None = None

    def add(self, event: SlotEvent) -> None:
        """The answer's next event."""
        if isinstance(event, Tokens):
            before = len(self.token_ids)
            for run in event.runs:
                self.token_ids += run.token_ids
            self.steps.append((event.data, len(self.token_ids) - before))
            self.logprobs += event.logprobs
        elif isinstance(event, Done):
            self.text, self.reason, self.matched = event.text, event.reason, event.matched
            self.usage, self.done = event.usage, event


def total_usage(usages: list[Usage], n: int) -> Usage:
    """The usage of a request from those of its answers, `n` for each prompt.

    A prompt is counted once for all its answers, and counts as cached what was cached before the first of them.
    """
    prompts = [usages[i : i + n] for i in range(0, len(usages), n)]
    return Usage(
        prompt=sum(group[0].prompt for group in prompts),
        cached=sum(min(usage.cached for usage in group) for group in prompts),
        completion=sum(usage.completion for usage in usages),
        sampled=sum(usage.sampled for usage in usages),
        jumped=sum(usage.jumped for usage in usages),
        speculated=sum(usage.speculated for usage in usages),
    )
