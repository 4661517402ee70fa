"""How many distinct items an array can have."""

from collections.abc import Mapping
from math import prod

from branchwork.runtime.grammar import dfa, ir
from branchwork.runtime.grammar.dfa import Dfa
from branchwork.runtime.wire.errors import ConstraintError

# A kind of item with more values than this is never used up.
MAX_USED_UP = 10_000
MANY = MAX_USED_UP + 1


def unique_bounds(node: ir.Array, values: "Values") -> tuple[tuple[ir.Node, ...], int | None]:
    """How many unique items there can be: a finite kind of item is used up by as many as it has values.

    Raises ConstraintError where earlier items could use up a later kind in a way that is not counted: kinds that
    overlap in part, and few values of which it is not known how many differ.
    """
    kinds = [kind for kind in (node.rest, node.counted) if kind is not None]
    items = [*node.prefix, *kinds]
    languages = [_regular(item) for item in items]
    counts = [values.of(item) for item in items]
    for index, (language, (least, most)) in enumerate(zip(languages, counts, strict=True)):
        if most in (0, MANY):
            continue
        if language is not None:
            before = {k for k in languages[:index] if k is not None and k != language}
            if any(not (k & language).is_empty for k in before):
                message = "unique items of kinds that overlap in part cannot be enforced"
                raise ConstraintError(message)
        elif node.prefix:
            raise ConstraintError("unique items of few values after others cannot be enforced")
        elif least < most and (node.high is None or node.high > least):
            raise ConstraintError("unique items of few values that overlap cannot be enforced")
    size = len(node.prefix)
    for index, language in enumerate(languages[:size]):
        if language is not None and languages[:index].count(language) >= counts[index][1]:
            return node.prefix[:index], ir.lesser(node.high, index)
    left = 0
    for item, language, (_, most) in zip(kinds, languages[size:], counts[size:], strict=True):
        if language is not None and most < MANY:
            most -= languages[:size].count(language)
        if item is node.counted:
            if most < node.counted_low:
                return node.prefix, -1  # there is no such array
            most = most if node.counted_high is None else min(most, node.counted_high)
        left += most
    return node.prefix, node.high if left >= MANY else ir.lesser(node.high, size + left)


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


class Values:
    """Counts the JSON values of nodes, at least and at most. MANY stands for more than can be used up."""

    def __init__(self, rules: Mapping[str, ir.Node]) -> None:
        self._rules = rules
        # By identity, so nodes are kept.
        self._known: dict[int, tuple[ir.Node, tuple[int, int]]] = {}

    def of(self, node: ir.Node) -> tuple[int, int]:
        """How many values a node has."""
        known = self._known.get(id(node))
        if known is not None:
            return known[1]
        # What is within itself has values without end.
        self._known[id(node)] = node, (MANY, MANY)
        least, most = self._counted(node)
        found = min(least, MANY), min(most, MANY)
        self._known[id(node)] = node, found
        return found

    def _counted(self, node: ir.Node) -> tuple[int, int]:
        if isinstance(node, ir.Choice):
            return len(node.strings), len(node.strings)
        regular = _regular(node)
        if regular is not None:
            count = regular.count()
            return (MANY, MANY) if count is None else (count, count)
        match node:
            case ir.Concat(parts):
                return self._product([self.of(part) for part in parts])
            case ir.Alternation(options):
                # Objects, arrays and all else have nothing in common; two objects may.
                groups: dict[type, list[tuple[int, int]]] = {}
                for option in map(self._named, options):
                    kind = type(option) if isinstance(option, ir.Object | ir.Array) else ir.Piece
                    groups.setdefault(kind, []).append(self.of(option))
                least = sum(max(low for low, _ in group) for group in groups.values())
                return least, sum(high for group in groups.values() for _, high in group)
            case ir.Reference(name):
                return self.of(self._rules[name])
            case ir.Object():
                return self._object(node)
            case ir.Array():
                return self._array(node)
        # Texts of so many characters.
        return MANY, MANY

    def _named(self, node: ir.Node) -> ir.Node:
        """What stands behind a name, one deep."""
        return self._rules[node.name] if isinstance(node, ir.Reference) else node

    def _product(self, counts: list[tuple[int, int]]) -> tuple[int, int]:
        return prod(least for least, _ in counts), prod(most for _, most in counts)

    def _object(self, node: ir.Object) -> tuple[int, int]:
        required = sum(member.required for member in node.properties)
        counts = []
        for member in node.properties:
            least, most = self.of(member.value)
            counts.append((least, most) if member.required else (1 + least, 1 + most))
        most_members = required if node.high is None else node.high
        if any(self.of(extra.value)[1] for extra in node.extras) and (
            node.high is None or most_members > required
        ):
            return MANY, MANY
        least, most = self._product(counts)
        is_free = node.low <= required and (node.high is None or node.high >= len(node.properties))
        return (least if is_free else min(least, 1)), most

    def _array(self, node: ir.Array) -> tuple[int, int]:
        kinds = [self.of(kind)[1] for kind in (node.rest, node.counted) if kind is not None]
        if node.high is None and any(kinds):
            return MANY, MANY
        high = len(node.prefix) if node.high is None else node.high
        items = [self.of(item) for item in node.prefix[:high]]
        rest = (
            (0, sum(kinds)) if node.counted is not None or node.rest is None else self.of(node.rest)
        )
        items += [rest] * min(max(high - len(items), 0), MANY)
        least = most = 0
        so_far = (1, 1)
        for length in range(len(items) + 1):
            if length:
                so_far = self._product([so_far, items[length - 1]])
                so_far = min(so_far[0], MANY), min(so_far[1], MANY)
            if length >= node.low:
                least, most = least + so_far[0], most + so_far[1]
            if most >= MANY or not so_far[1]:
                break
        is_free = not node.unique and node.counted is None
        return (least if is_free else min(least, 1)), most
