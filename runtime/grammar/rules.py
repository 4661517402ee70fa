"""What every grammar of rules needs before it is lowered, whatever it was written in.

Direct left recursion is rewritten as repetition (a ::= a x | y  is  a ::= y x*); indirect left recursion is refused by
name. Rules that are regular are made into automata.
"""

import re
from typing import Literal

from branchwork.runtime.grammar import dfa, ir
from branchwork.runtime.grammar.dfa import Dfa, TooManyStates
from branchwork.runtime.wire.errors import ConstraintError

# A regular rule becomes one automaton up to so many states.
MAX_RULE_STATES = 500
MAX_UNROLLED = 16


_GBNF = re.compile(r"^[ \t]*[A-Za-z_][\w.-]*\s*::=", re.MULTILINE)
_LARK = re.compile(
    r"^[ \t]*[?!]*[A-Za-z_]\w*(?:\{[^}\n]*\})?(?:\.-?\d+)?[ \t]*:(?!:)", re.MULTILINE
)


def dialect_of(text: str) -> Literal["gbnf", "lark"]:
    """In which of two dialects a grammar is written, by how a rule begins."""
    is_lark = _GBNF.search(text) is None and _LARK.search(text) is not None
    return "lark" if is_lark else "gbnf"


def without_left_recursion(name: str, node: ir.Node) -> ir.Node:
    """a ::= a x | y  as  a ::= y x*."""
    options = node.options if isinstance(node, ir.Alternation) else (node,)
    tails: list[ir.Node] = []
    others: list[ir.Node] = []
    for option in options:
        parts = option.parts if isinstance(option, ir.Concat) else (option,)
        if parts and parts[0] == ir.Reference(name):
            tails.append(ir.Concat(parts[1:]))
        else:
            others.append(option)
    if not tails:
        return node
    if not others or any(tail == ir.Concat(()) for tail in tails):
        raise ConstraintError(f"rule {name!r} is left-recursive and has no other beginning", name)
    return ir.Concat((ir.Alternation(tuple(others)), ir.Repeat(ir.Alternation(tuple(tails)))))


def join_regular(rules: dict[str, ir.Node]) -> dict[str, ir.Node]:
    """Rules that do not recur, as automata where these are small."""
    known: dict[str, Dfa | None] = {}
    joiner = _Joiner(rules, known)
    for name in rules:
        joiner.rule(name)
    return {name: joiner.node(node) for name, node in rules.items()}


class _Joiner:
    """Finds the automaton of a node, if it is regular and small; keeps what is between such nodes."""

    def __init__(self, rules: dict[str, ir.Node], known: dict[str, Dfa | None]) -> None:
        self._rules = rules
        self._known = known

    def rule(self, name: str) -> Dfa | None:
        """The automaton of a rule; None where it recurs or is too large."""
        if name not in self._rules:
            raise ConstraintError(f"there is no rule {name!r}", name)
        if name not in self._known:
            # A rule that is met again while it is being read recurs.
            self._known[name] = None
            self._known[name] = self.regular(self._rules[name])
        return self._known[name]

    def regular(self, node: ir.Node) -> Dfa | None:
        """The automaton of a node, or None."""
        try:
            found = self._regular(node)
        except TooManyStates:
            return None
        return found if found is None or found.num_states <= MAX_RULE_STATES else None

    def _regular(self, node: ir.Node) -> Dfa | None:
        match node:
            case ir.Literal(data):
                return dfa.literal(data)
            case ir.Piece(language):
                return language
            case ir.Reference(name):
                return self.rule(name)
            case ir.Concat(parts):
                found = [self.regular(part) for part in parts]
                return None if None in found else dfa.concat(*(f for f in found if f))
            case ir.Alternation(options):
                found = [self.regular(option) for option in options]
                return None if None in found else dfa.union(*(f for f in found if f))
            case ir.Repeat(body, low, high, _):
                inner = self.regular(body)
                if inner is None or max(low, high or 0) > MAX_UNROLLED:
                    return None
                return dfa.repeat(inner, low, high)
        return None

    def node(self, node: ir.Node) -> ir.Node:
        """The node with every regular part as a piece."""
        found = self.regular(node)
        if found is not None:
            return ir.Piece(found)
        match node:
            case ir.Concat(parts):
                return ir.Concat(tuple(map(self.node, parts)))
            case ir.Alternation(options):
                return ir.Alternation(tuple(map(self.node, options)))
            case ir.Repeat(body, low, high, separator):
                return ir.Repeat(self.node(body), low, high, separator)
        return node
