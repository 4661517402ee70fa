"""What the machine already knows: forced bytes, and the shortest way to an end."""

from branchwork.runtime.grammar.machine.jit import (
    compiled,
    int64,
)
from branchwork.runtime.grammar.machine.members import (
    may_close,
    object_count,
    required_left,
)
from branchwork.runtime.grammar.machine.piece import (
    move,
)
from branchwork.runtime.grammar.machine.program import (
    ARRAY_WORDS,
    CALLED,
    CHOOSE,
    COST_LIMIT,
    COUNTED,
    DFA,
    FREE_ORDER,
    LEAVE,
    LIT,
    LOOPING,
    NO_BYTE,
    OBJECT,
    OBJECT_WORDS,
    OWNER,
    PIECE_HEAD,
    PROPERTY_WORDS,
    Bytes,
    Code,
    Words,
)
from branchwork.runtime.grammar.machine.seen import (
    has_come,
)
from branchwork.runtime.grammar.machine.stack import (
    CONFIGS,
    COSTS,
    COUNT_SHIFT,
    ENDED,
    FAILED,
    FIELD_MASK,
    FIELD_SHIFT,
    FOUND_FROM,
    FOUND_TO,
    FUEL,
    NODE_WORDS,
    NODES,
    NUM_COSTS,
    NUM_NODES,
    STATE_MASK,
)
from branchwork.runtime.grammar.machine.steps import (
    FUEL_PER_CALL,
    close_over,
    only_byte,
    step,
)
from branchwork.runtime.grammar.machine.values import (
    load,
)

NO_CHOICE, A_CHOICE = -1, -2


@compiled
def common_byte(code: Code, w: Words, i: int, known: int) -> int:
    """The one byte that `known` and configuration i allow: NO_CHOICE for none, A_CHOICE for several."""
    byte = only_byte(code, w, i)
    if byte == NO_BYTE:
        return known
    return byte if byte < NO_BYTE and known in (NO_CHOICE, byte) else A_CHOICE


@compiled
def forced_run(code: Code, w: Words, text: Bytes, state: Words, pos: int, out: Bytes) -> int:
    """Write the bytes that every continuation begins with; returns their number."""
    load(code, w, state)
    begin, end, written = int64(0), state[0], 0
    while written < len(out):
        w[FUEL] = FUEL_PER_CALL
        ended = w[ENDED]
        first, last = close_over(code, w, text, begin, end, pos)
        if ended or w[ENDED] or w[FAILED]:
            break
        byte = int64(NO_CHOICE)
        for i in range(begin, end):
            byte = common_byte(code, w, i, byte)
            if byte == A_CHOICE:
                break
        for i in range(first, last):
            if byte == A_CHOICE:
                break
            byte = common_byte(code, w, i, byte)
        if byte < 0:
            break
        step(code, w, text, begin, end, byte, pos)
        if w[FAILED]:
            break
        begin, end = w[FOUND_FROM], w[FOUND_TO]
        out[written] = byte
        written += 1
        pos += 1
    return written


@compiled
def distance(code: Code, piece: int, state: int) -> int:
    """Bytes from a state to acceptance."""
    return int64(code[piece + PIECE_HEAD + code[piece] + state])


@compiled
def frame_cost(code: Code, w: Words, p: int) -> int:
    """Bytes still due to the frame at `p` when control is back at it."""
    address, kind, value = w[p] >> 2, w[p] & 3, w[p + 1]
    if kind == CALLED:
        return int64(code[address + 1])
    if kind == LOOPING:
        return int64(max(code[address + 4] - value, 0) * int64(code[address + 6]))
    if kind != OWNER:
        return -coming_cost(code, w, NODES + NODE_WORDS * w[p + 3])
    if code[address] == OBJECT:
        return object_cost(code, w, address, p)
    cost, separator = int64(code[code[address + 4] + 1]), int64(code[code[address + 5] + 1])
    index, count = value & FIELD_MASK, value >> FIELD_SHIFT
    due = max(code[address + 6] - index, code[address + 11] - count)
    for j in range(index, index + due):
        if j < code[address + 8]:
            cost += code[code[address + ARRAY_WORDS + j] + 1] + separator
        else:
            cost += code[address + 14]
    return cost - separator if index == 0 and due > 0 else cost


@compiled
def coming_cost(code: Code, w: Words, p: int) -> int:
    """What the owner's frame at `p` counts for the member that is being read and not yet noted: a key in free order."""
    owner = w[p] >> 2
    if code[owner] != OBJECT or not (code[owner + 8] & FREE_ORDER and code[owner + 8] & COUNTED):
        return int64(0)
    missing = code[owner + 6] - object_count(code, w, owner, p) - required_left(code, w, owner, p)
    if missing <= 0:
        return int64(0)
    value, table, num = w[p + 1], owner + OBJECT_WORDS, code[owner + 9]
    separator = int64(code[code[owner + 5] + 1])
    before = int64(0) if w[p + 2] == 0 and value == 0 else separator
    # Once the key is noted one member less is missing: `object_cost` leaves out the last that it counts.
    for j in range(num):
        row = table + PROPERTY_WORDS * j
        if (
            not has_come(w, value, w[p + 2], j)
            and not code[row + 1]
            and code[code[row] + 1] < COST_LIMIT
        ):
            missing -= 1
            if missing == 0:
                return int64(code[code[row] + 1]) + before
    return int64(code[code[table + PROPERTY_WORDS * num] + 1]) + before + 2


@compiled
def object_cost(code: Code, w: Words, owner: int, p: int) -> int:
    """Bytes still due to an object's frame: required members, then the first others until there are enough."""
    value, table, num = w[p + 1], owner + OBJECT_WORDS, code[owner + 9]
    free, extras = code[owner + 8] & FREE_ORDER, code[owner + 10]
    cost, separator = int64(code[code[owner + 4] + 1]), int64(code[code[owner + 5] + 1])
    left = required_left(code, w, owner, p)
    missing = int64(0)
    if code[owner + 8] & COUNTED:
        missing = code[owner + 6] - object_count(code, w, owner, p) - left
    due = left + max(missing, 0)
    for j in range(0 if free else value & FIELD_MASK, num):
        row = table + PROPERTY_WORDS * j
        if not free or not has_come(w, value, w[p + 2], j):
            if code[row + 1]:
                cost += code[code[row] + 1] + separator
            elif missing > 0 and code[code[row] + 1] < COST_LIMIT:
                cost += code[code[row] + 1] + separator
                missing -= 1
    if missing > 0 and extras:
        # Keys must differ: two bytes more for each is room enough for thousands.
        cost += missing * (code[code[table + PROPERTY_WORDS * num] + 1] + separator + 2)
    fresh = w[p + 2] == 0 and value == 0
    return cost - separator if fresh and due > 0 else cost


@compiled
def choosing_cost(code: Code, w: Words, owner: int, p: int) -> int:
    """What a separator before CHOOSE changes: the frame counts it already if a member is due, else one comes on top."""
    separator = int64(code[code[owner + 5] + 1])
    if code[owner] != OBJECT:
        index, count = w[p + 1] & FIELD_MASK, w[p + 1] >> FIELD_SHIFT
        if index < code[owner + 6] or count < code[owner + 11]:
            return -separator
        if index < code[owner + 8]:
            return int64(code[code[owner + ARRAY_WORDS + index] + 1])
        return int64(code[owner + 14]) - separator
    if not may_close(code, w, owner, (p - NODES) // NODE_WORDS):
        return -separator
    table, num = owner + OBJECT_WORDS, code[owner + 9]
    free = code[owner + 8] & FREE_ORDER
    for j in range(0 if free else w[p + 1] & FIELD_MASK, num):
        if not free or not has_come(w, w[p + 1], w[p + 2], j):
            return int64(code[code[table + PROPERTY_WORDS * j] + 1])
    return int64(code[code[table + PROPERTY_WORDS * num] + 1])


@compiled
def note_costs(code: Code, w: Words) -> None:
    """Have in COSTS, for each node, what is due to its stack: the least, where a rule has several callers."""
    w[COSTS] = 0
    for node in range(w[NUM_COSTS], w[NUM_NODES]):
        p = NODES + NODE_WORDS * node
        place, link, parent = w[p], w[p + 2], w[p + 3]
        cost = int64(0)
        if place >> 2 or parent:  # else it is no frame, but one of a list of words and texts
            cost = min(frame_cost(code, w, p) + w[COSTS + parent], int64(COST_LIMIT))
        if place & 3 == CALLED and link:
            cost = min(cost, w[COSTS + link])
        w[COSTS + node] = cost
    w[NUM_COSTS] = w[NUM_NODES]


@compiled
def cost_of(code: Code, w: Words, i: int) -> int:
    """About how many bytes configuration i is from an end (exact without bounded counts of members).

    What its stack costs is known (`note_costs`).
    """
    p = CONFIGS + 3 * i
    a, x, node = w[p], w[p + 1], w[p + 2]
    # What is due to an owner that is being left is what is being read.
    stack = w[NODES + NODE_WORDS * node + 3] if code[code[a + 2]] == LEAVE else node
    cost = w[COSTS + stack] + code[code[a + 2] + 1]
    if code[a] == LIT:
        cost += code[a + 3] - x
    else:
        due = distance(code, code[a + 3], x & STATE_MASK)
        cost += due
        if code[a] != DFA:
            begun = (x >> COUNT_SHIFT) + (1 if due else 0)
            cost += max(code[a + 4] - begun, 0) * int64(code[a + 6])
    if code[code[a + 2]] == CHOOSE:
        cost += choosing_cost(code, w, int64(code[code[a + 2] + 2]), NODES + NODE_WORDS * node)
    return int64(cost)


@compiled
def least_cost(code: Code, w: Words, text: Bytes, state: Words, pos: int) -> int:
    """About how many bytes a value is from an end, by the configuration that is nearest to it."""
    load(code, w, state)
    ended = w[ENDED]
    _, last = close_over(code, w, text, 0, state[0], pos)
    if ended or w[ENDED]:
        return int64(0)
    note_costs(code, w)
    best = int64(COST_LIMIT)
    for i in range(last):
        best = min(best, cost_of(code, w, i))
    return best


@compiled
def nearest_byte(code: Code, w: Words, i: int) -> int:
    """The byte by which configuration i comes nearer to its end; NO_CHOICE if it is there."""
    p = CONFIGS + 3 * i
    a, x = w[p], w[p + 1]
    if code[a] == LIT:
        return int64(code[a + 4 + x])
    piece, state = code[a + 3], x & STATE_MASK
    due = distance(code, piece, state)
    if due == 0 and (code[a] == DFA or (x >> COUNT_SHIFT) >= code[a + 4]):
        return int64(NO_CHOICE)
    best, found = int64(COST_LIMIT), int64(NO_CHOICE)
    for byte in range(256):
        target = move(code, piece, state, byte)
        if target and distance(code, piece, target) < best:
            best, found = distance(code, piece, target), int64(byte)
    return found


@compiled
def closing_run(code: Code, w: Words, text: Bytes, state: Words, pos: int, out: Bytes) -> int:
    """Write a way to an end, always by the configuration that is nearest to it; its length, -1 if none was found."""
    load(code, w, state)
    begin, end, written = int64(0), state[0], 0
    while True:
        w[FUEL] = FUEL_PER_CALL
        ended = w[ENDED]
        first, last = close_over(code, w, text, begin, end, pos)
        if ended or w[ENDED]:
            return written
        note_costs(code, w)
        best, byte = int64(COST_LIMIT), int64(NO_CHOICE)
        for part in range(2):
            for i in range(begin if part == 0 else first, end if part == 0 else last):
                cost = cost_of(code, w, i)
                if cost < best:
                    towards = nearest_byte(code, w, i)
                    if towards >= 0:
                        best, byte = cost, towards
        if byte < 0 or written == len(out) or w[FAILED]:
            return -1
        step(code, w, text, begin, end, byte, pos)
        begin, end = w[FOUND_FROM], w[FOUND_TO]
        out[written] = byte
        written += 1
        pos += 1
