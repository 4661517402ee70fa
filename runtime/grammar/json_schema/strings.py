"""Automata for the string languages: `language.py` says what, this file makes it."""

import functools
import re
from collections.abc import Iterable

import numpy as np

from branchwork.runtime.grammar import ir
from branchwork.runtime.grammar.dfa import (
    DEAD,
    MAX_STATES,
    Dfa,
    TooManyStates,
    any_text,
    make,
    of_strings,
)
from branchwork.runtime.grammar.json_schema.language import (
    ALL,
    And,
    Language,
    Length,
    Not,
    Or,
    Pattern,
    Words,
    both,
    length,
)
from branchwork.runtime.grammar.json_schema.quoting import (
    any_quoted,
    char_boundaries,
    quote,
    quoted,
    written,
    written_char,
)
from branchwork.runtime.grammar.regex import pattern_dfa

# Up to here an unbounded string with a minimum length is an automaton, beyond it a counter.
_SHORT_LEAST = 3
# A pattern and a greatest length are one automaton up to so many states, beyond that a counter.
MAX_MULTIPLIED = 500
_QUOTE = ir.Literal(b'"')
_HALF_PAIR = re.compile("[\ud800-\udfff]").search


@functools.lru_cache(maxsize=2048)
def text_dfa(language: Language) -> Dfa:
    """The texts of a language, in UTF-8. Raises TooManyStates, and what `pattern_dfa` raises."""
    if isinstance(language, Words):
        return of_strings(word.encode() for word in _writable(language.words))
    if isinstance(language, Length):
        return with_length(any_text(), language.least, language.most)
    if isinstance(language, Pattern):
        return pattern_dfa(language.source)
    if isinstance(language, Not):
        return any_text() - text_dfa(language.inner)
    if isinstance(language, Or):
        return functools.reduce(Dfa.__or__, map(text_dfa, language.parts))
    assert isinstance(language, And), language
    # Patterns first and lengths last: a length multiplies the states of what it bounds.
    lengths = [part for part in language.parts if isinstance(part, Length)]
    absent = [part for part in language.parts if isinstance(part, Not)]
    present = [
        text_dfa(part) for part in language.parts if part not in lengths and part not in absent
    ]
    found = functools.reduce(Dfa.__and__, present) if present else any_text()
    for part in absent:
        found = found - text_dfa(part.inner)
    for bounds in lengths:
        found = with_length(found, bounds.least, bounds.most)
    return found


def is_empty(language: Language) -> bool:
    """Whether the language has no string."""
    if isinstance(language, Words):
        return not language.words
    if isinstance(language, Length) or (
        isinstance(language, Not) and isinstance(language.inner, Words)
    ):
        return False
    texts, most = _without_most(language)
    if most is None or texts.is_empty or int(texts.distances()[texts.start]) <= most:
        return texts.is_empty
    return with_length(texts, 0, most).is_empty


def _without_most(language: Language) -> tuple[Dfa, int | None]:
    """The texts of a language but for its greatest length, and that: their product is large, and seldom needed."""
    if not isinstance(language, And):
        return text_dfa(language), None
    bounds = [part for part in language.parts if isinstance(part, Length) and part.most is not None]
    if not bounds:
        return text_dfa(language), None
    others = language.parts.difference(bounds)
    return text_dfa(both(length(bounds[0].least), *others)), bounds[0].most


def disjoint(a: Language, b: Language) -> bool:
    """Whether no string is in both."""
    for finite, other in ((a, b), (b, a)):
        if isinstance(finite, Words):
            return not any(other.contains(word) for word in finite.words)
    if isinstance(a, Length) or isinstance(b, Length) or a == b:
        return is_empty(both(a, b))
    if _disjoint_dfas(_without_most(a)[0], _without_most(b)[0]):
        return True
    return is_empty(both(a, b))


@functools.lru_cache(maxsize=4096)
def _disjoint_dfas(a: Dfa, b: Dfa) -> bool:
    """Pairs of states are followed side by side until one accepts; nothing is built."""
    joint = a.classes.astype(np.int64) * 256 + b.classes
    first = np.unique(joint, return_index=True)[1]
    table_a, table_b = a.table[:, a.classes[first]].astype(np.int64), b.table[:, b.classes[first]]
    width = b.num_states
    seen = np.zeros(a.num_states * width, np.bool_)
    frontier = np.array([a.start * width + b.start])
    while len(frontier):
        left, right = frontier // width, frontier % width
        if (a.accepting[left] & b.accepting[right]).any():
            return False
        left, right = table_a[left], table_b[right]
        targets = (left * width + right)[(left != DEAD) & (right != DEAD)]
        frontier = np.unique(targets[~seen[targets]])
        seen[frontier] = True
    return True


@functools.lru_cache(maxsize=2048)
def string_node(language: Language) -> ir.Node:
    """The JSON strings for the texts of a language."""
    if language == ALL:
        return ir.Piece(any_quoted())
    if isinstance(language, Words):
        spelled = [quote(word) for word in _writable(language.words)]
        return ir.any_of(spelled)
    if isinstance(language, Length) and (
        language.most is not None or language.least > _SHORT_LEAST
    ):
        chars = ir.Chars(written_char(), language.least, language.most)
        return ir.Concat((_QUOTE, chars, _QUOTE))
    texts, most = _without_most(language)
    if most is None:
        return ir.Piece(quoted(texts))
    if texts.num_states * (most + 1) > MAX_MULTIPLIED:
        inside = written(texts)
        counted = char_boundaries(inside)
        if counted is not None:
            return ir.Concat((_QUOTE, ir.Bounded(inside, counted, most), _QUOTE))
    return ir.Piece(quoted(with_length(texts, 0, most)))


@functools.lru_cache(maxsize=2048)
def quoted_dfa(language: Language) -> Dfa:
    """The JSON strings, quotes included, for the texts of a language."""
    return any_quoted() if language == ALL else quoted(text_dfa(language))


def with_length(texts: Dfa, least: int, most: int | None) -> Dfa:
    """The texts of `least` to `most` characters.

    State (q, n) is state q after n characters; n stops at `least` where there is no `most`. A character is counted at
    its first byte, which no continuation byte (10xxxxxx) can be mistaken for.
    """
    top = least if most is None else most
    if texts.num_states * (top + 1) > 4 * MAX_STATES:
        raise TooManyStates(
            f"a pattern together with a length of {top} needs too large an automaton"
        )
    byte = np.arange(256)
    leads = ((byte & 0xC0) != 0x80).astype(np.int64)
    kinds, first, classes = np.unique(
        texts.classes.astype(np.int64) * 2 + leads, return_index=True, return_inverse=True
    )
    targets = texts.table[:, texts.classes[first]].astype(np.int64)
    counts = np.arange(top + 1)
    following = counts[:, None] + leads[first][None, :]
    too_long = following > top
    following = np.minimum(following, top)
    table = targets[None, :, :] + following[:, None, :] * texts.num_states
    lost = targets[None, :, :] == DEAD
    if most is not None:
        lost = lost | too_long[:, None, :]
    table[np.broadcast_to(lost, table.shape)] = DEAD
    accepting = texts.accepting[None, :] & (counts >= least)[:, None]
    assert len(kinds) <= 256
    return make(
        classes.astype(np.uint8),
        table.reshape(-1, len(kinds)).astype(np.int32),
        accepting.ravel(),
        texts.start,
    )


def _writable(words: frozenset[str]) -> Iterable[str]:
    """The words that are Unicode text; one with half a surrogate pair is not, and is never written."""
    if any(map(_HALF_PAIR, words)):
        return [word for word in words if not _HALF_PAIR(word)]
    return words
