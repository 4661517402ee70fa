import re

import numpy as np
import pytest
from tests.make_engine import (
    NaiveGrammar,
    bytes_of,
    closed,
    done,
    failed,
    generate,
    key,
    make_runtime,
    opened,
    text,
    tokens_of,
)

from branchwork.runtime.inbox import Append
from branchwork.runtime.mock import EOS_ID, MockRuntime, mix
from branchwork.runtime.wire.messages import Tokens


def greedy(runtime: MockRuntime, prompt: tuple[int, ...], num_tokens: int) -> list[int]:
    """What the mock model writes, one token after another, straight from its logits."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + num_tokens:
        last = np.uint64(0)
        for token in tokens:
            last = mix(last, np.uint64(token))
        tokens.append(int(runtime.runner.logits(last).argmax()))
    return tokens[len(prompt) :]


def answer_ids(events: list, kind: str | None = None) -> list[int]:
    return [
        token
        for _, event in events
        if isinstance(event, Tokens)
        for run in event.runs
        if kind is None or run.kind == kind
        for token in run.token_ids
    ]


def test_greedy_text_is_the_models_own_choice_token_by_token() -> None:
    runtime = make_runtime()
    prompt = text(1, "Hello the world")
    runtime.put(opened(1), prompt, generate(1, max_tokens=12, ignore_eos=True))
    events = runtime.run()
    expected = greedy(runtime, prompt.token_ids, 12)
    assert answer_ids(events) == expected
    assert done(events).reason == "length"
    assert done(events).usage.completion == 12


def test_the_end_of_sequence_ends_the_slot_and_is_no_part_of_it() -> None:
    runtime = make_runtime()
    runtime.put(opened(1), text(1, "a"), generate(1, logit_bias=((EOS_ID, 100.0),)))
    events = runtime.run()
    assert done(events).reason == "stop"
    assert done(events).text == ""
    assert done(events).usage.completion == 0
    assert tokens_of(runtime, 1) == (ord("a"),)


def test_min_tokens_holds_the_end_of_sequence_back() -> None:
    runtime = make_runtime()
    sampling = {"logit_bias": ((EOS_ID, 100.0),), "min_tokens": 3}
    runtime.put(opened(1), text(1, "a"), generate(1, **sampling))
    usage = done(runtime.run()).usage
    assert usage.completion == 3


def test_ids_outside_the_vocabulary_are_never_banned_nor_looked_up() -> None:
    runtime = make_runtime()
    sampling = {"stop_token_ids": (10**6, -5), "min_tokens": 3, "max_tokens": 20}
    runtime.put(opened(1), text(1, "a"), generate(1, grammar="[a-z]{8}", **sampling))
    assert len(done(runtime.run()).text) == 8


def test_ignore_eos_goes_on_to_max_tokens() -> None:
    runtime = make_runtime()
    sampling = {"logit_bias": ((EOS_ID, 100.0),), "ignore_eos": True, "max_tokens": 5}
    runtime.put(opened(1), text(1, "a"), generate(1, **sampling))
    final = done(runtime.run())
    assert (final.reason, final.usage.completion) == ("length", 5)


@pytest.mark.parametrize(("include", "ending"), [(False, ""), (True, "x")])
def test_a_stop_token_ends_the_slot(include: bool, ending: str) -> None:
    runtime = make_runtime()
    sampling = {
        "logit_bias": ((ord("x"), 100.0),),
        "stop_token_ids": (ord("x"),),
        "include_stop": include,
    }
    runtime.put(opened(1), text(1, "a"), generate(1, **sampling))
    final = done(runtime.run())
    assert (final.reason, final.matched, final.text) == ("stop_token", ord("x"), ending)


def test_a_stop_string_cuts_the_text_and_the_branch() -> None:
    runtime = make_runtime()
    grammar = NaiveGrammar("yes, London: no")
    runtime.put(opened(1), text(1, "a"), generate(1, grammar=grammar, stop=("don",), max_tokens=20))
    final = done(runtime.run())
    assert (final.reason, final.matched, final.text) == ("stop_string", "don", "yes, Lon")
    assert bytes_of(runtime, tokens_of(runtime, 1)) == b"ayes, Lon"


def test_include_stop_keeps_the_stop_and_nothing_after_it() -> None:
    runtime = make_runtime()
    grammar = NaiveGrammar("yes, London: no")
    runtime.put(
        opened(1),
        text(1, "a"),
        generate(1, grammar=grammar, stop=("Lon",), include_stop=True, max_tokens=20),
    )
    assert done(runtime.run()).text == "yes, Lon"


def test_streamed_bytes_never_hold_what_a_stop_could_take_back() -> None:
    runtime = make_runtime()
    options = {"stream": True, "jump_forward": False}
    runtime.put(
        opened(1),
        text(1, "a"),
        generate(1, grammar="aaaxyaaaxyz!", options=options, stop=("xyz",), max_tokens=30),
        generate(1, "after", options={"stream": True}),
    )
    seen = b""
    for _ in range(100):
        runtime.step()
        for _, event in runtime.outbox.events:
            if isinstance(event, Tokens) and event.slot == "answer":
                seen += event.data
        runtime.outbox.events.clear()
        assert b"aaaxyaaa".startswith(seen)
        assert seen in (b"", b"a", b"aa", b"aaa", b"aaaxya", b"aaaxyaa", b"aaaxyaaa")


def test_a_stream_joined_is_the_text_and_the_runs_are_its_tokens() -> None:
    runtime = make_runtime()
    options = {"stream": True}
    runtime.put(opened(1), text(1, "a"), generate(1, options=options, max_tokens=20, seed=3))
    events = runtime.run()
    data = b"".join(event.data for _, event in events if isinstance(event, Tokens))
    table = runtime.vocabulary.token_bytes
    assert data.decode("utf-8", "replace") == done(events).text
    assert b"".join(table[token] for token in answer_ids(events)) == data


def test_without_stream_one_message_brings_everything() -> None:
    runtime = make_runtime()
    runtime.put(opened(1), text(1, "a"), generate(1, max_tokens=20))
    events = runtime.run()
    assert sum(isinstance(event, Tokens) for _, event in events) == 1


def test_a_constraint_is_kept_and_ends_the_slot_by_itself() -> None:
    runtime = make_runtime()
    runtime.put(opened(1), text(1, "a"), generate(1, grammar="[a-f]{3}-[0-9]{4}", max_tokens=50))
    final = done(runtime.run())
    assert re.fullmatch("[a-f]{3}-[0-9]{4}", final.text)
    assert final.reason == "stop"


def test_forced_bytes_are_appended_without_a_step() -> None:
    runtime = make_runtime()
    grammar = '\\{"name": "(Paris|London)"\\}'
    runtime.put(opened(1), text(1, "a"), generate(1, grammar=grammar, max_tokens=50))
    events = runtime.run()
    final = done(events)
    assert final.text in ('{"name": "Paris"}', '{"name": "London"}')
    assert final.usage.jumped >= 2
    assert final.usage.sampled + final.usage.jumped == final.usage.completion
    assert len(answer_ids(events, "jumped")) == final.usage.jumped
    assert runtime.engine.stats()["tokens_jumped"] == final.usage.jumped


def test_an_answer_that_is_wholly_forced_needs_no_step() -> None:
    runtime = make_runtime()
    runtime.put(opened(1), text(1, "a"), generate(1, grammar="true", max_tokens=50))
    final = done(runtime.run())
    assert (final.text, final.reason, final.usage.steps) == ("true", "stop", 0)
    assert runtime.runner.num_steps == 0


def test_without_jump_forward_the_same_bytes_are_sampled() -> None:
    runtime = make_runtime()
    options = {"jump_forward": False}
    runtime.put(opened(1), text(1, "a"), generate(1, grammar="true|false", options=options))
    usage = done(runtime.run()).usage
    assert usage.jumped == 0
    assert usage.sampled == usage.completion > 0


@pytest.mark.parametrize("max_tokens", range(5, 30))
def test_a_cut_answer_still_matches_its_constraint(max_tokens: int) -> None:
    pattern = "\\[(ab, |cd, |efgh, )*xyz\\]"
    for seed in range(5):
        runtime = make_runtime()
        slot = generate(1, grammar=pattern, max_tokens=max_tokens, temperature=1.0, seed=seed)
        runtime.put(opened(1), text(1, "a"), slot)
        final = done(runtime.run())
        assert re.fullmatch(pattern, final.text)
        assert final.usage.completion <= max_tokens


def test_a_constraint_that_cannot_be_closed_in_max_tokens_is_refused_with_both_numbers() -> None:
    runtime = make_runtime()
    runtime.put(opened(1), text(1, "a"), generate(1, grammar="[a-z]{20}", max_tokens=3))
    final = failed(runtime.run())
    assert final.code == "invalid_constraint"
    assert re.search(r"takes \d+ tokens, max_tokens is 3", final.message)


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers_and_the_flag() -> None:
    runtime = make_runtime(max_len=64)
    runtime.put(opened(1), Append(key(1), (5,) * 100), generate(1))
    final = failed(runtime.run())
    assert final.code == "too_long"
    assert final.message == ("prompt is 100 tokens, the server holds 64 (--max-len); shorten it")


def test_max_tokens_past_the_context_ends_with_it() -> None:
    runtime = make_runtime(max_len=64)
    runtime.put(opened(1), Append(key(1), (5,) * 60), generate(1, max_tokens=50, ignore_eos=True))
    final = done(runtime.run())
    assert (final.reason, final.usage.completion) == ("length", 4)


def test_no_max_tokens_means_up_to_the_context() -> None:
    runtime = make_runtime(max_len=64)
    runtime.put(opened(1), Append(key(1), (5,) * 4), generate(1, max_tokens=None, ignore_eos=True))
    assert done(runtime.run()).usage.completion == 60


def test_zero_max_tokens_computes_the_prompt_and_warms_the_cache() -> None:
    runtime = make_runtime()
    runtime.put(opened(1), text(1, "Hello the world"), generate(1, max_tokens=0))
    final = done(runtime.run())
    assert (final.reason, final.text, final.usage.completion) == ("length", "", 0)
    assert runtime.engine.cache.num_cached == final.usage.prompt


def test_logprobs_come_for_every_token_sampled_or_jumped_in_order() -> None:
    runtime = make_runtime()
    pattern = '\\{"name": "(Paris|London)", "age": [0-9]{2}\\}'
    options = {"logprobs": 2, "stream": True}
    slot = generate(1, grammar=pattern, options=options, max_tokens=60)
    runtime.put(opened(1), text(1, "Say:"), slot)
    events = runtime.run()
    logprobs = [one for _, e in events if isinstance(e, Tokens) for one in e.logprobs]
    assert [one.token_id for one in logprobs] == answer_ids(events)
    assert all(one.logprob is not None and one.logprob < 0 for one in logprobs)
    assert all(len(one.top) == 2 for one in logprobs)
    assert done(events).usage.jumped > 0


def test_logprobs_of_jumped_tokens_are_those_of_the_same_tokens_as_a_prompt() -> None:
    runtime = make_runtime()
    pattern = '\\{"name": "(Paris|London)", "age": [0-9]{2}\\}'
    slot = generate(1, grammar=pattern, options={"logprobs": 0}, max_tokens=60)
    prompt = text(1, "Say:")
    runtime.put(opened(1), prompt, slot)
    events = runtime.run()
    ids = answer_ids(events)
    first = [one.logprob for _, e in events if isinstance(e, Tokens) for one in e.logprobs]
    runtime.put(
        opened(2),
        Append(key(2), (*prompt.token_ids, *ids)),
        generate(2, options={"prompt_logprobs_from": len(prompt.token_ids)}, max_tokens=0),
    )
    scored = done(runtime.run(), 2).prompt_logprobs
    assert [one.logprob for one in scored] == pytest.approx(first)


@pytest.mark.parametrize("max_chunk", [1, 3, 512])
def test_prompt_logprobs_are_the_same_cold_warm_and_chunked(max_chunk: int) -> None:
    runtime = make_runtime(max_tokens_per_step=max(16, max_chunk), max_chunk=max_chunk)
    options = {"prompt_logprobs_from": 0}
    prompt = text(1, "Hello the world in Paris, and London is a town. " * 3)
    runtime.put(opened(9), text(9, "busy"), generate(9, max_tokens=200, ignore_eos=True))
    runtime.put(opened(1), prompt, generate(1, options=options, max_tokens=1))
    cold = done(runtime.run()).prompt_logprobs
    runtime.put(opened(2), Append(key(2), prompt.token_ids), generate(2, options=options))
    warm = done(runtime.run(), 2).prompt_logprobs
    assert cold == warm
    assert [one.token_id for one in cold] == list(prompt.token_ids)
    assert cold[0].logprob is None
    assert all(one.logprob is not None for one in cold[1:])


def test_a_stop_inside_a_forced_run_leaves_the_cut_tokens_without_logprobs() -> None:
    runtime = make_runtime()
    options = {"logprobs": 0}
    slot = generate(1, grammar="(a|b)xyzxyzxyz!", options=options, stop=("zx",), max_tokens=20)
    runtime.put(opened(1), text(1, "q"), slot)
    events = runtime.run()
    logprobs = [one for _, e in events if isinstance(e, Tokens) for one in e.logprobs]
    assert done(events).text in ("axy", "bxy")
    assert [one.token_id for one in logprobs] == answer_ids(events)
    assert logprobs[0].logprob is not None
    assert all(one.logprob is None for one in logprobs[1:])


def test_equal_seeds_give_equal_text_whatever_else_runs() -> None:
    alone = make_runtime()
    alone.put(opened(1), text(1, "Once"), generate(1, temperature=1.0, seed=5, max_tokens=30))
    busy = make_runtime(max_tokens_per_step=16)
    for branch in range(2, 9):
        busy.put(opened(branch), text(branch, "x" * branch), generate(branch, temperature=1.0))
    busy.put(opened(1), text(1, "Once"), generate(1, temperature=1.0, seed=5, max_tokens=30))
    assert done(alone.run()).text == done(busy.run()).text


def test_no_seed_means_a_fresh_one() -> None:
    texts = set()
    for _ in range(5):
        runtime = make_runtime()
        runtime.put(opened(1), text(1, "Once"), generate(1, temperature=2.0, max_tokens=30))
        texts.add(done(runtime.run()).text)
    assert len(texts) == 5


def test_penalties_see_all_tokens_and_those_of_the_slot() -> None:
    runtime = make_runtime()
    seen = []
    run = runtime.runner.run

    def spy(plan):  # type: ignore[no-untyped-def]
        seen.extend(segment.sample for segment in plan.segments)
        return run(plan)

    runtime.runner.run = spy  # type: ignore[method-assign]
    runtime.put(opened(1), text(1, "zq"), generate(1, presence_penalty=1.0, max_tokens=3))
    ids = answer_ids(runtime.run())
    assert seen[-1].context == (ord("z"), ord("q"), *ids[:2])
    assert seen[-1].generated == tuple(ids[:2])


def test_a_logit_bias_outside_the_vocabulary_is_refused() -> None:
    runtime = make_runtime()
    runtime.put(opened(1), text(1, "a"), generate(1, logit_bias=((10**6, 1.0),)))
    assert failed(runtime.run()).param == "logit_bias"


def test_an_empty_branch_begins_with_the_end_of_sequence() -> None:
    runtime = make_runtime()
    runtime.put(opened(1), generate(1))
    assert done(runtime.run()).usage.prompt == 1


def test_times_and_prompt_counts_add_up() -> None:
    runtime = make_runtime()
    runtime.put(opened(1), text(1, "Hello"), generate(1, max_tokens=4, ignore_eos=True), closed(1))
    runtime.run()
    runtime.put(opened(2), text(2, "Hello"), generate(2, max_tokens=4, ignore_eos=True))
    usage = done(runtime.run(), 2).usage
    assert (usage.prompt, usage.cached) == (5, 4)
    assert usage.steps == 4
    assert usage.first_token_ms == pytest.approx(0.0)
    assert usage.total_ms == pytest.approx(3.0)
