"""The program of the stack machine: one int32 array, and what its words mean.

An operation stands at an address and begins with [opcode, cost]: `cost` is the least number of bytes from arriving
there until its rule returns (or until control is back at the frame's owner, for the parts of objects and arrays).

    RET                                                   back to the frame on the stack
    LIT     next n bytes...                               the bytes, one word each
    DFA     next piece                                    a string of the piece
    CHARS   next piece low high element_cost              a string of the piece with low..high counted states
    ALT     n targets...                                  any of the targets
    CALL    next target                                   the rule at target, then next
    LOOP    next body low high body_cost                  the body low..high times
    OBJECT  next open close separator low high flags num_properties num_extras num_keys
            then per property: member required cost_from required_from;
            then per extra: member; then per declared key, sorted: the address of its LIT
    ARRAY   next open close separator low high num_prefix rest counted counted_low counted_high unique item_cost
            then per prefix item: member
    MEMBERS owner first                                   after an item or the opening: close, or one more
    CHOOSE  owner                                         after a separator: one more
    LEAVE   owner                                         after the closing: drop the frame, go to the owner's next
    KEY_END next, ITEM_END next                           what was recorded must be new in its frame

`high` and targets are NONE (-1) where there is none. A piece is a block
[num_states num_classes start max_need], 64 words of packed byte classes, then per state its flags (bit 0 accepting,
bit 1 wide, bit 2 counted, from bit 8 the one live byte, or 256 for none, 257 for several), per state the distance to
acceptance, per state its need (counted states on the way to acceptance, at least), per state in two words its family,
per state its span (see `spans`), then the table.

A stack frame is (place, value, link, parent), where place is 4 * address + kind. CALL: the address is where to
return. LOOP: the value counts the bodies begun. OWNER (an OBJECT or ARRAY): the value holds position and count, the
link what was seen. RECORD: the value is where in the text a key or item began. What was seen is a list of nodes
whose value is start << 24 | length of a piece of the text.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from branchwork.runtime.wire.errors import ConstraintError

Code = npt.NDArray[np.int32]
Words = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

RET, LIT, DFA, CHARS, ALT, CALL, LOOP, OBJECT, ARRAY = range(1, 10)
MEMBERS, CHOOSE, LEAVE, KEY_END, ITEM_END = range(10, 15)
CALLED, LOOPING, OWNER, RECORD = range(4)

NONE = -1
COST_LIMIT = 1 << 30

# Words before the operand tables.
OBJECT_WORDS = 12
PROPERTY_WORDS = 4
ARRAY_WORDS = 15
PIECE_HEAD = 4 + 64
# Words of a piece for each state, before its table.
STATE_WORDS = 6

# Flags of an OBJECT.
COUNTED, FREE_ORDER = 1, 2

# Flags of a piece's state.
ACCEPTING, WIDE, COUNTS = 1, 2, 4
NO_BYTE, MANY_BYTES = 256, 257

# A state with 8 live bytes or more (digits) gets a base mask of its own; below, walking the trie is cheaper. The first
# bytes of characters that are not ASCII begin more tokens each.
WIDE_FROM, LEAD_WEIGHT = 8, 8


# Where each group of first bytes of other characters than ASCII begins, and where the last one ends. Those that few
# classes of characters cut in two: C4 to CA are Latin letters, D0 and D1 Cyrillic ones, E5 to E9 Chinese, EB and EC
# Korean; spaces are among those of C2, E1 and E3.
LEADS = (
    0xC2, 0xC3, 0xC4, 0xCB, 0xD0, 0xD2, 0xE0, 0xE1, 0xE3, 0xE4, 0xE5, 0xEA, 0xEB, 0xED, 0xEE, 0xF0, 0xF5,
)  # fmt: skip


def _groups() -> npt.NDArray[np.int64]:
    group = np.full(256, NO_GROUP, np.int64)
    alone = [range(b, b + 1) for b in (*b"\t\n\r", *range(0x20, 0x7F)) if not chr(b).isalnum()]
    letters = [(0x61, 0x67), (0x67, 0x7B), (0x41, 0x47), (0x47, 0x5B)]
    many = [*itertools.pairwise(LEADS), *letters, (0x30, 0x3A)]
    for number, bytes_ in enumerate([*(range(*ends) for ends in many), *alone], start=1):
        group[list(bytes_)] = number
    return group


NO_GROUP = 0
"""The group of control characters, and of bytes that begin no character."""
OTHER_CHARS = (1 << len(LEADS)) - 2
"""The groups of characters that are not ASCII, as bits: one for each range of `LEADS`, by their first bytes."""
IRREGULAR = 60
"""The group of what is no text, or does not begin where a character does."""
PASSES_ENDS, COUNTS_CHARS = 1 << 61, 1 << 62
"""Beside a family of groups: the piece may be over within the span; each character is counted (else nothing is)."""

GROUPS = _groups()
"""[256] int64: the group of each first byte, of fewer than 60: `LEADS`, letters (a to f alone), digits, each mark."""


@dataclass(frozen=True, slots=True)
class Program:
    """A lowered grammar: independent of the vocabulary, and nothing but arrays.

    `pieces` gives, for the address of each piece, the key of its language (masks are shared by it).
    `records` says whether matching needs the text so far (unique items, undeclared keys).
    """

    code: Code
    entry: int
    pieces: dict[int, bytes]
    records: bool
    warnings: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """Serialised; no pickle."""
        frame = (
            1,
            self.entry,
            list(self.pieces.items()),
            self.records,
            self.warnings,
            self.code.tobytes(),
        )
        return msgspec.msgpack.encode(frame)

    @staticmethod
    def from_bytes(data: bytes) -> "Program":
        """The inverse of `to_bytes`, for bytes that our own compiler wrote."""
        try:
            frame: Any = msgspec.msgpack.decode(data)
            version, entry, pieces, records, warnings, code = frame
        except (msgspec.DecodeError, ValueError, TypeError):
            raise ConstraintError("the compiled grammar is damaged") from None
        if version != 1:
            raise ConstraintError("the compiled grammar is of another version")
        words = np.frombuffer(code, np.int32).copy()
        return Program(words, entry, dict(map(tuple, pieces)), records, tuple(warnings))
