"""The workspace of the machine: stacks, sets of configurations, and what is still to be done.

Everything lives in one int64 array `w` (see `Workspace` in `masks`), so a call from Python passes few arrays:

    control words · nodes (place, value, link, parent, hash) · configurations · work list · calls that wait · table
    of the current epoch (for deduplication) · memo of first bytes · one record per depth of the trie · costs of nodes

Stacks are linked nodes that share their tails; node 0 is the empty stack. A rule that several call at one place has one
frame on top for all of them: a list, by `link`, of the frames that each would have pushed.
"""

from branchwork.runtime.grammar.machine.jit import (
    compiled,
    int64,
)
from branchwork.runtime.grammar.machine.program import (
    Words,
)

# Control words.
NUM_NODES, NUM_CONFIGS, ENDED, FUEL, FAILED, TEXTUAL, EPOCH, TOP, FOUND_FROM, FOUND_TO = range(10)
ASSUME_NEW, PROGRAM, WALK_FROM, TEXT_READ, NUM_CALLS, MARK, NUM_COSTS, NUM_FRESH, ENTERED = range(
    10, 19
)

MAX_NODES = 1 << 16
MAX_CONFIGS = 1 << 17
MAX_WORK = 1 << 16
# In one place. A call is (target, following, node, link): see `call`.
MAX_CALLS = 1 << 17
CALL_WORDS = 4
TABLE_SIZE = 1 << 16
# Small sets use no more of the table than fits into the first cache.
SMALL_TABLE = 1 << 9
MEMO_SIZE = 1 << 9
MAX_DEPTH = 1 << 10

NODES = 32
NODE_WORDS = 5
CONFIGS = NODES + NODE_WORDS * MAX_NODES
WORK = CONFIGS + 3 * MAX_CONFIGS
CALLS = WORK + 2 * MAX_WORK
TABLE = CALLS + CALL_WORDS * MAX_CALLS
MEMO = TABLE + 4 * TABLE_SIZE
MEMO_WORDS = 10
DEPTHS = MEMO + MEMO_WORDS * MEMO_SIZE
DEPTH_WORDS = 16
COSTS = DEPTHS + DEPTH_WORDS * MAX_DEPTH
WORKSPACE_WORDS = COSTS + MAX_NODES

# In the table of an epoch: where a rule's first call stands; and a call that is not the first of its rule.
RULE = 1 << 60
NOT_FIRST = -1

COUNT_SHIFT = 24
STATE_MASK = (1 << COUNT_SHIFT) - 1
FIELD_SHIFT = 32
FIELD_MASK = (1 << FIELD_SHIFT) - 1
SEEN_SHIFT = 24
SEEN_MASK = (1 << SEEN_SHIFT) - 1
HASH_MASK = (1 << 40) - 1

# What was seen is part of a view (see `views`) if it is no longer than this.
MAX_PACKED = 7


@compiled
def same_stack(w: Words, i: int, j: int) -> bool:
    """Whether two nodes hold equal stacks."""
    # Pairs that are still to be compared wait above what is on the work list.
    top = w[TOP]
    while True:
        while i != j:
            p, q = NODES + NODE_WORDS * i, NODES + NODE_WORDS * j
            if w[p + 4] != w[q + 4] or w[p] != w[q] or w[p + 1] != w[q + 1]:
                return False
            link, other = w[p + 2], w[q + 2]
            while link != other:
                r, s = NODES + NODE_WORDS * link, NODES + NODE_WORDS * other
                if link == 0 or other == 0 or w[r] != w[s] or w[r + 1] != w[s + 1]:
                    return False
                if w[r + 3] != w[s + 3]:
                    w[FUEL] -= 1
                    if w[FUEL] <= 0 or top >= MAX_WORK:
                        w[FAILED] = 1
                        return False
                    w[WORK + 2 * top], w[WORK + 2 * top + 1] = w[r + 3], w[s + 3]
                    top += 1
                link, other = w[r + 2], w[s + 2]
            i, j = w[p + 3], w[q + 3]
        if top == w[TOP]:
            return True
        top -= 1
        i, j = w[WORK + 2 * top], w[WORK + 2 * top + 1]


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
def begin_place(w: Words) -> None:
    """Forget what was arrived at elsewhere: an epoch of the table begins, and what is pushed from now on is of here."""
    w[EPOCH] += 1
    w[NUM_CALLS], w[ENTERED] = 0, 0
    w[NUM_FRESH], w[MARK] = 0, w[NUM_NODES]


@compiled
def is_fresh(w: Words, a: int, x: int, node: int) -> bool:
    """Enter (a, x, node) into the table of this epoch; False if it was there."""
    epoch = w[EPOCH]
    mixed = (
        w[NODES + NODE_WORDS * node + 4] ^ (a * 40503) ^ ((x & HASH_MASK) * 2654435)
    ) & HASH_MASK
    # Who is in the small table may be entered once more into the large one: that costs a little, and nothing else.
    size = SMALL_TABLE if w[NUM_FRESH] < SMALL_TABLE >> 1 else TABLE_SIZE
    slot = (mixed ^ (mixed >> 16)) & (size - 1)
    for _ in range(TABLE_SIZE >> 1):
        p = TABLE + 4 * slot
        if w[p] != epoch:
            w[p], w[p + 1], w[p + 2], w[p + 3] = epoch, a, x, node
            w[NUM_FRESH] += 1
            return True
        if w[p + 1] == a and w[p + 2] == x and same_stack(w, w[p + 3], node):
            return False
        slot = (slot + 1) & (size - 1)
    w[FAILED] = 1
    return False


@compiled
def first_call(w: Words, target: int, at: int) -> int:
    """The first of the calls of a rule that wait; `at`, which becomes the first, if there is none."""
    epoch, size = w[EPOCH], SMALL_TABLE if w[NUM_FRESH] < SMALL_TABLE >> 1 else TABLE_SIZE
    slot = (target * 40503) & (size - 1)
    for _ in range(TABLE_SIZE >> 1):
        p = TABLE + 4 * slot
        if w[p] != epoch:
            w[p], w[p + 1], w[p + 2], w[p + 3] = epoch, target, RULE, at
            w[NUM_FRESH] += 1
            return at
        if w[p + 1] == target and w[p + 2] == RULE:
            if w[p + 3] < w[ENTERED]:
                w[p + 3] = at
            return int64(w[p + 3])
        slot = (slot + 1) & (size - 1)
    w[FAILED] = 1
    return at


@compiled
def put(w: Words, a: int, x: int, node: int) -> None:
    """Append a configuration."""
    at = w[NUM_CONFIGS]
    if at >= MAX_CONFIGS:
        w[FAILED] = 1
        return
    w[NUM_CONFIGS] = at + 1
    p = CONFIGS + 3 * at
    w[p], w[p + 1], w[p + 2] = a, x, node


@compiled
def emit(w: Words, a: int, x: int, node: int) -> None:
    """Append a configuration, once in an epoch."""
    if is_fresh(w, a, x, node):
        put(w, a, x, node)


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
def call(w: Words, target: int, following: int, node: int) -> None:
    """Note that a rule is called, once in an epoch: it is entered when all who call it here are known.

    The first call of a rule links to the last one, each other to the one before it; only the first has the target.
    """
    if is_fresh(w, following, -3 - target, node):
        at = w[NUM_CALLS]
        if at >= MAX_CALLS:
            w[FAILED] = 1
            return
        w[NUM_CALLS] = at + 1
        p = CALLS + CALL_WORDS * at
        first = first_call(w, target, at)
        q = CALLS + CALL_WORDS * first
        w[p], w[p + 1], w[p + 2], w[p + 3] = NOT_FIRST, following, node, w[q + 3]
        w[q + 3] = at
        if first == at:
            w[p] = target
