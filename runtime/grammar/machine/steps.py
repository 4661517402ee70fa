"""The stack machine: sets of configurations over a program, moved byte by byte.

A configuration is (address, x, node): an operation that reads bytes, how far it is in it (the index in a LIT, the
state of a DFA; in CHARS state | count << 24), and the top of its stack. Stacks are linked nodes that share their
tails, and a rule that several call at one place is read once for all of them (a recursive transition network with a
graph of stacks, as in generalised LL parsing). A set is deduplicated, and every arrival costs fuel. All of it lives in
one workspace `w` (see `stack`).

`text` holds the bytes matched so far, and room behind them; positions in it are absolute.
"""

from branchwork.runtime.grammar.machine.jit import (
    compiled,
    int64,
)
from branchwork.runtime.grammar.machine.members import (
    choose,
    finish_record,
    may_close,
)
from branchwork.runtime.grammar.machine.piece import (
    flags_of,
    move,
    need_of,
)
from branchwork.runtime.grammar.machine.program import (
    ACCEPTING,
    ALT,
    ARRAY,
    CALL,
    CALLED,
    CHARS,
    CHOOSE,
    COUNTS,
    DFA,
    LEAVE,
    LIT,
    LOOP,
    LOOPING,
    MANY_BYTES,
    MEMBERS,
    NO_BYTE,
    NONE,
    OBJECT,
    OWNER,
    RET,
    Bytes,
    Code,
    Words,
)
from branchwork.runtime.grammar.machine.stack import (
    ASSUME_NEW,
    CALL_WORDS,
    CALLS,
    CONFIGS,
    COUNT_SHIFT,
    ENDED,
    ENTERED,
    FAILED,
    FOUND_FROM,
    FOUND_TO,
    FUEL,
    MARK,
    MEMO,
    MEMO_SIZE,
    MEMO_WORDS,
    NODE_WORDS,
    NODES,
    NOT_FIRST,
    NUM_CALLS,
    NUM_CONFIGS,
    NUM_NODES,
    STATE_MASK,
    TEXTUAL,
    TOP,
    WORK,
    begin_place,
    call,
    emit,
    is_fresh,
    later,
    push,
    put,
)

# A byte may cost as many arrivals before the request is refused; 10,000 optional properties cost 10,000.
FUEL_PER_CALL = 1 << 20


@compiled
def begin_loop(code: Code, w: Words, a: int, node: int, begun: int) -> None:
    """A LOOP when `begun` bodies are done: go on behind it, or begin one more."""
    low, high = code[a + 4], code[a + 5]
    if begun >= low:
        later(w, code[a + 2], node)
    if high == NONE:
        later(w, code[a + 3], push(w, 4 * a + LOOPING, min(begun + 1, max(low, 1)), 0, node))
    elif begun < high:
        later(w, code[a + 3], push(w, 4 * a + LOOPING, begun + 1, 0, node))


@compiled
def leave_rule(code: Code, w: Words, node: int) -> None:
    """RET: go to where the frame on top says; where several have called the rule, back to each."""
    if node == 0:
        w[ENDED] = 1
        return
    p = NODES + NODE_WORDS * node
    address, kind = w[p] >> 2, w[p] & 3
    if kind == CALLED:
        while node != 0:
            p = NODES + NODE_WORDS * node
            later(w, w[p] >> 2, w[p + 3])
            node = w[p + 2]
    elif kind == LOOPING and node < w[MARK]:
        # A frame from this very place means an empty body: the way behind the loop was taken already.
        begin_loop(code, w, address, w[p + 3], w[p + 1])


@compiled
def arrive(code: Code, w: Words, text: Bytes, a: int, node: int, pos: int) -> None:
    """Emit every configuration that can be reached from address `a` before a byte is read at `pos`.

    What is called is not entered yet (`enter_calls`).
    """
    bottom = w[TOP]
    later(w, a, node)
    while w[TOP] > bottom:
        w[TOP] -= 1
        a, node = w[WORK + 2 * w[TOP]], w[WORK + 2 * w[TOP] + 1]
        w[FUEL] -= 1
        if w[FUEL] <= 0 or w[FAILED]:
            w[FAILED] = 1
            w[TOP] = bottom
            return
        op = code[a]
        if op == LIT:
            emit(w, a, 0, node)
        elif op in (DFA, CHARS):
            emit(w, a, int64(code[code[a + 3] + 2]), node)
        elif op == ALT:
            if is_fresh(w, a, -1, node):
                for i in range(code[a + 2]):
                    later(w, code[a + 3 + i], node)
        elif op == CALL:
            call(w, int64(code[a + 3]), int64(code[a + 2]), node)
        elif op == RET:
            leave_rule(code, w, node)
        elif op == LOOP:
            begin_loop(code, w, a, node, 0)
        elif op in (OBJECT, ARRAY):
            later(w, code[a + 3], push(w, 4 * a + OWNER, 0, 0, node))
        elif op == MEMBERS:
            owner = int64(code[a + 2])
            if may_close(code, w, owner, node):
                later(w, code[owner + 4], node)
            if code[a + 3]:
                choose(code, w, owner, node, pos, False)
            elif choose(code, w, owner, node, pos, True):
                later(w, code[owner + 5], node)
        elif op == CHOOSE:
            choose(code, w, int64(code[a + 2]), node, pos, False)
        elif op == LEAVE:
            later(w, code[code[a + 2] + 2], w[NODES + NODE_WORDS * node + 3])
        else:
            finish_record(code, w, text, a, node, pos)


@compiled
def enter_calls(code: Code, w: Words, text: Bytes, pos: int) -> None:
    """Enter what arrivals at `pos` have called: each rule once, with a frame that returns to all who called it.

    A call before a return needs no frame: the rule returns to where its caller would.
    """
    while w[ENTERED] < w[NUM_CALLS] and not w[FAILED]:
        first = w[ENTERED]
        w[ENTERED] += 1
        p = CALLS + CALL_WORDS * first
        target = w[p]
        if target == NOT_FIRST:
            continue
        at, frame = w[p + 3], int64(0)
        is_only = at == first
        while True:
            q = CALLS + CALL_WORDS * at
            w[FUEL] -= 1
            frame = push(w, 4 * w[q + 1] + CALLED, 0, frame, w[q + 2])
            if at == first:
                break
            at = w[q + 3]
        if is_only and code[w[NODES + NODE_WORDS * frame] >> 2] == RET:
            w[NUM_NODES] -= 1
            frame = w[NODES + NODE_WORDS * frame + 3]
        arrive(code, w, text, target, frame, pos)


@compiled
def may_leave(code: Code, a: int, x: int) -> bool:
    """Whether a configuration's operation may be over where it is."""
    if code[a] == DFA:
        return flags_of(code, code[a + 3], x) & ACCEPTING != 0
    if code[a] == CHARS:
        accepting = flags_of(code, code[a + 3], x & STATE_MASK) & ACCEPTING != 0
        return accepting and (x >> COUNT_SHIFT) >= code[a + 4]
    return False


@compiled
def close_over(
    code: Code, w: Words, text: Bytes, begin: int, end: int, pos: int
) -> tuple[int, int]:
    """Append what follows every operation in [begin, end) that may be over; returns the appended range.

    Sets ENDED if the text may end here.
    """
    begin_place(w)
    first = w[NUM_CONFIGS]
    i = begin
    while True:
        if i == end:
            i = first
        if i >= end and i >= w[NUM_CONFIGS]:
            enter_calls(code, w, text, pos)
            if i >= w[NUM_CONFIGS]:
                break
        p = CONFIGS + 3 * i
        a, x, node = w[p], w[p + 1], w[p + 2]
        if may_leave(code, a, x) and is_fresh(w, code[a + 2], -2, node):
            arrive(code, w, text, code[a + 2], node, pos)
        i += 1
    return first, w[NUM_CONFIGS]


@compiled
def can_read(code: Code, w: Words, i: int, byte: int) -> bool:
    """Whether configuration i can read a byte itself."""
    p = CONFIGS + 3 * i
    a, x = w[p], w[p + 1]
    if code[a] == LIT:
        return bool(code[a + 4 + x] == byte)
    piece = code[a + 3]
    state = move(code, piece, x & STATE_MASK, byte)
    if code[a] == DFA or not state or code[a + 5] == NONE:
        return state != 0
    count = x >> COUNT_SHIFT
    if flags_of(code, piece, state) & COUNTS:
        count += 1
    return bool(count + need_of(code, piece, state) <= code[a + 5])


@compiled
def only_byte(code: Code, w: Words, i: int) -> int:
    """The one byte that configuration i can read itself; NO_BYTE for none, MANY_BYTES for several."""
    p = CONFIGS + 3 * i
    a, x = w[p], w[p + 1]
    if code[a] == LIT:
        return int64(code[a + 4 + x])
    piece = code[a + 3]
    if code[a] == DFA or code[a + 5] == NONE or (x >> COUNT_SHIFT) + code[piece + 3] < code[a + 5]:
        return int64(flags_of(code, piece, x & STATE_MASK) >> 8)
    only = int64(NO_BYTE)
    for byte in range(256):
        if can_read(code, w, i, byte):
            if only != NO_BYTE:
                return int64(MANY_BYTES)
            only = int64(byte)
    return only


@compiled
def add_bytes(code: Code, w: Words, i: int, into: int) -> None:
    """Set, in the 8 words at `into`, the bits of the bytes that configuration i can read."""
    only = only_byte(code, w, i)
    if only < NO_BYTE:
        w[into + (only >> 5)] |= int64(1) << (only & 31)
    elif only == MANY_BYTES:
        for byte in range(256):
            if can_read(code, w, i, byte):
                w[into + (byte >> 5)] |= int64(1) << (byte & 31)


@compiled
def first_bytes(code: Code, w: Words, text: Bytes, a: int, node: int, pos: int) -> int:
    """Where in the workspace the 256 bits stand that say which bytes can follow an arrival at `a`.

    Kept in a memo by address and stack. Where the answer depends on the text, it is a superset.
    """
    hashed = w[NODES + NODE_WORDS * node + 4]
    slot = (hashed ^ (hashed >> 9) ^ a) & (MEMO_SIZE - 1)
    p = MEMO + MEMO_WORDS * slot
    key = a * 4 + 1
    if w[p] == key and w[p + 1] == hashed:
        return int64(p + 2)
    w[p], w[p + 1] = key, hashed
    for i in range(8):
        w[p + 2 + i] = 0
    nodes, configs, ended, textual = w[NUM_NODES], w[NUM_CONFIGS], w[ENDED], w[TEXTUAL]
    assume = w[ASSUME_NEW]
    begin_place(w)
    w[ASSUME_NEW] = 1
    arrive(code, w, text, a, node, pos)
    enter_calls(code, w, text, pos)
    end = w[NUM_CONFIGS]
    first, last = close_over(code, w, text, configs, end, pos)
    for i in range(configs, end):
        add_bytes(code, w, i, p + 2)
    for i in range(first, last):
        add_bytes(code, w, i, p + 2)
    w[ASSUME_NEW] = assume
    w[NUM_NODES], w[NUM_CONFIGS], w[ENDED], w[TEXTUAL] = nodes, configs, ended, textual
    return int64(p + 2)


@compiled
def advance(code: Code, w: Words, text: Bytes, i: int, byte: int, pos: int) -> None:
    """Move configuration i over a byte."""
    p = CONFIGS + 3 * i
    a, x, node = w[p], w[p + 1], w[p + 2]
    if code[a] == LIT:
        if code[a + 4 + x] == byte:
            if x + 1 == code[a + 3]:
                arrive(code, w, text, code[a + 2], node, pos + 1)
            else:
                # It has come from this one alone: it is in the set once.
                put(w, a, x + 1, node)
        return
    piece = code[a + 3]
    if code[a] == DFA:
        state = move(code, piece, x, byte)
        if state:
            if flags_of(code, piece, state) >> 8 == NO_BYTE:
                arrive(code, w, text, code[a + 2], node, pos + 1)
            else:
                emit(w, a, int64(state), node)
        return
    state = move(code, piece, x & STATE_MASK, byte)
    if not state:
        return
    count, high = x >> COUNT_SHIFT, code[a + 5]
    if flags_of(code, piece, state) & COUNTS:
        count += 1
        if high == NONE:
            count = min(count, int64(code[a + 4]))
    if high == NONE or count + need_of(code, piece, state) <= high:
        emit(w, a, state | (count << COUNT_SHIFT), node)


@compiled
def step(code: Code, w: Words, text: Bytes, begin: int, end: int, byte: int, pos: int) -> None:
    """Move the set [begin, end) over the byte at `pos`; the new set is [w[FOUND_FROM], w[FOUND_TO]).

    ENDED says whether the text may end behind the byte because of something that ended with it.
    """
    text[pos] = byte
    w[ENDED] = 0
    first = last = w[NUM_CONFIGS]
    leaving = False
    for i in range(begin, end):
        p = CONFIGS + 3 * i
        a = w[p]
        if may_leave(code, a, w[p + 1]):
            bits = first_bytes(code, w, text, int64(code[a + 2]), w[p + 2], pos)
            if (w[bits + (byte >> 5)] >> (byte & 31)) & 1:
                leaving = True
                break
    if leaving:
        first, last = close_over(code, w, text, begin, end, pos)
        w[ENDED] = 0
    begin_place(w)
    for i in range(begin, end):
        advance(code, w, text, i, byte, pos)
    for i in range(first, last):
        advance(code, w, text, i, byte, pos)
    enter_calls(code, w, text, pos + 1)
    w[FOUND_FROM], w[FOUND_TO] = last, w[NUM_CONFIGS]
