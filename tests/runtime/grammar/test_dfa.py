from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchwork.runtime.grammar import dfa
from branchwork.runtime.grammar.dfa import Dfa, TooManyStates

EVERY = [bytes(word) for length in range(5) for word in product(b"ab", repeat=length)]
words = st.frozensets(st.sampled_from(EVERY), max_size=8)


def members(language: Dfa) -> set[bytes]:
    return {word for word in EVERY if language.accepts(word)}


@given(words, words)
def test_union_intersection_and_difference_are_those_of_sets(a: set[bytes], b: set[bytes]) -> None:
    x, y = dfa.of_strings(a), dfa.of_strings(b)
    assert members(x | y) == a | b == members(dfa.union(x, y))
    assert members(x & y) == a & b
    assert members(x - y) == a - b


@given(words, words)
def test_concatenation_joins_every_pair(a: set[bytes], b: set[bytes]) -> None:
    joined = {x + y for x in a for y in b}
    assert members(dfa.of_strings(a) + dfa.of_strings(b)) == joined & set(EVERY)


@given(words, st.integers(0, 2), st.integers(0, 2))
def test_repetition_joins_as_many_members_as_its_bounds_say(
    a: set[bytes], low: int, more: int
) -> None:
    expected, power = set(), {b""}
    for count in range(low + more + 1):
        expected |= power if count >= low else set()
        power = {x + y for x in power for y in a}
    assert members(dfa.repeat(dfa.of_strings(a), low, low + more)) == expected & set(EVERY)


@given(words)
def test_star_is_repetition_without_a_bound(a: set[bytes]) -> None:
    unbounded = dfa.star(dfa.of_strings(a))
    assert unbounded == dfa.repeat(dfa.of_strings(a), 0, None)
    assert members(unbounded) == members(dfa.repeat(dfa.of_strings(a), 0, 4))


@given(words, words)
def test_keys_are_equal_exactly_when_the_languages_are(a: set[bytes], b: set[bytes]) -> None:
    x, y = dfa.of_strings(a), dfa.of_strings(b)
    assert (x == y) == (a == b)
    assert (x | y) - (y - x) == x


@given(words)
def test_a_finite_set_lists_its_members_in_order(a: set[bytes]) -> None:
    language = dfa.of_strings(a)
    assert language.is_finite()
    assert language.count() == len(a)
    assert language.strings(len(a)) == tuple(sorted(a))
    assert not a or language.strings(len(a) - 1) is None
    assert language.is_empty == (not a)


@given(words)
def test_the_shortest_member_is_found(a: set[bytes]) -> None:
    found = dfa.of_strings(a).shortest()
    assert found == (min(a, key=lambda word: (len(word), word)) if a else None)
    assert dfa.of_strings(a).shortest_length() == (None if found is None else len(found))


def test_infinite_sets_are_not_listed() -> None:
    language = dfa.star(dfa.literal(b"a"))
    assert not language.is_finite()
    assert language.count() is None
    assert language.strings(1000) is None


@pytest.mark.parametrize("char", ["a", "é", "߿", "ࠀ", "日", "\ud7ff", "\ue000", "😀", "\U0010ffff"])
def test_text_is_exactly_what_is_valid_utf_8(char: str) -> None:
    encoded = char.encode()
    assert dfa.any_char().accepts(encoded)
    assert not any(dfa.any_char().accepts(encoded[:cut]) for cut in range(len(encoded)))
    assert not dfa.any_text().accepts(b"\x80" + encoded)


@pytest.mark.parametrize(
    "wrong", [b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff", b"\xe0\x80\x80"]
)
def test_text_holds_no_overlong_forms_surrogates_or_codes_that_are_too_high(wrong: bytes) -> None:
    assert not dfa.any_text().accepts(wrong)


def test_spelling_replaces_bytes_by_any_of_their_spellings() -> None:
    language = dfa.literal(b'a"b').spell({0x22: (b'\\"', b"\\u0022")})
    assert language.strings(2) == (b'a\\"b', b"a\\u0022b")


def test_growth_beyond_the_fuel_is_refused() -> None:
    letter = dfa.of_ranges((97, 98))
    tail = dfa.repeat(letter, 20, 20)
    with pytest.raises(TooManyStates):
        dfa.concat(dfa.star(letter), dfa.literal(b"a"), tail)


@st.composite
def automata(draw: st.DrawFn) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_], int]:
    """Any table over a and b and all other bytes, with states that lead nowhere and that nothing leads to."""
    size = draw(st.integers(1, 6))
    only_onward = draw(st.booleans())
    rows = [[0, 0, 0]]
    for state in range(1, size + 1):
        targets = st.integers(state + 1, size) if only_onward and state < size else st.just(0)
        if not only_onward:
            targets = st.integers(1, size)
        rows.append([0, *(draw(st.one_of(st.just(0), targets)) for _ in "ab")])
    ends = [False, *(draw(st.booleans()) for _ in range(size))]
    return np.array(rows, np.int32), np.array(ends), draw(st.integers(1, size))


@given(automata())
def test_the_normal_form_is_that_of_the_language_whatever_states_nothing_leads_to(
    automaton: tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_], int],
) -> None:
    table, ends, start = automaton
    classes = np.zeros(256, np.uint8)
    classes[list(b"ab")] = 1, 2
    made = dfa.make(classes, table, ends, start)

    def accepts(word: bytes) -> bool:
        state = start
        for byte in word:
            state = int(table[state, classes[byte]])
        return bool(ends[state])

    expected = {word for word in EVERY if accepts(word)}
    assert members(made) == expected
    if made.is_finite() and made.num_states <= 5:  # no member is longer than those of EVERY
        assert made == dfa.of_strings(expected)
    # Twice side by side is the same language, in states that were numbered in another way.
    assert made | made == made
