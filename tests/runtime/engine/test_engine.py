"""The engine's loop on its own thread, and what it tells about itself."""

import json
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import pytest
from tests.make_engine import closed, done, failed, generate, make_runtime, opened, text

from branchwork.runtime.engine.engine import Engine
from branchwork.runtime.inbox import Control, Operation
from branchwork.runtime.mock import MockOutbox, MockRunner, MockTokenizer, mock_vocabulary
from branchwork.runtime.plan import Plan, StepResult
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.messages import Closed, Done, Event, Failed


class QueueInbox:
    """Operations from another thread."""

    def __init__(self) -> None:
        self.waiting: queue.Queue[Operation] = queue.Queue()

    def drain(self, block_s: float) -> Sequence[Operation]:
        operations = []
        try:
            operations.append(
                self.waiting.get(timeout=block_s) if block_s else self.waiting.get_nowait()
            )
            while True:
                operations.append(self.waiting.get_nowait())
        except queue.Empty:
            return operations


class QueueOutbox:
    """Events to another thread."""

    def __init__(self) -> None:
        self.events: queue.Queue[Event] = queue.Queue()

    def send(self, events: Sequence[tuple[bytes, Event]]) -> None:
        for _, event in events:
            self.events.put(event)

    def until(self, kind: type[Event]) -> Event:
        while True:
            event = self.events.get(timeout=60)
            if isinstance(event, kind):
                return event


@pytest.fixture
def serving() -> Iterator[tuple[Engine, QueueInbox, QueueOutbox]]:
    vocabulary, inbox, outbox = mock_vocabulary(), QueueInbox(), QueueOutbox()
    runner = MockRunner(vocabulary, 256)
    engine = Engine(RuntimeConfig(), runner, vocabulary, MockTokenizer(vocabulary), inbox, outbox)
    thread = threading.Thread(target=engine.run)
    thread.start()
    yield engine, inbox, outbox
    engine.stop()
    thread.join(timeout=60)
    assert not thread.is_alive()


def put(inbox: QueueInbox, *operations: Operation) -> None:
    for operation in operations:
        inbox.waiting.put(operation)


def test_an_engine_serves_from_its_thread_and_counts_its_steps(
    serving: tuple[Engine, QueueInbox, QueueOutbox],
) -> None:
    engine, inbox, outbox = serving
    put(inbox, opened(1), text(1, "Hello"), generate(1, ignore_eos=True), closed(1))
    final = outbox.until(Done)
    assert isinstance(final, Done)
    assert final.usage.completion == 8
    assert outbox.until(Closed) == Closed(1)
    assert engine.steps == 8
    assert engine.busy_since_s is None


def test_stopping_fails_what_is_open(serving: tuple[Engine, QueueInbox, QueueOutbox]) -> None:
    engine, inbox, outbox = serving
    asked, stopped = threading.Event(), threading.Event()
    run = engine._runner.run  # type: ignore[attr-defined]

    def run_until_stopped(plan: Plan) -> StepResult:
        # Else all might be done before the engine is stopped.
        assert asked.wait(60)
        assert engine.steps < 10 or stopped.wait(60)
        return run(plan)

    engine._runner.run = run_until_stopped  # type: ignore[attr-defined]
    put(
        inbox,
        opened(1),
        text(1, "Hello"),
        generate(1, max_tokens=200, ignore_eos=True, stop=("~~",)),
    )
    put(inbox, opened(2), text(2, "Hello"), generate(2, "x", max_tokens=2), generate(2, "y"))
    asked.set()
    outbox.until(Done)
    engine.stop()
    stopped.set()
    final = outbox.until(Failed)
    assert isinstance(final, Failed)
    assert final.code == "aborted"


def test_stats_and_flush_are_answered_in_json() -> None:
    runtime = make_runtime(num_slots=100)
    runtime.put(opened(1), text(1, "Hello"), generate(1, ignore_eos=True))
    runtime.run()
    stats, flush, unknown = Future(), Future(), Future()  # type: ignore[var-annotated]
    runtime.put(Control("stats", stats), Control("flush_cache", flush), Control("?", unknown))
    runtime.step()
    figures = json.loads(stats.result(0))
    assert (figures["slots_total"], figures["slots_cached"]) == (100, 12)
    assert figures["slots_free"] + figures["slots_cached"] + figures["slots_locked"] == 100
    assert figures["tokens_sampled"] == 8
    assert json.loads(flush.result(0)) == {"flushed": 12}
    with pytest.raises(ValueError, match="knows no"):
        unknown.result(0)


def test_a_pass_that_fails_ends_its_requests_and_the_engine_goes_on() -> None:
    runtime = make_runtime()
    run = runtime.runner.run

    def fail_once(plan: Plan) -> StepResult:
        runtime.runner.run = run  # type: ignore[method-assign]
        raise MemoryError("no memory on the device")

    runtime.runner.run = fail_once  # type: ignore[method-assign]
    runtime.put(opened(1), text(1, "Hello"), generate(1))
    runtime.step()
    runtime.put(opened(2), text(2, "Hello"), generate(2))
    events = runtime.run()
    assert failed(events).code == "internal"
    assert "device" not in failed(events).message
    assert done(events, 2)


def test_nothing_is_sent_when_nothing_happened() -> None:
    runtime = make_runtime()
    sent = []
    outbox = MockOutbox()
    outbox.send = sent.append  # type: ignore[method-assign, assignment]
    runtime.engine._outbox = outbox
    runtime.step()
    assert sent == []
