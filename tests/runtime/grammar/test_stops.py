import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchwork.runtime.grammar.compile import compile_stop
from branchwork.runtime.grammar.stops import StopHit, StopScanner
from branchwork.runtime.wire.errors import ConstraintError

stops = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3, unique=True)


def naive(strings: list[str], text: str) -> StopHit | None:
    """The stop that ends first; of those, the one that begins first."""
    found = [
        (at + len(s), at, s) for s in strings for at in range(len(text)) if text.startswith(s, at)
    ]
    if not found:
        return None
    end, start, matched = min(found)
    return StopHit(start, end, matched)


def naive_held(strings: list[str], text: str) -> int:
    suffixes = [
        len(text) - at for at in range(len(text)) if any(s.startswith(text[at:]) for s in strings)
    ]
    return max(suffixes, default=0)


@given(stops, st.text("abc", max_size=12), st.lists(st.integers(0, 12), max_size=3))
def test_a_stop_is_found_where_it_ends_first_however_the_text_is_cut(
    strings: list[str], text: str, cuts: list[int]
) -> None:
    scanner, hit = StopScanner(tuple(strings)), None
    places = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    for begin, end in itertools.pairwise(places):
        hit = scanner.feed(text[begin:end].encode())
        if hit is not None:
            break
        assert scanner.held == naive_held(strings, text[:end])
    assert hit == naive(strings, text)


@given(stops, st.text("abc", max_size=10))
def test_no_byte_of_a_stop_is_ever_let_go(strings: list[str], text: str) -> None:
    scanner, shown = StopScanner(tuple(strings)), 0
    for at, char in enumerate(text):
        hit = scanner.feed(char.encode())
        if hit is not None:
            assert shown <= hit.start
            return
        shown = max(shown, at + 1 - scanner.held)


@given(
    st.sampled_from(["a+b", "(ab|b)c", "[ab]{2}c", "b.c", "a(bc)?b"]), st.text("abc", max_size=10)
)
def test_a_stop_pattern_ends_at_its_first_possible_end(pattern: str, text: str) -> None:
    hit = StopScanner((), (compile_stop(pattern),)).feed(text.encode())
    ends = [
        (end, start)
        for end in range(len(text) + 1)
        for start in range(end)
        if re.fullmatch(pattern, text[start:end])
    ]
    expected = StopHit(min(ends)[1], min(ends)[0], pattern) if ends else None
    assert hit == expected


def test_a_character_cut_between_tokens_is_still_part_of_a_stop() -> None:
    scanner = StopScanner(("。终",))
    data = "好。终".encode()
    assert scanner.feed(data[:4]) is None
    assert scanner.held == 1
    assert scanner.feed(data[4:]) == StopHit(3, 9, "。终")


def test_a_copy_goes_its_own_way() -> None:
    scanner = StopScanner(("ab",))
    scanner.feed(b"xa")
    other = scanner.copy()
    assert other.feed(b"b") == StopHit(1, 3, "ab")
    assert scanner.feed(b"c") is None


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ConstraintError, match="empty"):
        StopScanner(("",))


@pytest.mark.parametrize("pattern", ["a*", "^a", "(", "(a|b)*a(a|b){20}"], ids=str)
def test_a_stop_pattern_that_makes_no_sense_or_is_too_large_is_refused(pattern: str) -> None:
    with pytest.raises(ConstraintError) as refusal:
        compile_stop(pattern)
    assert refusal.value.param == "stop_regex"


def test_a_pattern_that_may_have_begun_everywhere_is_given_up() -> None:
    scanner = StopScanner((), (compile_stop("[x-z]{300,600}!"),))
    with pytest.raises(ConstraintError, match="too many places"):
        scanner.feed(b"x" * 2000)


def test_a_long_stop_string_is_followed_in_one_place_whatever_the_text_is() -> None:
    scanner = StopScanner(("-" * 1000 + "!",))
    assert scanner.feed(b"-" * 5000) is None
    assert scanner.held == 1000
    assert scanner.feed(b"!") == StopHit(4000, 5001, "-" * 1000 + "!")
