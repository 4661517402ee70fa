import pytest

from branchwork.runtime.engine.pace import LOOK_AGAIN, MIN_TOKENS, Pace, Profile


def measured(profile: Profile, decode_s: float = 0.010, token_s: float = 0.0001) -> Pace:
    """On a machine where decoding takes 10 ms, and 100 tokens of a prompt as much again."""
    pace = Pace(profile)
    pace.took(decode_s, num_decoding=16, num_prompt_tokens=0)
    pace.took(decode_s + 200 * token_s, num_decoding=16, num_prompt_tokens=200)
    return pace


def test_prompts_make_slow_steps_less_than_twice_as_long_by_default() -> None:
    pace = measured("balanced", decode_s=0.050)
    assert pace.prompt_tokens(num_decoding=16, num_prompts=1) == pytest.approx(400)


def test_where_as_many_wait_fast_steps_become_as_long_as_no_reader_notices() -> None:
    pace = measured("balanced", decode_s=0.005)
    assert pace.prompt_tokens(num_decoding=16, num_prompts=16) == pytest.approx(450)
    assert pace.prompt_tokens(num_decoding=16, num_prompts=8) == pytest.approx(200)


def test_one_prompt_among_many_makes_the_fastest_steps_less_than_twice_as_long() -> None:
    pace = measured("balanced", decode_s=0.002)
    assert pace.prompt_tokens(num_decoding=16, num_prompts=1) == pytest.approx(16)


def test_the_latency_profile_allows_less_and_throughput_anything() -> None:
    assert measured("latency").prompt_tokens(16, 1) == pytest.approx(40)
    assert measured("throughput").prompt_tokens(16, 1) == float("inf")


def test_where_three_wait_for_each_that_decodes_prompts_get_three_times_the_time() -> None:
    assert measured("balanced", decode_s=0.040).prompt_tokens(8, 24) == pytest.approx(960)
    assert measured("latency", decode_s=0.040).prompt_tokens(8, 24) == pytest.approx(160)


def test_a_prompt_always_makes_progress() -> None:
    assert measured("latency", decode_s=0.0001).prompt_tokens(16, 1) == MIN_TOKENS


def test_where_nobody_decodes_or_nothing_is_known_there_is_no_limit() -> None:
    assert measured("latency").prompt_tokens(0, 5) == float("inf")
    assert Pace("latency").prompt_tokens(16, 1) == float("inf")


def test_what_a_step_of_few_takes_says_nothing_of_a_step_of_many() -> None:
    pace = measured("balanced")
    before = pace.prompt_tokens(16, 1)
    for _ in range(100):  # the last streams of a burst
        pace.took(0.001, num_decoding=1, num_prompt_tokens=0)
    assert pace.prompt_tokens(16, 1) == before


def test_of_a_number_that_never_decoded_the_nearest_is_taken() -> None:
    pace = measured("latency")
    pace.took(0.001, num_decoding=1, num_prompt_tokens=0)
    assert pace.prompt_tokens(32, 1) == pace.prompt_tokens(16, 1)
    assert pace.prompt_tokens(2, 1) == pace.prompt_tokens(1, 1)


def test_once_in_so_many_steps_streams_go_alone_and_show_what_they_take_by_themselves() -> None:
    pace = measured("balanced", decode_s=0.002)
    for _ in range(LOOK_AGAIN):
        pace.took(
            0.008, num_decoding=16, num_prompt_tokens=10
        )  # they take 6 ms by now: their texts have grown
    assert pace.prompt_tokens(16, 1) == 0
    assert (
        pace.prompt_tokens(16, 1) == MIN_TOKENS
    )  # which must stall nobody, should that step not come
    for _ in range(20):
        pace.took(0.006, num_decoding=16, num_prompt_tokens=0)
        pace.took(0.008, num_decoding=16, num_prompt_tokens=10)
    assert pace.prompt_tokens(16, 1) > 2 * MIN_TOKENS


def test_for_throughput_no_step_goes_without_prompts() -> None:
    pace = measured("throughput")
    for _ in range(2 * LOOK_AGAIN):
        pace.took(0.008, num_decoding=16, num_prompt_tokens=10)
        assert pace.prompt_tokens(16, 1) == float("inf")


def test_one_slow_step_changes_little() -> None:
    pace = measured("balanced")
    pace.took(0.030, num_decoding=16, num_prompt_tokens=0)
    assert pace.prompt_tokens(16, 1) < 1.5 * measured("balanced").prompt_tokens(16, 1)


def test_a_clock_that_stands_still_teaches_nothing() -> None:
    pace = Pace("latency")
    pace.took(0.0, num_decoding=16, num_prompt_tokens=0)
    pace.took(0.0, num_decoding=16, num_prompt_tokens=100)
    assert pace.prompt_tokens(16, 1) == float("inf")
