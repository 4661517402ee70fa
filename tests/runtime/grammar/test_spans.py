"""Families of characters and their spans, and needs, against walks of the automaton."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwork.runtime.grammar import regex
from branchwork.runtime.grammar.blocks import needs
from branchwork.runtime.grammar.dfa import DEAD, Dfa
from branchwork.runtime.grammar.json_schema.quoting import char_boundaries, written
from branchwork.runtime.grammar.machine.program import (
    COST_LIMIT,
    COUNTS_CHARS,
    GROUPS,
    IRREGULAR,
    PASSES_ENDS,
)
from branchwork.runtime.grammar.spans import MAX_SPAN, spans

CHARS = "abglmzAGZ059 -_.,\"'~\xa0é\u2028\u3000㐀一가\ue000😀"

PATTERNS = [
    "[a-z]{1,30}",
    "[^-]*-[^-]*",
    "(\\S+\\s+){0,4}\\S+",
    "[a-z]+([A-Z][a-z]+)*",
    "(.|\\n)*log(.|\\n)*",
    "[^a](\\w+ )*",
    "[一-鿿]+|[가-힣 ]{2,}",
    "\\p{L}+( \\p{L}+)*",
]


def is_of(family: int, char: str) -> bool:
    return bool(family >> int(GROUPS[char.encode()[0]]) & 1)


def texts_of(family: int, pick: random.Random) -> list[str]:
    """Some texts of a family's characters: each alone, and longer ones at random."""
    chars = [char for char in CHARS if is_of(family, char)]
    some = ["".join(pick.choices(chars, k=pick.randint(2, 30))) for _ in range(40)] if chars else []
    return [*chars, *some]


def check(language: Dfa, counted: tuple[bool, ...] | None) -> int:
    """Whatever is promised of each state's texts holds at each of their bytes; how many states promise something."""
    count = np.array(counted or [False] * language.num_states)
    need = np.zeros(language.num_states, np.int64) if counted is None else needs(language, counted)
    families, span = spans(language, counted, need, np.ones(language.num_states, np.bool_))
    pick, promising = random.Random(0), np.flatnonzero(span).tolist()
    for start in pick.sample(promising, min(len(promising), 8)):
        family = int(families[start])
        assert not family >> IRREGULAR & 1
        for text in texts_of(family, pick):
            state, counts = start, 0
            data = text[: int(span[start])].encode()
            for index, byte in enumerate(data):
                assert family & PASSES_ENDS or not language.accepting[state], text
                state = int(language.table[state, language.classes[byte]])
                counts += int(count[state])
                begun = len(data[: index + 1].decode(errors="replace").replace("\ufffd", "x"))
                assert state != DEAD, (text, index)
                due = begun if family & COUNTS_CHARS else 0
                assert counts + need[state] == due + need[start], (text, index)
    return len(promising)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_text_of_a_family_is_refused_within_the_span(pattern: str) -> None:
    assert check(regex.pattern_dfa(pattern, "python", False), None) > 0


@pytest.mark.parametrize("pattern", PATTERNS)
def test_characters_of_a_family_are_counted_one_by_one(pattern: str) -> None:
    inside = written(regex.pattern_dfa(pattern, "python", False))
    counted = char_boundaries(inside)
    assert counted is not None
    assert check(inside, counted) > 0


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from(["[a-z]", "[^g]", "(log)?", "\\S", "\\s*", "é", "(a|.)"]), min_size=1),
    st.sampled_from(["", "*", "{1,3}"]),
)
def test_spans_hold_for_any_pattern(parts: list[str], repeat: str) -> None:
    check(regex.pattern_dfa(f"({''.join(parts)}){repeat}", "python", False), None)


def test_any_text_may_be_read_for_ever() -> None:
    language = regex.pattern_dfa("(.|\\n)*", "python", False)
    need = np.zeros(language.num_states, np.int64)
    families, span = spans(language, None, need, np.ones(language.num_states, np.bool_))
    assert span[language.start] == MAX_SPAN
    assert all(is_of(int(families[language.start]), char) for char in CHARS)
    assert families[language.start] & PASSES_ENDS


def test_needs_are_the_fewest_counted_states_to_acceptance() -> None:
    language = regex.pattern_dfa("(ab|c)*(dd|e)", "python", False)
    counted = tuple(state % 2 == 1 for state in range(language.num_states))
    found = needs(language, counted)
    for state in range(1, language.num_states):
        paths = {state: 0}
        for _ in range(language.num_states):
            for at, cost in list(paths.items()):
                for target in set(language.table[at].tolist()) - {DEAD}:
                    paths[target] = min(paths.get(target, COST_LIMIT), cost + counted[target])
        assert found[state] == min(paths[end] for end in paths if language.accepting[end])
