"""The engine thread: operations in, one forward pass after another, events out."""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from branchwork.runtime.engine.branches import Branches
from branchwork.runtime.engine.cache import PrefixCache
from branchwork.runtime.engine.capacity import Capacity
from branchwork.runtime.engine.context import Context
from branchwork.runtime.engine.inspection import report_requests, report_tree
from branchwork.runtime.engine.scheduler import Scheduler
from branchwork.runtime.engine.tier import Tier
from branchwork.runtime.grammar.interface import Vocabulary
from branchwork.runtime.grammar.stops import StopScanner
from branchwork.runtime.inbox import Control, EngineTokenizer, Inbox, Outbox
from branchwork.runtime.kv import Store, StoreReport, num_bytes
from branchwork.runtime.plan import Plan
from branchwork.runtime.runner import Pending, Runner
from branchwork.runtime.wire.config import SAVING_S, RuntimeConfig
from branchwork.runtime.wire.errors import Aborted

log = logging.getLogger(__name__)

# An idle engine looks up so often, to see that it is to stop.
IDLE_S = 0.5

# So long an engine waits whose requests wait for a store, unless it answers before.
WAITING_S = 0.002


class Launched(NamedTuple):
    """A pass in flight, and when it was launched."""

    plan: Plan
    pending: Pending
    since_s: float


class Engine:
    """Owns the scheduler, the cache and the branches; everything of theirs happens on the thread that calls `run`.

    `steps` counts passes and `busy_since_s` says since when the host has been in the runner (None: it is not); both
    may be read from any thread, so that whoever watches can tell an idle engine from a stuck one.
    """

    def __init__(
        self,
        config: RuntimeConfig,
        runner: Runner,
        vocabulary: Vocabulary,
        tokenizer: EngineTokenizer,
        inbox: Inbox,
        outbox: Outbox,
        clock: Callable[[], float] = time.monotonic,
        store: Store | None = None,
    ) -> None:
        self.steps = 0
        self.busy_since_s: float | None = None
        self.cache = PrefixCache(runner.num_slots, config.prefix_cache)
        self.tier = None if store is None else Tier(self.cache, runner, store, clock)
        self.scheduler = Scheduler(config, self.cache, clock, self.tier)
        capacity = Capacity(runner.max_len, runner.num_slots, config.max_len > 0)
        self.context = Context(
            vocabulary, tokenizer, capacity, clock, StopScanner, speculate=config.speculate,
            num_machines=runner.num_machines,
        )  # fmt: skip
        self.branches = Branches(config, self.context, self.scheduler, self._control)
        self._runner = runner
        self._inbox = inbox
        self._outbox = outbox
        self._clock = clock
        self._in_flight: deque[Launched] = deque()
        self._booked_s = 0.0
        self._stopping = threading.Event()
        self._step_s = 0.0
        self._longest_step_s = 0.0
        self._passed = False  # the last turn computed something

    def run(self) -> None:
        """Serve until `stop`. One iteration is one forward pass."""
        while not self._stopping.is_set():
            self.turn(self._patience_s())
        self.branches.fail_all(Aborted("the runtime is stopping"))
        self._outbox.send(self.context.take_events())
        if self.tier is not None:
            self.tier.finish(SAVING_S)

    def turn(self, patience_s: float) -> None:
        """Take what has arrived, waiting so long for it at most, and make one pass."""
        self.receive(patience_s)
        self.branches.expire()
        self.step()
        if self.tier is not None:
            self.tier.turn()

    def receive(self, patience_s: float) -> None:
        """Take what has arrived, waiting so long for it at most."""
        for operation in self._inbox.drain(patience_s):
            if not isinstance(operation, StoreReport):
                self.branches.handle(operation)
            elif self.tier is not None:
                self.tier.take(operation)

    def stop(self) -> None:
        """Let `run` return, after the present pass; may be called from any thread."""
        self._stopping.set()

    @property
    def idle(self) -> bool:
        """Whether nothing is left to plan or to book."""
        return self.scheduler.idle and not self._in_flight

    def step(self) -> None:
        """Plan and launch one pass, book the one before it (itself, where a launch computes), send what came of it."""
        if not self.scheduler.may_plan_ahead():
            self._book(0)
        self.context.machines.turn()
        plan = self.scheduler.plan()
        self._passed = plan is not None
        if plan is not None:
            self._launch(plan)
        self._book(self._runner.steps_ahead if plan is not None else 0)
        for ended in self.scheduler.take_ended():
            self.branches.request_ended(ended)
        events = self.context.take_events()
        if events:
            self._outbox.send(events)

    def _launch(self, plan: Plan) -> None:
        began = self.busy_since_s = self._clock()
        try:
            pending = self._runner.launch(plan)
        except Exception as error:
            self._book(0)  # those before it are not to blame
            self._fail(plan, error)
        else:
            self._in_flight.append(Launched(plan, pending, began))
        finally:
            self.busy_since_s = None

    def _book(self, num_left: int) -> None:
        """Wait for the oldest passes and book them, until so many are left in flight."""
        while len(self._in_flight) > num_left:
            plan, pending, since_s = self._in_flight.popleft()
            self.busy_since_s = self._clock()
            try:
                result = pending.result()
            except Exception as error:
                self._fail(plan, error)
                continue
            finally:
                self.busy_since_s = None
            self._note_time(since_s)
            self.scheduler.commit(plan, result)

    def _fail(self, plan: Plan, error: Exception) -> None:
        """The boundary: the requests of this pass fail, the engine goes on."""
        log.error("a pass failed: %d requests", len(plan.segments), exc_info=error)
        self.steps += 1
        self.scheduler.fail_step(error)

    def _note_time(self, since_s: float) -> None:
        """A pass is over: what it took by itself, without the one that it waited behind."""
        now = self._clock()
        self._step_s = now - max(since_s, self._booked_s)
        self._booked_s = now
        self._longest_step_s = max(self._longest_step_s, self._step_s)
        self.steps += 1
        self.scheduler.took(self._step_s)

    def _patience_s(self) -> float:
        """How long to wait for an operation when there is nothing else to do."""
        if self._passed or self._in_flight:
            return 0.0
        if not self.scheduler.idle or (self.tier is not None and self.tier.is_saving):
            return WAITING_S
        deadline = self.branches.next_deadline()
        if deadline is None:
            return IDLE_S
        return max(0.0, min(IDLE_S, deadline - self._clock()))

    # ------------------------------------------------------------------ control

    def _control(self, control: Control) -> None:
        """Answer a question about the engine as a whole."""
        if not control.reply.set_running_or_notify_cancel():
            return
        if control.what == "stats":
            control.reply.set_result(json.dumps(self.stats()))
        elif control.what == "inspect":
            control.reply.set_result(json.dumps(self.inspect()))
        elif control.what == "flush_cache":
            control.reply.set_result(json.dumps({"flushed": self._flush(control.salt)}))
        elif control.what == "save_cache":
            prefixes = 0 if self.tier is None else self.tier.save_all()
            control.reply.set_result(json.dumps({"prefixes": prefixes}))
        else:
            control.reply.set_exception(ValueError(f"the engine knows no {control.what!r}"))

    def _flush(self, salt: str | None) -> int:
        """Forget the prefixes of a salt, or all, in every tier; returns how many slots became free."""
        if self.tier is not None:
            self.tier.forget(salt)
        return self.cache.flush(salt)

    def inspect(self) -> dict[str, Any]:
        """The requests and the prefix tree, as they are now; see `runtime.engine.inspection`."""
        scheduler = self.scheduler
        return {
            "requests": report_requests(scheduler.running, scheduler.waiting),
            "tree": report_tree(self.cache.tree),
        }

    def stats(self) -> dict[str, int | float]:
        """Memory in slots (of `slot_bytes` bytes), requests, tokens since the start, times in milliseconds."""
        cache, scheduler, context = self.cache, self.scheduler, self.context
        counters = scheduler.counters
        return {
            "slot_bytes": num_bytes(self._runner.kv_shapes(1)),
            "slots_total": cache.num_total,
            "slots_free": cache.num_free,
            "slots_cached": cache.num_cached,
            "slots_locked": cache.num_locked,
            "running": len(scheduler.running),
            "waiting": len(scheduler.waiting),
            "branches": len(self.branches),
            "pins": len(self.branches.pins),
            "steps": counters.steps,
            "tokens_computed": counters.computed,
            "tokens_cached": counters.cached,
            "tokens_sampled": context.num_sampled,
            "tokens_jumped": context.num_jumped,
            "tokens_speculated": context.num_speculated,
            "tokens_evicted": cache.num_evicted,
            "retracted": counters.retracted,
            **({} if self.tier is None else self.tier.stats()),
            "unknown_operations": self.branches.num_unknown,
            "step_ms": 1000 * self._step_s,
            "longest_step_ms": 1000 * self._longest_step_s,
        }
