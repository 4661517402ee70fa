"""Deterministic automata over bytes, and their algebra.

A `Dfa` is always trim (every state is reachable and can still accept), minimal, and numbered breadth first,
so two of them are equal exactly if their languages are: `key` is the identity of the language.
Operations that can explode take their fuel from `MAX_STATES` and raise `TooManyStates`.
"""

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from branchwork.runtime.grammar import normal
from branchwork.runtime.grammar.normal import Classes, Flags, Table
from branchwork.runtime.grammar.utf8 import utf8_ranges
from branchwork.runtime.wire.errors import ConstraintError

# 20_000: some 8 MB of table at 100 classes; an automaton beyond it belongs on the stack machine.
MAX_STATES = 20_000

DEAD = normal.DEAD
"""State from which nothing is accepted; row 0 of every table."""


class TooManyStates(ConstraintError):
    """An automaton grew beyond its fuel."""


@dataclass(frozen=True, slots=True, eq=False)
class Dfa:
    """A set of byte strings.

    classes     [256] uint8: the column of each byte
    table       [num_states, num_classes] int32; row 0 is `DEAD`, and `start` is 1 (0 for the empty set)
    accepting   [num_states] bool
    """

    classes: Classes
    table: Table
    accepting: Flags
    start: int
    key: bytes

    @property
    def num_states(self) -> int:
        """States, the dead one included."""
        return len(self.table)

    @property
    def is_empty(self) -> bool:
        """Whether no string is accepted."""
        return self.start == DEAD

    @property
    def has_empty_string(self) -> bool:
        """Whether b"" is accepted."""
        return bool(self.accepting[self.start])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dfa) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def walk(self, data: bytes, state: int | None = None) -> int:
        """The state after `data`, from `state` or the start."""
        state = self.start if state is None else state
        for byte in data:
            state = int(self.table[state, self.classes[byte]])
        return state

    def accepts(self, data: bytes) -> bool:
        """Whether `data` is in the set."""
        return bool(self.accepting[self.walk(data)])

    def __or__(self, other: "Dfa") -> "Dfa":
        return _product(self, other, lambda a, b: a | b)

    def __and__(self, other: "Dfa") -> "Dfa":
        return _product(self, other, lambda a, b: a & b)

    def __sub__(self, other: "Dfa") -> "Dfa":
        return _product(self, other, lambda a, b: a & ~b)

    def __add__(self, other: "Dfa") -> "Dfa":
        return concat(self, other)

    def is_finite(self) -> bool:
        """Whether only finitely many strings are accepted."""
        return _in_order(self) is not None

    def count(self) -> int | None:
        """How many strings are accepted; None if there is no end to them."""
        order, edges = _in_order(self), _edges(self)
        if order is None:
            return None
        counts = [int(accepting) for accepting in self.accepting.tolist()]
        for state in reversed(order):
            counts[state] += sum((high - low + 1) * counts[to] for low, high, to in edges[state])
        return int(counts[self.start])

    def strings(self, limit: int) -> tuple[bytes, ...] | None:
        """All accepted strings in order, or None if there are more than `limit`."""
        if not self.is_finite():
            return None
        found: list[bytes] = []
        edges = _edges(self)
        stack = [] if self.is_empty else [(self.start, b"")]
        while stack:
            state, text = stack.pop()
            if self.accepting[state]:
                found.append(text)
                if len(found) > limit:
                    return None
            for low, high, target in reversed(edges[state]):
                stack += [(target, text + bytes((byte,))) for byte in range(high, low - 1, -1)]
        return tuple(found)

    def shortest(self) -> bytes | None:
        """A shortest accepted string (the first in byte order among them), or None if there is none."""
        if self.is_empty:
            return None
        distance, edges = self.distances(), _edges(self)
        state, text = self.start, bytearray()
        while distance[state]:
            byte, state = next(
                (low, target)
                for low, _, target in edges[state]
                if distance[target] == distance[state] - 1
            )
            text.append(byte)
        return bytes(text)

    def distances(self) -> npt.NDArray[np.int32]:
        """[num_states] int32: bytes from each state to the nearest accepting one; -1 from the dead state."""
        return normal.distances(self.table, self.accepting)

    def shortest_length(self) -> int | None:
        """Length of a shortest accepted string, or None if there is none."""
        if self.is_empty:
            return None
        seen = np.zeros(self.num_states, np.bool_)
        frontier, length = np.array([self.start]), 0
        while not self.accepting[frontier].any():
            seen[frontier] = True
            following = np.unique(self.table[frontier])
            frontier = following[~seen[following] & (following != DEAD)]
            length += 1
        return length

    def spell(self, spellings: Mapping[int, tuple[bytes, ...]]) -> "Dfa":
        """The strings with each byte written as any of its spellings; bytes without an entry stand for themselves.

        With {0x22: (b'\\\\"',)} and the like, the texts of a set become their JSON strings' insides.
        """
        nfa = Nfa()
        states = [nfa.state() for _ in range(self.num_states)]
        for state, edges in enumerate(_edges(self)):
            for low, high, target in edges:
                for byte in range(low, high + 1):
                    for spelling in spellings.get(byte, (bytes((byte,)),)):
                        nfa.path(states[state], spelling, states[target])
        ends = [states[s] for s in np.flatnonzero(self.accepting)]
        return nfa.determinise(states[self.start], ends)


@functools.lru_cache(maxsize=1024)
def _edges(dfa: Dfa) -> tuple[tuple[tuple[int, int, int], ...], ...]:
    """For each state, in order, the longest ranges of bytes (both ends included) that lead to one state, and it."""
    targets = dfa.table[:, dfa.classes]
    changes = np.ones((dfa.num_states, 257), np.bool_)
    changes[:, 1:256] = targets[:, 1:] != targets[:, :-1]
    states, bounds = np.nonzero(changes)
    found: list[list[tuple[int, int, int]]] = [[] for _ in range(dfa.num_states)]
    reached = np.append(targets, np.zeros((dfa.num_states, 1), np.int32), axis=1)[states, bounds]
    low_of = zip(states.tolist(), bounds.tolist(), reached.tolist(), strict=True)
    for (state, low, target), (_, high, _) in itertools.pairwise(low_of):
        if target != DEAD:
            found[state].append((low, high - 1, target))
    return tuple(map(tuple, found))


@functools.lru_cache(maxsize=4096)
def _in_order(dfa: Dfa) -> list[int] | None:
    """All live states, each before those that it leads to; None if some state leads back to itself."""
    return normal.in_order(normal.successors(dfa.table), dfa.start)


# ------------------------------------------------------------------ normal form


def make(classes: Classes, table: Table, accepting: Flags, start: int) -> Dfa:
    """The language of any deterministic automaton (row 0 dead, not accepting)."""
    return _identified(*normal.minimal(classes, table, accepting, start))


def numbered(classes: Classes, table: Table, accepting: Flags, start: int) -> Dfa:
    """The language of an automaton that is trim and minimal already (unreachable states may be left)."""
    return _identified(*normal.numbered(classes, table, accepting, start))


def _identified(classes: Classes, table: Table, accepting: Flags, start: int) -> Dfa:
    """A `Dfa` of what is in normal form already."""
    digest = blake2b(classes.tobytes(), digest_size=16)
    digest.update(table.tobytes())
    digest.update(accepting.tobytes())
    return Dfa(classes, table, accepting, start, digest.digest())


def _product(a: Dfa, b: Dfa, accept: Callable[[Flags, Flags], Flags]) -> Dfa:
    """Both automata side by side; a pair of states accepts as `accept` says."""
    joint = a.classes.astype(np.int64) * 256 + b.classes
    _, first, classes = np.unique(joint, return_index=True, return_inverse=True)
    table_a = a.table[:, a.classes[first]].astype(np.int64)
    table_b = b.table[:, b.classes[first]].astype(np.int64)
    width = b.num_states
    start = a.start * width + b.start
    number = np.full(a.num_states * width, -1, np.int32)
    pairs = [np.array([0])] if start == 0 else [np.array([0, start])]
    number[pairs[0]] = np.arange(len(pairs[0]))
    frontier, count = pairs[0][1:], len(pairs[0])
    while len(frontier):
        targets = table_a[frontier // width] * width + table_b[frontier % width]
        fresh = np.unique(targets[number[targets] < 0])
        number[fresh] = np.arange(count, count + len(fresh))
        count += len(fresh)
        if count > MAX_STATES:
            raise TooManyStates(f"the automaton has more than {MAX_STATES} states")
        pairs.append(fresh)
        frontier = fresh
    every = np.concatenate(pairs)
    table = number[table_a[every // width] * width + table_b[every % width]]
    accepting = accept(a.accepting[every // width], b.accepting[every % width])
    accepting[0] = False
    return make(classes.astype(np.uint8), table, accepting, int(number[start]))


# ------------------------------------------------------------------ construction


class Nfa:
    """A nondeterministic automaton under construction: edges over byte ranges, and empty edges."""

    def __init__(self) -> None:
        self._edges: list[list[tuple[int, int, int]]] = []
        self._empty: list[list[int]] = []
        self._absorbing: set[int] = set()

    def state(self) -> int:
        """A new state."""
        if len(self._edges) > 5 * MAX_STATES:
            raise TooManyStates(f"the automaton has more than {5 * MAX_STATES} positions")
        self._edges.append([])
        self._empty.append([])
        return len(self._edges) - 1

    def edges(self, state: int) -> list[tuple[int, int, int]]:
        """The edges out of a state: ranges of bytes (both ends included), and where they lead."""
        return self._edges[state]

    def empty_edges(self, state: int) -> list[int]:
        """Where the empty edges out of a state lead."""
        return self._empty[state]

    def edge(self, source: int, low: int, high: int, target: int) -> None:
        """One byte from `low` to `high`, both included."""
        self._edges[source].append((low, high, target))

    def skip(self, source: int, target: int) -> None:
        """An empty edge."""
        self._empty[source].append(target)

    def path(self, source: int, data: bytes, target: int) -> None:
        """The bytes of `data`, one after another."""
        if not data:
            return self.skip(source, target)
        for byte in data[:-1]:
            between = self.state()
            self.edge(source, byte, byte, between)
            source = between
        self.edge(source, data[-1], data[-1], target)

    def embed(self, dfa: Dfa, source: int) -> int:
        """A copy of `dfa` that begins at `source`; returns the state where it has accepted."""
        first = self.state()
        for _ in range(dfa.num_states):
            self.state()
        end = first + dfa.num_states
        self.skip(source, first + dfa.start)
        for state, edges in enumerate(_edges(dfa), start=first):
            self._edges[state] = [(low, high, first + target) for low, high, target in edges]
        for state in np.flatnonzero(dfa.accepting).tolist():
            self.skip(first + state, end)
        return end

    def absorb(self, source: int) -> int:
        """Any text may follow `source`; returns the state behind it. Nothing but texts may be in this automaton.

        Whoever is here need not remember what else it could be, which keeps searches small.
        """
        first = len(self._edges)
        end = self.embed(any_text(), source)
        self._absorbing.update(range(first, len(self._edges)))
        return end

    def determinise(self, start: int, ends: Iterable[int], max_states: int | None = None) -> Dfa:
        """The same language as a `Dfa` (subset construction, breadth first).

        A subset is an int with a bit for each state that reads a byte, ends or absorbs: no others tell subsets apart.
        """
        limit = MAX_STATES if max_states is None else max_states
        classes, columns = self._classes()
        final, absorbing = set(ends), self._absorbing
        kept = [s for s, edges in enumerate(self._edges) if edges or s in final or s in absorbing]
        if len(kept) > MAX_STATES:
            raise TooManyStates(f"the automaton has more than {MAX_STATES} positions")
        subsets = _Subsets(self, {state: 1 << index for index, state in enumerate(kept)})
        ending, absorbed = subsets.of(final), subsets.of(absorbing)
        first = subsets.closure(start)
        if not first:
            return nothing()
        numbers, order, rows = {0: DEAD, first: 1}, [first], [[DEAD] * columns[256]]
        for subset in order:
            members = (subsets.moves(kept[index], columns) for index in _bits(subset))
            moves = functools.reduce(lambda a, b: list(map(operator.or_, a, b)), members)
            # By identity first: to hash a set of thousand states takes a microsecond, and most columns lead alike.
            number: dict[int, int] = {}
            for full in {id(full): full for full in moves}.values():
                if full not in numbers:
                    least = full & absorbed or full
                    if least not in numbers:
                        numbers[least] = len(order) + 1
                        order.append(least)
                    numbers[full] = numbers[least]
                number[id(full)] = numbers[full]
            rows.append([number[id(full)] for full in moves])
            if len(order) > limit:
                raise TooManyStates(f"the automaton has more than {limit} states")
        accepting = np.array([False, *(bool(subset & ending) for subset in order)])
        return make(classes, np.array(rows, np.int32), accepting, 1)

    def _classes(self) -> tuple[Classes, dict[int, int]]:
        """The column of each byte, and of each byte at which one begins (or 256) the column."""
        every = list(itertools.chain.from_iterable(self._edges))
        cuts = {0, 256, *(low for low, _, _ in every), *(high + 1 for _, high, _ in every)}
        ordered = sorted(cuts)
        classes = np.zeros(256, np.uint8)
        for column, (low, high) in enumerate(itertools.pairwise(ordered)):
            classes[low:high] = column
        return classes, {cut: column for column, cut in enumerate(ordered)}


class _Subsets:
    """Sets of the states of an `Nfa` as ints; `bits` has a bit for each state that counts."""

    def __init__(self, nfa: Nfa, bits: dict[int, int]) -> None:
        self._nfa, self._bits = nfa, bits
        self._closures: dict[int, int] = {}
        self._moves: dict[int, list[int]] = {}

    def of(self, states: Iterable[int]) -> int:
        """The set of `states`."""
        return functools.reduce(operator.or_, (self._bits[state] for state in states), 0)

    def closure(self, state: int) -> int:
        """What `state` leads to by empty edges, itself included."""
        found = self._closures.get(state)
        if found is None:
            found, seen, stack = 0, {state}, [state]
            while stack:
                at = stack.pop()
                if at in self._closures:
                    found |= self._closures[at]
                    continue
                found |= self._bits.get(at, 0)
                for target in self._nfa.empty_edges(at):
                    if target not in seen:
                        seen.add(target)
                        stack.append(target)
            self._closures[state] = found
        return found

    def moves(self, state: int, columns: dict[int, int]) -> list[int]:
        """The set that each column leads to from `state`."""
        found = self._moves.get(state)
        if found is None:
            found = self._moves[state] = [0] * columns[256]
            for low, high, target in self._nfa.edges(state):
                reached = self.closure(target)
                for column in range(columns[low], columns[high + 1]):
                    found[column] = found[column] | reached if found[column] else reached
        return found


def _bits(number: int) -> Iterator[int]:
    """Which bits are set, from the lowest."""
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest


@functools.cache
def nothing() -> Dfa:
    """The empty set."""
    return make(np.zeros(256, np.uint8), np.zeros((1, 1), np.int32), np.zeros(1, np.bool_), DEAD)


@functools.lru_cache(maxsize=1024)
def literal(data: bytes) -> Dfa:
    """Only `data`."""
    return of_strings((data,))


def of_strings(strings: Iterable[bytes]) -> Dfa:
    """A finite set: the trie of its members with equal tails shared, so linear in their length."""
    ordered = sorted(set(strings))
    if not ordered:
        return nothing()
    edges: list[dict[int, int]] = [{}]
    final = [False]
    path, previous = [0], b""
    for string in ordered:
        common = common_prefix(previous, string)
        del path[common + 1 :]
        for byte in string[common:]:
            edges[path[-1]][byte] = len(edges)
            path.append(len(edges))
            edges.append({})
            final.append(False)
        final[path[-1]] = True
        previous = string
        if len(edges) > 50 * MAX_STATES:
            raise TooManyStates("the set of strings is too large")
    return _of_trie(edges, final)


def common_prefix(a: bytes, b: bytes) -> int:
    """With how many bytes two strings begin alike."""
    size = min(len(a), len(b))
    differing = int.from_bytes(a[:size], "big") ^ int.from_bytes(b[:size], "big")
    return size - (differing.bit_length() + 7) // 8


def _of_trie(edges: list[dict[int, int]], final: list[bool]) -> Dfa:
    """The minimal automaton of a trie (children after parents, edges in byte order).

    As in "Incremental construction of minimal acyclic finite-state automata" (Daciuk et al., 2000): from the leaves
    up, a state with the end and the edges of another is that other.
    """
    same: dict[tuple[bool, tuple[tuple[int, int], ...]], int] = {}
    merged = [0] * len(edges)
    for state in range(len(edges) - 1, -1, -1):
        out = edges[state]
        for byte, target in out.items():
            out[byte] = merged[target]
        merged[state] = same.setdefault((final[state], tuple(out.items())), state)
    number = {0: 1}
    order = [0]
    for state in order:
        for target in edges[state].values():
            if target not in number:
                number[target] = len(order) + 1
                order.append(target)
    used = sorted({byte for state in order for byte in edges[state]})
    unused = int(len(used) < 256)  # column 0, unless every byte has its own
    width = len(used) + unused
    if (len(order) + 1) * width > 250 * MAX_STATES:
        raise TooManyStates("the set of strings is too large")
    classes = np.zeros(256, np.uint8)
    classes[used] = np.arange(unused, width)
    table = np.zeros((len(order) + 1, width), np.int32)
    rows = [number[state] for state in order for _ in edges[state]]
    columns = [byte for state in order for byte in edges[state]]
    targets = [number[target] for state in order for target in edges[state].values()]
    table[rows, classes[columns]] = targets
    accepting = np.array([False, *(final[state] for state in order)])
    classes, table = normal.merge_classes(classes, table)
    return _identified(classes, table, accepting, 1)


def of_ranges(*ranges: tuple[int, int]) -> Dfa:
    """One byte out of any of the ranges (both ends included)."""
    nfa = Nfa()
    start, end = nfa.state(), nfa.state()
    for low, high in ranges:
        nfa.edge(start, low, high, end)
    return nfa.determinise(start, [end])


def concat(*parts: Dfa) -> Dfa:
    """A string of each part, one after another."""
    nfa = Nfa()
    start = end = nfa.state()
    for part in parts:
        end = nfa.embed(part, end)
    return nfa.determinise(start, [end])


def union(*options: Dfa) -> Dfa:
    """A string of any of the options."""
    nfa = Nfa()
    start = nfa.state()
    return nfa.determinise(start, [nfa.embed(option, start) for option in options])


def star(body: Dfa) -> Dfa:
    """Any number of strings of `body`, one after another."""
    nfa = Nfa()
    start = nfa.state()
    nfa.skip(nfa.embed(body, start), start)
    return nfa.determinise(start, [start])


def repeat(body: Dfa, low: int, high: int | None) -> Dfa:
    """`low` to `high` strings of `body`, unrolled; `high` None means no bound."""
    nfa = Nfa()
    start = end = nfa.state()
    for _ in range(low):
        end = nfa.embed(body, end)
    ends = [end]
    if high is None:
        loop = nfa.state()
        nfa.skip(end, loop)
        nfa.skip(nfa.embed(body, loop), loop)
        ends.append(loop)
    else:
        for _ in range(high - low):
            end = nfa.embed(body, end)
            ends.append(end)
    return nfa.determinise(start, ends)


@functools.cache
def any_bytes() -> Dfa:
    """All byte strings."""
    return star(of_ranges((0, 255)))


@functools.cache
def any_char() -> Dfa:
    """One character in UTF-8."""
    return chars((0, 0x10FFFF))


@functools.cache
def any_text() -> Dfa:
    """All strings that are valid UTF-8: complements of texts are taken within it (`any_text() - x`)."""
    return star(any_char())


@functools.lru_cache(maxsize=256)
def chars(*ranges: tuple[int, int]) -> Dfa:
    """One character out of any of the ranges of code points (both ends included), in UTF-8; no surrogates."""
    nfa = Nfa()
    start, end = nfa.state(), nfa.state()
    add_chars(nfa, ranges, start, end)
    return nfa.determinise(start, [end])


_Sequence = tuple[tuple[int, int], ...]
"""Ranges of the bytes of some characters, one after another."""


def add_chars(nfa: Nfa, ranges: Iterable[tuple[int, int]], start: int, end: int) -> None:
    """Edges from `start` to `end` over the UTF-8 of the code points.

    Sequences that begin alike go on in one state, and so do those whose tails are equal: of ranges that do not overlap
    these edges are deterministic.
    """
    states: dict[tuple[_Sequence, ...], int] = {}

    def add(sequences: Iterable[_Sequence], state: int) -> None:
        tails: dict[tuple[int, int], list[_Sequence]] = {}
        for first, *tail in sequences:
            tails.setdefault(first, []).append(tuple(tail))
        for first, found in tails.items():
            key = tuple(filter(None, found))
            if len(key) < len(found):
                nfa.edge(state, *first, end)
            if key and key not in states:
                states[key] = nfa.state()
                add(key, states[key])
            if key:
                nfa.edge(state, *first, states[key])

    add((sequence for low, high in ranges for sequence in utf8_ranges(low, high)), start)
