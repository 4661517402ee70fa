"""Numerals beside exact arithmetic."""

from fractions import Fraction
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from branchwork.runtime.grammar.json_schema.numbers import drawn_in, meet_numbers, negate_number
from branchwork.runtime.grammar.json_schema.numerals import numeral_dfa, plain
from branchwork.runtime.grammar.json_schema.shape import Number

decimals = st.builds(
    lambda n, scale: Fraction(n, 10**scale), st.integers(-1300, 1300), st.integers(0, 2)
)
steps = st.sampled_from(
    [Fraction(1), Fraction(2), Fraction(3), Fraction(1, 10), Fraction(1, 4), Fraction(7)]
)
numbers = st.builds(
    Number,
    low=st.none() | decimals,
    low_open=st.booleans(),
    high=st.none() | decimals,
    high_open=st.booleans(),
    step=st.none() | steps,
    off_steps=st.frozensets(steps, max_size=1),
)


@given(numbers, st.lists(decimals, min_size=20, max_size=20))
@settings(max_examples=150, deadline=None)
def test_a_numeral_is_accepted_exactly_if_its_number_is_in_the_set(
    number: Number, values: list[Fraction]
) -> None:
    drawn = drawn_in(number)
    for value in values:
        accepted = drawn is not None and numeral_dfa(drawn).accepts(plain(value))
        assert accepted == number.contains(value), value


@given(numbers, numbers, decimals)
@settings(deadline=None)
def test_meeting_and_negating_numbers_is_meeting_and_negating_their_sets(
    a: Number, b: Number, value: Fraction
) -> None:
    met = meet_numbers(a, b)
    assert (met is not None and met.contains(value)) == (a.contains(value) and b.contains(value))
    assert any(other.contains(value) for other in negate_number(a)) != a.contains(value)


def test_numbers_do_not_go_on_without_end() -> None:
    for number in (Number(), Number(step=Fraction(1)), Number(low=Fraction(1, 3 * 0 + 2))):
        assert numeral_dfa(number).is_finite()


def test_a_canonical_numeral_is_the_only_one_of_its_number() -> None:
    canonical = numeral_dfa(Number(), canonical=True)
    assert [
        text for text in (b"1", b"1.5", b"-1", b"0", b"0.5") if not canonical.accepts(text)
    ] == []
    assert [
        text for text in (b"1.0", b"1.50", b"1e3", b"-0", b"-0.0") if canonical.accepts(text)
    ] == []


def test_large_steps_are_refused_and_large_bounds_are_not() -> None:
    large = Number(low=Fraction(10**25), high=Fraction(10**30), step=Fraction(1))
    dfa = numeral_dfa(large)
    texts = (str(10**exponent).encode() for exponent in count(24))
    assert [dfa.accepts(next(texts)) for _ in range(8)] == [False, *[True] * 6, False]
