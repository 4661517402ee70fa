"""A step planned while the one before it runs: what it may hold, and what becomes of it when the other surprises."""

import pytest
from tests.make_engine import (
    NaiveGrammar,
    closed,
    done,
    failed,
    finals,
    generate,
    make_runtime,
    opened,
    text,
    tokens_of,
)

from branchwork.runtime.engine import machines
from branchwork.runtime.mock import MockRuntime
from branchwork.runtime.plan import CHOSEN, Plan, StepResult
from branchwork.runtime.runner import Computed

SLOT = {"max_tokens": 12, "ignore_eos": True}


def plans_of(runtime: MockRuntime) -> list[Plan]:
    """Every plan that is launched from here on."""
    launch, plans = runtime.runner.launch, []

    def note(plan: Plan) -> Computed:
        plans.append(plan)
        return launch(plan)

    runtime.runner.launch = note  # type: ignore[method-assign]
    return plans


def num_ahead(plans: list[Plan]) -> int:
    return sum(segment.token_ids == (CHOSEN,) for plan in plans for segment in plan.segments)


def test_a_free_text_runs_ahead_and_is_the_same() -> None:
    texts = []
    for steps_ahead in (0, 1):
        runtime = make_runtime(steps_ahead=steps_ahead)
        plans = plans_of(runtime)
        runtime.put(opened(1), text(1, "Hello"), generate(1, temperature=1.0, seed=3, **SLOT))
        texts.append(done(runtime.run()).text)
        # All but the first token, which the prompt's step chooses; and no step too many.
        assert num_ahead(plans) == 11 * steps_ahead
        assert len(plans) == 12
    assert texts[0] == texts[1]


def test_a_step_is_launched_before_the_one_before_it_is_looked_at() -> None:
    runtime = make_runtime(steps_ahead=1)
    order: list[str] = []
    launch = runtime.runner.launch

    class Watched:
        def __init__(self, pending: Computed, number: int) -> None:
            self.pending, self.number = pending, number

        def result(self) -> StepResult:
            order.append(f"result {self.number}")
            return self.pending.result()

    def note(plan: Plan) -> Watched:
        order.append(f"launch {len(order) // 2}" if order else "launch 0")
        return Watched(launch(plan), sum(what.startswith("launch") for what in order) - 1)

    runtime.runner.launch = note  # type: ignore[method-assign, assignment]
    runtime.put(opened(1), text(1, "Hello"), generate(1, max_tokens=3, ignore_eos=True))
    done(runtime.run())
    assert [what.split()[0] for what in order] == [
        "launch", "launch", "result", "launch", "result", "result",
    ]  # fmt: skip


@pytest.mark.parametrize("jump_forward", [True, False])
@pytest.mark.parametrize("pattern", ["(true|false|null) or [0-9]{3}!", "[a-z]*", "yes, [a-c]{2,5}"])
def test_a_small_constraint_runs_ahead_on_the_device_and_the_text_is_the_same(
    pattern: str, jump_forward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "PLACES_AT_ONCE", 1000)
    texts, grammar = [], NaiveGrammar(pattern)
    for steps_ahead in (0, 1):
        runtime = make_runtime(steps_ahead=steps_ahead, num_machines=steps_ahead)
        plans = plans_of(runtime)
        for branch in range(1, 6):
            runtime.put(opened(branch), text(branch, "Hello" * branch))
            options = {"jump_forward": jump_forward}
            slot = generate(
                branch, "answer", grammar, options, temperature=1.0, seed=branch, max_tokens=30
            )
            runtime.put(slot)
        events = runtime.run()
        texts.append([done(events, branch).text for branch in range(1, 6)])
        assert (num_ahead(plans) > 8) == (steps_ahead == 1)
    assert texts[0] == texts[1]


def test_while_a_constraint_s_machine_is_being_built_the_host_says_what_may_follow() -> None:
    runtime = make_runtime(steps_ahead=1, num_machines=1)
    plans = plans_of(runtime)
    runtime.put(opened(1), text(1, "Hello"), generate(1, "answer", "[a-c]*", max_tokens=20))
    runtime.run()
    samples = [segment.sample for plan in plans for segment in plan.segments]
    placed = [sample is not None and sample.place is not None for sample in samples]
    assert placed == sorted(placed), "first without, then with"
    assert 0 < sum(placed) < len(placed)


def test_more_constraints_than_the_device_has_blocks_for_are_followed_by_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machines, "PLACES_AT_ONCE", 1000)
    texts = []
    grammars = [NaiveGrammar(pattern) for pattern in ("[a-c]*", "[d-f]*", "[g-i]*", "[k-m]*")]
    for steps_ahead in (0, 1):
        runtime = make_runtime(steps_ahead=steps_ahead, num_machines=2 * steps_ahead)
        plans = plans_of(runtime)
        for branch, grammar in enumerate(grammars, 1):
            runtime.put(opened(branch), text(branch, "Hello"))
            runtime.put(generate(branch, "answer", grammar, max_tokens=20))
        events = runtime.run()
        texts.append([done(events, branch).text for branch in range(1, 5)])
    assert texts[0] == texts[1]
    blocks = {
        sample.place.block
        for plan in plans
        for sample in (segment.sample for segment in plan.segments)
        if sample is not None and sample.place is not None
    }
    assert blocks == {0, 1}


@pytest.mark.parametrize(
    "options",
    [
        {"grammar": "[a-z]*"},
        {"presence_penalty": 1.0},
        {"options": {"logprobs": 0}},
    ],
    ids=str,
)
def test_what_the_host_must_see_first_is_not_planned_ahead(options: dict[str, object]) -> None:
    runtime = make_runtime(steps_ahead=1)
    plans = plans_of(runtime)
    runtime.put(opened(1), text(1, "Hello"), generate(1, **{"max_tokens": 12} | options))  # type: ignore[arg-type]
    runtime.put(opened(2), text(2, "Hell"), generate(2, **SLOT))
    runtime.run()
    both = [plan for plan in plans if len(plan.segments) == 2]
    assert both
    assert num_ahead(both) == 0


def test_a_stop_found_late_ends_the_slot_once_and_its_step_ahead_leaves_nothing() -> None:
    expected = None
    for steps_ahead in (0, 1):
        runtime = make_runtime(steps_ahead=steps_ahead)
        free = generate(1, "whole", max_tokens=40, ignore_eos=True)
        runtime.put(opened(1), text(1, "Hello"), free)
        whole = done(runtime.run(), slot="whole").text
        stop = whole[5:8]
        runtime.put(opened(2), text(2, "Hello"))
        runtime.put(generate(2, stop=(stop,), max_tokens=40, ignore_eos=True))
        events = runtime.run()
        assert len(finals(events)) == 1
        assert done(events, 2).text == whole[: whole.index(stop)]
        # What follows it is computed from right K/V: the runner asserts it, slot by slot.
        runtime.put(generate(2, "more", max_tokens=6, ignore_eos=True))
        found = (done(runtime.run(), 2, "more").text, tokens_of(runtime, 2))
        expected = expected or found
        assert found == expected
        runtime.put(closed(1), closed(2))
        runtime.run()
        cache = runtime.engine.cache
        assert cache.num_locked == 0
        cache.flush()
        assert cache.num_free == cache.num_total


def test_a_step_that_fails_when_it_is_looked_at_ends_its_requests_and_those_after_it_go_on() -> (
    None
):
    runtime = make_runtime(steps_ahead=1)
    launch = runtime.runner.launch

    class Broken:
        def result(self) -> StepResult:
            raise RuntimeError("the device is gone")

    def break_once(plan: Plan) -> Broken:
        launch(plan)
        runtime.runner.launch = launch  # type: ignore[method-assign]
        return Broken()

    runtime.runner.launch = break_once  # type: ignore[method-assign, assignment]
    runtime.put(opened(1), text(1, "Hello"), generate(1, **SLOT))
    runtime.step()
    runtime.put(opened(2), text(2, "Hello"), generate(2, **SLOT))
    events = runtime.run()
    assert failed(events).code == "internal"
    assert "device" not in failed(events).message
    assert done(events, 2).usage.completion == 12
    assert runtime.engine.cache.num_locked == 0


def test_a_launch_that_fails_leaves_the_step_before_it_its_tokens() -> None:
    runtime = make_runtime(steps_ahead=1)
    launch = runtime.runner.launch
    runtime.put(opened(1), text(1, "Hello"), generate(1, options={"stream": True}, **SLOT))
    runtime.step()

    def fail_once(plan: Plan) -> Computed:
        runtime.runner.launch = launch  # type: ignore[method-assign]
        raise MemoryError

    runtime.runner.launch = fail_once  # type: ignore[method-assign]
    events = runtime.run()
    assert failed(events).code == "internal"
    assert [type(event).__name__ for _, event in events] == ["Tokens", "Failed"]
