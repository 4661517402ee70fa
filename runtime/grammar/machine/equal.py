"""Whether two JSON values in the text are equal: members in any order, blanks anywhere, all else as it is written."""

import numpy as np

from branchwork.runtime.grammar.machine.jit import compiled, int64, makes_arrays
from branchwork.runtime.grammar.machine.program import Bytes

QUOTE, COMMA, BACKSLASH = b'",\\'
BRACKET, BRACE, CLOSES = ord("["), ord("{"), 2
"""What closes an array or an object is two bytes behind what opens it."""
BLANK, TAB, RETURN = b" \t\r"


@compiled
def past_blanks(text: Bytes, i: int) -> int:
    """Where at or behind i something stands that is not blank."""
    while text[i] == BLANK or (TAB <= text[i] <= RETURN):
        i += 1
    return int64(i)


@compiled
def past_string(text: Bytes, i: int) -> int:
    """Behind the JSON string that begins at i."""
    i += 1
    while text[i] != QUOTE:
        i += 2 if text[i] == BACKSLASH else 1
    return int64(i + 1)


@compiled
def opens(byte: int) -> bool:
    """Whether a byte begins an array or an object."""
    return byte in (BRACKET, BRACE)


@compiled
def closes(byte: int) -> bool:
    """Whether a byte ends an array or an object."""
    return byte in (BRACKET + CLOSES, BRACE + CLOSES)


@compiled
def past_value(text: Bytes, i: int) -> int:
    """Behind the JSON value that begins at i, inside of an array or an object."""
    if text[i] == QUOTE:
        return past_string(text, i)
    depth = 0
    while True:
        byte = int64(text[i])
        if byte == QUOTE:
            i = past_string(text, i)
            continue
        if depth == 0 and (byte == COMMA or byte <= BLANK or closes(byte)):
            return int64(i)
        depth += opens(byte)
        depth -= closes(byte)
        i += 1
        if depth == 0 and closes(byte):
            return int64(i)


@compiled
def is_same(text: Bytes, i: int, end: int, j: int) -> bool:
    """Whether the same bytes stand at [i, end) and from j on."""
    k = 0
    while i + k < end and text[i + k] == text[j + k]:
        k += 1
    return i + k == end


@compiled
def value_of_key(text: Bytes, i: int, end: int, j: int) -> int:
    """Where in the object at j the value of the key text[i:end] begins; 0 if it has none (no value begins there)."""
    j = past_blanks(text, j + 1)
    while text[j] != BRACE + CLOSES:
        after = past_string(text, j)
        found = after - j == end - i and is_same(text, i, end, j)
        j = past_blanks(text, past_blanks(text, after) + 1)
        if found:
            return int64(j)
        j = past_blanks(text, past_value(text, j))
        if text[j] == COMMA:
            j = past_blanks(text, j + 1)
    return int64(0)


@compiled
def num_members(text: Bytes, i: int) -> int:
    """How many members the object at i has."""
    i, count = past_blanks(text, i + 1), 0
    while text[i] != BRACE + CLOSES:
        i = past_blanks(text, past_blanks(text, past_string(text, i)) + 1)
        i = past_blanks(text, past_value(text, i))
        if text[i] == COMMA:
            i = past_blanks(text, i + 1)
        count += 1
    return count


@makes_arrays
def is_same_value(text: Bytes, first: int, end: int, other: int) -> bool:
    """Whether two JSON values, of which text[first:end] is one, are equal: members in any order, blanks anywhere."""
    # What is still to be compared; each pair has bytes of its own.
    pending = np.zeros((end - first + 1, 2), np.int64)
    pending[0, 0], pending[0, 1], left = first, other, 1
    while left > 0:
        left -= 1
        i, j = pending[left, 0], pending[left, 1]
        opening = int64(text[i])
        if not opens(opening):
            after, behind = past_value(text, i), past_value(text, j)
            if after - i != behind - j or not is_same(text, i, after, j):
                return False
            continue
        if text[j] != opening:
            return False
        closing, object_at, members = opening + CLOSES, j, 0
        i, j = past_blanks(text, i + 1), past_blanks(text, j + 1)
        while text[i] != closing:
            if opening == BRACE:
                after = past_string(text, i)
                j = value_of_key(text, i, after, object_at)
                if j == 0:
                    return False
                i = past_blanks(text, past_blanks(text, after) + 1)
            elif text[j] == closing:
                return False
            pending[left, 0], pending[left, 1] = i, j
            left += 1
            members += 1
            i, j = past_blanks(text, past_value(text, i)), past_blanks(text, past_value(text, j))
            if text[i] == COMMA:
                i = past_blanks(text, i + 1)
            if text[j] == COMMA:
                j = past_blanks(text, j + 1)
        if opening == BRACE:
            if num_members(text, object_at) != members:
                return False
        elif text[j] != closing:
            return False
    return True
