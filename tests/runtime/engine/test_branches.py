"""What operations do to branches: order, forks, failures, and one final message for each instruction."""

from concurrent.futures import Future

import pytest
from tests.make_engine import (
    CLIENT,
    NaiveGrammar,
    choose,
    closed,
    done,
    embed,
    failed,
    finals,
    generate,
    key,
    make_runtime,
    opened,
    text,
    tokens_of,
)

from branchwork.runtime.grammar.compile import compile_stop
from branchwork.runtime.grammar.interface import Grammar
from branchwork.runtime.grammar.stops import StopTable
from branchwork.runtime.inbox import (
    Append,
    ClientGone,
    FailBranch,
    Generate,
    GrammarReady,
    OpenBranch,
)
from branchwork.runtime.wire.errors import Aborted, ConstraintError
from branchwork.runtime.wire.messages import Closed, Gen, Sampling


def num_closed(events: list, branch: int = 1) -> int:  # type: ignore[type-arg]
    return sum(event == Closed(branch) for _, event in events)


def test_slots_are_filled_in_order_without_a_round_trip() -> None:
    runtime = make_runtime()
    runtime.put(
        opened(1),
        text(1, "Name: "),
        generate(1, "name", grammar="[A-Z][a-z]{2}"),
        text(1, " Age: "),
        generate(1, "age", grammar="[0-9]{2}"),
        closed(1),
    )
    events = runtime.run()
    assert len(done(events, slot="name").text) == 3
    assert len(done(events, slot="age").text) == 2
    assert events[-1] == (CLIENT, Closed(1))


def test_the_second_slot_sees_the_first_ones_tokens() -> None:
    runtime = make_runtime()
    runtime.put(opened(1), text(1, "ab"), generate(1, "x"), text(1, "cd"), generate(1, "y"))
    first = tokens_of_after(runtime)
    other = make_runtime()
    other.put(opened(1), Append(key(1), first[:-8]), generate(1, "y"))
    assert done(other.run(), slot="y").text == done(runtime.outbox.events, slot="y").text


def tokens_of_after(runtime) -> tuple[int, ...]:  # type: ignore[no-untyped-def]
    runtime.outbox.events = runtime.run()
    return tokens_of(runtime, 1)


def test_a_fork_takes_the_parents_tokens_when_its_earlier_slots_are_done() -> None:
    runtime = make_runtime()
    runtime.put(
        opened(1),
        text(1, "Hello"),
        generate(1, "first"),
        opened(2, parent=1),
        text(1, " the parent goes on"),
        text(2, " the child"),
        generate(2, "second"),
    )
    events = runtime.run()
    assert done(events, 1, "first")
    assert done(events, 2, "second").usage.cached >= len("Hello")
    parent, child = tokens_of(runtime, 1), tokens_of(runtime, 2)
    shared = 5 + done(events, 1, "first").usage.completion
    assert parent[:shared] == child[:shared]
    assert parent[shared:] != child[shared:]


def test_a_fork_computes_nothing_of_its_parent_again() -> None:
    runtime = make_runtime()
    prompt = Append(key(1), tuple(range(30, 130)) * 5)
    runtime.put(opened(1), prompt, generate(1, max_tokens=4, ignore_eos=True))
    for branch in range(2, 34):
        child = generate(branch, max_tokens=4, ignore_eos=True)
        runtime.put(opened(branch, parent=1), text(branch, f"{branch}"), child)
    runtime.run()
    assert runtime.runner.num_computed <= 500 + 3 + 32 * (1 + 2 + 3)


def test_twins_of_an_uncached_prefix_wait_for_the_first() -> None:
    runtime = make_runtime()
    prefix = tuple(range(30, 130)) * 5
    for branch in range(1, 33):
        runtime.put(
            opened(branch), Append(key(branch), (*prefix, branch)), generate(branch, max_tokens=1)
        )
    runtime.run()
    assert runtime.runner.num_computed <= 500 + 32


def test_the_fork_of_an_unknown_branch_fails_its_slots_and_closes() -> None:
    runtime = make_runtime()
    runtime.put(opened(2, parent=1), generate(2), closed(2))
    events = runtime.run()
    assert failed(events, 2).code == "branch_failed"
    assert num_closed(events, 2) == 1


def test_a_failed_slot_fails_all_later_ones_and_the_forks_behind_it() -> None:
    runtime = make_runtime(max_len=16)
    runtime.put(
        opened(1),
        Append(key(1), (5,) * 20),
        generate(1, "a"),
        choose(1, "x", "y", slot="b"),
        embed(1, slot="c"),
        opened(2, parent=1),
        generate(2, "d"),
        closed(1),
    )
    events = runtime.run()
    assert failed(events, slot="a").code == "too_long"
    assert failed(events, slot="b").code == "branch_failed"
    assert "slot 'a' before it failed" in failed(events, slot="b").message
    assert failed(events, slot="c").code == "branch_failed"
    assert failed(events, 2, "d").code == "branch_failed"
    assert num_closed(events) == 1


def test_a_refused_instruction_fails_its_slot_with_its_own_error() -> None:
    runtime = make_runtime()
    bad = FailBranch(key(1), "a", "invalid_parameter", "top_k is -3", "top_k")
    runtime.put(opened(1), bad, generate(1, "b"))
    events = runtime.run()
    assert failed(events, slot="a").param == "top_k"
    assert failed(events, slot="b").code == "branch_failed"


def test_a_refused_instruction_without_a_slot_fails_the_next_slot_with_its_error() -> None:
    runtime = make_runtime()
    bad = FailBranch(key(1), None, "invalid_parameter", "no such token")
    runtime.put(opened(1), bad, generate(1, "a"), generate(1, "b"))
    events = runtime.run()
    assert failed(events, slot="a").message == "no such token"
    assert failed(events, slot="b").code == "branch_failed"


def test_operations_on_a_branch_that_is_not_open_are_answered_and_counted() -> None:
    runtime = make_runtime()
    runtime.put(
        text(7, "x"), generate(7), choose(7, "a"), embed(7), closed(7), closed(8, abort=True)
    )
    events = runtime.run()
    assert [failed(events, 7, slot).code for slot in ("answer", "choice", "embedding")] == [
        "branch_failed"
    ] * 3
    assert num_closed(events, 7) == num_closed(events, 8) == 1
    assert runtime.engine.branches.num_unknown == 5


def test_opening_a_branch_twice_fails_it() -> None:
    runtime = make_runtime()
    runtime.put(opened(1), opened(1), generate(1))
    assert failed(runtime.run()).code == "invalid_parameter"


def test_what_follows_a_close_is_refused() -> None:
    runtime = make_runtime()
    runtime.put(opened(1), text(1, "a"), generate(1), closed(1), generate(1, "late"), closed(1))
    events = runtime.run()
    assert done(events)
    assert failed(events, slot="late").code == "branch_failed"


def test_abort_ends_every_slot_at_once_and_frees_the_memory() -> None:
    runtime = make_runtime()
    runtime.put(opened(1), text(1, "a"), generate(1, max_tokens=500), generate(1, "b"), closed(1))
    for _ in range(5):
        runtime.step()
    assert runtime.engine.cache.num_locked > 0
    runtime.put(closed(1, abort=True))
    events = runtime.run()
    assert failed(events).code == failed(events, slot="b").code == "aborted"
    assert num_closed(events) == 1
    assert runtime.engine.cache.num_locked == 0
    assert len(runtime.engine.branches) == 0


def test_aborting_a_parent_fails_the_forks_it_still_owes() -> None:
    runtime = make_runtime()
    runtime.put(
        opened(1), text(1, "a"), generate(1, max_tokens=500), opened(2, parent=1), generate(2)
    )
    runtime.step()
    runtime.put(closed(1, abort=True))
    events = runtime.run()
    assert failed(events, 2).code == "branch_failed"
    runtime.put(closed(2))
    assert num_closed(runtime.run(), 2) == 1


def test_a_child_may_go_before_its_parent_gets_to_it() -> None:
    runtime = make_runtime()
    runtime.put(opened(1), text(1, "a"), generate(1), opened(2, parent=1), closed(2, abort=True))
    events = runtime.run()
    assert done(events)
    assert num_closed(events, 2) == 1


def test_a_client_that_is_gone_leaves_nothing_and_gets_nothing() -> None:
    runtime = make_runtime()
    for branch in (1, 2):
        runtime.put(opened(branch), text(branch, "abc"), generate(branch, max_tokens=100))
    other = Generate(key(1, b"other"), Gen(1, "answer", Sampling(max_tokens=5, temperature=0.0)))
    runtime.put(OpenBranch(key(1, b"other")), Append(key(1, b"other"), (65, 66)), other)
    runtime.step()
    runtime.outbox.events.clear()
    runtime.put(ClientGone(CLIENT))
    events = runtime.run()
    assert {client for client, _ in events} == {b"other"}
    assert runtime.engine.cache.num_locked == 0


def test_a_slot_waits_for_its_grammar_while_others_run() -> None:
    runtime = make_runtime()
    future: Future[Grammar] = Future()
    waiting = Generate(key(1), Gen(1, "answer", Sampling(max_tokens=20)), future)
    runtime.put(opened(1), text(1, "a"), waiting, opened(2), text(2, "b"), generate(2))
    events = runtime.run()
    assert list(finals(events)) == [(2, "answer")]
    future.set_result(NaiveGrammar("[0-9]{3}"))
    runtime.put(GrammarReady(key(1)))
    assert len(done(runtime.run()).text) == 3


def test_the_prompt_is_computed_while_its_grammar_is_compiled() -> None:
    runtime = make_runtime()
    future: Future[Grammar] = Future()
    gen = Gen(1, "answer", Sampling(max_tokens=20, seed=1), heal=True)
    prompt = Append(key(1), tuple(range(40, 140)))
    runtime.put(opened(1), prompt, Generate(key(1), gen, future))
    runtime.run()
    assert runtime.runner.num_computed == 100
    future.set_result(NaiveGrammar("[0-9]{3}"))
    runtime.put(GrammarReady(key(1)))
    usage = done(runtime.run()).usage
    assert usage.cached == 0
    assert runtime.runner.num_computed <= 100 + usage.completion


def test_a_slot_that_begins_while_its_prompt_is_being_warmed_is_filled_all_the_same() -> None:
    for pattern in ("[0-9]{3}", "true"):
        runtime = make_runtime(max_tokens_per_step=16)
        future: Future[Grammar] = Future()
        gen = Gen(1, "answer", Sampling(max_tokens=20, seed=1))
        prompt = Append(key(1), tuple(range(40, 140)))
        runtime.put(opened(1), prompt, Generate(key(1), gen, future), generate(1, "next"))
        for _ in range(3):
            runtime.step()
        future.set_result(NaiveGrammar(pattern))
        runtime.put(GrammarReady(key(1)))
        events = runtime.run()
        assert done(events)
        assert done(events, slot="next")
        assert runtime.runner.num_computed <= 100 + 20


def test_a_warmed_branch_that_is_aborted_leaves_nothing_behind() -> None:
    runtime = make_runtime(max_tokens_per_step=16)
    future: Future[Grammar] = Future()
    runtime.put(opened(1), Append(key(1), tuple(range(40, 140))))
    runtime.put(Generate(key(1), Gen(1, "answer"), future))
    runtime.step()
    runtime.put(closed(1, abort=True))
    assert failed(runtime.run()).code == "aborted"
    assert runtime.engine.cache.num_locked == 0


def test_a_slot_waits_for_its_stop_patterns_and_ends_at_them() -> None:
    runtime = make_runtime()
    pattern: Future[StopTable] = Future()
    sampling = Sampling(temperature=0.0, max_tokens=50, stop_regex=("[a-z][A-Z]",))
    gen = Gen(1, "answer", sampling)
    runtime.put(opened(1), text(1, "a"), Generate(key(1), gen, None, (pattern,)))
    assert finals(runtime.run()) == {}
    pattern.set_result(compile_stop("[a-z][A-Z]"))
    runtime.put(GrammarReady(key(1)))
    answer = done(runtime.run())
    assert answer.reason == "stop_string"
    assert answer.matched == "[a-z][A-Z]"


def test_a_stop_pattern_that_did_not_compile_fails_its_slot_with_its_error() -> None:
    runtime = make_runtime()
    pattern: Future[StopTable] = Future()
    pattern.set_exception(ConstraintError("matches the empty text", "stop_regex"))
    runtime.put(opened(1), Generate(key(1), Gen(1, "answer"), None, (pattern,)))
    failure = failed(runtime.run())
    assert (failure.code, failure.param) == ("invalid_constraint", "stop_regex")


def test_a_grammar_that_did_not_compile_fails_its_slot_with_its_error() -> None:
    runtime = make_runtime()
    future: Future[Grammar] = Future()
    future.set_exception(ConstraintError("unclosed group at position 6", "6"))
    runtime.put(opened(1), Generate(key(1), Gen(1, "answer"), future))
    final = failed(runtime.run())
    assert (final.code, final.param) == ("invalid_constraint", "6")


@pytest.mark.parametrize("where", ["running", "waiting for a grammar", "waiting for a row"])
def test_a_deadline_fails_the_slot_wherever_it_is(where: str) -> None:
    runtime = make_runtime(max_rows=1)
    grammar: Future[Grammar] | None = Future() if where == "waiting for a grammar" else None
    if where == "waiting for a row":
        runtime.put(opened(9), text(9, "a"), generate(9, max_tokens=500, ignore_eos=True))
    gen = Gen(1, "answer", Sampling(max_tokens=400, ignore_eos=True), deadline_s=0.02)
    runtime.put(opened(1), text(1, "a"), Generate(key(1), gen, grammar), generate(1, "next"))
    for _ in range(30):
        runtime.step()
    assert failed(runtime.outbox.events).code == "deadline"
    assert failed(runtime.outbox.events, slot="next").code == "branch_failed"


def test_a_slot_that_meets_its_deadline_leaves_the_next_one_alone() -> None:
    runtime = make_runtime()
    gen = Gen(1, "answer", Sampling(max_tokens=5), deadline_s=0.02)
    runtime.put(opened(1), text(1, "a"), Generate(key(1), gen))
    runtime.put(generate(1, "next", max_tokens=100, ignore_eos=True))
    events = runtime.run()
    assert done(events)
    assert done(events, slot="next").usage.completion == 100


def test_a_full_queue_refuses_newcomers_only() -> None:
    runtime = make_runtime(max_rows=1, max_queue=2)
    for branch in range(1, 7):
        runtime.put(opened(branch), text(branch, "a"), generate(branch), generate(branch, "more"))
    events = runtime.run()
    refused = [
        b for b in range(1, 7) if getattr(finals(events)[b, "answer"], "code", "") == "queue_full"
    ]
    assert refused == [3, 4, 5, 6]
    assert done(events, 1, "more")
    assert done(events, 2, "more")


def test_salts_share_nothing() -> None:
    runtime = make_runtime()
    prompt = tuple(range(40, 100))
    for branch, salt in ((1, "mine"), (2, "yours"), (3, "mine")):
        runtime.put(opened(branch, salt=salt), Append(key(branch), prompt), generate(branch))
        runtime.run()
        runtime.put(closed(branch))
    runtime.put(opened(4, salt="yours"), Append(key(4), prompt), generate(4, "x"))
    assert done(runtime.run(), 4, "x").usage.cached == 59
    runtime.put(opened(5, salt="new"), Append(key(5), prompt), generate(5, "x"))
    assert done(runtime.run(), 5, "x").usage.cached == 0


def test_a_forks_salt_is_its_parents() -> None:
    runtime = make_runtime()
    runtime.put(opened(1, salt="s"), Append(key(1), tuple(range(40, 100))), generate(1))
    runtime.put(opened(2, parent=1, salt="other"), generate(2))
    assert done(runtime.run(), 2).usage.cached > 0


def test_a_kept_branchs_prefix_outlives_others_that_are_newer() -> None:
    def cached_after_pressure(keep: bool) -> int:
        runtime = make_runtime(num_slots=128, max_len=128)
        runtime.put(opened(1, keep=keep), Append(key(1), (70,) * 40), generate(1))
        runtime.run()
        for branch in range(2, 9):
            runtime.put(opened(branch), Append(key(branch), (branch,) * 50), generate(branch))
            runtime.put(closed(branch))
            runtime.run()
        runtime.put(generate(1, "again"))
        return done(runtime.run(), slot="again").usage.cached

    assert cached_after_pressure(keep=True) >= 40
    assert cached_after_pressure(keep=False) < 40


def test_stopping_the_engine_ends_every_slot() -> None:
    runtime = make_runtime()
    runtime.put(opened(1), text(1, "a"), generate(1, max_tokens=500), generate(1, "b"))
    runtime.put(opened(2, parent=1), generate(2))
    runtime.step()
    runtime.engine.branches.fail_all(Aborted("the runtime is stopping"))
    runtime.step()
    events = runtime.outbox.events
    assert failed(events).code == "aborted"
    assert failed(events, slot="b").code == "aborted"
    assert failed(events, 2)
    assert runtime.engine.cache.num_locked == 0


def test_deadlines_of_slots_that_are_done_are_forgotten() -> None:
    """The gateway gives each request 600 s; each left an entry behind for so long."""
    runtime = make_runtime()
    for branch in range(1, 3001):
        gen = Gen(branch, "answer", Sampling(max_tokens=0), deadline_s=600.0)
        runtime.put(opened(branch), text(branch, "a"), Generate(key(branch), gen), closed(branch))
        runtime.run()
    assert len(runtime.engine.branches._deadlines) <= 1024
