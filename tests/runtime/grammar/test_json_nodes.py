"""Objects and arrays of the machine against a naive acceptor of the intermediate representation."""

import random
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.runtime.grammar.json_schema import naive
from tests.runtime.grammar.vocabularies import EOS, allowed, json_pieces

from branchwork.runtime.grammar import dfa, ir
from branchwork.runtime.grammar.lower import lower
from branchwork.runtime.grammar.masks import lexicon_of
from branchwork.runtime.grammar.matcher import MachineGrammar
from branchwork.runtime.wire.errors import ConstraintError

JSON = json_pieces()
DIGIT = ir.Piece(dfa.of_ranges((48, 50)))
NUMBER = ir.Piece(dfa.repeat(dfa.of_ranges((48, 50)), 1, None))
QUOTE = dfa.literal(b'"')
WORD = dfa.concat(QUOTE, dfa.star(dfa.of_ranges((97, 99))), QUOTE)
STRING = ir.Piece(WORD)

values: st.SearchStrategy[ir.Node] = st.sampled_from(
    [DIGIT, NUMBER, STRING, ir.Literal(b"true"), ir.NEVER]
)
keys = st.sampled_from([b'"a"', b'"b"', b'"ab"', b'"c"', b'"d"'])
bounds = st.sampled_from([(0, None), (0, 2), (1, None), (2, 3), (3, None)])


@st.composite
def objects(draw: st.DrawFn) -> ir.Object:
    names = draw(st.lists(keys, max_size=4, unique=True))
    properties = tuple(ir.Property(name, draw(values), draw(st.booleans())) for name in names)
    extras = (ir.Extra(WORD, draw(values)),) if draw(st.booleans()) else ()
    low, high = draw(bounds)
    return ir.Object(properties, extras, ir.FIXED, low, high, draw(st.booleans()))


@st.composite
def wide_objects(draw: st.DrawFn) -> ir.Object:
    """Objects in free order whose own properties stand behind so many others that one word cannot hold them."""
    node = draw(objects())
    before = draw(st.sampled_from([60, 61, 62, 124, 130]))
    others = tuple(ir.Property(b'"p%d"' % number, DIGIT) for number in range(before))
    return replace(node, properties=(*others, *node.properties), free_order=True)


@st.composite
def arrays(draw: st.DrawFn) -> ir.Array:
    prefix = tuple(draw(st.lists(values, max_size=2)))
    low, high = draw(bounds)
    rest = draw(st.one_of(st.none(), values))
    return ir.Array(prefix, rest, ir.FIXED, low, high, draw(st.booleans()))


def try_texts(node: ir.Node, seed: int) -> None:
    """Random walks by the mask end in sentences; every token of a mask is accepted, and no other."""
    rules = ir.Rules(node)
    try:
        grammar = MachineGrammar(lower(rules), lexicon_of(JSON))
    except ConstraintError:
        return
    pick = random.Random(seed)
    for _ in range(4):
        matcher, text = grammar.start(), b""
        for _ in range(12):
            tokens = allowed(matcher, JSON)
            assert tokens, text
            for token in pick.sample(range(len(JSON.token_bytes)), 40):
                assert matcher.copy().accept(token) == (token in tokens), (text, token)
            closing = matcher.closing()
            assert naive.accepts(rules, (text + closing).decode()), text
            assert len(closing) <= matcher.outlook().closing_len
            long = sorted(tokens - {EOS}, key=lambda t: -len(JSON.token_bytes[t]))
            if not long:
                break
            token = pick.choice(long[:8])
            assert matcher.accept(token)
            text += JSON.token_bytes[token]
        assert matcher.accept_bytes(matcher.closing())
        assert matcher.can_end()


@settings(deadline=None, max_examples=60)
@given(objects(), st.integers(0, 1000))
def test_walks_of_objects_end_in_what_the_naive_acceptor_takes(node: ir.Object, seed: int) -> None:
    try_texts(node, seed)


@settings(deadline=None, max_examples=30)
@given(wide_objects(), st.integers(0, 1000))
def test_walks_of_wide_objects_end_in_what_the_naive_acceptor_takes(
    node: ir.Object, seed: int
) -> None:
    try_texts(node, seed)


@settings(deadline=None, max_examples=60)
@given(arrays(), st.integers(0, 1000))
def test_walks_of_arrays_end_in_what_the_naive_acceptor_takes(node: ir.Array, seed: int) -> None:
    try_texts(node, seed)


members = st.lists(st.tuples(keys, st.sampled_from([b"0", b"12", b'"a"', b"true"])), max_size=4)


@settings(deadline=None, max_examples=150)
@given(objects(), members)
def test_objects_take_exactly_what_the_naive_acceptor_takes(
    node: ir.Object, pairs: list[tuple[bytes, bytes]]
) -> None:
    text = b"{" + b", ".join(key + b": " + value for key, value in pairs) + b"}"
    assert takes(node, text) == naive.accepts(ir.Rules(node), text.decode())


wide_members = st.lists(
    st.tuples(
        keys | st.sampled_from([b'"p0"', b'"p59"', b'"p61"', b'"p62"', b'"p129"']),
        st.sampled_from([b"0", b'"a"']),
    ),
    max_size=5,
)


@settings(deadline=None, max_examples=150)
@given(wide_objects(), wide_members)
def test_wide_objects_take_exactly_what_the_naive_acceptor_takes(
    node: ir.Object, pairs: list[tuple[bytes, bytes]]
) -> None:
    text = b"{" + b", ".join(key + b": " + value for key, value in pairs) + b"}"
    assert takes(node, text) == naive.accepts(ir.Rules(node), text.decode())


SWITCH = ir.Alternation((ir.Literal(b"true"), ir.Literal(b"false")))


def test_unique_items_of_few_values_end_before_they_are_used_up() -> None:
    # Four objects differ: both keys may be left out, and each has one value.
    one = ir.Literal(b"1")
    item = ir.Object((ir.Property(b'"a"', one), ir.Property(b'"b"', one)), (), ir.FIXED)
    every = b'[{}, {"a": 1}, {"b": 1}, {"a": 1, "b": 1}'
    matcher = MachineGrammar(
        lower(ir.Rules(ir.Array((), item, ir.FIXED, 4, unique=True))), lexicon_of(JSON)
    ).start()
    assert matcher.accept_bytes(every)
    assert allowed(matcher, JSON) == {ord("]")}
    with pytest.raises(ConstraintError, match="no sentence"):
        lower(ir.Rules(ir.Array((), item, ir.FIXED, 5, unique=True)))


@pytest.mark.parametrize(
    ("rest", "high"), [(SWITCH, 3), (ir.Reference("switch"), 3), (ir.Piece(WORD), None)]
)
def test_unique_pairs_end_when_no_pair_is_left(rest: ir.Node, high: int | None) -> None:
    pair = ir.Array((), rest, ir.FIXED, 1, 2)
    node = ir.Array((), ir.Alternation((pair, ir.Literal(b"0"))), ir.FIXED, 0, None, unique=True)
    rules = ir.Rules(node, {"switch": SWITCH})
    matcher = MachineGrammar(lower(rules), lexicon_of(JSON)).start()
    assert matcher.accept_bytes(b"[0")
    if high is None:
        assert ord(",") in allowed(matcher, JSON)
        return
    words = (b"true", b"false")
    pairs = [*((w,) for w in words), *((v, w) for v in words for w in words)]
    for pair_ in pairs:
        assert matcher.accept_bytes(b", [" + b", ".join(pair_) + b"]")
    assert allowed(matcher, JSON) == {ord("]")}


def test_unique_items_of_few_values_that_overlap_are_refused() -> None:
    one, two = (
        ir.Object((ir.Property(b'"a"', ir.Piece(dfa.of_ranges(ends))),), (), ir.FIXED)
        for ends in ((48, 50), (49, 51))
    )
    node = ir.Array((), ir.Alternation((one, two)), ir.FIXED, unique=True)
    with pytest.raises(ConstraintError, match="overlap"):
        lower(ir.Rules(node))
    lower(ir.Rules(replace(node, high=4)))  # no more than one of the two has: never used up


def test_an_item_that_ends_within_a_token_is_compared_as_it_is_written() -> None:
    # The closing quote, and what follows, are one token: a whole key stands before the item's end.
    item = ir.Object((ir.Property(b'"a"', STRING), ir.Property(b'"b"', STRING)), (), ir.FIXED)
    node = ir.Array((), item, ir.FIXED, unique=True)
    matcher = MachineGrammar(lower(ir.Rules(node)), lexicon_of(JSON)).start()
    assert matcher.accept_bytes(b'[{"a": "abc", "b": "ab"}, {"a": "abc", "b": "ab')
    mask = allowed(matcher, JSON)
    assert mask == {t for t in range(len(JSON.token_bytes)) if matcher.copy().accept(t)}
    assert JSON.token_bytes.index(b'"}') not in mask


def test_items_are_unique_in_whatever_order_their_members_come() -> None:
    properties = (ir.Property(b'"a"', NUMBER), ir.Property(b'"b"', NUMBER))
    item = ir.Object(properties, (ir.Extra(WORD, NUMBER),), ir.FIXED, free_order=True)
    node = ir.Array((), item, ir.FIXED, unique=True)
    for text, is_valid in [
        (b'[{"a": 1, "b": 2}, {"b": 2, "a": 1}]', False),
        (b'[{"a": 1, "b": 2}, {"b": 2, "a": 11}]', True),
        (b'[{"a": 1, "b": 2}, {"b": 1, "a": 2}]', True),
        (b'[{"c": 1, "ab": 2, "a": 0}, {"a": 0, "ab": 2, "c": 1}]', False),
        (b'[{"c": 1, "ab": 2}, {"ab": 2}]', True),
    ]:
        assert takes(node, text) == is_valid, text
    matcher = MachineGrammar(lower(ir.Rules(node)), lexicon_of(JSON)).start()
    assert matcher.accept_bytes(b'[{"a": 1, "b": 2}, {"b": 2, "a": 1')
    assert {ord("}"), JSON.token_bytes.index(b"}]")}.isdisjoint(allowed(matcher, JSON))
    assert matcher.accept_bytes(b"1")
    assert ord("}") in allowed(matcher, JSON)


@settings(deadline=None, max_examples=150)
@given(arrays(), st.lists(st.sampled_from([b"0", b"12", b"1", b'"a"', b'""', b"true"]), max_size=4))
def test_arrays_take_exactly_what_the_naive_acceptor_takes(
    node: ir.Array, items: list[bytes]
) -> None:
    text = b"[" + b", ".join(items) + b"]"
    assert takes(node, text) == naive.accepts(ir.Rules(node), text.decode())


def takes(node: ir.Node, text: bytes) -> bool:
    try:
        matcher = MachineGrammar(lower(ir.Rules(node)), lexicon_of(JSON)).start()
    except ConstraintError as refusal:
        # Unique items of kinds that overlap in part are refused by name.
        assume("overlap" not in str(refusal))
        return False
    return matcher.accept_bytes(text) and matcher.can_end()


def test_closing_is_found_behind_a_key_whose_value_is_never_allowed() -> None:
    # The estimate left out what follows the key, and the search for a way to close gave up.
    keys_and_values: list[tuple[bytes, ir.Node]] = [
        (b'"a"', DIGIT), (b'"b"', DIGIT), (b'"ab"', DIGIT), (b'"c"', ir.NEVER),
    ]  # fmt: skip
    properties = tuple(ir.Property(key, value, False) for key, value in keys_and_values)
    node = ir.Object(properties, (ir.Extra(WORD, DIGIT),), ir.FIXED, 1, None, free_order=True)
    matcher = MachineGrammar(lower(ir.Rules(node)), lexicon_of(JSON)).start()
    assert matcher.accept_bytes(b'{"c')
    assert matcher.closing() == b'a": 0}'


def test_counted_items_are_counted() -> None:
    node = ir.Array((), DIGIT, ir.FIXED, counted=STRING, counted_low=1, counted_high=2, high=3)
    for text, is_valid in [
        (b'["a"]', True),
        (b"[1]", False),
        (b'[1, "a", "b"]', True),
        (b'["a", "b", "c"]', False),
        (b'[1, 2, "a"]', True),
        (b"[1, 2, 0]", False),
    ]:
        assert takes(node, text) == is_valid, text


def test_a_key_that_was_there_is_masked_before_it_is_complete() -> None:
    node = ir.Object((), (ir.Extra(WORD, DIGIT),), ir.FIXED)
    matcher = MachineGrammar(lower(ir.Rules(node)), lexicon_of(JSON)).start()
    assert matcher.accept_bytes(b'{"a": 1, "a')
    assert ord('"') not in allowed(matcher, JSON)
    assert matcher.accept_bytes(b'b": 1, ')
    token = JSON.token_bytes.index(b'"a"')
    assert token not in allowed(matcher, JSON)
    assert not matcher.copy().accept(token)


def test_ten_thousand_properties_and_large_counts_are_cheap_to_hold() -> None:
    properties = tuple(ir.Property(b'"p%d"' % n, DIGIT) for n in range(10_000))
    many = ir.Object(properties, (), ir.FIXED)
    long = ir.Repeat(ir.Concat((DIGIT, ir.Literal(b","))), 0, 1000)
    program = lower(ir.Rules(ir.Concat((many, long))))
    assert program.code.nbytes < 2 << 20
    matcher = MachineGrammar(program, lexicon_of(JSON)).start()
    assert matcher.accept_bytes(b'{"p3": 1, "p9999": 2}' + b"0," * 1000)
    assert matcher.outlook().must_end


@pytest.mark.parametrize(
    "node",
    [
        ir.NEVER,
        ir.Object((ir.Property(b'"a"', ir.NEVER, required=True),), (), ir.FIXED),
        ir.Object((), (), ir.FIXED, low=1),
        ir.Array((), None, ir.FIXED, low=1),
        ir.Array(
            (), ir.Alternation((ir.Literal(b"1"), ir.Literal(b"2"))), ir.FIXED, 3, unique=True
        ),
    ],
)
def test_what_has_no_sentence_is_refused(node: ir.Node) -> None:
    with pytest.raises(ConstraintError, match="no sentence"):
        lower(ir.Rules(node))
