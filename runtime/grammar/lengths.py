"""The least length of every node's sentences, and whether a node has any."""

import functools
from collections import deque
from collections.abc import Iterator

from branchwork.runtime.grammar import ir
from branchwork.runtime.grammar.blocks import needs
from branchwork.runtime.grammar.dfa import Dfa
from branchwork.runtime.grammar.distinct import Values, unique_bounds
from branchwork.runtime.grammar.machine.program import COST_LIMIT
from branchwork.runtime.wire.errors import ConstraintError


class Lengths:
    """The least number of bytes of each node's sentences; COST_LIMIT and above: there is none.

    A least fixed point. Every node is measured after what it is made of, so that only what is recursive is measured
    again: whenever something that it is made of has become shorter.
    """

    def __init__(self, rules: ir.Rules) -> None:
        self._rules = rules.rules
        self._values = Values(rules.rules)
        self._known: dict[int, int] = {}
        # Nodes are known by their identity, so they are kept.
        self._kept: list[ir.Node] = [rules.root]
        waiting = deque(self._parts_first([rules.root, *rules.rules.values()]))
        users: dict[int, list[ir.Node]] = {id(node): [] for node in waiting}
        for node in waiting:
            self._known[id(node)] = COST_LIMIT
            for part in self._parts(node):
                users[id(part)].append(node)
        is_waiting = set(users)
        while waiting:
            node = waiting.popleft()
            is_waiting.remove(id(node))
            found = min(self._measure(node), COST_LIMIT)
            if found < self._known[id(node)]:
                self._known[id(node)] = found
                again = [user for user in users[id(node)] if id(user) not in is_waiting]
                is_waiting.update(map(id, again))
                waiting += {id(user): user for user in again}.values()

    def __call__(self, node: ir.Node) -> int:
        """The least length of `node`, which may be a new one."""
        found = self._known.get(id(node))
        if found is None:
            found = self._known[id(node)] = min(self._measure(node), COST_LIMIT)
            self._kept.append(node)
        return found

    def is_empty(self, node: ir.Node) -> bool:
        """Whether `node` has no sentence."""
        return self(node) >= COST_LIMIT

    def _parts(self, node: ir.Node) -> Iterator[ir.Node]:
        """What the length of `node` depends on."""
        match node:
            case ir.Concat(nodes) | ir.Alternation(nodes):
                yield from nodes
            case ir.Repeat():
                yield node.body
                if node.separator is not None:
                    yield node.separator
            case ir.Reference(name):
                if name not in self._rules:
                    raise ConstraintError(f"there is no rule {name!r}", name)
                yield self._rules[name]
            case ir.Object():
                yield from (node.layout.pad, node.layout.colon, node.layout.item)
                yield from (member.value for member in node.properties)
                yield from (extra.value for extra in node.extras)
            case ir.Array():
                yield from (node.layout.pad, node.layout.item, *node.prefix)
                yield from (kind for kind in (node.rest, node.counted) if kind is not None)

    def _parts_first(self, roots: list[ir.Node]) -> list[ir.Node]:
        """All nodes, each after its parts, but for those that are made of it in turn."""
        order: list[ir.Node] = []
        seen: set[int] = set()
        for root in roots:
            stack = [(root, self._parts(root))] if id(root) not in seen else []
            seen.add(id(root))
            while stack:
                node, rest = stack[-1]
                part = next((part for part in rest if id(part) not in seen), None)
                if part is None:
                    order.append(node)
                    stack.pop()
                else:
                    seen.add(id(part))
                    stack.append((part, self._parts(part)))
        return order

    def _measure(self, node: ir.Node) -> int:
        match node:
            case ir.Literal(data):
                return len(data)
            case ir.Piece(language):
                return shortest(language)
            case ir.Choice(strings):
                return min(map(len, strings), default=COST_LIMIT)
            case ir.Chars(element, low, high):
                return _times(shortest(element), low) if high != 0 else 0
            case ir.Bounded():
                return _shortest_bounded(node)
            case ir.Concat(parts):
                return sum(map(self, parts))
            case ir.Alternation(options):
                return min(map(self, options), default=COST_LIMIT)
            case ir.Repeat(body, low, _, separator):
                between = self(separator) if separator is not None else 0
                return _times(self(body), low) + _times(between, max(low - 1, 0))
            case ir.Reference(name):
                return self(self._rules[name])
            case ir.Object():
                return self._object(node)
            case ir.Array():
                return self._array(node)

    def _object(self, node: ir.Object) -> int:
        layout = node.layout
        around = len(b"{}") + 2 * self(layout.pad)
        colon, between = self(layout.colon), self(layout.item)
        members = [(p.required, len(p.key) + colon + self(p.value)) for p in node.properties]
        required = [cost for is_required, cost in members if is_required]
        missing = max(node.low - len(required), 0)
        if node.high is not None and node.high < len(required):
            return COST_LIMIT
        if missing:
            optional = (cost for is_required, cost in members if not is_required)
            extra = min(
                (shortest(e.key) + colon + self(e.value) for e in node.extras), default=COST_LIMIT
            )
            required += sorted([*optional, *[extra] * missing])[:missing]
        return around + sum(required) + between * max(len(required) - 1, 0)

    def _array(self, node: ir.Array) -> int:
        prefix, rest, high = self.array_bounds(node)
        if high is not None and (high < node.low or high - len(prefix) < node.counted_low):
            return COST_LIMIT
        counted = COST_LIMIT if node.counted is None else self(node.counted)
        costs = [self(item) for item in prefix[: node.low]]
        if node.counted_low:
            costs = [self(item) for item in prefix] if rest is None else costs
            costs += [counted] * node.counted_low
        plain = min(COST_LIMIT if rest is None else self(rest), counted)
        costs += [plain] * (node.low - len(costs))
        between = self(node.layout.item) * max(len(costs) - 1, 0)
        return len(b"[]") + 2 * self(node.layout.pad) + sum(costs) + between

    def array_bounds(
        self, node: ir.Array
    ) -> tuple[tuple[ir.Node, ...], ir.Node | None, int | None]:
        """The prefix, rest and upper bound that remain when empty items are left out."""
        prefix, rest, high = node.prefix, node.rest, node.high
        for index, item in enumerate(prefix):
            if self.is_empty(item):
                return prefix[:index], None, ir.lesser(high, index)
        if node.unique:
            prefix, high = unique_bounds(node, self._values)
        if rest is not None and self.is_empty(rest):
            rest = None
        if rest is None and (node.counted is None or self.is_empty(node.counted)):
            high = ir.lesser(high, len(prefix))
        return prefix, rest, high


def _times(cost: int, count: int) -> int:
    return min(cost * count, COST_LIMIT) if count else 0


@functools.lru_cache(maxsize=4096)
def shortest(language: Dfa) -> int:
    """The least length of a set's strings; COST_LIMIT if there is none."""
    length = language.shortest_length()
    return COST_LIMIT if length is None else length


def _shortest_bounded(node: ir.Bounded) -> int:
    """The least length of a bounded piece's strings, at least; COST_LIMIT where the bound leaves none."""
    if node.dfa.is_empty or needs(node.dfa, node.counted)[node.dfa.start] > node.high:
        return COST_LIMIT
    return shortest(node.dfa)
