"""Sets of characters as sorted ranges of code points: categories, properties, complements, letter case."""

import functools
import re
from collections.abc import Iterable

import numpy as np
import regex  # type: ignore[import-untyped]  # knows every Unicode property by name; transformers depends on it anyway

from branchwork.runtime.wire.errors import ConstraintError

MAX_CHAR = 0x10FFFF
Ranges = tuple[tuple[int, int], ...]

EVERY: Ranges = ((0, MAX_CHAR),)
NEWLINE: Ranges = ((10, 10),)
ASCII_DIGIT: Ranges = ((48, 57),)
ASCII_WORD: Ranges = ((48, 57), (65, 90), (95, 95), (97, 122))
ASCII_SPACE: Ranges = ((9, 13), (32, 32))
# ECMA-262, WhiteSpace and LineTerminator.
ECMA_SPACE: Ranges = (
    *ASCII_SPACE,
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
    (0xFEFF, 0xFEFF),
)
ECMA_LINE_END: Ranges = ((10, 10), (13, 13), (0x2028, 0x2029))


def normal(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The same set with sorted ranges that neither touch nor overlap."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)


def complement(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """All code points outside of the set."""
    gaps: list[tuple[int, int]] = []
    begin = 0
    for low, high in normal(ranges):
        if low > begin:
            gaps.append((begin, low - 1))
        begin = high + 1
    if begin <= MAX_CHAR:
        gaps.append((begin, MAX_CHAR))
    return tuple(gaps)


@functools.cache
def _every_char() -> str:
    # Surrogates are replaced: they are in no text, and no property may count them.
    codes = np.arange(MAX_CHAR + 1, dtype="<u4")
    codes[0xD800:0xE000] = 0
    return codes.tobytes().decode("utf-32-le")


def _spans(found: "Iterable[re.Match[str]]") -> Ranges:
    return tuple((match.start(), match.end() - 1) for match in found)


@functools.cache
def category(escape: str) -> Ranges:
    """What Python's `re` means by an escape such as \\w in a text pattern."""
    return _spans(re.finditer(f"{escape}+", _every_char()))


@functools.lru_cache(maxsize=256)
def unicode_property(name: str, negated: bool) -> Ranges:
    """The characters of \\p{name}: a general category, a script or a binary property."""
    if not re.fullmatch(r"[A-Za-z0-9_ =&-]{1,64}", name):
        raise ConstraintError(f"{name!r} is not the name of a Unicode property")
    try:
        pattern = regex.compile(f"\\p{{{name}}}+")
    except regex.error:
        raise ConstraintError(f"{name!r} is not the name of a Unicode property") from None
    ranges = _spans(pattern.finditer(_every_char()))
    return complement(ranges) if negated else ranges


@functools.cache
def _case_groups() -> dict[int, tuple[int, ...]]:
    """For each letter with case, all characters that `re.IGNORECASE` takes for it."""
    cased = [ord(found[0]) for found in regex.finditer(r"\p{CWCM}", _every_char())]
    parent = {c: c for c in cased}

    def root(c: int) -> int:
        while parent[c] != c:
            c = parent[c]
        return c

    for c in cased:
        for other in (chr(c).lower(), chr(c).upper()):
            if len(other) == 1 and ord(other) in parent:
                parent[root(c)] = root(ord(other))
    groups: dict[int, list[int]] = {}
    for c in cased:
        groups.setdefault(root(c), []).append(c)
    return {c: tuple(group) for group in groups.values() if len(group) > 1 for c in group}


def ignore_case(ranges: Ranges, ascii_only: bool) -> Ranges:
    """The set with every letter in both cases."""
    if ascii_only:
        swapped = [
            ord(chr(c).swapcase())
            for low, high in ranges
            for c in range(max(low, 65), min(high, 122) + 1)
            if chr(c).isalpha()
        ]
        return normal([*ranges, *((c, c) for c in swapped)])
    added = [
        (other, other)
        for c, group in _case_groups().items()
        if any(low <= c <= high for low, high in ranges)
        for other in group
    ]
    return normal([*ranges, *added])
