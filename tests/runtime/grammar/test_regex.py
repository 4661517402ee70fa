import re
import warnings
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwork.runtime.grammar import dfa
from branchwork.runtime.grammar.compile import compile_constraint, prepare
from branchwork.runtime.grammar.regex import compile_regex, pattern_dfa
from branchwork.runtime.wire.errors import ConstraintError
from branchwork.runtime.wire.messages import Regex

TEXTS = ["".join(text) for length in range(5) for text in product("ab\n", repeat=length)]

atoms = st.sampled_from(["a", "b", "[ab]", "[^a]", ".", "\\n", "(?:)", "\\w", "\\W", "\\s"])
assertions = st.sampled_from(
    ["^", "$", "\\b", "\\B", "\\A", "\\Z", "(?=a)", "(?!b)", "(?<=a)", "(?<!b)", "(?=b$)"]
)


def patterns(parts: "st.SearchStrategy[str]") -> "st.SearchStrategy[str]":
    return st.recursive(
        parts,
        lambda inner: st.one_of(
            st.tuples(inner, inner).map("".join),
            st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
            st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}"])).map(
                lambda two: f"(?:{two[0]}){two[1]}"
            ),
        ),
        max_leaves=6,
    )


@settings(deadline=None, max_examples=80)
@given(patterns(atoms))
def test_a_pattern_means_what_python_means(pattern: str) -> None:
    whole, found = pattern_dfa(pattern, "python", False), pattern_dfa(pattern, "python", True)
    for text in TEXTS:
        assert whole.accepts(text.encode()) == bool(re.fullmatch(pattern, text)), text
        assert found.accepts(text.encode()) == bool(re.search(pattern, text)), text


@settings(deadline=None, max_examples=40)
@given(patterns(st.one_of(atoms, assertions)))
def test_anchors_and_lookaround_mean_what_python_means(pattern: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = re.compile(pattern)
    whole = pattern_dfa(pattern, "python", False)
    # Python before 3.14 says that \B does not match in the empty text, against its own definition.
    for text in TEXTS[1:60]:
        assert whole.accepts(text.encode()) == bool(compiled.fullmatch(text)), text


@pytest.mark.parametrize(
    "pattern",
    [
        "(?i)straße",
        "(?i)[k-s]",
        "(?ia)[k-s]",
        "(?i:a)B",
        r"\d",
        r"\s",
        r"\w",
        r"(?a)\w",
        "(?i)[^k]",
        "[é-ñ]",
        "(?s).",
        "[]a]",
        r"[\101-\103]\x42",
    ],
)
def test_classes_and_letter_case_are_those_of_python(pattern: str) -> None:
    language = pattern_dfa(pattern, "python", False)
    chars = [*map(chr, range(0x250)), *"ſKẞ٣५Ⅷ \u2028日\U0001f600", "AB"]
    for text in [*chars, "aB", "ab", "STRASSE", "STRAßE", "straẞe"]:
        assert language.accepts(text.encode()) == bool(re.fullmatch(pattern, text)), text


def test_unicode_properties_are_known_by_name() -> None:
    letters = pattern_dfa(r"\p{L}+\P{L}", "python", False)
    assert letters.accepts("Größe1".encode())
    assert not letters.accepts(b"a1b")
    assert pattern_dfa(r"[\p{Greek}x]+", "python", False).accepts("xλόγοςx".encode())


@pytest.mark.parametrize(
    ("pattern", "text", "is_found"),
    [
        (r"^\d+$", "12", True),
        (r"^\d+$", "٣", False),
        (r"^\d+$", "1\n", False),
        (r"^[\w.-]+@\w+\.\w+$", "a.b@c.d", True),
        ("a|^b$", "xxa", True),
        ("a|^b$", "xb", False),
        (r"(?<year>\d{4})", "in 2024", True),
        (r"^\/x\-\_$", "/x-_", True),
        (r"^[^]$", "\n", True),
        ("[]", "a", False),
        (r"^\u{1F600}\uD83D\uDE00$", "😀😀", True),
        ("^a{,2}$", "a{,2}", True),
        (r"^\cJ$", "\n", True),
        ("^.$", "\u2028", False),
        (r"^\p{Lu}\p{Ll}*$", "Änderung", True),
        (r"^(?!ab)", "abc", False),
    ],
)
def test_schema_patterns_follow_ecma(pattern: str, text: str, is_found: bool) -> None:
    assert pattern_dfa(pattern).accepts(text.encode()) == is_found


@pytest.mark.parametrize(
    ("pattern", "what", "position"),
    [
        (r"(a)\1", "backreference", "3"),
        (r"(?P<x>a)(?P=x)", "backreference", "8"),
        ("a++", "possessive", "1"),
        ("(?>a)b", "atomic", "0"),
        ("(a)(?(1)b|c)", "conditional", "3"),
        (r"a\p{Foo}", "Unicode property", "1"),
        ("ab(", "unterminated", "2"),
        ("a\\", "bad escape", "1"),
        ("a[b-a]", "bad character range", "2"),
        ("*a", "nothing to repeat", "0"),
    ],
)
def test_what_is_not_regular_is_refused_by_name_and_position(
    pattern: str, what: str, position: str
) -> None:
    with pytest.raises(ConstraintError, match=what) as refusal:
        compile_regex(pattern)
    assert refusal.value.param == position


def test_deep_nesting_is_refused_and_not_a_crash() -> None:
    with pytest.raises(ConstraintError, match="nested too deeply"):
        compile_regex("(" * 30_000)


def test_a_prepared_class_of_characters_is_not_made_again() -> None:
    for _ in prepare():
        pass
    before = dfa.chars.cache_info().misses
    for pattern in (r"\w+", r"\p{L}+( \p{L}+)*"):
        compile_constraint(Regex(pattern))
    assert dfa.chars.cache_info().misses == before
