"""From sets of texts to the JSON strings that write them.

Every text has exactly one spelling: `"` and `\\` and the control characters are escaped (short escapes where JSON has
them, else \\u00xx in lower case), all else stands for itself. So two strings are equal exactly if their bytes are.
"""

import functools
from json.encoder import encode_basestring

import numpy as np
import numpy.typing as npt

from branchwork.runtime.grammar.dfa import DEAD, Dfa, any_char, any_text, make

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
    reached = {phase: {inside.start} if phase == "char" else set[int]() for phase in _PHASES}
    waiting = [("char", inside.start)]
    while waiting:
        phase, state = waiting.pop()
        row = inside.table[state, inside.classes]
        for low, high, following in _PHASES[phase]:
            for target in np.unique(row[low : high + 1]).tolist():
                if target != DEAD and target not in reached[following]:
                    reached[following].add(target)
                    waiting.append((following, target))
    within = set().union(*(states for phase, states in reached.items() if phase != "char"))
    if not within.isdisjoint(reached["char"]):
        return None
    return tuple(state in reached["char"] for state in range(inside.num_states))


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
    """A table with, beside each state, the states in the middle of an escape.

    Which escapes may follow depends only on where the special characters lead, so states that agree there share.
    """
    count = texts.num_states
    column, bytes_of = _columns(texts)
    special = texts.table[:, texts.classes[list(_SPECIAL)]]
    kinds, kind_of = np.unique(special, axis=0, return_inverse=True)
    table = np.zeros((count + 2 + 6 * len(kinds), len(bytes_of)), np.int32)
    table[:count] = texts.table[:, texts.classes[bytes_of]]
    table[:count, column[list(_SPECIAL)]] = DEAD
    first, end = count, count + 1
    for kind, targets in enumerate(kinds.tolist()):
        if not any(targets):
            continue
        leads_to = dict(zip(_SPECIAL, targets, strict=True))
        escape = count + 2 + 6 * kind
        table[np.flatnonzero(kind_of == kind), column[0x5C]] = escape
        for byte, letter in _SHORT.items():
            table[escape, column[letter[0]]] = leads_to[byte]
        for row, digit, target in ((0, "u", 1), (1, "0", 2), (2, "0", 3), (3, "0", 4), (3, "1", 5)):
            table[escape + row, column[ord(digit)]] = escape + target
        for byte in _LONG:
            table[escape + 4 + (byte >> 4), column[ord(f"{byte & 15:x}")]] = leads_to[byte]
    accepting = np.zeros(len(table), np.bool_)
    if not quotes:
        accepting[:count] = texts.accepting
        return make(column, table, accepting, texts.start)
    table[first, column[0x22]] = texts.start
    table[:count, column[0x22]][texts.accepting] = end
    accepting[end] = True
    return make(column, table, accepting, first)


def _columns(texts: Dfa) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The column of each byte, such that all that an escape needs is told apart, and one byte of each column."""
    own = np.zeros(256, np.int64)
    telling = sorted(
        {*_SPECIAL, *b"\\u0123456789abcdef", *(letter[0] for letter in _SHORT.values())}
    )
    own[telling] = np.arange(1, len(telling) + 1)
    _, first, classes = np.unique(texts.classes + 256 * own, return_index=True, return_inverse=True)
    return classes.astype(np.uint8), first
