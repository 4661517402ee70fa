"""A grammar's machine over tokens allows exactly what its matcher does, from every place that tokens lead to."""

import weakref

import numpy as np
import pytest
from tests.runtime.grammar.vocabularies import EOS, json_pieces, letters

from branchwork.runtime.engine.machines import MAX_KNOWN, Machines
from branchwork.runtime.grammar import token_machine
from branchwork.runtime.grammar.compile import compile_constraint
from branchwork.runtime.grammar.interface import Vocabulary
from branchwork.runtime.grammar.masks import lexicon_of
from branchwork.runtime.grammar.matcher import MachineGrammar
from branchwork.runtime.grammar.token_machine import (
    MAX_CELLS,
    MAX_STATES,
    MachineBuilder,
    TokenMachine,
    TokenTable,
)
from branchwork.runtime.wire.errors import ConstraintError
from branchwork.runtime.wire.messages import Choices, Constraint, JsonSchema, Regex

LETTERS, JSON = letters(), json_pieces()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first matcher of an installation compiles machine code."""
    monkeypatch.setattr(token_machine, "MAX_EXPLORE_S", 60.0)


def build(
    constraint: Constraint, vocabulary: Vocabulary
) -> tuple[MachineGrammar, TokenMachine | None]:
    program = compile_constraint(constraint)
    grammar = MachineGrammar(program, lexicon_of(vocabulary))
    builder = MachineBuilder(grammar, TokenTable(vocabulary))
    while not builder.work():
        pass
    return grammar, builder.machine


SMALL: list[Constraint] = [
    Choices(("ab", "abb", "abc", "ba")),
    Regex("[ab]*"),
    Regex("(aab|x)*[0-9]{1,3}"),
    Regex("a?b?,?"),
    Regex("[^a]*日"),
    JsonSchema('{"enum": [true, null, "a", 10]}'),
    JsonSchema('{"type": "integer"}'),
    JsonSchema('{"type": "array", "items": {"type": "boolean"}, "maxItems": 2}'),
]


@pytest.mark.parametrize("vocabulary", [LETTERS, JSON], ids=["letters", "json"])
@pytest.mark.parametrize("constraint", SMALL, ids=str)
def test_every_token_leads_where_the_matcher_goes(
    constraint: Constraint, vocabulary: Vocabulary
) -> None:
    grammar, machine = build(constraint, vocabulary)
    assert machine is not None
    reached, waiting = {0}, [(0, grammar.start())]
    end = len(machine.masks) - 1
    while waiting:
        state, matcher = waiting.pop()
        assert machine.state_of[matcher.place()] == state
        assert (machine.masks[state] == matcher.mask()).all()
        assert machine.is_done[state] == matcher.outlook().must_end
        assert machine.is_forced[state] == bool(matcher.forced())
        for token, data in enumerate(vocabulary.token_bytes):
            following = int(machine.next_state[state, machine.class_of[token]])
            after = matcher.copy()
            if not after.accept(token):
                assert following < 0, (state, data)
            elif token == EOS:
                assert following == end
            elif following not in reached:
                reached.add(following)
                waiting.append((following, after))
            else:
                assert machine.state_of[after.place()] == following
    assert len(reached) == len(machine.masks) - 1
    assert machine.is_done[end]
    assert (machine.next_state[end] < 0).all()
    bits = np.unpackbits(machine.masks[end].view(np.uint8), bitorder="little")
    assert np.flatnonzero(bits).tolist() == [EOS]


@pytest.mark.parametrize(
    "constraint",
    [
        Regex("a{100}b"),  # more places than a device has lines for
        JsonSchema('{"type": "array", "items": {"type": "integer"}, "uniqueItems": true}'),
        Regex("[a-z]{0,300}"),
    ],
    ids=str,
)
def test_what_has_many_places_or_depends_on_the_text_so_far_has_no_machine(
    constraint: Constraint,
) -> None:
    assert build(constraint, LETTERS)[1] is None


def test_a_machine_is_within_its_bounds() -> None:
    for constraint in SMALL:
        machine = build(constraint, JSON)[1]
        assert machine is not None
        assert len(machine.masks) <= MAX_STATES
        assert machine.next_state.size <= MAX_CELLS


class Failing:
    """A grammar whose matchers fail at a byte."""

    warnings = ()
    size_bytes = 0

    def __init__(self, error: Exception) -> None:
        self.error = error

    def start(self) -> "Failing":
        return self

    def copy(self) -> "Failing":
        return self

    def place(self) -> int:
        return 0

    def accept_bytes(self, data: bytes) -> bool:
        raise self.error


def test_a_grammar_that_fails_while_its_machine_is_built_has_none_and_hurts_nobody() -> None:
    builder = MachineBuilder(Failing(ConstraintError("too ambiguous")), TokenTable(LETTERS))  # type: ignore[arg-type]
    assert builder.work()
    assert builder.work()
    assert builder.machine is None


def test_a_grammar_that_is_slow_to_follow_has_no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_machine, "MAX_EXPLORE_S", -1.0)
    assert build(SMALL[0], LETTERS)[1] is None


def test_machines_of_many_constraints_are_forgotten_again() -> None:
    machines = Machines(2, LETTERS)
    grammar, _ = build(SMALL[0], LETTERS)
    grammars = [MachineGrammar(grammar.program, grammar.lexicon) for _ in range(MAX_KNOWN + 40)]
    for one in grammars:
        machines.place(one, one.start())
    assert len(machines._builders) == len(machines._unfinished) == MAX_KNOWN
    assert weakref.ref(grammars[0]) not in machines._builders
