"""From sets of texts to the JSON strings that write them.

Every text has exactly one spelling: `"` and `\\` and the control characters are escaped (short escapes where JSON has
them, else \\u00xx in lower case), all else stands for itself. So two strings are equal exactly if their bytes are.
"""

import functools
from json.encoder import encode_basestring

import numpy as np
import numpy.typing as npt

from branchwork.runtime.grammar.dfa import DEAD, Dfa, any_char, any_text, numbered

_SHORT = {0x08: b"b", 0x09: b"t", 0x0A: b"n", 0x0C: b"f", 0x0D: b"r", 0x22: b'"', 0x5C: b"\\"}
_SPECIAL = (*range(0x20), 0x22, 0x5C)
_LONG = tuple(byte for byte in range(0x20) if byte not in _SHORT)


def quote(text: str) -> bytes:
    """The JSON string for `text`, quotes included."""
    return encode_basestring(text).encode()


def quoted(texts: Dfa) -> Dfa:
    """The JSON strings, quotes included, for a set of texts."""
    return _escape(texts, quotes=True)


def written(texts: Dfa) -> Dfa:
    """The insides of the JSON strings for a set of texts."""
    return _escape(texts, quotes=False)


def char_boundaries(inside: Dfa) -> tuple[bool, ...] | None:
    """For each state of the insides of JSON strings, whether a whole character has just been read there.

    None where a state can be both: within a character, and after one.
    """
    reached = {phase: np.zeros(inside.num_states, np.bool_) for phase in _PHASES}
    fresh = {"char": np.arange(inside.num_states) == inside.start}
    while fresh:
        phase, states = fresh.popitem()
        reached[phase] |= states
        rows = inside.table[states]
        for low, high, following in _PHASES[phase]:
            targets = np.zeros(inside.num_states, np.bool_)
            targets[rows[:, np.unique(inside.classes[low : high + 1])]] = True
            targets[DEAD] = False
            targets &= ~reached[following]
            if targets.any():
                fresh[following] = fresh.get(following, False) | targets
    boundaries = reached.pop("char")
    if any((boundaries & within).any() for within in reached.values()):
        return None
    return tuple(boundaries.tolist())


# What is being read, and by which bytes it goes on to what: UTF-8 and the escapes of `_escape`.
_PHASES: dict[str, tuple[tuple[int, int, str], ...]] = {
    "char": (
        (0x20, 0x21, "char"), (0x23, 0x5B, "char"), (0x5D, 0x7F, "char"), (0x5C, 0x5C, "escape"),
        (0xC2, 0xDF, "last byte"), (0xE0, 0xEF, "two bytes"), (0xF0, 0xF4, "three bytes"),
    ),
    "last byte": ((0x80, 0xBF, "char"),),
    "two bytes": ((0x80, 0xBF, "last byte"),),
    "three bytes": ((0x80, 0xBF, "two bytes"),),
    "escape": ((0x20, 0x74, "char"), (0x75, 0x75, "\\u")),
    "\\u": ((0x30, 0x30, "\\u0"),),
    "\\u0": ((0x30, 0x30, "\\u00"),),
    "\\u00": ((0x30, 0x31, "\\u00x"),),
    "\\u00x": ((0x30, 0x66, "char"),),
}  # fmt: skip


@functools.cache
def any_quoted() -> Dfa:
    """All JSON strings."""
    return quoted(any_text())


@functools.cache
def written_char() -> Dfa:
    """One character of a JSON string as it is written."""
    return _escape(any_char(), quotes=False)


def _escape(texts: Dfa, *, quotes: bool) -> Dfa:
    """A table with, beside the states of `texts`, states in the middle of an escape.

    Which escapes may follow depends only on where the special characters lead, so states that agree there share.
    What is minimal stays so, but that the middle of an escape is never merged with the end of a character.
    """
    count = texts.num_states
    column, bytes_of = _columns(texts)
    special = texts.table[:, texts.classes[list(_SPECIAL)]]
    kinds, kind_of = np.unique(special, axis=0, return_inverse=True)
    escapes = _Escapes(first=count)
    escape_of = np.array([escapes.add(targets) for targets in kinds.tolist()], np.int32)
    end = count + len(escapes.rows)
    table = np.zeros((end + 2, len(bytes_of)), np.int32)
    table[:count] = texts.table[:, texts.classes[bytes_of]]
    table[:count, column[list(_SPECIAL)]] = DEAD
    table[:count, column[0x5C]] = escape_of[kind_of]
    for row, edges in zip(table[count:end], escapes.rows, strict=True):
        row[column[[byte for byte, _ in edges]]] = [target for _, target in edges]
    accepting = np.zeros(end + 2, np.bool_)
    if texts.is_empty or not quotes:
        accepting[:count] = texts.accepting
        return numbered(column, table, accepting, texts.start)
    table[end + 1, column[0x22]] = texts.start
    table[:count, column[0x22]][texts.accepting] = end
    accepting[end] = True
    return numbered(column, table, accepting, end + 1)


class _Escapes:
    """States in the middle of an escape, each with its edges; equal ones are one state."""

    def __init__(self, first: int) -> None:
        self.rows: list[tuple[tuple[int, int], ...]] = []
        self._first = first
        self._known: dict[tuple[tuple[int, int], ...], int] = {(): DEAD}

    def add(self, targets: list[int]) -> int:
        """The state behind a backslash, from which the special characters lead to `targets`."""
        leads_to = dict(zip(_SPECIAL, targets, strict=True))
        low, high = (
            self._state([(ord(f"{b & 15:x}"), leads_to[b]) for b in _LONG if b >> 4 == half])
            for half in (0, 1)
        )
        state = self._state([(ord("0"), low), (ord("1"), high)])
        for _ in range(2):
            state = self._state([(ord("0"), state)])
        short = [(letter[0], leads_to[byte]) for byte, letter in _SHORT.items()]
        return self._state([*short, (ord("u"), state)])

    def _state(self, edges: list[tuple[int, int]]) -> int:
        live = tuple((byte, target) for byte, target in edges if target != DEAD)
        if live not in self._known:
            self._known[live] = self._first + len(self.rows)
            self.rows.append(live)
        return self._known[live]


def _columns(texts: Dfa) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The column of each byte, such that all that an escape needs is told apart, and one byte of each column."""
    own = np.zeros(256, np.int64)
    telling = sorted(
        {*_SPECIAL, *b"\\u0123456789abcdef", *(letter[0] for letter in _SHORT.values())}
    )
    own[telling] = np.arange(1, len(telling) + 1)
    _, first, classes = np.unique(texts.classes + 256 * own, return_index=True, return_inverse=True)
    return classes.astype(np.uint8), first
