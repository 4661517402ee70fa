"""The stack machine: sets of configurations over a program, moved byte by byte.

A configuration is (address, x, node): an operation that reads bytes, how far it is in it (the index in a LIT, the
state of a DFA; in CHARS state | count << 24), and the top of its stack. Stacks are linked nodes that share their
tails (a recursive transition network with a graph of stacks, as in generalised LL parsing). A set is deduplicated,
and every arrival costs fuel.

Everything lives in one int64 workspace `w` (see `Workspace` in `masks`), so a call from Python passes few arrays:

    control words · nodes (place, value, link, parent, hash) · configurations · work list · table of the current
    epoch (for deduplication) · memo of first bytes · one record per depth of the trie

`text` holds the bytes matched so far, and room behind them; positions in it are absolute.
"""

from branchwork.runtime.grammar.jit import compiled, int64
from branchwork.runtime.grammar.program import (
    ACCEPTING,
    ALT,
    ARRAY,
    ARRAY_WORDS,
    CALL,
    CALLED,
    CHARS,
    CHOOSE,
    COUNTED,
    COUNTS,
    DFA,
    FREE_ORDER,
    KEY_END,
    LEAVE,
    LIT,
    LOOP,
    LOOPING,
    MANY_BYTES,
    MEMBERS,
    NO_BYTE,
    NONE,
    OBJECT,
    OBJECT_WORDS,
    OWNER,
    PIECE_HEAD,
    PROPERTY_WORDS,
    RECORD,
    RET,
    STATE_WORDS,
    Bytes,
    Code,
    Words,
)

# Control words.
NUM_NODES, NUM_CONFIGS, ENDED, FUEL, FAILED, TEXTUAL, EPOCH, TOP, FOUND_FROM, FOUND_TO = range(10)
ASSUME_NEW, PROGRAM = range(10, 12)

MAX_NODES = 1 << 16
MAX_CONFIGS = 1 << 17
MAX_WORK = 1 << 16
TABLE_SIZE = 1 << 16
MEMO_SIZE = 1 << 9
MAX_DEPTH = 1 << 10

SCRATCH = 16
NODES = 32
NODE_WORDS = 5
CONFIGS = NODES + NODE_WORDS * MAX_NODES
WORK = CONFIGS + 3 * MAX_CONFIGS
TABLE = WORK + 2 * MAX_WORK
MEMO = TABLE + 4 * TABLE_SIZE
MEMO_WORDS = 10
DEPTHS = MEMO + MEMO_WORDS * MEMO_SIZE
DEPTH_WORDS = 13
WORKSPACE_WORDS = DEPTHS + DEPTH_WORDS * MAX_DEPTH

COUNT_SHIFT = 24
STATE_MASK = (1 << COUNT_SHIFT) - 1
FIELD_SHIFT = 32
FIELD_MASK = (1 << FIELD_SHIFT) - 1
SEEN_SHIFT = 24
SEEN_MASK = (1 << SEEN_SHIFT) - 1
HASH_MASK = (1 << 40) - 1

# A byte may cost as many arrivals before the request is refused; 10,000 optional properties cost 10,000.
FUEL_PER_CALL = 1 << 20


@compiled
def class_of(code: Code, piece: int, byte: int) -> int:
    """The column of a byte in a piece's table."""
    return int64((code[piece + 4 + (byte >> 2)] >> ((byte & 3) << 3)) & 255)


@compiled
def flags_of(code: Code, piece: int, state: int) -> int:
    """The flags of a state."""
    return int64(code[piece + PIECE_HEAD + state])


@compiled
def move(code: Code, piece: int, state: int, byte: int) -> int:
    """The state after a byte; 0 is dead."""
    states, width = code[piece], code[piece + 1]
    table = piece + PIECE_HEAD + STATE_WORDS * states
    return int64(code[table + state * width + class_of(code, piece, byte)])


@compiled
def need_of(code: Code, piece: int, state: int) -> int:
    """Counted states between a state and acceptance, at least."""
    return int64(code[piece + PIECE_HEAD + 2 * code[piece] + state])


@compiled
def stays_of(code: Code, piece: int, state: int) -> int:
    """The groups of bytes by which a state stays itself."""
    at = piece + PIECE_HEAD + 3 * code[piece] + 2 * state
    return int64(code[at]) & 0xFFFFFFFF | int64(code[at + 1]) << 32


@compiled
def same_stack(w: Words, i: int, j: int) -> bool:
    """Whether two nodes hold equal stacks."""
    while i != j:
        p, q = NODES + NODE_WORDS * i, NODES + NODE_WORDS * j
        if w[p + 4] != w[q + 4] or w[p] != w[q] or w[p + 1] != w[q + 1]:
            return False
        link, other = w[p + 2], w[q + 2]
        while link != other:
            r, s = NODES + NODE_WORDS * link, NODES + NODE_WORDS * other
            if w[r + 1] != w[s + 1] or link == 0 or other == 0:
                return False
            link, other = w[r + 2], w[s + 2]
        i, j = w[p + 3], w[q + 3]
    return True


@compiled
def push(w: Words, place: int, value: int, link: int, parent: int) -> int:
    """A new node; 0 (the empty stack) and a failure when there is no room."""
    node = w[NUM_NODES]
    if node >= MAX_NODES:
        w[FAILED] = 1
        return 0
    w[NUM_NODES] = node + 1
    p = NODES + NODE_WORDS * node
    # Values reach 2**48, so each is folded before it is multiplied.
    value = int64(value)
    mixed = w[NODES + NODE_WORDS * parent + 4]
    mixed = ((mixed * 2654435) ^ (place * 40503)) & HASH_MASK
    mixed = ((mixed * 2246822) ^ (value & HASH_MASK) ^ (value >> 40)) & HASH_MASK
    mixed = ((mixed * 3266489) ^ w[NODES + NODE_WORDS * link + 4]) & HASH_MASK
    mixed ^= mixed >> 17
    w[p], w[p + 1], w[p + 2], w[p + 3], w[p + 4] = place, value, link, parent, mixed
    return int64(node)


@compiled
def is_fresh(w: Words, a: int, x: int, node: int) -> bool:
    """Enter (a, x, node) into the table of this epoch; False if it was there."""
    epoch = w[EPOCH]
    mixed = (
        w[NODES + NODE_WORDS * node + 4] ^ (a * 40503) ^ ((x & HASH_MASK) * 2654435)
    ) & HASH_MASK
    slot = (mixed ^ (mixed >> 16)) & (TABLE_SIZE - 1)
    for _ in range(TABLE_SIZE >> 1):
        p = TABLE + 4 * slot
        if w[p] != epoch:
            w[p], w[p + 1], w[p + 2], w[p + 3] = epoch, a, x, node
            return True
        if w[p + 1] == a and w[p + 2] == x and same_stack(w, w[p + 3], node):
            return False
        slot = (slot + 1) & (TABLE_SIZE - 1)
    w[FAILED] = 1
    return False


@compiled
def emit(w: Words, a: int, x: int, node: int) -> None:
    """Append a configuration, once in an epoch."""
    if is_fresh(w, a, x, node):
        at = w[NUM_CONFIGS]
        if at >= MAX_CONFIGS:
            w[FAILED] = 1
            return
        w[NUM_CONFIGS] = at + 1
        p = CONFIGS + 3 * at
        w[p], w[p + 1], w[p + 2] = a, x, node


@compiled
def later(w: Words, a: int, node: int) -> None:
    """Put an arrival on the work list."""
    top = w[TOP]
    if top >= MAX_WORK:
        w[FAILED] = 1
        return
    w[TOP] = top + 1
    w[WORK + 2 * top], w[WORK + 2 * top + 1] = a, node


@compiled
def compare_key(code: Code, lit: int, text: Bytes, start: int, end: int) -> int:
    """Order of text[start:end] against the bytes of a LIT: negative, 0 or positive."""
    n = code[lit + 3]
    for i in range(min(n, end - start)):
        if text[start + i] != code[lit + 4 + i]:
            return int64(text[start + i]) - int64(code[lit + 4 + i])
    return (end - start) - int64(n)


@compiled
def is_declared(code: Code, owner: int, text: Bytes, start: int, end: int) -> bool:
    """Whether text[start:end] is one of the object's declared keys."""
    keys = owner + OBJECT_WORDS + PROPERTY_WORDS * code[owner + 9] + code[owner + 10]
    low, high = 0, code[owner + 11]
    while low < high:
        middle = (low + high) >> 1
        order = compare_key(code, code[keys + middle], text, start, end)
        if order == 0:
            return True
        if order < 0:
            high = middle
        else:
            low = middle + 1
    return False


@compiled
def is_seen(w: Words, text: Bytes, link: int, start: int, end: int) -> bool:
    """Whether text[start:end] is one of the texts of a list."""
    while link != 0:
        p = NODES + NODE_WORDS * link
        begin, length = w[p + 1] >> SEEN_SHIFT, w[p + 1] & SEEN_MASK
        if length == end - start:
            same = True
            for i in range(length):
                if text[begin + i] != text[start + i]:
                    same = False
                    break
            if same:
                return True
        link = w[p + 2]
    return False


@compiled
def list_length(w: Words, link: int) -> int:
    """How many texts were seen."""
    count = 0
    while link != 0:
        count += 1
        link = w[NODES + NODE_WORDS * link + 2]
    return count


@compiled
def finish_record(code: Code, w: Words, text: Bytes, a: int, node: int, pos: int) -> None:
    """KEY_END and ITEM_END: go on if what the RECORD frame began is new in its owner.

    TEXTUAL notes that the answer depended on the text; with ASSUME_NEW it does not.
    """
    w[TEXTUAL] = node
    p = NODES + NODE_WORDS * node
    start, frame = w[p + 1], w[p + 3]
    q = NODES + NODE_WORDS * frame
    if not w[ASSUME_NEW]:
        if code[a] == KEY_END and is_declared(code, w[q] >> 2, text, start, pos):
            return
        if is_seen(w, text, w[q + 2], start, pos):
            return
    seen = push(w, RECORD, start << SEEN_SHIFT | (pos - start), w[q + 2], 0)
    later(w, code[a + 2], push(w, w[q], w[q + 1], seen, w[q + 3]))


@compiled
def object_count(code: Code, w: Words, owner: int, p: int) -> int:
    """Members so far (in free order the bits that are seen, and the list)."""
    if code[owner + 8] & FREE_ORDER:
        seen, count = w[p + 1], list_length(w, w[p + 2])
        while seen:
            seen &= seen - 1
            count += 1
        return count
    return int64(w[p + 1] >> FIELD_SHIFT)


@compiled
def required_left(code: Code, w: Words, owner: int, p: int) -> int:
    """Required properties that have not come yet."""
    table, num = owner + OBJECT_WORDS, code[owner + 9]
    if code[owner + 8] & FREE_ORDER:
        left = 0
        for j in range(num):
            if code[table + PROPERTY_WORDS * j + 1] and not (w[p + 1] >> j) & 1:
                left += 1
        return left
    position = w[p + 1] & FIELD_MASK
    return code[table + PROPERTY_WORDS * position + 3] if position < num else 0


@compiled
def choose_property(code: Code, w: Words, owner: int, node: int, pos: int, only_look: bool) -> bool:
    """Arrive at each member that may come next (or only tell whether there is one)."""
    p = NODES + NODE_WORDS * node
    place, value, link, parent = w[p], w[p + 1], w[p + 2], w[p + 3]
    low, high, flags = code[owner + 6], code[owner + 7], code[owner + 8]
    num, extras = code[owner + 9], code[owner + 10]
    table, free, counted = owner + OBJECT_WORDS, flags & FREE_ORDER, flags & COUNTED
    count = object_count(code, w, owner, p) + 1 if counted else 0
    left = required_left(code, w, owner, p)
    if free:
        unseen = num
        seen = value
        while seen:
            seen &= seen - 1
            unseen -= 1
    found = False
    blocked = False
    for j in range(0 if free else value & FIELD_MASK, num):
        row = table + PROPERTY_WORDS * j
        if free and (value >> j) & 1:
            continue
        required = code[row + 1]
        after = left - 1 if required else left
        rest = unseen - 1 if free else num - 1 - j
        fits = high == NONE or count + after <= high
        if not counted or (fits and (extras or count + rest >= low)):
            found = True
            if only_look:
                return True
            ordered = (j + 1) | ((count if counted else 0) << FIELD_SHIFT)
            come = value | (int64(1) << j) if free else ordered
            later(w, code[row], push(w, place, come, link, parent))
        if required and not free:
            blocked = True
            break
    if extras and not blocked and (not counted or high == NONE or count + left <= high):
        found = True
        if not only_look:
            come = value if free else num | ((count if counted else 0) << FIELD_SHIFT)
            for i in range(extras):
                frame = push(w, place, come, link, parent)
                member = code[table + PROPERTY_WORDS * num + i]
                later(w, member, push(w, RECORD, pos, 0, frame))
                w[TEXTUAL] = frame
    return found


@compiled
def choose_item(code: Code, w: Words, owner: int, node: int, pos: int, only_look: bool) -> bool:
    """Arrive at each kind of item that may come next (or only tell whether there is one)."""
    p = NODES + NODE_WORDS * node
    index, count = w[p + 1] & FIELD_MASK, w[p + 1] >> FIELD_SHIFT
    low, high, num_prefix = code[owner + 6], code[owner + 7], code[owner + 8]
    rest, counted = code[owner + 9], code[owner + 10]
    counted_low, counted_high, unique = code[owner + 11], code[owner + 12], code[owner + 13]
    if high != NONE and index >= high:
        return False
    step = index + 1
    if high == NONE:
        step = min(step, max(low, num_prefix))
    found = False
    for kind in range(2):
        member, new_count = rest, count
        if index < num_prefix:
            member = code[owner + ARRAY_WORDS + index] if kind == 0 else NONE
        elif kind == 1:
            member = counted
            if counted_high != NONE and count >= counted_high:
                member = NONE
            new_count = count + 1 if counted_high != NONE else min(count + 1, counted_low)
        elif high != NONE and high - index - 1 < counted_low - count:
            member = NONE
        if member == NONE:
            continue
        found = True
        if only_look:
            return True
        frame = push(w, w[p], step | (new_count << FIELD_SHIFT), w[p + 2], w[p + 3])
        if unique:
            frame = push(w, RECORD, pos, 0, frame)
            w[TEXTUAL] = frame
        later(w, member, frame)
    return found


@compiled
def choose(code: Code, w: Words, owner: int, node: int, pos: int, only_look: bool) -> bool:
    """One more member of the owner."""
    if code[owner] == OBJECT:
        return choose_property(code, w, owner, node, pos, only_look)
    return choose_item(code, w, owner, node, pos, only_look)


@compiled
def may_close(code: Code, w: Words, owner: int, node: int) -> bool:
    """Whether the owner has all it needs."""
    p = NODES + NODE_WORDS * node
    if code[owner] == OBJECT:
        if required_left(code, w, owner, p):
            return False
        return not code[owner + 8] & COUNTED or object_count(code, w, owner, p) >= code[owner + 6]
    index, count = w[p + 1] & FIELD_MASK, w[p + 1] >> FIELD_SHIFT
    return bool(index >= code[owner + 6] and count >= code[owner + 11])


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
def leave_rule(code: Code, w: Words, node: int, mark: int) -> None:
    """RET: go to where the frame on top says."""
    if node == 0:
        w[ENDED] = 1
        return
    p = NODES + NODE_WORDS * node
    address, kind = w[p] >> 2, w[p] & 3
    if kind == CALLED:
        later(w, address, w[p + 3])
    elif kind == LOOPING and node < mark:
        # A frame from this very arrival means an empty body: the way behind the loop was taken already.
        begin_loop(code, w, address, w[p + 3], w[p + 1])


@compiled
def arrive(code: Code, w: Words, text: Bytes, a: int, node: int, pos: int) -> None:
    """Emit every configuration that can be reached from address `a` before a byte is read at `pos`."""
    bottom, mark = w[TOP], w[NUM_NODES]
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
            if code[code[a + 2]] == RET:
                later(w, code[a + 3], node)
            else:
                later(w, code[a + 3], push(w, 4 * int64(code[a + 2]) + CALLED, 0, 0, node))
        elif op == RET:
            leave_rule(code, w, node, mark)
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
    w[EPOCH] += 1
    first = w[NUM_CONFIGS]
    i = begin
    while True:
        if i == end:
            i = first
        if i >= end and i >= w[NUM_CONFIGS]:
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
    w[EPOCH] += 1
    w[ASSUME_NEW] = 1
    arrive(code, w, text, a, node, pos)
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
                emit(w, a, x + 1, node)
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
    w[EPOCH] += 1
    for i in range(begin, end):
        advance(code, w, text, i, byte, pos)
    for i in range(first, last):
        advance(code, w, text, i, byte, pos)
    w[FOUND_FROM], w[FOUND_TO] = last, w[NUM_CONFIGS]


# ------------------------------------------------------------------ states as values
#
# Between calls a set is a value: [num_configs, num_nodes, flags, configurations..., nodes...], its nodes
# renumbered in order, so that equal sets mostly are equal bytes. Flags: 1, the text may end here because of
# something that ended with its last byte; 2, what may follow depends on the text (a RECORD or something seen).


@compiled
def reset(code: Code, w: Words) -> None:
    """An empty workspace (node 0 is the empty stack) for the program whose number is in code[0]."""
    w[NUM_NODES], w[NUM_CONFIGS], w[ENDED], w[FAILED], w[TEXTUAL], w[TOP] = 1, 0, 0, 0, 0, 0
    w[FUEL], w[ASSUME_NEW] = FUEL_PER_CALL, 0
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
    w[EPOCH] += 1
    arrive(code, w, text, entry, 0, 0)
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
