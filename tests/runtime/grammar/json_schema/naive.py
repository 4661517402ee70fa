"""A naive reading of the intermediate representation: which ends a node can have in a text. The oracle of the tests."""

import json
from collections.abc import Iterator

from branchwork.runtime.grammar import ir
from branchwork.runtime.grammar.dfa import Dfa


def accepts(rules: ir.Rules, text: str) -> bool:
    """Whether `text` is a sentence of the grammar."""
    data = text.encode()
    return len(data) in _Naive(rules, data).ends(rules.root, 0)


class _Naive:
    def __init__(self, rules: ir.Rules, data: bytes) -> None:
        self.rules = rules
        self.data = data
        self.known: dict[tuple[int, int], frozenset[int]] = {}

    def ends(self, node: ir.Node, at: int) -> frozenset[int]:
        key = (id(node), at)
        if key not in self.known:
            self.known[key] = frozenset(self._ends(node, at))
        return self.known[key]

    def _ends(self, node: ir.Node, at: int) -> Iterator[int]:
        if isinstance(node, ir.Literal):
            if self.data.startswith(node.data, at):
                yield at + len(node.data)
        elif isinstance(node, ir.Piece):
            yield from self._piece(node.dfa, at)
        elif isinstance(node, ir.Choice):
            ends_of = (at + len(string) for string in node.strings)
            yield from (end for end in ends_of if self.data[at:end] in node.strings)
        elif isinstance(node, ir.Chars):
            yield from self._repeat(
                at, node.low, node.high, lambda end: frozenset(self._piece(node.element, end))
            )
        elif isinstance(node, ir.Bounded):
            yield from self._bounded(node, at)
        elif isinstance(node, ir.Concat):
            ends = {at}
            for part in node.parts:
                ends = {end for begin in ends for end in self.ends(part, begin)}
            yield from ends
        elif isinstance(node, ir.Alternation):
            for option in node.options:
                yield from self.ends(option, at)
        elif isinstance(node, ir.Reference):
            yield from self.ends(self.rules.rules[node.name], at)
        elif isinstance(node, ir.Object):
            yield from self._object(node, at)
        elif isinstance(node, ir.Array):
            yield from self._array(node, at)
        else:
            raise NotImplementedError(node)

    def _piece(self, dfa: Dfa, at: int) -> Iterator[int]:
        state = dfa.start
        if dfa.accepting[state]:
            yield at
        for index in range(at, len(self.data)):
            state = int(dfa.table[state, dfa.classes[self.data[index]]])
            if state == 0:
                return
            if dfa.accepting[state]:
                yield index + 1

    def _bounded(self, node: ir.Bounded, at: int) -> Iterator[int]:
        state, count = node.dfa.start, 0
        if node.dfa.accepting[state]:
            yield at
        for index in range(at, len(self.data)):
            state = int(node.dfa.table[state, node.dfa.classes[self.data[index]]])
            count += node.counted[state]
            if state == 0 or count > node.high:
                return
            if node.dfa.accepting[state]:
                yield index + 1

    def _repeat(self, at, low, high, step) -> Iterator[int]:  # type: ignore[no-untyped-def]
        ends, count = {at}, 0
        while ends and (high is None or count <= high):
            if count >= low:
                yield from ends
            ends = {end for begin in ends for end in step(begin)}
            count += 1

    def _literal(self, data: bytes, ends: set[int]) -> set[int]:
        return {end + len(data) for end in ends if self.data.startswith(data, end)}

    def _then(self, node: ir.Node, ends: set[int]) -> set[int]:
        return {end for begin in ends for end in self.ends(node, begin)}

    def _object(self, node: ir.Object, at: int) -> Iterator[int]:
        declared = {found.key: index for index, found in enumerate(node.properties)}
        begin = self._then(node.layout.pad, self._literal(b"{", {at}))
        states: set[tuple[int, frozenset[bytes], int]] = {(end, frozenset(), -1) for end in begin}
        required = {found.key for found in node.properties if found.required}
        first = True
        while states:
            following = set()
            for end, seen, last in states:
                if (
                    required <= seen
                    and node.low <= len(seen)
                    and (node.high is None or len(seen) <= node.high)
                ):
                    yield from self._literal(
                        b"}", {end} if first else self._then(node.layout.pad, {end})
                    )
                starts = {end} if first else self._then(node.layout.item, {end})
                for start in starts:
                    for key_end, key, value, index in self._keys(node, declared, start):
                        if key in seen or (
                            index <= last and not node.free_order and index < len(declared)
                        ):
                            continue
                        for after in self._then(value, self._then(node.layout.colon, {key_end})):
                            following.add((after, seen | {key}, max(last, index)))
            states, first = following, False

    def _keys(
        self, node: ir.Object, declared: dict[bytes, int], at: int
    ) -> Iterator[tuple[int, bytes, ir.Node, int]]:
        for key, index in declared.items():
            if self.data.startswith(key, at):
                yield at + len(key), key, node.properties[index].value, index
        for extra in node.extras:
            for end in self._piece(extra.key, at):
                key = self.data[at:end]
                if key not in declared:
                    yield end, key, extra.value, len(declared)

    def _array(self, node: ir.Array, at: int) -> Iterator[int]:
        begin = self._then(node.layout.pad, self._literal(b"[", {at}))
        states: set[tuple[int, int, int, tuple[bytes, ...]]] = {(end, 0, 0, ()) for end in begin}
        while states:
            following = set()
            for end, count, counted, seen in states:
                enough = counted >= node.counted_low and (
                    node.counted_high is None or counted <= node.counted_high
                )
                if enough and node.low <= count and (node.high is None or count <= node.high):
                    yield from self._literal(
                        b"]", self._then(node.layout.pad, {end}) if count else {end}
                    )
                for start in self._then(node.layout.item, {end}) if count else {end}:
                    for kind, item in self._items(node, count):
                        for after in self.ends(item, start):
                            text = self.data[start:after]
                            if not (node.unique and any(_is_same(text, other) for other in seen)):
                                keep = (*seen, text) if node.unique else ()
                                following.add((after, count + 1, counted + kind, keep))
            states = {state for state in following if node.high is None or state[1] <= node.high}

    def _items(self, node: ir.Array, index: int) -> Iterator[tuple[int, ir.Node]]:
        if index < len(node.prefix):
            yield 0, node.prefix[index]
            return
        if node.rest is not None:
            yield 0, node.rest
        if node.counted is not None:
            yield 1, node.counted


def _is_same(text: bytes, other: bytes) -> bool:
    """Whether two values are equal: members in any order, all else as it is written."""
    if text[:1] in b"[{" and other[:1] in b"[{":
        return _as_written(text) == _as_written(other)
    return text == other


def _as_written(text: bytes) -> object:
    number = "#{}".format
    return json.loads(text, parse_int=number, parse_float=number)
