"""Stop strings and stop patterns as automata over bytes, fed as the text grows.

Every byte may begin a stop, so each is a thread: a state and where it began. Threads in the same state have the same
future, and the one that began first stands for all (as in a Thompson simulation); there are never more threads than
states, and mostly there is none.
"""

from dataclasses import dataclass

from branchwork.runtime.grammar import dfa
from branchwork.runtime.grammar.dfa import Dfa
from branchwork.runtime.grammar.regex import stop_dfa
from branchwork.runtime.wire.errors import ConstraintError


@dataclass(frozen=True, slots=True)
class StopHit:
    """A stop that has come to its end: bytes [start, end) of all that was fed, and which stop it is."""

    start: int
    end: int
    matched: str


class StopScanner:
    """Finds the stop that ends first; among those that end together, the one that began first.

    Raises ConstraintError for a pattern that cannot be compiled, or that matches the empty text.
    """

    def __init__(self, strings: tuple[str, ...], patterns: tuple[str, ...] = ()) -> None:
        self._stops: list[tuple[str, _Table]] = []
        if any(not text for text in strings):
            raise ConstraintError("a stop string must not be empty", "stop")
        for text in strings:
            self._stops.append((text, _Table(dfa.literal(text.encode()))))
        for pattern in patterns:
            language = stop_dfa(pattern)
            if language.has_empty_string:
                raise ConstraintError(
                    f"the stop pattern {pattern[:60]!r} matches the empty text", "stop_regex"
                )
            self._stops.append((pattern, _Table(language)))
        self._threads: list[dict[int, int]] = [{} for _ in self._stops]
        self._fed = 0

    @property
    def held(self) -> int:
        """How many of the last bytes may still turn out to begin a stop, and so must not be shown."""
        starts = [start for threads in self._threads for start in threads.values()]
        return self._fed - min(starts) if starts else 0

    def feed(self, data: bytes) -> StopHit | None:
        """Read more of the text; the first stop in it, if there is one (the scanner is then done)."""
        for byte in data:
            hit: StopHit | None = None
            for index, (name, table) in enumerate(self._stops):
                threads = self._threads[index]
                if not threads and not table.begins[byte]:
                    continue
                moved, start = table.move(threads, byte, self._fed)
                self._threads[index] = moved
                if start is not None and (hit is None or start < hit.start):
                    hit = StopHit(start, self._fed + 1, name)
            self._fed += 1
            if hit is not None:
                return hit
        return None

    def copy(self) -> "StopScanner":
        """An independent scanner at the same place."""
        other = StopScanner.__new__(StopScanner)
        other._stops = self._stops
        other._threads = [dict(threads) for threads in self._threads]
        other._fed = self._fed
        return other


class _Table:
    """An automaton as lists, which plain Python reads fastest."""

    def __init__(self, language: Dfa) -> None:
        self.classes = language.classes.tolist()
        self.rows = language.table.tolist()
        self.accepting = language.accepting.tolist()
        self.start = language.start
        self.begins = (language.table[language.start][language.classes] != dfa.DEAD).tolist()

    def move(
        self, threads: dict[int, int], byte: int, here: int
    ) -> tuple[dict[int, int], int | None]:
        """The threads after a byte, in order of their starts, and where a match that ends with it began."""
        column = self.classes[byte]
        moved: dict[int, int] = {}
        found: int | None = None
        for state, start in (*threads.items(), (self.start, here)):
            target = self.rows[state][column]
            if target == dfa.DEAD or target in moved:
                continue
            moved[target] = start
            if self.accepting[target] and found is None:
                found = start
        return moved, found
