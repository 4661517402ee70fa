"""The machine against brute force: masks bit by bit, forced and closing bytes byte by byte."""

import re
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.grammar.vocabularies import EOS, allowed, json_pieces, letters

from branchwork.runtime.grammar import dfa, ir, regex
from branchwork.runtime.grammar.interface import Vocabulary
from branchwork.runtime.grammar.lower import lower
from branchwork.runtime.grammar.machine.program import Program
from branchwork.runtime.grammar.machine.stack import FUEL
from branchwork.runtime.grammar.machine.steps import FUEL_PER_CALL
from branchwork.runtime.grammar.masks import lexicon_of
from branchwork.runtime.grammar.matcher import MachineGrammar

LETTERS, JSON = letters(), json_pieces()


def grammar(node: ir.Node, vocabulary: Vocabulary = LETTERS) -> MachineGrammar:
    program = Program.from_bytes(lower(ir.Rules(node)).to_bytes())
    return MachineGrammar(program, lexicon_of(vocabulary))


def brute_mask(language: dfa.Dfa, prefix: bytes, vocabulary: Vocabulary) -> set[int]:
    state = language.walk(prefix)
    tokens = {
        token
        for token, data in enumerate(vocabulary.token_bytes)
        if data and language.walk(data, state) != dfa.DEAD
    }
    return tokens | ({EOS} if language.accepting[state] else set())


def brute_forced(language: dfa.Dfa, prefix: bytes) -> bytes:
    state, run = language.walk(prefix), bytearray()
    while not language.accepting[state] and len(run) < 1000:
        live = [b for b in range(256) if language.table[state, language.classes[b]] != dfa.DEAD]
        if len(live) != 1:
            break
        run.append(live[0])
        state = language.walk(bytes(live), state)
    return bytes(run)


def agrees(language: dfa.Dfa, node: ir.Node, vocabulary: Vocabulary, rounds: int) -> None:
    """Walk the states of the whole language breadth first; in each, everything must be as the automaton says."""
    start = grammar(node, vocabulary).start()
    distance = language.distances()
    seen, queue = {language.start}, deque([(b"", start)])
    while queue and rounds:
        rounds -= 1
        prefix, matcher = queue.popleft()
        state = language.walk(prefix)
        expected = brute_mask(language, prefix, vocabulary)
        assert allowed(matcher, vocabulary) == expected, prefix
        assert matcher.can_end() == language.accepting[state]
        assert matcher.outlook().must_end == (expected == {EOS})
        assert matcher.forced() == brute_forced(language, prefix)
        assert len(matcher.closing()) == distance[state] <= matcher.outlook().closing_len
        assert language.accepts(prefix + matcher.closing())
        for token in sorted(expected - {EOS}, key=lambda t: (-len(vocabulary.token_bytes[t]), t)):
            data = vocabulary.token_bytes[token]
            if language.walk(data, state) not in seen:
                seen.add(language.walk(data, state))
                following = matcher.copy()
                assert following.accept(token)
                queue.append((prefix + data, following))


atoms = st.sampled_from(["a", "b", "c", "[ab]", "[^a]", ".", "é", "[^x]", "\\n"])
patterns = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}", "{0,4}"])).map(
            lambda two: f"({two[0]}){two[1]}"
        ),
    ),
    max_leaves=7,
)


@settings(deadline=None, max_examples=60)
@given(patterns)
def test_masks_of_one_automaton_equal_brute_force(pattern: str) -> None:
    whole = regex.pattern_dfa(pattern, "python", False)
    agrees(whole, ir.Piece(whole), LETTERS, rounds=12)


@settings(deadline=None, max_examples=120)
@given(patterns)
def test_masks_with_counters_on_a_stack_equal_brute_force(pattern: str) -> None:
    whole = regex.pattern_dfa(pattern, "python", False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regex, "MAX_UNROLLED", 0)
        patch.setattr(regex, "MAX_PIECE_STATES", 3)
        node = regex.compile_regex(pattern)
    agrees(whole, node, LETTERS, rounds=12)


@pytest.mark.parametrize(
    "pattern",
    [
        '"[^"\\\\\x00-\x1f]{0,30}"',
        '"[a-zé日]{2,20}", ([0-9]+|true)',
        "([a-c]{0,20},){0,20}",
        "((ab?c?){1,20}x){1,20}",
        "(a|b)*a(a|b){13}",
        "([ab]{1,3}c){0,18}a",
        "(.|\\n)*END",
        "(ab){17,}",
        "((a{17}b){17}c?)*",
    ],
)
def test_masks_of_large_repetitions_equal_brute_force(pattern: str) -> None:
    whole = regex.pattern_dfa(pattern, "python", False)
    agrees(whole, regex.compile_regex(pattern), JSON, rounds=25)


def test_bounded_pieces_count_their_states() -> None:
    char, two = dfa.chars((97, 98), (0xE9, 0xE9)), dfa.literal(b"a")
    body = dfa.concat(dfa.star(char), two)
    counted = tuple(bool(state and body.walk(b"a", state)) for state in range(body.num_states))
    bounded = ir.Concat((ir.Literal(b'"'), ir.Bounded(body, counted, 4), ir.Literal(b'"')))
    quote = dfa.literal(b'"')
    whole = dfa.concat(quote, body & dfa.repeat(char, 0, 4), quote)
    agrees(whole, bounded, JSON, rounds=30)


@settings(deadline=None, max_examples=60)
@given(
    st.frozensets(
        st.binary(min_size=1, max_size=4).map(lambda b: bytes(97 + x % 3 for x in b)), min_size=1
    )
)
def test_a_large_set_of_words_is_its_automaton_without_the_table(words: frozenset[bytes]) -> None:
    whole = dfa.of_strings(words)
    agrees(whole, ir.Choice(words), LETTERS, rounds=10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("branchwork.runtime.grammar.lower.MAX_TABLE_WORDS", 0)
        agrees(whole, ir.Piece(whole), LETTERS, rounds=5)


@pytest.mark.parametrize("form", ["{}", "({})", "(?:{})"])
def test_a_long_list_of_words_is_read_as_python_reads_it(form: str) -> None:
    words = [f"{'ab' * (n % 7)} {n}-(x).{'é' * (n % 3)}" for n in range(60)]
    pattern = form.format("|".join(map(re.escape, words)))
    start = grammar(regex.compile_regex(pattern)).start()
    for text in (*words, "ab 1", "59-(x)", words[3][:-1], words[4] + "é", "\\", ""):
        matcher = start.copy()
        reads = matcher.accept_bytes(text.encode()) and matcher.can_end()
        assert reads == bool(re.fullmatch(pattern, text)), text


def test_what_may_not_follow_changes_nothing() -> None:
    matcher = grammar(ir.Literal(b"abc")).start()
    assert matcher.accept_bytes(b"a")
    assert not matcher.accept_bytes(b"bx")
    assert not matcher.accept(ord("c"))
    assert not matcher.accept(EOS)
    assert not matcher.accept(257)
    assert matcher.accept_bytes(b"bc")
    assert matcher.outlook().must_end


def test_after_the_end_of_sequence_nothing_follows() -> None:
    matcher = grammar(ir.Piece(dfa.star(dfa.literal(b"a")))).start()
    assert matcher.accept(EOS)
    assert allowed(matcher, LETTERS) == {EOS}
    assert matcher.outlook().must_end
    assert not matcher.accept_bytes(b"a")


def test_copies_do_not_share_their_place() -> None:
    one = grammar(ir.Literal(b"abc")).start()
    other = one.copy()
    assert one.accept_bytes(b"ab")
    assert other.forced() == b"abc"
    assert one.forced() == b"c"


def test_a_mask_leaves_no_bit_beyond_the_tokens() -> None:
    matcher = grammar(ir.Piece(dfa.any_bytes())).start()
    bits = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
    assert not bits[len(LETTERS.token_bytes) :].any()
    assert not bits[257]


def test_recursion_goes_as_deep_as_the_text() -> None:
    value = ir.Alternation((ir.Reference("list"), ir.Literal(b"1")))
    rules = ir.Rules(
        ir.Reference("list"), {"list": ir.Array((), value, ir.FIXED), "unused": ir.NEVER}
    )
    matcher = MachineGrammar(lower(rules), lexicon_of(LETTERS)).start()
    assert matcher.accept_bytes(b"[" * 3000 + b"1")
    assert matcher.closing() == b"]" * 3000
    assert not matcher.accept_bytes(b"]" * 3001)
    assert matcher.accept_bytes(b"]" * 3000)
    assert matcher.outlook().must_end


@st.composite
def shared_parts(draw: st.DrawFn) -> tuple[ir.Node, dfa.Dfa]:
    """A node whose parts occur in several places each (they become subroutines), and its language."""
    pool: list[tuple[ir.Node, dfa.Dfa]] = [
        (ir.Literal(text), dfa.literal(text)) for text in (b"a", b"b", b"ab", b"c")
    ]
    for _ in range(draw(st.integers(2, 5))):
        parts = st.lists(st.sampled_from(pool), min_size=1, max_size=3)
        if draw(st.booleans()):
            body, language = pool[-1]
            low, high = draw(st.sampled_from([(0, 1), (0, 3), (1, 2), (2, None), (0, None)]))
            pool.append((ir.Repeat(body, low, high), dfa.repeat(language, low, high)))
            continue
        options = [draw(parts) for _ in range(draw(st.integers(2, 3)))]
        nodes = tuple(ir.Concat(tuple(node for node, _ in option)) for option in options)
        wholes = [dfa.concat(*(language for _, language in option)) for option in options]
        pool.append((ir.Alternation(nodes), dfa.union(*wholes)))
    return pool[-1]


@settings(deadline=None, max_examples=60)
@given(shared_parts())
def test_masks_where_several_call_one_rule_equal_brute_force(
    parts: tuple[ir.Node, dfa.Dfa],
) -> None:
    node, whole = parts
    agrees(whole, node, LETTERS, rounds=12)


def test_many_rules_called_at_one_place_cost_fuel_in_proportion() -> None:
    def spent(number: int) -> int:
        rules: dict[str, ir.Node] = {f"r{n}": ir.Literal(f"{n};".encode()) for n in range(number)}
        ends = (ir.Literal(b"a"), ir.Literal(b"b"))
        options = (ir.Concat((ir.Reference(name), end)) for name in rules for end in ends)
        program = lower(ir.Rules(ir.Alternation(tuple(options)), rules))
        matcher = MachineGrammar(program, lexicon_of(JSON)).start()
        words = lexicon_of(JSON).work.words
        fuel = int(words[FUEL])
        assert matcher.accept_bytes(f"{number - 1};".encode())
        assert allowed(matcher, JSON) >= {ord("a"), ord("b")}
        assert matcher._spot.state[0] == 2
        assert matcher.accept_bytes(b"b")
        assert matcher.outlook().must_end
        return FUEL_PER_CALL - fuel

    few, many = spent(500), spent(2000)
    assert few > 4 * 500  # each of two callers arrives, calls and is entered for
    assert many <= 4 * few + 10


def test_readings_that_go_on_alike_are_one_however_deep_they_are() -> None:
    # Each level has two readings until its last byte; read apart they would be 2 to the 40th.
    def level(inner: ir.Node) -> ir.Node:
        ends = (ir.Literal(b")"), ir.Literal(b"]"))
        return ir.Alternation(tuple(ir.Concat((ir.Literal(b"("), inner, end)) for end in ends))

    node: ir.Node = ir.Repeat(ir.Literal(b"a"), 0, None)
    for _ in range(40):
        node = level(node)
    matcher = grammar(node).start()
    for _ in range(40):
        assert matcher.accept(ord("("))
        assert len(matcher._spot.state) < 1_000
    assert len(matcher.closing()) == 40
    assert allowed(matcher, LETTERS) >= {ord("a"), ord(")"), ord("]")}
    assert matcher.accept_bytes(b")]" * 20)
    assert matcher.outlook().must_end
