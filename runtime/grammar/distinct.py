"""How many distinct items an array can have."""

from branchwork.runtime.grammar import dfa, ir
from branchwork.runtime.grammar.dfa import Dfa
from branchwork.runtime.wire.errors import ConstraintError

# A kind of item with more strings than this is never used up.
MAX_USED_UP = 10_000


def unique_bounds(node: ir.Array) -> tuple[tuple[ir.Node, ...], int | None]:
    """How many unique items there can be: a finite kind of item is used up by as many as it has strings.

    Raises ConstraintError where kinds overlap in part, so that earlier items could use up a later kind.
    """
    kinds = [_regular(item) for item in node.prefix]
    later = [_regular(kind) for kind in (node.rest, node.counted) if kind is not None]
    sizes = {kind: _size(kind) for kind in (*kinds, *later) if kind is not None}
    order = [*kinds, *later]
    for index, kind in enumerate(order):
        if kind is None or sizes[kind] is None:
            continue
        before = {k for k in order[:index] if k is not None}
        if any(k != kind and not (k & kind).is_empty for k in before):
            raise ConstraintError("unique items of kinds that overlap in part cannot be enforced")
    for index, item in enumerate(kinds):
        most = None if item is None else sizes[item]
        if most is not None and kinds[:index].count(item) >= most:
            return node.prefix[:index], ir.lesser(node.high, index)
    if any(kind is None or sizes[kind] is None for kind in later):
        return node.prefix, node.high
    left = sum((sizes[kind] or 0) - kinds.count(kind) for kind in later if kind is not None)
    return node.prefix, ir.lesser(node.high, len(kinds) + left)


def _regular(node: ir.Node) -> Dfa | None:
    """The language of a node, where that is easy to see."""
    match node:
        case ir.Literal(data):
            return dfa.literal(data)
        case ir.Piece(language):
            return language
        case ir.Choice(strings):
            return dfa.of_strings(strings)
        case ir.Alternation(options) if options:
            parts = [part for part in map(_regular, options) if part is not None]
            return dfa.union(*parts) if len(parts) == len(options) else None
    return None


def _size(language: Dfa) -> int | None:
    """How many strings a language has; None for more than can be used up."""
    count = language.count()
    return count if count is not None and count <= MAX_USED_UP else None
