"""What keeps an automaton alive: how many characters of a kind, whichever they are, can be read from a state.

Whatever the letters of a word are, after them a JSON string is still a JSON string. Where that is known, the token
trie need not be walked below the first letter. So each wide state gets a *family*, a set of groups of characters
(`program.GROUPS`) chosen to be read for long, and its *span*: no text of so many characters of the family is refused.
"""

import functools
import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from branchwork.runtime.grammar import dfa, normal
from branchwork.runtime.grammar.dfa import DEAD, Dfa
from branchwork.runtime.grammar.machine.program import (
    COUNTS_CHARS,
    GROUPS,
    LEADS,
    NO_GROUP,
    PASSES_ENDS,
)

Longs = npt.NDArray[np.int64]
Counted = tuple[bool, ...] | None
"""For each state of an automaton whether it is counted (see `ir.Bounded`); None where nothing is."""

# Families of one piece; a state whose family is rarer has none.
MAX_FAMILIES = 12
# No token of text is longer.
MAX_SPAN = 255

_ANY = dfa.any_text()
# Groups that many tokens are made of; a family without any of them would save little.
_WORTH = sum(1 << int(GROUPS[byte]) for byte in (*b"zZ", 0xE5))


def spans(
    language: Dfa, counted: Counted, need: Longs, wide: npt.NDArray[np.bool_]
) -> tuple[Longs, npt.NDArray[np.int32]]:
    """For each state its family, as bits, and its span.

    Where `counted` is given, each character on the way is counted (COUNTS_CHARS) or none is, and what is needed
    afterwards stays the same. The bit PASSES_ENDS is set where the piece may be over on the way.
    """
    groups = np.zeros(language.num_states, np.int64)
    span = np.zeros(language.num_states, np.int32)
    if not wide.any():
        return groups, span
    families = _families(language, need) * wide
    for family, _ in Counter(families[families & _WORTH > 0].tolist()).most_common(MAX_FAMILIES):
        states = np.flatnonzero(families == family)
        span[states], about = _spans_of(language, counted, need, family, states)
        groups[states] = family | about
    return groups, span


def _families(language: Dfa, need: Longs) -> Longs:
    """For each state the groups of which every character can be read, and after which all of them still can.

    A group is left out where something else is needed after a character of it than before.
    """
    kinds = (GROUPS * 256 + language.classes) * 256 + _ANY.classes
    kinds, bytes_ = np.unique(kinds, return_index=True)
    firsts = np.searchsorted(kinds >> 16, np.arange(GROUPS.max() + 1))
    reached = language.table[:, language.classes[bytes_]]
    readable = reached != DEAD
    after = _needs_after(language, need)
    for column, byte in enumerate(bytes_.tolist()):
        if byte < 0x80:
            readable[:, column] &= need[reached[:, column]] == need
        elif LEADS[0] <= byte < LEADS[-1]:
            place = int(_ANY.table[_ANY.start, _ANY.classes[byte]])
            readable[:, column] &= after(place)[reached[:, column]] == need
    alive = np.logical_and.reduceat(readable, firsts, axis=1)
    alive[:, NO_GROUP] = False
    bit = np.int64(1) << np.arange(alive.shape[1])
    bits: Longs = alive @ bit
    families = bits.copy()
    while True:
        keeps = (bits[reached] & families[:, None]) == families[:, None]
        keeps[:, bytes_ >= 0x80] = True  # where these lead is in the middle of a character
        kept = np.logical_and.reduceat(keeps, firsts, axis=1)
        fewer = families & (kept @ bit)
        if (fewer == families).all():
            return families
        families = fewer


def _needs_after(language: Dfa, need: Longs) -> Callable[[int], Longs]:
    """For each state, at a place within a character, what is needed after it; -1 if it may be lost, or need differs."""

    @functools.cache
    def after(place: int) -> Longs:
        found: Longs | None = None
        for byte in _telling(_ANY, language):
            following = int(_ANY.table[place, _ANY.classes[byte]])
            if following == DEAD:
                continue
            target = language.table[:, language.classes[byte]]
            then = (need if following == _ANY.start else after(following))[target]
            then = np.where(target == DEAD, -1, then)
            found = then if found is None else np.where(found == then, found, -1)
        assert found is not None, place
        return found

    return after


def _spans_of(
    language: Dfa, counted: Counted, need: Longs, family: int, states: Longs
) -> tuple[Longs, int]:
    """The spans of `states` for one family, with PASSES_ENDS and COUNTS_CHARS where they hold.

    Pairs of a place in a text of the family and a state are followed side by side, up to those with a way out.
    """
    text = _texts(family)
    columns = _telling(text, language)
    counts = np.array(counted or (False,) * language.num_states)
    ascii_ = [byte for byte in range(0x80) if family >> int(GROUPS[byte]) & 1]
    counts_chars = counted is not None and (
        not ascii_ or bool(counts[language.table[states][:, language.classes[ascii_]]].any())
    )
    text_table = text.table[:, text.classes[columns]].astype(np.int64)
    table = language.table[:, language.classes[columns]].astype(np.int64)
    width = language.num_states
    number = np.full(text.num_states * width, -1, np.int32)
    fresh, count = text.start * width + states, 1
    rows, way_outs = [np.zeros((1, len(columns)), np.int64)], [np.zeros(1, np.bool_)]
    begins, ends = [np.zeros(1, np.bool_)], [False]
    while len(fresh):
        number[fresh] = np.arange(count, count + len(fresh))
        count += len(fresh)
        place, state = fresh // width, fresh % width
        place_after, after = text_table[place], table[state]
        lost = after == DEAD
        if counts_chars:
            # Within a character one more is needed than before it: the character itself.
            within, due = place_after != text.start, need[state] - (place != text.start)
            lost |= (counts[after] == within) | (need[after] - within != due[:, None])
        else:
            lost |= counts[after] | (need[after] != need[state][:, None])
        way_out = (lost & (place_after != DEAD)).any(axis=1)
        targets = np.where((place_after == DEAD) | way_out[:, None], 0, place_after * width + after)
        rows.append(targets)
        way_outs.append(way_out)
        begins.append(place == text.start)
        ends.append(bool((language.accepting[state] & ~way_out).any()))
        targets = np.unique(targets)
        fresh = targets[(number[targets] < 0) & (targets > 0)]
    number[0] = 0
    pairs = number[np.concatenate(rows)]
    found = normal.fewest(pairs, np.concatenate(way_outs), np.concatenate(begins))
    found = found[1 : len(states) + 1]
    about = (PASSES_ENDS if any(ends) else 0) | (COUNTS_CHARS if counts_chars else 0)
    return np.where(found < 0, MAX_SPAN, np.minimum(found, MAX_SPAN)), about


@functools.lru_cache(maxsize=64)
def _texts(family: int) -> Dfa:
    """All texts of a family's characters."""
    singles = [(byte, byte) for byte in range(0x80) if family >> int(GROUPS[byte]) & 1]
    others = [
        (_first_char(low), _first_char(high) - 1)
        for low, high in itertools.pairwise(LEADS)
        if family >> int(GROUPS[low]) & 1
    ]
    return dfa.star(dfa.chars(*singles, *others))


def _first_char(lead: int) -> int:
    """The least code point whose UTF-8 begins with `lead`, or with a greater byte."""
    if lead < 0xE0:
        return (lead & 0x1F) << 6
    if lead < 0xF0:
        return max((lead & 0x0F) << 12, 0x800)
    return 0x10000 if lead == 0xF0 else 0x110000


def _telling(a: Dfa, b: Dfa) -> Longs:
    """One byte of each kind that the two tell apart."""
    kinds = a.classes.astype(np.int64) * 256 + b.classes
    first: Longs = np.unique(kinds, return_index=True)[1]
    return first
