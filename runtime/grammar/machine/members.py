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
from branchwork.runtime.grammar.machine.stack import (
    ASSUME_NEW,
    FIELD_MASK,
    FIELD_SHIFT,
    MAX_PACKED,
    NODE_WORDS,
    NODES,
    SEEN_MASK,
    SEEN_SHIFT,
    TEXT_READ,
    TEXTUAL,
    WALK_FROM,
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
def is_seen(w: Words, text: Bytes, link: int, start: int, end: int) -> bool:
    """Whether text[start:end] is one of the texts of a list.

    TEXT_READ notes if that depends on more of the text than a view holds (see `views`): of a text that begins within
    the walk, on a long one that was seen before it; on one that was noted within the walk.
    """
    while link != 0:
        p = NODES + NODE_WORDS * link
        begin, length = w[p + 1] >> SEEN_SHIFT, w[p + 1] & SEEN_MASK
        if start >= w[WALK_FROM] and length > MAX_PACKED and end - start > MAX_PACKED:
            w[TEXT_READ] = 1
        if length == end - start:
            if begin + length > w[WALK_FROM]:
                w[TEXT_READ] = 1
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
