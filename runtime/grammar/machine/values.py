"""Sets of configurations as values, and what moves them.

Between calls a set is a value: [num_configs, num_nodes, flags, configurations..., nodes...], its nodes renumbered in
order, so that equal sets mostly are equal bytes. Flags: 1, the text may end here because of something that ended
with its last byte; 2, what may follow depends on the text (a RECORD or something seen).
"""

from branchwork.runtime.grammar.machine.jit import (
    compiled,
    int64,
)
from branchwork.runtime.grammar.machine.program import (
    NO_BYTE,
    RECORD,
    Bytes,
    Code,
    Words,
)
from branchwork.runtime.grammar.machine.stack import (
    ASSUME_NEW,
    CONFIGS,
    ENDED,
    FAILED,
    FOUND_FROM,
    FOUND_TO,
    FUEL,
    MEMO,
    MEMO_SIZE,
    MEMO_WORDS,
    NODE_WORDS,
    NODES,
    NUM_CONFIGS,
    NUM_COSTS,
    NUM_NODES,
    PROGRAM,
    TABLE,
    TEXT_READ,
    TEXTUAL,
    TOP,
    WALK_FROM,
    begin_place,
)
from branchwork.runtime.grammar.machine.steps import (
    FUEL_PER_CALL,
    arrive,
    close_over,
    enter_calls,
    only_byte,
    step,
)


@compiled
def reset(code: Code, w: Words) -> None:
    """An empty workspace (node 0 is the empty stack) for the program whose number is in code[0]."""
    w[NUM_NODES], w[NUM_CONFIGS], w[ENDED], w[FAILED], w[TEXTUAL], w[TOP] = 1, 0, 0, 0, 0, 0
    w[FUEL], w[ASSUME_NEW], w[WALK_FROM], w[TEXT_READ] = FUEL_PER_CALL, 0, 0, 0
    w[NUM_COSTS] = 1
    if w[PROGRAM] != code[0]:
        w[PROGRAM] = code[0]
        for i in range(MEMO_SIZE):
            w[MEMO + MEMO_WORDS * i] = 0
    for i in range(NODE_WORDS):
        w[NODES + i] = 0


@compiled
def load(code: Code, w: Words, state: Words) -> None:
    """Put a value into an empty workspace: its set is [0, num_configs)."""
    reset(code, w)
    num_configs, num_nodes = state[0], state[1]
    w[NUM_CONFIGS], w[NUM_NODES], w[ENDED] = num_configs, num_nodes + 1, state[2] & 1
    for i in range(3 * num_configs):
        w[CONFIGS + i] = state[3 + i]
    base = 3 + 3 * num_configs
    for i in range(NODE_WORDS * num_nodes):
        w[NODES + NODE_WORDS + i] = state[base + i]


@compiled
def store(w: Words, begin: int, end: int, out: Words) -> int:
    """Write the set [begin, end) as a value; returns its length in words, or 0 if `out` is too short."""
    highest = w[NUM_NODES]
    # The table is not in use between steps: it holds which nodes are reached, then their new numbers.
    for i in range(highest):
        w[TABLE + i] = 0
    for i in range(begin, end):
        w[TABLE + w[CONFIGS + 3 * i + 2]] = 1
    for i in range(highest - 1, 0, -1):
        if w[TABLE + i]:
            w[TABLE + w[NODES + NODE_WORDS * i + 2]] = 1
            w[TABLE + w[NODES + NODE_WORDS * i + 3]] = 1
    w[TABLE] = 0
    num_nodes, num_configs, textual = 0, end - begin, 0
    base = 3 + 3 * num_configs
    for i in range(1, highest):
        if w[TABLE + i]:
            if base + NODE_WORDS * (num_nodes + 1) > len(out):
                return 0
            p, q = base + NODE_WORDS * num_nodes, NODES + NODE_WORDS * i
            num_nodes += 1
            textual |= w[q] & 3 == RECORD
            out[p], out[p + 1] = w[q], w[q + 1]
            out[p + 2], out[p + 3] = w[TABLE + w[q + 2]], w[TABLE + w[q + 3]]
            out[p + 4] = w[q + 4]
            w[TABLE + i] = num_nodes
    if base > len(out):
        return 0
    for i in range(num_configs):
        p = CONFIGS + 3 * (begin + i)
        out[3 + 3 * i], out[4 + 3 * i] = w[p], w[p + 1]
        out[5 + 3 * i] = w[TABLE + w[p + 2]]
    out[0], out[1], out[2] = num_configs, num_nodes, w[ENDED] | textual << 1
    # Stamps must not be taken for epochs.
    for i in range(highest):
        w[TABLE + i] = 0
    return base + NODE_WORDS * num_nodes


@compiled
def begin(code: Code, w: Words, text: Bytes, entry: int, out: Words) -> int:
    """The value of the set at the beginning; its length, 0 on failure."""
    reset(code, w)
    begin_place(w)
    arrive(code, w, text, entry, 0, 0)
    enter_calls(code, w, text, 0)
    return 0 if w[FAILED] else store(w, 0, w[NUM_CONFIGS], out)


@compiled
def run(code: Code, w: Words, text: Bytes, state: Words, data: Bytes, pos: int, out: Words) -> int:
    """Move a value over bytes. Returns the length of the new value, -1 if they may not follow, 0 on failure."""
    load(code, w, state)
    first, last = int64(0), state[0]
    for i in range(len(data)):
        w[FUEL] = FUEL_PER_CALL
        step(code, w, text, first, last, int64(data[i]), pos + i)
        if w[FAILED]:
            return 0
        first, last = w[FOUND_FROM], w[FOUND_TO]
        if first == last and (i + 1 < len(data) or not w[ENDED]):
            return -1
    return store(w, first, last, out)


@compiled
def may_end(code: Code, w: Words, text: Bytes, state: Words, pos: int) -> bool:
    """Whether the text may end at a value."""
    load(code, w, state)
    if not w[ENDED]:
        close_over(code, w, text, 0, state[0], pos)
    return bool(w[ENDED])


@compiled
def may_go_on(code: Code, w: Words, text: Bytes, state: Words, pos: int) -> bool:
    """Whether any byte may follow at a value."""
    load(code, w, state)
    _, last = close_over(code, w, text, 0, state[0], pos)
    reading = 0
    for i in range(last):
        reading += only_byte(code, w, i) != NO_BYTE
    return reading > 0
