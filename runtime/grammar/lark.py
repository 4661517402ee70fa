"""Grammars in Lark's dialect, which vLLM's clients send (outlines, guidance), to the intermediate representation.

Lark's own library reads them: templates, imports of its `common` terminals, priorities, aliases. Terminals are regexes
of Python. There is no lexer here: a text is allowed if it can be cut into terminals in any way that the rules take, so
priorities mean nothing, and the longest match is not held where one terminal may go on as the next; a warning says so.
What is ignored (`%ignore`) may stand after every terminal, and before the first.
"""

from collections.abc import Sequence
from typing import Any

from lark import LarkError
from lark.grammar import Rule
from lark.lexer import TerminalDef
from lark.load_grammar import GrammarBuilder

from branchwork.runtime.grammar import ir
from branchwork.runtime.grammar.regex import compile_regex
from branchwork.runtime.grammar.rules import join_regular, without_left_recursion
from branchwork.runtime.wire.errors import ConstraintError

_LIBRARY = frozenset((("common",), ("lark",), ("python",), ("unicode",)))
"""Grammars that come with Lark."""

_IGNORED = "%ignore"
"""A rule of ours, by a name that no grammar can have."""

WARNING = (
    "the grammar is read without Lark's lexer: where one terminal may go on as the next, "
    "the longest match is not enforced"
)


def lark_rules(text: str, root: str = "start") -> ir.Rules:
    """The grammar that `text` writes, beginning at the rule `root`.

    Raises ConstraintError for what cannot be read, for terminals that are no regular sets, for indirect left
    recursion, and for imports of anything but Lark's own library.
    """
    try:
        builder = _Builder()
        builder.load_grammar(text)
        terminals, rules, ignored = builder.build().compile([root], "*")
    except (LarkError, AssertionError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ConstraintError(f"the grammar cannot be read: {first[:200]}") from None
    nodes = _terminals(terminals) | _rules(rules, bool(ignored))
    if root not in nodes:
        raise ConstraintError(f"the grammar has no rule {root!r}", root)
    begin: ir.Node = ir.Reference(root)
    if ignored:
        nodes[_IGNORED] = ir.Repeat(ir.Alternation(tuple(ir.Reference(name) for name in ignored)))
        begin = ir.Concat((ir.Reference(_IGNORED), begin))
    nodes = {name: without_left_recursion(name, node) for name, node in nodes.items()}
    return ir.Rules(begin, join_regular(nodes), (WARNING,))


class _Builder(GrammarBuilder):
    """Lark's reader, which reads no file but those of its library."""

    def do_import(self, dotted_path: tuple[str, ...], base_path: Any, *rest: Any) -> None:
        if tuple(dotted_path) not in _LIBRARY:
            raise ConstraintError(f"%import {'.'.join(dotted_path)} is not of Lark's own library")
        super().do_import(dotted_path, None, *rest)


def _terminals(terminals: Sequence[TerminalDef]) -> dict[str, ir.Node]:
    found: dict[str, ir.Node] = {}
    for terminal in terminals:
        try:
            found[terminal.name] = compile_regex(terminal.pattern.to_regexp())
        except ConstraintError as error:
            raise ConstraintError(f"terminal {terminal.name}: {error}", terminal.name) from None
    return found


def _rules(rules: Sequence[Rule], ignores: bool) -> dict[str, ir.Node]:
    """Each rule with all that it expands to; what is ignored follows each terminal."""
    options: dict[str, list[ir.Node]] = {}
    for rule in rules:
        parts: list[ir.Node] = []
        for symbol in rule.expansion:
            parts.append(ir.Reference(symbol.name))
            if symbol.is_term and ignores:
                parts.append(ir.Reference(_IGNORED))
        options.setdefault(rule.origin.name, []).append(ir.Concat(tuple(parts)))
    return {name: ir.Alternation(tuple(found)) for name, found in options.items()}
