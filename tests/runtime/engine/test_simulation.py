"""Random programs under random pressure: every answer is what a patient engine without a cache would give.

A seed makes everything: the programs, when their operations arrive, and how small the pool is. The oracle serves the
same operations one at a time, with one row and no prefix cache.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.make_engine import (
    CLIENT,
    NaiveGrammar,
    NaiveMatcher,
    choose,
    closed,
    embed,
    finals,
    generate,
    key,
    make_runtime,
    opened,
    text,
)

from branchwork.runtime.engine import cache as cache_module
from branchwork.runtime.engine import machines
from branchwork.runtime.engine.cache import PrefixCache
from branchwork.runtime.engine.request import Req
from branchwork.runtime.inbox import Append, ClientGone, CloseBranch, Operation
from branchwork.runtime.mock import MockRuntime
from branchwork.runtime.wire.messages import Closed, Done, Event, Failed

PHRASES = (
    "the town ",
    "in the ",
    "Paris, ",
    "London is ",
    "a",
    "http:",
    "once upon a time in the ",
)
GRAMMARS = [
    NaiveGrammar(pattern)
    for pattern in (
        "[0-9]{1,4}",
        '\\{"name": "(Paris|London|Par)", "age": [0-9]{1,2}\\}',
        "(true|false|null)",
        "\\[(ab, |the, )*x\\]",
        "yes",
    )
]

SPACES = (("", 0), ("", 0), ("", 1), ("", 2), ("salt", 0), ("salt", 1))
"""Salt and adapter; a fork's own count for nothing."""


@dataclass(frozen=True)
class Scenario:
    """Operations in order, and the options of the runtime that is put under pressure."""

    operations: tuple[Operation, ...]
    num_slots: int
    options: dict[str, int]


def draw(seed: int, min_slots: int = 4, max_slots: int = 64) -> Scenario:
    choice = random.Random(seed)
    operations: list[Operation] = []
    branches: list[int] = []
    num_branches = num_slots_named = 0
    for _ in range(choice.randint(4, 24)):
        action = choice.random()
        if not branches or action < 0.2:
            num_branches += 1
            parent = choice.choice(branches) if branches and choice.random() < 0.6 else None
            priority = choice.choice((0, 0, 0, 1, -1))
            keep = choice.random() < 0.7
            program = choice.randint(0, 2)
            salt, adapter = choice.choice(SPACES)
            operations.append(
                opened(
                    num_branches,
                    parent,
                    salt=salt,
                    adapter=adapter,
                    priority=priority,
                    keep=keep,
                    program=program,
                )
            )
            branches.append(num_branches)
            continue
        branch = choice.choice(branches)
        num_slots_named += 1
        slot = f"s{num_slots_named}"
        if action < 0.5:
            operations.append(
                text(branch, "".join(choice.choices(PHRASES, k=choice.randint(1, 2))))
            )
        elif action < 0.85:
            operations.append(draw_generate(choice, branch, slot))
        elif action < 0.92:
            choices = choice.sample(("Paris", "the", "//x", "London is", "a", "b"), k=3)
            method = choice.choice(
                ("token_length_normalized", "unconditional_likelihood_normalized", "none")
            )
            operations.append(choose(branch, *choices, slot=slot, method=method))
        elif action < 0.95:
            operations.append(embed(branch, slot, pooling=choice.choice(("mean", "last"))))
        else:
            operations.append(closed(branch))
            branches.remove(branch)
    options = {
        "max_rows": choice.randint(1, 8),
        "max_tokens_per_step": choice.choice((16, 17, 64, 2048)),
        "max_chunk": choice.choice((1, 3, 16, 512)),
        "aging_steps": choice.choice((1, 4, 64)),
        "growth_reserve": choice.choice((0, 0, 2, 64)),
    }
    return Scenario(tuple(operations), choice.randint(min_slots, max_slots), options)


def draw_generate(choice: random.Random, branch: int, slot: str) -> Operation:
    options = {
        "stream": choice.random() < 0.5,
        "heal": choice.random() < 0.2,
        "jump_forward": choice.random() < 0.8,
        "logprobs": choice.choice((None, None, 0, 2)),
        "prompt_logprobs_from": choice.choice((None, None, None, 0, 3)),
    }
    sampling: dict[str, Any] = {
        "max_tokens": choice.choice((0, 1, 5, 12, 20, 60)),
        "temperature": choice.choice((0.0, 0.0, 1.0)),
        "seed": choice.randint(0, 100),
        "stop": choice.choice(((), (), ("a",), ("in", "Pa"))),
        "include_stop": choice.random() < 0.3,
        "min_tokens": choice.choice((0, 0, 4)),
        "presence_penalty": choice.choice((0.0, 0.0, 2.0)),
    }
    grammar = choice.choice((None, None, *GRAMMARS))
    return generate(branch, slot, grammar, options, **sampling)


def patiently(scenario: Scenario) -> list[tuple[bytes, Event]]:
    """The oracle: one operation after another, one row, no cache, whole prompts."""
    slots = scenario.num_slots
    runtime = make_runtime(slots, slots, max_rows=1, prefix_cache=False)
    events = []
    for operation in scenario.operations:
        runtime.put(operation)
        events += runtime.run(max_steps=1000)
    return events


def check(runtime: MockRuntime) -> None:
    """The pool is whole, and every lease belongs to a running request."""
    cache, scheduler = runtime.engine.cache, runtime.engine.scheduler
    cache.check([req.lease for req in scheduler.running if req.lease is not None])
    assert cache.num_free + cache.num_cached + cache.num_locked == cache.num_total
    assert len(scheduler.running) <= runtime.engine.branches._config.max_rows


class Watch:
    """Sees that every pass moves something on, and that nobody is passed over for ever."""

    def __init__(self, runtime: MockRuntime) -> None:
        self._runtime = runtime
        self._scheduler = runtime.engine.scheduler
        self._passed: dict[Req, tuple[int, int]] = {}  # (how often passed over, the bound)

    def step(self) -> None:
        """One pass."""
        scheduler, outbox = self._scheduler, self._runtime.outbox
        self._runtime.engine.receive(0.0)
        waiting = list(scheduler.waiting)
        for older, req in enumerate(sorted(waiting, key=lambda req: req.since)):
            bound = scheduler._config.aging_steps * (1 + older)
            self._passed.setdefault(req, (0, bound))
        in_flight = self._runtime.engine._in_flight
        before = (
            scheduler.idle, scheduler.counters.steps, len(in_flight), len(outbox.events)
        )  # fmt: skip
        admitted = scheduler.counters.admitted
        self._runtime.step()
        after = (False, scheduler.counters.steps, len(in_flight), len(outbox.events))
        # A prefix on its way from a store: whoever waits for it lets others pass.
        held = [req for req in scheduler.waiting if req.load is not None and not req.load.done]
        assert before[0] or before[1:] != after[1:] or held, (
            "a stall: there is work, and nothing was done"
        )
        new = [req for req in waiting if req.admission > admitted]
        for req in waiting:
            if req not in scheduler.waiting:
                del self._passed[req]
            elif (
                req not in new
                and req not in held
                and any(one.arrival > req.arrival and one.priority <= req.priority for one in new)
            ):
                times, bound = self._passed[req]
                assert times < bound, "starvation: passed over by later ones again and again"
                self._passed[req] = (times + 1, bound)


def under_pressure(
    runtime: MockRuntime, operations: tuple[Operation, ...], seed: int, max_steps: int = 4000
) -> list[tuple[bytes, Event]]:
    """The operations arrive a few at a time between passes; everything is checked after every pass."""
    choice = random.Random(seed)
    waiting = list(operations)[::-1]
    watch = Watch(runtime)
    for _ in range(max_steps):
        for _ in range(choice.choice((0, 1, 1, 2, 5))):
            if waiting:
                runtime.put(waiting.pop())
        watch.step()
        check(runtime)
        if not waiting and runtime.engine.idle:
            return runtime.outbox.events
    raise AssertionError("a stall")


def same(left: Done | Failed, right: Done | Failed) -> bool:
    """Equal but for what was cached, and when; floats that were added up in another order count as equal."""
    if isinstance(left, Failed) or isinstance(right, Failed):
        return left == right
    exact = ("reason", "text", "matched", "warnings")
    counts = ("prompt", "completion", "jumped")
    return (
        all(getattr(left, name) == getattr(right, name) for name in exact)
        and all(getattr(left.usage, name) == getattr(right.usage, name) for name in counts)
        and [one.token_id for one in left.prompt_logprobs]
        == [one.token_id for one in right.prompt_logprobs]
        and left.embedding == pytest.approx(right.embedding, abs=1e-6)
        and [score.score for score in left.scores]
        == pytest.approx([score.score for score in right.scores])
    )


def assert_equals_the_oracle(
    scenario: Scenario, seed: int, steps_ahead: int = 0, num_machines: int = 0
) -> int:
    runtime = make_runtime(
        scenario.num_slots, scenario.num_slots, steps_ahead, num_machines, **scenario.options
    )
    answers = finals(under_pressure(runtime, scenario.operations, seed))
    expected = finals(patiently(scenario))
    assert answers.keys() == expected.keys()
    for slot, final in expected.items():
        assert same(answers[slot], final), (slot, answers[slot], final)
    cache = runtime.engine.cache
    assert cache.num_locked == 0
    cache.flush()
    assert cache.num_free == cache.num_total
    return runtime.engine.scheduler.counters.retracted


@pytest.mark.parametrize(("steps_ahead", "num_machines"), [(0, 0), (1, 2)])
def test_under_any_pressure_every_answer_equals_the_oracles(
    steps_ahead: int, num_machines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "PLACES_AT_ONCE", 1000)  # slots are short here
    retracted = sum(
        assert_equals_the_oracle(draw(seed), seed, steps_ahead, num_machines) for seed in range(400)
    )
    assert retracted > 20, "the pools are too large to test anything"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("block", range(50))
def test_in_a_hundred_thousand_schedules_nothing_stalls_and_every_answer_is_the_oracles(
    block: int,
) -> None:
    for seed in range(1000 + block * 2_000, 1000 + (block + 1) * 2_000):
        assert_equals_the_oracle(draw(seed), seed, seed % 2, seed % 4)


# ------------------------------------------------------------------ programs


@pytest.mark.parametrize("num_slots", [64, 4096])
def test_a_program_with_a_thousand_requests_holds_up_nobody_elses_single_one(
    num_slots: int,
) -> None:
    runtime = make_runtime(num_slots, num_slots, max_rows=4, growth_reserve=0)
    for number in range(1000):
        runtime.put(opened(number, program=1), text(number, f"the town {number}"))
        runtime.put(generate(number, max_tokens=4, ignore_eos=True))
    for _ in range(20):
        runtime.step()
    before = len(finals(runtime.outbox.events))
    for program in (2, 3):
        branch = 1000 + program
        runtime.put(opened(branch, program=program), text(branch, "once upon a time "))
        runtime.put(generate(branch, max_tokens=4, ignore_eos=True))
    steps = 0
    while not {(1002, "answer"), (1003, "answer")} <= finals(runtime.outbox.events).keys():
        runtime.step()
        steps += 1
    # Those that run end, and then they are next: two lives of a request, however many wait.
    assert steps <= 12
    assert len(finals(runtime.outbox.events)) - before <= 16


# ------------------------------------------------------------------ sieges


LONGEST_ANSWER = 8


def passes_until_let_in(seed: int) -> tuple[int, int]:
    """Of a cold request, while requests with a cached prefix come without end; and how many passes are allowed.

    Allowed are `aging_steps`, and as many for each that waited before it, since turns are so far apart; and then the
    time of those who were there before it and of those who run when its turn has come: they may have to run one after
    another.
    """
    choice = random.Random(seed)
    num_slots, max_rows = choice.randint(4, 64), choice.randint(1, 8)
    aging_steps = choice.choice((1, 4, 64))
    runtime = make_runtime(
        num_slots,
        num_slots,
        max_rows=max_rows,
        aging_steps=aging_steps,
        growth_reserve=choice.choice((0, 2, 64)),
    )
    scheduler = runtime.engine.scheduler
    hot = tuple(choice.choices(range(97, 123), k=choice.randint(1, num_slots // 2)))
    branch = 0

    def ask(slot: str, tokens: tuple[int, ...], max_tokens: int) -> None:
        nonlocal branch
        branch += 1
        operations = (
            opened(branch, program=branch, keep=False),
            Append(key(branch), tokens),
            generate(branch, slot, max_tokens=max_tokens, ignore_eos=True),
        )
        for operation in (*operations, closed(branch)):
            runtime.engine.branches.handle(operation)

    def ask_hot() -> None:
        own = tuple(choice.choices(range(97, 123), k=choice.randint(0, 2)))
        tokens = (hot + own)[: num_slots - 1]
        ask("hot", tokens, choice.randint(1, min(LONGEST_ANSWER, num_slots - len(tokens))))

    for _ in range(choice.randint(0, 20)):
        while len(scheduler.running) + len(scheduler.waiting) < max_rows:
            ask_hot()
        runtime.step()
    num_waiting = len(scheduler.waiting)
    num_before = len(scheduler.running) + num_waiting
    turns = aging_steps * (1 + num_waiting)
    size = choice.randint(1, num_slots - 1)
    cold = tuple(choice.choices(range(48, 58), k=size))
    ask("cold", cold, choice.randint(1, num_slots - size))
    (req,) = [req for req in scheduler.waiting if req.tokens.ids(0, len(req.tokens)) == cold]
    for num_passes in range(1, 1000):
        while len(scheduler.waiting) < 12:
            ask_hot()
        runtime.step()
        if req.admission:
            return num_passes, turns + (LONGEST_ANSWER + 1) * (num_before + max_rows)
    raise AssertionError("starvation")


def test_a_cold_request_among_endless_hot_ones_waits_a_bounded_number_of_passes() -> None:
    for seed in range(150):
        waited, allowed = passes_until_let_in(seed)
        assert waited <= allowed, seed


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_in_ten_thousand_sieges_no_cold_request_starves() -> None:
    for seed in range(1000, 11_000):
        waited, allowed = passes_until_let_in(seed)
        assert waited <= allowed, seed


def test_of_a_thousand_that_come_at_once_a_cold_one_waits_seventy_four_passes_at_most() -> None:
    """64 (`--aging-steps`), and then until one of those that run is done: 8 tokens, a pass for the prompt before."""
    runtime = make_runtime(max_rows=4)
    hot = text(1, "once upon a time in the town ").token_ids
    for branch in range(1, 1001):
        tokens = (65, 66, 67) if branch == 5 else (*hot, branch % 250)
        runtime.put(
            opened(branch, program=branch),
            Append(key(branch), tokens),
            generate(branch, max_tokens=8, ignore_eos=True),
            closed(branch),
        )
    for num_passes in range(1, 1000):
        runtime.step()
        (cold,) = [
            *[req for req in runtime.engine.scheduler.running if req.tokens[0] == 65],
            *[req for req in runtime.engine.scheduler.waiting if req.tokens[0] == 65],
        ]
        if cold.row is not None:
            assert num_passes <= 64 + 10
            return
    raise AssertionError("starvation")


# ------------------------------------------------------------------ aborts


def with_aborts(scenario: Scenario, seed: int) -> tuple[tuple[Operation, ...], set[int]]:
    """Some branches are aborted somewhere in the middle; also returns those whose answers may differ for it."""
    choice = random.Random(seed)
    operations = list(scenario.operations)
    touched: set[int] = set()
    for _ in range(choice.randint(1, 4)):
        branch = choice.randint(1, 5)
        operations.insert(choice.randint(0, len(operations)), closed(branch, abort=True))
        touched.add(branch)
    while True:
        children = {
            operation.key.branch
            for operation in scenario.operations
            if getattr(operation, "parent", None) is not None and operation.parent.branch in touched  # type: ignore[union-attr]
        }
        if children <= touched:
            return tuple(operations), touched
        touched |= children


def expected_finals(operations: tuple[Operation, ...]) -> list[tuple[int, str]]:
    owed = []
    for operation in operations:
        asked = getattr(operation, "gen", None) or getattr(operation, "select", None)
        asked = asked or getattr(operation, "embed", None)
        if asked is not None:
            owed.append((asked.branch, asked.slot))
    return sorted(owed)


@pytest.mark.parametrize("steps_ahead", [0, 1])
@pytest.mark.parametrize("seed", range(60))
def test_aborts_leave_the_pool_whole_and_the_bystanders_alone(seed: int, steps_ahead: int) -> None:
    scenario = draw(seed)
    operations, touched = with_aborts(scenario, seed)
    runtime = make_runtime(scenario.num_slots, scenario.num_slots, steps_ahead, **scenario.options)
    events = under_pressure(runtime, operations, seed)
    answers, expected = finals(events), finals(patiently(scenario))
    assert sorted(answers) == expected_finals(operations), "one final message for each slot"
    for slot, final in expected.items():
        if slot[0] not in touched:
            assert same(answers[slot], final)
    gone = {operation.key.branch for operation in operations if isinstance(operation, CloseBranch)}
    told = [event.branch for _, event in events if isinstance(event, Closed)]
    assert set(told) == gone
    runtime.put(ClientGone(CLIENT))
    runtime.run()
    assert len(runtime.engine.branches) == 0
    cache = runtime.engine.cache
    cache.flush()
    assert cache.num_free == cache.num_total
    assert cache.tree._roots == {}


# ------------------------------------------------------------------ faults


class Faults:
    """Counts calls, and lets the k-th one fail."""

    def __init__(self, k: int | None) -> None:
        self.k = k
        self.num_calls = 0

    def fires(self) -> bool:
        self.num_calls += 1
        return self.num_calls == self.k

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.fires():
                raise OSError("injected")
            return function(*args, **kwargs)

        return call


FAULTY_PROGRAM = (
    opened(1),
    text(1, "once upon a time in the town "),
    generate(1, "a", GRAMMARS[1], {"stream": True}, max_tokens=40),
    choose(1, "Paris", "//x", slot="b"),
    closed(1),
    opened(2),
    text(2, "once upon a time in the http:"),
    generate(2, "a", GRAMMARS[3], {"heal": True, "logprobs": 1}, max_tokens=15, stop=("the",)),
    embed(2, "b"),
    closed(2),
    opened(3),
    text(3, "once upon a time in Paris, "),
    generate(3, "a", stop=("in",), max_tokens=10),
    generate(3, "b", max_tokens=10),
    closed(3),
)


def faulty_run(
    monkeypatch: pytest.MonkeyPatch, faults: Faults, install: Callable[..., None]
) -> tuple[MockRuntime, list[tuple[bytes, Event]]]:
    runtime = make_runtime(96, 96, growth_reserve=0, max_tokens_per_step=16)
    with monkeypatch.context() as patch:
        install(patch, runtime, faults)
        runtime.put(*FAULTY_PROGRAM)
        return runtime, runtime.run(max_steps=2000)


def install_matcher(patch: pytest.MonkeyPatch, runtime: MockRuntime, faults: Faults) -> None:
    for name in ("mask", "accept", "can_end", "outlook", "forced", "closing", "copy"):
        patch.setattr(NaiveMatcher, name, faults.around(getattr(NaiveMatcher, name)))
    patch.setattr(NaiveGrammar, "start", faults.around(NaiveGrammar.start))


def install_scanner(patch: pytest.MonkeyPatch, runtime: MockRuntime, faults: Faults) -> None:
    new_scanner = runtime.engine.context.new_scanner

    def make(*args: Any) -> Any:
        scanner = faults.around(new_scanner)(*args)
        scanner.feed = faults.around(scanner.feed)
        return scanner

    runtime.engine.context.new_scanner = make


def install_tokenizer(patch: pytest.MonkeyPatch, runtime: MockRuntime, faults: Faults) -> None:
    tokenizer = runtime.tokenizer
    patch.setattr(tokenizer, "encode_bytes", faults.around(tokenizer.encode_bytes))


def install_runner(patch: pytest.MonkeyPatch, runtime: MockRuntime, faults: Faults) -> None:
    patch.setattr(runtime.runner, "run", faults.around(runtime.runner.run))


def install_allocation(patch: pytest.MonkeyPatch, runtime: MockRuntime, faults: Faults) -> None:
    allocate = PrefixCache.allocate

    def sometimes(cache: PrefixCache, count: int) -> Any:
        return None if faults.fires() else allocate(cache, count)

    patch.setattr(cache_module.PrefixCache, "allocate", sometimes)


@pytest.mark.parametrize(
    ("install", "max_failed"),
    [
        (install_matcher, 1),
        (install_scanner, 1),
        (install_tokenizer, 1),
        (install_runner, 3),
        (install_allocation, 0),
    ],
)
def test_when_the_kth_call_fails_only_its_requests_do(
    monkeypatch: pytest.MonkeyPatch, install: Callable[..., None], max_failed: int
) -> None:
    counted = Faults(None)
    _, events = faulty_run(monkeypatch, counted, install)
    expected = finals(events)
    assert all(isinstance(final, Done) for final in expected.values())
    for k in spread(counted.num_calls):
        runtime, events = faulty_run(monkeypatch, Faults(k), install)
        answers = finals(events)
        assert answers.keys() == expected.keys()
        hurt = {slot[0] for slot, final in answers.items() if isinstance(final, Failed)}
        assert len(hurt) <= max_failed
        for slot, final in answers.items():
            if slot[0] not in hurt:
                assert same(final, expected[slot])
            elif isinstance(final, Failed):
                assert final.code in ("internal", "branch_failed")
                assert "injected" not in final.message
        assert sum(isinstance(event, Closed) for _, event in events) == 3
        check(runtime)
        runtime.engine.cache.flush()
        assert runtime.engine.cache.num_free == runtime.engine.cache.num_total


def spread(num_calls: int) -> Iterator[int]:
    """Every call if they are few, else some sixty of them, the first ones included."""
    return iter(
        sorted(
            {*range(1, min(num_calls, 20) + 1), *range(1, num_calls + 1, max(1, num_calls // 40))}
        )
    )
