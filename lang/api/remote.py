"""A backend over an API: instructions are carried out branch by branch, calls of different branches together."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Condition, RLock

import msgspec

from branchwork.lang.api.provider import Completion, Provider
from branchwork.lang.api.speculation import Ahead, TokenUsage
from branchwork.lang.api.transcript import Transcript
from branchwork.lang.chat_template import ChatTemplate
from branchwork.runtime.wire import messages as wire
from branchwork.runtime.wire.backend import Listener
from branchwork.runtime.wire.errors import (
    BranchworkError,
    InternalError,
    InvalidParameter,
    RequestError,
    RuntimeDied,
)

logger = logging.getLogger(__name__)

MAX_CALLS = 64
"""Calls under way at once: a call waits on the network, and holds a thread meanwhile."""


class _Fork(msgspec.Struct, frozen=True):
    """In a parent's queue: from here on the child goes its own way."""

    child: wire.BranchId


class _Branch:
    __slots__ = ("ahead", "busy", "failed", "listener", "opened", "queue", "transcript")

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.queue: deque[wire.Instruction | _Fork] = deque()
        self.transcript = Transcript()
        self.ahead = Ahead()
        self.opened = False
        self.busy = False
        self.failed = False


class Remote:
    """A `Backend` that carries out instructions by calling a provider.

    `spec_tokens` is how far a call may write ahead of its slot (`function(num_api_spec_tokens=…)`).
    """

    def __init__(
        self, provider: Provider, *, spec_tokens: int = 0, token_usage: TokenUsage | None = None
    ) -> None:
        self.provider = provider
        self.chat_template: ChatTemplate | None = None
        self.token_usage = token_usage or TokenUsage()
        self._spec_tokens = spec_tokens
        self._views: dict[int, Remote] = {}
        self._branches: dict[wire.BranchId, _Branch] = {}
        self._changed = Condition()
        self._outbox: deque[tuple[Listener, wire.Event | BranchworkError]] = deque()
        self._delivery = RLock()
        self._pool = ThreadPoolExecutor(MAX_CALLS, "branchwork-api")
        self._next_id = 0
        self._closed = False

    def speculating(self, spec_tokens: int) -> "Remote":
        """The same API, with calls that may write ahead; usage is counted together."""
        if spec_tokens not in self._views:
            self._views[spec_tokens] = Remote(
                self.provider, spec_tokens=spec_tokens, token_usage=self.token_usage
            )
        return self._views[spec_tokens]

    # ------------------------------------------------------------------ the Backend protocol

    @property
    def welcome(self) -> wire.Welcome:
        """Who answers; of an API's limits nothing is known."""
        return wire.Welcome(
            version=wire.PROTOCOL_VERSION,
            runtime_version="api",
            model=self.provider.name,
            model_checksum="",
            context_len=1 << 30,
            vocab_size=1 << 30,
            eos_token_ids=(),
            chat_format=self.chat_template.chat_format()
            if self.chat_template
            else self.provider.chat_format,
            limits={},
            heartbeat_s=1.0,
            pid=0,
        )

    def new_branch(self, listener: Listener) -> wire.BranchId:
        """A fresh branch id."""
        with self._changed:
            self._next_id += 1
            self._branches[self._next_id] = _Branch(listener)
            return self._next_id

    def send(self, instructions: Sequence[wire.Instruction]) -> None:
        """Queue instructions. Raises TransportError after `close`."""
        with self._changed:
            if self._closed:
                raise RuntimeDied("the backend was closed")
            touched: dict[wire.BranchId, None] = {}
            for instruction in instructions:
                self._queue(instruction, touched)
            for branch in touched:
                self._advance(branch)
            if self._outbox:
                self._pool.submit(self._deliver)

    def wait(self, ready: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Block until `ready()`; the threads that make the calls deliver their events."""
        with self._changed:
            return self._changed.wait_for(ready, timeout_s)

    def deliver_in_background(self) -> None:
        """They are anyway."""

    def request(self, what: str, body: str = "{}", timeout_s: float | None = 60.0) -> str:
        """An API has nothing to tell beside its answers."""
        return "{}"

    def close(self) -> None:
        """Open branches are aborted."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            died = RuntimeDied("the backend was closed")
            self._outbox.extend((branch.listener, died) for branch in self._branches.values())
            self._branches.clear()
        self._deliver()
        for view in self._views.values():
            view.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------------ instructions, under the lock

    def _queue(self, instruction: wire.Instruction, touched: dict[wire.BranchId, None]) -> None:
        branch = self._branches.get(instruction.branch)
        if branch is None:
            return
        if isinstance(instruction, wire.Abort):
            self._outbox.append((branch.listener, wire.Closed(instruction.branch)))
            del self._branches[instruction.branch]
        elif isinstance(instruction, wire.Open):
            parent = (
                self._branches.get(instruction.parent) if instruction.parent is not None else None
            )
            if parent is None or instruction.parent is None:
                branch.opened = True
            else:
                parent.queue.append(_Fork(instruction.branch))
                touched[instruction.parent] = None
        else:
            branch.queue.append(instruction)
            touched[instruction.branch] = None

    def _advance(self, branch_id: wire.BranchId) -> None:
        """Carry out what the branch has queued, up to the next call."""
        branch = self._branches.get(branch_id)
        while branch is not None and branch.opened and not branch.busy and branch.queue:
            instruction = branch.queue.popleft()
            if isinstance(instruction, wire.Text):
                branch.transcript.add(instruction)
                branch.ahead.pass_over(instruction)
            elif isinstance(instruction, _Fork):
                self._fork(branch, instruction.child)
            elif isinstance(instruction, wire.Close):
                self._outbox.append((branch.listener, wire.Closed(branch_id)))
                del self._branches[branch_id]
                return
            elif isinstance(instruction, wire.Gen | wire.Select):
                self._start(branch, instruction)
            else:
                branch.failed = (
                    True  # chats and embeddings have no slot to answer in; the next slot says so
                )

    def _fork(self, branch: _Branch, child_id: wire.BranchId) -> None:
        child = self._branches.get(child_id)
        if child is not None:
            child.transcript = branch.transcript.copy()
            child.ahead = branch.ahead.copy()
            child.failed = branch.failed
            child.opened = True
            self._advance(child_id)

    def _start(self, branch: _Branch, asked: wire.Gen | wire.Select) -> None:
        if branch.failed:
            failed = wire.Failed(
                asked.branch, asked.slot, "branch_failed", "an earlier slot failed"
            )
            self._outbox.append((branch.listener, failed))
            return
        if isinstance(asked, wire.Gen) and self._spec_tokens:
            text = branch.ahead.answer(asked)
            if text is not None:
                self.token_usage.save(branch.ahead.prompt_tokens)
                branch.transcript.say(text)
                tokens = wire.Tokens(asked.branch, asked.slot, text.encode())
                done = wire.Done(asked.branch, asked.slot, "stop", text, wire.Usage())
                self._outbox += [(branch.listener, tokens), (branch.listener, done)]
                return
        branch.busy = True
        self._pool.submit(self._call, branch, asked)

    # ------------------------------------------------------------------ calls, on threads of the pool

    def _call(self, branch: _Branch, asked: wire.Gen | wire.Select) -> None:
        try:
            events = self._answer(branch, asked)
        except BranchworkError as error:
            events = [_failed(asked, error)]
        except Exception as error:  # whatever one call does, only its slot fails
            message = f"{self.provider.name}: {type(error).__name__}: {error}"
            events = [_failed(asked, InternalError(message))]
        with self._changed:
            branch.busy = False
            branch.failed |= isinstance(events[-1], wire.Failed)
            if asked.branch in self._branches:
                self._outbox.extend((branch.listener, event) for event in events)
                self._advance(asked.branch)
        self._deliver()

    def _deliver(self) -> None:
        """Give out what is due, in order. Never under the lock that `send` takes: a listener holds its program's."""
        with self._delivery:
            while True:
                with self._changed:
                    if not self._outbox:
                        self._changed.notify_all()
                        return
                    listener, event = self._outbox.popleft()
                try:
                    listener(event)
                except Exception:  # one caller's bug must not keep the others' events from them
                    logger.exception("a listener raised")

    def _answer(self, branch: _Branch, asked: wire.Gen | wire.Select) -> list[wire.Event]:
        if isinstance(asked, wire.Gen):
            return self._generate(branch, asked)
        return [self._select(branch, asked)]

    def _generate(self, branch: _Branch, gen: wire.Gen) -> list[wire.Event]:
        ahead = branch.ahead if self._spec_tokens else None
        if ahead is None and not self.provider.continues and branch.transcript.begun.strip():
            raise InvalidParameter(
                f"{self.provider.name} writes whole messages: gen must come first in assistant(…), "
                "or the function must be given num_api_spec_tokens"
            )
        sent = gen if ahead is None else ahead.widened(gen, self._spec_tokens)

        num_told = 0

        def emit(text: str, logprobs: Sequence[wire.TokenLogprob] = ()) -> None:
            nonlocal num_told
            num_told += len(logprobs)
            with self._changed:
                if gen.branch in self._branches:
                    data = text.encode()
                    tokens = wire.Tokens(gen.branch, gen.slot, data, logprobs=tuple(logprobs))
                    self._outbox.append((branch.listener, tokens))
            self._deliver()

        completion = self.provider.generate(branch.transcript, sent, emit)
        self.token_usage.add(completion)
        text = (
            completion.text
            if ahead is None
            else ahead.take(gen, completion, branch.transcript.begun)
        )
        branch.transcript.say(text)
        events: list[wire.Event] = []
        rest = completion.logprobs[num_told:]
        if not gen.stream or rest:
            data = b"" if gen.stream else text.encode()
            events.append(wire.Tokens(gen.branch, gen.slot, data, logprobs=rest))
        return [*events, _done(gen, text, completion)]

    def _select(self, branch: _Branch, select: wire.Select) -> wire.Event:
        scores = tuple(self.provider.select(branch.transcript, select))
        best = max(scores, key=lambda score: score.score).text
        if select.method != "none":
            branch.transcript.say(best)
        return wire.Done(select.branch, select.slot, "selected", best, wire.Usage(), scores=scores)


def _done(gen: wire.Gen, text: str, completion: Completion) -> wire.Done:
    usage = wire.Usage(
        prompt=completion.prompt_tokens,
        cached=completion.cached_tokens,
        completion=completion.completion_tokens,
        sampled=completion.completion_tokens,
    )
    return wire.Done(
        gen.branch,
        gen.slot,
        completion.reason,  # type: ignore[arg-type]
        text,
        usage,
        completion.matched,
        prompt_logprobs=completion.prompt_logprobs,
    )


def _failed(asked: wire.Gen | wire.Select, error: BranchworkError) -> wire.Failed:
    param = error.param if isinstance(error, RequestError) else None
    return wire.Failed(asked.branch, asked.slot, error.code, str(error), param)
