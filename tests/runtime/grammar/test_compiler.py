"""The killable compiler: real child processes, short time limits."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.many_files import many_files
from tests.runtime.grammar.vocabularies import allowed, letters

from branchwork.bench.hostile import CASES, nested
from branchwork.runtime.grammar import compiler as compiling
from branchwork.runtime.grammar import machine_code
from branchwork.runtime.grammar.compiler import GrammarCompiler
from branchwork.runtime.grammar.compiler_child import read_frame
from branchwork.runtime.grammar.stops import StopHit, StopScanner
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import ConstraintError, InternalError
from branchwork.runtime.wire.messages import (
    Choices,
    Ebnf,
    JsonSchema,
    JsonValue,
    Regex,
)

LETTERS = letters()
OPTIONS = RuntimeConfig()


# A child that has worked for a while takes what nobody else wants of the machine, which may be little.
PATIENCE_S = 250.0
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module", autouse=True)
def _patient() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "LEAST_CLOCK_S", PATIENCE_S)
        yield


@pytest.fixture(scope="module")
def compiler(_patient: None) -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(LETTERS, OPTIONS)
    yield compiler
    compiler.close()


def test_a_constraint_becomes_a_grammar_over_the_vocabulary(compiler: GrammarCompiler) -> None:
    matcher = compiler.submit(Choices(("ab", "b"))).result(PATIENCE_S).start()
    found = {LETTERS.token_bytes[token] for token in allowed(matcher, LETTERS)}
    assert found == {b"a", b"b", b"ab"}


def test_equal_constraints_are_compiled_once(compiler: GrammarCompiler) -> None:
    first = compiler.submit(Regex("[ab]+c"))
    assert compiler.submit(Regex("[ab]+c")) is first or first.done()
    assert compiler.submit(Regex("[ab]+c")).result(PATIENCE_S) is first.result(PATIENCE_S)


def test_a_first_grammar_waits_for_its_machine_code_which_is_compiled_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Handed out before, it had the engine's thread compile for two minutes, and every stream wait."""
    go_on = tmp_path / "go on"
    wait = f"import os, time\nwhile not os.path.exists({str(go_on)!r}): time.sleep(0.01)"
    monkeypatch.setattr(machine_code, "is_compiled", lambda: False)
    monkeypatch.setattr(
        machine_code, "start_compiling", lambda: subprocess.Popen([sys.executable, "-c", wait])
    )
    compiler = GrammarCompiler(LETTERS, OPTIONS)
    try:
        waiting = compiler.submit(Choices(("ab", "b")))
        assert compiler.submit_stop("ab").result(PATIENCE_S) is not None
        with pytest.raises(TimeoutError):
            waiting.result(0.3)
        go_on.touch()
        assert waiting.result(PATIENCE_S).start().can_end() is False
    finally:
        compiler.close()


def test_constraints_that_come_in_turn_need_one_child() -> None:
    """Each of the threads that ask had a child of its own, and the first constraints waited for one to start."""
    compiler = GrammarCompiler(LETTERS, OPTIONS)
    try:
        compiler.submit(Regex("first")).result(120)
        children = compiler.children()
        for number in range(12):
            compiler.submit(Regex(f"a{number}")).result(60)
            assert compiler.children() == children
        assert len(children) == 1
    finally:
        compiler.close()


def test_a_runtime_with_a_thousand_clients_compiles() -> None:
    """Each is an open file, and `select` knows no descriptor from 1,024 on."""
    with many_files():
        compiler = GrammarCompiler(LETTERS, OPTIONS)
        try:
            assert compiler.submit(Regex("ab")).result(PATIENCE_S).start().forced() == b"ab"
        finally:
            compiler.close()


def test_a_child_that_dies_just_before_it_is_asked_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The constraint was blamed for it, as an internal error: what was not sent yet broke the closing of the pipe."""
    compiler = GrammarCompiler(LETTERS, OPTIONS)
    try:
        compiler.submit(Regex("before")).result(PATIENCE_S)
        for pid in compiler.children():
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        looks = iter([True])
        alive = compiling._Child.alive.fget
        monkeypatch.setattr(
            compiling._Child, "alive", property(lambda child: next(looks, None) or alive(child))
        )
        assert compiler.submit(Regex("after")).result(PATIENCE_S).start().forced() == b"after"
    finally:
        compiler.close()


def test_closing_takes_no_pipe_from_a_thread_that_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be another file's at once, whose bytes the thread then took."""
    reached, closed, gone_on = threading.Event(), threading.Event(), threading.Event()
    is_readable = compiling.is_readable_within

    def late(pipe: int, timeout_s: float) -> bool:
        found = is_readable(pipe, timeout_s)
        reached.set()
        closed.wait(0.5)
        gone_on.set()
        return found

    compiler = GrammarCompiler(LETTERS, OPTIONS)
    compiler.submit(Regex("a")).result(PATIENCE_S)
    monkeypatch.setattr(compiling, "is_readable_within", late)
    compiler.submit(Regex("b"))
    assert reached.wait(60)
    compiler.close()
    pairs = [os.pipe() for _ in range(8)]
    for _, write in pairs:
        os.write(write, b"not yours")
    closed.set()
    assert gone_on.wait(30)
    compiler._threads.shutdown(wait=True)
    for read, write in pairs:
        os.set_blocking(read, False)
        assert os.read(read, 9) == b"not yours"
        os.close(read)
        os.close(write)


def test_closing_ends_a_process_that_compiles_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> "subprocess.Popen[bytes]":
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        return started[-1]

    monkeypatch.setattr(machine_code, "is_compiled", lambda: False)
    monkeypatch.setattr(machine_code, "start_compiling", start)
    compiler = GrammarCompiler(LETTERS, OPTIONS)
    waiting = compiler.submit(Choices(("ab", "b")))
    while not started:
        time.sleep(0.01)
    compiler.close()
    assert started[0].wait(60) != 0
    with pytest.raises(ConstraintError, match="shutting down"):
        waiting.result(PATIENCE_S)


deep = '{"type": "array", "items": ' * 5000 + "true" + "}" * 5000


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_hostile_constraints_are_served_or_refused_and_the_next_good_one_works(
    compiler: GrammarCompiler, name: str
) -> None:
    answer = compiler.submit(CASES[name])
    refusal = answer.exception(PATIENCE_S)
    if refusal is None:
        matcher = answer.result().start()
        assert allowed(matcher, LETTERS)
        if matcher.outlook().closing_len < 60_000:
            assert matcher.accept_bytes(matcher.closing())
            assert matcher.can_end()
    else:
        assert isinstance(refusal, ConstraintError)
    assert compiler.submit(JsonValue()).result(PATIENCE_S).start().forced() == b"{"


def test_a_constraint_nested_deeper_than_can_be_sent_is_refused(compiler: GrammarCompiler) -> None:
    refusal = compiler.submit(nested(5000)).exception(PATIENCE_S)
    assert isinstance(refusal, ConstraintError)
    assert "deeply" in str(refusal)


def test_a_stop_pattern_becomes_a_table_and_a_bad_one_is_refused(compiler: GrammarCompiler) -> None:
    table = compiler.submit_stop("[.!?]x").result(PATIENCE_S)
    assert StopScanner((), (table,)).feed(b"a.?x") == StopHit(2, 4, "[.!?]x")
    assert compiler.submit_stop("[.!?]x").result(PATIENCE_S) is table
    refusal = compiler.submit_stop("a*").exception(PATIENCE_S)
    assert isinstance(refusal, ConstraintError)
    assert refusal.param == "stop_regex"


def test_a_child_that_dies_at_its_start_fails_the_future_and_the_next_is_tried_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/bin/false")
        compiler = GrammarCompiler(LETTERS, OPTIONS)
        assert isinstance(compiler.submit(Regex("ab")).exception(PATIENCE_S), InternalError)
        patch.setattr(sys, "executable", "/no such program")
        assert isinstance(compiler.submit(Regex("ab")).exception(PATIENCE_S), InternalError)
    assert compiler.submit(Regex("ab")).result(PATIENCE_S).start().forced() == b"ab"
    compiler.close()


def test_a_child_killed_between_constraints_is_replaced_unnoticed(
    compiler: GrammarCompiler,
) -> None:
    compiler.submit(Regex("before")).result(PATIENCE_S)
    killed = compiler.children()
    for child in killed:
        os.kill(child, signal.SIGKILL)
    while set(compiler.children()) & set(killed):
        time.sleep(0.01)
    assert compiler.submit(Regex("after")).result(PATIENCE_S).start().forced() == b"after"


def test_a_child_whose_caches_have_grown_makes_room_for_a_fresh_one() -> None:
    compiler = GrammarCompiler(LETTERS, replace(OPTIONS, grammar_memory=16))
    first = compiler.submit(Regex("ab")) and compiler.children()
    for n in range(12):
        pattern = f"(a|b)*a(a|b){{{9 - n % 3}}}{n}"
        compiler.submit(JsonSchema(json.dumps({"pattern": pattern}))).exception(PATIENCE_S)
    assert compiler.submit(Regex("cd")).result(PATIENCE_S).start().forced() == b"cd"
    assert compiler.children() != first
    compiler.close()


def test_after_close_everything_fails_at_once() -> None:
    compiler = GrammarCompiler(LETTERS, OPTIONS)
    waiting = compiler.submit(JsonSchema(deep))
    compiler.close()
    assert isinstance(waiting.exception(PATIENCE_S), ConstraintError)
    assert isinstance(compiler.submit(Regex("ab")).exception(0), ConstraintError)


def test_a_constraint_that_takes_too_long_is_refused_and_its_child_replaced() -> None:
    compiler = GrammarCompiler(LETTERS, replace(OPTIONS, grammar_timeout=0.01))
    values = json.dumps({"enum": [f"{n} {n * n} {n % 7}" for n in range(30_000)]})
    with pytest.raises(ConstraintError, match="takes longer than"):
        compiler.submit(JsonSchema(values)).result(PATIENCE_S)
    compiler.close()


def test_a_constraint_that_needs_too_much_memory_is_refused() -> None:
    compiler = GrammarCompiler(LETTERS, replace(OPTIONS, grammar_memory=16))
    values = json.dumps({"enum": [f"{n} {n * n} {n % 7}" for n in range(30_000)]})
    with pytest.raises(ConstraintError, match="memory"):
        compiler.submit(JsonSchema(values)).result(PATIENCE_S)
    assert compiler.submit(Regex("a+")).result(PATIENCE_S).start().accept_bytes(b"aa")
    compiler.close()


def test_what_a_child_prepares_before_it_is_asked_is_not_counted_as_a_constraints_memory() -> None:
    """With 16 MiB a child that nobody asked for a while ran out of them by itself, and failed the next constraint."""
    arguments = [sys.executable, "-m", "branchwork.runtime.grammar.compiler_child", "1", "60", "60"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert read_frame(child.stdout)
        state = Path(f"/proc/{child.pid}/stat")
        while child.poll() is None and ") S " not in state.read_text():  # it waits for a frame
            time.sleep(0.01)
        assert resource.prlimit(child.pid, resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
        child.stdin.close()
        assert child.wait(60) == 0


def test_a_child_whose_runtime_has_ended_leaves_without_a_word() -> None:
    arguments = [sys.executable, "-m", "branchwork.runtime.grammar.compiler_child", "1", "60", "60"]
    reader, writer = os.pipe()
    os.close(reader)
    child = subprocess.run(
        arguments, stdin=subprocess.PIPE, stdout=writer, stderr=subprocess.PIPE, timeout=60
    )
    os.close(writer)
    assert (child.returncode, child.stderr) == (0, b"")


def test_a_constraint_over_the_size_limit_is_refused_at_once() -> None:
    compiler = GrammarCompiler(LETTERS, replace(OPTIONS, max_schema_bytes=100))
    refused = compiler.submit(Regex("a" * 200))
    assert refused.done()
    with pytest.raises(ConstraintError, match="--max-schema-bytes"):
        refused.result()
    compiler.close()


def test_the_cache_forgets_what_was_used_least_recently(compiler: GrammarCompiler) -> None:
    small = GrammarCompiler(LETTERS, replace(OPTIONS, grammar_cache=1))
    big = Regex("|".join(f"{n:05d}" for n in range(20_000)))
    first = small.submit(Regex("ab")).result(PATIENCE_S)
    small.submit(big).result(PATIENCE_S)
    assert small.submit(Regex("ab")).result(PATIENCE_S) is not first or first.size_bytes < 1 << 20
    small.close()


def test_the_second_back_end_stands_behind_the_same_interface() -> None:
    compiler = GrammarCompiler(LETTERS, replace(OPTIONS, grammar_backend="outlines"))
    ours = GrammarCompiler(LETTERS, OPTIONS)
    for constraint in (Regex("(a|b)*abb"), Choices(("ab", "abc", "xx")), Regex("[^a]{2}")):
        matcher = compiler.submit(constraint).result(PATIENCE_S).start()
        other = ours.submit(constraint).result(PATIENCE_S).start()
        assert allowed(matcher, LETTERS) == allowed(other, LETTERS)
        closing = matcher.closing()
        assert matcher.accept_bytes(closing)
        assert matcher.can_end()
    with pytest.raises(ConstraintError, match="outlines"):
        compiler.submit(Ebnf('root ::= "a"')).result(PATIENCE_S)
    compiler.close()
    ours.close()
