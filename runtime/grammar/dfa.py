"""Deterministic automata over bytes, and their algebra.

A `Dfa` is always trim (every state is reachable and can still accept), minimal, and numbered breadth first,
so two of them are equal exactly if their languages are: `key` is the identity of the language.
Operations that can explode take their fuel from `MAX_STATES` and raise `TooManyStates`.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from branchwork.runtime.wire.errors import ConstraintError

Table = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

# 20_000: some 8 MB of table at 100 classes; an automaton beyond it belongs on the stack machine.
MAX_STATES = 20_000

DEAD = 0
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

    classes: npt.NDArray[np.uint8]
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
        return _longest(self) is not None

    def strings(self, limit: int) -> tuple[bytes, ...] | None:
        """All accepted strings in order, or None if there are more than `limit`."""
        longest = _longest(self)
        if longest is None:
            return None
        found: list[bytes] = []
        by_state = [_edges_by_byte(row, self.classes) for row in self.table]
        stack = [] if self.is_empty else [(self.start, b"")]
        while stack:
            state, text = stack.pop()
            if self.accepting[state]:
                found.append(text)
                if len(found) > limit:
                    return None
            for byte, target in reversed(by_state[state]):
                stack.append((target, text + bytes((byte,))))
        return tuple(found)

    def shortest(self) -> bytes | None:
        """A shortest accepted string (the first in byte order among them), or None if there is none."""
        distance = self.distances()
        if self.is_empty:
            return None
        state, text = self.start, bytearray()
        while distance[state]:
            for byte, target in _edges_by_byte(self.table[state], self.classes):
                if distance[target] == distance[state] - 1:
                    text.append(byte)
                    state = target
                    break
        return bytes(text)

    def distances(self) -> npt.NDArray[np.int32]:
        """[num_states] int32: bytes from each state to the nearest accepting one; -1 from the dead state."""
        return _distances(self.table, self.accepting)

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
        for state, row in enumerate(self.table):
            for byte, target in _edges_by_byte(row, self.classes):
                for spelling in spellings.get(byte, (bytes((byte,)),)):
                    nfa.path(states[state], spelling, states[target])
        ends = [states[s] for s in np.flatnonzero(self.accepting)]
        return nfa.determinise(states[self.start], ends)


def _edges_by_byte(row: Table, classes: npt.NDArray[np.uint8]) -> list[tuple[int, int]]:
    targets = row[classes]
    return [(int(byte), int(targets[byte])) for byte in np.flatnonzero(targets)]


def _distances(table: Table, accepting: Flags) -> npt.NDArray[np.int32]:
    distance = np.where(accepting, 0, -1).astype(np.int32)
    step = 0
    while True:
        reaches = (distance[table] == step).any(axis=1) & (distance < 0)
        if not reaches.any():
            return distance
        step += 1
        distance[reaches] = step


@functools.lru_cache(maxsize=4096)
def _longest(dfa: Dfa) -> int | None:
    """Length of the longest accepted string, or None if there is no bound.

    States that lead nowhere but to peeled ones are peeled, round by round; what is left, if anything, is a cycle.
    """
    live = dfa.table != DEAD
    left = np.ones(dfa.num_states, np.bool_)
    left[DEAD] = False
    for length in range(dfa.num_states):
        peeled = left & ~(left[dfa.table] & live).any(axis=1)
        if not peeled.any():
            break
        if peeled[dfa.start]:
            return length
        left &= ~peeled
    return None if left.any() else 0


# ------------------------------------------------------------------ normal form


def make(classes: npt.NDArray[np.uint8], table: Table, accepting: Flags, start: int) -> Dfa:
    """The normal form of any deterministic automaton (row 0 dead, not accepting)."""
    table, accepting, start = _trim(table, accepting, start)
    table, accepting, start = _merge_states(table, accepting, start)
    return numbered(classes, table, accepting, start)


def numbered(classes: npt.NDArray[np.uint8], table: Table, accepting: Flags, start: int) -> Dfa:
    """The normal form of an automaton that is trim and minimal already (unreachable states may be left)."""
    classes, table = _merge_classes(classes, table)
    table, accepting, start = _number(table, accepting, start)
    if start == DEAD:
        classes = np.zeros(256, np.uint8)
    return _identified(classes, table, accepting, start)


def _identified(classes: npt.NDArray[np.uint8], table: Table, accepting: Flags, start: int) -> Dfa:
    """A `Dfa` of what is in normal form already."""
    digest = blake2b(classes.tobytes(), digest_size=16)
    digest.update(table.tobytes())
    digest.update(accepting.tobytes())
    return Dfa(classes, table, accepting, start, digest.digest())


def _trim(table: Table, accepting: Flags, start: int) -> tuple[Table, Flags, int]:
    """Send every edge into a state that cannot accept to `DEAD`."""
    useless = _distances(table, accepting) < 0
    if useless[1:].any():
        table = np.where(useless[table], DEAD, table).astype(np.int32)
    return table, accepting, DEAD if useless[start] else start


def _merge_states(table: Table, accepting: Flags, start: int) -> tuple[Table, Flags, int]:
    """Moore's refinement, begun at the distances to acceptance (equal states have equal ones)."""
    _, block = np.unique(_distances(table, accepting), return_inverse=True)
    count = int(block.max()) + 1
    weights = _weights(table.shape[1] + 1)
    while True:
        signature = block * weights[0] + (block[table].astype(np.uint64) * weights[1:]).sum(
            axis=1, dtype=np.uint64
        )
        _, first, block = np.unique(signature, return_index=True, return_inverse=True)
        if len(first) == count:
            break
        count = len(first)
    # The dead state keeps number 0: swap its block there.
    order = np.arange(count)
    dead = block[DEAD]
    order[dead], order[0] = 0, dead
    block, first = order[block], first[order]
    return block[table[first]].astype(np.int32), accepting[first], int(block[start])


@functools.cache
def _weights(count: int) -> npt.NDArray[np.uint64]:
    # Signatures are compared by a random linear form modulo 2**64, fixed for reproducible keys.
    random = np.random.default_rng(20_240_517)
    return random.integers(1, 1 << 63, count, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def _merge_classes(
    classes: npt.NDArray[np.uint8], table: Table
) -> tuple[npt.NDArray[np.uint8], Table]:
    """Bytes that no state tells apart share a column; columns are in the order of their first bytes."""
    number: dict[bytes, int] = {}
    columns = np.ascontiguousarray(table.T)
    kept: list[int] = []
    rename = np.full(len(columns), -1, np.int64)
    for column in classes[np.sort(np.unique(classes, return_index=True)[1])]:
        content = columns[column].tobytes()
        if content not in number:
            number[content] = len(kept)
            kept.append(int(column))
        rename[column] = number[content]
    return rename[classes].astype(np.uint8), np.ascontiguousarray(columns[kept].T)


def _number(table: Table, accepting: Flags, start: int) -> tuple[Table, Flags, int]:
    """Breadth-first numbers from the start; unreachable states go."""
    if start == DEAD:
        return np.zeros((1, 1), np.int32), np.zeros(1, np.bool_), DEAD
    number = [-1] * len(table)
    number[DEAD], number[start] = DEAD, 1
    order = [DEAD, start]
    rows = table.tolist()
    for state in order:
        for target in rows[state]:
            if number[target] < 0:
                number[target] = len(order)
                order.append(target)
    rename = np.array(number, np.int32)
    return rename[table[order]], accepting[order], 1


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
        states = [self.state() for _ in range(dfa.num_states)]
        end = self.state()
        self.skip(source, states[dfa.start])
        bounds = np.flatnonzero(np.diff(dfa.classes)) + 1
        lows = [0, *bounds.tolist()]
        highs = [*(bounds - 1).tolist(), 255]
        for state in range(1, dfa.num_states):
            row = dfa.table[state].tolist()
            for low, high in zip(lows, highs, strict=True):
                target = row[dfa.classes[low]]
                if target != DEAD:
                    self.edge(states[state], low, high, states[target])
            if dfa.accepting[state]:
                self.skip(states[state], end)
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
        """The same language as a `Dfa` (subset construction, breadth first)."""
        limit = MAX_STATES if max_states is None else max_states
        classes, columns = self._classes()
        edges = [
            [(columns[low], columns[high + 1], target) for low, high, target in state]
            for state in self._edges
        ]
        width, final = columns[256], frozenset(ends)
        closures: dict[int, frozenset[int]] = {}
        first = self._closure(start, closures)
        numbers, order, rows = {first: 1}, [first], [[DEAD] * width]
        for subset in order:
            moves: list[set[int] | None] = [None] * width
            for state in subset:
                for low, high, target in edges[state]:
                    for column in range(low, high):
                        reached = moves[column]
                        if reached is None:
                            moves[column] = {target}
                        else:
                            reached.add(target)
            row, known = [DEAD] * width, dict[frozenset[int], int]()
            for column, targets in enumerate(moves):
                if targets is None:
                    continue
                number = known.get(frozen := frozenset(targets))
                if number is None:
                    full = frozenset().union(*(self._closure(t, closures) for t in targets))
                    if not self._absorbing.isdisjoint(full):
                        full = full & self._absorbing
                    number = known[frozen] = numbers.setdefault(full, len(numbers) + 1)
                    if number > len(order):
                        order.append(full)
                row[column] = number
            rows.append(row)
            if len(order) > limit:
                raise TooManyStates(f"the automaton has more than {limit} states")
        accepting = np.array([False, *(not final.isdisjoint(subset) for subset in order)])
        return make(classes, np.array(rows, np.int32), accepting, 1)

    def _closure(self, state: int, known: dict[int, frozenset[int]]) -> frozenset[int]:
        found = known.get(state)
        if found is None:
            seen, stack = {state}, [state]
            while stack:
                for target in self._empty[stack.pop()]:
                    if target not in seen:
                        seen.add(target)
                        stack.append(target)
            found = known[state] = frozenset(seen)
        return found

    def _classes(self) -> tuple[npt.NDArray[np.uint8], dict[int, int]]:
        cuts = {0, 256}
        for state in self._edges:
            for low, high, _ in state:
                cuts.add(low)
                cuts.add(high + 1)
        ordered = sorted(cuts)
        classes = np.zeros(256, np.uint8)
        for column, (low, high) in enumerate(itertools.pairwise(ordered)):
            classes[low:high] = column
        return classes, {cut: column for column, cut in enumerate(ordered)}


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
        common = _common_prefix(previous, string)
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


def _common_prefix(a: bytes, b: bytes) -> int:
    length = min(len(a), len(b))
    return next((index for index in range(length) if a[index] != b[index]), length)


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
    classes, table = _merge_classes(classes, table)
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


def add_chars(nfa: Nfa, ranges: Iterable[tuple[int, int]], start: int, end: int) -> None:
    """Edges from `start` to `end` over the UTF-8 of the code points; equal tails share their states."""
    tails: dict[tuple[tuple[int, int], ...], int] = {(): end}
    for low, high in ranges:
        for sequence in utf8_ranges(low, high):
            target = end
            for index in range(len(sequence) - 1, 0, -1):
                tail = sequence[index:]
                if tail not in tails:
                    tails[tail] = nfa.state()
                    nfa.edge(tails[tail], *sequence[index], target)
                target = tails[tail]
            nfa.edge(start, *sequence[0], target)


@functools.lru_cache(maxsize=65_536)
def utf8_ranges(low: int, high: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """The code points as sequences of byte ranges, shortest first (as in RE2's UTF-8 compilation)."""
    found: list[tuple[tuple[int, int], ...]] = []
    stack = [(low, high)]
    while stack:
        low, high = stack.pop()
        if low > high:
            continue
        if low <= 0xDFFF and high >= 0xD800:
            stack += [(0xE000, high), (low, 0xD7FF)]
            continue
        cut = _utf8_cut(low, high)
        if cut is not None:
            stack += [(cut + 1, high), (low, cut)]
            continue
        found.append(tuple(zip(chr(low).encode(), chr(high).encode(), strict=True)))
    return tuple(found)


def _utf8_cut(low: int, high: int) -> int | None:
    """Where a range must be cut so that its encodings form one product of byte ranges; None if they do."""
    for last_of_length in (0x7F, 0x7FF, 0xFFFF):
        if low <= last_of_length < high:
            return last_of_length
    if high <= 0x7F:
        return None
    for bits in (6, 12, 18):
        mask = (1 << bits) - 1
        if low & ~mask != high & ~mask:
            if low & mask:
                return low | mask
            if high & mask != mask:
                return (high & ~mask) - 1
    return None
