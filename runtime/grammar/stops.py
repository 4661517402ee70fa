"""Stop strings and stop patterns as automata over bytes, fed as the text grows.

A string is found as Knuth, Morris and Pratt do. Every byte may begin a match of a pattern, so each is a thread: a state
and where it began. Threads in the same state have the same future, and the one that began first stands for all (as in
a Thompson simulation); mostly there is none. Patterns are compiled out of the way, in the compiler's child.
"""

import copy
import functools
from dataclasses import dataclass

import msgspec

from branchwork.runtime.wire.errors import ConstraintError
from branchwork.runtime.wire.messages import Message

# Threads of one pattern that are followed at a time: each costs 0.1 us a byte, on the engine's thread.
MAX_THREADS = 256

DEAD = 0


class StopPattern(Message, frozen=True, tag="stop_pattern"):
    """What the compiler is asked for: the automaton of a pattern that ends a slot."""

    pattern: str


class StopTable(msgspec.Struct, frozen=True):
    """A stop pattern's automaton in plain lists, which Python reads fastest. State 0 is dead.

    `classes` has a byte's column for each of the 256 bytes, `begins` whether a match can begin with it.
    """

    pattern: str
    classes: bytes
    rows: list[list[int]]
    accepting: list[bool]
    start: int
    begins: list[bool]

    @property
    def size_bytes(self) -> int:
        """About the memory held."""
        return 8 * len(self.rows) * (len(self.rows[0]) + 8)


@dataclass(frozen=True, slots=True)
class StopHit:
    """A stop that has come to its end: bytes [start, end) of all that was fed, and which stop it is."""

    start: int
    end: int
    matched: str


class StopScanner:
    """Finds the stop that ends first; among those that end together, the one that began first.

    Raises ConstraintError for an empty string; `feed` raises it where a pattern has too many readings of the text.
    """

    def __init__(self, strings: tuple[str, ...], patterns: tuple[StopTable, ...] = ()) -> None:
        self._searches: list[_StringSearch | _PatternSearch] = [
            *map(_StringSearch, strings),
            *map(_PatternSearch, patterns),
        ]

    @property
    def held(self) -> int:
        """How many of the last bytes may still turn out to begin a stop, and so must not be shown."""
        return max((search.held for search in self._searches), default=0)

    def feed(self, data: bytes) -> StopHit | None:
        """Read more of the text; the first stop in it, if there is one (the scanner is then done)."""
        hits = [hit for search in self._searches if (hit := search.feed(data)) is not None]
        return min(hits, key=lambda hit: (hit.end, hit.start), default=None)

    def copy(self) -> "StopScanner":
        """An independent scanner at the same place."""
        other = StopScanner(())
        other._searches = [copy.copy(search) for search in self._searches]
        return other


class _StringSearch:
    """Knuth, Morris, Pratt (1977): `held` bytes of the string have been read, as many as can be."""

    def __init__(self, text: str) -> None:
        if not text:
            raise ConstraintError("a stop string must not be empty", "stop")
        self._text = text
        self._data = text.encode()
        self._borders = _borders(text)
        self._fed = 0
        self.held = 0

    def feed(self, data: bytes) -> StopHit | None:
        """Read more; the string's first occurrence."""
        wanted, borders, held = self._data, self._borders, self.held
        if not held and wanted[0] not in data:
            self._fed += len(data)
            return None
        for byte in data:
            self._fed += 1
            while held and wanted[held] != byte:
                held = borders[held]
            held += wanted[held] == byte
            if held == len(wanted):
                return StopHit(self._fed - held, self._fed, self._text)
        self.held = held
        return None


@functools.lru_cache(maxsize=256)
def _borders(text: str) -> list[int]:
    """For each length of a beginning of the text, how long a shorter one it ends with (in bytes)."""
    data = text.encode()
    borders, border = [0, 0], 0
    for byte in data[1:]:
        while border and data[border] != byte:
            border = borders[border]
        border += data[border] == byte
        borders.append(border)
    return borders


class _PatternSearch:
    """Threads through a pattern's automaton: states, in the order of the places where they began."""

    def __init__(self, table: StopTable) -> None:
        self._table = table
        self._threads: dict[int, int] = {}
        self._fed = 0

    @property
    def held(self) -> int:
        """Bytes since the first thread that lives began."""
        return self._fed - min(self._threads.values(), default=self._fed)

    def feed(self, data: bytes) -> StopHit | None:
        """Read more; the pattern's first possible end."""
        begins = self._table.begins
        for byte in data:
            start = self._move(byte) if self._threads or begins[byte] else None
            self._fed += 1
            if start is not None:
                return StopHit(start, self._fed, self._table.pattern)
        return None

    def _move(self, byte: int) -> int | None:
        """Follow all threads over a byte; where a match that ends with it began."""
        table, moved = self._table, dict[int, int]()
        column, found = table.classes[byte], None
        for state, start in (*self._threads.items(), (table.start, self._fed)):
            target = table.rows[state][column]
            if target == DEAD or target in moved:
                continue
            moved[target] = start
            if found is None and table.accepting[target]:
                found = start
        if len(moved) > MAX_THREADS:
            raise ConstraintError(
                f"the stop pattern {table.pattern[:60]!r} may have begun at too many places",
                "stop_regex",
            )
        self._threads = moved
        return found
