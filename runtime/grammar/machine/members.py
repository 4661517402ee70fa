"""What may come next in an object or an array: members, items, keys that are new."""

from branchwork.runtime.grammar.machine.jit import (
    compiled,
    int64,
)
from branchwork.runtime.grammar.machine.program import (
    ARRAY_WORDS,
    COUNTED,
    FREE_ORDER,
    KEY_END,
    NONE,
    OBJECT,
    OBJECT_WORDS,
    PROPERTY_WORDS,
    RECORD,
    Bytes,
    Code,
    Words,
)
from branchwork.runtime.grammar.machine.seen import (
    has_come,
    is_item_seen,
    is_text_seen,
    num_come,
    num_texts,
    with_member,
    with_text,
)
from branchwork.runtime.grammar.machine.stack import (
    ASSUME_NEW,
    FIELD_MASK,
    FIELD_SHIFT,
    NODE_WORDS,
    NODES,
    TEXTUAL,
    later,
    push,
)


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
def finish_record(code: Code, w: Words, text: Bytes, a: int, node: int, pos: int) -> None:
    """KEY_END and ITEM_END: go on if what the RECORD frame began is new in its owner.

    TEXTUAL notes that the answer depended on the text; with ASSUME_NEW it does not.
    """
    w[TEXTUAL] = node
    p = NODES + NODE_WORDS * node
    start, frame = w[p + 1], w[p + 3]
    q = NODES + NODE_WORDS * frame
    if not w[ASSUME_NEW]:
        if code[a] == KEY_END:
            if is_declared(code, w[q] >> 2, text, start, pos):
                return
            if is_text_seen(w, text, w[q + 2], start, pos):
                return
        elif is_item_seen(w, text, w[q + 2], start, pos):
            return
    later(w, code[a + 2], with_text(w, frame, start, pos))


@compiled
def object_count(code: Code, w: Words, owner: int, p: int) -> int:
    """Members so far."""
    if code[owner + 8] & FREE_ORDER:
        return num_come(w, w[p + 1], w[p + 2]) + num_texts(w, w[p + 2])
    return int64(w[p + 1] >> FIELD_SHIFT)


@compiled
def required_left(code: Code, w: Words, owner: int, p: int) -> int:
    """Required properties that have not come yet."""
    table, num = owner + OBJECT_WORDS, code[owner + 9]
    if code[owner + 8] & FREE_ORDER:
        left = 0
        for j in range(num):
            if code[table + PROPERTY_WORDS * j + 1] and not has_come(w, w[p + 1], w[p + 2], j):
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
    unseen = num - num_come(w, value, link) if free else num
    found = False
    blocked = False
    for j in range(0 if free else value & FIELD_MASK, num):
        row = table + PROPERTY_WORDS * j
        if free and has_come(w, value, link, j):
            continue
        required = code[row + 1]
        after = left - 1 if required else left
        rest = unseen - 1 if free else num - 1 - j
        fits = high == NONE or count + after <= high
        if not counted or (fits and (extras or count + rest >= low)):
            found = True
            if only_look:
                return True
            if free:
                later(w, code[row], with_member(w, node, j))
            else:
                come = (j + 1) | ((count if counted else 0) << FIELD_SHIFT)
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
