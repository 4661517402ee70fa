"""Decides what each step computes, and books what it has computed. Pure Python and numpy; no tensors.

A request has tokens whose K/V is not computed yet, and a step computes some of them: decode is one token, prefill
and jump-forward are many, chunked prefill is some of many. What to do with the logits is the request's task.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from branchwork.runtime.engine.admission import Order, Twins, WaitingQueue, find
from branchwork.runtime.engine.buffer import common_len
from branchwork.runtime.engine.cache import Lease, PrefixCache
from branchwork.runtime.engine.pace import Pace
from branchwork.runtime.engine.request import Req
from branchwork.runtime.engine.sharing import shared_prefixes
from branchwork.runtime.engine.tier import Tier
from branchwork.runtime.plan import (
    CHOSEN,
    MAX_GUESSED,
    Plan,
    Segment,
    SharedPrefix,
    StepResult,
    TableWrite,
)
from branchwork.runtime.wire.config import RuntimeConfig

log = logging.getLogger(__name__)

# A growing request takes so many slots at a time: one question to the pool for many steps, and long runs of slots.
SLOTS_AHEAD = 15

# Shorter prompts than this are given to the tree when the request ends, not as soon as they are computed.
MIN_PUBLISHED_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Ended:
    """A request that is done (`error` None) or has failed; its memory is back already."""

    req: Req
    error: Exception | None


class Part(NamedTuple):
    """Positions [start, stop) of a request, as one step computes them; `admission` is the request's at its launch."""

    req: Req
    admission: int
    start: int
    stop: int

    @property
    def is_current(self) -> bool:
        """Whether the request still runs as it did: it has not ended, nor been retracted since."""
        return self.req.row is not None and self.req.admission == self.admission


@dataclass(slots=True)
class Counters:
    """What the scheduler has done since it was made, in tokens and events."""

    steps: int = 0
    computed: int = 0
    cached: int = 0
    retracted: int = 0
    admitted: int = 0


class Scheduler:
    """Owns the waiting and the running requests, their rows and their memory.

    Progress: while a request waits or runs and memory can be had, `plan` returns work for at least one of them.
    The running request of the highest level that was let in first is never retracted for another.
    """

    def __init__(
        self,
        config: RuntimeConfig,
        cache: PrefixCache,
        clock: Callable[[], float],
        tier: Tier | None = None,
    ) -> None:
        self.cache = cache
        self.counters = Counters()
        self.waiting = WaitingQueue()
        self.running: list[Req] = []
        self._config = config
        self._clock = clock
        self._tier = tier
        self._order = Order(config.aging_steps)
        self._rows = list(range(config.max_rows))[::-1]
        self._arrivals = 0
        self._work: dict[Req, int] = {}  # the step being planned: how many tokens of which request
        self._left = 0  # how many tokens more it may hold
        self._in_flight: deque[list[Part]] = (
            deque()
        )  # the steps that are planned and not yet booked
        self._pace = Pace(config.profile)
        self._someone_decodes = False
        self._prompt_tokens = (
            0.0  # how many tokens of prompts the step being planned may still take
        )
        self._someone_missed = False
        # No waiting request could be let in, and nothing has come free since.
        self._nobody_fits = False
        self._table_writes: list[TableWrite] = []
        self._shared: tuple[SharedPrefix, ...] = ()
        self._shared_rows: tuple[int, ...] | None = None  # the rows that `_shared` is true of
        self._ended: list[Ended] = []

    @property
    def idle(self) -> bool:
        """Whether there is nothing to plan."""
        return not self.running and not self.waiting

    def submit(self, req: Req) -> None:
        """Queue a request; it ends in exactly one `Ended`, unless it is cancelled."""
        self._arrivals += 1
        req.arrival = self._arrivals
        req.since = self.counters.steps
        self.waiting.add(req)
        self._nobody_fits = False

    def cancel(self, req: Req) -> None:
        """Forget a request that waits or runs; its slots are free at once. One that has ended stays ended."""
        if req.row is not None:
            self._release(req)
        elif req in self.waiting:
            self.waiting.remove(req)

    def take_ended(self) -> list[Ended]:
        """The requests that ended since the last call."""
        ended, self._ended = self._ended, []
        return ended

    # ------------------------------------------------------------------ plan

    def may_plan_ahead(self) -> bool:
        """Whether the next step can be planned before those in flight are booked: nobody needs to see first."""
        return all(
            part.req.ready == 0 or part.req.task.runs_ahead()
            for step in self._in_flight
            for part in step
            if part.is_current
        )

    def plan(self) -> Plan | None:
        """The next step, or None when no request can take one (then some may have ended instead)."""
        self._work = {}
        self._left = self._config.max_tokens_per_step
        self._continue_running()
        self._admit_waiting()
        return self._make_plan()

    def _guess(self, req: Req, num_decoding: int) -> None:
        """Let a decoding request guess ahead, where that takes nothing from others.

        Few tokens are computed in the time of one, since a step reads all weights; with many the step takes longer.
        """
        room = min(self._left, MAX_GUESSED // num_decoding)
        length = req.launched + self._work[req]
        if room == 0 or length != req.tokens.length:
            return
        assert req.guess is not None
        assert req.lease is not None
        guessed = req.guess(room)
        if len(guessed) <= self.cache.num_free and req.lease.reserve(length + len(guessed)):
            req.guessed = guessed
            self._left -= len(guessed)

    def _continue_running(self) -> None:
        """Give every running request its tokens: first those that decode, then prompts in chunks."""
        decoding: list[Req] = []
        prefilling: list[Req] = []
        for req in self.running:
            (prefilling if req.launched < req.prefill_end else decoding).append(req)
        self._someone_decodes = bool(decoding)
        self._prompt_tokens = self._pace.prompt_tokens(
            len(decoding), len(prefilling) + len(self.waiting)
        )
        if self._someone_missed:  # who has waited longest goes first
            decoding.sort(key=lambda req: req.last_step)
        self._someone_missed = False
        for req in decoding:
            if self._left <= 0:
                self._someone_missed = True
                break
            try:
                count = min(req.ready, self._left)
                if self._give(req, count) and req.guess is not None:
                    self._guess(req, len(decoding))
            except Exception as error:  # the boundary: only this request fails
                self._end(req, error)
        for req in prefilling:
            try:
                count = self._chunk(req)
                if self._give(req, count):
                    self._prompt_tokens -= count
            except Exception as error:  # the boundary: only this request fails
                self._end(req, error)

    def _give(self, req: Req, count: int) -> bool:
        """Have so many tokens of a request in the step, if it still runs and there is memory for them."""
        if req.row is None or count <= 0 or not self._reserve(req, req.launched + count):
            return False
        self._work[req] = count
        self._left -= count
        return True

    def _chunk(self, req: Req) -> int:
        """How much of a prompt this step may compute: little where others wait for their next token."""
        rest = len(req.tokens) - req.launched
        if self._someone_decodes:
            rest = min(rest, self._config.max_chunk)
        return int(min(rest, self._left, self._prompt_tokens))

    def _admit_waiting(self) -> None:
        """Let waiting requests in, in order, as far as rows, memory and the step's budget reach."""
        if not self.waiting or self._left <= 0 or self._nobody_fits or not self._may_have_row():
            return
        steps = self.counters.steps
        candidates = [req for req in self.waiting.candidates() if self._is_found(req)]
        if not candidates:
            return
        queue = self._order.of(candidates, self.running, self.cache, steps)
        twins = Twins(self.running)
        self._nobody_fits = True
        for req in queue:
            if self._left <= 0 or self._prompt_tokens < 1:
                self._nobody_fits = False
                break
            try:
                if not self._let_in(req, twins):
                    break
            except Exception as error:  # the boundary: only this request fails
                self._end(req, error)
                self._nobody_fits = False

    def _is_found(self, req: Req) -> bool:
        """Look for a waiting request's prefix; one whose look fails has failed."""
        try:
            find(req, self.cache)
        except Exception as error:  # the boundary: only this request fails
            self._end(req, error)
            return False
        return True

    def _let_in(self, req: Req, twins: Twins) -> bool:
        """Let a waiting request in if it can be; False: nobody behind it may be in this step."""
        steps = self.counters.steps
        is_twin = twins.of(req, find(req, self.cache)) is not None
        if is_twin or (self._tier is not None and self._tier.holds(req)):
            self._nobody_fits = False
            return True
        if not self._has_row_for(req):
            return False
        if not self._admit(req):
            # Passed over for long enough, the memory that comes back is for it.
            return steps - req.since < self._config.aging_steps
        self._nobody_fits = False
        self._order.admitted(req, steps)
        twins.add(req)
        count = self._chunk(req)
        if self._give(req, count):
            self._prompt_tokens -= count
        return True

    def _may_have_row(self) -> bool:
        """Whether a row is free, or could be by preemption."""
        return bool(self._rows) or self.waiting.highest_priority > min(
            req.level for req in self.running
        )

    def _has_row_for(self, req: Req) -> bool:
        """Whether a row is free, if need be by preempting a request of lower priority."""
        if not self._rows:
            victim = self._youngest()
            if victim is not None and victim.level < req.priority:
                self._retract(victim)
        return bool(self._rows)

    def _admit(self, req: Req) -> bool:
        """Let a request run if there is memory for it, if need be by preempting those of lower priority."""
        while (lease := self._lease(req)) is None:
            victim = self._youngest()
            if victim is None or victim.level >= req.priority:
                return False
            self._retract(victim)
        self._start(req, lease)
        return True

    def _lease(self, req: Req) -> Lease | None:
        """The cached part of a waiting request, locked, if there is memory for the rest of it.

        Beside its tokens there must be room for some growth of all that run then; alone it needs only its tokens.
        """
        needed = len(req.tokens)
        if self.running:
            needed += min(req.task.remaining(), self._config.growth_reserve)
            needed += sum(map(self._growth, self.running))
        if needed - find(req, self.cache).length > self.cache.num_available:
            return None
        limit = min(len(req.tokens), req.task.reuse_limit())
        lease = Lease(self.cache, req.namespace, req.tokens.view(0, limit), find(req, self.cache))
        # Once more: the cached part has been locked, and so is no longer available.
        if needed - lease.shared <= self.cache.num_available:
            return lease
        lease.close(req.tokens.view(0, 0))
        return None

    def _growth(self, req: Req) -> int:
        """Slots that a running request may still want soon."""
        assert req.lease is not None
        reserve = min(req.task.remaining(), self._config.growth_reserve)
        return max(0, len(req.tokens) + reserve - len(req.lease.slots))

    def _start(self, req: Req, lease: Lease) -> None:
        self.waiting.remove(req)
        row = self._rows.pop()
        self.counters.admitted += 1
        waited = self.counters.steps - req.since
        req.level = req.priority + waited // self._config.aging_steps
        req.row, req.lease, req.admission = row, lease, self.counters.admitted
        req.computed = req.launched = lease.shared
        req.prefill_end = len(req.tokens)
        if req.admitted_s is None:
            req.admitted_s = self._clock()
            req.cached_len = lease.shared
            self.counters.cached += lease.shared
        if lease.shared:
            self._table_writes.append(TableWrite(row, 0, lease.slots.view(0, lease.shared)))
        self.running.append(req)
        self._shared_rows = None

    # ------------------------------------------------------------------ memory

    def _reserve(self, req: Req, length: int) -> bool:
        """Have slots for `length` positions of a running request, whoever must give way; False: it did itself."""
        assert req.lease is not None
        if length <= req.lease.slots.length:
            return True
        ahead = 0 if req.prefilling else min(SLOTS_AHEAD, req.task.remaining())
        if req.lease.reserve(length, ahead):
            return True
        for other in list(self.running):
            if other is not req:
                self._trim(other)
        while not req.lease.reserve(length):
            victim = self._youngest()
            assert victim is not None
            self._retract(victim)
            if victim is req:
                return False
        return True

    def _trim(self, req: Req) -> None:
        """Take back what a running request holds for later steps."""
        assert req.lease is not None
        try:
            req.lease.trim(req.launched + self._work.get(req, 0) + len(req.guessed))
        except Exception as error:  # the boundary: only this request fails
            self._end(req, error)

    def _youngest(self) -> Req | None:
        """Of the lowest level among the running, the one that was let in last."""
        return max(self.running, key=lambda req: (-req.level, req.admission), default=None)

    def _retract(self, req: Req) -> None:
        """Send a running request back to wait; its K/V stays in the tree as long as it can, its task as it is."""
        self._release(req)
        self.counters.retracted += 1
        req.since = self.counters.steps
        req.found = req.load = None
        self.waiting.put_back(req)

    def _release(self, req: Req) -> None:
        """Give back the row and the memory of a running request; never raises (`Lease.close`)."""
        assert req.row is not None
        assert req.lease is not None
        req.node = req.lease.close(req.tokens.view(0, req.computed))
        self._shared_rows = None
        self._rows.append(req.row)
        self._nobody_fits = False
        self.running.remove(req)
        self._left += self._work.pop(req, 0) + len(req.guessed)
        req.row = req.lease = None
        req.computed = req.launched = 0
        req.guessed = ()

    # ------------------------------------------------------------------ segments

    def _make_plan(self) -> Plan | None:
        segments: list[Segment] = []
        step: list[Part] = []
        for req, count in list(self._work.items()):
            start, stop = req.launched, req.launched + count
            try:
                segments.append(_segment(req, start, stop))
            except Exception as error:  # the boundary: whatever a task does, only its request fails
                self._end(req, error)
                continue
            step.append(Part(req, req.admission, start, stop))
            req.launched = stop
        if not segments:
            return None
        self._in_flight.append(step)
        writes, self._table_writes = tuple(self._table_writes), []
        return Plan(tuple(segments), writes, self._find_shared([part.req for part in step]))

    def _find_shared(self, reqs: list[Req]) -> tuple[SharedPrefix, ...]:
        """The shared prefixes; looked for again only when other rows run or a request's place in the tree moved."""
        rows = tuple([req.row for req in reqs if req.row is not None])
        if rows != self._shared_rows:
            try:
                self._shared = shared_prefixes(reqs)
            except Exception:
                # The boundary: nobody has asked for this, so nobody may be hurt by it.
                log.exception("shared prefixes are read by each request for itself")
                self._shared = ()
            self._shared_rows = rows
        return self._shared

    # ------------------------------------------------------------------ commit

    def commit(self, plan: Plan, result: StepResult) -> None:
        """Book the oldest step in flight: K/V is there now, and every task gets what came out for it."""
        self.counters.steps += 1
        self.counters.computed += plan.num_tokens
        steps = self.counters.steps
        for part, out in zip(self._in_flight.popleft(), result.results, strict=True):
            if not part.is_current:
                continue  # what was computed for it is passed over
            req, _, start, stop = part
            req.computed = stop
            req.steps += 1
            if stop == req.tokens.length:
                req.last_step = steps
            guessed = req.guessed
            try:
                if start < req.prefill_end:
                    self._publish(req)
                done = req.task.take(start, stop, out)
            except Exception as error:  # the boundary: whatever a task does, only its request fails
                self._end(req, error)
                continue
            req.guessed = ()
            if guessed and req.computed == stop:
                req.launched = req.computed = stop + _num_right(req, stop, guessed)
            if done:
                self._end(req, None)

    def took(self, seconds: float) -> None:
        """The oldest step in flight has taken so long to compute."""
        step = self._in_flight[0]
        prompts = [part.stop - part.start for part in step if part.start < part.req.prefill_end]
        self._pace.took(seconds, len(step) - len(prompts), sum(prompts))

    def fail_step(self, error: Exception) -> None:
        """The oldest step in flight could not be computed: its requests fail, the others go on."""
        self.counters.steps += 1
        for part in self._in_flight.popleft():
            if part.is_current:
                self._end(part.req, error)

    def _publish(self, req: Req) -> None:
        """Share the computed part of a prompt with whoever comes next."""
        assert req.lease is not None
        assert req.row is not None
        if req.computed - req.lease.shared < MIN_PUBLISHED_TOKENS:
            return
        replaced = req.lease.publish(req.tokens.view(0, req.computed))
        self._shared_rows = None
        if replaced is not None:
            self._table_writes.append(TableWrite(req.row, replaced.start, replaced.slots))

    def _end(self, req: Req, error: Exception | None) -> None:
        """A request is over, whether it runs or waits."""
        self.cancel(req)
        self._ended.append(Ended(req, error))


def _segment(req: Req, start: int, stop: int) -> Segment:
    """What a running request contributes to a step that computes its positions [start, stop)."""
    sample, score, pool_hidden, guessed = req.task.ask(start, stop)
    lease, row, tokens = req.lease, req.row, req.tokens
    assert lease is not None
    assert row is not None
    token_ids = (CHOSEN,) if stop > tokens.length else tokens.ids(start, stop)
    slots = lease.slots.view(start, stop + len(req.guessed))
    token_ids += req.guessed
    adapter = req.namespace.adapter
    return Segment(row, start, token_ids, slots, sample, score, pool_hidden, guessed, adapter)


def _num_right(req: Req, stop: int, guessed: tuple[int, ...]) -> int:
    """How many guessed tokens are the request's next ones: their K/V is right and need not be computed again."""
    limit = min(stop + len(guessed), req.task.reuse_limit())
    tokens = req.tokens.view(stop, max(stop, limit))
    return common_len(tokens, np.array(guessed, np.int32))
