"""A branch has one adapter for life, and what is computed with one is never read with another."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.make_engine import (
    choose,
    closed,
    done,
    embed,
    finals,
    generate,
    key,
    make_runtime,
    opened,
    text,
    tokens_of,
)

from branchwork.runtime.inbox import Append
from branchwork.runtime.mock import MockRuntime
from branchwork.runtime.plan import Plan, StepResult
from branchwork.runtime.wire.messages import Done

LONG = "once upon a time in the town of Paris, which is not London " * 3


def noted(runtime: MockRuntime, monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Every plan that the runtime makes from now on."""
    plans: list[Plan] = []
    run = runtime.runner.run  # type: ignore[attr-defined]

    def note(plan: Plan) -> StepResult:
        plans.append(plan)
        result: StepResult = run(plan)
        return result

    monkeypatch.setattr(runtime.runner, "run", note)
    return plans


def test_every_segment_of_a_branch_and_of_its_forks_is_computed_with_the_branchs_adapter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime = make_runtime()
    plans = noted(runtime, monkeypatch)
    runtime.put(
        opened(1, adapter=2),
        text(1, "the town"),
        generate(1, "a"),
        opened(2, parent=1, adapter=1),
        opened(3, parent=2),
        text(2, " is"),
        choose(2, "Paris", "London", method="unconditional_likelihood_normalized"),
        embed(3),
    )
    runtime.run()
    assert {segment.adapter for plan in plans for segment in plan.segments} == {2}


def test_equal_branches_of_different_adapters_run_in_one_step_and_say_different_things(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime = make_runtime()
    plans = noted(runtime, monkeypatch)
    for branch in range(4):
        runtime.put(opened(branch, adapter=branch), text(branch, "the town"), generate(branch))
    events = runtime.run()
    assert max(len({one.adapter for one in plan.segments}) for plan in plans) == 4
    assert len({done(events, branch).text for branch in range(4)}) == 4


def test_a_shared_prefix_is_read_at_once_by_branches_of_one_adapter_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime = make_runtime()
    plans = noted(runtime, monkeypatch)
    for branch in range(9):
        runtime.put(opened(branch, adapter=branch % 3), text(branch, LONG))
        runtime.put(text(branch, f" {branch}"), generate(branch, ignore_eos=True))
    runtime.run()
    groups = [
        {segment.adapter for segment in plan.segments if segment.row in shared.rows}
        for plan in plans
        for shared in plan.shared_prefixes
    ]
    assert {adapter for group in groups for adapter in group} == {0, 1, 2}
    assert all(len(group) == 1 for group in groups)


def test_a_twin_of_another_adapter_is_not_waited_for() -> None:
    runtime = make_runtime()
    for branch in range(2):
        runtime.put(opened(branch, adapter=branch), text(branch, LONG), generate(branch))
    runtime.step()
    assert len(runtime.engine.scheduler.running) == 2
    events = runtime.run()
    assert [done(events, branch).usage.cached for branch in range(2)] == [0, 0]


def test_what_a_branch_of_another_adapter_said_is_appended_as_tokens_and_computed_anew() -> None:
    runtime = make_runtime()
    runtime.put(opened(1, adapter=1), text(1, LONG), generate(1, ignore_eos=True))
    runtime.run()
    said = tokens_of(runtime, 1)
    for branch, adapter in ((2, 2), (3, 0), (4, 1)):
        runtime.put(opened(branch, adapter=adapter), Append(key(branch), said), generate(branch))
    events = runtime.run()
    assert [done(events, branch).usage.cached for branch in (2, 3)] == [0, 0]
    assert done(events, 4).usage.cached > len(said) - 8


@dataclass(frozen=True)
class Turn:
    """Something is said on a new branch, on a fork of an earlier one, or on an earlier one; then a slot is filled."""

    salt: str
    adapter: int
    words: tuple[int, ...]
    earlier: int | None
    is_fork: bool


turns = st.builds(
    Turn,
    salt=st.sampled_from(["", "mine"]),
    adapter=st.integers(0, 2),
    words=st.lists(st.integers(97, 98), min_size=1, max_size=5).map(tuple),
    earlier=st.none() | st.integers(0, 30),
    is_fork=st.booleans(),
)


class NaiveCache:
    """All prefixes that were computed, by salt and adapter."""

    def __init__(self) -> None:
        self._prefixes: dict[tuple[str, int], set[tuple[int, ...]]] = defaultdict(set)

    def add(self, space: tuple[str, int], tokens: Sequence[int]) -> None:
        self._prefixes[space] |= {tuple(tokens[:end]) for end in range(1, len(tokens) + 1)}

    def longest(self, space: tuple[str, int], tokens: Sequence[int]) -> int:
        known = self._prefixes[space]
        return max(
            (end for end in range(len(tokens) + 1) if tuple(tokens[:end]) in known), default=0
        )


@given(st.lists(turns, min_size=2, max_size=12), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_branch_finds_all_that_was_computed_with_its_salt_and_adapter_and_nothing_else(
    turns: list[Turn], keep: bool
) -> None:
    runtime = make_runtime()
    naive = NaiveCache()
    spaces: dict[int, tuple[str, int]] = {}
    for number, turn in enumerate(turns):
        branch = number
        parent = None if turn.earlier is None or not spaces else turn.earlier % len(spaces)
        if parent is None:
            runtime.put(opened(branch, salt=turn.salt, adapter=turn.adapter, keep=keep))
            spaces[branch] = turn.salt, turn.adapter
        else:  # whatever a fork says of itself
            runtime.put(opened(branch, parent, salt=turn.salt, adapter=turn.adapter, keep=keep))
            spaces[branch] = spaces[parent]
            if not turn.is_fork:
                branch = parent
        runtime.put(Append(key(branch), turn.words))
        runtime.run()
        before = tokens_of(runtime, branch)
        runtime.put(generate(branch, f"s{number}", max_tokens=3, ignore_eos=True))
        final = finals(runtime.run())[branch, f"s{number}"]
        assert isinstance(final, Done)
        assert final.usage.cached == naive.longest(spaces[branch], before[:-1])
        naive.add(spaces[branch], tokens_of(runtime, branch)[:-1])
    for branch in spaces:
        runtime.put(closed(branch))
    runtime.run()
    runtime.engine.cache.flush()
    assert runtime.engine.cache.num_free == runtime.engine.cache.num_total
