"""A backend that answers from a script: exact answers, delays and failures, without a model or a process."""

import heapq
import itertools
import math
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from threading import Condition, RLock, Thread

import msgspec

from branchwork.runtime.wire import messages as wire
from branchwork.runtime.wire.backend import Listener
from branchwork.runtime.wire.errors import (
    BranchworkError,
    RequestError,
    RuntimeDied,
    TransportError,
)

CHAT_FORMAT = wire.ChatFormat(
    begin={role: f"<|im_start|>{role}\n" for role in ("system", "user", "assistant", "tool")},
    end=dict.fromkeys(("system", "user", "assistant", "tool"), "<|im_end|>\n"),
)

_TOKEN = re.compile(r"\s*\S+|\s+")


class Answer(msgspec.Struct, frozen=True):
    """What a slot gets: its text after `delay_s`, and why it ended. `logprob` is of each token, in nats.

    >>> backend = Scripted({"city": Answer(" Rome", delay_s=0.01, reason="length")})
    >>> state = capital.run(country="Italy", backend=backend)
    >>> state.get_meta_info("city")["finish_reason"]
    {'type': 'length', 'length': 1}
    """

    text: str
    delay_s: float = 0.0
    reason: str = "stop"
    logprob: float = -0.5


class Asked(msgspec.Struct, frozen=True):
    """What a script's function is asked: the branch's text so far, the instruction, and the branch's adapter.

    >>> backend = Scripted({"city": lambda asked: asked.prompt.upper()})
    >>> capital.run(country="Italy", backend=backend)["city"]
    'THE CAPITAL OF ITALY IS'
    """

    prompt: str
    instruction: wire.Gen | wire.Select
    adapter: str = ""


Reply = str | Answer | BranchworkError
Script = Reply | Sequence[Reply] | Callable[[Asked], Reply]


class _Branch:
    """What the backend knows of a branch: its text, and when its earlier answers will all have been given."""

    __slots__ = ("adapter", "computed", "failed", "listener", "num_tokens", "ready_at", "text")

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.adapter = ""
        self.text = ""
        self.num_tokens = 0
        self.computed = 0
        self.ready_at = 0.0
        self.failed = False

    def append(self, text: str) -> None:
        """More text; neighbouring words are counted apart."""
        self.text += text
        self.num_tokens += len(_TOKEN.findall(text))


class Scripted:
    """A `Backend` that gives each slot the answer that the script has for its name.

    An answer is a text, an `Answer`, or an error to fail with; a list of these is used up in order, and a function
    gets an `Asked`. Slots without a script get `default`. `frames` records every call of `send`. `adapters` are the
    names of those that programs may be run with. A token is a word with the blanks before it.

    >>> backend = Scripted({"city": [" Rome", InvalidParameter("no")]})
    >>> states = capital.run_batch([("Italy",), ("Peru",)], backend=backend, on_error="return")
    >>> [state.error() is None for state in states]
    [True, False]
    """

    def __init__(
        self,
        answers: Mapping[str, Script] | None = None,
        *,
        default: Script = "ok",
        delay_s: float = 0.0,
        chat_format: wire.ChatFormat = CHAT_FORMAT,
        limits: Mapping[str, int] | None = None,
        adapters: Sequence[str] = (),
    ) -> None:
        self.frames: list[tuple[wire.Instruction, ...]] = []
        self.requests: list[str] = []
        self._scripts = dict(answers or {})
        self._used: dict[str, int] = {}
        self._default = default
        self._delay_s = delay_s
        self._branches: dict[wire.BranchId, _Branch] = {}
        self._ids = itertools.count(1)
        self._order = itertools.count()
        self._vocabulary: dict[str, int] = {}
        self._now: deque[tuple[Listener, wire.Event | BranchworkError]] = deque()
        self._later: list[tuple[float, int, Listener, wire.Event]] = []
        self._changed = Condition()
        self._delivery = RLock()
        self._thread: Thread | None = None
        self._dead: TransportError | None = None
        self._welcome = wire.Welcome(
            version=wire.PROTOCOL_VERSION,
            runtime_version="scripted",
            model="scripted",
            model_checksum="",
            context_len=1_000_000,
            vocab_size=1_000_000,
            eos_token_ids=(0,),
            chat_format=chat_format,
            limits=dict(limits or {}),
            heartbeat_s=2.0,
            pid=0,
            adapters=tuple(adapters),
        )

    # ------------------------------------------------------------------ the Backend protocol

    @property
    def welcome(self) -> wire.Welcome:
        """Who answers, and within which limits."""
        return self._welcome

    def new_branch(self, listener: Listener) -> wire.BranchId:
        """A fresh branch id. Raises what `die` was told."""
        if self._dead is not None:
            raise self._dead
        branch = next(self._ids)
        self._branches[branch] = _Branch(listener)
        return branch

    def send(self, instructions: Sequence[wire.Instruction]) -> None:
        """Take instructions; their answers are given while someone waits."""
        if self._dead is not None:
            raise self._dead
        with self._changed:
            self.frames.append(tuple(instructions))
            for instruction in instructions:
                self._take(instruction)
            self._changed.notify_all()

    def wait(self, ready: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Give answers that are due, until `ready()` or the time is over."""
        end = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            delivered = self._deliver()
            if ready():
                return True
            if delivered:
                continue
            if time.monotonic() >= end:
                return ready()
            with self._changed:
                if not self._now:
                    due = self._later[0][0] if self._later else math.inf
                    until = min(due, end)
                    # A condition that someone else's delivery makes true is looked at again after 5 ms.
                    rest = (
                        0.005
                        if self._thread
                        else None
                        if until == math.inf
                        else until - time.monotonic()
                    )
                    self._changed.wait(None if rest is None else max(rest, 0.0))

    def deliver_in_background(self) -> None:
        """Answers come without anyone waiting, on a thread of their own."""
        with self._changed:
            if self._thread is None and self._dead is None:
                self._thread = Thread(target=self._deliver_for_ever, name="scripted", daemon=True)
                self._thread.start()

    def request(self, what: str, body: str = "{}", timeout_s: float | None = 60.0) -> str:
        """Recorded in `requests`; answered with an empty object."""
        self.requests.append(what)
        return "{}"

    def close(self) -> None:
        """End the thread that delivers."""
        self.die(RuntimeDied("the scripted backend was closed"))

    # ------------------------------------------------------------------ for tests

    def die(self, error: TransportError | None = None) -> None:
        """As a runtime that is killed: every open branch hears of it, and nothing more can be sent."""
        with self._changed:
            if self._dead is not None:
                return
            self._dead = error or RuntimeDied("the runtime has died")
            self._later.clear()
            self._now.extend((branch.listener, self._dead) for branch in self._branches.values())
            self._changed.notify_all()

    @property
    def instructions(self) -> list[wire.Instruction]:
        """All instructions so far, in the order in which they came."""
        return [instruction for frame in self.frames for instruction in frame]

    @property
    def num_open(self) -> int:
        """Branches that are neither closed nor aborted."""
        return len(self._branches)

    # ------------------------------------------------------------------ instructions to events

    def _take(self, instruction: wire.Instruction) -> None:
        branch = self._branches.get(instruction.branch)
        if branch is None:
            return
        if isinstance(instruction, wire.Open):
            branch.adapter = instruction.adapter
            if instruction.parent is not None and instruction.parent in self._branches:
                parent = self._branches[instruction.parent]
                branch.text, branch.num_tokens = parent.text, parent.num_tokens
                branch.computed, branch.adapter = parent.computed, parent.adapter
                branch.ready_at, branch.failed = parent.ready_at, parent.failed
        elif isinstance(instruction, wire.Text):
            words = (
                {id: word for word, id in self._vocabulary.items()} if instruction.token_ids else {}
            )
            branch.append(instruction.text + "".join(words[id] for id in instruction.token_ids))
        elif isinstance(instruction, wire.Gen | wire.Select):
            self._answer(branch, instruction)
        elif isinstance(instruction, wire.Close):
            self._emit(branch, wire.Closed(instruction.branch))
        elif isinstance(instruction, wire.Abort):
            branch.ready_at = 0.0
            self._later = [entry for entry in self._later if entry[2] is not branch.listener]
            heapq.heapify(self._later)
            self._emit(branch, wire.Closed(instruction.branch))
            del self._branches[instruction.branch]

    def _answer(self, branch: _Branch, asked: wire.Gen | wire.Select) -> None:
        reply = self._reply(Asked(branch.text, asked, branch.adapter))
        if branch.failed:
            failure = wire.Failed(
                asked.branch, asked.slot, "branch_failed", "an earlier slot failed"
            )
            return self._emit(branch, failure)
        if isinstance(reply, BranchworkError):
            branch.failed = True
            param = reply.param if isinstance(reply, RequestError) else None
            return self._emit(
                branch, wire.Failed(asked.branch, asked.slot, reply.code, str(reply), param)
            )
        answer = Answer(reply) if isinstance(reply, str) else reply
        delay_s = answer.delay_s or self._delay_s
        prompt_len = branch.num_tokens
        if isinstance(asked, wire.Select):
            branch.ready_at = (
                max(branch.ready_at, time.monotonic()) + delay_s if delay_s else branch.ready_at
            )
            self._emit(branch, self._selected(asked, answer, prompt_len, branch.computed))
        else:
            self._generate(branch, asked, answer, prompt_len, delay_s)
        if isinstance(asked, wire.Gen) or asked.method != "none":
            branch.append(answer.text)
        branch.computed = branch.num_tokens

    def _generate(
        self, branch: _Branch, gen: wire.Gen, answer: Answer, prompt_len: int, delay_s: float
    ) -> None:
        words = _TOKEN.findall(answer.text)
        parts = (
            [words[i : i + 1] for i in range(len(words))]
            if gen.stream
            else [words]
            if words
            else []
        )
        for part in parts:
            if delay_s:
                branch.ready_at = max(branch.ready_at, time.monotonic()) + delay_s / len(parts)
            self._emit(branch, self._tokens(gen, part, answer.logprob))
        usage = wire.Usage(
            prompt=prompt_len,
            cached=branch.computed,
            completion=len(words),
            sampled=len(words),
            steps=len(words),
        )
        reason = answer.reason
        self._emit(branch, wire.Done(gen.branch, gen.slot, reason, answer.text, usage))  # type: ignore[arg-type]

    def _tokens(self, gen: wire.Gen, words: Sequence[str], logprob: float) -> wire.Tokens:
        ids = tuple(self._vocabulary.setdefault(word, len(self._vocabulary) + 1) for word in words)
        logprobs: tuple[wire.TokenLogprob, ...] = ()
        if gen.logprobs is not None:
            pairs = zip(ids, words, strict=True)
            logprobs = tuple(
                wire.TokenLogprob(
                    id, word.encode(), logprob, ((id, word.encode(), logprob),) * gen.logprobs
                )
                for id, word in pairs
            )
        return wire.Tokens(
            gen.branch, gen.slot, "".join(words).encode(), (wire.Run("sampled", ids),), logprobs
        )

    def _selected(
        self, select: wire.Select, answer: Answer, prompt_len: int, computed: int
    ) -> wire.Done:
        chosen = answer.text if answer.text in select.choices else select.choices[0]
        scores = tuple(
            self._score(choice, answer.logprob if choice == chosen else answer.logprob - 2.0)
            for choice in select.choices
        )
        usage = wire.Usage(prompt=prompt_len, cached=computed)
        return wire.Done(select.branch, select.slot, "selected", chosen, usage, scores=scores)

    def _score(self, choice: str, logprob: float) -> wire.ChoiceScore:
        token = self._vocabulary.setdefault(choice, len(self._vocabulary) + 1)
        tokens = (wire.TokenLogprob(token, choice.encode(), logprob),)
        alone = (wire.TokenLogprob(token, choice.encode(), -1.0),)
        return wire.ChoiceScore(choice, logprob, logprob, tokens, alone)

    def _reply(self, asked: Asked) -> Reply:
        slot = asked.instruction.slot
        script = self._scripts.get(slot, self._default)
        if isinstance(script, str | Answer | BranchworkError):
            return script
        if callable(script):
            return script(asked)
        used = self._used.get(slot, 0)
        self._used[slot] = used + 1
        return script[min(used, len(script) - 1)]

    # ------------------------------------------------------------------ giving answers

    def _emit(self, branch: _Branch, event: wire.Event) -> None:
        if branch.ready_at:
            heapq.heappush(
                self._later, (branch.ready_at, next(self._order), branch.listener, event)
            )
        else:
            self._now.append((branch.listener, event))

    def _deliver(self) -> bool:
        """Whether anything was due."""
        delivered = False
        with self._delivery:
            while True:
                with self._changed:
                    now = time.monotonic()
                    while self._later and self._later[0][0] <= now:
                        _, _, listener, event = heapq.heappop(self._later)
                        self._now.append((listener, event))
                    if not self._now:
                        return delivered
                    batch = list(self._now)
                    self._now.clear()
                for listener, each in batch:
                    if isinstance(each, wire.Closed):
                        self._branches.pop(each.branch, None)
                    listener(each)
                delivered = True

    def _deliver_for_ever(self) -> None:
        while True:
            self._deliver()
            with self._changed:
                if self._now:
                    continue
                if self._dead is not None:
                    return
                rest = max(self._later[0][0] - time.monotonic(), 0.0) if self._later else None
                self._changed.wait(rest)
