"""From the intermediate representation to a program of the stack machine.

First the least length of every node and rule is found (infinite: no sentence at all), then code is emitted from the
end backwards, leaving out whatever has no sentence. Shared nodes and rules become subroutines, so the program's size
is that of the grammar and not of its unfolding.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from branchwork.runtime.grammar import dfa, ir
from branchwork.runtime.grammar.blocks import block_of
from branchwork.runtime.grammar.dfa import Dfa, TooManyStates, common_prefix
from branchwork.runtime.grammar.lengths import Lengths, shortest
from branchwork.runtime.grammar.machine import program
from branchwork.runtime.grammar.machine.program import COST_LIMIT, NONE, Code, Program
from branchwork.runtime.wire.errors import ConstraintError

# 4M words: 16 MiB of program.
MAX_WORDS = 4 << 20
MAX_PIECE_WORDS = 1 << 20
# A finite set with a larger table is emitted as literals and branches, unless it has more strings.
MAX_TABLE_WORDS = 1 << 15
MAX_CHOICES = 10_000
# Undeclared keys of a finite set up to this size are treated as optional properties.
MAX_LISTED_KEYS = 64
# More declared properties than this come in their order even where any order is asked for.
MAX_FREE_ORDER = 1_000
# Regular options of an alternation are joined into one automaton up to so many states.
MAX_JOINED_STATES = 2000


def lower(rules: ir.Rules) -> Program:
    """The program of a grammar.

    Raises ConstraintError when it has no sentence, names an unknown rule, recurs on the left, or is too large.
    """
    try:
        return _Emitter(rules).program()
    except RecursionError:
        raise ConstraintError("the constraint is nested too deeply") from None


class _Emitter:
    """Emits operations backwards: what follows is there before what it follows."""

    def __init__(self, rules: ir.Rules) -> None:
        self.rules = rules
        self.length = Lengths(rules)
        self.code: list[int] = [0]
        self._blocks: list[Code] = []
        self._block_numbers: dict[bytes, int] = {}
        self._piece_slots: list[tuple[int, int]] = []
        self.records = False
        self._shared: dict[int, int] = {}
        self._kept: list[ir.Node] = []
        self._choices: dict[frozenset[bytes], int] = {}
        self._calls: list[tuple[int, str]] = []
        self.ret = self._emit(program.RET, 0)

    def program(self) -> Program:
        """The whole program."""
        if self.length.is_empty(self.rules.root):
            raise ConstraintError("the constraint has no sentence: nothing can satisfy it")
        entry = self.node(self.rules.root, self.ret)
        addresses: dict[str, int] = {}
        while self._calls:
            address, name = self._calls.pop()
            if name not in addresses:
                addresses[name] = self.node(self.rules.rules[name], self.ret)
            self.code[address] = addresses[name]
        places = np.cumsum([len(self.code), *map(len, self._blocks)]).tolist()
        if places[-1] > MAX_WORDS:
            raise ConstraintError("the constraint is too large to compile")
        for slot, block in self._piece_slots:
            self.code[slot] = places[block]
        code = np.concatenate([np.array(self.code, np.int32), *self._blocks])
        _refuse_left_recursion(code, entry, {a: n for n, a in addresses.items()})
        pieces = {places[number]: key for key, number in self._block_numbers.items()}
        return Program(code, entry, pieces, self.records, self.rules.warnings)

    def _emit(self, *words: int) -> int:
        address = len(self.code)
        if address + len(words) > MAX_WORDS:
            raise ConstraintError("the constraint is too large to compile")
        self.code.extend(words)
        return address

    def _cost(self, node: ir.Node, following: int) -> int:
        return min(self.length(node) + self.code[following + 1], COST_LIMIT)

    def node(self, node: ir.Node, following: int) -> int:
        """Code for `node` and then `following`; its address."""
        match node:
            case ir.Literal(data):
                return self._literal(data, following)
            case ir.Piece(language):
                return self._piece(language, following)
            case ir.Choice(strings):
                return self._choice(strings, following)
            case ir.Chars(element, low, high):
                return self._chars(node, element, low, high, following)
            case ir.Bounded():
                block = self._block(node.dfa, node.counted)
                cost = self._cost(node, following)
                return self._with_piece(block, program.CHARS, cost, following, 0, 0, node.high, 0)
            case ir.Concat(parts):
                for part in reversed(parts):
                    following = self.node(part, following)
                return following
            case ir.Reference(name):
                cost = self._cost(node, following)
                address = self._emit(program.CALL, cost, following, NONE)
                self._calls.append((address + 3, name))
                return address
            case _:
                return self._subroutine(node, following)

    def _literal(self, data: bytes, following: int) -> int:
        if not data:
            return following
        cost = min(len(data) + self.code[following + 1], COST_LIMIT)
        return self._emit(program.LIT, cost, following, len(data), *data)

    def _piece(self, language: Dfa, following: int) -> int:
        only = _only_string(language)
        if only is not None:
            return self._literal(only, following)
        if language.table.size > MAX_TABLE_WORDS and language.is_finite():
            strings = language.strings(MAX_CHOICES)
            if strings is not None:
                return self._choice(frozenset(strings), following)
        cost = min(shortest(language) + self.code[following + 1], COST_LIMIT)
        return self._with_piece(self._block(language, None), program.DFA, cost, following, 0)

    def _choice(self, strings: frozenset[bytes], following: int) -> int:
        """A large set of strings: emitted once, and called, since schemas repeat their largest sets."""
        target = self._choices.get(strings)
        if target is None:
            target = self._choices[strings] = self._trie(strings)
        if following == self.ret:
            return target
        cost = min(self.code[target + 1] + self.code[following + 1], COST_LIMIT)
        return self._emit(program.CALL, cost, following, target)

    def _trie(self, strings: frozenset[bytes]) -> int:
        """Literals and branches: the trie of the strings, equal branches shared."""
        ordered, following = sorted(strings), self.ret
        known: dict[tuple[tuple[bytes, int], ...], int] = {}

        def branch(options: list[tuple[bytes, int]]) -> int:
            key = tuple(options)
            if key not in known:
                known[key] = self._branch([self._literal(run, target) for run, target in options])
            return known[key]

        # The branches that the string is within: how deep each is, and its options so far.
        within: list[tuple[int, list[tuple[bytes, int]]]] = [(0, [])]
        for string, following_string in itertools.zip_longest(ordered, ordered[1:], fillvalue=b""):
            common = common_prefix(string, following_string)
            if common > within[-1][0]:
                within.append((common, []))
            within[-1][1].append((string[within[-1][0] :], following))
            while within[-1][0] > common:
                depth, options = within.pop()
                if within[-1][0] < common:
                    within.append((common, []))
                within[-1][1].append((string[within[-1][0] : depth], branch(options)))
        return branch(within[0][1])

    def _branch(self, targets: list[int]) -> int:
        if len(targets) == 1:
            return targets[0]
        cost = min(self.code[target + 1] for target in targets)
        return self._emit(program.ALT, cost, len(targets), *targets)

    def _chars(
        self, node: ir.Node, element: Dfa, low: int, high: int | None, following: int
    ) -> int:
        if high == 0 or element.is_empty:
            return following
        language = dfa.star(element)
        block = self._block(language, tuple(language.accepting.tolist()))
        bound = NONE if high is None else high
        cost, element_cost = self._cost(node, following), shortest(element)
        return self._with_piece(block, program.CHARS, cost, following, 0, low, bound, element_cost)

    def _block(self, language: Dfa, counted: tuple[bool, ...] | None) -> int:
        """The number of a piece's block; equal pieces share it."""
        key = language.key if counted is None else language.key + bytes(counted)
        number = self._block_numbers.get(key)
        if number is None:
            if language.table.size > MAX_PIECE_WORDS:
                raise TooManyStates("an automaton of the constraint is too large")
            number = self._block_numbers[key] = len(self._blocks)
            self._blocks.append(block_of(language, counted))
        return number

    def _with_piece(self, block: int, *words: int) -> int:
        """Emit an operation whose fourth word is where the block will be."""
        address = self._emit(*words)
        self._piece_slots.append((address + 3, block))
        return address

    def _subroutine(self, node: ir.Node, following: int) -> int:
        """Composite nodes are emitted once, and called (a call before a return costs nothing)."""
        target = self._shared.get(id(node))
        if target is None:
            match node:
                case ir.Alternation(options):
                    target = self._alternation(options)
                case ir.Repeat():
                    target = self._repeat(node)
                case ir.Object():
                    target = self._object(node)
                case ir.Array():
                    target = self._array(node)
                case _:
                    raise AssertionError(f"no code for {type(node).__name__}")
            self._shared[id(node)] = target
            self._kept.append(node)
        if following == self.ret:
            return target
        return self._emit(program.CALL, self._cost(node, following), following, target)

    def _alternation(self, options: tuple[ir.Node, ...]) -> int:
        alive = [option for option in options if not self.length.is_empty(option)]
        targets = [self.node(option, self.ret) for option in _join_regular(alive)]
        return self._branch(list(dict.fromkeys(targets)))

    def _repeat(self, node: ir.Repeat) -> int:
        body, low, high, separator = node.body, node.low, node.high, node.separator
        if high == 0 or self.length.is_empty(body):
            return self.ret
        if separator is not None:
            more = None if high is None else high - 1
            later = ir.Repeat(ir.Concat((separator, body)), max(low - 1, 0), more)
            some = ir.Concat((body, later))
            return self.node(some if low else ir.Alternation((some, ir.EMPTY)), self.ret)
        if self.length(body) == 0:
            low = 0
        if high == 1:
            some_address = self.node(body, self.ret)
            if low == 1:
                return some_address
            return self._emit(program.ALT, 0, 2, some_address, self.ret)
        address = self.node(body, self.ret)
        bound = NONE if high is None else high
        cost, body_cost = self.length(node), self.length(body)
        return self._emit(program.LOOP, cost, self.ret, address, low, bound, body_cost)

    # -------------------------------------------------------------- JSON

    def _object(self, node: ir.Object) -> int:
        properties, extras = self._object_members(node)
        num_required = sum(member.required for member in properties)
        flags = program.COUNTED * (node.low > num_required or node.high is not None)
        flags |= program.FREE_ORDER * (node.free_order and len(properties) <= MAX_FREE_ORDER)
        keys = sorted({p.key for p in (*properties, *node.properties)}) if extras else []
        owner = self._emit(
            program.OBJECT,
            self.length(node),
            self.ret,
            *(NONE,) * 3,
            node.low,
            NONE if node.high is None else node.high,
            flags,
            len(properties),
            len(extras),
            len(keys),
            *(NONE, 0, 0, 0) * len(properties),
            *(NONE,) * (len(extras) + len(keys)),
        )
        more = self._brackets(owner, b"{", b"}", node.layout)
        place = owner + program.OBJECT_WORDS
        self._properties(place, properties, node.layout, more)
        place += program.PROPERTY_WORDS * len(properties)
        for extra in extras:
            colon = self.node(node.layout.colon, self.node(extra.value, more))
            end = self._emit(program.KEY_END, self.code[colon + 1], colon)
            self.code[place] = self._piece(extra.key, end)
            self.records = True
            place += 1
        for key in keys:
            self.code[place] = self._literal(key, self.ret)
            place += 1
        return owner

    def _properties(
        self, table: int, properties: list[ir.Property], layout: ir.Layout, more: int
    ) -> None:
        """The members' code, and the table of them that begins at `table`."""
        between = self.length(layout.item)
        cost_from = required_from = 0
        for index in reversed(range(len(properties))):
            member = properties[index]
            colon = self.node(layout.colon, self.node(member.value, more))
            address = self._literal(member.key, colon)
            if member.required:
                cost_from = min(cost_from + self.code[address + 1] + between, COST_LIMIT)
                required_from += 1
            place = table + program.PROPERTY_WORDS * index
            words = [address, int(member.required), cost_from, required_from]
            self.code[place : place + program.PROPERTY_WORDS] = words

    def _object_members(self, node: ir.Object) -> tuple[list[ir.Property], list[ir.Extra]]:
        """The members that can occur; undeclared keys out of a small set count as declared."""
        properties = [p for p in node.properties if not self.length.is_empty(p.value)]
        extras = []
        for extra in node.extras:
            if extra.key.is_empty or self.length.is_empty(extra.value):
                continue
            keys = extra.key.strings(MAX_LISTED_KEYS) if extra.key.is_finite() else None
            if keys is None:
                extras.append(extra)
            else:
                declared = {p.key for p in (*node.properties, *properties)}
                properties += [ir.Property(k, extra.value) for k in keys if k not in declared]
        return properties, extras

    def _array(self, node: ir.Array) -> int:
        prefix, rest, high = self.length.array_bounds(node)
        counted = node.counted
        if counted is not None and self.length.is_empty(counted):
            counted = None
        kinds = [kind for kind in (rest, counted) if kind is not None]
        item_cost = min(map(self.length, kinds), default=0) + self.length(node.layout.item)
        owner = self._emit(
            program.ARRAY,
            self.length(node),
            self.ret,
            *(NONE,) * 3,
            node.low,
            NONE if high is None else high,
            len(prefix),
            NONE,
            NONE,
            node.counted_low,
            NONE if node.counted_high is None else node.counted_high,
            int(node.unique),
            item_cost,
            *(NONE,) * len(prefix),
        )
        more = self._brackets(owner, b"[", b"]", node.layout)
        if node.unique:
            more = self._emit(program.ITEM_END, 0, more)
            self.records = True
        if rest is not None:
            self.code[owner + 9] = self.node(rest, more)
        if counted is not None:
            self.code[owner + 10] = self.node(counted, more)
        for index, item in enumerate(prefix):
            self.code[owner + program.ARRAY_WORDS + index] = self.node(item, more)
        return owner

    def _brackets(self, owner: int, opening: bytes, closing: bytes, layout: ir.Layout) -> int:
        """Fill in how the owner begins, separates and ends; the address after each of its items."""
        first = self._emit(program.MEMBERS, 0, owner, 1)
        more = self._emit(program.MEMBERS, 0, owner, 0)
        choose = self._emit(program.CHOOSE, 0, owner)
        end = self._emit(program.LEAVE, 0, owner)
        close = self.node(layout.pad, self._literal(closing, end))
        self.code[owner + 3] = self._literal(opening, self.node(layout.pad, first))
        self.code[owner + 4] = close
        self.code[owner + 5] = self.node(layout.item, choose)
        return more


# ------------------------------------------------------------------ helpers


@functools.lru_cache(maxsize=4096)
def _only_string(language: Dfa) -> bytes | None:
    """The one member of the set, if it has just one."""
    if np.count_nonzero(language.table) >= language.num_states:
        return None
    strings = language.strings(1)
    return strings[0] if strings else None


def _join_regular(options: list[ir.Node]) -> list[ir.Node]:
    """Literals and small pieces among the options as one piece, so that the machine need not guess."""
    texts = [option.data for option in options if isinstance(option, ir.Literal)]
    pieces = [option.dfa for option in options if isinstance(option, ir.Piece)]
    if len(texts) + len(pieces) < 2:
        return options
    others = [option for option in options if not isinstance(option, ir.Literal | ir.Piece)]
    try:
        if texts:
            pieces.append(dfa.of_strings(texts))
        if sum(piece.num_states for piece in pieces) > MAX_JOINED_STATES and len(pieces) > 1:
            return options
        return [*others, ir.Piece(dfa.union(*pieces) if len(pieces) > 1 else pieces[0])]
    except TooManyStates:
        return options


def _refuse_left_recursion(code: Any, entry: int, names: dict[int, str]) -> None:
    """Raise ConstraintError for a rule that can reach itself before it reads a byte."""
    successors: Callable[[int], list[int]] = functools.partial(_before_reading, code)
    state: dict[int, bool] = {}
    for origin in [entry, *names]:
        stack = [(origin, iter(successors(origin)))] if origin not in state else []
        state.setdefault(origin, True)
        while stack:
            address, rest = stack[-1]
            for target in rest:
                if target not in state:
                    state[target] = True
                    stack.append((target, iter(successors(target))))
                    break
                if state[target] and target != address:
                    open_rules = [names[a] for a, _ in stack if a in names]
                    name = names.get(target) or (open_rules[-1] if open_rules else "root")
                    raise ConstraintError(f"rule {name!r} is left-recursive", name)
            else:
                state[address] = False
                stack.pop()


def _before_reading(code: Any, a: int) -> list[int]:
    """Where control can go from address `a` without reading a byte, inside of calls too."""
    op = int(code[a])
    if op == program.ALT:
        return [int(t) for t in code[a + 3 : a + 3 + code[a + 2]]]
    if op == program.CALL:
        target = int(code[a + 3])
        return [target, int(code[a + 2])] if code[target + 1] == 0 else [target]
    if op == program.LOOP:
        body = int(code[a + 3])
        return [body, int(code[a + 2])] if code[a + 4] == 0 or code[body + 1] == 0 else [body]
    if op == program.DFA:
        piece = int(code[a + 3])
        start = int(code[piece + 2])
        accepting = code[piece + program.PIECE_HEAD + start] & program.ACCEPTING
        return [int(code[a + 2])] if accepting else []
    if op == program.CHARS and code[a + 4] == 0:
        return [int(code[a + 2])]
    return []
