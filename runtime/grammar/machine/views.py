"""What a mask can depend on, where a value depends on the text: its view.

Texts differ, and what was seen in them stands at other places, but a token sees little of that. A view is the value
without positions, with what a walk of at most a token can tell of the text before it:

    of what was seen, the short ones (a longer text cannot begin and end within a walk without TEXT_READ being set)
    of a key or item that is being read, with what it would go on to be one that was seen or declared

Equal views have equal masks, unless the walk says TEXT_READ.
"""

from branchwork.runtime.grammar.machine.jit import (
    compiled,
    int64,
)
from branchwork.runtime.grammar.machine.members import (
    compare_key,
)
from branchwork.runtime.grammar.machine.program import (
    OBJECT,
    OBJECT_WORDS,
    PROPERTY_WORDS,
    RECORD,
    Bytes,
    Code,
    Words,
)
from branchwork.runtime.grammar.machine.stack import (
    MAX_PACKED,
    NODE_WORDS,
    SEEN_MASK,
    SEEN_SHIFT,
)

# Longer views are not worth to be kept.
MAX_VIEW_WORDS = 1 << 12


@compiled
def view(code: Code, text: Bytes, state: Words, pos: int, out: Words) -> int:
    """Write the view of a value at `pos`; returns its length in words, 0 if it is longer than `out`."""
    num_configs, num_nodes = state[0], state[1]
    nodes = 3 + 3 * num_configs
    length = nodes + 4 * num_nodes
    if length > len(out):
        return 0
    for i in range(nodes):
        out[i] = state[i]
    for i in range(num_nodes):
        p, q = nodes + NODE_WORDS * i, nodes + 4 * i
        place, value, parent = state[p], state[p + 1], state[p + 3]
        out[q], out[q + 1], out[q + 2], out[q + 3] = place, value, state[p + 2], parent
        if place & 3 != RECORD:
            continue
        if parent == 0:
            out[q + 1] = packed(text, value >> SEEN_SHIFT, value & SEEN_MASK)
            continue
        out[q + 1] = 0
        frame = nodes + NODE_WORDS * (parent - 1)
        length = seen_rests(text, state, nodes, state[frame + 2], value, pos, out, length)
        length = declared_rests(code, text, state[frame] >> 2, value, pos, out, length)
        if length == len(out):
            return 0
    return int64(length)


@compiled
def packed(text: Bytes, start: int, length: int) -> int:
    """A short text as a number that tells it from all others; 0 for a longer one."""
    if length > MAX_PACKED:
        return int64(0)
    number = int64(1)
    for i in range(length):
        number = number << 8 | text[start + i]
    return number


@compiled
def add(out: Words, length: int, word: int) -> int:
    """Append a word; returns the new length, which is that of `out` where there is no room."""
    if length + 1 >= len(out):
        return int64(len(out))
    out[length] = word
    return length + 1


@compiled
def seen_rests(
    text: Bytes, state: Words, nodes: int, link: int, start: int, pos: int, out: Words, length: int
) -> int:
    """Append how each text of a list goes on that begins with text[start:pos]; returns the new length."""
    while link != 0 and state[nodes + NODE_WORDS * (link - 1)] & 3 != RECORD:
        link = state[nodes + NODE_WORDS * (link - 1) + 2]
    while link != 0:
        p = nodes + NODE_WORDS * (link - 1)
        begin, size, done = state[p + 1] >> SEEN_SHIFT, state[p + 1] & SEEN_MASK, pos - start
        same = size >= done
        for i in range(min(size, done)):
            if text[begin + i] != text[start + i]:
                same = False
                break
        if same:
            length = add(out, length, size - done)
            for i in range(done, size, MAX_PACKED):
                rest = packed(text, begin + i, min(size - i, int64(MAX_PACKED)))
                length = add(out, length, rest)
        link = state[p + 2]
    return add(out, length, -1)


@compiled
def declared_rests(
    code: Code, text: Bytes, owner: int, start: int, pos: int, out: Words, length: int
) -> int:
    """Append which declared keys begin with text[start:pos]; returns the new length."""
    if code[owner] != OBJECT:
        return length
    keys = owner + OBJECT_WORDS + PROPERTY_WORDS * code[owner + 9] + code[owner + 10]
    low, high, done = 0, code[owner + 11], pos - start
    while low < high:
        middle = (low + high) >> 1
        if compare_key(code, code[keys + middle], text, start, pos) > 0:
            low = middle + 1
        else:
            high = middle
    # The keys are sorted, so those that begin with the text stand together, right behind the lesser ones.
    while low < code[owner + 11]:
        lit = code[keys + low]
        if code[lit + 3] < done or compare_key(code, lit, text, start, pos) > 0:
            break
        same = True
        for i in range(done):
            same = same and code[lit + 4 + i] == text[start + i]
        if not same:
            break
        length = add(out, length, int64(low) << 32 | done)
        low += 1
    return add(out, length, -2)
