"""Guessing ahead changes how many steps an answer takes, and nothing else of it."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.make_engine import VOCABULARY, done, finals, generate, opened, text
from tests.runtime.engine.test_simulation import Scenario, draw, same, under_pressure

from branchwork.runtime.engine.buffer import IntBuffer
from branchwork.runtime.engine.speculation import MAX_PAUSE, Guesser
from branchwork.runtime.mock import MockRunner, MockRuntime, mix
from branchwork.runtime.plan import Segment
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.messages import Done


class Parrot(MockRunner):
    """A model that knows only the last token, so that it soon repeats itself."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._last: dict[int, int] = {}

    def _store(self, segment: Segment) -> npt.NDArray[np.uint64]:
        hashes = super()._store(segment)
        self._last.update(zip(hashes.tolist(), segment.token_ids, strict=True))
        return hashes

    def logits(self, prefix_hash: np.uint64) -> npt.NDArray[np.float64]:
        return super().logits(mix(np.uint64(0), np.uint64(self._last[int(prefix_hash)])))


def parrot(num_slots: int = 4096, max_len: int = 4096, **options: Any) -> MockRuntime:
    config = RuntimeConfig(**options)
    runner = Parrot(VOCABULARY, num_slots, config.max_rows, max_len)
    return MockRuntime(config, num_slots, max_len, runner=runner)


def answer(speculate: int, *operations: Any, **options: Any) -> Done:
    runtime = parrot(speculate=speculate, **options)
    runtime.put(opened(1), text(1, "in the town "), *operations)
    return done(runtime.run())


# ------------------------------------------------------------------ guesses


def guess(*tokens: int, most: int = 4, room: int = 8) -> tuple[int, ...]:
    return Guesser(most).guess(IntBuffer(tokens), room)


def test_what_followed_the_last_three_tokens_before_is_guessed_to_follow_again() -> None:
    assert guess(1, 2, 3, 7, 8, 9, 1, 2, 3) == (7, 8, 9, 1)
    assert guess(1, 2, 3, 7, 8, 9, 1, 2, 3, room=2) == (7, 8)


def test_of_several_places_the_last_one_counts() -> None:
    assert guess(1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3)[0] == 8


def test_without_a_place_before_nothing_is_guessed() -> None:
    assert guess() == guess(1, 2) == guess(1, 2, 3) == guess(4, 1, 2, 3, 5, 2, 3) == ()


def test_a_run_of_one_token_is_guessed_to_go_on() -> None:
    assert guess(5, 5, 5, 5) == (5,)


def test_misses_make_guesses_shorter_and_rarer_and_hits_make_them_longer() -> None:
    tokens = IntBuffer((1, 2, 3, 7, 8, 9, 1, 2, 3))
    guesser = Guesser(4)
    guesser.learn(4, 0)
    assert [guesser.guess(tokens, 8) for _ in range(2)] == [(), (7,)]
    guesser.learn(1, 1)
    assert guesser.guess(tokens, 8) == (7, 8)
    for _ in range(20):
        guesser.learn(1, 0)
    pause = [guesser.guess(tokens, 8) for _ in range(MAX_PAUSE + 1)]
    assert pause == [()] * MAX_PAUSE + [(7,)]


# ------------------------------------------------------------------ answers


def test_an_answer_that_repeats_itself_takes_fewer_steps_and_is_the_same() -> None:
    operation = generate(1, max_tokens=60)
    plain, fast = answer(0, operation), answer(8, operation)
    assert fast.text == plain.text
    assert fast.usage.steps < plain.usage.steps / 2
    assert fast.usage.speculated > 30
    assert fast.usage.sampled + fast.usage.speculated == fast.usage.completion == 60


def test_tokens_say_which_of_them_were_guessed() -> None:
    runtime = parrot(speculate=4)
    runtime.put(
        opened(1), text(1, "in the town "), generate(1, options={"stream": True}, max_tokens=40)
    )
    runs = [run for _, event in runtime.run() for run in getattr(event, "runs", ())]
    assert {run.kind for run in runs} == {"sampled", "speculated"}
    assert sum(len(run.token_ids) for run in runs) == 40


@pytest.mark.parametrize("seed", range(20))
def test_a_drawn_answer_is_the_same_draw_by_draw(seed: int) -> None:
    operation = generate(
        1, options={"logprobs": 2}, max_tokens=50, temperature=0.4, seed=seed, presence_penalty=0.1
    )
    plain, fast = answer(0, operation), answer(8, operation)
    assert fast.text == plain.text


def test_a_stop_inside_a_guess_ends_the_answer_there() -> None:
    plain = answer(0, generate(1, max_tokens=60))
    stop = plain.text[30:34]
    for_both = [answer(count, generate(1, max_tokens=60, stop=(stop,))) for count in (0, 8)]
    assert for_both[0].text == for_both[1].text
    assert for_both[1].reason == "stop_string"


def test_a_constraint_holds_over_guesses() -> None:
    operation = generate(1, grammar="([ab]{3};)+", options={"jump_forward": False}, max_tokens=60)
    plain, fast = answer(0, operation), answer(8, operation)
    assert fast.text == plain.text
    assert fast.usage.speculated > 0


def patiently(scenario: Scenario) -> dict[tuple[int, str], Any]:
    slots = scenario.num_slots
    runtime = parrot(slots, slots, max_rows=1, prefix_cache=False)
    events = []
    for operation in scenario.operations:
        runtime.put(operation)
        events += runtime.run(max_steps=1000)
    return finals(events)


@pytest.mark.parametrize("block", range(4))
def test_under_any_pressure_guesses_change_no_answer(block: int) -> None:
    num_right = 0
    for seed in range(50 * block, 50 * (block + 1)):
        scenario = draw(seed, 24, 96)
        expected = patiently(scenario)
        slots = scenario.num_slots
        runtime = parrot(slots, slots, speculate=1 + seed % 8, **scenario.options)
        answers = finals(under_pressure(runtime, scenario.operations, seed))
        assert answers.keys() == expected.keys()
        for slot, final in expected.items():
            assert same(answers[slot], final), (seed, slot, answers[slot], final)
        num_right += runtime.engine.context.num_speculated
        runtime.engine.cache.flush()
        assert runtime.engine.cache.num_free == runtime.engine.cache.num_total
    assert num_right > 20, "nothing was guessed"
