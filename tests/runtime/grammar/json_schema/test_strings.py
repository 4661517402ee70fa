"""String languages and their spelling in JSON."""

import json
from functools import reduce

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.grammar.json_schema.naive import accepts

from branchwork.runtime.grammar import ir
from branchwork.runtime.grammar.dfa import any_text, of_strings
from branchwork.runtime.grammar.json_schema import strings
from branchwork.runtime.grammar.json_schema.language import (
    ALL,
    NOTHING,
    Language,
    Pattern,
    both,
    complement,
    either,
    length,
    words,
)
from branchwork.runtime.grammar.json_schema.quoting import any_quoted, quote, quoted

texts = st.text(st.sampled_from('ab"\\\n\x01é😀'), max_size=5)
atoms = st.one_of(
    st.just(ALL),
    st.just(NOTHING),
    st.sampled_from(["a", "^a", "b$", "^(aé|😀b?)*$", "^\\n?[^a]*$"]).map(Pattern),
    st.builds(lambda low, more: length(low, low + more), st.integers(0, 2), st.integers(0, 3)),
    st.builds(length, st.integers(0, 3)),
    st.lists(texts, max_size=3).map(words),
)
languages: st.SearchStrategy[Language] = st.recursive(
    atoms,
    lambda inner: (
        inner.map(complement) | st.builds(both, inner, inner) | st.builds(either, inner, inner)
    ),
    max_leaves=5,
)


@given(st.text(max_size=20))
@settings(deadline=None)
def test_every_text_has_one_json_string_and_it_is_that_of_json_dumps(text: str) -> None:
    assert json.loads(quote(text)) == text
    assert quote(text).decode() == json.dumps(text, ensure_ascii=False)
    assert any_quoted().accepts(quote(text))
    assert quoted(of_strings((text.encode(),))).strings(2) == (quote(text),)


def test_no_other_spelling_of_a_json_string_is_accepted() -> None:
    for other in (
        '"\\u0041"',
        '"\\/"',
        '"\\u001F"',
        '"\\u0008"',
        '"\x1f"',
        '"\\ud800"',
        '"\\x41"',
        '"',
    ):
        assert not any_quoted().accepts(other.encode())


@given(languages, texts)
@settings(deadline=None)
def test_an_automaton_holds_the_words_of_its_language(language: Language, text: str) -> None:
    inside = language.contains(text)
    assert strings.text_dfa(language).accepts(text.encode()) == inside
    assert not (inside and strings.is_empty(language))
    assert accepts(ir.Rules(strings.string_node(language)), quote(text).decode()) == inside


@given(languages, languages, texts)
@settings(deadline=None)
def test_combined_languages_contain_what_their_parts_say(
    a: Language, b: Language, text: str
) -> None:
    assert both(a, b).contains(text) == (a.contains(text) and b.contains(text))
    assert either(a, b).contains(text) == (a.contains(text) or b.contains(text))
    assert complement(a).contains(text) != a.contains(text)
    assert not (strings.disjoint(a, b) and a.contains(text) and b.contains(text))


def test_a_pattern_beside_a_large_length_is_counted_and_not_multiplied_out() -> None:
    node = strings.string_node(both(Pattern("^[a-zé\\n]*$"), length(2, 5_000)))
    assert isinstance(node, ir.Concat)
    rules = ir.Rules(node)
    verdicts = [
        accepts(rules, json.dumps("é\n" * n, ensure_ascii=False)) for n in (0, 1, 2_500, 2_501)
    ]
    assert verdicts == [False, True, True, False]


def test_a_length_counts_characters_and_not_bytes() -> None:
    exact = strings.with_length(any_text(), 2, 2)
    assert [text for text in ("", "a", "é😀", "abc") if exact.accepts(text.encode())] == ["é😀"]
    assert reduce(lambda dfa, part: dfa | part, [exact, exact]) == exact
