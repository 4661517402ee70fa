"""Least lengths against repeated evaluation of every rule."""

from hypothesis import given, settings
from hypothesis import strategies as st

from branchwork.runtime.grammar import ir
from branchwork.runtime.grammar.lengths import Lengths
from branchwork.runtime.grammar.machine.program import COST_LIMIT

NAMES = tuple("abcde")

leaves: st.SearchStrategy[ir.Node] = st.one_of(
    st.sampled_from([ir.Literal(b"x"), ir.Literal(b"xyz"), ir.EMPTY, ir.NEVER]),
    st.sampled_from([ir.Reference(name) for name in NAMES]),
)
nodes: st.SearchStrategy[ir.Node] = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: ir.Concat(tuple(parts))),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: ir.Alternation(tuple(parts))),
        st.builds(ir.Repeat, inner, st.integers(0, 2), st.none(), st.one_of(st.none(), inner)),
        st.builds(
            lambda value, required: ir.Object(
                (ir.Property(b'"k"', value, required), ir.Property(b'"l"', value)), (), ir.FIXED
            ),
            inner,
            st.booleans(),
        ),
        st.builds(
            lambda item, low: ir.Array((item,), item, ir.FIXED, low), inner, st.integers(0, 3)
        ),
    ),
    max_leaves=6,
)


def naive(node: ir.Node, known: dict[str, int]) -> int:
    """The least length of a node where that of each rule is known."""
    match node:
        case ir.Literal(data):
            found = len(data)
        case ir.Reference(name):
            found = known[name]
        case ir.Concat(parts):
            found = sum(naive(part, known) for part in parts)
        case ir.Alternation(options):
            found = min((naive(option, known) for option in options), default=COST_LIMIT)
        case ir.Repeat(body, low, _, separator):
            between = 0 if separator is None else naive(separator, known)
            found = low * naive(body, known) + max(low - 1, 0) * between if low else 0
        case ir.Object(properties):
            required = [len(p.key) + 2 + naive(p.value, known) for p in properties if p.required]
            found = 2 + sum(required) + 2 * max(len(required) - 1, 0)
        case ir.Array(_, rest, _, low) if rest is not None:
            found = 2 + low * naive(rest, known) + 2 * max(low - 1, 0) if low else 2
        case _:
            raise AssertionError(node)
    return min(found, COST_LIMIT)


@settings(max_examples=300)
@given(st.fixed_dictionaries(dict.fromkeys(NAMES, nodes)))
def test_the_length_of_every_rule_is_the_least_there_is(rules: dict[str, ir.Node]) -> None:
    known = dict.fromkeys(NAMES, COST_LIMIT)
    while (better := {name: naive(rules[name], known) for name in NAMES}) != known:
        known = better
    lengths = Lengths(ir.Rules(ir.Reference("a"), rules))
    assert {name: lengths(ir.Reference(name)) for name in NAMES} == known
    assert {name: lengths(rules[name]) for name in NAMES} == known
