"""What an object or array remembers: which members have come, and the texts of keys and items.

In free order a frame's value holds the first `WORD_BITS` members as bits; further words, and behind them the texts,
are the list that its link begins. Equal memories are equal lists: a word is there if it or a later one has a bit.
"""

from branchwork.runtime.grammar.machine.equal import is_same_value, opens
from branchwork.runtime.grammar.machine.jit import compiled, int64
from branchwork.runtime.grammar.machine.program import OWNER, RECORD, Bytes, Words
from branchwork.runtime.grammar.machine.stack import (
    MAX_PACKED,
    NODE_WORDS,
    NODES,
    SEEN_MASK,
    SEEN_SHIFT,
    TEXT_READ,
    WALK_FROM,
    push,
)

# Values are hashed as 63 bits.
WORD_BITS = 62


@compiled
def texts_of(w: Words, link: int) -> int:
    """The first text of a list, behind its words."""
    while link != 0 and w[NODES + NODE_WORDS * link] & 3 != RECORD:
        link = w[NODES + NODE_WORDS * link + 2]
    return int64(link)


@compiled
def behind_words(w: Words, link: int, number: int) -> int:
    """What of a list stands behind so many words (or behind as many as there are)."""
    while number > 0 and link != 0 and w[NODES + NODE_WORDS * link] & 3 != RECORD:
        link = w[NODES + NODE_WORDS * link + 2]
        number -= 1
    return int64(link)


@compiled
def word_of(w: Words, value: int, link: int, number: int) -> int:
    """The word of that number, of a frame's value and list."""
    if number == 0:
        return int64(value)
    link = behind_words(w, link, number - 1)
    if link == 0 or w[NODES + NODE_WORDS * link] & 3 == RECORD:
        return int64(0)
    return int64(w[NODES + NODE_WORDS * link + 1])


@compiled
def has_come(w: Words, value: int, link: int, member: int) -> bool:
    """Whether a member is among those that have come."""
    if member < WORD_BITS:
        return (value >> member) & 1 != 0
    return (word_of(w, value, link, member // WORD_BITS) >> (member % WORD_BITS)) & 1 != 0


@compiled
def num_come(w: Words, value: int, link: int) -> int:
    """How many members have come, without those of undeclared keys."""
    count = 0
    while True:
        while value:
            value &= value - 1
            count += 1
        if link == 0 or w[NODES + NODE_WORDS * link] & 3 == RECORD:
            return count
        value, link = w[NODES + NODE_WORDS * link + 1], w[NODES + NODE_WORDS * link + 2]


@compiled
def with_words(w: Words, link: int, number: int, bit: int, tail: int) -> int:
    """The words of a list up to that number, `bit` set in the last of them, before a tail."""
    while number > 0:
        tail = push(w, OWNER, word_of(w, 0, link, number) | bit, tail, 0)
        number, bit = number - 1, int64(0)
    return int64(tail)


@compiled
def with_member(w: Words, frame: int, member: int) -> int:
    """The frame at that node, when one more of its members has come."""
    p = NODES + NODE_WORDS * frame
    if member < WORD_BITS:
        return push(w, w[p], w[p + 1] | int64(1) << member, w[p + 2], w[p + 3])
    number, bit = member // WORD_BITS, int64(1) << (member % WORD_BITS)
    tail = behind_words(w, w[p + 2], number)
    return push(w, w[p], w[p + 1], with_words(w, w[p + 2], number, bit, tail), w[p + 3])


@compiled
def with_text(w: Words, frame: int, start: int, end: int) -> int:
    """The frame at that node, when text[start:end] is one more of its texts."""
    p = NODES + NODE_WORDS * frame
    first, number, link = texts_of(w, w[p + 2]), 0, w[p + 2]
    while link != first:
        link = w[NODES + NODE_WORDS * link + 2]
        number += 1
    tail = push(w, RECORD, start << SEEN_SHIFT | (end - start), first, 0)
    return push(w, w[p], w[p + 1], with_words(w, w[p + 2], number, int64(0), tail), w[p + 3])


@compiled
def num_texts(w: Words, link: int) -> int:
    """How many texts a list has."""
    count, link = 0, texts_of(w, link)
    while link != 0:
        count += 1
        link = w[NODES + NODE_WORDS * link + 2]
    return count


@compiled
def is_text_seen(w: Words, text: Bytes, link: int, start: int, end: int) -> bool:
    """Whether text[start:end] is one of the texts of a list.

    TEXT_READ notes if that depends on more of the text than a view holds (see `views`): of a text that begins within
    the walk, on a long one that was seen before it; on one that was noted within the walk.
    """
    link = texts_of(w, link)
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
def is_item_seen(w: Words, text: Bytes, link: int, start: int, end: int) -> bool:
    """Whether the JSON value text[start:end] is one of the values of a list.

    What has no members is written in one way only. An object's members come in any order, which no view tells.
    """
    if not opens(int64(text[start])):
        return is_text_seen(w, text, link, start, end)
    link = texts_of(w, link)
    if link != 0:
        w[TEXT_READ] = 1
    while link != 0:
        p = NODES + NODE_WORDS * link
        begin, length = w[p + 1] >> SEEN_SHIFT, w[p + 1] & SEEN_MASK
        if is_same_value(text, begin, begin + length, start):
            return True
        link = w[p + 2]
    return False
