"""Walks of the token trie: which tokens may follow a set of configurations.

Three walks make a mask. A *narrow* configuration (few live bytes) is walked with the whole machine. A *wide* one (the
inside of a string) has a base: the tokens that stay inside its automaton, found once for a piece and a state and
shared by all grammars; and its edges: the trie nodes where a token leaves it with a byte that can follow. Only these
are walked for the particular stack.
"""

import numpy as np
import numpy.typing as npt

from branchwork.runtime.grammar.interface import (
    MaskRow,
)
from branchwork.runtime.grammar.machine.jit import (
    compiled,
    int64,
)
from branchwork.runtime.grammar.machine.piece import (
    class_of,
    family_of,
    flags_of,
    move,
    need_of,
    span_of,
)
from branchwork.runtime.grammar.machine.program import (
    ACCEPTING,
    CHARS,
    COUNTS,
    COUNTS_CHARS,
    DFA,
    GROUPS,
    LIT,
    MANY_BYTES,
    NO_BYTE,
    NONE,
    OBJECT,
    OBJECT_WORDS,
    OTHER_CHARS,
    PASSES_ENDS,
    PIECE_HEAD,
    PROPERTY_WORDS,
    RECORD,
    STATE_WORDS,
    WIDE,
    Bytes,
    Code,
    Words,
)
from branchwork.runtime.grammar.machine.seen import (
    texts_of,
)
from branchwork.runtime.grammar.machine.stack import (
    ASSUME_NEW,
    CONFIGS,
    COUNT_SHIFT,
    DEPTH_WORDS,
    DEPTHS,
    ENDED,
    FAILED,
    FOUND_FROM,
    FOUND_TO,
    FUEL,
    MAX_CONFIGS,
    NODE_WORDS,
    NODES,
    NUM_CONFIGS,
    NUM_NODES,
    SEEN_MASK,
    SEEN_SHIFT,
    STATE_MASK,
    TEXTUAL,
    WALK_FROM,
    WORK,
    begin_place,
)
from branchwork.runtime.grammar.machine.steps import (
    arrive,
    close_over,
    enter_calls,
    first_bytes,
    may_leave,
    only_byte,
    step,
)
from branchwork.runtime.grammar.machine.trie import (
    CHILD_MASK,
    CHILD_SHIFT,
    Trie,
    behind,
    byte_of,
    chars_at,
    child_place,
    depth_of,
    find_child,
    first_child_of,
    first_token_of,
    is_within,
    parent_of,
    token_at,
    tokens_begin,
)
from branchwork.runtime.grammar.machine.values import (
    load,
)

# Arrivals that one mask may cost: well under a second.
FUEL_PER_MASK = 1 << 24
# Words for each wide configuration.
WIDE_WORDS = 13


@compiled
def allow(trie: Trie, begin: int, end: int, row: MaskRow) -> None:
    """Allow the tokens at the places [begin, end) of the trie's order."""
    tokens = tokens_begin(trie)
    for place in range(tokens + begin, tokens + end):
        token = int64(trie[place])
        row[token >> 5] |= np.int32(np.uint32(1) << np.uint32(token & 31))


@compiled
def forbid(trie: Trie, begin: int, end: int, row: MaskRow) -> None:
    """Forbid the tokens at the places [begin, end) of the trie's order."""
    tokens = tokens_begin(trie)
    for place in range(tokens + begin, tokens + end):
        token = int64(trie[place])
        row[token >> 5] &= ~np.int32(np.uint32(1) << np.uint32(token & 31))


@compiled
def set_tokens(trie: Trie, node: int, row: MaskRow) -> None:
    """Allow the tokens that end at a node."""
    allow(trie, first_token_of(trie, node), first_token_of(trie, node + 1), row)


@compiled
def clear_tokens(trie: Trie, node: int, row: MaskRow) -> None:
    """Forbid the tokens that end at a node."""
    forbid(trie, first_token_of(trie, node), first_token_of(trie, node + 1), row)


@compiled
def simple_step(code: Code, w: Words, begin: int, end: int, byte: int) -> bool:
    """The step of one configuration inside of its automaton, which is most of them; False if it is not that."""
    if end - begin != 1 or w[NUM_CONFIGS] >= MAX_CONFIGS:
        return False
    p = CONFIGS + 3 * begin
    a, x = w[p], w[p + 1]
    if code[a] != DFA or flags_of(code, code[a + 3], x) & ACCEPTING:
        return False
    state = move(code, code[a + 3], x, byte)
    w[ENDED], w[FOUND_FROM], w[FOUND_TO] = 0, w[NUM_CONFIGS], w[NUM_CONFIGS]
    if state:
        if flags_of(code, code[a + 3], state) >> 8 == NO_BYTE:
            return False
        q = CONFIGS + 3 * w[NUM_CONFIGS]
        w[q], w[q + 1], w[q + 2] = a, state, w[p + 2]
        w[NUM_CONFIGS] += 1
        w[FOUND_TO] = w[NUM_CONFIGS]
    return True


@compiled
def enter(code: Code, w: Words, trie: Trie, here: int, node: int, begin: int, end: int) -> None:
    """Note at a depth's record that the set [begin, end) stands at a node: what it reads, and what of it is safe.

    The record: the set, the room in use, a family of characters and its span, 256 bits of what it can read, and
    which children of the node are still to be looked at.
    """
    w[here], w[here + 1] = begin, end
    w[here + 2], w[here + 3] = w[NUM_NODES], w[NUM_CONFIGS]
    w[here + 4], w[here + 5] = 0, 0
    w[here + 14], w[here + 15] = first_child_of(trie, node), first_child_of(trie, node + 1)
    for k in range(8):
        w[here + 6 + k] = 0
    only = int64(NO_BYTE)
    for i in range(begin, end):
        p = CONFIGS + 3 * i
        byte = only_byte(code, w, i)
        if byte < NO_BYTE and not may_leave(code, w[p], w[p + 1]):
            w[here + 6 + (byte >> 5)] |= int64(1) << (byte & 31)
            only = byte if only in (NO_BYTE, byte) else int64(MANY_BYTES)
            continue
        only = int64(MANY_BYTES)
        for k in range(8):
            w[here + 6 + k] = 0xFFFFFFFF
        break
    if only < NO_BYTE:
        w[here + 14] = child_place(trie, node, only)
        w[here + 15] = min(w[here + 14] + 1, w[here + 15])
    elif only == NO_BYTE:
        w[here + 14] = w[here + 15]
    else:
        note_family(code, w, here)


@compiled
def note_family(code: Code, w: Words, here: int) -> None:
    """The family and span of the configuration that can read for longest whatever it is."""
    for i in range(w[here], w[here + 1]):
        p = CONFIGS + 3 * i
        a = w[p]
        if code[a] == LIT:
            continue
        piece, state = int64(code[a + 3]), w[p + 1] & STATE_MASK
        span = span_of(code, piece, state)
        family = family_of(code, piece, state)
        # That the piece may be over within the span matters to no one here.
        if code[a] == CHARS and code[a + 5] != NONE and family & COUNTS_CHARS:
            left = code[a + 5] - (w[p + 1] >> COUNT_SHIFT) - need_of(code, piece, state)
            span = min(span, max(left, int64(0)))
        if span > w[here + 5]:
            w[here + 4], w[here + 5] = family, span


@compiled
def subtree(
    code: Code,
    w: Words,
    text: Bytes,
    trie: Trie,
    root: int,
    begin: int,
    end: int,
    pos: int,
    row: MaskRow,
) -> None:
    """Allow the tokens below `root` that the set [begin, end) can read from there on; `pos` is behind the root."""
    enter(code, w, trie, DEPTHS, root, begin, end)
    depth = 0
    while depth >= 0:
        here = DEPTHS + DEPTH_WORDS * depth
        at = w[here + 14]
        if at >= w[here + 15]:
            depth -= 1
            continue
        w[here + 14] = at + 1
        byte, node = int64(trie[at] >> CHILD_SHIFT & 255), int64(trie[at] & CHILD_MASK)
        if not (w[here + 6 + (byte >> 5)] >> (byte & 31)) & 1:
            continue
        if is_within(trie, node, w[here + 4], w[here + 5]):
            allow(trie, first_token_of(trie, node), first_token_of(trie, behind(trie, node)), row)
            continue
        w[NUM_NODES], w[NUM_CONFIGS] = w[here + 2], w[here + 3]
        text[pos + depth] = byte
        if not simple_step(code, w, w[here], w[here + 1], byte):
            step(code, w, text, w[here], w[here + 1], byte, pos + depth)
        if w[FAILED]:
            return
        alive = w[FOUND_FROM] < w[FOUND_TO]
        if alive or w[ENDED]:
            set_tokens(trie, node, row)
        if alive:
            depth += 1
            enter(code, w, trie, here + DEPTH_WORDS, node, w[FOUND_FROM], w[FOUND_TO])
    w[NUM_NODES], w[NUM_CONFIGS] = w[DEPTHS + 2], w[DEPTHS + 3]


@compiled
def groups_of(bits: Words) -> int:
    """The groups of characters that some bytes begin, or are in the midst of."""
    groups = int64(0)
    for value in range(256):
        if (bits[value >> 5] >> (value & 31)) & 1:
            groups |= int64(1) << GROUPS[value] if value & 0xC0 != 0x80 else OTHER_CHARS
    return groups


@compiled
def require(
    trie: Trie,
    first: int,
    last: int,
    base: int,
    each: int,
    begun: int,
    need: npt.NDArray[np.uint16],
) -> None:
    """Say how many counts the tokens at some places need: `base`, and `each` for every character after `begun`."""
    for place in range(first, last):
        due = base
        if each:
            due += each * (chars_at(trie, place) - begun)
        need[token_at(trie, place)] = min(due, int64(65535))


@compiled
def base_walk(
    code: Code,
    w: Words,
    trie: Trie,
    piece: int,
    state: int,
    bits: Words,
    limited: bool,
    every: MaskRow,
    row: MaskRow,
    need: npt.NDArray[np.uint16],
    child: Code,
    counted: Code,
) -> int:
    """Allow the tokens that stay inside a piece, and list the edges on which others leave it.

    bits [8]    which bytes to list edges of
    limited     whether a token may be too long to stay inside: else no edges are listed below where all of them stay
    every       all tokens of the trie
    row         zeros; may be empty when only edges are wanted
    need        if not empty: [t] is how many counts token t needs (its own, and those due after it); full of what the
                state needs itself
    child, counted   for each edge the node it leads to, and the counts before it; room for every node of the trie
    Returns the number of edges. Of `w` it uses the records of depths and the work list.
    """
    num = int64(trie[0])
    for value in range(256):
        w[WORK + value] = class_of(code, piece, value)
    leaving_groups = groups_of(bits) if limited else int64(0)
    table, width = piece + PIECE_HEAD + STATE_WORDS * int64(code[piece]), int64(code[piece + 1])
    note_inside(code, w, DEPTHS, piece, state, leaving_groups)
    w[DEPTHS + 4], w[DEPTHS + 5] = 0, 0
    # Where most tokens can be read, those that cannot are sooner forbidden than the others allowed.
    forbids = len(row) > 0 and reads_most(code, trie, piece, state)
    allows = len(row) > 0 and not forbids
    if forbids:
        for k in range(len(row)):
            row[k] = every[k]
    node, listed, usual = int64(1), 0, need_of(code, piece, state)
    while node < num:
        byte, here = byte_of(trie, node), DEPTHS + DEPTH_WORDS * depth_of(trie, node)
        above = here - DEPTH_WORDS
        if is_within(trie, node, w[above + 2], w[above + 3]):
            # Whatever of the family is read, it stays in the piece.
            end = behind(trie, node)
            if allows:
                allow(trie, first_token_of(trie, node), first_token_of(trie, end), row)
            if len(need):
                note_needs_within(code, w, trie, piece, above, node, usual, need)
            node = end
            continue
        if w[above + 1] and (bits[byte >> 5] >> (byte & 31)) & 1:
            child[listed], counted[listed] = node, w[above + 4]
            listed += 1
        found = int64(code[table + w[above] * width + w[WORK + byte]])
        if found == 0:
            if forbids:
                forbid(
                    trie, first_token_of(trie, node), first_token_of(trie, behind(trie, node)), row
                )
            node = behind(trie, node)
            continue
        if allows:
            set_tokens(trie, node, row)
        if not len(need) and behind(trie, node) == node + 1:
            node += 1  # a leaf, of which nothing else is asked
            continue
        note_inside(code, w, here, piece, found, leaving_groups)
        w[here + 4] = w[above + 4] + (1 if flags_of(code, piece, found) & COUNTS else 0)
        w[here + 5] = w[above + 5] + (byte & 0xC0 != 0x80)
        if len(need):
            due = w[here + 4] + need_of(code, piece, found)
            if due != usual:
                first, last = first_token_of(trie, node), first_token_of(trie, node + 1)
                require(trie, first, last, due, 0, 0, need)
        node += 1
    return listed


@compiled
def reads_most(code: Code, trie: Trie, piece: int, state: int) -> bool:
    """Whether most tokens begin with a byte that can be read."""
    node, read = int64(1), int64(0)
    while node < trie[0]:
        end = behind(trie, node)
        if move(code, piece, state, byte_of(trie, node)):
            read += first_token_of(trie, end) - first_token_of(trie, node)
        node = end
    return bool(2 * read > trie[1])


@compiled
def note_inside(
    code: Code, w: Words, here: int, piece: int, state: int, leaving_groups: int
) -> None:
    """Note at a depth's record where a base walk is: its state, whether the piece may be over, its family and span.

    The two words behind are the counts and the characters on the way there.
    """
    w[here], w[here + 1] = state, flags_of(code, piece, state) & ACCEPTING
    w[here + 2] = safe_family(code, piece, state, leaving_groups)
    w[here + 3] = span_of(code, piece, state)


@compiled
def note_needs_within(
    code: Code,
    w: Words,
    trie: Trie,
    piece: int,
    above: int,
    node: int,
    usual: int,
    need: npt.NDArray[np.uint16],
) -> None:
    """Note what the tokens of a subtree need that is within the family of the record above it."""
    each = 1 if w[above + 2] & COUNTS_CHARS else 0
    base = w[above + 4] + need_of(code, piece, w[above])
    if each or base != usual:
        first, last = first_token_of(trie, node), first_token_of(trie, behind(trie, node))
        require(trie, first, last, base, each, w[above + 5], need)


@compiled
def forbid_longer(
    code: Code,
    piece: int,
    state: int,
    left: int,
    data: Bytes,
    ends: Words,
    tokens: Words,
    row: MaskRow,
) -> None:
    """Forbid those of `tokens` that stay inside a piece and need more than `left` counts.

    Token t is data[ends[t] : ends[t + 1]].
    """
    for k in range(len(tokens)):
        token, at, count = tokens[k], int64(state), 0
        for place in range(ends[token], ends[token + 1]):
            at = move(code, piece, at, int64(data[place]))
            if at == 0:
                break
            count += 1 if flags_of(code, piece, at) & COUNTS else 0
        if at and count + need_of(code, piece, at) > left:
            row[token >> 5] &= ~np.int32(np.uint32(1) << np.uint32(token & 31))


@compiled
def safe_family(code: Code, piece: int, state: int, leaving_groups: int) -> int:
    """A state's family, without what might follow the piece where the piece may be over within the span."""
    family = family_of(code, piece, state)
    return family & ~leaving_groups if family & PASSES_ENDS else family


@compiled
def is_wide(code: Code, w: Words, i: int) -> bool:
    """Whether configuration i is best masked by its base."""
    p = CONFIGS + 3 * i
    a = w[p]
    if code[a] == LIT:
        return False
    return flags_of(code, code[a + 3], w[p + 1] & STATE_MASK) & WIDE != 0


@compiled
def narrow_mask(
    code: Code, w: Words, text: Bytes, trie: Trie, state: Words, pos: int, row: MaskRow, wide: Words
) -> int:
    """Load a value and allow what its narrow configurations can read; ENDED says whether the text may end there.

    The wide ones are listed in `wide`, `WIDE_WORDS` for each: the index, the address, the state, the count, the
    RECORD that ends with it (or 0), and 256 bits of what can follow it. Returns their number, -1 on failure.
    """
    load(code, w, state)
    w[FUEL], w[WALK_FROM] = FUEL_PER_MASK, pos
    if not w[ENDED]:
        close_over(code, w, text, 0, state[0], pos)
        w[NUM_NODES], w[NUM_CONFIGS] = state[1] + 1, state[0]
    ended, listed = w[ENDED], 0
    first = w[NUM_CONFIGS]
    for i in range(state[0]):
        p = CONFIGS + 3 * i
        if is_wide(code, w, i) and WIDE_WORDS * (listed + 1) <= len(wide):
            at = WIDE_WORDS * listed
            wide[at], wide[at + 1] = i, w[p]
            wide[at + 2], wide[at + 3] = w[p + 1] & STATE_MASK, w[p + 1] >> COUNT_SHIFT
            listed += 1
        else:
            q = CONFIGS + 3 * w[NUM_CONFIGS]
            w[q], w[q + 1], w[q + 2] = w[p], w[p + 1], w[p + 2]
            w[NUM_CONFIGS] += 1
    if w[NUM_CONFIGS] > first:
        subtree(code, w, text, trie, 0, first, w[NUM_CONFIGS], pos, row)
    for k in range(listed):
        at = WIDE_WORDS * k
        wide[at + 4] = leaving_bytes(code, w, text, wide[at], pos, wide[at + 5 : at + 13])
    w[ENDED] = ended
    return -1 if w[FAILED] else listed


@compiled
def forbid_repeated(
    code: Code,
    w: Words,
    text: Bytes,
    trie: Trie,
    a: int,
    x: int,
    record: int,
    pos: int,
    row: MaskRow,
) -> None:
    """Forbid the tokens that would end a key or item that is not new, where nothing could follow but its end."""
    p = NODES + NODE_WORDS * record
    start, frame = w[p + 1], NODES + NODE_WORDS * w[p + 3]
    piece, owner = code[a + 3], w[frame] >> 2
    link = texts_of(w, w[frame + 2])
    while link != 0:
        q = NODES + NODE_WORDS * link
        begin, length = w[q + 1] >> SEEN_SHIFT, w[q + 1] & SEEN_MASK
        node, state, same = 0, x, True
        for i in range(length):
            if start + i < pos:
                same = same and text[begin + i] == text[start + i]
            elif same:
                state = move(code, piece, state, int64(text[begin + i]))
                node = find_child(trie, node, int64(text[begin + i]))
                same = node != 0 and state != 0
        if same and node and flags_of(code, piece, state) >> 8 == NO_BYTE:
            clear_tokens(trie, node, row)
        link = w[q + 2]
    if code[owner] != OBJECT:
        return
    keys = owner + OBJECT_WORDS + PROPERTY_WORDS * code[owner + 9] + code[owner + 10]
    for k in range(code[owner + 11]):
        lit = code[keys + k]
        node, state, same = 0, x, True
        for i in range(code[lit + 3]):
            byte = int64(code[lit + 4 + i])
            if start + i < pos:
                same = same and byte == text[start + i]
            elif same:
                state = move(code, piece, state, byte)
                node = find_child(trie, node, byte)
                same = node != 0 and state != 0
            if not same:
                break
        if same and node and flags_of(code, piece, state) >> 8 == NO_BYTE:
            clear_tokens(trie, node, row)


@compiled
def leaving(code: Code, w: Words, text: Bytes, i: int, pos: int) -> tuple[int, int]:
    """What follows wide configuration i when it is over: a range of configurations that are closed over.

    Keys and items are taken to be new; TEXTUAL then says that this must be looked at.
    """
    p = CONFIGS + 3 * i
    w[TEXTUAL], w[ENDED], w[ASSUME_NEW] = 0, 0, 1
    begin_place(w)
    first = w[NUM_CONFIGS]
    arrive(code, w, text, int64(code[w[p] + 2]), w[p + 2], pos)
    enter_calls(code, w, text, pos)
    close_over(code, w, text, first, w[NUM_CONFIGS], pos)
    w[ASSUME_NEW] = 0
    return first, w[NUM_CONFIGS]


@compiled
def write_path(trie: Trie, node: int, text: Bytes, pos: int) -> int:
    """Write the bytes that lead to a node at `pos`; returns how many."""
    depth = depth_of(trie, node)
    for d in range(depth - 1, -1, -1):
        text[pos + d] = byte_of(trie, node)
        node = parent_of(trie, node)
    return depth


@compiled
def exact_edge(code: Code, w: Words, text: Bytes, i: int, depth: int, pos: int) -> None:
    """Move configuration i over the `depth` bytes at `pos`, one by one; where its set stands is in w."""
    first, last = i, i + 1
    for d in range(depth):
        step(code, w, text, first, last, int64(text[pos + d]), pos + d)
        first, last = w[FOUND_FROM], w[FOUND_TO]


@compiled
def is_recording(w: Words) -> bool:
    """Whether a key or an item is being read whose text will be looked at when it ends."""
    for node in range(1, w[NUM_NODES]):
        p = NODES + NODE_WORDS * node
        if w[p] & 3 == RECORD and w[p + 3] != 0:
            return True
    return False


@compiled
def wide_mask(
    code: Code,
    w: Words,
    text: Bytes,
    trie: Trie,
    i: int,
    pos: int,
    row: MaskRow,
    child: Code,
    counted: Code,
) -> None:
    """Allow the tokens in which wide configuration i (loaded) is left by these edges, sorted by byte."""
    p = CONFIGS + 3 * i
    a = w[p]
    count, chars = w[p + 1] >> COUNT_SHIFT, code[a] == CHARS
    nodes, configs = w[NUM_NODES], w[NUM_CONFIGS]
    recording = is_recording(w)
    first, last = leaving(code, w, text, i, pos)
    textual = w[TEXTUAL] != 0
    kept_nodes, kept_configs = w[NUM_NODES], w[NUM_CONFIGS]
    begin, end, ended, read = first, last, w[ENDED], int64(-1)
    for e in range(len(child)):
        if chars and (
            count + counted[e] < code[a + 4]
            or (code[a + 5] != NONE and count + counted[e] > code[a + 5])
        ):
            continue
        byte, after = byte_of(trie, int64(child[e])), pos + 1
        if textual:
            w[NUM_NODES], w[NUM_CONFIGS] = kept_nodes, kept_configs
            after = pos + write_path(trie, int64(child[e]), text, pos)
            exact_edge(code, w, text, i, after - pos, pos)
            begin, end, ended = w[FOUND_FROM], w[FOUND_TO], w[ENDED]
        elif recording:
            w[NUM_NODES], w[NUM_CONFIGS] = kept_nodes, kept_configs
            after = pos + write_path(trie, int64(child[e]), text, pos)
            step(code, w, text, first, last, byte, after - 1)
            begin, end, ended = w[FOUND_FROM], w[FOUND_TO], w[ENDED]
        elif byte != read:
            w[NUM_NODES], w[NUM_CONFIGS] = kept_nodes, kept_configs
            step(code, w, text, first, last, byte, pos)
            begin, end, ended, read = w[FOUND_FROM], w[FOUND_TO], w[ENDED], byte
        if begin < end or ended:
            set_tokens(trie, child[e], row)
        if begin < end:
            subtree(code, w, text, trie, child[e], begin, end, after, row)
        if w[FAILED]:
            return
    w[NUM_NODES], w[NUM_CONFIGS] = nodes, configs


@compiled
def leaving_bytes(code: Code, w: Words, text: Bytes, i: int, pos: int, bits: Words) -> int:
    """Write which bytes can follow wide configuration i when it is over; the RECORD that ends with it, or 0."""
    p = CONFIGS + 3 * i
    nodes, configs = w[NUM_NODES], w[NUM_CONFIGS]
    at = first_bytes(code, w, text, int64(code[w[p] + 2]), w[p + 2], pos)
    for k in range(8):
        bits[k] = w[at + k]
    leaving(code, w, text, i, pos)
    w[NUM_NODES], w[NUM_CONFIGS] = nodes, configs
    return w[TEXTUAL] if w[TEXTUAL] < nodes else 0
