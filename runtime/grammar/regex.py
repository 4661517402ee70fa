"""Regular expressions to automata and to the intermediate representation.

Two dialects: Python's (a constraint, matched whole) and ECMA-262's (`pattern` in JSON Schema, found anywhere).
CPython's own parser reads both, after `dialect.translate` has put what it does not know into its terms and refused
what is not regular. What is small becomes one automaton; large bounded repetitions become counters.

Assertions (anchors, word boundaries, lookaround) are compiled by *marking*: each is first read as a marker byte
that occurs in no UTF-8 text; strings in which some marker stands in a wrong place are then subtracted, and the
markers erased. This works anywhere in a pattern, also in repetitions.
"""

import functools
import importlib
import re
from collections.abc import Sequence
from typing import Any

from branchwork.runtime.grammar import charset, dfa, ir
from branchwork.runtime.grammar.charset import Ranges
from branchwork.runtime.grammar.dfa import Dfa, Nfa, TooManyStates
from branchwork.runtime.grammar.dialect import Dialect, Translated, translate
from branchwork.runtime.wire.errors import ConstraintError

# CPython's own reader, which has no types.
sre = importlib.import_module("re._constants")
sre_parser = importlib.import_module("re._parser")

Items = Sequence[tuple[Any, Any]]

# A repetition beyond 16 is counted in a register: below it, unrolled states are fewer than they are worth.
MAX_UNROLLED = 16
# States of one piece: compiles within some 20 ms.
MAX_PIECE_STATES = 1500
# A repetition of a large body is counted too: more than 256 characters unrolled, and at least 4 times.
MAX_UNROLLED_CHARS = 256
MIN_COUNTED = 4
MAX_RANGES = 8
# An alternation of 32 words or more goes straight into a trie.
MIN_WORDS = 32
MAX_WORDS = 100_000
# Bytes that are in no UTF-8 text stand for assertions.
MARKERS = (*range(0xF5, 0x100), 0xC0, 0xC1)

_GROUP = re.compile(r"\((?:\?:)?(.*)\)", re.DOTALL)
_WORD = re.compile(r"(?:[^\\.^$*+?{}\[\]()|\ud800-\udfff]|\\[^0-9A-Za-z])*")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)

_REPEATS = (sre.MAX_REPEAT, sre.MIN_REPEAT)


def compile_regex(pattern: str) -> ir.Node:
    """The texts that match `pattern` as a whole, in Python's dialect.

    Raises ConstraintError (param: the position) for what cannot be parsed, is not regular or is too large.
    """
    words = _plain_words(pattern)
    if len(words) >= MIN_WORDS:
        return ir.any_of(word.encode() for word in words)
    reader = _Reader(pattern, "python")
    items = reader.items
    if reader.has_assertions(items):
        return ir.Piece(_fuelled(lambda: reader.marked(items, search=False), pattern))
    return reader.node(items)


@functools.lru_cache(maxsize=512)
def pattern_dfa(
    pattern: str, dialect: Dialect = "ecma", search: bool = True, max_states: int = dfa.MAX_STATES
) -> Dfa:
    """The texts (UTF-8) in which `pattern` is found, or that match it as a whole (`search` False).

    Raises ConstraintError for what cannot be parsed, is not regular or needs more than `max_states` states.
    """
    reader = _Reader(pattern, dialect)
    found = _fuelled(lambda: reader.language(reader.items, search), pattern)
    if found.num_states > max_states:
        raise TooManyStates(f"the pattern {pattern[:60]!r} needs more than {max_states} states")
    return found


def stop_dfa(pattern: str) -> Dfa:
    """The texts that match `pattern` as a whole, for a search that only looks at what was read so far.

    Raises ConstraintError also for assertions: what stands around a match is not known while the text grows.
    """
    reader = _Reader(pattern, "python")
    if reader.has_assertions(reader.items):
        raise ConstraintError(f"the stop pattern {pattern[:60]!r} has an anchor or lookaround")
    return _fuelled(lambda: reader.plain(reader.items, reader.flags), pattern)


def _fuelled(build: "Any", pattern: str) -> Dfa:
    try:
        return build()  # type: ignore[no-any-return]
    except TooManyStates:
        raise TooManyStates(
            f"the pattern {pattern[:60]!r} needs an automaton of more than {dfa.MAX_STATES} states"
        ) from None


class _Reader:
    """One parsed pattern, and how its parts become automata."""

    def __init__(self, pattern: str, dialect: Dialect) -> None:
        self.dialect = dialect
        self.translated: Translated = translate(pattern, dialect)
        parsed = _parse(pattern, self.translated)
        self.flags = int(parsed.state.flags)
        self.items: Items = list(parsed)

    # -------------------------------------------------------------- assertions

    def has_assertions(self, items: Items) -> bool:
        """Whether an anchor, boundary or lookaround occurs."""
        return any(
            op in (sre.AT, sre.ASSERT, sre.ASSERT_NOT)
            or any(self.has_assertions(part) for part in _parts(op, value))
            for op, value in items
        )

    def language(self, items: Items, search: bool) -> Dfa:
        """What `items` match as a whole, or are found in."""
        if not search:
            if self.has_assertions(items):
                return self.marked(items, search=False)
            return self.plain(items, self.flags)
        if len(items) == 1 and items[0][0] is sre.BRANCH and self.has_assertions(items):
            return dfa.union(*(self.language(list(o), True) for o in items[0][1][1]))
        if len(items) == 1 and items[0][0] is sre.SUBPATTERN and not any(items[0][1][1:3]):
            return self.language(list(items[0][1][3]), True)
        open_left, open_right, inner = self._strip_anchors(items)
        if self.has_assertions(inner):
            return self.marked(items, search=True)
        nfa = Nfa()
        start = nfa.state()
        at = nfa.embed(dfa.any_text(), start) if open_left else start
        end = self._add(nfa, inner, at, self.flags, {})
        return nfa.determinise(start, [nfa.absorb(end) if open_right else end])

    def _strip_anchors(self, items: Items) -> tuple[bool, bool, Items]:
        """Whether each side is open, and the items without the anchors that close it."""
        if self.flags & re.MULTILINE:
            return True, True, items
        ends = (sre.AT_END_STRING,) if self.dialect == "python" else (sre.AT_END,)
        begins = (sre.AT_BEGINNING, sre.AT_BEGINNING_STRING)
        open_left = not (items and items[0][0] is sre.AT and items[0][1] in begins)
        items = items if open_left else items[1:]
        open_right = not (items and items[-1][0] is sre.AT and items[-1][1] in ends)
        return open_left, open_right, items if open_right else items[:-1]

    def marked(self, items: Items, search: bool) -> Dfa:
        """The language with its assertions, by marking (see the module's docstring)."""
        markers: dict[int, list[tuple[Dfa, Dfa]]] = {}
        nfa = Nfa()
        start = nfa.state()
        left = nfa.embed(dfa.any_text(), start) if search else start
        end = self._add(nfa, items, left, self.flags, markers)
        if search:
            end = nfa.embed(dfa.any_text(), end)
        language = nfa.determinise(start, [end])
        for marker, wrong in markers.items():
            for before, after in wrong:
                bad = dfa.concat(
                    _with_markers(before), dfa.literal(bytes((marker,))), _with_markers(after)
                )
                language = language - bad
        return language.spell(dict.fromkeys(markers, (b"",)))

    def _marker(
        self, op: Any, value: Any, flags: int, markers: dict[int, list[tuple[Dfa, Dfa]]]
    ) -> int:
        wrong = self._wrong_places(op, value, flags)
        for marker, known in markers.items():
            if known == wrong:
                return marker
        if len(markers) == len(MARKERS):
            raise ConstraintError(f"more than {len(MARKERS)} different assertions in one pattern")
        marker = MARKERS[len(markers)]
        markers[marker] = wrong
        return int(marker)

    def _wrong_places(self, op: Any, value: Any, flags: int) -> list[tuple[Dfa, Dfa]]:
        """Pairs of what stands before and after an assertion where it fails."""
        text = dfa.any_text()
        if op is sre.AT:
            return self._wrong_anchor(value, flags)
        direction, items = value
        if direction > 0:
            inner: Items = [*items, (sre.MAX_REPEAT, (0, sre.MAXREPEAT, [(sre.IN, _ANY_ITEM)]))]
            holds = self.language(inner, search=False)
            return [(text, holds if op is sre.ASSERT_NOT else text - holds)]
        if self.has_assertions(items):
            raise ConstraintError("assertions inside of a lookbehind cannot be compiled")
        holds = dfa.concat(text, self.plain(list(items), flags))
        return [(holds if op is sre.ASSERT_NOT else text - holds, text)]

    def _wrong_anchor(self, anchor: Any, flags: int) -> list[tuple[Dfa, Dfa]]:
        text, empty = dfa.any_text(), dfa.literal(b"")
        if anchor in (sre.AT_BEGINNING, sre.AT_BEGINNING_STRING):
            fine = empty
            if anchor is sre.AT_BEGINNING and flags & re.MULTILINE:
                fine = empty | (text + dfa.literal(b"\n"))
            return [(text - fine, text)]
        if anchor in (sre.AT_END, sre.AT_END_STRING):
            fine = empty
            if anchor is sre.AT_END and flags & re.MULTILINE:
                fine = empty | (dfa.literal(b"\n") + text)
            elif anchor is sre.AT_END and self.dialect == "python":
                fine = empty | dfa.literal(b"\n")
            return [(text, text - fine)]
        word = dfa.chars(*self._category(sre.CATEGORY_WORD, flags))
        ends_in_word, begins_with_word = text + word, word + text
        no_end, no_begin = text - ends_in_word, text - begins_with_word
        if anchor is sre.AT_BOUNDARY:
            return [(ends_in_word, begins_with_word), (no_end, no_begin)]
        return [(ends_in_word, no_begin), (no_end, begins_with_word)]

    # -------------------------------------------------------------- automata

    def plain(self, items: Items, flags: int) -> Dfa:
        """What `items`, without assertions, match as a whole."""
        nfa = Nfa()
        start = nfa.state()
        return nfa.determinise(start, [self._add(nfa, items, start, flags, {})])

    def _add(self, nfa: Nfa, items: Items, at: int, flags: int, markers: dict[int, Any]) -> int:
        """Extend the automaton over `items` from state `at`; the state after them."""
        for op, value in items:
            if op in (sre.AT, sre.ASSERT, sre.ASSERT_NOT):
                following = nfa.state()
                marker = self._marker(op, value, flags, markers)
                nfa.edge(at, marker, marker, following)
                at = following
            elif op is sre.SUBPATTERN:
                _, added, removed, inner = value
                at = self._add(nfa, inner, at, flags & ~removed | added, markers)
            elif op is sre.BRANCH:
                end = nfa.state()
                for option in value[1]:
                    begin = nfa.state()
                    nfa.skip(at, begin)
                    nfa.skip(self._add(nfa, option, begin, flags, markers), end)
                at = end
            elif op in _REPEATS:
                at = self._add_repeat(nfa, value, at, flags, markers)
            else:
                at = _add_class(nfa, self._chars(op, value, flags), at)
        return at

    def _add_repeat(
        self, nfa: Nfa, value: Any, at: int, flags: int, markers: dict[int, Any]
    ) -> int:
        low, high, inner = value
        end = nfa.state()
        if high is sre.MAXREPEAT:
            # The last that must come is also what comes again.
            for _ in range(low - 1):
                at = self._add(nfa, inner, at, flags, markers)
            loop = nfa.state()
            nfa.skip(at, loop)
            behind = self._add(nfa, inner, loop, flags, markers)
            nfa.skip(behind, loop)
            nfa.skip(behind if low else loop, end)
            return end
        for count in range(high):
            if count >= low:
                nfa.skip(at, end)
            at = self._add(nfa, inner, at, flags, markers)
        nfa.skip(at, end)
        return end

    def _chars(self, op: Any, value: Any, flags: int) -> Ranges:
        """The characters of one item."""
        if op is sre.ANY:
            if flags & re.DOTALL:
                return charset.EVERY
            line_end = charset.ECMA_LINE_END if self.dialect == "ecma" else charset.NEWLINE
            return charset.complement(line_end)
        if op is sre.LITERAL:
            return self._in([(op, value)], flags)
        if op is sre.NOT_LITERAL:
            return charset.complement(self._in([(sre.LITERAL, value)], flags))
        if op is sre.IN:
            if value and value[0][0] is sre.NEGATE:
                return charset.complement(self._in(value[1:], flags))
            return self._in(value, flags)
        raise ConstraintError(f"{str(op).lower()} in a pattern is not regular")

    def _in(self, members: Items, flags: int) -> Ranges:
        ranges: list[tuple[int, int]] = []
        for op, value in members:
            if op is sre.LITERAL and value in self.translated.properties:
                ranges += self.translated.properties[value]
            elif op is sre.LITERAL:
                ranges.append((value, value))
            elif op is sre.RANGE:
                ranges.append(value)
            else:
                ranges += self._category(value, flags)
        found = charset.normal(ranges)
        if flags & re.IGNORECASE:
            return charset.ignore_case(found, bool(flags & re.ASCII))
        return found

    def _category(self, name: Any, flags: int) -> Ranges:
        escape = {
            sre.CATEGORY_DIGIT: "d",
            sre.CATEGORY_SPACE: "s",
            sre.CATEGORY_WORD: "w",
            sre.CATEGORY_NOT_DIGIT: "D",
            sre.CATEGORY_NOT_SPACE: "S",
            sre.CATEGORY_NOT_WORD: "W",
        }[name]
        if self.dialect == "python" and not flags & re.ASCII:
            return charset.category(f"\\{escape}")
        space = charset.ECMA_SPACE if self.dialect == "ecma" else charset.ASCII_SPACE
        ranges = {"d": charset.ASCII_DIGIT, "s": space, "w": charset.ASCII_WORD}[escape.lower()]
        return charset.complement(ranges) if escape.isupper() else ranges

    # -------------------------------------------------------------- nodes

    def node(self, items: Items, flags: int | None = None) -> ir.Node:
        """The items as a node: pieces where they are small, counters where they are not."""
        flags = self.flags if flags is None else flags
        words = _words(items) if not flags & re.IGNORECASE else None
        if words is not None and len(words) >= MIN_WORDS:
            return ir.any_of(word.encode() for word in words)
        if not _has_large_repeat(items):
            try:
                return self._piece(items, flags)
            except TooManyStates:
                pass
        if len(items) == 1:
            return self._split(*items[0], flags)
        parts: list[ir.Node] = []
        small: list[tuple[Any, Any]] = []
        for item in items:
            # Neighbours that are small stay one piece, unless together they were already too large.
            if _has_large_repeat([item]) or not _has_large_repeat(items):
                if small:
                    parts.append(self.node(small, flags))
                    small = []
                parts.append(self.node([item], flags))
            else:
                small.append(item)
        if small:
            parts.append(self.node(small, flags))
        return ir.Concat(tuple(parts))

    def _piece(self, items: Items, flags: int) -> ir.Piece:
        nfa = Nfa()
        start = nfa.state()
        end = self._add(nfa, items, start, flags, {})
        return ir.Piece(nfa.determinise(start, [end], MAX_PIECE_STATES))

    def _split(self, op: Any, value: Any, flags: int) -> ir.Node:
        if op is sre.SUBPATTERN:
            _, added, removed, inner = value
            return self.node(list(inner), flags & ~removed | added)
        if op is sre.BRANCH:
            return ir.Alternation(tuple(self.node(list(o), flags) for o in value[1]))
        if op in _REPEATS:
            low, high, inner = value
            body = self.node(list(inner), flags)
            bound = None if high is sre.MAXREPEAT else int(high)
            if isinstance(body, ir.Piece) and _is_prefix_free(body.dfa):
                return ir.Chars(body.dfa, low, bound)
            return ir.Repeat(body, low, bound)
        return ir.Piece(self.plain([(op, value)], flags))


_ANY_ITEM = [(sre.NEGATE, None), (sre.RANGE, (charset.MAX_CHAR + 1, charset.MAX_CHAR + 1))]


def _add_class(nfa: Nfa, ranges: Ranges, at: int) -> int:
    """Extend the automaton over one character; large classes come as their minimal automaton."""
    if len(ranges) > MAX_RANGES:
        return nfa.embed(dfa.chars(*ranges), at)
    end = nfa.state()
    dfa.add_chars(nfa, ranges, at, end)
    return end


def _with_markers(language: Dfa) -> Dfa:
    """The strings with markers anywhere between their bytes."""
    noise = dfa.star(dfa.of_ranges(*((marker, marker) for marker in MARKERS)))
    nfa = Nfa()
    states = [nfa.state() for _ in range(language.num_states)]
    for state in range(1, language.num_states):
        for byte in range(256):
            target = int(language.table[state, language.classes[byte]])
            if target != dfa.DEAD:
                nfa.edge(states[state], byte, byte, states[target])
        for marker in MARKERS:
            nfa.edge(states[state], marker, marker, states[state])
    ends = [states[s] for s in range(language.num_states) if language.accepting[s]]
    if language.is_empty:
        return language
    found = nfa.determinise(states[language.start], ends)
    return found if not found.is_empty else noise


def _parse(pattern: str, translated: Translated) -> Any:
    try:
        return sre_parser.parse(translated.text)
    except re.error as error:
        position = translated.position(error.pos or 0)
        raise ConstraintError(
            f"the pattern cannot be read: {error.msg} at position {position}", str(position)
        ) from None
    except RecursionError:
        raise ConstraintError("the pattern is nested too deeply") from None
    except OverflowError:
        raise ConstraintError("a repetition count in the pattern is too large") from None


def _parts(op: Any, value: Any) -> list[Items]:
    """The sequences inside of an item."""
    if op is sre.SUBPATTERN:
        return [value[3]]
    if op is sre.BRANCH:
        return list(value[1])
    if op in _REPEATS:
        return [value[2]]
    if op in (sre.ASSERT, sre.ASSERT_NOT):
        return [value[1]]
    return []


def _has_large_repeat(items: Items) -> bool:
    for op, value in items:
        if op in _REPEATS:
            bound = value[0] if value[1] is sre.MAXREPEAT else value[1]
            if bound > MAX_UNROLLED:
                return True
            if bound >= MIN_COUNTED and bound * _num_chars(value[2]) > MAX_UNROLLED_CHARS:
                return True
        if any(_has_large_repeat(part) for part in _parts(op, value)):
            return True
    return False


def _num_chars(items: Items) -> int:
    """About how many characters long the items are, alternatives added up."""
    total = 0
    for op, value in items:
        inner = sum(map(_num_chars, _parts(op, value)))
        if op in _REPEATS:
            inner *= max(value[0] if value[1] is sre.MAXREPEAT else value[1], 1)
        total += inner if _parts(op, value) else 1
    return total


def _plain_words(pattern: str) -> list[str]:
    """The options of a pattern that is nothing but words with bars between them, perhaps in a group; [] for another.

    Such patterns are long, and reading them item by item is what would take most of their time.
    """
    whole = _GROUP.fullmatch(pattern)
    body = whole[1] if whole else pattern
    found: list[str] = []
    at = -1
    while at < len(body):
        word = _WORD.match(body, at + 1)
        assert word is not None  # it may be empty
        found.append(_ESCAPED.sub(r"\1", word[0]))
        at = word.end()
        if at < len(body) and body[at] != "|":
            return []
    return found


def _words(items: Items) -> list[str] | None:
    """The members of a plain list of words; None for anything else, or too many."""
    found = [""]
    for op, value in items:
        ends: list[str] | None = None
        if op is sre.LITERAL:
            ends = [chr(value)]
        elif op is sre.SUBPATTERN and not any(value[1:3]):
            ends = _words(value[3])
        elif op is sre.BRANCH:
            options = [_words(option) for option in value[1]]
            if None not in options:
                ends = [word for option in options for word in option or ()]
        elif op is sre.IN and all(kind is sre.LITERAL for kind, _ in value):
            ends = [chr(code) for _, code in value]
        if ends is None or len(found) * len(ends) > MAX_WORDS:
            return None
        found = [word + end for word in found for end in ends]
    return found


def _is_prefix_free(language: Dfa) -> bool:
    """Whether no member continues another, and b"" is none."""
    ends = language.table[language.accepting]
    return not language.is_empty and not language.has_empty_string and not ends.any()
