"""A pinned prefix outlives its branch for a while, and never at the cost of who runs."""

import pytest
from tests.make_engine import closed, done, generate, key, make_runtime, opened

from branchwork.runtime.engine import pins
from branchwork.runtime.inbox import Append
from branchwork.runtime.mock import MockRuntime

PROMPT = tuple(range(1, 21))


def ask(runtime: MockRuntime, token_ids: tuple[int, ...], branch: int, pin_s: float = 0.0) -> int:
    """One answer on a branch that is closed again; returns how many tokens were found."""
    runtime.put(
        opened(branch, pin_s=pin_s), Append(key(branch), token_ids), generate(branch, max_tokens=2), closed(branch)
    )  # fmt: skip
    return done(runtime.run(), branch).usage.cached


def others(runtime: MockRuntime, number: int) -> None:
    """A stream of prompts that nobody comes back to."""
    for branch in range(number):
        ask(runtime, tuple(range(100 + branch, 125 + branch)), 100 + branch)


@pytest.mark.parametrize(("pin_s", "found"), [(0.0, 0), (10.0, 19)])
def test_a_pinned_prefix_is_still_there_when_others_have_filled_the_pool(
    pin_s: float, found: int
) -> None:
    runtime = make_runtime(64, 64, growth_reserve=0)
    ask(runtime, PROMPT, 1, pin_s)
    others(runtime, 10)
    assert ask(runtime, PROMPT, 2) == found


def test_a_pin_ends_with_its_time() -> None:
    runtime = make_runtime(64, 64, growth_reserve=0)
    ask(runtime, PROMPT, 1, pin_s=10.0)
    runtime.now_s += 10.0
    others(runtime, 10)
    assert runtime.engine.stats()["pins"] == 0
    assert ask(runtime, PROMPT, 2) == 0


def test_the_same_prefix_pinned_twice_is_one_pin_of_the_longer_time() -> None:
    runtime = make_runtime(64, 64, growth_reserve=0)
    ask(runtime, PROMPT, 1, pin_s=10.0)
    ask(runtime, PROMPT, 2, pin_s=5.0)
    assert runtime.engine.stats()["pins"] == 1
    runtime.now_s += 6.0
    others(runtime, 10)
    assert ask(runtime, PROMPT, 3) == 19


def test_pins_are_at_most_half_of_the_pool_and_the_first_to_end_goes() -> None:
    runtime = make_runtime(100, 100, growth_reserve=0)
    for number in range(4):
        ask(runtime, tuple(range(30 * number, 30 * number + 20)), number + 1, pin_s=10.0 + number)
    assert runtime.engine.stats()["pins"] == 2
    others(runtime, 10)
    found = [ask(runtime, tuple(range(30 * n, 30 * n + 20)), 50 + n) for n in (3, 2, 1)]
    assert found == [19, 19, 0]


def test_a_request_that_needs_the_memory_gets_it() -> None:
    runtime = make_runtime(64, 64, growth_reserve=0)
    ask(runtime, PROMPT, 1, pin_s=10.0)
    assert ask(runtime, tuple(range(100, 160)), 2) == 0
    runtime.now_s += 20.0
    runtime.run()
    runtime.engine.cache.flush()
    assert runtime.engine.cache.num_free == 64


def test_the_number_of_pins_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "MAX_PINS", 3)
    runtime = make_runtime(4096, 4096)
    for number in range(6):
        ask(runtime, tuple(range(30 * number, 30 * number + 5)), number + 1, pin_s=10.0)
    assert runtime.engine.stats()["pins"] == 3
