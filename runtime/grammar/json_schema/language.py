"""Sets of strings, as expressions: what `pattern`, `format`, lengths, keys and enumerated words say together.

An expression is cheap to build and to test a word against; an automaton is made of it only where one is needed
(`strings.py`). Equal expressions are equal values, so they serve as keys.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from branchwork.runtime.grammar.regex import pattern_dfa


class Language:
    """A set of strings over Unicode scalar values."""

    __slots__ = ()

    def contains(self, word: str) -> bool:
        """Whether `word` is in the set."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Words(Language):
    """Finitely many strings."""

    words: frozenset[str]

    def contains(self, word: str) -> bool:
        """See Language."""
        return word in self.words


@dataclass(frozen=True, slots=True)
class Length(Language):
    """Strings of `least` to `most` characters (Unicode scalar values)."""

    least: int = 0
    most: int | None = None

    def contains(self, word: str) -> bool:
        """See Language."""
        return self.least <= len(word) and (self.most is None or len(word) <= self.most)


@dataclass(frozen=True, slots=True)
class Pattern(Language):
    """Strings in which the ECMA-262 regular expression `source` matches somewhere."""

    source: str

    def contains(self, word: str) -> bool:
        """See Language."""
        return pattern_dfa(self.source).accepts(word.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True, slots=True)
class Not(Language):
    """Strings that are not in `inner`."""

    inner: Language

    def contains(self, word: str) -> bool:
        """See Language."""
        return not self.inner.contains(word)


@dataclass(frozen=True, slots=True)
class And(Language):
    """Strings in all of `parts` (two or more, none of them an And)."""

    parts: frozenset[Language]

    def contains(self, word: str) -> bool:
        """See Language."""
        return all(part.contains(word) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Or(Language):
    """Strings in any of `parts` (two or more, none of them an Or)."""

    parts: frozenset[Language]

    def contains(self, word: str) -> bool:
        """See Language."""
        return any(part.contains(word) for part in self.parts)


ALL: Language = Length()
NOTHING: Language = Words(frozenset())


def words(choices: Iterable[str]) -> Language:
    """Exactly the strings in `choices`."""
    return Words(frozenset(choices))


def length(least: int = 0, most: int | None = None) -> Language:
    """Strings of `least` to `most` characters."""
    if most is not None and most < least:
        return NOTHING
    return words([""]) if most == 0 else Length(max(0, least), most)


def complement(language: Language) -> Language:
    """Strings that are not in `language`."""
    if language == ALL:
        return NOTHING
    if language == NOTHING:
        return ALL
    if isinstance(language, Not):
        return language.inner
    if isinstance(language, Length):
        shorter = length(0, language.least - 1)
        return shorter if language.most is None else either(shorter, length(language.most + 1))
    if isinstance(language, Or):
        return both(*(complement(part) for part in language.parts))
    if isinstance(language, And):
        return either(*(complement(part) for part in language.parts))
    return Not(language)


def both(*languages: Language) -> Language:
    """Strings that are in all of `languages`."""
    parts: set[Language] = set()
    for language in languages:
        parts.update(language.parts if isinstance(language, And) else (language,))
    parts.discard(ALL)
    finite = [part for part in parts if isinstance(part, Words)]
    if finite:
        candidates = frozenset.intersection(*(part.words for part in finite))
        others = parts.difference(finite)
        if not others:
            return Words(candidates)
        return words(word for word in candidates if all(part.contains(word) for part in others))
    parts = _merge_lengths(_merge_absent(parts))
    if not parts:
        return ALL
    if NOTHING in parts or any(isinstance(part, Not) and part.inner in parts for part in parts):
        return NOTHING
    return parts.pop() if len(parts) == 1 else And(frozenset(parts))


def either(*languages: Language) -> Language:
    """Strings that are in any of `languages`."""
    parts: set[Language] = set()
    for language in languages:
        parts.update(language.parts if isinstance(language, Or) else (language,))
    finite = [part for part in parts if isinstance(part, Words)]
    parts.difference_update(finite)
    if finite:
        listed = frozenset[str]().union(*(part.words for part in finite))
        for part in parts:
            if isinstance(part, Length):
                listed = frozenset(word for word in listed if not part.contains(word))
        if listed:
            parts.add(Words(listed))
    if not parts:
        return NOTHING
    if ALL in parts or any(isinstance(part, Not) and part.inner in parts for part in parts):
        return ALL
    return parts.pop() if len(parts) == 1 else Or(frozenset(parts))


def _merge_lengths(parts: set[Language]) -> set[Language]:
    bounds = [part for part in parts if isinstance(part, Length)]
    if len(bounds) < 2:
        return parts
    caps = [part.most for part in bounds if part.most is not None]
    merged = length(max(part.least for part in bounds), min(caps, default=None))
    return {*parts.difference(bounds), merged}


def _merge_absent(parts: set[Language]) -> set[Language]:
    """Complements of several word lists as one."""
    absent = [part for part in parts if isinstance(part, Not) and isinstance(part.inner, Words)]
    if len(absent) < 2:
        return parts
    listed = frozenset[str]().union(
        *(part.inner.words for part in absent if isinstance(part.inner, Words))
    )
    return {*parts.difference(absent), Not(Words(listed))}
