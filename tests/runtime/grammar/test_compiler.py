"""The killable compiler: real child processes, short time limits."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.runtime.grammar.vocabularies import allowed, letters

from branchwork.runtime.grammar.compiler import GrammarCompiler
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import ConstraintError
from branchwork.runtime.wire.messages import (
    Choices,
    Constraint,
    Ebnf,
    JsonSchema,
    JsonValue,
    Regex,
)

LETTERS = letters()
OPTIONS = RuntimeConfig(grammar_timeout=20.0, grammar_memory=200)


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(LETTERS, OPTIONS)
    yield compiler
    compiler.close()


def test_a_constraint_becomes_a_grammar_over_the_vocabulary(compiler: GrammarCompiler) -> None:
    matcher = compiler.submit(Choices(("ab", "b"))).result(60).start()
    assert allowed(matcher, LETTERS) == {97, 98, 258, 273}


def test_equal_constraints_are_compiled_once(compiler: GrammarCompiler) -> None:
    first = compiler.submit(Regex("[ab]+c"))
    assert compiler.submit(Regex("[ab]+c")) is first or first.done()
    assert compiler.submit(Regex("[ab]+c")).result(60) is first.result(60)


deep = '{"type": "array", "items": ' * 5000 + "true" + "}" * 5000
HOSTILE: list[Constraint] = [
    Regex("(a+)+b"),
    Regex("x{100000}"),
    Regex("((x{100}){100}){100}"),
    Regex("(" * 30_000),
    Regex("(a|b)*a(a|b){200}"),
    Regex("[^\\s\\S]"),
    Regex("a\\"),
    Regex("a++"),
    Regex("((a*)*)*b{0,1000}(a|b|ab)*"),
    Ebnf("root ::= root"),
    Ebnf("root ::= " + "(" * 30_000),
    JsonSchema('{"$ref": "#"}'),
    JsonSchema(deep),
    JsonSchema(json.dumps({"enum": [f"value {n}" for n in range(50_000)]})),
    JsonSchema(json.dumps({"properties": {f"p{n}": {"type": "integer"} for n in range(10_000)}})),
    JsonSchema('{"description": "' + "x" * 1_000_000 + '"}'),
]


@pytest.mark.slow
@pytest.mark.parametrize("constraint", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_constraints_are_served_or_refused_and_the_next_good_one_works(
    compiler: GrammarCompiler, constraint: Constraint
) -> None:
    answer = compiler.submit(constraint)
    refusal = answer.exception(60)
    if refusal is None:
        matcher = answer.result().start()
        assert allowed(matcher, LETTERS)
        if matcher.closing_len() < 60_000:
            assert matcher.accept_bytes(matcher.closing())
            assert matcher.can_end()
    else:
        assert isinstance(refusal, ConstraintError)
    assert compiler.submit(JsonValue()).result(60).start().forced() == b"{"


def test_a_constraint_that_takes_too_long_is_refused_and_its_child_replaced() -> None:
    compiler = GrammarCompiler(LETTERS, replace(OPTIONS, grammar_timeout=0.01))
    values = json.dumps({"enum": [f"{n} {n * n} {n % 7}" for n in range(30_000)]})
    with pytest.raises(ConstraintError, match="takes longer than"):
        compiler.submit(JsonSchema(values)).result(60)
    compiler.close()


def test_a_constraint_that_needs_too_much_memory_is_refused() -> None:
    compiler = GrammarCompiler(LETTERS, replace(OPTIONS, grammar_memory=16))
    values = json.dumps({"enum": [f"{n} {n * n} {n % 7}" for n in range(30_000)]})
    with pytest.raises(ConstraintError, match="memory"):
        compiler.submit(JsonSchema(values)).result(60)
    assert compiler.submit(Regex("a+")).result(60).start().accept_bytes(b"aa")
    compiler.close()


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
    first = small.submit(Regex("ab")).result(60)
    small.submit(big).result(60)
    assert small.submit(Regex("ab")).result(60) is not first or first.size_bytes < 1 << 20
    small.close()


def test_the_second_back_end_stands_behind_the_same_interface() -> None:
    compiler = GrammarCompiler(LETTERS, replace(OPTIONS, grammar_backend="outlines"))
    ours = GrammarCompiler(LETTERS, OPTIONS)
    for constraint in (Regex("(a|b)*abb"), Choices(("ab", "abc", "xx")), Regex("[^a]{2}")):
        matcher = compiler.submit(constraint).result(60).start()
        other = ours.submit(constraint).result(60).start()
        assert allowed(matcher, LETTERS) == allowed(other, LETTERS)
        closing = matcher.closing()
        assert matcher.accept_bytes(closing)
        assert matcher.can_end()
    with pytest.raises(ConstraintError, match="outlines"):
        compiler.submit(Ebnf('root ::= "a"')).result(60)
    compiler.close()
    ours.close()
