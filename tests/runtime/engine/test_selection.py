import pytest
from tests.make_engine import (
    choose,
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

from branchwork.runtime.inbox import Append, BranchKey


def scored_alone(prompt: tuple[int, ...], choice: tuple[int, ...]) -> list[float | None]:
    """The logprobs of a choice as the end of a prompt, in a runtime of its own."""
    runtime = make_runtime(prefix_cache=False)
    options = {"prompt_logprobs_from": len(prompt)}
    runtime.put(
        opened(1),
        Append(key(1), (*prompt, *choice)),
        generate(1, options=options, max_tokens=0),
    )
    return [one.logprob for one in done(runtime.run()).prompt_logprobs]


def test_every_choice_is_scored_as_if_it_stood_alone_and_the_best_is_appended() -> None:
    runtime = make_runtime()
    prompt = text(1, "Which town?")
    names = (" Paris", "Paris is", "in the", "London")
    runtime.put(opened(1), prompt, choose(1, *names))
    final = done(runtime.run(), slot="choice")
    assert [score.text for score in final.scores] == list(names)
    best = max(final.scores, key=lambda score: score.score)
    assert (final.reason, final.text) == ("selected", best.text)
    for name, score in zip(names, final.scores, strict=True):
        ids = runtime.tokenizer.encode_bytes(name.encode())
        assert [one.token_id for one in score.logprobs] == list(ids)
        expected = scored_alone(prompt.token_ids, ids)
        assert [one.logprob for one in score.logprobs] == pytest.approx(expected)
        assert score.score == pytest.approx(score.logprob / len(ids))
    written = runtime.tokenizer.encode_bytes(final.text.encode())
    assert tokens_of(runtime, 1) == (*prompt.token_ids, *written)


def test_a_choice_heals_the_boundary_where_its_token_would_begin_before_it() -> None:
    runtime = make_runtime()
    prompt = text(1, "see http:")
    runtime.put(opened(1), prompt, choose(1, "//x"))
    final = done(runtime.run(), slot="choice")
    ids = runtime.tokenizer.encode_bytes(b"://x")
    assert [one.token_id for one in final.scores[0].logprobs] == list(ids)
    assert tokens_of(runtime, 1) == (*prompt.token_ids[:-1], *ids)


def test_the_shared_prefix_is_computed_once() -> None:
    runtime = make_runtime()
    prompt = Append(key(1), tuple(range(60, 120)) * 5)
    runtime.put(opened(1), prompt, choose(1, *(f"choice {number}" for number in range(40))))
    final = done(runtime.run(), slot="choice")
    scored = sum(len(score.logprobs) for score in final.scores)
    assert runtime.runner.num_computed <= 300 + scored + 40


def test_hundreds_of_choices_go_in_waves_through_a_small_pool() -> None:
    runtime = make_runtime(num_slots=64, max_len=64)
    names = [f"n{number}" for number in range(300)]
    runtime.put(opened(1), text(1, "Pick one of these: "), choose(1, *names))
    final = done(runtime.run(), slot="choice")
    assert [score.text for score in final.scores] == names
    assert runtime.engine.cache.num_locked == 0


def test_none_leaves_the_branch_as_it_is() -> None:
    runtime = make_runtime()
    prompt = text(1, "Which?")
    runtime.put(opened(1), prompt, choose(1, "a", "b", method="none"))
    final = done(runtime.run(), slot="choice")
    assert final.text == ""
    assert len(final.scores) == 2
    assert tokens_of(runtime, 1) == prompt.token_ids


def test_unconditional_scores_are_of_the_choice_by_itself() -> None:
    runtime = make_runtime()
    method = "unconditional_likelihood_normalized"
    runtime.put(opened(1), text(1, "Which?"), choose(1, "abc", "x", method=method))
    final = done(runtime.run(), slot="choice")
    first, second = final.scores
    ids = tuple(one.token_id for one in first.unconditional)
    assert [one.token_id for one in first.logprobs] == list(ids)
    assert first.unconditional[0].logprob is None
    alone = scored_alone(ids[:1], ids[1:])
    assert [one.logprob for one in first.unconditional[1:]] == pytest.approx(alone)
    assert [one.logprob for one in second.unconditional] == [None]


def test_the_next_slot_goes_on_behind_the_winner() -> None:
    runtime = make_runtime()
    prompt = text(1, "Which?")
    runtime.put(opened(1), prompt, choose(1, "Paris", "London"), generate(1), closed(1))
    events = runtime.run()
    chosen, answer = done(events, slot="choice"), done(events)
    other = make_runtime()
    ids = runtime.tokenizer.encode_bytes(chosen.text.encode())
    other.put(opened(1), Append(BranchKey(b"client", 1), (*prompt.token_ids, *ids)), generate(1))
    assert done(other.run()).text == answer.text


@pytest.mark.parametrize("choices", [(), ("a", "")])
def test_a_select_without_choices_or_with_an_empty_one_is_refused(choices: tuple[str, ...]) -> None:
    runtime = make_runtime()
    runtime.put(opened(1), text(1, "Which?"), choose(1, *choices))
    assert failed(runtime.run(), slot="choice").code == "invalid_parameter"


def test_a_choice_that_cannot_fit_is_refused_at_the_door() -> None:
    runtime = make_runtime(max_len=32)
    runtime.put(opened(1), text(1, "Which?"), choose(1, "a", "b" * 40))
    final = failed(runtime.run(), slot="choice")
    assert final.code == "too_long"
    assert "prompt with its longest choice is 46 tokens, the server holds 32" in final.message
